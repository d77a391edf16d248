//! The Rust client against the real broker: through kills, with names, and in-process.

use std::time::Duration;

use aqueduct_broker::testing::Broker;
use aqueduct_client::{Client, Error, From, Message, NewTopic, Producer, Until};
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
