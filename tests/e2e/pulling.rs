//! Members that pull: single calls, waiting, calls at the same time, answers that are lost.

use std::{collections::BTreeMap, os::unix::fs::FileExt as _, path::Path, time::Duration};

use aqueduct_proto::v1::{
    CommitRequest, LeaveRequest, PartitionCommit, PublishRequest, PullRequest, PullResponse,
};
use aqueduct_tests::{
    grpc::{Refused, message, refused},
    member::{Member, open},
};
use tonic::Code;

use crate::{
    group_life::{QUIET, SECOND, filled},
    groups::{GROUP, TOPIC, create, fill, lag},
};

fn pull(member: &str) -> PullRequest {
    PullRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        member_id: member.to_owned(),
        max_messages: 4,
        wait: Some(Duration::from_secs(20).try_into().unwrap()),
        ..PullRequest::default()
    }
}

fn pulled(answer: &PullResponse) -> Vec<u64> {
    answer.records.iter().map(|record| record.offset).collect()
}

#[tokio::test]
async fn a_pull_that_waits_longer_than_the_session_is_a_sign_of_life() {
    let (_broker, mut api) = filled(1, 1).await;
    create(&mut api, SECOND).await;
    let first = api.consumer.pull(pull("")).await.unwrap().into_inner();
    assert_eq!(pulled(&first), [0]);
    let mut waiting = pull(&first.member_id);
    waiting.wait = Some((3 * SECOND).try_into().unwrap());
    let answer = api.consumer.pull(waiting).await.unwrap().into_inner();
    assert!(pulled(&answer).is_empty());
    assert_eq!(answer.assignments[0].epoch, first.assignments[0].epoch);
}

/// What arrived: by partition, in order, each message once.
#[derive(Default)]
struct Arrived {
    next: BTreeMap<u32, u64>,
    /// The last answer.
    answer: u64,
}

impl Arrived {
    fn take(&mut self, answer: &PullResponse) {
        for record in &answer.records {
            let next = self.next.entry(record.partition).or_default();
            assert_eq!(record.offset, *next, "partition {}", record.partition);
            *next += 1;
        }
        self.answer = answer.answer;
    }

    fn count(&self) -> u64 {
        self.next.values().sum()
    }
}

/// Every second answer never arrives: the member says which one did, and misses nothing,
/// although it commits whatever it stands at.
#[tokio::test]
async fn a_lost_answer_is_given_again() {
    let (mut broker, mut api) = filled(2, 20).await;
    let mut arrived = Arrived::default();
    for wanted in [40, 50] {
        let mut turn = 0;
        while arrived.count() < wanted {
            let asked = PullRequest {
                received: Some(arrived.answer),
                ..pull("me")
            };
            let answer = api.consumer.pull(asked).await.unwrap().into_inner();
            assert!(answer.answer != 0 && answer.answer != arrived.answer);
            assert!(answer.records.len() <= 4);
            turn += 1;
            if turn % 2 == 1 {
                continue;
            }
            arrived.take(&answer);
            let commits = answer.assignments.iter().map(|it| PartitionCommit {
                partition: it.partition,
                epoch: it.epoch,
                offset: it.position,
            });
            let commit = CommitRequest {
                topic: TOPIC.to_owned(),
                group: GROUP.to_owned(),
                member_id: "me".to_owned(),
                commits: commits.collect(),
            };
            let answer = api.consumer.commit(commit).await.unwrap().into_inner();
            assert!(answer.results.iter().all(|it| it.error.is_none()));
        }
        assert_eq!(lag(&mut api).await.messages, 0);
        // The number of an answer before the restart means nothing to the session after it.
        fill(&mut api, 0..2, 5).await;
        broker.process.restart();
        api = broker.api().await;
    }
    assert_eq!(arrived.count(), 50);
}

/// What was read before a place that is damaged is not lost with the answer that held it.
#[tokio::test]
async fn a_lost_answer_is_given_again_also_before_damage() {
    let (mut broker, mut api) = filled(1, 4).await;
    let bad = "what will not be read again";
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages: vec![message(0, bad)],
        ..PublishRequest::default()
    };
    api.publisher.publish(request).await.unwrap();
    broker.process.restart();
    let mut api = broker.api().await;
    // The partition is claimed, which needs a log without damage.
    let asked = |received| PullRequest {
        received: Some(received),
        max_messages: 100,
        ..pull("me")
    };
    let mut none = asked(0);
    none.max_messages = 1;
    let first = api.consumer.pull(none).await.unwrap().into_inner();
    assert_eq!(pulled(&first), [0]);
    garble(broker.process.data(), bad.as_bytes());
    for _ in 0..3 {
        let answer = api.consumer.pull(asked(first.answer)).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(pulled(&answer), [1, 2, 3], "as often as it is lost");
    }
    let arrived = api.consumer.pull(asked(first.answer)).await;
    let arrived = arrived.unwrap().into_inner();
    assert_eq!(pulled(&arrived), [1, 2, 3]);
    let behind = api.consumer.pull(asked(arrived.answer)).await;
    let behind = refused(behind, Code::DataLoss, "DATA_DAMAGED");
    assert_eq!(behind.number("offset"), 4);
}

/// Overwrites a byte of this wherever it lies below the directory.
fn garble(directory: &Path, what: &[u8]) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            garble(&path, what);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(what.len()).position(|at| at == what);
        if let Some(at) = found {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"~", at as u64).unwrap();
        }
    }
}

/// An answer that was made again holds what arrived before: what is committed is not given a
/// third time.
#[tokio::test]
async fn an_answer_is_not_given_again_below_the_commit() {
    let (_broker, mut api) = filled(1, 12).await;
    let asked = |received| PullRequest {
        received: Some(received),
        ..pull("me")
    };
    let first = api.consumer.pull(asked(0)).await.unwrap().into_inner();
    assert_eq!(pulled(&first), [0, 1, 2, 3]);
    // A call from before the first answer arrived.
    let late = api.consumer.pull(asked(0)).await.unwrap().into_inner();
    assert_eq!(pulled(&late), [0, 1, 2, 3]);
    let mut next = asked(first.answer);
    next.commits = vec![PartitionCommit {
        partition: 0,
        epoch: first.assignments[0].epoch,
        offset: 3,
    }];
    let next = api.consumer.pull(next).await.unwrap().into_inner();
    assert_eq!(next.commit_results[0].error, None);
    assert_eq!(pulled(&next), [3, 4, 5, 6]);
}

/// Whoever does not count answers has them all, whatever became of them.
#[tokio::test]
async fn without_numbers_every_answer_counts() {
    let (_broker, mut api) = filled(1, 8).await;
    let first = api.consumer.pull(pull("me")).await.unwrap().into_inner();
    let second = api.consumer.pull(pull("me")).await.unwrap().into_inner();
    assert_eq!((pulled(&first).len(), pulled(&second)[0]), (4, 4));
}

#[tokio::test]
async fn pulling_is_consuming_by_single_calls() {
    let (_broker, mut api) = filled(1, 10).await;
    let first = api.consumer.pull(pull("")).await.unwrap().into_inner();
    assert_eq!(pulled(&first), [0, 1, 2, 3]);
    let id = first.member_id.clone();
    assert_eq!(first.assignments[0].position, 4);
    let epoch = first.assignments[0].epoch;
    let commit = |offset| PartitionCommit {
        partition: 0,
        epoch,
        offset,
    };
    let mut next = pull(&id);
    next.commits = vec![commit(4), commit(3)];
    let second = api.consumer.pull(next).await.unwrap().into_inner();
    assert_eq!(pulled(&second), [4, 5, 6, 7]);
    assert_eq!(second.commit_results[0].error, None);
    Refused::from_result(second.commit_results[1].error.as_ref().unwrap())
        .is(Code::FailedPrecondition, "COMMIT_BACKWARDS");
    // A second member gets the partition nowhere: there is only one, and it waits.
    let third = api.consumer.pull(pull(&id)).await.unwrap().into_inner();
    assert_eq!(pulled(&third), [8, 9]);
    // Waiting is ended by a publish.
    let mut waiting = api.clone();
    let asked = pull(&id);
    let waiter = tokio::spawn(async move { waiting.consumer.pull(asked).await });
    tokio::time::sleep(QUIET).await;
    fill(&mut api, 0..1, 1).await;
    let woken = waiter.await.unwrap().unwrap().into_inner();
    assert_eq!(pulled(&woken), [10]);
    // Of two calls at a time the older one is answered with nothing.
    let mut waiting = api.clone();
    let asked = pull(&id);
    let older = tokio::spawn(async move { waiting.consumer.pull(asked).await });
    tokio::time::sleep(QUIET).await;
    let mut newer = pull(&id);
    newer.wait = None;
    assert!(pulled(api.consumer.pull(newer).await.unwrap().get_ref()).is_empty());
    assert!(pulled(older.await.unwrap().unwrap().get_ref()).is_empty());

    let leave = LeaveRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        member_id: id.clone(),
    };
    api.consumer.leave(leave.clone()).await.unwrap();
    let gone = api.consumer.leave(leave).await;
    refused(gone, Code::NotFound, "MEMBER_UNKNOWN");
    let late = CommitRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        member_id: id.clone(),
        commits: vec![commit(8)],
    };
    let late = api.consumer.commit(late).await;
    refused(late, Code::NotFound, "MEMBER_UNKNOWN");
    // What was not committed comes again, to a stream as well.
    let mut stream = Member::join(&api, open(TOPIC, GROUP)).await;
    stream.until("the rest", |m| m.seen.len() == 7).await;
    assert_eq!(stream.offsets(0)[0], 4);
}
