//! Topics that retain until done: what is finished goes, what is not stays wherever it lies, and
//! one stuck message does not hold the disk.

use std::time::{Duration, Instant};

use aqueduct_proto::v1::{GetMessageRequest, ListPartitionsRequest, PartitionInfo, QueuePolicy};
use aqueduct_tests::{
    grpc::message,
    process::PATIENCE,
    queue::{Backoff, Given, Outcome, Rules, Word},
};
use bytes::Bytes;

use crate::{
    fixture::Fixture,
    queue_scene::{RULES, Scene, ms},
};

/// Small segments, and retention that looks all the time.
const OFTEN: [&str; 4] = ["--max-segment", "1MiB", "--retention-interval", "100ms"];
/// So many messages of a KiB fill a few segments.
const MANY: u64 = 5_000;

async fn scene(policy: QueuePolicy) -> Scene {
    let scene = Scene::on(Fixture::with(&OFTEN), 1, policy).await;
    let alter = ["topic", "alter", "jobs", "--retain", "until-done"];
    scene.broker.cli.run(&alter).ok();
    scene
}

fn patient() -> QueuePolicy {
    QueuePolicy {
        lease: ms(600_000),
        backoff: ms(10),
        backoff_max: ms(10),
        ..QueuePolicy::default()
    }
}

async fn publish_many(scene: &mut Scene) {
    let text = "x".repeat(1_000);
    for first in (0..MANY).step_by(500) {
        let messages = (first..first + 500).map(|n| message(0, format!("{n} {text}")));
        scene.publish(messages.collect()).await;
    }
}

async fn partition(scene: &mut Scene) -> PartitionInfo {
    let name = "jobs".to_owned();
    let listed = scene
        .api
        .topics
        .list_partitions(ListPartitionsRequest { name });
    listed.await.unwrap().into_inner().partitions.remove(0)
}

/// Waits until the partition is as it should be.
async fn until(scene: &mut Scene, what: &str, is_so: impl Fn(&PartitionInfo) -> bool) {
    let start = Instant::now();
    loop {
        let info = partition(scene).await;
        if is_so(&info) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "not {what}: {info:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Acknowledges everything that comes, but for these offsets, which are returned.
async fn ack_all_but(scene: &Scene, but: &[u64], count: u64) -> Vec<Given> {
    let (mut held, mut seen) = (Vec::new(), 0);
    while seen < count {
        let some = scene.some(1_000).await;
        seen += some.len() as u64;
        let (keep, done): (Vec<_>, Vec<_>) =
            some.into_iter().partition(|one| but.contains(&one.offset));
        scene.ack(&done).await;
        held.extend(keep);
    }
    held
}

async fn text_at(scene: &mut Scene, offset: u64) -> Bytes {
    let request = GetMessageRequest {
        topic: "jobs".to_owned(),
        partition: 0,
        offset,
    };
    let got = scene.api.reader.get_message(request).await;
    got.unwrap().into_inner().value.unwrap()
}

#[tokio::test]
async fn one_stuck_message_does_not_hold_the_log() {
    let mut scene = scene(patient()).await;
    publish_many(&mut scene).await;
    let full = partition(&mut scene).await.size_bytes;
    let held = ack_all_but(&scene, &[3, 2_500], MANY).await;
    assert_eq!(held.len(), 2);
    until(&mut scene, "freed", |it| {
        it.kept_messages == 2 && it.log_start_offset > MANY - 1_100 && it.size_bytes < 2 << 20
    })
    .await;
    let left = partition(&mut scene).await.size_bytes;
    println!("{MANY} messages of 1 KiB took {full} bytes; with two that are not done {left}");
    assert!(full > 4 << 20, "{full}");
    let said = scene
        .broker
        .cli
        .run(&["topic", "describe", "jobs"])
        .ok()
        .stdout;
    assert!(said.contains("2 older messages kept aside"), "{said}");
    // It is where it was, for whoever names it and for the group.
    assert!(text_at(&mut scene, 3).await.starts_with(b"3 x"));
    let said = scene.broker.cli.run(&["get", "jobs", "0:3"]).ok().stdout;
    assert!(said.contains("leased"), "{said}");
    let told = lag(&scene);
    assert_eq!(
        (&told["lag_messages"], &told["position"]),
        (&2.into(), &3.into()),
        "{told}"
    );

    // Neither a lease nor an attempt is lost by a kill.
    scene.history.killed();
    scene.broker.process.restart();
    scene.connect().await;
    let retry = Word::Retry {
        after_ms: Some(0),
        error: "no".to_owned(),
    };
    assert_eq!(scene.say(&held[..1], retry).await, [Outcome::Done]);
    let again = scene.some(10).await;
    assert_eq!((again[0].offset, again[0].attempt, again.len()), (3, 2, 1));
    scene.ack(&again).await;
    until(&mut scene, "dropped", |it| it.kept_messages == 1).await;
    let reject = Word::Dead {
        error: "broken".to_owned(),
    };
    assert_eq!(scene.say(&held[1..], reject).await, [Outcome::Done]);
    until(&mut scene, "all free", |it| it.kept_messages == 0).await;
    let export = ["dlq", "export", "jobs/work"];
    let letter = scene.broker.cli.run(&export).ok().stdout;
    assert!(letter.contains("2500 x"), "{letter}");
    let rules = Rules {
        lease_ms: 600_000,
        backoff: Backoff {
            initial_ms: 10,
            max_ms: 10,
            ..RULES.backoff
        },
        ..RULES
    };
    scene.check(rules, None).await;
}

#[tokio::test]
async fn a_seek_finds_what_is_kept_aside_and_a_trim_takes_it() {
    let mut scene = scene(patient()).await;
    publish_many(&mut scene).await;
    let held = ack_all_but(&scene, &[3], MANY).await;
    until(&mut scene, "freed", |it| it.kept_messages == 1).await;
    let start = partition(&mut scene).await.log_start_offset;
    let seek = ["seek", "jobs/work", "--to", "start", "--yes"];
    scene.broker.cli.run(&[&["group"][..], &seek].concat()).ok();
    // The old lease is over; the message is the first again, and then comes what the log has.
    let outcomes = scene.say(&held, Word::Ack).await;
    assert_eq!(outcomes, [Outcome::LeaseLost]);
    let mut again = scene.some(1).await;
    again.extend(scene.some(1).await);
    let offsets: Vec<u64> = again.iter().map(|one| one.offset).collect();
    assert_eq!((offsets, again[0].attempt), (vec![3, start], 1));
    let told = lag(&scene);
    assert_eq!(told["lag_messages"], MANY - start + 1, "{told}");
    assert_eq!(told["position"], 3, "{told}");

    let trim = ["topic", "trim", "jobs", "--all", "--yes"];
    scene.broker.cli.run(&trim).ok();
    until(&mut scene, "trimmed", |it| it.kept_messages == 0).await;
    assert_eq!(lag(&scene)["lag_messages"], 0);
    let missing = scene.broker.cli.run(&["get", "jobs", "0:3"]);
    assert_ne!(missing.code, 0);
    assert!(scene.take(1).await.is_empty());
}

/// Of the only partition.
fn lag(scene: &Scene) -> serde_json::Value {
    let arguments = ["lag", "jobs/work", "--partitions", "-o", "json"];
    let mut told = scene.broker.cli.run(&arguments).ok().json();
    told[0]["partition_list"][0].take()
}

#[tokio::test]
async fn stream_groups_and_windows_hold_what_they_need() {
    let policy = QueuePolicy {
        retain_done: ms(1_500),
        ..patient()
    };
    let mut scene = scene(policy).await;
    let create = ["group", "create", "jobs/audit"];
    scene.broker.cli.run(&create).ok();
    publish_many(&mut scene).await;
    assert!(ack_all_but(&scene, &[], MANY).await.is_empty());
    // Long enough for many looks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let held = partition(&mut scene).await;
    assert_eq!((held.log_start_offset, held.kept_messages), (0, 0));
    assert_eq!((held.held_by.as_str(), held.held_offset), ("audit", 0));
    let seek = ["group", "seek", "jobs/audit", "--to", "end", "--yes"];
    let sought = Instant::now();
    scene.broker.cli.run(&seek).ok();
    let is_free = |it: &PartitionInfo| it.log_start_offset > MANY - 1_100;
    until(&mut scene, "freed", is_free).await;
    assert!(
        sought.elapsed() >= Duration::from_millis(1_400),
        "kept too short"
    );
    let free = partition(&mut scene).await;
    assert_eq!((free.held_by.as_str(), free.kept_messages), ("", 0));
    // A group of which nobody knows what it needs yet needs what comes.
    publish_many(&mut scene).await;
    scene
        .broker
        .cli
        .run(&["group", "seek", "jobs/audit", "--to", "end", "--yes"])
        .ok();
    let held = partition(&mut scene).await;
    assert_eq!((held.held_by.as_str(), held.held_offset), ("work", MANY));
}
