//! Redriving and discarding dead letters.

use std::time::Duration;

use aqueduct_proto::v1::{
    DeadLetterFilter, DeadLettersProgress, Delivery, DiscardRequest, Message, PublishRequest,
    QueuePolicy, RedriveRequest,
};
use aqueduct_tests::grpc::{Api, message, refused};
use tonic::{Code, Status};

use crate::{
    dead_letters::{
        DLQ, GROUP, TOPIC, create, header, lease, list, numbered, publish, redrive,
        redrive_request, reject, reject_all, value, wait_for,
    },
    fixture::Fixture,
};

async fn discard(api: &mut Api, request: DiscardRequest) -> Result<DeadLettersProgress, Status> {
    let mut reports = api.dead.discard(request).await?.into_inner();
    let mut last = DeadLettersProgress::default();
    while let Some(progress) = reports.message().await? {
        last = progress;
    }
    Ok(last)
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_redrive_goes_back_with_edits_and_once() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 3, QueuePolicy::default()).await;
    let mut messages = numbered(30, 3);
    for message in &mut messages {
        message.headers = vec![header("keep", "1"), header("bad", "2")];
    }
    publish(&mut api, messages).await;
    reject_all(&mut api, 30, "first").await;
    wait_for(&mut api, 30).await;

    let odd = DeadLetterFilter {
        source_partition: Some(1),
        ..DeadLetterFilter::default()
    };
    let preview = RedriveRequest {
        filter: Some(odd.clone()),
        validate_only: true,
        ..redrive_request()
    };
    let counted = redrive(&mut api, preview).await.unwrap();
    assert_eq!(
        (counted.total, counted.matched, counted.moved),
        (30, 10, 10)
    );
    assert_eq!(counted.reasons[0].messages, 10);
    assert_eq!(
        list(&mut api, None).await.len(),
        30,
        "a preview changes nothing"
    );

    let request = RedriveRequest {
        filter: Some(odd),
        set_headers: vec![header("bad", "fixed"), header("new", "3")],
        remove_headers: vec!["gone".to_owned()],
        ..redrive_request()
    };
    let moved = redrive(&mut api, request.clone()).await.unwrap();
    assert_eq!((moved.done, moved.moved, moved.failed), (true, 10, 0));
    assert_eq!(list(&mut api, None).await.len(), 20);
    let again = redrive(&mut api, request).await.unwrap();
    assert_eq!((again.total, again.moved), (20, 0));

    let back = lease(&mut api, 100, Duration::from_secs(30)).await.unwrap();
    assert_eq!(back.len(), 10);
    for delivery in &back {
        let record = delivery.record.as_ref().unwrap();
        assert_eq!(
            (record.partition, delivery.attempt, delivery.hand_outs),
            (1, 1, 1)
        );
        let all: Vec<_> = record.headers.iter().map(|h| h.name.as_str()).collect();
        let expected = [
            "keep",
            "bad",
            "new",
            "aq-redriven-from",
            "aq-redriven-time",
            "aq-redriven-count",
        ];
        assert_eq!(all, expected);
        assert_eq!(record.headers[1].value, "fixed");
    }
    let mut values: Vec<_> = back.iter().map(|d| value(d.record.as_ref())).collect();
    values.sort_unstable_by_key(|text| text.parse::<u32>().unwrap());
    let expected: Vec<_> = (0..30)
        .filter(|n| n % 3 == 1)
        .map(|n| n.to_string())
        .collect();
    assert_eq!(values, expected);
    // They die again, and the second redrive counts itself.
    assert_eq!(reject(&mut api, &back, "second").await.unwrap(), 10);
    wait_for(&mut api, 30).await;
    let moved = redrive(&mut api, redrive_request()).await.unwrap();
    assert_eq!(moved.moved, 30);
    let twice = lease(&mut api, 100, Duration::from_secs(30)).await.unwrap();
    let is_second = |delivery: &&Delivery| {
        let headers = &delivery.record.as_ref().unwrap().headers;
        headers
            .iter()
            .any(|h| h.name == "aq-redriven-count" && h.value == "2")
    };
    assert_eq!(twice.iter().filter(is_second).count(), 10);
}

#[tokio::test]
async fn a_redrive_elsewhere_leaves_what_does_not_fit() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    broker
        .cli
        .run(&[
            "topic",
            "create",
            "elsewhere",
            "--partitions",
            "4",
            "--max-message",
            "1KiB",
        ])
        .ok();
    let mut messages = numbered(20, 1);
    for (n, message) in messages.iter_mut().enumerate() {
        message.key = Some(format!("key {}", n % 5).into());
    }
    messages.push(message(0, "x".repeat(2_000)));
    publish(&mut api, messages).await;
    reject_all(&mut api, 21, "no").await;
    wait_for(&mut api, 21).await;
    let to = |topic: &str| RedriveRequest {
        to_topic: topic.to_owned(),
        ..redrive_request()
    };
    let own = redrive(&mut api, to(DLQ)).await;
    refused(own, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(
        redrive(&mut api, to("nowhere")).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    let moved = redrive(&mut api, to("elsewhere")).await.unwrap();
    assert_eq!((moved.matched, moved.moved, moved.failed), (21, 20, 1));
    assert_eq!(list(&mut api, None).await.len(), 1);
    let stored = broker.cli.read_all("elsewhere");
    assert_eq!(stored.len(), 20);
    // Where a publisher would have put the keys.
    let keyed = |n| Message {
        key: Some(format!("key {n}").into()),
        ..Message::default()
    };
    let request = PublishRequest {
        topic: "elsewhere".to_owned(),
        messages: (0..5).map(keyed).collect(),
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    for record in stored {
        let key = record.key.unwrap();
        let n: usize = key.strip_prefix("key ").unwrap().parse().unwrap();
        assert_eq!(record.partition, answer.results[n].partition);
    }
}

#[tokio::test]
async fn a_slow_redrive_can_be_ended_and_goes_on_later() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    publish(&mut api, numbered(60, 1)).await;
    reject_all(&mut api, 60, "no").await;
    wait_for(&mut api, 60).await;
    let slow = RedriveRequest {
        messages_per_second: 5,
        ..redrive_request()
    };
    let mut reports = api.dead.redrive(slow.clone()).await.unwrap().into_inner();
    while reports.message().await.unwrap().unwrap().moved < 7 {}
    let busy = redrive(&mut api, redrive_request()).await;
    refused(busy, Code::FailedPrecondition, "DEAD_LETTERS_BUSY");
    drop(reports);
    // It ends by itself, and somebody else can go on.
    let mut left = 0;
    let rest = loop {
        match redrive(&mut api, redrive_request()).await {
            Ok(rest) => break rest,
            Err(_) if left < 200 => left += 1,
            Err(refusal) => panic!("{refusal}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(rest.moved < 54 && rest.moved == rest.total, "{rest:?}");
    let mut back = Vec::new();
    while back.len() < 60 {
        let leased = lease(&mut api, 100, Duration::from_secs(30)).await.unwrap();
        assert!(!leased.is_empty());
        back.extend(leased.iter().map(|d| value(d.record.as_ref())));
    }
    back.sort_unstable();
    back.dedup();
    assert_eq!(back.len(), 60);
    assert!(list(&mut api, None).await.is_empty());
}

#[tokio::test]
async fn dead_letters_that_come_meanwhile_do_not_keep_a_redrive_going() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 2, QueuePolicy::default()).await;
    publish(&mut api, numbered(500, 2)).await;
    reject_all(&mut api, 500, "no").await;
    wait_for(&mut api, 500).await;
    let mut worker = broker.api().await;
    // Everything that comes back dies at once.
    let rejecting = tokio::spawn(async move {
        reject_all(&mut worker, 500, "again").await;
    });
    let slow = RedriveRequest {
        messages_per_second: 400,
        ..redrive_request()
    };
    let moved = redrive(&mut api, slow).await.unwrap();
    assert_eq!((moved.total, moved.moved), (500, 500));
    rejecting.await.unwrap();
    let letters = wait_for(&mut api, 500).await;
    assert!(letters.iter().all(|letter| letter.error == "again"));
}

#[tokio::test]
async fn what_is_discarded_is_gone_and_only_that() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    publish(&mut api, numbered(20, 1)).await;
    let leased = lease(&mut api, 20, Duration::from_secs(30)).await.unwrap();
    assert_eq!(reject(&mut api, &leased[..12], "bad").await.unwrap(), 12);
    assert_eq!(reject(&mut api, &leased[12..], "worse").await.unwrap(), 8);
    wait_for(&mut api, 20).await;
    let worse = DiscardRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        filter: Some(DeadLetterFilter {
            error_contains: "worse".to_owned(),
            ..DeadLetterFilter::default()
        }),
        max_messages: 5,
        validate_only: true,
    };
    assert_eq!(discard(&mut api, worse.clone()).await.unwrap().moved, 5);
    assert_eq!(list(&mut api, None).await.len(), 20);
    let really = DiscardRequest {
        validate_only: false,
        ..worse
    };
    assert_eq!(discard(&mut api, really.clone()).await.unwrap().moved, 5);
    assert_eq!(discard(&mut api, really).await.unwrap().moved, 3);
    let left = list(&mut api, None).await;
    assert_eq!(left.len(), 12);
    assert!(left.iter().all(|letter| letter.error == "bad"));
    let moved = redrive(&mut api, redrive_request()).await.unwrap();
    assert_eq!((moved.total, moved.moved), (12, 12));
}
