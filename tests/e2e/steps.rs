//! Steps: messages are settled and results published in one call, all or nothing.

use std::time::{Duration, Instant};

use aqueduct_proto::v1::{
    CompleteRequest, CompleteResponse, DeadLetterVerdict, DeleteTopicRequest, Delivery,
    ExtendVerdict, GetMessageRequest, GetOffsetsRequest, Header, LeaseRequest, Message,
    QueuePolicy, Record, Settlement, StepResult, TrimTopicRequest, settlement::Verdict,
    trim_topic_request::Before,
};
use aqueduct_tests::{
    grpc::{Refused, message, refused},
    http::Http,
    process::PATIENCE,
};
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    fixture::Fixture,
    publishing::request,
    queue_api::{GROUP, LONG, Queue, TOPIC, retry, seconds},
};

fn settlement(delivery: &Delivery, verdict: Verdict) -> Settlement {
    let record = delivery.record.as_ref().unwrap();
    Settlement {
        partition: record.partition,
        offset: record.offset,
        lease: delivery.lease,
        verdict: Some(verdict),
    }
}

fn acks(deliveries: &[Delivery]) -> Vec<Settlement> {
    let ack = |delivery| settlement(delivery, Verdict::Ack(true));
    deliveries.iter().map(ack).collect()
}

fn result(topic: &str, message: Message) -> StepResult {
    StepResult {
        topic: topic.into(),
        message: Some(message),
    }
}

/// The step, with what was not made as reasons.
async fn complete(
    queue: &mut Queue,
    settlements: Vec<Settlement>,
    results: Vec<StepResult>,
) -> Result<CompleteResponse, Status> {
    let request = CompleteRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        settlements,
        results,
    };
    let completed = queue.0.queues.complete(request).await;
    completed.map(tonic::Response::into_inner)
}

fn reasons(answer: &CompleteResponse) -> Vec<String> {
    let errors = answer.results.iter().filter_map(|it| it.error.as_ref());
    errors.map(|it| Refused::from_result(it).reason).collect()
}

async fn end(queue: &mut Queue, topic: &str, partition: usize) -> u64 {
    let request = GetOffsetsRequest {
        topic: topic.into(),
        ..GetOffsetsRequest::default()
    };
    let offsets = queue.0.reader.get_offsets(request).await.unwrap();
    offsets.into_inner().partitions[partition].high_watermark
}

async fn read(queue: &mut Queue, topic: &str, partition: u32, offset: u64) -> Record {
    let request = GetMessageRequest {
        topic: topic.into(),
        partition,
        offset,
    };
    let found = queue.0.reader.get_message(request).await;
    found.unwrap().into_inner()
}

fn text(record: &Record) -> &str {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap()
}

#[tokio::test]
async fn verdicts_and_results_are_one_step() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.0.create("done", 2).await;
    queue.publish(0, None, 0..2).await;
    let jobs = queue.some(2).await;
    let verdicts = vec![
        settlement(&jobs[0], Verdict::Ack(true)),
        settlement(&jobs[1], retry(60_000, "no stock")),
    ];
    let header = Header {
        name: "a".into(),
        value: "b".into(),
    };
    let first = Message {
        key: Some("k".into()),
        headers: vec![header.clone()],
        timestamp_ms: Some(1_700_000_000_000),
        ..message(1, "first")
    };
    // The same topic and partition as the jobs', and a topic with another group of results.
    let results = vec![
        result("done", first),
        result("done", message(1, "second")),
        result("done", message(0, "third")),
        result(TOPIC, message(0, "next job")),
    ];
    let answer = complete(&mut queue, verdicts, results).await.unwrap();
    assert_eq!(reasons(&answer), [""; 0]);
    assert!(!answer.duplicate);
    let places = answer.published.iter();
    let places: Vec<_> = places
        .map(|it| (it.topic.as_str(), it.partition, it.offset))
        .collect();
    let expected = [
        ("done", 1, Some(0)),
        ("done", 1, Some(1)),
        ("done", 0, Some(0)),
        (TOPIC, 0, Some(2)),
    ];
    assert_eq!(places, expected);
    let stored = read(&mut queue, "done", 1, 0).await;
    assert_eq!(
        (text(&stored), stored.key.as_deref()),
        ("first", Some(&b"k"[..]))
    );
    assert_eq!(stored.timestamp_ms, 1_700_000_000_000);
    assert_eq!(stored.headers, [header]);
    assert_eq!(text(&read(&mut queue, "done", 1, 1).await), "second");
    let counts = queue.counts().await;
    assert_eq!((counts.done, counts.delayed, counts.ready), (1, 1, 1));
    let next = queue.some(1).await.remove(0);
    assert_eq!(text(next.record.as_ref().unwrap()), "next job");
    let seen = queue.describe().await;
    assert_eq!(seen.totals.unwrap().results_published, 4);
    assert_eq!(seen.partitions[0].results_waiting, 0);
    // Results ask of queues what published messages ask.
    let later = Message {
        delay: seconds(3_600).map(Box::new),
        ..message(0, "later")
    };
    let answer = complete(&mut queue, acks(&[next]), vec![result(TOPIC, later)]).await;
    assert_eq!(answer.unwrap().published[0].offset, Some(3));
    assert!(queue.lease(1, Duration::ZERO).await.is_empty());
    broker.assert_serves();
}

#[tokio::test]
async fn a_lost_lease_keeps_everything_as_it_was() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.0.create("done", 1).await;
    queue.publish(0, None, 0..3).await;
    let mut jobs = queue.some(3).await;
    assert_eq!(queue.settle(&jobs[2], Verdict::Ack(true)).await, None);
    let results = || vec![result("done", message(0, "x"))];
    let answer = complete(&mut queue, acks(&jobs), results()).await.unwrap();
    assert_eq!(
        reasons(&answer),
        ["STEP_REFUSED", "STEP_REFUSED", "LEASE_LOST"]
    );
    assert!(answer.published.is_empty() && !answer.duplicate);
    // Neither a job that is named twice nor one that is not there.
    let twice = [jobs[0].clone(), jobs[1].clone(), jobs[0].clone()];
    let answer = complete(&mut queue, acks(&twice), results()).await.unwrap();
    assert_eq!(
        reasons(&answer),
        ["STEP_REFUSED", "STEP_REFUSED", "LEASE_LOST"]
    );
    for (offset, lease) in [(99, 3), (u64::MAX, 3), (2, u64::MAX)] {
        jobs[2].record.as_mut().unwrap().offset = offset;
        jobs[2].lease = lease;
        let answer = complete(&mut queue, acks(&jobs), results()).await.unwrap();
        assert_eq!(
            reasons(&answer),
            ["STEP_REFUSED", "STEP_REFUSED", "LEASE_LOST"]
        );
    }
    jobs[2].record.as_mut().unwrap().offset = 98;
    let answer = complete(&mut queue, acks(&jobs), results()).await.unwrap();
    assert_eq!(
        reasons(&answer),
        ["STEP_REFUSED", "STEP_REFUSED", "LEASE_LOST"]
    );
    assert_eq!(end(&mut queue, "done", 0).await, 0);
    // What was refused beside it is still leased.
    let answer = complete(&mut queue, acks(&jobs[..2]), results())
        .await
        .unwrap();
    assert_eq!(reasons(&answer), [""; 0]);
    assert_eq!(end(&mut queue, "done", 0).await, 1);
    assert_eq!(queue.counts().await.done, 3);
    broker.assert_serves();
}

#[tokio::test]
async fn a_step_that_comes_again_is_answered_and_not_made_again() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.0.create("done", 1).await;
    queue.publish(0, None, 0..4).await;
    let jobs = queue.some(4).await;
    let results = || vec![result("done", message(0, "x"))];
    let first = complete(&mut queue, acks(&jobs[..2]), results())
        .await
        .unwrap();
    assert!(!first.duplicate);
    // Also after a restart, and after a seek.
    for round in 0..3 {
        if round == 1 {
            broker.process.kill();
            broker.process.restart();
            queue.0 = broker.api().await;
        }
        let again = complete(&mut queue, acks(&jobs[..2]), results())
            .await
            .unwrap();
        assert!(again.duplicate && again.published.is_empty(), "{round}");
        assert_eq!(reasons(&again), [""; 0]);
        // With another number of messages it is another step.
        let other = complete(&mut queue, acks(&jobs[..3]), results())
            .await
            .unwrap();
        assert_eq!(
            reasons(&other),
            ["LEASE_LOST", "LEASE_LOST", "STEP_REFUSED"]
        );
    }
    assert_eq!(end(&mut queue, "done", 0).await, 1);
    // Both at once: one of them makes it.
    let mut other = Queue(broker.api().await);
    let step = acks(&jobs[2..]);
    let (one, two) = futures::join!(
        complete(&mut queue, step.clone(), results()),
        complete(&mut other, step, results()),
    );
    assert_ne!(one.unwrap().duplicate, two.unwrap().duplicate);
    assert_eq!(end(&mut queue, "done", 0).await, 2);
    broker.assert_serves();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn what_cannot_be_a_step_is_refused_before_anything_is_done() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 2).await;
    queue.0.create("done", 1).await;
    queue.publish(0, None, 0..1).await;
    queue.publish(1, None, 0..1).await;
    let jobs = queue.some(2).await;
    let one = acks(&jobs[..1]);
    let extension = Verdict::Extend(ExtendVerdict { by: seconds(1) });
    let x = || message(0, "x");
    let some = |message| vec![result("done", message)];
    let header = |name: &str, value: &str| Header {
        name: name.into(),
        value: value.to_owned().into(),
    };
    let with = |name, value| Message {
        headers: vec![header(name, value)],
        ..x()
    };
    let bad = "INVALID_ARGUMENT";
    let cases: Vec<(Vec<Settlement>, Vec<StepResult>, &str, &str)> = vec![
        (vec![], some(x()), bad, "settlements"),
        (acks(&jobs), some(x()), bad, "settlements[1].partition"),
        (
            vec![settlement(&jobs[0], extension)],
            vec![],
            bad,
            "settlements[0].extend",
        ),
        (
            one.clone(),
            vec![StepResult {
                topic: "done".into(),
                message: None,
            }],
            bad,
            "results[0].message",
        ),
        (
            one.clone(),
            vec![result("done", x()), result("nowhere", x())],
            "TOPIC_NOT_FOUND",
            "",
        ),
        (
            one.clone(),
            some(message(7, "x")),
            "PARTITION_NOT_FOUND",
            "",
        ),
        (
            one.clone(),
            some(Message {
                dedup_id: "id".into(),
                ..x()
            }),
            bad,
            "results[0].message.dedup_id",
        ),
        (
            one.clone(),
            some(with("aq-dedup-id", "id")),
            bad,
            "results[0].message.dedup_id",
        ),
        (
            one.clone(),
            some(with("aq-ttl", "soon")),
            bad,
            "results[0].message.ttl",
        ),
        (
            one.clone(),
            some(Message {
                priority: Some(10),
                ..x()
            }),
            bad,
            "results[0].message.priority",
        ),
        (
            one.clone(),
            some(Message {
                timestamp_ms: Some(-1),
                ..x()
            }),
            bad,
            "results[0].message.timestamp_ms",
        ),
        (
            one.clone(),
            vec![result("done", x()); 1_001],
            bad,
            "results",
        ),
        (
            one.clone(),
            vec![result("done", message(0, vec![0; 5 << 20])); 2],
            "MESSAGE_TOO_LARGE",
            "results",
        ),
    ];
    for (settlements, results, reason, field) in cases {
        let answer = complete(&mut queue, settlements, results).await;
        let refusal = Refused::from_status(&answer.expect_err(field));
        assert_eq!(refusal.reason, reason, "{field}");
        if !field.is_empty() {
            assert_eq!(refusal.facts["field"], field, "{refusal:?}");
        }
    }
    let beyond = Settlement {
        partition: 5,
        ..one[0].clone()
    };
    let answer = complete(&mut queue, vec![beyond], vec![]).await;
    refused(answer, Code::NotFound, "PARTITION_NOT_FOUND");
    assert_eq!(end(&mut queue, "done", 0).await, 0);
    // All of that has left the lease alone.
    let answer = complete(&mut queue, one, some(x())).await.unwrap();
    assert_eq!(reasons(&answer), [""; 0]);
    broker.assert_serves();
}

#[tokio::test]
async fn a_step_without_results_and_one_that_rejects() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.publish(0, None, 0..2).await;
    let jobs = queue.some(2).await;
    let answer = complete(&mut queue, acks(&jobs[..1]), vec![])
        .await
        .unwrap();
    assert!(answer.published.is_empty() && reasons(&answer).is_empty());
    let dead = Verdict::DeadLetter(DeadLetterVerdict { error: "no".into() });
    let step = vec![settlement(&jobs[1], dead)];
    let results = vec![result(TOPIC, message(0, "instead"))];
    let answer = complete(&mut queue, step, results).await.unwrap();
    assert_eq!(answer.published[0].offset, Some(2));
    let instead = queue.some(1).await.remove(0);
    assert_eq!(text(instead.record.as_ref().unwrap()), "instead");
    assert_eq!(queue.describe().await.totals.unwrap().dead_rejected, 1);
    broker.assert_serves();
}

#[tokio::test]
async fn topics_come_and_go_under_the_steps() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    for round in 0..3 {
        queue.0.create("done", 1).await;
        queue.publish(0, None, 0..1).await;
        let jobs = queue.some(1).await;
        let results = vec![result("done", message(0, round.to_string()))];
        let answer = complete(&mut queue, acks(&jobs), results).await.unwrap();
        // Another topic of the same name begins anew.
        assert_eq!(answer.published[0].offset, Some(0));
        let stored = read(&mut queue, "done", 0, 0).await;
        assert_eq!(text(&stored), round.to_string());
        let delete = DeleteTopicRequest {
            name: "done".into(),
            validate_only: false,
        };
        queue.0.topics.delete_topic(delete).await.unwrap();
    }
    let totals = queue.describe().await.totals.unwrap();
    assert_eq!((totals.results_published, totals.results_dropped), (3, 0));
    broker.assert_serves();
}

/// Publishes to a topic until there is no room.
async fn fill(queue: &mut Queue, bytes: usize) {
    for _ in 0..100_000 {
        let value = vec![b'x'; bytes];
        let request = request("filler", vec![message(0, value)]);
        let answer = queue.0.publisher.publish(request).await;
        let results = answer.as_ref().map(|answer| &answer.get_ref().results);
        if !results.is_ok_and(|results| results[0].error.is_none()) {
            Refused::of_publish(answer).is(Code::ResourceExhausted, "DISK_FULL");
            return;
        }
    }
    panic!("the disk does not fill");
}

#[tokio::test]
async fn steps_on_a_full_disk_are_made_later_or_refused() {
    const JOBS: usize = 20;
    let mut broker = Fixture::with(&["--disk-limit", "64MiB"]);
    let policy = QueuePolicy {
        lease: seconds(300),
        ..QueuePolicy::default()
    };
    let mut queue = Queue::new(&broker, policy, 1).await;
    queue.0.create("filler", 1).await;
    queue.0.create("done", 1).await;
    queue.publish(0, None, 0..JOBS as u32).await;
    let jobs = queue.some(JOBS).await;
    for bytes in [256 << 10, 16 << 10, 1 << 10, 1] {
        fill(&mut queue, bytes).await;
    }
    let results = || vec![result("done", message(0, vec![b'x'; 100 << 10]))];
    let mut refused = Vec::new();
    for job in jobs {
        let job = vec![job];
        let answer = complete(&mut queue, acks(&job), results()).await.unwrap();
        match reasons(&answer).first().map(String::as_str) {
            None => {}
            Some("DISK_FULL") => refused.extend(job),
            Some(other) => panic!("{other}"),
        }
    }
    assert!(!refused.is_empty(), "there is room for any number of steps");
    // What was promised is kept, over a kill and with the disk still full.
    broker.process.kill();
    broker.process.restart();
    queue.0 = broker.api().await;
    let trim = TrimTopicRequest {
        name: "filler".to_owned(),
        before: Some(Before::All(true)),
        ..TrimTopicRequest::default()
    };
    queue.0.topics.trim_topic(trim).await.unwrap();
    // Their leases stand.
    let start = Instant::now();
    while let Some(job) = refused.pop() {
        assert!(start.elapsed() < PATIENCE, "it does not resume");
        let job = vec![job];
        let answer = complete(&mut queue, acks(&job), results()).await.unwrap();
        assert!(!answer.duplicate);
        if !reasons(&answer).is_empty() {
            refused.extend(job);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    while end(&mut queue, "done", 0).await < JOBS as u64 {
        assert!(start.elapsed() < PATIENCE, "promised results are missing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = queue.describe().await;
    assert_eq!(seen.counts.unwrap().done, JOBS as u64);
    assert_eq!(seen.totals.unwrap().results_published, JOBS as u64);
    assert_eq!(end(&mut queue, "done", 0).await, JOBS as u64);
    broker.assert_serves();
}

#[tokio::test]
async fn a_step_as_json() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, QueuePolicy::default(), 1).await;
    queue.0.create("done", 1).await;
    queue.publish(0, None, 0..1).await;
    let request = LeaseRequest {
        topic: TOPIC.into(),
        group: GROUP.into(),
        wait: LONG.try_into().ok(),
        ..LeaseRequest::default()
    };
    let jobs = queue.0.queues.lease(request).await.unwrap().into_inner();
    let lease = jobs.deliveries[0].lease;
    let mut http = Http::connect(broker.process.address());
    let body = json!({
        "settlements": [{"partition": 0, "offset": 0, "lease": lease, "ack": true}],
        "results": [{"topic": "done", "message": {"value": "aGk="}}],
    });
    let path = "/v1/topics/jobs/groups/work:complete";
    let answer = http.post(path, &body).ok();
    assert_eq!(answer["published"][0]["topic"], "done");
    assert_eq!(
        answer["published"][0]["offset"]
            .to_string()
            .trim_matches('"'),
        "0"
    );
    let again = http.post(path, &body).ok();
    assert_eq!(again["duplicate"], true);
}
