//! The client against a broker in memory that breaks streams at chosen moments: nothing is
//! lost, doubled or out of order, and what cannot be known is said to be unknown.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fake;

use std::{sync::atomic::Ordering, time::Duration};

use aqueduct_client::{Ack, Client, Error, Event, From, Message, Producer, Record};
use fake::Fake;
use futures::StreamExt as _;

const ANY: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

async fn start(fake: &Fake) -> (Client, fake::Server) {
    let (address, server) = fake.serve(ANY).await;
    (Client::connect(address.to_string()).await.unwrap(), server)
}

async fn publish(producer: &Producer, count: usize) -> Vec<Result<Ack, Error>> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        let key = format!("key-{}", number % 7);
        let message = Message::new(number.to_string()).key(key);
        deliveries.push(producer.send(message).await.unwrap());
    }
    producer.flush().await.unwrap();
    futures::future::join_all(deliveries).await
}

async fn read_all(client: &Client, topic: &str) -> Vec<Record> {
    let reader = client
        .reader(topic)
        .from(From::Start)
        .build()
        .await
        .unwrap();
    reader.map(|record| record.unwrap()).collect().await
}

/// Every acknowledged message is where its ack says, there are no others, keys keep order.
fn check(acks: &[Result<Ack, Error>], records: &[Record]) {
    assert_eq!(acks.len(), records.len());
    for (number, ack) in acks.iter().enumerate() {
        let ack = ack.as_ref().unwrap();
        let found: Vec<_> = records
            .iter()
            .filter(|it| (it.partition, it.offset) == (ack.partition, ack.offset))
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].value.as_deref(),
            Some(number.to_string().as_bytes())
        );
    }
    let mut last = std::collections::HashMap::new();
    for record in records {
        let text = std::str::from_utf8(record.value.as_ref().unwrap()).unwrap();
        let number: usize = text.parse().unwrap();
        let before = last.insert(record.key.clone(), number);
        assert!(before.is_none_or(|before| before < number));
    }
}

#[tokio::test]
async fn what_is_published_is_read_back() {
    let fake = Fake::default().topic("orders", 3);
    let (client, _server) = start(&fake).await;
    let producer = client
        .producer("orders")
        .batch_messages(10)
        .build()
        .await
        .unwrap();
    let acks = publish(&producer, 1000).await;
    check(&acks, &read_all(&client, "orders").await);
    producer.close().await.unwrap();
    assert!(matches!(
        producer.send(Message::new("x")).await,
        Err(Error::Closed(_))
    ));
}

#[tokio::test]
async fn broken_streams_lose_and_double_nothing() {
    let fake = Fake::default().topic("orders", 3);
    let (client, _server) = start(&fake).await;
    let producer = client
        .producer("orders")
        .batch_messages(5)
        .build()
        .await
        .unwrap();
    fake.faults.break_before_storing.store(20, Ordering::SeqCst);
    fake.faults.break_after_storing.store(70, Ordering::SeqCst);
    fake.faults.full.store(3, Ordering::SeqCst);
    let acks = publish(&producer, 1000).await;
    check(&acks, &read_all(&client, "orders").await);
    assert!(fake.faults.streams.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn a_restarted_broker_is_found_again() {
    let fake = Fake::default().topic("orders", 2);
    let (address, server) = fake.serve(ANY).await;
    let client = Client::connect(address.to_string()).await.unwrap();
    let producer = client
        .producer("orders")
        .batch_messages(10)
        .build()
        .await
        .unwrap();
    let mut acks = publish(&producer, 100).await;
    drop(server);
    assert!(matches!(
        client.get_topic("orders").await,
        Err(Error::Unavailable(_))
    ));
    let waiting = tokio::spawn(async move {
        let mut deliveries = Vec::new();
        for number in 100..200 {
            let key = format!("key-{}", number % 7);
            let message = Message::new(number.to_string()).key(key);
            deliveries.push(producer.send(message).await.unwrap());
        }
        futures::future::join_all(deliveries).await
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (_, _server) = fake.serve(address).await;
    acks.extend(waiting.await.unwrap());
    check(&acks, &read_all(&client, "orders").await);
}

#[tokio::test]
async fn a_named_producer_resumes_and_fences() {
    let fake = Fake::default().topic("orders", 3);
    let (client, _server) = start(&fake).await;
    let named = || {
        client
            .producer("orders")
            .name("shop")
            .resume(true)
            .batch_messages(4)
    };
    let first = named().build().await.unwrap();
    publish(&first, 100).await;
    let second = named().build().await.unwrap();
    assert_eq!(
        (0..3)
            .map(|partition| second.position(partition))
            .sum::<u64>(),
        100
    );
    let acks = publish(&second, 150).await;
    let duplicates = acks
        .iter()
        .filter(|ack| ack.as_ref().unwrap().duplicate)
        .count();
    assert_eq!(duplicates, 100);
    check(&acks, &read_all(&client, "orders").await);
    let late = first.send(Message::new("late").partition(0)).await;
    // It may notice at the send or by the answer.
    let fenced = match late {
        Ok(delivery) => delivery.await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(fenced, Err(Error::Fenced(_))), "{fenced:?}");
    assert!(matches!(
        first.send(Message::new("later")).await,
        Err(Error::Fenced(_))
    ));
}

#[tokio::test]
async fn dedup_ids_go_as_messages_and_plain_messages_are_unknown_after_a_break() {
    let fake = Fake::default().topic("orders", 1).topic("many", 16);
    let (client, _server) = start(&fake).await;
    let producer = client.producer("many").build().await.unwrap();
    let mut places = Vec::new();
    for _ in 0..5 {
        let message = Message::new("once").dedup_id("id-1");
        let ack = producer.send(message).await.unwrap().await.unwrap();
        places.push((ack.partition, ack.offset));
    }
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    let producer = client.producer("orders").build().await.unwrap();
    for duplicate in [false, true] {
        let message = Message::new("once").dedup_id("id-1");
        let ack = producer.send(message).await.unwrap().await.unwrap();
        assert_eq!(
            ack,
            Ack {
                partition: 0,
                offset: 0,
                duplicate
            }
        );
    }
    let plain = client
        .producer("orders")
        .plain_messages(true)
        .build()
        .await
        .unwrap();
    fake.faults.break_after_storing.store(1, Ordering::SeqCst);
    let lost = plain.send(Message::new("maybe")).await.unwrap().await;
    assert!(matches!(lost, Err(Error::Unknown(_))), "{lost:?}");
    assert_eq!(
        plain
            .send(Message::new("sure"))
            .await
            .unwrap()
            .await
            .unwrap()
            .offset,
        2
    );
}

#[tokio::test]
async fn a_delivery_that_takes_too_long_is_unknown() {
    let fake = Fake::default().topic("orders", 1);
    let (client, server) = start(&fake).await;
    let timeout = Duration::from_millis(200);
    let producer = client
        .producer("orders")
        .delivery_timeout(timeout)
        .build()
        .await
        .unwrap();
    producer
        .send(Message::new("a"))
        .await
        .unwrap()
        .await
        .unwrap();
    drop(server);
    let error = producer
        .send(Message::new("b"))
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 6, "{error:?}");
}

#[tokio::test]
async fn a_deleted_topic_ends_the_producer() {
    let fake = Fake::default().topic("orders", 1);
    let (client, _server) = start(&fake).await;
    let producer = client.producer("orders").build().await.unwrap();
    fake.lock().topics.clear();
    let error = producer
        .send(Message::new("a"))
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert!(matches!(
        client.producer("none").build().await,
        Err(Error::NotFound(_))
    ));
}

#[tokio::test]
async fn a_reader_goes_on_where_its_stream_broke() {
    let fake = Fake::default().topic("orders", 3);
    let (client, _server) = start(&fake).await;
    let producer = client
        .producer("orders")
        .batch_messages(3)
        .build()
        .await
        .unwrap();
    let acks = publish(&producer, 500).await;
    for credit in [None, Some(10_000)] {
        fake.faults.break_read.store(40, Ordering::SeqCst);
        let mut reader = client.reader("orders").from(From::Start);
        if let Some(bytes) = credit {
            reader = reader.credit(bytes);
        }
        let reader = reader.build().await.unwrap();
        let records: Vec<Record> = reader.map(|record| record.unwrap()).collect().await;
        check(&acks, &records);
    }
    let some = client
        .reader("orders")
        .from(From::Offset(7))
        .partitions([1])
        .max_messages(5);
    let mut some = some.build().await.unwrap();
    let mut offsets = Vec::new();
    while let Some(record) = some.next().await {
        offsets.push(record.unwrap().offset);
    }
    assert_eq!(offsets, [7, 8, 9, 10, 11]);
}

#[tokio::test]
async fn a_follower_sees_what_comes_later() {
    let fake = Fake::default().topic("orders", 1);
    let (client, _server) = start(&fake).await;
    let mut reader = client
        .reader("orders")
        .from(From::Start)
        .follow(true)
        .build()
        .await
        .unwrap();
    let Event::CaughtUp { done: false, .. } = reader.next_event().await.unwrap().unwrap() else {
        panic!("an empty topic is caught up with");
    };
    let producer = client.producer("orders").build().await.unwrap();
    for number in 0..3 {
        producer
            .send(Message::new(number.to_string()))
            .await
            .unwrap()
            .await
            .unwrap();
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!(
            (record.offset, record.value),
            (number, Some(number.to_string().into()))
        );
    }
}

#[tokio::test]
async fn pages_of_topics_are_followed() {
    let fake = Fake::default().topic("a", 1).topic("b", 1).topic("c", 1);
    let (client, _server) = start(&fake).await;
    let names: Vec<_> = client
        .list_topics(None)
        .await
        .unwrap()
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let error = Client::connect("127.0.0.1:1").await.unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
}
