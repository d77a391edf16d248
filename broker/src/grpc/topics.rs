//! `aqueduct.v1.Topics`.

use std::sync::Arc;

use aqueduct_proto::v1::{
    self, CreateTopicRequest, DeleteTopicRequest, DeleteTopicResponse, GetTopicRequest,
    ListPartitionsRequest, ListPartitionsResponse, ListTopicsRequest, ListTopicsResponse,
    PartitionInfo, Retain, TimestampKind, TrimTopicRequest, TrimTopicResponse, TrimmedPartition,
    UpdateTopicRequest, trim_topic_request::Before,
};
use prost_types::{Duration, Timestamp};
use tonic::{Request, Response, Status};

use super::status::{duration_ms, status};
use crate::{
    error::Refusal,
    limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE},
    metadata::state::{Topic, TopicConfig},
    partition::Place,
    services::Services,
    topics::{NewTopic, TopicChange, TrimTo},
};

pub(super) struct Topics(Arc<Services>);

impl Topics {
    pub(super) fn new(services: Arc<Services>) -> Topics {
        Topics(services)
    }
}

pub(super) fn encode_duration(ms: u64) -> Duration {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    Duration {
        seconds,
        nanos: i32::try_from(ms % 1_000).unwrap_or(0) * 1_000_000,
    }
}

pub(super) fn encode_time(ms: i64) -> Timestamp {
    // The years 1 to 9999: beyond, a time cannot be said in JSON, and headers can claim anything.
    let ms = ms.clamp(-62_135_596_800_000, 253_402_300_799_999);
    let nanos = i32::try_from(ms.rem_euclid(1_000)).unwrap_or(0) * 1_000_000;
    Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos,
    }
}

fn encode(topic: Topic) -> v1::Topic {
    let config = topic.config;
    let kind = if config.append_time {
        TimestampKind::Append
    } else {
        TimestampKind::Create
    };
    let retain = if config.until_done {
        Retain::UntilDone
    } else {
        Retain::Time
    };
    v1::Topic {
        name: format!("topics/{}", topic.name),
        id: topic.id,
        partitions: topic.groups.len() as u32,
        config: Some(v1::TopicConfig {
            retention: Some(encode_duration(config.retention_ms)),
            retention_bytes: Some(config.retention_bytes),
            max_message_bytes: Some(config.max_message_bytes),
            timestamp_kind: kind as i32,
            dedup_window: Some(encode_duration(config.dedup_window_ms)),
            retain: retain as i32,
        }),
        labels: topic.labels.into_iter().collect(),
        create_time: Some(encode_time(topic.create_time_ms)),
        update_time: Some(encode_time(topic.update_time_ms)),
        etag: topic.version.to_string(),
    }
}

/// The fields of a configuration that are set.
fn decode_config(config: v1::TopicConfig, change: &mut TopicChange) -> Result<(), Refusal> {
    let ms = |field, duration: Option<Duration>| {
        duration
            .map(|duration| duration_ms(field, duration))
            .transpose()
    };
    change.retention_ms = ms("config.retention", config.retention)?;
    change.retention_bytes = config.retention_bytes;
    change.max_message_bytes = config.max_message_bytes;
    change.dedup_window_ms = ms("config.dedup_window", config.dedup_window)?;
    change.until_done = match Retain::try_from(config.retain) {
        Ok(Retain::Unspecified) => None,
        Ok(Retain::Time) => Some(false),
        Ok(Retain::UntilDone) => Some(true),
        Err(_) => {
            let why = format!("{} is not one of its values", config.retain);
            return Err(Refusal::invalid("config.retain", why));
        }
    };
    change.append_time = match TimestampKind::try_from(config.timestamp_kind) {
        Ok(TimestampKind::Unspecified) => None,
        Ok(TimestampKind::Create) => Some(false),
        Ok(TimestampKind::Append) => Some(true),
        Err(_) => {
            let why = format!("{} is not a kind", config.timestamp_kind);
            return Err(Refusal::invalid("config.timestamp_kind", why));
        }
    };
    Ok(())
}

fn decode_new(topic: v1::Topic) -> Result<NewTopic, Refusal> {
    let mut change = TopicChange::default();
    decode_config(topic.config.unwrap_or_default(), &mut change)?;
    let standard = TopicConfig::standard();
    let config = TopicConfig {
        retention_ms: change.retention_ms.unwrap_or(standard.retention_ms),
        retention_bytes: change.retention_bytes.unwrap_or(standard.retention_bytes),
        max_message_bytes: change
            .max_message_bytes
            .unwrap_or(standard.max_message_bytes),
        append_time: change.append_time.unwrap_or(standard.append_time),
        dedup_window_ms: change.dedup_window_ms.unwrap_or(standard.dedup_window_ms),
        until_done: change.until_done.unwrap_or(standard.until_done),
    };
    let labels = topic.labels.into_iter().collect();
    Ok(NewTopic {
        name: topic.name,
        partitions: topic.partitions.max(1),
        config,
        labels,
    })
}

fn decode_change(topic: v1::Topic, mask: &[String]) -> Result<TopicChange, Refusal> {
    let mut all = TopicChange::default();
    decode_config(topic.config.unwrap_or_default(), &mut all)?;
    all.partitions = (topic.partitions > 0).then_some(topic.partitions);
    all.labels = Some(topic.labels.into_iter().collect());
    if !topic.etag.is_empty() {
        let why = || Refusal::invalid("topic.etag", "it is not an etag of a topic");
        all.version = Some(topic.etag.parse().map_err(|_| why())?);
    }
    if mask.is_empty() {
        all.labels = all.labels.filter(|labels| !labels.is_empty());
        return Ok(all);
    }
    let mut change = TopicChange {
        version: all.version,
        ..TopicChange::default()
    };
    for path in mask {
        match path.as_str() {
            "partitions" => change.partitions = all.partitions,
            "labels" => change.labels = all.labels.take(),
            "config.retention" => change.retention_ms = all.retention_ms,
            "config.retention_bytes" => change.retention_bytes = all.retention_bytes,
            "config.max_message_bytes" => change.max_message_bytes = all.max_message_bytes,
            "config.timestamp_kind" => change.append_time = all.append_time,
            "config.retain" => change.until_done = all.until_done,
            "config.dedup_window" => change.dedup_window_ms = all.dedup_window_ms,
            other => {
                let why = format!("\"{other}\" cannot be updated");
                return Err(Refusal::invalid("update_mask", why));
            }
        }
    }
    Ok(change)
}

fn decode_trim(request: &TrimTopicRequest) -> Result<TrimTo, Refusal> {
    match request.before {
        Some(Before::Offset(_)) if request.partition.is_none() => Err(Refusal::invalid(
            "partition",
            "an offset belongs to one partition; name it",
        )),
        Some(Before::Offset(offset)) => Ok(TrimTo::Place(Place::Offset(offset))),
        Some(Before::TimestampMs(time)) => Ok(TrimTo::Place(Place::Time(time))),
        Some(Before::All(true)) => Ok(TrimTo::All),
        Some(Before::All(false)) | None => Err(Refusal::invalid(
            "before",
            "say up to where: an offset, a time, or all",
        )),
    }
}

#[tonic::async_trait]
impl v1::topics_server::Topics for Topics {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let request = request.into_inner();
        let new = decode_new(request.topic.unwrap_or_default()).map_err(|r| status(&r))?;
        let created = self.0.topics.create(new, request.validate_only).await;
        created
            .map(|topic| Response::new(encode(topic)))
            .map_err(|r| status(&r))
    }

    async fn get_topic(
        &self,
        request: Request<GetTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let live = self
            .0
            .topics
            .get(&request.get_ref().name)
            .map_err(|r| status(&r))?;
        Ok(Response::new(encode(live.topic.clone())))
    }

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MAX_PAGE_SIZE),
        } as usize;
        let mut found = self
            .0
            .topics
            .list(&request.prefix, &request.page_token, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().map(|topic| topic.name.clone());
        Ok(Response::new(ListTopicsResponse {
            topics: found.into_iter().map(encode).collect(),
            next_page_token: last.filter(|_| more).unwrap_or_default(),
        }))
    }

    async fn update_topic(
        &self,
        request: Request<UpdateTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let request = request.into_inner();
        let topic = request.topic.unwrap_or_default();
        let (name, mask) = (
            topic.name.clone(),
            request.update_mask.unwrap_or_default().paths,
        );
        let change = decode_change(topic, &mask).map_err(|r| status(&r))?;
        let updated = self
            .0
            .topics
            .update(&name, change, request.validate_only)
            .await;
        updated
            .map(|topic| Response::new(encode(topic)))
            .map_err(|r| status(&r))
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        let deleted = self
            .0
            .topics
            .delete(&request.name, request.validate_only)
            .await;
        deleted
            .map(|()| Response::new(DeleteTopicResponse {}))
            .map_err(|r| status(&r))
    }

    async fn trim_topic(
        &self,
        request: Request<TrimTopicRequest>,
    ) -> Result<Response<TrimTopicResponse>, Status> {
        let request = request.into_inner();
        let to = decode_trim(&request).map_err(|r| status(&r))?;
        let (name, partition) = (&request.name, request.partition);
        let trimmed = self
            .0
            .topics
            .trim(name, partition, to, request.validate_only)
            .await;
        let partitions = trimmed.map_err(|r| status(&r))?.into_iter();
        let partitions = partitions
            .map(|(partition, log_start_offset)| TrimmedPartition {
                partition,
                log_start_offset,
            })
            .collect();
        Ok(Response::new(TrimTopicResponse { partitions }))
    }

    async fn list_partitions(
        &self,
        request: Request<ListPartitionsRequest>,
    ) -> Result<Response<ListPartitionsResponse>, Status> {
        let live = self
            .0
            .topics
            .get(&request.get_ref().name)
            .map_err(|r| status(&r))?;
        let info = |partition: &crate::partition::Partition| {
            let shared = partition.shared();
            let (kept_messages, kept_bytes) = shared.with_kept(|kept| kept.size());
            let held = self.0.held_at(&live, partition).unwrap_or_default();
            PartitionInfo {
                kept_messages,
                kept_bytes,
                held_by: held.0,
                held_offset: held.1,
                partition: shared.number,
                log_start_offset: shared.log_start_offset(),
                high_watermark: shared.high_watermark(),
                size_bytes: shared.log.size_bytes(),
                unavailable: partition
                    .unavailable()
                    .map(|r| r.to_string())
                    .unwrap_or_default(),
            }
        };
        let partitions = live.partitions.iter().map(info).collect();
        Ok(Response::new(ListPartitionsResponse { partitions }))
    }
}
