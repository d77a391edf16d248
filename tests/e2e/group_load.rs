//! Consumer groups where it is crowded: seeks while everybody publishes and commits, commits on a
//! full disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aqueduct_proto::v1::{
    Position, PublishRequest, SeekGroupRequest, TrimTopicRequest, position,
    seek_group_request::Target, trim_topic_request::Before,
};
use aqueduct_tests::{
    grpc::{Api, Refused, message},
    member::{Member, open},
};
use bytes::Bytes;
use tonic::Code;

use crate::{
    fixture::Fixture,
    groups::{GROUP, TOPIC, create, lag, positions},
};

const PARTITIONS: u32 = 4;
const SEEKS: u64 = 40;

/// Publishes to every partition until it is told to stop; what each then holds.
async fn publish(mut api: Api, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0;
    while !stop.load(Relaxed) {
        let messages = (0..PARTITIONS * 10).map(|n| message(n % PARTITIONS, "x"));
        let request = PublishRequest {
            topic: TOPIC.to_owned(),
            messages: messages.collect(),
            ..PublishRequest::default()
        };
        let answer = api.publisher.publish(request).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|result| result.error.is_none()));
        count += 10;
    }
    count
}

fn targets(turn: u64) -> Target {
    let to = |kind| Target::To(Position { kind: Some(kind) });
    match turn % 4 {
        0 => to(position::Kind::Start(true)),
        1 => to(position::Kind::End(true)),
        2 => Target::Shift(-7),
        _ => to(position::Kind::TimestampMs(0)),
    }
}

/// Seeks again and again; each answer's places are those that hold then.
async fn seek_about(mut api: Api) {
    for turn in 0..SEEKS {
        let request = SeekGroupRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            target: Some(targets(turn)),
            ..SeekGroupRequest::default()
        };
        let sought = api.groups.seek_group(request).await.unwrap().into_inner();
        assert_eq!(sought.partitions.len(), PARTITIONS as usize);
        for moved in sought.partitions {
            let (old, new) = (moved.old_position.unwrap_or(0), moved.new_position);
            match turn % 4 {
                0 | 3 => assert_eq!(new, 0, "seek {turn}"),
                1 => assert!(new >= old, "seek {turn}: {old} to {new}"),
                _ => assert_eq!(new, old.saturating_sub(7), "seek {turn}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Consumes, and commits with the epochs it knows; refused is only what a seek has overtaken.
async fn consume(api: Api, sought: Arc<AtomicBool>) -> (Member, u64) {
    let mut member = Member::join(&api, open(TOPIC, GROUP)).await;
    let mut fenced = 0;
    while !sought.load(Relaxed) {
        let _ = tokio::time::timeout(Duration::from_millis(10), member.step()).await;
        let held = member.assigned.values().map(|assignment| {
            let partition = assignment.partition;
            (partition, assignment.epoch, member.next[&partition])
        });
        let held: Vec<_> = held.collect();
        if held.is_empty() {
            continue;
        }
        for result in member.commit(held).await {
            if let Some(error) = result.error {
                Refused::from_result(&error).is(Code::FailedPrecondition, "COMMIT_FENCED");
                fenced += 1;
            }
        }
    }
    (member, fenced)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeks_under_load_move_exactly_and_lose_nothing() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, PARTITIONS).await;
    create(&mut api, Duration::from_secs(15)).await;
    let (quiet, sought) = (Arc::default(), Arc::<AtomicBool>::default());
    let publishing = tokio::spawn(publish(broker.api().await, Arc::clone(&quiet)));
    let consuming = tokio::spawn(consume(broker.api().await, sought.clone()));
    while positions(&mut api).await.iter().any(Option::is_none) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seek_about(broker.api().await).await;
    quiet.store(true, Relaxed);
    let count = publishing.await.unwrap();
    sought.store(true, Relaxed);
    let (mut member, fenced) = consuming.await.unwrap();
    println!("{count} messages in each partition, {fenced} commits fenced by {SEEKS} seeks");
    assert!(member.lost.iter().all(|(_, why)| why == "SEEK"));
    // From the start once more: the member gets every message, and its commits count.
    let begin = member.seen.len();
    let lost = member.lost.len();
    let request = SeekGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        target: Some(targets(0)),
        ..SeekGroupRequest::default()
    };
    api.groups.seek_group(request).await.unwrap();
    let moved = lost + PARTITIONS as usize;
    member.until("the seek", |m| m.lost.len() >= moved).await;
    let at_end = |m: &Member| {
        m.next.len() == PARTITIONS as usize && m.next.values().all(|next| *next == count)
    };
    member.until("everything", at_end).await;
    // The records between the seek and its notice are of the assignment before.
    assert!(member.seen.len() - begin >= (count * u64::from(PARTITIONS)) as usize);
    member.commit_all().await;
    let expected = vec![Some(count); PARTITIONS as usize];
    assert_eq!(positions(&mut api).await, expected);
    assert_eq!(lag(&mut api).await.messages, 0);
    broker.assert_serves();
}

/// Publishes values of this size until the disk is full; how many were stored.
async fn fill_up(api: &mut Api, bytes: usize) -> u64 {
    let value = Bytes::from(vec![b'x'; bytes]);
    for stored in 0..20_000 {
        let request = PublishRequest {
            topic: TOPIC.to_owned(),
            messages: vec![message(0, value.clone())],
            ..PublishRequest::default()
        };
        let answer = api.publisher.publish(request).await;
        let is_stored = answer
            .as_ref()
            .is_ok_and(|answer| answer.get_ref().results[0].error.is_none());
        if !is_stored {
            Refused::of_publish(answer).is(Code::ResourceExhausted, "DISK_FULL");
            return stored;
        }
    }
    panic!("the disk is never full");
}

#[tokio::test]
async fn commits_on_a_full_disk_are_refused_and_go_on_when_there_is_room() {
    let mut broker = Fixture::with(&["--disk-limit", "64MiB"]);
    let mut api = broker.api().await;
    api.create(TOPIC, 1).await;
    let mut member = Member::join(&api, open(TOPIC, GROUP)).await;
    let mut stored = 0;
    // Down to the last corner.
    for bytes in [256 << 10, 16 << 10, 1 << 10, 1] {
        stored += fill_up(&mut api, bytes).await;
    }
    member
        .until("all of it", |m| m.next.get(&0) == Some(&stored))
        .await;
    let epoch = member.epoch(0);
    let mut committed = None;
    let refused = loop {
        let next = committed.map_or(1, |position| position + 1);
        assert!(next <= stored, "commits always find room");
        let result = member.commit(vec![(0, epoch, next)]).await.remove(0);
        match result.error {
            None => committed = Some(next),
            Some(error) => break Refused::from_result(&error),
        }
    };
    refused.is(Code::ResourceExhausted, "DISK_FULL");
    assert_eq!(positions(&mut api).await, [committed], "it did not move");
    // Also after a kill, and the member's place is kept by nobody but the log.
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(positions(&mut api).await, [committed]);

    let trim = TrimTopicRequest {
        name: TOPIC.to_owned(),
        partition: Some(0),
        before: Some(Before::Offset(stored - 1)),
        ..TrimTopicRequest::default()
    };
    api.topics.trim_topic(trim).await.unwrap();
    let mut member = Member::join(&api, open(TOPIC, GROUP)).await;
    member
        .until("the last", |m| m.next.get(&0) == Some(&stored))
        .await;
    let mut tries = 0;
    loop {
        let epoch = member.epoch(0);
        let result = member.commit(vec![(0, epoch, stored)]).await.remove(0);
        let Some(error) = result.error else { break };
        Refused::from_result(&error).is(Code::ResourceExhausted, "DISK_FULL");
        tries += 1;
        assert!(tries < 300, "commits do not resume");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(positions(&mut api).await, [Some(stored)]);
    broker.assert_serves();
}
