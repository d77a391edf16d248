//! The Rust client against the real broker: through kills, with names, and in-process.

use std::time::Duration;

use aqueduct_broker::testing::Broker;
use aqueduct_client::{Client, Error, From, Message, NewTopic, Producer, TopicUpdate, Until};
use aqueduct_tests::{Process, process::PATIENCE};
use futures::StreamExt as _;

use crate::fixture::Fixture;

async fn connect(broker: &Fixture) -> Client {
    Client::connect(broker.process.address().to_string())
        .await
        .unwrap()
}

/// Sends numbers with some keys; the deliveries are awaited by the caller.
async fn send(
    producer: &Producer,
    numbers: std::ops::Range<u32>,
) -> Vec<aqueduct_client::Delivery> {
    let mut deliveries = Vec::new();
    for n in numbers {
        let message = Message::new(n.to_string()).key(format!("key-{}", n % 10));
        deliveries.push(producer.send(message).await.unwrap());
    }
    deliveries
}

#[tokio::test]
async fn a_producer_and_a_reader_live_through_kills() {
    let mut broker = Fixture::new();
    let client = connect(&broker).await;
    client
        .create_topic(NewTopic::new("orders").partitions(3))
        .await
        .unwrap();
    let producer = client.producer("orders").build().await.unwrap();
    let reader = client
        .reader("orders")
        .from(From::Start)
        .follow(true)
        .build()
        .await
        .unwrap();
    let reading = tokio::spawn(async move {
        let records = reader.take(20_000).map(Result::unwrap);
        records.collect::<Vec<_>>().await
    });
    let mut deliveries = Vec::new();
    for part in 0..4 {
        deliveries.extend(send(&producer, part * 5_000..(part + 1) * 5_000).await);
        broker.process.restart();
    }
    let mut acknowledged = Vec::new();
    for delivery in deliveries {
        acknowledged.push(delivery.await.unwrap());
    }
    let records = tokio::time::timeout(Duration::from_secs(60), reading)
        .await
        .unwrap()
        .unwrap();
    for (n, ack) in acknowledged.iter().enumerate() {
        let at = |record: &&aqueduct_client::Record| {
            (record.partition, record.offset) == (ack.partition, ack.offset)
        };
        // Keys repeat every ten numbers, so a place is found near its number.
        let found = records.iter().filter(at).collect::<Vec<_>>();
        assert_eq!(found.len(), 1, "number {n} is seen once");
        assert_eq!(found[0].value.as_deref(), Some(n.to_string().as_bytes()));
    }
    for partition in 0..3 {
        let of = records
            .iter()
            .filter(|record| record.partition == partition);
        let offsets: Vec<u64> = of.map(|record| record.offset).collect();
        let dense = offsets.iter().copied().eq(0..offsets.len() as u64);
        assert!(
            dense,
            "partition {partition}: a gap or a repeat in {offsets:?}"
        );
    }
}

#[tokio::test]
async fn a_named_producer_goes_on_where_it_was() {
    let mut broker = Fixture::new();
    let client = connect(&broker).await;
    client
        .create_topic(NewTopic::new("orders").partitions(2))
        .await
        .unwrap();
    let build = |client: Client| client.producer("orders").name("shop").resume(true).build();
    let first = build(client.clone()).await.unwrap();
    for delivery in send(&first, 0..100).await {
        assert!(!delivery.await.unwrap().duplicate);
    }
    broker.process.restart();
    let second = build(connect(&broker).await).await.unwrap();
    let mut duplicates = 0;
    for delivery in send(&second, 0..150).await {
        duplicates += u32::from(delivery.await.unwrap().duplicate);
    }
    assert_eq!(duplicates, 100);
    assert_eq!(broker.cli.read_all("orders").len(), 150);
    // The first holder of the name is fenced for good.
    let stale = first.send(Message::new("late")).await;
    let stale = match stale {
        Ok(delivery) => delivery.await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(stale, Error::Fenced(_)), "{stale:?}");
}

#[tokio::test]
async fn errors_are_types_with_reasons() {
    let broker = Fixture::new();
    let client = connect(&broker).await;
    let missing = client.get_topic("nowhere").await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert_eq!(
        (missing.reason(), missing.exit_code()),
        ("TOPIC_NOT_FOUND", 3)
    );
    client.create_topic(NewTopic::new("orders")).await.unwrap();
    let twice = client
        .create_topic(NewTopic::new("orders"))
        .await
        .unwrap_err();
    assert!(matches!(twice, Error::AlreadyExists(_)), "{twice:?}");
    let expected = client
        .publish("orders", vec![Message::new("x")], Some(5))
        .await;
    let refused = expected.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused:?}");
    let far = client.get_message("orders", 0, 77).await.unwrap_err();
    assert!(
        matches!(
            far,
            Error::OutOfRange {
                earliest: 0,
                latest: 0,
                ..
            }
        ),
        "{far:?}"
    );
}

/// What users' own tests begin with.
#[test]
fn a_broker_in_process_needs_nothing() {
    let broker = Broker::temp().unwrap();
    let address = broker.address().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(address).await.unwrap();
        let results = client
            .publish("fresh", vec![Message::new("hi")], None)
            .await;
        assert_eq!(results[0].as_ref().unwrap().offset, 0);
        let reader = client.reader("fresh").from(From::Start).until(Until::Now);
        let records: Vec<_> = reader.build().await.unwrap().collect().await;
        assert_eq!(
            records[0].as_ref().unwrap().value.as_deref(),
            Some(&b"hi"[..])
        );
    });
}

/// Partitions that are added while a reader follows are read from their first message.
#[tokio::test]
async fn a_reader_that_follows_takes_up_new_partitions() {
    let mut broker = Fixture::new();
    let client = connect(&broker).await;
    client
        .create_topic(NewTopic::new("orders").partitions(1))
        .await
        .unwrap();
    let reader = client.reader("orders").follow(true);
    let reader = reader.partitions_interval(Duration::from_millis(50));
    let mut reader = reader.build().await.unwrap();
    reader.next_event().await.unwrap().unwrap();
    let update = TopicUpdate::new("orders").partitions(3);
    client.update_topic(update).await.unwrap();
    let address = broker.process.address();
    let publish = async |value: &str| {
        let client = Client::connect(address.to_string()).await.unwrap();
        let messages = (0..3).map(|partition| Message::new(value.to_owned()).partition(partition));
        for result in client.publish("orders", messages.collect(), None).await {
            result.unwrap();
        }
    };
    publish("before the look").await;
    let mut seen = std::collections::BTreeMap::<u32, Vec<u64>>::new();
    let mut read = async |count: usize| {
        while seen.values().map(Vec::len).sum::<usize>() < count {
            let next = tokio::time::timeout(PATIENCE, reader.next()).await;
            let record = next.expect("a record").unwrap().unwrap();
            seen.entry(record.partition)
                .or_default()
                .push(record.offset);
        }
        let in_order = |offsets: &Vec<u64>| (0..).zip(offsets).all(|(n, offset)| n == *offset);
        assert!(seen.values().all(in_order), "{seen:?}");
    };
    read(3).await;
    // All of them go on after the broker was away.
    broker.process.restart();
    publish("after a restart").await;
    read(6).await;
}

/// The directory of a broker is lost: a nameless producer gets a new identity by itself, a named
/// one says what has happened.
#[tokio::test]
async fn producers_meet_a_broker_that_has_forgotten_them() {
    let mut broker = Fixture::new();
    broker.create("orders", 2);
    let client = connect(&broker).await;
    let nameless = client.producer("orders").build().await.unwrap();
    let named = client
        .producer("orders")
        .name("shop")
        .build()
        .await
        .unwrap();
    for producer in [&nameless, &named] {
        for delivery in send(producer, 0..50).await {
            delivery.await.unwrap();
        }
    }
    broker.process.kill();
    let data = broker.process.data().to_path_buf();
    std::fs::remove_dir_all(&data).unwrap();
    let mut elsewhere = Process::start(&data);
    let cli = aqueduct_tests::Cli::new(elsewhere.address());
    cli.run(&["topic", "create", "orders", "--partitions", "2"])
        .ok();
    elsewhere.terminate();
    broker.process.restart();
    // What was on its way when the connection broke may be stored for all that the client knows,
    // and is not sent under another identity.
    loop {
        let delivery = nameless.send(Message::new("0")).await.unwrap();
        match delivery.await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Unknown(_)), "{error:?}"),
        }
    }
    for delivery in send(&nameless, 50..100).await {
        assert!(!delivery.await.unwrap().duplicate);
    }
    let error = loop {
        let delivery = named.send(Message::new("0")).await.unwrap();
        match delivery.await.unwrap_err() {
            Error::Unknown(_) => {}
            error => break error,
        }
    };
    assert_eq!(error.reason(), "PRODUCER_UNKNOWN", "{error:?}");
    let stored = broker.cli.read_all("orders");
    let mut numbers: Vec<u32> = stored
        .iter()
        .map(|record| record.value.as_deref().unwrap().parse().unwrap())
        .filter(|number| *number != 0)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (50..100).collect::<Vec<_>>());
}
