//! Consumer groups over raw gRPC: sharing, joining, leaving, coming back.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateGroupRequest, GetGroupRequest, GetLagRequest, GetLagResponse, Group, GroupState,
    ListMembersRequest, PublishRequest,
};
use aqueduct_tests::{
    grpc::{Api, Refused, message},
    member::{Member, open},
};
use tonic::Code;

use crate::fixture::Fixture;

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "bill";

/// Publishes so many messages to each of the partitions.
pub(crate) async fn fill(api: &mut Api, partitions: std::ops::Range<u32>, count: usize) {
    for partition in partitions {
        let messages = (0..count).map(|n| message(partition, n.to_string()));
        let request = PublishRequest {
            topic: TOPIC.to_owned(),
            messages: messages.collect(),
            ..PublishRequest::default()
        };
        let answer = api.publisher.publish(request).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|result| result.error.is_none()));
    }
}

/// Creates the group with a session time-out.
pub(crate) async fn create(api: &mut Api, session: Duration) -> Group {
    let group = Group {
        name: GROUP.to_owned(),
        session_timeout: Some(session.try_into().unwrap()),
        ..Group::default()
    };
    create_with(api, group).await
}

pub(crate) async fn create_with(api: &mut Api, group: Group) -> Group {
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    let created = api.groups.create_group(request).await;
    created.unwrap().into_inner()
}

pub(crate) async fn lag(api: &mut Api) -> GetLagResponse {
    let request = GetLagRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    api.groups.get_lag(request).await.unwrap().into_inner()
}

/// The committed positions.
pub(crate) async fn positions(api: &mut Api) -> Vec<Option<u64>> {
    let lag = lag(api).await;
    lag.partitions.iter().map(|p| p.position).collect()
}

async fn state(api: &mut Api) -> (GroupState, u32) {
    let request = GetGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let group = api.groups.get_group(request).await.unwrap().into_inner();
    (group.state(), group.members)
}

/// Both take answers until that is so of them together.
pub(crate) async fn both_until(
    a: &mut Member,
    b: &mut Member,
    what: &str,
    is_so: impl Fn(&Member, &Member) -> bool,
) {
    while !is_so(a, b) {
        tokio::select! {
            ended = a.step() => assert!(ended.is_ok(), "{} ended before {what}: {ended:?}", a.id),
            ended = b.step() => assert!(ended.is_ok(), "{} ended before {what}: {ended:?}", b.id),
        }
    }
}

#[tokio::test]
async fn two_share_a_third_takes_its_part_and_leaving_gives_it_back() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, 6).await;
    fill(&mut api, 0..6, 10).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    assert!(one.created);
    one.until("all records", |m| m.seen.len() == 60).await;
    one.until("caught up", |m| m.caught_up.len() == 6).await;
    one.commit_all().await;
    assert_eq!(state(&mut api).await, (GroupState::Stable, 1));

    let mut two = Member::join(&api, open(TOPIC, GROUP)).await;
    assert!(!two.created);
    both_until(&mut one, &mut two, "three each", |one, two| {
        one.assigned.len() == 3 && two.assigned.len() == 3
    })
    .await;
    let kept: Vec<_> = one.assigned.values().cloned().collect();
    fill(&mut api, 0..6, 5).await;
    both_until(&mut one, &mut two, "the new ones", |one, two| {
        one.seen.len() == 60 + 15 && two.seen.len() == 15
    })
    .await;
    one.commit_all().await;
    two.commit_all().await;

    let mut three = Member::join(&api, open(TOPIC, GROUP)).await;
    both_until(&mut one, &mut two, "two each", |one, two| {
        one.assigned.len() == 2 && two.assigned.len() == 2
    })
    .await;
    // What stayed was not touched: same epochs, nothing lost.
    for assignment in one.assigned.values() {
        assert!(kept.contains(assignment), "{assignment:?} was interrupted");
    }
    three.until("two", |m| m.assigned.len() == 2).await;
    assert!(one.lost.is_empty() && two.lost.is_empty());
    fill(&mut api, 0..6, 1).await;
    three.until("records", |m| m.seen.len() == 2).await;
    assert!(three.seen.iter().all(|(_, offset)| *offset == 15));

    let request = ListMembersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let members = api.groups.list_members(request).await.unwrap().into_inner();
    let mut all: Vec<u32> = members
        .members
        .iter()
        .flat_map(|member| member.partitions.clone())
        .collect();
    all.sort_unstable();
    assert_eq!((members.members.len(), all), (3, vec![0, 1, 2, 3, 4, 5]));

    three.commit_all().await;
    three.leave().await;
    both_until(&mut one, &mut two, "three each again", |one, two| {
        one.assigned.len() == 3 && two.assigned.len() == 3
    })
    .await;
    both_until(&mut one, &mut two, "the last", |one, two| {
        one.next
            .values()
            .chain(two.next.values())
            .all(|next| *next == 16)
    })
    .await;
    one.commit_all().await;
    two.commit_all().await;
    let lag = lag(&mut api).await;
    assert_eq!((lag.messages, lag.seconds), (0, 0.0));
    one.leave().await;
    two.leave().await;
    assert_eq!(state(&mut api).await, (GroupState::Empty, 0));
}

#[tokio::test]
async fn what_is_not_committed_comes_again() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, 1).await;
    fill(&mut api, 0..1, 10).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("records", |m| m.seen.len() == 10).await;
    let epoch = one.epoch(0);
    let result = one.commit(vec![(0, epoch, 4)]).await;
    assert_eq!((result[0].position, &result[0].error), (4, &None));
    one.leave().await;
    let mut two = Member::join(&api, open(TOPIC, GROUP)).await;
    two.until("records", |m| m.seen.len() == 6).await;
    assert_eq!(two.offsets(0), (4..10).collect::<Vec<_>>());
    assert!(two.epoch(0) > epoch);
}

#[tokio::test]
async fn commits_are_refused_with_the_reason() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, 2).await;
    fill(&mut api, 0..2, 10).await;
    let mut one = Member::join(&api, open(TOPIC, GROUP)).await;
    one.until("records", |m| m.seen.len() == 20).await;
    let (first, second) = (one.epoch(0), one.epoch(1));
    one.commit(vec![(0, first, 5), (1, second, 5)]).await;
    let results = one
        .commit(vec![
            (0, first, 4),
            (0, first, 5),
            (0, first, 11),
            (0, first + 1, 6),
            (2, 1, 1),
            (1, second, 10),
        ])
        .await;
    let refusal = |n: usize| Refused::from_result(results[n].error.as_ref().unwrap());
    refusal(0).is(Code::FailedPrecondition, "COMMIT_BACKWARDS");
    assert_eq!(
        (refusal(0).number("offset"), refusal(0).number("position")),
        (4, 5)
    );
    assert_eq!(results[1].error, None);
    refusal(2).is(Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    refusal(3).is(Code::FailedPrecondition, "COMMIT_FENCED");
    refusal(4).is(Code::NotFound, "PARTITION_NOT_FOUND");
    assert_eq!((results[5].position, &results[5].error), (10, &None));

    // A partition of another member; and one that was given away.
    let mut two = Member::join(&api, open(TOPIC, GROUP)).await;
    both_until(&mut one, &mut two, "one each", |one, two| {
        one.assigned.len() == 1 && two.assigned.len() == 1
    })
    .await;
    let (mine, gone) = (one.partitions()[0], two.partitions()[0]);
    let old = if gone == 0 { first } else { second };
    let results = one
        .commit(vec![(gone, old, 9), (gone, two.epoch(gone), 9)])
        .await;
    let refusal = |n: usize| Refused::from_result(results[n].error.as_ref().unwrap());
    refusal(0).is(Code::FailedPrecondition, "COMMIT_FENCED");
    refusal(1).is(Code::FailedPrecondition, "NOT_ASSIGNED");
    let results = two.commit(vec![(mine, 0, 1)]).await;
    Refused::from_result(results[0].error.as_ref().unwrap())
        .is(Code::FailedPrecondition, "NOT_ASSIGNED");
}
