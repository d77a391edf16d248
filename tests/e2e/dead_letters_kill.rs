//! Dead letters under kill -9 at random: each has its copy exactly once, with numbers without
//! gaps; and each redriven one is published exactly once.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_proto::v1::{QueuePolicy, RedriveRequest};
use aqueduct_tests::{
    grpc::{Api, message},
    seed::Seed,
};
use rand::Rng as _;

use crate::{
    dead_letters::{
        DLQ, TOPIC, create, lease, list, publish, redrive, redrive_request, reject, reject_all,
        wait_for,
    },
    fixture::Fixture,
};

const PARTITIONS: u32 = 6;
const MESSAGES: usize = 600;
const KILLS: usize = 6;

/// Connects once the broker is there again.
async fn connect(broker: &Fixture) -> Api {
    broker.api().await
}

#[tokio::test]
async fn every_death_has_one_copy_however_often_the_broker_is_killed() {
    let mut random = Seed::from_env().rng();
    let mut broker = Fixture::new();
    let mut api = connect(&broker).await;
    let short = |ms| Duration::from_millis(ms).try_into().ok();
    let policy = QueuePolicy {
        lease: short(1_000),
        backoff: short(1),
        max_attempts: Some(1_000),
        max_hand_outs: Some(1_000),
        ..QueuePolicy::default()
    };
    create(&mut api, PARTITIONS, policy).await;
    let messages = (0..MESSAGES).map(|n| message(n as u32 % PARTITIONS, n.to_string()));
    publish(&mut api, messages.collect()).await;
    for _ in 0..KILLS {
        let mut worker = connect(&broker).await;
        let rejecting = tokio::spawn(async move {
            // Until the broker is killed. Leases of it last; others come first after that.
            while let Ok(leased) = lease(&mut worker, 20, Duration::from_secs(1)).await {
                if reject(&mut worker, &leased, "poison").await.is_err() {
                    return;
                }
            }
        });
        let pause = random.random_range(1..250);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        broker.process.kill();
        rejecting.await.unwrap();
        broker.process.restart();
    }
    // What was leased when the broker was killed comes back when its lease is over.
    let mut api = connect(&broker).await;
    let mut letters = list(&mut api, None).await;
    for _ in 0..600 {
        if letters.len() >= MESSAGES {
            break;
        }
        let leased = lease(&mut api, 100, Duration::from_millis(200))
            .await
            .unwrap();
        reject(&mut api, &leased, "poison").await.unwrap();
        letters = list(&mut api, None).await;
    }
    assert_eq!(letters.len(), MESSAGES);
    let mut by_partition: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for letter in &letters {
        let place = (letter.number, letter.source_offset);
        by_partition
            .entry(letter.source_partition)
            .or_default()
            .push(place);
    }
    for (partition, places) in by_partition {
        let count = MESSAGES as u64 / u64::from(PARTITIONS);
        let numbers: Vec<u64> = places.iter().map(|place| place.0).collect();
        assert_eq!(
            numbers,
            (1..=count).collect::<Vec<_>>(),
            "partition {partition}"
        );
        let mut offsets: Vec<u64> = places.iter().map(|place| place.1).collect();
        offsets.sort_unstable();
        assert_eq!(
            offsets,
            (0..count).collect::<Vec<_>>(),
            "partition {partition}"
        );
    }
    // And the topic holds nothing that the listing hides.
    assert_eq!(broker.cli.read_all(DLQ).len(), MESSAGES);
}

#[tokio::test]
async fn every_dead_letter_is_redriven_once_however_often_the_broker_is_killed() {
    let mut random = Seed::from_env().rng();
    let mut broker = Fixture::new();
    let mut api = connect(&broker).await;
    create(&mut api, PARTITIONS, QueuePolicy::default()).await;
    let messages = (0..MESSAGES).map(|n| message(n as u32 % PARTITIONS, n.to_string()));
    publish(&mut api, messages.collect()).await;
    reject_all(&mut api, MESSAGES, "no").await;
    wait_for(&mut api, MESSAGES).await;
    for _ in 0..KILLS {
        let mut mover = connect(&broker).await;
        let moving = tokio::spawn(async move {
            let request = RedriveRequest {
                // In many small steps, so that a kill hits each of them.
                messages_per_second: 200,
                max_messages: 120,
                ..redrive_request()
            };
            redrive(&mut mover, request).await
        });
        let pause = random.random_range(1..300);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        broker.process.kill();
        let moved = moving.await.unwrap();
        println!(
            "killed after {pause} ms: {:?}",
            moved.map(|m| m.moved).map_err(|e| e.code())
        );
        broker.process.restart();
    }
    let mut api = connect(&broker).await;
    let left = list(&mut api, None).await.len();
    let rest = redrive(&mut api, redrive_request()).await.unwrap();
    assert_eq!((rest.moved, rest.failed, rest.done), (left as u64, 0, true));
    assert!(list(&mut api, None).await.is_empty());
    let stored = broker.cli.read_all(TOPIC);
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for record in &stored {
        *times.entry(record.value.clone().unwrap()).or_default() += 1;
    }
    let wrong: Vec<_> = times.iter().filter(|(_, count)| **count != 2).collect();
    assert!(
        wrong.is_empty() && times.len() == MESSAGES,
        "once and once redriven: {wrong:?}"
    );
}
