//! Consumer groups over raw gRPC: members that come back, seeks, pauses, retention, ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aqueduct_proto::v1::{
    CommitRequest, DeleteGroupRequest, DeleteTopicRequest, Group, GroupState, PartitionCommit,
    PauseGroupRequest, Position, PublishRequest, ResumeGroupRequest, SeekGroupRequest, StartPolicy,
    Topic, TrimTopicRequest, UpdateTopicRequest, position, seek_group_request::Target,
    trim_topic_request::Before,
};
use aqueduct_tests::{
    grpc::{Api, Refused, message, refused},
    member::{Member, open},
};
use tonic::Code;

use crate::{
    fixture::Fixture,
    groups::{GROUP, TOPIC, both_until, create, create_with, fill, lag, positions},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// A broker with a topic and so many messages in each partition.
pub(crate) async fn filled(partitions: u32, count: usize) -> (Fixture, Api) {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, partitions).await;
    fill(&mut api, 0..partitions, count).await;
    (broker, api)
}

fn seek(target: Target) -> SeekGroupRequest {
    SeekGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        target: Some(target),
        ..SeekGroupRequest::default()
    }
}

fn to(kind: position::Kind) -> Target {
    Target::To(Position { kind: Some(kind) })
}

async fn trim(api: &mut Api, before: u64) {
    let request = TrimTopicRequest {
        name: TOPIC.to_owned(),
        partition: Some(0),
        before: Some(Before::Offset(before)),
        ..TrimTopicRequest::default()
    };
    api.topics.trim_topic(request).await.unwrap();
}

#[tokio::test]
async fn a_static_member_comes_back_and_fences_its_older_self() {
    let (_broker, api) = filled(4, 5).await;
    let fixed = |instance: &str| {
        let mut opening = open(TOPIC, GROUP);
        opening.instance_id = instance.to_owned();
        opening
    };
    let mut one = Member::join(&api, fixed("a")).await;
    let mut two = Member::join(&api, fixed("b")).await;
    both_until(&mut one, &mut two, "two each", |one, two| {
        one.assigned.len() == 2 && two.assigned.len() == 2
    })
    .await;
    let (mine, theirs) = (one.partitions(), two.assigned.clone());
    let old = one.epoch(mine[0]);
    let mut again = Member::join(&api, fixed("a")).await;
    assert_eq!(again.id, one.id, "the same member");
    again.until("its own", |m| m.partitions() == mine).await;
    let fenced = Refused::from_status(&one.ended().await);
    fenced.is(Code::FailedPrecondition, "MEMBER_FENCED");
    let results = again.commit(vec![(mine[0], old, 1)]).await;
    Refused::from_result(results[0].error.as_ref().unwrap())
        .is(Code::FailedPrecondition, "COMMIT_FENCED");
    again.commit_all().await;
    // Closed in order and started again: nothing moves.
    again.leave().await;
    two.quiet(QUIET).await.unwrap();
    assert_eq!(two.assigned, theirs);
    let mut third = Member::join(&api, fixed("a")).await;
    third.until("its own", |m| m.partitions() == mine).await;
    assert_eq!(two.assigned, theirs);
}

#[tokio::test]
async fn a_broken_stream_keeps_its_partitions_until_the_session_ends() {
    let (broker, mut api) = filled(2, 5).await;
    create(&mut api, 2 * SECOND).await;
    let other = broker.api().await;
    let named = |name: &str| {
        let mut opening = open(TOPIC, GROUP);
        opening.member_id = name.to_owned();
        opening
    };
    let mut one = Member::join(&api, named("one")).await;
    let mut two = Member::join(&other, named("two")).await;
    both_until(&mut one, &mut two, "one each", |one, two| {
        one.assigned.len() == 1 && two.assigned.len() == 1
    })
    .await;
    let (kept, before) = (two.partitions(), one.assigned.clone());
    two.until("records", |m| m.seen.len() >= 5).await;
    two.commit(vec![(kept[0], two.epoch(kept[0]), 3)]).await;
    drop(two);
    let mut again = Member::join(&other, named("two")).await;
    again.until("its own", |m| m.partitions() == kept).await;
    again
        .until("the rest", |m| m.offsets(kept[0]) == [3, 4])
        .await;
    assert_eq!(one.assigned, before, "the other was not touched");
    drop(again);
    // Now it stays away; the other one takes over within the session time-out.
    while one.assigned.len() < 2 {
        one.heartbeat().await;
        one.quiet(Duration::from_millis(100)).await.unwrap();
    }
    one.until("the rest", |m| m.offsets(kept[0]).ends_with(&[3, 4]))
        .await;
    // A member that says nothing loses its place as well, and is told.
    let ended = Refused::from_status(&one.ended().await);
    ended.is(Code::NotFound, "MEMBER_UNKNOWN");
}

#[tokio::test]
async fn a_member_without_credit_disturbs_nobody_and_what_it_holds_back_is_taken() {
    let (_broker, mut api) = filled(2, 50).await;
    create(&mut api, 2 * SECOND).await;
    let mut stuck = Member::try_join(&api, open(TOPIC, GROUP)).await.unwrap();
    stuck.obedient = false;
    stuck.until("both", |m| m.assigned.len() == 2).await;
    let mut other = Member::join(&api, open(TOPIC, GROUP)).await;
    stuck.until("asked back", |m| m.revoking.len() == 1).await;
    let asked = stuck.revoking[0];
    while other.assigned.is_empty() {
        stuck.heartbeat().await;
        other.heartbeat().await;
        other.quiet(Duration::from_millis(100)).await.unwrap();
    }
    stuck.until("lost", |m| !m.lost.is_empty()).await;
    assert_eq!(stuck.lost, [(asked, "REVOKED".to_owned())]);
    other.until("records", |m| m.seen.len() == 50).await;
    assert!(stuck.seen.is_empty(), "nothing comes without credit");
    stuck.credit(7, 1 << 20).await;
    stuck.until("seven", |m| m.seen.len() == 7).await;
    stuck.quiet(QUIET).await.unwrap();
    assert_eq!(stuck.seen.len(), 7);
}

#[tokio::test]
async fn a_group_is_moved_while_it_runs() {
    let (_broker, mut api) = filled(2, 20).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("all", |m| m.seen.len() == 40).await;
    one.commit_all().await;
    let preview = SeekGroupRequest {
        validate_only: true,
        ..seek(Target::Shift(-5))
    };
    let sought = api.groups.seek_group(preview).await.unwrap().into_inner();
    let found = sought.partitions.iter();
    let found: Vec<_> = found.map(|p| (p.old_position, p.new_position)).collect();
    assert_eq!(found, [(Some(20), 15), (Some(20), 15)]);
    assert_eq!(
        positions(&mut api).await,
        [Some(20), Some(20)],
        "a preview moves nothing"
    );

    let old = one.epoch(1);
    let request = SeekGroupRequest {
        partitions: vec![1],
        ..seek(to(position::Kind::Offset(15)))
    };
    api.groups.seek_group(request).await.unwrap();
    one.until("again", |m| m.seen.len() == 45).await;
    assert_eq!(one.lost, [(1, "SEEK".to_owned())]);
    assert_eq!(one.offsets(1)[20..], [15, 16, 17, 18, 19]);
    let results = one.commit(vec![(1, old, 20)]).await;
    Refused::from_result(results[0].error.as_ref().unwrap())
        .is(Code::FailedPrecondition, "COMMIT_FENCED");
    assert_eq!(positions(&mut api).await, [Some(20), Some(15)]);

    let everywhere = seek(to(position::Kind::Offset(3)));
    refused(
        api.groups.seek_group(everywhere).await,
        Code::InvalidArgument,
        "INVALID_ARGUMENT",
    );
    let beyond = SeekGroupRequest {
        partitions: vec![0],
        ..seek(to(position::Kind::Offset(21)))
    };
    refused(
        api.groups.seek_group(beyond).await,
        Code::OutOfRange,
        "OFFSET_OUT_OF_RANGE",
    );
    // Another group takes the positions over.
    let copy = SeekGroupRequest {
        group: "copy".to_owned(),
        ..seek(Target::FromGroup(GROUP.to_owned()))
    };
    let copied = Group {
        name: "copy".to_owned(),
        ..Group::default()
    };
    create_with(&mut api, copied).await;
    let sought = api.groups.seek_group(copy).await.unwrap().into_inner();
    let found: Vec<_> = sought.partitions.iter().map(|p| p.new_position).collect();
    assert_eq!(found, [20, 15]);
}

#[tokio::test]
async fn a_pause_holds_everything_back_and_ends_by_itself() {
    let (_broker, mut api) = filled(1, 5).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("all", |m| m.seen.len() == 5).await;
    let mut pause = PauseGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        ..PauseGroupRequest::default()
    };
    let paused = api.groups.pause_group(pause.clone()).await;
    let paused = paused.unwrap().into_inner();
    assert_eq!(
        (paused.state(), paused.paused_until),
        (GroupState::Paused, None)
    );
    one.quiet(QUIET).await.unwrap();
    fill(&mut api, 0..1, 5).await;
    one.quiet(QUIET).await.unwrap();
    assert_eq!(one.seen.len(), 5, "paused");
    // Commits are taken all the same.
    one.commit_all().await;
    let resume = ResumeGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        validate_only: false,
    };
    api.groups.resume_group(resume).await.unwrap();
    one.until("resumed", |m| m.seen.len() == 10).await;
    pause.duration = Some(SECOND.try_into().unwrap());
    let paused = api.groups.pause_group(pause).await.unwrap().into_inner();
    assert!(paused.paused_until.is_some());
    one.quiet(QUIET).await.unwrap();
    fill(&mut api, 0..1, 5).await;
    one.until("resumed by itself", |m| m.seen.len() == 15).await;
}

#[tokio::test]
async fn deleted_groups_and_topics_end_their_members() {
    let (_broker, mut api) = filled(2, 5).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("all", |m| m.seen.len() == 10).await;
    one.commit_all().await;
    let delete = DeleteGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        validate_only: false,
    };
    let refusal = refused(
        api.groups.delete_group(delete.clone()).await,
        Code::FailedPrecondition,
        "GROUP_NOT_EMPTY",
    );
    assert_eq!(refusal.number("members"), 1);
    one.leave().await;
    api.groups.delete_group(delete.clone()).await.unwrap();
    let missing = api.groups.delete_group(delete).await;
    refused(missing, Code::NotFound, "GROUP_NOT_FOUND");
    let mut again = open(TOPIC, GROUP);
    again.must_exist = true;
    let refusal = Member::try_join(&api, again).await.map(|m| m.id);
    refused(refusal, Code::NotFound, "GROUP_NOT_FOUND");
    // A new group of the name starts from nothing.
    let mut two = Member::join(&api, open(TOPIC, GROUP)).await;
    two.until("all again", |m| m.seen.len() == 10).await;
    let delete = DeleteTopicRequest {
        name: TOPIC.to_owned(),
        validate_only: false,
    };
    api.topics.delete_topic(delete).await.unwrap();
    let ended = Refused::from_status(&two.ended().await);
    ended.is(Code::NotFound, "TOPIC_NOT_FOUND");
}

#[tokio::test]
async fn retention_that_overtakes_a_group_is_told_by_its_policy() {
    for (overrun, expected) in [
        (StartPolicy::Earliest, Some((4, 8))),
        (StartPolicy::Latest, Some((4, 10))),
        (StartPolicy::Error, None),
    ] {
        let (_broker, mut api) = filled(1, 10).await;
        let group = Group {
            name: GROUP.to_owned(),
            overrun: overrun as i32,
            ..Group::default()
        };
        create_with(&mut api, group).await;
        let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
        one.until("all", |m| m.seen.len() == 10).await;
        one.commit(vec![(0, one.epoch(0), 4)]).await;
        one.leave().await;
        trim(&mut api, 8).await;
        assert_eq!(lag(&mut api).await.messages, 2, "what is kept");
        let mut two = Member::join(&api, open(TOPIC, GROUP)).await;
        if let Some((from, end)) = expected {
            two.until("assigned", |m| m.assigned.len() == 1).await;
            let skipped = two.assigned[&0].skipped.unwrap();
            assert_eq!((skipped.from, skipped.to), (from, end));
            assert_eq!(two.assigned[&0].position, end);
        } else {
            two.until("lost", |m| !m.lost.is_empty()).await;
            assert_eq!(two.lost, [(0, "OVERRUN".to_owned())]);
            two.quiet(QUIET).await.unwrap();
            assert!(two.seen.is_empty());
            api.groups
                .seek_group(seek(to(position::Kind::Start(true))))
                .await
                .unwrap();
            two.until("sought", |m| m.seen.len() == 2).await;
        }
    }
}

#[tokio::test]
async fn a_member_that_stands_still_is_told_when_it_is_overtaken() {
    let (_broker, mut api) = filled(1, 10).await;
    let mut one = Member::try_join(&api, open(TOPIC, GROUP)).await.unwrap();
    one.credit(3, 1 << 20).await;
    one.until("three", |m| m.seen.len() == 3).await;
    trim(&mut api, 8).await;
    one.credit(100, 1 << 20).await;
    one.until("told", |m| !m.lost.is_empty()).await;
    one.until("the rest", |m| m.seen.len() == 5).await;
    assert_eq!(one.lost, [(0, "OVERRUN".to_owned())]);
    assert_eq!(one.offsets(0), [0, 1, 2, 8, 9]);
    let skipped = one.assigned[&0].skipped.unwrap();
    assert_eq!((skipped.from, skipped.to), (3, 8));
}

#[tokio::test]
async fn a_group_that_starts_at_the_end_is_pinned_at_its_creation() {
    let (_broker, mut api) = filled(2, 10).await;
    let group = Group {
        name: GROUP.to_owned(),
        start: StartPolicy::Latest as i32,
        ..Group::default()
    };
    create_with(&mut api, group).await;
    fill(&mut api, 0..2, 3).await;
    assert_eq!(positions(&mut api).await, [Some(10), Some(10)]);
    assert_eq!(lag(&mut api).await.messages, 6);
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("what came since", |m| m.seen.len() == 6).await;
    assert_eq!(one.offsets(0), [10, 11, 12]);
    // Partitions that are added are consumed from their first message.
    let request = UpdateTopicRequest {
        topic: Some(Topic {
            name: TOPIC.to_owned(),
            partitions: 3,
            ..Topic::default()
        }),
        ..UpdateTopicRequest::default()
    };
    api.topics.update_topic(request).await.unwrap();
    fill(&mut api, 2..3, 4).await;
    one.until("the new one", |m| m.offsets(2).len() == 4).await;
    assert_eq!(one.offsets(2), [0, 1, 2, 3]);
    // Without a position and by the policy ERROR nothing is delivered.
    let refusing = Group {
        name: "strict".to_owned(),
        start: StartPolicy::Error as i32,
        ..Group::default()
    };
    create_with(&mut api, refusing).await;
    let mut strict = Member::join(&api, open(TOPIC, "strict")).await;
    strict.until("told", |m| m.lost.len() == 3).await;
    assert!(strict.lost.iter().all(|(_, why)| why == "NO_POSITION"));
}

#[tokio::test]
async fn lag_is_exact_in_messages_and_seconds() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, 1).await;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = i64::try_from(now_ms.as_millis()).unwrap();
    let messages = [1_000, 500, 100].map(|age_s: i64| {
        let mut message = message(0, "x");
        message.timestamp_ms = Some(now_ms - age_s * 1_000);
        message
    });
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages: messages.to_vec(),
        ..PublishRequest::default()
    };
    api.publisher.publish(request).await.unwrap();
    create(&mut api, 15 * SECOND).await;
    for (position, age_s) in [(0, 1_000.0), (1, 500.0), (2, 100.0), (3, 0.0)] {
        let commit = CommitRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            commits: vec![PartitionCommit {
                partition: 0,
                epoch: 0,
                offset: position,
            }],
            ..CommitRequest::default()
        };
        let answer = api.consumer.commit(commit).await.unwrap().into_inner();
        assert_eq!(answer.results[0].error, None);
        let lag = lag(&mut api).await;
        assert_eq!(lag.messages, 3 - position);
        let late = lag.seconds - age_s;
        assert!((0.0..60.0).contains(&late), "{} for {age_s}", lag.seconds);
        assert_eq!(lag.partitions[0].position, Some(position));
        assert!(lag.partitions[0].commit_time.is_some());
    }
}
