//! Queue groups misused: foreign verdicts, absurd credit, huge batches, many keys and
//! groups, consumers that never settle or hang up. Clear refusals, bounded memory, and whoever
//! behaves is served.

use std::time::Duration;

use aqueduct_proto::v1::{
    ExtendVerdict, LeaseRequest, Message, OnKeyFailure, QueueOrder, QueuePolicy, RetryVerdict,
    SettleResult, Settlement, settlement::Verdict,
};
use aqueduct_tests::{
    grpc::{Refused, message, refused},
    process::PATIENCE,
    queue::{
        Given, KeyOrder, Outcome, Rules, Word,
        worker::{Session, settlement},
    },
};
use tonic::Code;

use crate::{
    fixture::Fixture,
    queue_scene::{RULES, Scene, create_group, ms},
};

const MIB: u64 = 1 << 20;

fn reason(result: &SettleResult) -> String {
    let error = result.error.as_ref();
    error.map_or(String::new(), |error| Refused::from_result(error).reason)
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of verdicts")]
async fn verdicts_on_what_is_not_ones_own_change_nothing() {
    let mut scene = Scene::on(Fixture::new(), 2, QueuePolicy::default()).await;
    scene.publish_some(4).await;
    let held = scene.some(4).await;
    create_group(&mut scene.api, "other", QueuePolicy::default())
        .await
        .unwrap();
    scene.ack(&held[..1]).await;
    let ack = |offset, lease| Settlement {
        partition: 0,
        offset,
        lease,
        verdict: Some(Verdict::Ack(true)),
    };
    let wrong = [
        ack(held[0].offset, held[0].lease),
        ack(held[1].offset, held[2].lease),
        ack(held[1].offset, 0),
        ack(held[1].offset, u64::MAX),
        ack(held[3].offset + 1, held[3].lease + 1),
        ack(u64::MAX, held[1].lease),
        ack(u64::MAX, u64::MAX),
        Settlement {
            partition: 1,
            ..ack(held[1].offset, held[1].lease)
        },
    ];
    let verdicts = [
        Verdict::Ack(true),
        Verdict::Release(true),
        Verdict::Retry(RetryVerdict::default()),
        Verdict::Extend(ExtendVerdict { by: ms(60_000) }),
        Verdict::DeadLetter(Default::default()),
    ];
    let mut all = Vec::new();
    for verdict in verdicts {
        all.extend(wrong.iter().map(|wrong| Settlement {
            verdict: Some(verdict.clone()),
            ..wrong.clone()
        }));
    }
    // In the midst of them one that is right, and a partition that is none.
    all.insert(9, settlement(&held[2], &Word::Ack));
    all.insert(
        17,
        Settlement {
            partition: 2,
            ..ack(1, 1)
        },
    );
    all.insert(
        20,
        Settlement {
            partition: u32::MAX,
            ..ack(1, 1)
        },
    );
    let results = scene.settle(all.clone()).await.unwrap();
    for (n, (settlement, result)) in all.iter().zip(&results).enumerate() {
        assert_eq!(
            (result.partition, result.offset),
            (settlement.partition, settlement.offset)
        );
        let expected = match n {
            9 => "",
            17 | 20 => "PARTITION_NOT_FOUND",
            _ => "LEASE_LOST",
        };
        assert_eq!(reason(result), expected, "{settlement:?}");
    }
    // The other group has leases of its own.
    scene.place.group = "other".to_owned();
    let outcomes = scene.say(&held[1..2], Word::Ack).await;
    assert_eq!(outcomes, [Outcome::LeaseLost]);
    scene.place.group = "work".to_owned();
    scene.history.said.lock().unwrap().clear();
    scene.ack(&[held[1].clone(), held[3].clone()]).await;
    assert!(scene.take(10).await.is_empty());
}

#[tokio::test]
async fn a_settlement_is_as_large_as_the_limit_and_no_larger() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    for _ in 0..2 {
        scene.publish_some(5_001).await;
    }
    let mut held = Vec::new();
    while held.len() < 10_002 {
        held.extend(scene.some(10_000).await);
    }
    let words = |count: usize| {
        let acks = held[..count]
            .iter()
            .map(|given| settlement(given, &Word::Ack));
        acks.collect::<Vec<_>>()
    };
    let answer = scene.settle(words(10_001)).await;
    let refused_call = refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(refused_call.facts["field"], "settlements");
    // Every other one first, so that nothing lies side by side.
    let (even, odd): (Vec<Given>, Vec<Given>) =
        held.iter().cloned().partition(|g| g.offset % 2 == 0);
    scene.ack(&even).await;
    scene.ack(&odd).await;
    scene.check(RULES, Some(&[10_002])).await;
    // The same ten thousand times: the first one counts.
    scene.publish_some(1).await;
    let last = scene.some(1).await;
    let same = vec![settlement(&last[0], &Word::Ack); 10_000];
    let results = scene.settle(same).await.unwrap();
    assert_eq!(
        results
            .iter()
            .filter(|result| reason(result).is_empty())
            .count(),
        1
    );
    assert_eq!(reason(&results[0]), "");
}

/// On a stream too, which then ends.
#[tokio::test]
async fn a_stream_that_settles_too_much_is_told_so() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    scene.publish_some(1).await;
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(10, 1 << 20).await;
    let (given, _) = session.next().await.unwrap();
    session.say(&vec![(given, Word::Ack); 10_001]).await;
    assert!(session.answered().await.is_err());
    session.cut();
    // The message comes back: nothing was taken.
    let again = scene.some(1).await;
    assert_eq!((again[0].offset, again[0].attempt), (0, 2));
    scene.ack(&again).await;
    scene.check(RULES, Some(&[1])).await;
}

#[tokio::test]
async fn credit_is_no_way_to_take_memory() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let value = "x".repeat(10_000);
    for _ in 0..10 {
        let messages = (0..1_000).map(|_| message(0, value.clone()));
        scene.publish(messages.collect()).await;
    }
    let before = scene.memory();
    // Credit for everything, many times; nothing is read.
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let session = Session::open(&scene.place, &scene.history).await.unwrap();
        for _ in 0..3 {
            session.credit(u64::MAX, u64::MAX).await;
        }
        greedy.push(session);
    }
    let mut none = Session::open(&scene.place, &scene.history).await.unwrap();
    for bytes in [0, u64::MAX, u64::MAX] {
        none.credit(0, bytes).await;
    }
    for _ in 0..200_000 {
        none.credit(0, 0).await;
    }
    let quiet = tokio::time::timeout(Duration::from_millis(200), none.next()).await;
    assert!(
        quiet.is_err(),
        "messages and bytes are both needed, and only bytes are there"
    );
    let taken = scene.memory().saturating_sub(before);
    assert!(taken < 150 * MIB, "{} MiB for nothing", taken / MIB);
    for session in greedy {
        session.close().await;
    }
    // One byte is enough for one message, and then it is used up.
    let mut poor = Session::open(&scene.place, &scene.history).await.unwrap();
    poor.credit(1_000, 1).await;
    let (first, _) = poor.next().await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(200), poor.next()).await;
    assert!(second.is_err(), "{second:?}");
    poor.say(&[(first, Word::Ack)]).await;
    poor.answered().await.unwrap();
    poor.close().await;
    none.cut();
    scene.check(RULES, None).await;
}

/// So many keys, each once and none twice in flight; what they cost is bounded.
#[tokio::test]
async fn a_hundred_thousand_keys_have_an_order_each() {
    let policy = QueuePolicy {
        order: QueueOrder::PerKey as i32,
        on_key_failure: OnKeyFailure::Block as i32,
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let before = scene.memory();
    // Every tenth key has a second message.
    let keys: Vec<u32> = (0..100_000).chain((0..10_000).map(|n| n * 10)).collect();
    for keys in keys.chunks(10_000) {
        let keyed = |key: &u32| Message {
            key: Some(format!("key {key}").into()),
            ..message(0, "x")
        };
        scene.publish(keys.iter().map(keyed).collect()).await;
    }
    let mut held = Vec::new();
    while held.len() < 100_000 {
        held.extend(scene.some(10_000).await);
    }
    assert!(
        scene.take(1).await.is_empty(),
        "the others wait for the first of their key"
    );
    assert!(held.iter().all(|given| given.offset < 100_000));
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 200 * MIB, "{} MiB", grown / MIB);
    for some in held.chunks(10_000) {
        scene.ack(some).await;
    }
    let mut last = Vec::new();
    while last.len() < 10_000 {
        last.extend(scene.some(10_000).await);
    }
    scene.ack(&last).await;
    let order = KeyOrder::Block;
    scene
        .check(Rules { order, ..RULES }, Some(&[110_000]))
        .await;
}

#[tokio::test]
async fn who_never_settles_and_who_hangs_up_stop_nobody() {
    let policy = QueuePolicy {
        lease: ms(1_000),
        backoff: ms(1),
        backoff_max: ms(10),
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let rules = Rules {
        lease_ms: 1_000,
        backoff: aqueduct_tests::queue::Backoff {
            initial_ms: 1,
            factor_percent: 200,
            max_ms: 10,
            jitter_percent: 20,
        },
        ..RULES
    };
    // Calls that are given up while they wait; what comes is not for them.
    let mut hanging = Vec::new();
    for _ in 0..300 {
        let mut queues = scene.api.queues.clone();
        let request = LeaseRequest {
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
            max_messages: 1,
            wait: ms(60_000),
            ..LeaseRequest::default()
        };
        hanging.push(tokio::spawn(async move {
            queues.lease(request).await.map(drop)
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    hanging.drain(..).for_each(|call| call.abort());
    scene.publish_some(200).await;
    // One takes much and says nothing; one takes some and is cut off; one works.
    let mut silent = Session::open(&scene.place, &scene.history).await.unwrap();
    silent.credit(50, 1 << 20).await;
    let mut cut = Session::open(&scene.place, &scene.history).await.unwrap();
    cut.credit(20, 1 << 20).await;
    silent.next().await.unwrap();
    cut.next().await.unwrap();
    cut.cut();
    let start = std::time::Instant::now();
    let mut done = 0;
    while done < 200 {
        assert!(start.elapsed() < PATIENCE, "{done} of 200");
        // What it has used of its credit is gone: nothing more comes to the silent one.
        let given = scene.wait(100, Duration::from_millis(500)).await;
        let outcomes = scene.say(&given, Word::Ack).await;
        done += outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Done)
            .count();
    }
    silent.left();
    scene.check(rules, Some(&[200])).await;
}

#[tokio::test]
async fn many_groups_on_one_topic_do_not_share_anything() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let names: Vec<String> = (0..100).map(|n| format!("group-{n}")).collect();
    for name in &names {
        create_group(&mut scene.api, name, QueuePolicy::default())
            .await
            .unwrap();
    }
    scene.publish_some(20).await;
    let before = scene.memory();
    for name in &names {
        scene.place.group.clone_from(name);
        let given = scene.some(20).await;
        assert_eq!(given.len(), 20, "{name}");
        assert!(
            given
                .iter()
                .all(|given| given.attempt == 1 && given.lease <= 20)
        );
        scene.ack(&given[..10]).await;
        // Each history is one of its own.
        scene.history.given.lock().unwrap().clear();
        scene.history.said.lock().unwrap().clear();
    }
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
    scene.broker.assert_serves();
}

/// Streams and waiting calls are bounded, each with a clear refusal; who is there is served.
#[tokio::test]
async fn the_thousand_and_first_consumer_is_refused() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let open = || {
        let open = aqueduct_proto::v1::WorkOpen {
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
            ..Default::default()
        };
        let kind = Some(aqueduct_proto::v1::work_request::Kind::Open(open));
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender
            .try_send(aqueduct_proto::v1::WorkRequest { kind })
            .unwrap();
        (
            sender,
            tokio_stream::wrappers::ReceiverStream::new(receiver),
        )
    };
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        let (sender, requests) = open();
        let mut answers = scene.api.queues.work(requests).await.unwrap().into_inner();
        answers.message().await.unwrap().expect("opened");
        streams.push((sender, answers));
    }
    let (_sender, requests) = open();
    let more = scene.api.queues.work(requests).await;
    refused(more.map(drop), Code::ResourceExhausted, "LIMIT_REACHED");
    scene.publish_some(1).await;
    let given = scene.some(1).await;
    scene.ack(&given).await;
    drop(streams);
    // They are gone soon, and then there is room.
    let start = std::time::Instant::now();
    loop {
        let (_sender, requests) = open();
        if scene.api.queues.work(requests).await.is_ok() {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
