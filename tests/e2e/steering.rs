//! Queue groups steered and looked at from outside: policies, seeks, pauses, parked keys, counts.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateGroupRequest, DeadLetterVerdict, DescribeQueueRequest, DescribeQueueResponse,
    GetGroupRequest, GetStandingsRequest, Group, HeaderCondition, InFlight, LeaseRequest,
    ListInFlightRequest, ListMembersRequest, MessageState, OnKeyFailure, PauseGroupRequest,
    Position, QueueOrder, QueuePolicy, ResumeGroupRequest, SeekGroupRequest, WorkOpen, WorkRequest,
    position::Kind, seek_group_request::Target, settlement::Verdict, unpark_keys_request::Which,
    work_request,
};
use aqueduct_tests::{grpc::refused, http::Http};
use tonic::Code;

use crate::{
    fixture::Fixture,
    queue_api::{GROUP, LONG, Queue, TOPIC, retry, seconds, value},
};

#[tokio::test]
async fn absurd_policies_are_refused_with_field_value_and_limit() {
    let mut broker = Fixture::new();
    let mut queue = Queue(broker.api().await);
    queue.0.create(TOPIC, 1).await;
    let standard = QueuePolicy::default;
    let condition = |header: &str| HeaderCondition {
        header: header.into(),
        test: None,
    };
    let exists = |header: String| HeaderCondition {
        header,
        test: Some(aqueduct_proto::v1::header_condition::Test::Exists(true)),
    };
    #[rustfmt::skip]
    let cases = [
        ("lease is 0 ms, but must be from 1000 ms", QueuePolicy { lease: seconds(0), ..standard() }),
        ("lease is 86401000 ms", QueuePolicy { lease: seconds(86_401), ..standard() }),
        ("lease", QueuePolicy { lease: seconds(-1), ..standard() }),
        ("lease", QueuePolicy { lease: seconds(i64::MAX), ..standard() }),
        ("max_attempts is 0", QueuePolicy { max_attempts: Some(0), ..standard() }),
        ("max_attempts is 4294967295", QueuePolicy { max_attempts: Some(u32::MAX), ..standard() }),
        ("max_hand_outs is 9", QueuePolicy { max_hand_outs: Some(9), ..standard() }),
        ("backoff is 0 ms", QueuePolicy { backoff: seconds(0), ..standard() }),
        ("backoff_max is 500", QueuePolicy { backoff_max: Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 }), ..standard() }),
        ("backoff_factor_percent is 99", QueuePolicy { backoff_factor_percent: Some(99), ..standard() }),
        ("backoff_jitter_percent is 101", QueuePolicy { backoff_jitter_percent: Some(101), ..standard() }),
        ("max_in_flight is 18446744073709551615", QueuePolicy { max_in_flight: u64::MAX, ..standard() }),
        ("max_in_flight_per_consumer", QueuePolicy { max_in_flight_per_consumer: 1_000_001, ..standard() }),
        ("max_in_flight_per_key is 2, but must be 0 or 1 with order per key", QueuePolicy { max_in_flight_per_key: 2, order: QueueOrder::PerKey.into(), ..standard() }),
        ("on_key_failure is park", QueuePolicy { on_key_failure: OnKeyFailure::Park.into(), ..standard() }),
        ("order: 7 is not", QueuePolicy { order: 7, ..standard() }),
        ("messages_per_second", QueuePolicy { messages_per_second: 10_000_001, ..standard() }),
        ("filter: say what must hold", QueuePolicy { filter: vec![condition("a")], ..standard() }),
        ("filter is 17 long, but must be 0 to 16", QueuePolicy { filter: vec![exists("a".into()); 17], ..standard() }),
        ("filter.header is 0 long", QueuePolicy { filter: vec![exists(String::new())], ..standard() }),
        ("filter.header is 257 long", QueuePolicy { filter: vec![exists("x".repeat(257))], ..standard() }),
    ];
    for (says, policy) in cases {
        let refusal = queue.create(policy).await.expect_err(says);
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal:?}");
        let message = refusal.message();
        assert!(message.contains(says), "{message} does not say {says:?}");
    }
    let call = LeaseRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        client_id: "x".repeat(250),
        ..LeaseRequest::default()
    };
    let answer = queue.0.queues.lease(call).await;
    refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    broker.assert_serves();
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() {
    let broker = Fixture::new();
    let policy = QueuePolicy {
        lease: seconds(5),
        max_attempts: Some(3),
        order: QueueOrder::PerKey.into(),
        messages_per_second: 70,
        ..QueuePolicy::default()
    };
    let mut queue = Queue::new(&broker, policy, 1).await;
    let change = QueuePolicy {
        lease: seconds(9),
        max_attempts: Some(4),
        ..QueuePolicy::default()
    };
    let changed = queue.update(Some(change.clone()), &["queue.lease"]).await;
    let after = changed.unwrap().queue.unwrap();
    assert_eq!((after.lease, after.max_attempts), (seconds(9), Some(3)));
    assert_eq!(after.order(), QueueOrder::PerKey);
    assert_eq!(after.messages_per_second, 70);
    // Without a mask: what says anything.
    let after = queue.update(Some(change.clone()), &[]).await.unwrap();
    let after = after.queue.unwrap();
    assert_eq!(
        (after.max_attempts, after.messages_per_second),
        (Some(4), 70)
    );
    // Named and not given: its default. As a whole: the rest, too.
    let after = queue.update(None, &["queue.messages_per_second"]).await;
    assert_eq!(after.unwrap().queue.unwrap().messages_per_second, 0);
    let after = queue.update(Some(change), &["queue"]).await.unwrap();
    let after = after.queue.unwrap();
    assert_eq!(
        (after.lease, after.order()),
        (seconds(9), QueueOrder::Unspecified)
    );
    let wrong = queue.update(None, &["queue.leases"]).await;
    let wrong = refused(wrong, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(!wrong.facts.is_empty());
    // A change that does not fit the rest is refused as a whole.
    let park = QueuePolicy {
        on_key_failure: OnKeyFailure::Park.into(),
        ..QueuePolicy::default()
    };
    let alone = queue.update(Some(park), &["queue.on_key_failure"]).await;
    refused(alone, Code::InvalidArgument, "INVALID_ARGUMENT");
    let request = GetGroupRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
    };
    let kept = queue.0.groups.get_group(request).await.unwrap();
    assert_eq!(kept.into_inner().queue, Some(after));
}

#[tokio::test]
async fn a_changed_policy_holds_for_the_next_message() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.publish(0, None, 0..3).await;
    assert_eq!(queue.some(1).await.len(), 1);
    let one = QueuePolicy {
        max_in_flight: 1,
        ..QueuePolicy::default()
    };
    queue
        .update(Some(one), &["queue.max_in_flight"])
        .await
        .unwrap();
    assert!(queue.lease(5, Duration::from_millis(200)).await.is_empty());
    queue.update(None, &["queue.max_in_flight"]).await.unwrap();
    assert_eq!(queue.some(2).await.len(), 2);
}

#[tokio::test]
async fn a_paused_group_hands_out_nothing_and_verdicts_still_count() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.publish(0, None, 0..3).await;
    let held = queue.some(2).await;
    let pause = |duration| PauseGroupRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        duration,
        validate_only: false,
    };
    queue.0.groups.pause_group(pause(None)).await.unwrap();
    assert_eq!(queue.settle(&held[0], retry(1, "no")).await, None);
    assert_eq!(queue.settle(&held[1], Verdict::Ack(true)).await, None);
    assert!(queue.lease(5, Duration::from_millis(300)).await.is_empty());
    assert_eq!(queue.lag().await.messages, 2);
    // Who waits gets it as soon as the group resumes.
    let mut other = Queue(queue.0.clone());
    let waiting = tokio::spawn(async move { other.some(2).await });
    let resume = ResumeGroupRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        validate_only: false,
    };
    queue.0.groups.resume_group(resume).await.unwrap();
    let got = waiting.await.unwrap();
    for delivery in &got {
        assert_eq!(queue.settle(delivery, Verdict::Release(true)).await, None);
    }
    // A pause with an end ends by itself.
    queue.0.groups.pause_group(pause(seconds(1))).await.unwrap();
    assert_eq!(queue.some(2).await.len(), 2);
}

#[tokio::test]
async fn a_seek_ends_leases_and_makes_everything_behind_it_fresh() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 2).await;
    queue.publish(0, None, 0..5).await;
    queue.publish(1, None, 5..7).await;
    assert_eq!(queue.lag().await.messages, 7, "before anybody worked");
    assert_eq!(queue.seek(Kind::Start(true), true).await.len(), 2);
    let held = queue.some(7).await;
    assert_eq!(queue.settle(&held[0], Verdict::Ack(true)).await, None);
    let lag = queue.lag().await;
    assert_eq!(lag.messages, 6);
    assert!(lag.seconds > 0.0);
    // A preview changes nothing.
    queue.seek(Kind::End(true), true).await;
    assert_eq!(queue.lag().await.messages, 6);
    queue.seek(Kind::Start(true), false).await;
    for delivery in &held {
        let refused = queue.settle(delivery, Verdict::Ack(true)).await;
        assert_eq!(refused.as_deref(), Some("LEASE_LOST"));
    }
    assert_eq!(queue.lag().await.messages, 7);
    let again = queue.some(7).await;
    assert!(again.iter().all(|d| d.attempt == 1 && d.hand_outs == 1));
    let newest = held.iter().map(|delivery| delivery.lease).max();
    assert!(again.iter().any(|d| Some(d.lease) > newest));
    queue.seek(Kind::End(true), false).await;
    assert_eq!(queue.lag().await.messages, 0);
    assert!(queue.lease(5, Duration::from_millis(200)).await.is_empty());
    queue.seek(Kind::Last(1), false).await;
    let last = queue.some(2).await;
    let mut values: Vec<String> = last.iter().map(value).collect();
    values.sort();
    assert_eq!(values, ["4", "6"]);
    queue.seek(Kind::TimestampMs(0), false).await;
    assert_eq!(queue.lag().await.messages, 7);
    // An offset belongs to one partition, and has to be there.
    let to = |partitions, offset| SeekGroupRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        partitions,
        target: Some(Target::To(Position {
            kind: Some(Kind::Offset(offset)),
        })),
        validate_only: false,
    };
    let answer = queue.0.groups.seek_group(to(vec![], 2)).await;
    refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    let answer = queue.0.groups.seek_group(to(vec![0], 99)).await;
    refused(answer, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    assert_eq!(queue.lag().await.messages, 7);
    queue.0.groups.seek_group(to(vec![0], 3)).await.unwrap();
    assert_eq!(queue.lag().await.messages, 4);
}

#[tokio::test]
async fn a_seek_while_streams_work_loses_nothing() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.publish(0, None, 0..2_000).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let mut worker = Queue(queue.0.clone());
        workers.push(tokio::spawn(async move {
            let mut acked = 0;
            loop {
                let leased = worker.lease(50, Duration::from_secs(2)).await;
                if leased.is_empty() {
                    return acked;
                }
                for delivery in &leased {
                    let refused = worker.settle(delivery, Verdict::Ack(true)).await;
                    acked += u32::from(refused.is_none());
                }
            }
        }));
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        queue.seek(Kind::Start(true), false).await;
    }
    let mut acked = 0;
    for worker in workers {
        acked += worker.await.unwrap();
    }
    assert!(acked >= 2_000, "{acked}");
    assert_eq!(queue.lag().await.messages, 0);
    let described = queue.describe().await;
    assert_eq!(described.totals.unwrap().acked, u64::from(acked));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one group through all states")]
async fn messages_are_counted_by_state_and_shown_with_their_holders() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.publish(0, None, 0..8).await;
    let fresh = queue.counts().await;
    assert_eq!((fresh.ready, fresh.done), (8, 0), "before anybody worked");
    let held = queue.some(6).await;
    assert_eq!(queue.settle(&held[0], Verdict::Ack(true)).await, None);
    assert_eq!(
        queue.settle(&held[1], retry(3_600_000, "later")).await,
        None
    );
    assert_eq!(queue.settle(&held[2], Verdict::Release(true)).await, None);
    let counts = queue.counts().await;
    let seen = (counts.delayed, counts.ready, counts.leased, counts.done);
    assert_eq!(seen, (1, 3, 3, 1));
    let described = queue.describe().await;
    assert_eq!(described.failed.len(), 1);
    let failed = &described.failed[0];
    assert_eq!((failed.failed_attempts, failed.messages), (1, 1));
    assert!(described.oldest_seconds > 0.0);
    assert_eq!(described.partitions[0].oldest_offset, Some(1));
    let totals = described.totals.unwrap();
    assert_eq!((totals.acked, totals.retried, totals.released), (1, 1, 1));

    let (first, token) = queue.in_flight(2, "").await;
    let offsets = |page: &[InFlight]| page.iter().map(|m| m.offset).collect::<Vec<_>>();
    assert_eq!(offsets(&first), [3, 4]);
    let (rest, end) = queue.in_flight(2, &token).await;
    assert_eq!((offsets(&rest), end.as_str()), (vec![5], ""));
    assert_eq!(first[0].lease, held[3].lease);
    assert_eq!((first[0].attempt, first[0].hand_outs), (1, 1));
    assert_eq!(first[0].client_id, "worker-7");
    assert!(first[0].address.starts_with("127.0.0.1:"));
    // Told in wall time, rounded anew each time.
    let ms = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
    };
    let apart = ms(first[0].lease_deadline) - ms(held[3].lease_deadline);
    assert!(apart.abs() <= 100, "{apart} ms");
    let wrong = ListInFlightRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        page_token: "x".into(),
        ..ListInFlightRequest::default()
    };
    let wrong = queue.0.groups.list_in_flight(wrong).await;
    refused(wrong, Code::InvalidArgument, "INVALID_ARGUMENT");

    let states = [
        MessageState::Done,
        MessageState::Delayed,
        MessageState::Ready,
        MessageState::Leased,
    ];
    for (offset, state) in (0..).zip(states) {
        let standing = queue.standing(offset).await;
        assert_eq!(standing.state(), state, "{offset}");
        assert!(standing.is_queue && standing.group == GROUP);
    }
    let later = queue.standing(1).await;
    assert_eq!((later.failed_attempts, later.hand_outs), (1, 1));
    assert_eq!(later.last_error, "later");
    assert!(later.first_failure.is_some() && later.ready_time.is_some());
    let leased = queue.standing(3).await.lease.unwrap();
    assert_eq!(
        (leased.lease, leased.client_id),
        (held[3].lease, "worker-7".into())
    );
    let missing = GetStandingsRequest {
        topic: TOPIC.into(),
        partition: 0,
        offset: 8,
    };
    let missing = queue.0.groups.get_standings(missing).await;
    refused(missing, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");

    // All of it is in the log, but for the holder's name.
    broker.process.kill();
    broker.process.restart();
    let mut queue = Queue(broker.api().await);
    assert_eq!(queue.counts().await, counts);
    let (held_on, _) = queue.in_flight(10, "").await;
    assert_eq!(offsets(&held_on), [3, 4, 5]);
    assert_eq!(held_on[0].client_id, "");
    assert_eq!(queue.describe().await.totals, Some(totals));
}

#[tokio::test]
async fn a_stream_is_a_member_until_it_ends() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    let (requests, open) = tokio::sync::mpsc::channel(4);
    let first = work_request::Kind::Open(WorkOpen {
        topic: TOPIC.into(),
        group: GROUP.into(),
        client_id: "stream-1".into(),
    });
    let request = WorkRequest { kind: Some(first) };
    requests.send(request).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(open);
    let mut answers = queue.0.queues.work(stream).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("opened");
    let members = async |queue: &mut Queue| {
        let request = ListMembersRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
        };
        let members = queue.0.groups.list_members(request).await.unwrap();
        members.into_inner().members
    };
    let wait = async |queue: &mut Queue, count: usize| loop {
        let members = members(queue).await;
        if members.len() == count {
            return members;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let found = tokio::time::timeout(LONG, wait(&mut queue, 1))
        .await
        .unwrap();
    assert_eq!(found[0].client_id, "stream-1");
    drop((requests, answers));
    tokio::time::timeout(LONG, wait(&mut queue, 0))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_parked_key_goes_on_when_it_is_told_to() {
    let broker = Fixture::new();
    let policy = QueuePolicy {
        max_attempts: Some(1),
        order: QueueOrder::PerKey.into(),
        on_key_failure: OnKeyFailure::Park.into(),
        ..QueuePolicy::default()
    };
    let mut queue = Queue::new(&broker, policy, 1).await;
    for key in ["a", "b"] {
        queue.publish(0, Some(key), 0..1).await;
        let first = queue.some(1).await.remove(0);
        assert_eq!(queue.settle(&first, retry(1, "broken")).await, None);
    }
    assert_eq!(queue.describe().await.parked_keys, 2);
    // What comes later of a parked key is a dead letter.
    queue.publish(0, Some("a"), 1..2).await;
    assert!(queue.lease(1, Duration::from_millis(300)).await.is_empty());
    let nothing = queue.unpark(None).await;
    refused(nothing, Code::InvalidArgument, "INVALID_ARGUMENT");
    let unknown = Which::Key("c".into());
    assert_eq!(queue.unpark(Some(unknown)).await.unwrap(), 0);
    assert_eq!(queue.unpark(Some(Which::Key("a".into()))).await.unwrap(), 1);
    queue.publish(0, Some("a"), 2..3).await;
    let delivered = queue.some(1).await.remove(0);
    assert_eq!(value(&delivered), "2");
    assert_eq!(queue.unpark(Some(Which::All(true))).await.unwrap(), 1);
    assert_eq!(queue.describe().await.parked_keys, 0);
    let totals = queue.describe().await.totals.unwrap();
    assert_eq!((totals.dead_attempts, totals.dead_parked), (2, 1));
}

#[tokio::test]
async fn calls_for_queue_groups_refuse_stream_groups() {
    let broker = Fixture::new();
    let mut queue = Queue(broker.api().await);
    queue.0.create(TOPIC, 1).await;
    let group = Group {
        name: GROUP.into(),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.into(),
        group: Some(group),
        validate_only: false,
    };
    queue.0.groups.create_group(request).await.unwrap();
    let request = DescribeQueueRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
    };
    let answer = queue.0.groups.describe_queue(request).await;
    refused(answer, Code::FailedPrecondition, "WRONG_GROUP_KIND");
    let answer = queue.unpark(Some(Which::All(true))).await;
    refused(answer, Code::FailedPrecondition, "WRONG_GROUP_KIND");
    let policy = QueuePolicy::default();
    let answer = queue.update(Some(policy), &["queue.lease"]).await;
    refused(answer, Code::FailedPrecondition, "WRONG_GROUP_KIND");
    queue.publish(0, None, 0..1).await;
    let standing = queue.standing(0).await;
    assert_eq!(standing.state(), MessageState::Ready);
    assert!(!standing.is_queue);
}

#[tokio::test]
async fn a_queue_group_is_made_on_first_use_where_the_node_does_that() {
    let broker = Fixture::with(&["--auto-create-queues"]);
    let mut queue = Queue(broker.api().await);
    queue.0.create(TOPIC, 1).await;
    queue.publish(0, None, 0..1).await;
    assert_eq!(queue.some(1).await.len(), 1);
    assert_eq!(queue.counts().await.leased, 1);
    let standard = Fixture::new();
    let mut queue = Queue(standard.api().await);
    queue.0.create(TOPIC, 1).await;
    let request = LeaseRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        ..LeaseRequest::default()
    };
    let answer = queue.0.queues.lease(request).await;
    refused(answer, Code::NotFound, "GROUP_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn queue_groups_have_numbers_of_their_own() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 2).await;
    queue.publish(0, None, 0..4).await;
    queue.publish(1, None, 4..6).await;
    let held = queue.some(6).await;
    assert_eq!(queue.settle(&held[0], Verdict::Ack(true)).await, None);
    let later = retry(3_600_000, "later");
    assert_eq!(queue.settle(&held[1], later).await, None);
    let dead = Verdict::DeadLetter(DeadLetterVerdict::default());
    assert_eq!(queue.settle(&held[2], dead).await, None);
    let address = broker.process.address();
    let text = tokio::task::block_in_place(|| {
        let mut http = Http::connect(address);
        http.get("/metrics").text().to_owned()
    });
    let labels = "topic=\"jobs\",group=\"work\"";
    let line = |name: &str, label: &str, value: u64| {
        let label = if label.is_empty() {
            String::new()
        } else {
            format!(",{label}")
        };
        let line = format!("{name}{{{labels}{label}}} {value}");
        assert!(
            text.lines()
                .any(|it| it == line || it == format!("{line}.0")),
            "no {line} in\n{text}"
        );
    };
    line("aqueduct_queue_messages", "state=\"leased\"", 3);
    line("aqueduct_queue_messages", "state=\"delayed\"", 1);
    line("aqueduct_queue_messages", "state=\"ready\"", 0);
    line("aqueduct_queue_acked_total", "", 1);
    line("aqueduct_queue_retried_total", "", 1);
    line(
        "aqueduct_queue_dead_letters_total",
        "reason=\"rejected\"",
        1,
    );
    line("aqueduct_group_lag_messages", "", 4);
}

/// Waits until this holds of the group's description.
async fn wait_for(queue: &mut Queue, holds: impl Fn(&DescribeQueueResponse) -> bool) {
    let start = std::time::Instant::now();
    loop {
        let described = queue.describe().await;
        if holds(&described) {
            return;
        }
        assert!(start.elapsed() < LONG, "not in time: {described:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_nobody_may_have_leaves_also_when_nobody_works() {
    let mut broker = Fixture::new();
    let exists = |header: &str| HeaderCondition {
        header: header.into(),
        test: Some(aqueduct_proto::v1::header_condition::Test::Exists(true)),
    };
    let policy = QueuePolicy {
        filter: vec![exists("wanted")],
        ..QueuePolicy::default()
    };
    let mut queue = Queue::new(&broker, policy, 2).await;
    queue.publish(0, None, 0..300).await;
    queue.publish(1, None, 300..500).await;
    wait_for(&mut queue, |it| it.counts.unwrap().done == 500).await;
    assert_eq!(queue.describe().await.totals.unwrap().unmatched, 500);
    assert_eq!(queue.lag().await.messages, 0);
    // The task has gone to rest; what comes later is noticed all the same, after a restart, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.publish(0, None, 500..510).await;
    wait_for(&mut queue, |it| it.counts.unwrap().done == 510).await;
    broker.process.kill();
    broker.process.restart();
    let mut queue = Queue(broker.api().await);
    queue.publish(1, None, 510..520).await;
    wait_for(&mut queue, |it| it.totals.unwrap().unmatched == 520).await;
    // Whoever comes for what is wanted gets it, although the task has looked before.
    queue.update(None, &["queue.filter"]).await.unwrap();
    queue.publish(0, None, 520..523).await;
    wait_for(&mut queue, |it| it.counts.unwrap().ready == 3).await;
    assert_eq!(queue.some(3).await.len(), 3);
}
