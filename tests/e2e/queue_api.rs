//! A queue group and what a test does with it, over raw gRPC.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateGroupRequest, Delivery, DescribeQueueRequest, DescribeQueueResponse, GetLagRequest,
    GetLagResponse, GetStandingsRequest, Group, InFlight, LeaseRequest, ListInFlightRequest,
    MessageCounts, MessageStanding, Position, PublishRequest, QueuePolicy, RetryVerdict,
    SeekGroupRequest, SettleRequest, Settlement, UnparkKeysRequest, UpdateGroupRequest,
    position::Kind, seek_group_request::Target, settlement::Verdict, unpark_keys_request::Which,
};
use aqueduct_tests::grpc::{Api, Refused, message};
use tonic::Status;

use crate::fixture::Fixture;

pub(crate) const TOPIC: &str = "jobs";
pub(crate) const GROUP: &str = "work";
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A queue group of its own topic.
pub(crate) struct Queue(pub(crate) Api);

impl Queue {
    pub(crate) async fn new(broker: &Fixture, policy: QueuePolicy, partitions: u32) -> Queue {
        let mut queue = Queue(broker.api().await);
        queue.0.create(TOPIC, partitions).await;
        queue.create(policy).await.unwrap();
        queue
    }

    pub(crate) async fn create(&mut self, policy: QueuePolicy) -> Result<Group, Status> {
        let group = Group {
            name: GROUP.into(),
            queue: Some(policy),
            ..Group::default()
        };
        let request = CreateGroupRequest {
            topic: TOPIC.into(),
            group: Some(group),
            validate_only: false,
        };
        let created = self.0.groups.create_group(request).await;
        created.map(tonic::Response::into_inner)
    }

    pub(crate) async fn update(
        &mut self,
        policy: Option<QueuePolicy>,
        mask: &[&str],
    ) -> Result<Group, Status> {
        let group = Group {
            name: GROUP.into(),
            queue: policy,
            ..Group::default()
        };
        let paths = mask.iter().map(|&path| path.to_owned()).collect();
        let request = UpdateGroupRequest {
            topic: TOPIC.into(),
            group: Some(group),
            update_mask: Some(prost_types::FieldMask { paths }),
            validate_only: false,
        };
        let updated = self.0.groups.update_group(request).await;
        updated.map(tonic::Response::into_inner)
    }

    pub(crate) async fn publish(
        &mut self,
        partition: u32,
        key: Option<&str>,
        values: std::ops::Range<u32>,
    ) {
        let messages = values.map(|n| aqueduct_proto::v1::Message {
            key: key.map(|key| key.to_owned().into()),
            ..message(partition, n.to_string())
        });
        let request = PublishRequest {
            topic: TOPIC.into(),
            messages: messages.collect(),
            ..PublishRequest::default()
        };
        let answer = self.0.publisher.publish(request).await.unwrap();
        let results = answer.into_inner().results;
        assert!(results.iter().all(|result| result.error.is_none()));
    }

    pub(crate) async fn lease(&mut self, messages: u32, wait: Duration) -> Vec<Delivery> {
        let request = LeaseRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
            max_messages: messages,
            wait: wait.try_into().ok(),
            client_id: "worker-7".into(),
            ..LeaseRequest::default()
        };
        let leased = self.0.queues.lease(request).await;
        leased.unwrap().into_inner().deliveries
    }

    /// Exactly so many.
    pub(crate) async fn some(&mut self, messages: usize) -> Vec<Delivery> {
        let mut leased = Vec::new();
        while leased.len() < messages {
            let left = u32::try_from(messages - leased.len()).unwrap();
            let more = self.lease(left, LONG).await;
            assert!(!more.is_empty(), "only {} came in time", leased.len());
            leased.extend(more);
        }
        leased
    }

    /// The reason of the refusal, if it was refused.
    pub(crate) async fn settle(&mut self, delivery: &Delivery, verdict: Verdict) -> Option<String> {
        let record = delivery.record.as_ref().unwrap();
        let request = SettleRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
            settlements: vec![Settlement {
                partition: record.partition,
                offset: record.offset,
                lease: delivery.lease,
                verdict: Some(verdict),
            }],
        };
        let settled = self.0.queues.settle(request).await.unwrap();
        let result = settled.into_inner().results.remove(0);
        result
            .error
            .map(|error| Refused::from_result(&error).reason)
    }

    pub(crate) async fn seek(&mut self, to: Kind, dry: bool) -> Vec<(Option<u64>, u64)> {
        let request = SeekGroupRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
            target: Some(Target::To(Position { kind: Some(to) })),
            validate_only: dry,
            ..SeekGroupRequest::default()
        };
        let sought = self.0.groups.seek_group(request).await.unwrap();
        let partitions = sought.into_inner().partitions;
        let moved = partitions.iter().map(|p| (p.old_position, p.new_position));
        moved.collect()
    }

    pub(crate) async fn lag(&mut self) -> GetLagResponse {
        let request = GetLagRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
        };
        self.0.groups.get_lag(request).await.unwrap().into_inner()
    }

    pub(crate) async fn describe(&mut self) -> DescribeQueueResponse {
        let request = DescribeQueueRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
        };
        let described = self.0.groups.describe_queue(request).await;
        described.unwrap().into_inner()
    }

    pub(crate) async fn counts(&mut self) -> MessageCounts {
        self.describe().await.counts.unwrap()
    }

    pub(crate) async fn in_flight(&mut self, size: u32, token: &str) -> (Vec<InFlight>, String) {
        let request = ListInFlightRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
            page_size: size,
            page_token: token.into(),
        };
        let page = self.0.groups.list_in_flight(request).await;
        let page = page.unwrap().into_inner();
        (page.messages, page.next_page_token)
    }

    pub(crate) async fn standing(&mut self, offset: u64) -> MessageStanding {
        let request = GetStandingsRequest {
            topic: TOPIC.into(),
            partition: 0,
            offset,
        };
        let found = self.0.groups.get_standings(request).await.unwrap();
        let mut standings = found.into_inner().standings;
        assert_eq!(standings.len(), 1);
        standings.remove(0)
    }

    pub(crate) async fn unpark(&mut self, which: Option<Which>) -> Result<u64, Status> {
        let request = UnparkKeysRequest {
            topic: TOPIC.into(),
            group: GROUP.into(),
            which,
            validate_only: false,
        };
        let unparked = self.0.groups.unpark_keys(request).await;
        unparked.map(|unparked| unparked.into_inner().unparked)
    }
}

pub(crate) fn retry(after_ms: u64, error: &str) -> Verdict {
    Verdict::Retry(RetryVerdict {
        after: Duration::from_millis(after_ms).try_into().ok(),
        error: error.to_owned(),
    })
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) fn value(delivery: &Delivery) -> String {
    let value = delivery.record.as_ref().unwrap().value.clone();
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}
