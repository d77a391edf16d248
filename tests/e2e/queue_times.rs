//! Delays, time to live and priorities of queue groups, by a clock that the tests move.

use std::time::Duration;

use aqueduct_broker::testing::Broker;
use aqueduct_proto::v1::{
    CancelDelayedRequest, CreateGroupRequest, Delivery, GetDelayedRequest, Group, LeaseRequest,
    ListDelayedRequest, Message, PublishRequest, QueuePolicy, RescheduleDelayedRequest,
    RetryVerdict, SettleRequest, Settlement, settlement::Verdict,
};
use aqueduct_tests::grpc::{Api, Refused, message, refused};
use tonic::Code;

const TOPIC: &str = "jobs";
const GROUP: &str = "work";
const HOUR: Duration = Duration::from_secs(3_600);
const HOUR_MS: i64 = 3_600_000;
const LONG: Duration = Duration::from_secs(30);
/// How long nothing must come. What would come too early has come by then, mostly; none of these
/// tests fails if it is too short.
const SHORT: Duration = Duration::from_millis(200);

async fn start(policy: QueuePolicy) -> (Broker, Api) {
    let broker = Broker::temp().unwrap();
    let mut api = Api::connect(broker.address()).await;
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
    (broker, api)
}

async fn publish(api: &mut Api, messages: Vec<Message>) {
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages,
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.error.is_none()));
}

fn duration(duration: Duration) -> Option<Box<prost_types::Duration>> {
    duration.try_into().ok().map(Box::new)
}

fn delayed(value: &str, delay: Duration) -> Message {
    Message {
        delay: duration(delay),
        ..message(0, value.to_owned())
    }
}

async fn lease(api: &mut Api, wait: Duration) -> Vec<Delivery> {
    let request = LeaseRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        wait: wait.try_into().ok(),
        ..LeaseRequest::default()
    };
    let leased = api.queues.lease(request).await;
    leased.unwrap().into_inner().deliveries
}

async fn values(api: &mut Api, wait: Duration) -> Vec<String> {
    let leased = lease(api, wait).await;
    leased.iter().map(value).collect()
}

fn value(delivery: &Delivery) -> String {
    let value = delivery.record.as_ref().unwrap().value.clone();
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}

async fn settle(api: &mut Api, delivery: &Delivery, verdict: Verdict) -> Option<Refused> {
    let settlement = Settlement {
        partition: 0,
        offset: delivery.record.as_ref().unwrap().offset,
        lease: delivery.lease,
        verdict: Some(verdict),
    };
    let request = SettleRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        settlements: vec![settlement],
    };
    let results = api.queues.settle(request).await.unwrap().into_inner();
    results.results[0].error.as_ref().map(Refused::from_result)
}

fn retry(after: Duration) -> Verdict {
    Verdict::Retry(RetryVerdict {
        after: after.try_into().ok(),
        error: String::new(),
    })
}

#[tokio::test]
async fn a_delay_of_days_passes_in_a_moment_and_no_sooner() {
    let (broker, mut api) = start(QueuePolicy::default()).await;
    let messages = vec![
        delayed("week", 7 * 24 * HOUR),
        delayed("hour", HOUR),
        message(0, "now"),
    ];
    publish(&mut api, messages).await;
    let now = lease(&mut api, LONG).await.remove(0);
    assert_eq!(value(&now), "now");
    assert_eq!(settle(&mut api, &now, Verdict::Ack(true)).await, None);
    assert!(lease(&mut api, SHORT).await.is_empty());
    broker.clock().advance(HOUR - Duration::from_secs(60));
    assert!(lease(&mut api, SHORT).await.is_empty());
    // A call that waits sees it when it is due.
    let clock = broker.clock().clone();
    let mut waiting = api.clone();
    let waits = tokio::spawn(async move { values(&mut waiting, LONG).await });
    tokio::time::sleep(SHORT).await;
    clock.advance(Duration::from_secs(61));
    assert_eq!(waits.await.unwrap(), ["hour"]);
    broker.clock().advance(8 * 24 * HOUR);
    // Those of before came back meanwhile: nobody settled them.
    let mut last = Vec::new();
    while !last.contains(&"week".to_owned()) {
        last.extend(values(&mut api, LONG).await);
    }
}

#[tokio::test]
async fn a_backoff_of_an_hour_is_tested_in_a_moment() {
    let (broker, mut api) = start(QueuePolicy::default()).await;
    publish(&mut api, vec![message(0, "job")]).await;
    let first = lease(&mut api, LONG).await.remove(0);
    assert_eq!(settle(&mut api, &first, retry(HOUR)).await, None);
    assert!(lease(&mut api, SHORT).await.is_empty());
    broker.clock().advance(HOUR);
    let second = lease(&mut api, LONG).await.remove(0);
    assert_eq!((second.attempt, second.hand_outs), (2, 2));
    assert!(second.lease > first.lease);
}

/// Delays go by the wall clock, leases and backoff by the time that passes.
#[tokio::test]
async fn steps_of_the_wall_clock_move_delays_but_neither_leases_nor_retries() {
    let (broker, mut api) = start(QueuePolicy::default()).await;
    let messages = vec![message(0, "held"), message(0, "failed")];
    publish(&mut api, messages).await;
    let leased = lease(&mut api, LONG).await;
    assert_eq!(settle(&mut api, &leased[1], retry(HOUR)).await, None);
    publish(&mut api, vec![delayed("later", HOUR)]).await;

    // Back by an hour: the delay ends an hour later by any other clock, and never before.
    broker.clock().step_wall(-HOUR_MS);
    assert!(lease(&mut api, SHORT).await.is_empty());
    // Forward again and beyond: it is due; lease and retry did not see it.
    broker.clock().step_wall(3 * HOUR_MS);
    let due = lease(&mut api, LONG).await;
    assert_eq!(due.iter().map(value).collect::<Vec<_>>(), ["later"]);
    let deadline = due[0].lease_deadline.as_ref().unwrap().seconds;
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let ahead = deadline - i64::try_from(wall.as_secs()).unwrap();
    assert!((7_200..7_400).contains(&ahead), "told by the wall: {ahead}");
    assert!(lease(&mut api, SHORT).await.is_empty());
    assert_eq!(settle(&mut api, &leased[0], Verdict::Ack(true)).await, None);
    assert_eq!(settle(&mut api, &due[0], Verdict::Ack(true)).await, None);
    // The retry comes when its hour has passed.
    broker.clock().step_wall(-5 * HOUR_MS);
    broker.clock().advance(HOUR);
    let retried = lease(&mut api, LONG).await.remove(0);
    assert_eq!((value(&retried).as_str(), retried.attempt), ("failed", 2));
    // A lease that ended by passing time is lost, whatever the wall shows.
    broker.clock().step_wall(-5 * HOUR_MS);
    broker.clock().advance(Duration::from_secs(60));
    let lost = settle(&mut api, &retried, Verdict::Ack(true)).await;
    lost.unwrap().is(Code::FailedPrecondition, "LEASE_LOST");
}

#[tokio::test]
async fn what_lived_too_long_is_never_delivered() {
    let (broker, mut api) = start(QueuePolicy::default()).await;
    let mortal = |value: &str, ttl| Message {
        ttl: duration(ttl),
        ..message(0, value.to_owned())
    };
    let messages = vec![mortal("hour", HOUR), mortal("day", 24 * HOUR)];
    publish(&mut api, messages).await;
    broker.clock().advance(2 * HOUR);
    assert_eq!(values(&mut api, LONG).await, ["day"]);
    assert!(lease(&mut api, SHORT).await.is_empty());
}

#[tokio::test]
async fn the_greater_priority_comes_first() {
    let policy = QueuePolicy {
        priorities: aqueduct_proto::v1::QueuePriorities::Strict.into(),
        ..QueuePolicy::default()
    };
    let (_broker, mut api) = start(policy).await;
    let urgent = |value: &str, priority| Message {
        priority: Some(priority),
        ..message(0, value.to_owned())
    };
    let messages = vec![
        urgent("least", 0),
        message(0, "usual"),
        urgent("first", 9),
        urgent("second", 5),
    ];
    publish(&mut api, messages).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let request = LeaseRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            max_messages: 1,
            wait: LONG.try_into().ok(),
            ..LeaseRequest::default()
        };
        let leased = api.queues.lease(request).await.unwrap().into_inner();
        seen.extend(leased.deliveries.iter().map(value));
    }
    assert_eq!(seen, ["first", "second", "usual", "least"]);
}

#[tokio::test]
async fn options_that_cannot_be_are_refused_one_by_one() {
    let (_broker, mut api) = start(QueuePolicy::default()).await;
    let plain = || message(0, "x");
    let header = |name: &str, value: &str| Message {
        headers: vec![aqueduct_proto::v1::Header {
            name: name.to_owned(),
            value: value.to_owned().into(),
        }],
        ..plain()
    };
    let second = prost_types::Duration {
        seconds: 1,
        nanos: 0,
    };
    let time = prost_types::Timestamp {
        seconds: 1,
        nanos: 0,
    };
    let bad = [
        ("delay", delayed("x", 3_651 * 24 * HOUR)),
        (
            "delay",
            Message {
                delay: Some(Box::new(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                })),
                ..plain()
            },
        ),
        (
            "delay",
            Message {
                delay: Some(Box::new(second)),
                deliver_at: Some(Box::new(time)),
                ..plain()
            },
        ),
        (
            "ttl",
            Message {
                ttl: duration(Duration::ZERO),
                ..plain()
            },
        ),
        (
            "priority",
            Message {
                priority: Some(10),
                ..plain()
            },
        ),
        ("deliver_at", header("aq-delay-until", "tomorrow")),
        ("ttl", header("aq-ttl", "-5")),
        ("priority", header("aq-priority", "high")),
    ];
    let fields: Vec<_> = bad.iter().map(|(field, _)| *field).collect();
    let mut messages: Vec<_> = bad.into_iter().map(|(_, message)| message).collect();
    messages.push(plain());
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages,
        ..PublishRequest::default()
    };
    let results = api.publisher.publish(request).await.unwrap().into_inner();
    for ((n, field), result) in (0..).zip(fields).zip(&results.results) {
        let refused = Refused::from_result(result.error.as_ref().expect(field));
        refused.is(Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(refused.facts["field"], format!("messages[{n}].{field}"));
    }
    assert_eq!(results.results.last().unwrap().error, None);
}

fn page(max: u32, token: &str) -> ListDelayedRequest {
    ListDelayedRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        page_size: max,
        page_token: token.to_owned(),
    }
}

/// All pages of two, as offsets in order of time.
async fn listed(api: &mut Api) -> Vec<u64> {
    let (mut offsets, mut token) = (Vec::new(), String::new());
    loop {
        let answer = api.queues.list_delayed(page(2, &token)).await.unwrap();
        let answer = answer.into_inner();
        assert!(answer.complete && answer.messages.len() <= 2, "{answer:?}");
        offsets.extend(answer.messages.iter().map(|message| message.offset));
        token = answer.next_page_token;
        if token.is_empty() {
            return offsets;
        }
    }
}

#[tokio::test]
async fn delayed_messages_are_listed_cancelled_and_rescheduled() {
    let (broker, mut api) = start(QueuePolicy::default()).await;
    let hours = [5, 3, 1, 3, 9];
    let mut messages: Vec<_> = hours.iter().map(|n| delayed("x", *n * HOUR)).collect();
    messages.push(message(0, "now"));
    publish(&mut api, messages).await;
    // Nobody has worked with the group yet.
    assert_eq!(listed(&mut api).await, [2, 1, 3, 0, 4]);
    let one = |offset| GetDelayedRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        partition: 0,
        offset,
    };
    let found = api.queues.get_delayed(one(4)).await.unwrap().into_inner();
    let (record, at) = (found.record.unwrap(), found.deliver_at.unwrap());
    assert_eq!(record.value.as_deref(), Some(&b"x"[..]));
    let now = record.timestamp_ms / 1_000;
    assert!((at.seconds - now - 9 * 3_600).abs() <= 1);

    let cancel = |offset| CancelDelayedRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        partition: 0,
        offset,
    };
    api.queues.cancel_delayed(cancel(1)).await.unwrap();
    let again = api.queues.cancel_delayed(cancel(1)).await;
    refused(again, Code::FailedPrecondition, "NOT_DELAYED");
    refused(
        api.queues.cancel_delayed(cancel(5)).await,
        Code::FailedPrecondition,
        "NOT_DELAYED",
    );
    let missing = api.queues.get_delayed(one(6)).await;
    refused(missing, Code::NotFound, "MESSAGE_NOT_FOUND");
    let reschedule = |offset, seconds| RescheduleDelayedRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        partition: 0,
        offset,
        deliver_at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
    };
    // The last one first, the first one last.
    let moved = api.queues.reschedule_delayed(reschedule(4, now + 1_800));
    moved.await.unwrap();
    let moved = api.queues.reschedule_delayed(reschedule(2, now + 36_000));
    moved.await.unwrap();
    assert_eq!(listed(&mut api).await, [4, 3, 0, 2]);
    let far = api.queues.reschedule_delayed(reschedule(0, now * 3)).await;
    refused(far, Code::InvalidArgument, "INVALID_ARGUMENT");

    let mut offsets = Vec::new();
    for step in [0, 1_900, 9_000, 9_000, 18_000] {
        broker.clock().advance(Duration::from_secs(step));
        loop {
            let leased = lease(&mut api, SHORT).await;
            if leased.is_empty() {
                break;
            }
            for delivery in &leased {
                offsets.push(delivery.record.as_ref().unwrap().offset);
                assert_eq!(settle(&mut api, delivery, Verdict::Ack(true)).await, None);
            }
        }
    }
    assert_eq!(offsets, [5, 4, 3, 0, 2]);
    assert!(listed(&mut api).await.is_empty());
}
