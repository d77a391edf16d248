//! Queue groups over raw gRPC: leases, verdicts, retries, dead letters, restarts.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateGroupRequest, Delivery, Group, LeaseRequest, PublishRequest, QueuePolicy, ReadRequest,
    RetryVerdict, SettleRequest, SettleResult, Settlement, read_response, settlement::Verdict,
};
use aqueduct_tests::grpc::{Api, Refused, message};
use tonic::Code;

use crate::fixture::Fixture;

const TOPIC: &str = "jobs";
const GROUP: &str = "work";

async fn create(api: &mut Api, policy: QueuePolicy) {
    api.create(TOPIC, 1).await;
    let group = Group {
        name: GROUP.to_owned(),
        queue: Some(policy),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
}

async fn publish(api: &mut Api, count: usize) {
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages: (0..count).map(|n| message(0, n.to_string())).collect(),
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.error.is_none()));
}

async fn lease(api: &mut Api, messages: u32, wait: Duration) -> Vec<Delivery> {
    let request = LeaseRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        max_messages: messages,
        wait: wait.try_into().ok(),
        ..LeaseRequest::default()
    };
    let leased = api.queues.lease(request).await;
    leased.unwrap().into_inner().deliveries
}

async fn one(api: &mut Api) -> Delivery {
    let mut leased = lease(api, 1, Duration::from_secs(30)).await;
    leased.pop().expect("a message")
}

fn verdict(delivery: &Delivery, verdict: Verdict) -> Settlement {
    Settlement {
        partition: 0,
        offset: delivery.record.as_ref().unwrap().offset,
        lease: delivery.lease,
        verdict: Some(verdict),
    }
}

async fn settle(api: &mut Api, settlements: Vec<Settlement>) -> Vec<SettleResult> {
    let request = SettleRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        settlements,
    };
    api.queues
        .settle(request)
        .await
        .unwrap()
        .into_inner()
        .results
}

fn retry(after_ms: u64, error: &str) -> Verdict {
    Verdict::Retry(RetryVerdict {
        after: Duration::from_millis(after_ms).try_into().ok(),
        error: error.to_owned(),
    })
}

fn value(delivery: &Delivery) -> String {
    let value = delivery.record.as_ref().unwrap().value.clone();
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_done_and_an_old_lease_changes_nothing() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, QueuePolicy::default()).await;
    publish(&mut api, 5).await;
    let leased = lease(&mut api, 10, Duration::from_secs(30)).await;
    assert_eq!(
        leased.iter().map(value).collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4"]
    );
    assert!(leased.iter().all(|d| d.attempt == 1 && d.hand_outs == 1));
    let leases: Vec<u64> = leased.iter().map(|d| d.lease).collect();
    assert!(leases.is_sorted() && leases[0] > 0);
    // All are held: nobody else gets one.
    assert!(lease(&mut api, 10, Duration::ZERO).await.is_empty());

    let acks = |leased: &[Delivery]| {
        leased
            .iter()
            .map(|d| verdict(d, Verdict::Ack(true)))
            .collect()
    };
    let results = settle(&mut api, acks(&leased[..3])).await;
    assert!(
        results.iter().all(|result| result.error.is_none()),
        "{results:?}"
    );
    let mut mixed: Vec<Settlement> = acks(&leased[..1]);
    mixed.push(Settlement {
        offset: u64::MAX,
        ..mixed[0].clone()
    });
    mixed.push(verdict(&leased[3], Verdict::Release(true)));
    let results = settle(&mut api, mixed).await;
    for result in &results[..2] {
        let refused = Refused::from_result(result.error.as_ref().expect("refused"));
        refused.is(Code::FailedPrecondition, "LEASE_LOST");
    }
    assert!(results[2].error.is_none(), "{results:?}");
    let again = one(&mut api).await;
    assert_eq!(
        (value(&again).as_str(), again.attempt, again.hand_outs),
        ("3", 1, 2)
    );
    assert!(again.lease > leases[4]);
}

#[tokio::test]
async fn attempts_are_counted_over_a_kill_and_the_last_one_is_a_dead_letter_once() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    let policy = QueuePolicy {
        max_attempts: Some(3),
        ..QueuePolicy::default()
    };
    create(&mut api, policy).await;
    publish(&mut api, 1).await;
    for attempt in 1..=3 {
        let delivery = one(&mut api).await;
        assert_eq!(delivery.attempt, attempt);
        let results = settle(&mut api, vec![verdict(&delivery, retry(1, "no"))]).await;
        assert!(results[0].error.is_none(), "{results:?}");
        broker.process.kill();
        broker.process.restart();
        api = broker.api().await;
    }
    let request = ReadRequest {
        topic: format!("{TOPIC}.{GROUP}.dlq"),
        follow: true,
        from: Some(aqueduct_proto::v1::Position {
            kind: Some(aqueduct_proto::v1::position::Kind::Start(true)),
        }),
        ..ReadRequest::default()
    };
    let mut copies = loop {
        match api.reader.read(request.clone()).await {
            Ok(read) => break read.into_inner(),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut seen = Vec::new();
    while seen.is_empty() {
        let answer = copies.message().await.unwrap().expect("it is followed");
        if let Some(read_response::Kind::Records(records)) = answer.kind {
            seen.extend(records.records);
        }
    }
    assert_eq!(seen.len(), 1);
    let header = |name: &str| {
        let header = seen[0].headers.iter().find(|header| header.name == name);
        String::from_utf8(header.expect(name).value.to_vec()).unwrap()
    };
    assert_eq!(header("aq-dead-reason"), "ATTEMPTS");
    assert_eq!(header("aq-dead-attempts"), "3");
    assert_eq!(header("__dlq.errors.message"), "no");
    assert!(
        lease(&mut api, 1, Duration::from_millis(200))
            .await
            .is_empty()
    );
}
