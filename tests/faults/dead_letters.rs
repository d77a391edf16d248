//! A dead-letter topic that cannot be written: dead letters wait for their copies, and nobody
//! else waits with them.

use std::{fs, path::Path, time::Instant};

use aqueduct_proto::v1::{CreateGroupRequest, Group, PublishRequest, QueuePolicy};
use aqueduct_tests::{
    Process,
    grpc::{Api, message},
    process::PATIENCE,
    queue::{
        History, Outcome, Word,
        worker::{Line, Place, lease, settle},
    },
};

/// More than could be worked off in [`PATIENCE`] with a pause of 200 ms for each.
const MESSAGES: usize = 400;

async fn publish(api: &mut Api, topic: &str, count: usize) -> bool {
    let request = PublishRequest {
        topic: topic.to_owned(),
        messages: (0..count).map(|_| message(0, "x".repeat(500))).collect(),
        ..PublishRequest::default()
    };
    let results = match api.publisher.publish(request).await {
        Ok(answer) => answer.into_inner().results,
        Err(_) => return false,
    };
    results.iter().all(|result| result.error.is_none())
}

/// Flips bits of a marked text wherever it lies in the files below.
fn rot(directory: &Path, mark: &[u8]) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found += rot(&path, mark);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let windows = bytes.windows(mark.len());
        let at: Vec<usize> = windows
            .enumerate()
            .filter_map(|(at, window)| (window == mark).then_some(at))
            .collect();
        if at.is_empty() {
            continue;
        }
        for at in &at {
            bytes[*at] ^= 0x55;
        }
        fs::write(&path, bytes).unwrap();
        found += at.len();
    }
    found
}

async fn next(line: &Line, place: &Place, history: &History, word: Word) {
    let mut leased = lease(line, place, history, (1, PATIENCE)).await.unwrap();
    let (given, _) = leased.pop().expect("a message");
    let outcomes = settle(line, place, history, &[(given, word)]).await;
    assert_eq!(outcomes, [Outcome::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_works_does_not_wait_for_a_damaged_dead_letter_topic() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Process::start(&directory.path().join("data"));
    let place = Place {
        address: broker.address(),
        topic: "jobs".to_owned(),
        group: "work".to_owned(),
    };
    let mut api = Api::connect(place.address).await;
    api.create("jobs", 1).await;
    api.create("jobs.work.dlq", 1).await;
    let mark = b"this is going to rot";
    let request = PublishRequest {
        topic: "jobs.work.dlq".to_owned(),
        messages: vec![message(0, &mark[..])],
        ..PublishRequest::default()
    };
    api.publisher.publish(request).await.unwrap();
    assert!(publish(&mut api, "jobs.work.dlq", 100).await);
    let group = Group {
        name: "work".to_owned(),
        queue: Some(QueuePolicy::default()),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: "jobs".to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
    assert!(publish(&mut api, "jobs", MESSAGES + 1).await);
    assert!(broker.terminate().success());
    assert!(rot(&directory.path().join("data"), mark) > 0);
    broker.restart();
    let mut api = Api::connect(place.address).await;
    let is_writable = publish(&mut api, "jobs.work.dlq", 1).await;
    assert!(!is_writable, "the topic is not damaged");

    let history = History::default();
    let line = Line::connect(place.address, &history).await.unwrap();
    let error = "no".to_owned();
    next(&line, &place, &history, Word::Dead { error }).await;
    let start = Instant::now();
    for n in 0..MESSAGES {
        next(&line, &place, &history, Word::Ack).await;
        assert!(start.elapsed() < PATIENCE, "{n} of {MESSAGES}");
    }
}
