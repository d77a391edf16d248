//! Consumer groups with the Rust client against the real broker: sharing, kills, commits by
//! hand, static members, seeks, everything about groups from outside, the example.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_broker::testing::Broker;
use aqueduct_client::{
    Client, CommitMode, Error, From, GroupConsumer, GroupEvent, GroupState, GroupUpdate, Message,
    NewGroup, NewTopic, Received, Seek, StartPolicy,
};
use aqueduct_proto::v1::LeaveRequest;
use aqueduct_tests::process::{PATIENCE, example};
use futures::StreamExt as _;

use crate::fixture::Fixture;

pub(crate) async fn connect(broker: &Fixture) -> Client {
    Client::connect(broker.process.address().to_string())
        .await
        .unwrap()
}

async fn create(client: &Client, partitions: u32) {
    let topic = NewTopic::new("orders").partitions(partitions);
    client.create_topic(topic).await.unwrap();
}

/// Publishes so many messages to each partition.
async fn publish(client: &Client, partitions: u32, count: u32) {
    for partition in 0..partitions {
        let messages = (0..count).map(|n| Message::new(n.to_string()).partition(partition));
        for result in client.publish("orders", messages.collect(), None).await {
            result.unwrap();
        }
    }
}

async fn next(consumer: &mut GroupConsumer) -> Received {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("a message comes").unwrap().unwrap()
}

/// Waits until a question is answered with yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// How many partitions a member has, by what it was told.
pub(crate) fn held(events: &[GroupEvent]) -> usize {
    let mut held = BTreeSet::new();
    for event in events {
        match event {
            GroupEvent::Assigned { partition, .. } => {
                held.insert(*partition);
            }
            GroupEvent::Released { partitions } | GroupEvent::Lost { partitions, .. } => {
                held.retain(|it| !partitions.contains(it));
            }
            _ => {}
        }
    }
    held.len()
}

type Seen = Arc<Mutex<Vec<(u32, u64)>>>;

/// A member that notes what it sees until it is told to stop.
fn member(
    client: &Client,
    seen: &Seen,
    stop: &tokio::sync::watch::Sender<bool>,
) -> tokio::task::JoinHandle<()> {
    let (client, seen, mut stop) = (client.clone(), seen.clone(), stop.subscribe());
    tokio::spawn(async move {
        let consumer = client.consumer("orders").group("bill");
        let consumer = consumer.commit_interval(Duration::from_millis(50));
        let mut consumer = consumer.build().await.unwrap();
        loop {
            let message = tokio::select! {
                message = consumer.next() => message.unwrap().unwrap(),
                _ = stop.changed() => break,
            };
            seen.lock()
                .unwrap()
                .push((message.partition, message.offset));
        }
        consumer.close().await.unwrap();
    })
}

#[tokio::test]
async fn two_members_share_and_leave_nothing_out_through_kills() {
    let mut broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 6).await;
    let (seen, stop) = (Seen::default(), tokio::sync::watch::Sender::new(false));
    let members = [member(&client, &seen, &stop), member(&client, &seen, &stop)];
    until("both have joined", || async {
        let group = client.groups().get("orders", "bill").await;
        group.is_ok_and(|group| group.members == 2)
    })
    .await;
    let producer = client.producer("orders").build().await.unwrap();
    let mut deliveries = Vec::new();
    for part in 0..4 {
        for n in 0..5_000 {
            let message = Message::new("x").key(format!("{part}-{n}"));
            deliveries.push(producer.send(message).await.unwrap());
        }
        broker.process.restart();
    }
    let mut wanted = BTreeSet::new();
    for delivery in deliveries {
        let ack = delivery.await.unwrap();
        wanted.insert((ack.partition, ack.offset));
    }
    until("both see everything", || async {
        let got: BTreeSet<_> = seen.lock().unwrap().iter().copied().collect();
        got.is_superset(&wanted)
    })
    .await;
    until("everything is committed", || async {
        client
            .groups()
            .lag("orders", "bill")
            .await
            .unwrap()
            .messages
            == 0
    })
    .await;
    stop.send_replace(true);
    for member in members {
        member.await.unwrap();
    }
    let group = client.groups().get("orders", "bill").await.unwrap();
    assert_eq!((group.members, group.state), (0, GroupState::Empty));
}

#[tokio::test]
async fn what_is_committed_by_hand_is_where_the_next_one_begins() {
    let mut broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 1).await;
    publish(&client, 1, 100).await;
    let build = || {
        let consumer = client.consumer("orders").group("bill");
        consumer.commit_mode(CommitMode::Manual).build()
    };
    let mut consumer = build().await.unwrap();
    let mut kept = Vec::new();
    for offset in 0..50 {
        let message = next(&mut consumer).await;
        assert_eq!(message.offset, offset);
        kept.push(message);
    }
    assert_eq!(kept[29].commit().await.unwrap(), 30);
    assert_eq!(kept[9].commit().await.unwrap(), 30, "already is");
    let beyond = consumer.commit_through(0, 51).await.unwrap_err();
    assert!(matches!(beyond, Error::Invalid(_)), "{beyond:?}");
    broker.process.restart();
    // The broken connection heals by itself, and what was not committed comes again, maybe
    // after some more of what had arrived before.
    let again = loop {
        let message = next(&mut consumer).await;
        if message.offset < 50 {
            break message;
        }
    };
    assert_eq!(again.offset, 30);
    let stale = kept[49].commit().await.unwrap_err();
    assert!(matches!(stale, Error::Fenced(_)), "{stale:?}");
    again.commit().await.unwrap();
    consumer.close().await.unwrap();
    let mut second = build().await.unwrap();
    assert_eq!(next(&mut second).await.offset, 31);
    second.commit_taken().await.unwrap();
    second.close().await.unwrap();
    let lag = client.groups().lag("orders", "bill").await.unwrap();
    assert_eq!(lag.partitions[0].position, Some(32));
}

#[tokio::test]
async fn a_second_one_with_the_same_instance_id_fences_the_first() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 4).await;
    publish(&client, 4, 10).await;
    let build = |member: &str| {
        let consumer = client.consumer("orders").group("bill");
        consumer.instance_id("till-1").client_id(member).build()
    };
    let mut first = build("first").await.unwrap();
    next(&mut first).await;
    let mut second = build("second").await.unwrap();
    let error = loop {
        match tokio::time::timeout(PATIENCE, first.next()).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("ended without a word"),
        }
    };
    assert!(matches!(error, Error::Fenced(_)), "{error:?}");
    assert!(first.next().await.is_none());
    next(&mut second).await;
    let members = client.groups().members("orders", "bill").await.unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(members[0].instance_id, "till-1");
    assert_eq!(members[0].partitions.len(), 4);
}

#[tokio::test]
async fn a_seek_moves_members_at_once_and_fences_what_they_had() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 1).await;
    publish(&client, 1, 100).await;
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    let consumer = client.consumer("orders").group("bill");
    let consumer = consumer.commit_mode(CommitMode::Manual);
    let consumer = consumer.on_event(move |event| seen.lock().unwrap().push(event.clone()));
    let mut consumer = consumer.build().await.unwrap();
    let first = next(&mut consumer).await;
    let groups = client.groups();
    let seek = Seek::to(From::Offset(70)).partitions([0]);
    let preview = seek.clone().dry_run(true);
    let would = groups.seek("orders", "bill", preview).await.unwrap();
    assert_eq!(would[0].new_position, 70);
    let unchanged = groups.lag("orders", "bill").await.unwrap();
    assert_ne!(unchanged.partitions[0].position, Some(70));
    groups.seek("orders", "bill", seek).await.unwrap();
    let sought =
        |event: &GroupEvent| matches!(event, GroupEvent::Lost { reason, .. } if reason == "SEEK");
    until("the member is told", || async {
        events.lock().unwrap().iter().any(sought)
    })
    .await;
    let moved = next(&mut consumer).await;
    assert_eq!(moved.offset, 70);
    let stale = first.commit().await.unwrap_err();
    assert!(matches!(stale, Error::Fenced(_)), "{stale:?}");
    assert_eq!(moved.commit().await.unwrap(), 71);
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one group, from its making to its end"
)]
async fn groups_from_outside() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 2).await;
    publish(&client, 2, 50).await;
    let groups = client.groups();
    let new = NewGroup::new("orders", "bill").label("team", "shop");
    groups.create(new.clone().dry_run(true)).await.unwrap();
    let missing = groups.get("orders", "bill").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert_eq!(missing.reason(), "GROUP_NOT_FOUND");
    let made = groups.create(new.clone()).await.unwrap();
    assert_eq!(
        (made.topic.as_str(), made.name.as_str()),
        ("orders", "bill")
    );
    assert_eq!(made.start, Some(StartPolicy::Earliest));
    assert_eq!(made.session_timeout, Some(Duration::from_secs(15)));
    let twice = groups.create(new).await.unwrap_err();
    assert!(matches!(twice, Error::AlreadyExists(_)), "{twice:?}");

    let update = GroupUpdate::new("orders", "bill").session_timeout(Duration::from_secs(3));
    let updated = groups.update(update.etag(made.etag.clone())).await.unwrap();
    assert_eq!(updated.session_timeout, Some(Duration::from_secs(3)));
    assert_eq!(updated.labels["team"], "shop");
    let stale = GroupUpdate::new("orders", "bill").clear_labels();
    let stale = groups.update(stale.etag(made.etag)).await.unwrap_err();
    assert!(matches!(stale, Error::Conflict(_)), "{stale:?}");

    let positions = groups.commit("orders", "bill", &[(0, 20), (1, 99)]).await;
    let positions = positions.unwrap();
    assert_eq!(positions[0].as_ref().unwrap(), &20);
    assert!(positions[1].is_err(), "beyond the end");
    let lag = groups.lag("orders", "bill").await.unwrap();
    assert_eq!(
        (lag.partitions[0].messages, lag.partitions[1].messages),
        (30, 50)
    );
    assert_eq!(lag.messages, 80);
    assert!(lag.seconds > 0.0);

    groups
        .create(NewGroup::new("orders", "copy"))
        .await
        .unwrap();
    let copied = groups
        .copy_positions("orders", "bill", "copy")
        .await
        .unwrap();
    assert_eq!(copied[0].new_position, 20);
    let shift = Seek::shift(-5).partitions([0]);
    let shifted = groups.seek("orders", "copy", shift).await.unwrap();
    assert_eq!(
        (shifted[0].old_position, shifted[0].new_position),
        (Some(20), 15)
    );
    let names = groups.list(Some("orders")).await.unwrap();
    let names: Vec<_> = names.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["bill", "copy"]);
    assert_eq!(groups.list(None).await.unwrap().len(), 2);

    groups.pause("orders", "bill", None).await.unwrap();
    let mut consumer = client
        .consumer("orders")
        .group("bill")
        .build()
        .await
        .unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    let paused = groups.get("orders", "bill").await.unwrap();
    assert_eq!((paused.state, paused.members), (GroupState::Paused, 1));
    let busy = groups.delete("orders", "bill").await.unwrap_err();
    assert_eq!(busy.reason(), "GROUP_NOT_EMPTY");
    groups.resume("orders", "bill").await.unwrap();
    next(&mut consumer).await;
    consumer.close().await.unwrap();
    groups.delete("orders", "bill").await.unwrap();
    assert_eq!(groups.list(None).await.unwrap().len(), 1);
}

/// Who was removed by a call does not come straight back.
#[tokio::test]
async fn a_member_that_is_removed_ends() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 1).await;
    publish(&client, 1, 1).await;
    let consumer = client.consumer("orders").group("bill");
    let mut consumer = consumer.build().await.unwrap();
    next(&mut consumer).await;
    let members = client.groups().members("orders", "bill").await.unwrap();
    let leave = LeaveRequest {
        topic: "orders".to_owned(),
        group: "bill".to_owned(),
        member_id: members[0].member_id.clone(),
    };
    broker.api().await.consumer.leave(leave).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, consumer.next()).await;
    let ended = ended.expect("an end").unwrap().unwrap_err();
    assert_eq!(ended.reason(), "MEMBER_REMOVED");
    let members = client.groups().members("orders", "bill").await.unwrap();
    assert!(members.is_empty(), "{members:?}");
}

#[tokio::test]
async fn a_deleted_topic_ends_the_stream_with_its_name() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 2).await;
    publish(&client, 2, 10).await;
    let missing = client.consumer("orders").group("bill").must_exist(true);
    let missing = missing.build().await.unwrap_err();
    assert_eq!(missing.reason(), "GROUP_NOT_FOUND");
    let mut consumer = client
        .consumer("orders")
        .group("bill")
        .build()
        .await
        .unwrap();
    next(&mut consumer).await;
    client.delete_topic("orders").await.unwrap();
    let error = loop {
        match tokio::time::timeout(PATIENCE, consumer.next())
            .await
            .unwrap()
        {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("ended without a word"),
        }
    };
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
}

/// Only what moves is interrupted when a third member joins and leaves.
#[tokio::test]
async fn partitions_that_do_not_move_are_not_interrupted() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    create(&client, 6).await;
    let events: Arc<Mutex<BTreeMap<&str, Vec<GroupEvent>>>> = Arc::default();
    let (stop, _) = tokio::sync::watch::channel(false);
    let join = |name: &'static str| {
        let (client, events) = (client.clone(), events.clone());
        let mut stop = stop.subscribe();
        tokio::spawn(async move {
            let consumer = client.consumer("orders").group("bill").client_id(name);
            let consumer = consumer.on_event(move |event| {
                let mut events = events.lock().unwrap();
                events.entry(name).or_default().push(event.clone());
            });
            let mut consumer = consumer.build().await.unwrap();
            loop {
                tokio::select! {
                    message = consumer.next() => drop(message.unwrap().unwrap()),
                    _ = stop.changed() => break,
                }
            }
            consumer.close().await.unwrap();
        })
    };
    let shares = |wanted: &'static [usize]| {
        let client = client.clone();
        async move {
            until("the shares", || async {
                // The group is made by its first member.
                let members = client.groups().members("orders", "bill").await;
                let members = members.unwrap_or_default();
                let mut shares: Vec<_> = members.iter().map(|it| it.partitions.len()).collect();
                shares.sort_unstable();
                shares == wanted
            })
            .await;
        }
    };
    let mut tasks = vec![join("a")];
    shares(&[6]).await;
    tasks.push(join("b"));
    shares(&[3, 3]).await;
    until("the second knows its share", || async {
        events
            .lock()
            .unwrap()
            .get("b")
            .is_some_and(|it| held(it) == 3)
    })
    .await;
    events.lock().unwrap().clear();
    tasks.push(join("c"));
    shares(&[2, 2, 2]).await;
    publish(&client, 6, 10).await;
    {
        let events = events.lock().unwrap();
        for name in ["a", "b"] {
            let moved = events[name].iter().map(|event| match event {
                GroupEvent::Revoking { partitions, .. } => partitions.len(),
                GroupEvent::Lost { .. } | GroupEvent::Assigned { .. } => panic!("{events:?}"),
                _ => 0,
            });
            assert_eq!(moved.sum::<usize>(), 1, "{events:?}");
        }
    }
    stop.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }
}

/// What users' own tests begin with.
#[test]
fn a_broker_in_process_has_groups() {
    let broker = Broker::temp().unwrap();
    let address = broker.address().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(address).await.unwrap();
        create(&client, 3).await;
        publish(&client, 3, 5).await;
        let mut consumer = client
            .consumer("orders")
            .group("bill")
            .build()
            .await
            .unwrap();
        let mut seen = BTreeSet::new();
        while seen.len() < 15 {
            let message = next(&mut consumer).await;
            assert!(seen.insert((message.partition, message.offset)));
        }
        consumer.commit_taken().await.unwrap();
        consumer.close().await.unwrap();
        let lag = client.groups().lag("orders", "bill").await.unwrap();
        assert_eq!((lag.messages, lag.partitions.len()), (0, 3));
    });
}

#[test]
fn the_example_bills_every_order() {
    let broker = Fixture::new();
    let mut command = std::process::Command::new(example("aqueduct-client", "order_events"));
    let server = broker.process.address().to_string();
    command.arg("500").env("AQUEDUCT_SERVER", server);
    let finished = aqueduct_tests::cli::finish(&mut command).ok();
    let last = finished.stdout.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("500 orders billed, "),
        "{}",
        finished.stdout
    );
    assert!(last.ends_with(", lag 0"), "{}", finished.stdout);
}
