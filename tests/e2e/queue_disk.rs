//! A full disk under a queue group: what cannot be written is refused or waits, no verdict is
//! taken that is not kept, and work resumes by itself.

use std::time::{Duration, Instant};

use aqueduct_proto::v1::{QueuePolicy, TrimTopicRequest, trim_topic_request::Before};
use aqueduct_tests::{
    grpc::{Refused, message},
    process::PATIENCE,
    queue::{Backoff, Outcome, Rules, Said, Word, worker::Line},
};
use bytes::Bytes;
use tonic::Code;

use crate::{
    fixture::Fixture,
    publishing::request,
    queue_scene::{RULES, Scene, ms},
};

/// Publishes to a topic until there is no room.
async fn fill(scene: &mut Scene, value: &Bytes) {
    for _ in 0..100_000 {
        let full = request("filler", vec![message(0, value.clone())]);
        let answer = scene.api.publisher.publish(full).await;
        let is_stored =
            (answer.as_ref()).is_ok_and(|answer| answer.get_ref().results[0].error.is_none());
        if !is_stored {
            Refused::of_publish(answer).is(Code::ResourceExhausted, "DISK_FULL");
            return;
        }
    }
    panic!("the disk does not fill");
}

/// Fails many at a time, each with a long text, and then acknowledges one by one, until there is
/// no room for it; what was acknowledged.
async fn settle_until_full(scene: &Scene) -> Vec<u64> {
    let error = "e".repeat(256);
    let word = Word::Retry {
        after_ms: Some(0),
        error,
    };
    let mut held = scene.some(1_000).await;
    loop {
        let outcomes = scene.say(&held, word.clone()).await;
        if outcomes.contains(&Outcome::Refused) {
            break;
        }
        match scene.wait(1_000, Duration::from_millis(500)).await {
            // No room for leases.
            none if none.is_empty() => break,
            more => held = more,
        }
    }
    let mut acked = Vec::new();
    for given in &held {
        let outcomes = scene.say(std::slice::from_ref(given), Word::Ack).await;
        match outcomes[0] {
            Outcome::Done => acked.push(given.offset),
            Outcome::Refused => return acked,
            // It took that long.
            Outcome::LeaseLost => {}
            Outcome::Unknown => panic!("a full disk is no secret"),
        }
    }
    acked
}

#[tokio::test]
async fn verdicts_on_a_full_disk_are_kept_or_refused() {
    let policy = QueuePolicy {
        lease: ms(5_000),
        backoff: ms(10),
        backoff_max: ms(10),
        ..QueuePolicy::default()
    };
    let rules = Rules {
        lease_ms: 5_000,
        backoff: Backoff {
            initial_ms: 10,
            max_ms: 10,
            ..RULES.backoff
        },
        ..RULES
    };
    let broker = Fixture::with(&["--disk-limit", "64MiB"]);
    let mut scene = Scene::on(broker, 1, policy).await;
    scene.api.create("filler", 1).await;
    scene.publish_some(2_000).await;
    for bytes in [256 << 10, 16 << 10, 1 << 10, 1] {
        fill(&mut scene, &Bytes::from(vec![b'x'; bytes])).await;
    }
    let acked = settle_until_full(&scene).await;
    let refused = |said: &Said| said.outcome == Outcome::Refused;
    let was_full = scene.history.said.lock().unwrap().iter().any(refused);
    assert!(was_full, "there is room for any number of verdicts");
    // What was taken is kept, over a kill and with the disk still full.
    scene.broker.process.kill();
    scene.history.killed();
    scene.broker.process.restart();
    reconnect(&mut scene).await;
    let few = scene.wait(5, Duration::from_millis(500)).await;
    assert!(few.iter().all(|given| !acked.contains(&given.offset)));

    // Room again: everything is worked off without anybody's help.
    let trim = TrimTopicRequest {
        name: "filler".to_owned(),
        partition: None,
        before: Some(Before::All(true)),
        validate_only: false,
    };
    scene.api.topics.trim_topic(trim).await.unwrap();
    let start = Instant::now();
    let mut done = acked.len();
    let outcomes = scene.say(&few, Word::Ack).await;
    done += outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Done)
        .count();
    while done < 2_000 {
        assert!(start.elapsed() < PATIENCE, "{done} of 2000");
        let given = scene.wait(500, Duration::from_millis(500)).await;
        let outcomes = scene.say(&given, Word::Ack).await;
        done += outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Done)
            .count();
    }
    scene.check(rules, Some(&[2_000])).await;
}

async fn reconnect(scene: &mut Scene) {
    scene.api = scene.broker.api().await;
    let line = Line::connect(scene.place.address, &scene.history).await;
    scene.line = line.unwrap();
}
