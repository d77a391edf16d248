//! Queue groups with the Rust client against the real broker: leases as a stream and by single
//! calls, every verdict, late ones, kills, and the order of leaving.

use std::time::Duration;

use aqueduct_client::{
    Client, Error, Job, Lease, Message, NewGroup, NewTopic, QueueConsumer, QueuePolicy, Record,
    Settlement, Verdict,
};
use aqueduct_tests::process::PATIENCE;
use futures::StreamExt as _;

use crate::{fixture::Fixture, group_client::connect};

pub(crate) const TOPIC: &str = "jobs";
pub(crate) const GROUP: &str = "work";

/// A topic with one partition and a queue group of it.
pub(crate) async fn queue(broker: &Fixture, policy: QueuePolicy) -> Client {
    let client = connect(broker).await;
    let topic = NewTopic::new(TOPIC).partitions(1);
    client.create_topic(topic).await.unwrap();
    let group = NewGroup::new(TOPIC, GROUP).queue(policy);
    client.groups().create(group).await.unwrap();
    client
}

pub(crate) async fn publish(client: &Client, values: &[&str]) {
    let messages = values.iter().map(|value| Message::new((*value).to_owned()));
    for result in client.publish(TOPIC, messages.collect(), None).await {
        result.unwrap();
    }
}

pub(crate) fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

/// The dead letters of the group, this many.
pub(crate) async fn dead_letters(client: &Client, count: usize) -> Vec<Record> {
    let topic = format!("{TOPIC}.{GROUP}.dlq");
    let reading = async {
        loop {
            let reader = client.reader(&topic).from(aqueduct_client::From::Start);
            match reader.follow(true).build().await {
                Ok(reader) => break reader,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        .take(count)
        .map(Result::unwrap)
        .collect()
        .await
    };
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("the dead letters come")
}

pub(crate) fn header(record: &Record, name: &str) -> String {
    let value = record.header(name).unwrap_or_else(|| panic!("no {name}"));
    String::from_utf8(value.to_vec()).unwrap()
}

/// The next job that is leased by a single call.
pub(crate) async fn lease_one(client: &Client) -> Job {
    let queue = client.queue(TOPIC, GROUP);
    let leased = queue.lease(1, PATIENCE).await.unwrap();
    leased.into_iter().next().expect("a job comes")
}

async fn next(jobs: &mut QueueConsumer) -> Lease {
    let next = tokio::time::timeout(PATIENCE, jobs.next()).await;
    next.expect("a job comes").unwrap().unwrap()
}

#[tokio::test]
async fn every_verdict_does_what_it_says() {
    let broker = Fixture::new();
    let client = queue(&broker, QueuePolicy::new()).await;
    let group = client.groups().get(TOPIC, GROUP).await.unwrap();
    assert!(group.queue.is_some());
    publish(&client, &["ack", "retry", "dead", "drop"]).await;
    let queue = client.queue(TOPIC, GROUP);
    let mut jobs = queue.consumer().build().await.unwrap();
    let mut held = Vec::new();
    for wanted in ["ack", "retry", "dead", "drop"] {
        let lease = next(&mut jobs).await;
        assert_eq!(text(&lease), wanted);
        assert_eq!((lease.attempt, lease.hand_outs), (1, 1));
        held.push(lease);
    }
    drop(held.pop());
    let dropped = next(&mut jobs).await;
    assert_eq!((text(&dropped).as_str(), dropped.attempt), ("drop", 1));
    assert_eq!(dropped.hand_outs, 2, "it was given back");
    dropped.extend(Duration::from_secs(60)).await.unwrap();
    held.pop().unwrap().dead_letter("broken").await.unwrap();
    let retried = held.pop().unwrap();
    retried
        .retry_after(Duration::from_millis(1), "not now")
        .await
        .unwrap();
    held.pop().unwrap().ack().await.unwrap();
    let retried = next(&mut jobs).await;
    assert_eq!((text(&retried).as_str(), retried.attempt), ("retry", 2));
    assert_eq!(retried.last_error, "not now");
    assert!(retried.first_failure_ms.is_some());
    let never = retried.extend(Duration::ZERO).await.unwrap_err();
    assert!(matches!(never, Error::Invalid(_)), "{never:?}");
    retried.ack().await.unwrap();
    dropped.ack().await.unwrap();
    let dead = dead_letters(&client, 1).await;
    assert_eq!(header(&dead[0], "aq-dead-reason"), "REJECTED");
    assert_eq!(header(&dead[0], "__dlq.errors.message"), "broken");
    jobs.close().await.unwrap();
    assert!(queue.lease(10, Duration::ZERO).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_that_nobody_renews_is_lost_and_its_verdict_too_late() {
    let broker = Fixture::new();
    let policy = QueuePolicy::new().lease(Duration::from_secs(1));
    let client = queue(
        &broker,
        policy.backoff(Duration::from_millis(1), 100, Duration::from_millis(1)),
    )
    .await;
    publish(&client, &["one"]).await;
    let queue = client.queue(TOPIC, GROUP);
    let mut jobs = queue.consumer().build().await.unwrap();
    let late = next(&mut jobs).await;
    tokio::time::timeout(PATIENCE, late.lost()).await.unwrap();
    let by_hand = Settlement::of(late.job(), Verdict::Ack);
    let error = late.ack().await.unwrap_err();
    assert!(error.is_lease_lost(), "{error:?}");
    let again = next(&mut jobs).await;
    assert_eq!(again.attempt, 2, "the time that went by counts as failed");
    assert!(again.lease > by_hand.lease);
    let results = queue.settle(&[by_hand]).await.unwrap();
    assert!(results[0].as_ref().unwrap_err().is_lease_lost());
    again.ack().await.unwrap();
}

#[tokio::test]
async fn what_is_held_outlives_a_killed_broker() {
    let mut broker = Fixture::new();
    let client = queue(&broker, QueuePolicy::new()).await;
    let values: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    publish(&client, &values).await;
    let queue = client.queue(TOPIC, GROUP);
    let consumer = queue.consumer().renew(true).max_in_flight(10);
    let mut jobs = consumer.build().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut jobs).await);
    }
    for lease in held.drain(5..) {
        lease.ack().await.unwrap();
    }
    broker.process.kill();
    // Verdicts that are given meanwhile wait for the broker.
    let waiting: Vec<_> = held
        .drain(..)
        .map(|lease| tokio::spawn(lease.ack()))
        .collect();
    broker.process.restart();
    for ack in waiting {
        ack.await.unwrap().unwrap();
    }
    let mut done = 10;
    while done < 20 {
        let lease = next(&mut jobs).await;
        assert!(lease.offset >= 10, "{lease:?} was done");
        match lease.ack().await {
            Ok(()) => done += 1,
            // Leased before the kill, and never delivered.
            Err(error) => assert!(error.is_lease_lost() || error.is_unknown()),
        }
    }
    jobs.close().await.unwrap();
    assert!(queue.lease(10, Duration::ZERO).await.unwrap().is_empty());
}

#[tokio::test]
async fn closing_gives_back_at_once_what_was_held() {
    let broker = Fixture::new();
    let client = queue(&broker, QueuePolicy::new()).await;
    publish(&client, &["a", "b", "c", "d"]).await;
    let queue = client.queue(TOPIC, GROUP);
    let mut jobs = queue.consumer().max_in_flight(3).build().await.unwrap();
    let held = next(&mut jobs).await;
    next(&mut jobs).await.ack().await.unwrap();
    jobs.close().await.unwrap();
    assert!(held.is_lost());
    let error = held.ack().await.unwrap_err();
    assert!(matches!(error, Error::Closed(_)), "{error:?}");
    let mut left = Vec::new();
    while left.len() < 3 {
        let job = lease_one(&client).await;
        assert_eq!(job.attempt, 1);
        left.push(text(&job));
    }
    left.sort_unstable();
    assert_eq!(left, ["a", "c", "d"]);

    let nowhere = client.queue("nowhere", GROUP).consumer().build().await;
    assert!(matches!(nowhere, Err(Error::NotFound(_))));
    client
        .groups()
        .create(NewGroup::new(TOPIC, "stream"))
        .await
        .unwrap();
    let wrong = client.queue(TOPIC, "stream").consumer().build().await;
    assert_eq!(wrong.unwrap_err().reason(), "WRONG_GROUP_KIND");
}
