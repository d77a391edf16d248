//! The group consumer against a broker that the test plays: what is committed and when, how
//! partitions are given back, broken streams, refusals, clean and rude ends.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_client::{Client, CommitMode, Error, GroupConsumer, GroupConsumerBuilder, Received};
use aqueduct_proto::{
    google::rpc,
    v1::{self, consume_request::Kind as Asked, consume_response::Kind},
};
use fake::{Broker, Call};
use futures::StreamExt as _;
use tonic::Status;

const SLOW: Duration = Duration::from_secs(60);

/// A consumer that has joined as "m1", and its call.
async fn join(
    broker: &mut Broker,
    set: impl FnOnce(GroupConsumerBuilder) -> GroupConsumerBuilder,
) -> (GroupConsumer, Call) {
    let client = Client::connect(broker.address.to_string()).await.unwrap();
    let building = tokio::spawn(set(client.consumer("orders").group("bill")).build());
    let call = broker.call().await;
    call.greet("m1", SLOW).await;
    (building.await.unwrap().unwrap(), call)
}

async fn next(consumer: &mut GroupConsumer) -> Received {
    let next = tokio::time::timeout(SLOW, consumer.next()).await;
    next.unwrap().unwrap().unwrap()
}

async fn expect(consumer: &mut GroupConsumer, offsets: std::ops::Range<u64>) -> Received {
    let mut last = None;
    for offset in offsets {
        let message = next(consumer).await;
        assert_eq!(message.offset, offset);
        assert_eq!(
            message.value.as_deref(),
            Some(offset.to_string().as_bytes())
        );
        last = Some(message);
    }
    last.unwrap()
}

/// Polls once, which finishes what was handed out, and expects nothing.
async fn poll(consumer: &mut GroupConsumer) {
    let nothing = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn commits_by_itself_what_is_done_and_leaves() {
    let mut broker = Broker::start().await;
    let interval = Duration::from_millis(30);
    let (mut consumer, mut call) =
        join(&mut broker, |builder| builder.commit_interval(interval)).await;
    assert_eq!(
        (call.open.topic.as_str(), call.open.group.as_str()),
        ("orders", "bill")
    );
    assert!(call.open.raw && call.open.member_id.is_empty());
    call.assign(2, 7, 3).await;
    call.deliver(2, 0..10).await;
    expect(&mut consumer, 3..6).await;
    assert_eq!(call.grant().await, [(2, 7, 5)], "the last one is in work");
    assert_eq!(consumer.partitions(), [2]);
    expect(&mut consumer, 6..10).await;
    let committing = tokio::spawn(async move {
        consumer.commit_taken().await.unwrap();
        consumer.close().await
    });
    // What was done before may be on its way already.
    while call.grant().await != [(2, 7, 10)] {}
    assert!(call.asked().await.is_none(), "a clean leave");
    drop(call);
    committing.await.unwrap().unwrap();
}

#[tokio::test]
async fn gives_a_partition_back_when_the_message_in_work_is_done() {
    let mut broker = Broker::start().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let (mut consumer, mut call) = join(&mut broker, |builder| {
        builder
            .commit_interval(SLOW)
            .on_event(move |event| seen.lock().unwrap().push(format!("{event:?}")))
    })
    .await;
    call.assign(0, 1, 0).await;
    call.assign(1, 2, 0).await;
    call.deliver(0, 0..10).await;
    expect(&mut consumer, 0..3).await;
    call.revoke(0, 60).await;
    call.deliver(1, 0..1).await;
    let asked_back = || events.lock().unwrap().join("").contains("Revoking");
    while !asked_back() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The rest of partition 0 is not handed out, and asking for more finishes its third.
    let other = next(&mut consumer).await;
    assert_eq!((other.partition, other.offset), (1, 0));
    let commits = call.grant().await;
    assert!(commits.contains(&(0, 1, 3)), "{commits:?}");
    let released = call.asked().await;
    assert!(matches!(released, Some(Asked::Released(it)) if it.partitions == [0]));
    poll(&mut consumer).await;
    assert_eq!(consumer.partitions(), [1]);
    let events = events.lock().unwrap().join("\n");
    for word in ["Connected", "Assigned", "Revoking", "Released"] {
        assert!(events.contains(word), "{events}");
    }
}

#[tokio::test]
async fn comes_back_under_its_name_and_reads_on_from_the_position() {
    let mut broker = Broker::start().await;
    let (mut consumer, mut call) = join(&mut broker, |builder| {
        builder.commit_mode(CommitMode::Manual)
    })
    .await;
    call.assign(0, 1, 0).await;
    call.deliver(0, 0..10).await;
    let third = expect(&mut consumer, 0..3).await;
    let (position, _) = tokio::join!(third.commit(), call.grant());
    assert_eq!(position.unwrap(), 3);
    let fifth = expect(&mut consumer, 3..5).await;
    // The stream breaks while a commit is on its way: nobody knows.
    let breaking = async {
        assert_eq!(call.commits().await, [(0, 1, 5)]);
        call.fail(Status::unavailable("broken")).await;
    };
    let (unknown, ()) = tokio::join!(fifth.commit(), breaking);
    assert!(matches!(unknown, Err(Error::Unknown(_))), "{unknown:?}");

    let mut call = broker.call().await;
    assert_eq!(call.open.member_id, "m1");
    call.greet("m1", SLOW).await;
    call.assign(0, 9, 3).await;
    call.deliver(0, 0..10).await;
    let message = expect(&mut consumer, 3..10).await;
    let stale = fifth.commit().await.unwrap_err();
    assert_eq!(stale.reason(), "COMMIT_FENCED");
    assert!(matches!(fifth.done(), Err(Error::Fenced(_))));
    let (position, commits) = tokio::join!(message.commit(), call.grant());
    assert_eq!((position.unwrap(), commits), (10, vec![(0, 9, 10)]));
}

/// A group that is deleted while its member is away is not made anew, with everything to come
/// again.
#[tokio::test]
async fn does_not_create_the_group_when_it_comes_back() {
    let mut broker = Broker::start().await;
    let (mut consumer, call) = join(&mut broker, |builder| builder).await;
    assert!(!call.open.must_exist);
    call.fail(Status::unavailable("broken")).await;
    let call = broker.call().await;
    assert!(call.open.must_exist);
    call.fail(Status::not_found("the group was deleted")).await;
    let end = consumer.next().await.unwrap().unwrap_err();
    assert!(matches!(end, Error::NotFound(_)), "{end:?}");
}

#[tokio::test]
async fn says_that_it_lives_while_nobody_asks_for_messages() {
    let mut broker = Broker::start().await;
    let client = Client::connect(broker.address.to_string()).await.unwrap();
    let building = tokio::spawn(client.consumer("orders").group("bill").build());
    let mut call = broker.call().await;
    call.greet("m1", Duration::from_millis(20)).await;
    let consumer = building.await.unwrap().unwrap();
    assert_eq!(consumer.member_id(), "m1");
    let mut beats = 0;
    while beats < 3 {
        beats += u32::from(matches!(call.any().await, Some(Asked::Heartbeat(_))));
    }
    drop(consumer);
    assert!(
        call.asked().await.is_none(),
        "a dropped consumer leaves, too"
    );
}

#[tokio::test]
async fn a_refused_commit_is_an_error_of_that_commit_alone() {
    let mut broker = Broker::start().await;
    let (mut consumer, mut call) = join(&mut broker, |builder| {
        builder.commit_mode(CommitMode::Manual)
    })
    .await;
    call.assign(0, 1, 0).await;
    call.deliver(0, 0..10).await;
    let first = expect(&mut consumer, 0..1).await;
    let refusing = async {
        call.commits().await;
        let error = rpc::Status {
            code: 9,
            message: "no".into(),
            details: Vec::new(),
        };
        let result = v1::CommitResult {
            partition: 0,
            position: 0,
            error: Some(error),
        };
        let results = vec![result];
        call.say(Kind::CommitResults(v1::CommitResults { results }))
            .await;
    };
    let (refused, ()) = tokio::join!(first.commit(), refusing);
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let last = expect(&mut consumer, 1..10).await;
    let (position, _) = tokio::join!(last.commit(), call.grant());
    assert_eq!(position.unwrap(), 10);
    // Waiting for a commit of a partition that is then lost.
    call.deliver(0, 10..11).await;
    let message = next(&mut consumer).await;
    let losing = async {
        let (partitions, reason) = (vec![0], "REVOKED".to_owned());
        call.commits().await;
        call.say(Kind::Lost(v1::Lost { partitions, reason })).await;
    };
    let (lost, ()) = tokio::join!(message.commit(), losing);
    assert!(matches!(lost, Err(Error::Fenced(_))), "{lost:?}");
    poll(&mut consumer).await;
}

#[tokio::test]
async fn each_record_by_itself_in_any_order() {
    let mut broker = Broker::start().await;
    let (mut consumer, mut call) = join(&mut broker, |builder| {
        builder
            .commit_mode(CommitMode::PerRecord)
            .commit_interval(Duration::from_millis(20))
            .max_unfinished(5)
    })
    .await;
    call.assign(0, 1, 0).await;
    call.deliver(0, 0..5).await;
    call.deliver(0, 5..6).await;
    let mut messages = Vec::new();
    for _ in 0..5 {
        messages.push(next(&mut consumer).await);
    }
    poll(&mut consumer).await; // the sixth waits until the first is done
    for message in [&messages[1], &messages[2], &messages[4], &messages[0]] {
        message.done().unwrap();
    }
    // One commit or several, but never over the hole.
    while call.grant().await != [(0, 1, 3)] {}
    assert_eq!(next(&mut consumer).await.offset, 5);
    messages[3].done().unwrap();
    while call.grant().await != [(0, 1, 5)] {}
}

#[tokio::test]
async fn what_cannot_heal_ends_the_stream() {
    let mut broker = Broker::start().await;
    let client = Client::connect(broker.address.to_string()).await.unwrap();
    let nameless = client.consumer("orders").build().await.unwrap_err();
    assert!(matches!(nameless, Error::Invalid(_)));
    let building = tokio::spawn(client.consumer("nowhere").group("bill").build());
    let call = broker.call().await;
    call.fail(Status::not_found("no such topic")).await;
    let missing = building.await.unwrap().unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");

    let (mut consumer, call) = join(&mut broker, |builder| builder).await;
    call.fail(Status::not_found("the topic was deleted")).await;
    let end = consumer.next().await.unwrap().unwrap_err();
    assert!(matches!(end, Error::NotFound(_)), "{end:?}");
    assert!(consumer.next().await.is_none());
    assert!(consumer.commit_through(0, 1).await.is_err());
    assert!(consumer.close().await.is_err());
}

#[tokio::test]
async fn gives_up_connecting_when_told_so_and_not_before() {
    let mut broker = Broker::start().await;
    let (mut consumer, call) = join(&mut broker, |builder| {
        builder.retry_timeout(Duration::from_millis(300))
    })
    .await;
    call.fail(Status::unavailable("broken")).await;
    let call = broker.call().await;
    call.fail(Status::unavailable("still")).await;
    let call = broker.call().await;
    call.greet("m1", SLOW).await;
    call.assign(0, 2, 0).await;
    call.deliver(0, 0..1).await;
    expect(&mut consumer, 0..1).await;
    call.fail(Status::unavailable("broken")).await;
    let refusing = async {
        loop {
            broker
                .call()
                .await
                .fail(Status::unavailable("for good"))
                .await;
        }
    };
    let end = tokio::select! {
        end = consumer.next() => end.unwrap().unwrap_err(),
        () = refusing => unreachable!(),
    };
    assert!(matches!(end, Error::Unavailable(_)), "{end:?}");
}
