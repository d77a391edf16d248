//! Messages and results between the wire and the broker's own types.

use aqueduct_proto::{
    record::Header,
    v1::{
        self, BatchResult, PublishResponse, PublishResult, PublishStreamResponse,
        publish_stream_response,
    },
};
use bytes::Bytes;

use crate::{
    error::Refusal,
    grpc::status::embedded,
    limits::MAX_MESSAGES_PER_REQUEST,
    partition::{NewRecord, Stored},
    publish::{Incoming, Options},
};

pub(in crate::grpc) fn decode_message(message: v1::Message) -> Incoming {
    let header = |header: v1::Header| Header {
        name: Bytes::from(header.name),
        value: Some(header.value),
    };
    let options = Options::of(&message).map(Box::new);
    let dedup_id = (!message.dedup_id.is_empty()).then(|| Bytes::from(message.dedup_id));
    let record = NewRecord {
        timestamp_ms: message.timestamp_ms,
        key: message.key,
        value: message.value,
        headers: message.headers.into_iter().map(header).collect(),
        dedup_id,
        delay_ms: None,
    };
    Incoming {
        record,
        partition: message.partition,
        options,
    }
}

pub(super) fn decode_messages(messages: Vec<v1::Message>) -> Result<Vec<Incoming>, Refusal> {
    if messages.len() > MAX_MESSAGES_PER_REQUEST {
        let (count, limit) = (messages.len(), MAX_MESSAGES_PER_REQUEST);
        return Err(Refusal::invalid(
            "messages",
            format!("{count}, the limit is {limit}"),
        ));
    }
    Ok(messages.into_iter().map(decode_message).collect())
}

pub(super) fn encode_result((partition, result): (u32, Result<Stored, Refusal>)) -> PublishResult {
    match result {
        Ok(Stored { offset, duplicate }) => PublishResult {
            partition,
            offset,
            duplicate,
            error: None,
        },
        Err(refusal) => PublishResult {
            partition,
            offset: 0,
            duplicate: false,
            error: Some(embedded(&refusal)),
        },
    }
}

pub(super) fn encode_batch(partition: u32, result: Result<Stored, Refusal>) -> BatchResult {
    match result {
        Ok(Stored { offset, duplicate }) => BatchResult {
            partition,
            base_offset: offset,
            duplicate,
            error: None,
        },
        Err(refusal) => BatchResult {
            partition,
            base_offset: 0,
            duplicate: false,
            error: Some(embedded(&refusal)),
        },
    }
}

pub(super) fn results(request: u64, results: Vec<PublishResult>) -> PublishStreamResponse {
    let kind = publish_stream_response::Kind::Results(PublishResponse { results });
    PublishStreamResponse {
        request,
        kind: Some(kind),
    }
}

pub(super) fn batch(request: u64, result: BatchResult) -> PublishStreamResponse {
    let kind = publish_stream_response::Kind::Batch(result);
    PublishStreamResponse {
        request,
        kind: Some(kind),
    }
}
