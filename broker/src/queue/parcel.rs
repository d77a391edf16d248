//! Verdicts and results that are made together, as they lie in the partition's log. Pure.
//!
//! A *step* names leased messages and what is to be published if their verdicts are made. A
//! *parcel* is one such result with its address; its times are absolute, so what it becomes does
//! not depend on when it is published.

use bytes::Bytes;
use prost::Message;

use super::command::Verdicts;

/// All of it, or nothing: if one verdict cannot be made, none is, and nothing is published.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Completion {
    /// Without a consumer, and without extensions: each ends its lease.
    #[prost(message, required, tag = "1")]
    pub(crate) verdicts: Verdicts,
    #[prost(message, repeated, tag = "2")]
    pub(crate) results: Vec<Parcel>,
}

/// A message to be published.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Parcel {
    #[prost(uint64, tag = "1")]
    pub(crate) topic_id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) partition: u32,
    #[prost(int64, tag = "3")]
    pub(crate) timestamp_ms: i64,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    pub(crate) value: Option<Bytes>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) headers: Vec<ParcelHeader>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ParcelHeader {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) name: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) value: Option<Bytes>,
}

/// The partition of a topic that results go to. Ids of topics are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) topic_id: u64,
    pub(crate) partition: u32,
}

/// How far the results are in their topics.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Written {
    #[prost(message, repeated, tag = "1")]
    pub(crate) lines: Vec<WrittenLine>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct WrittenLine {
    #[prost(uint64, tag = "1")]
    pub(crate) topic_id: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) partition: u32,
    /// All results up to this number are there.
    #[prost(uint64, tag = "3")]
    pub(crate) up_to: u64,
    /// The topic is deleted: nothing will ever be there.
    #[prost(bool, tag = "4")]
    pub(crate) is_gone: bool,
}

/// What a result takes beside its bytes while it waits.
const PARCEL_COST: u64 = 128;
/// The same of each of its headers.
const HEADER_COST: u64 = 64;

impl Parcel {
    pub(crate) fn target(&self) -> Target {
        Target {
            topic_id: self.topic_id,
            partition: self.partition,
        }
    }

    /// What it is charged while it waits, bytes.
    pub(crate) fn cost(&self) -> u64 {
        let headers = self.headers.len() as u64 * HEADER_COST;
        self.encoded_len() as u64 + PARCEL_COST + headers
    }
}

impl WrittenLine {
    pub(crate) fn target(&self) -> Target {
        Target {
            topic_id: self.topic_id,
            partition: self.partition,
        }
    }
}
