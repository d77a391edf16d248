//! One request of a publish stream, and the open batch that becomes one.

use std::{sync::Arc, time::Instant};

use aqueduct_proto::{batch::HEADER_LEN, compression::Compression, record::BatchBuilder, v1};
use bytes::{Bytes, BytesMut};

use super::{
    super::{Ack, delivery::Completion},
    Clock,
};
use crate::{Error, Message};

/// Sequences are counted modulo this (Kafka's 31 bits).
const SEQUENCES: u64 = 1 << 31;

/// Who sends: producer id and epoch, as the broker gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::producer) struct Identity {
    pub id: i64,
    pub epoch: i16,
}

/// A batch that still takes messages.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) contents: Contents,
    pub(super) load: Load,
}

/// How much there is in a batch, since when, and who waits for it.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) completion: Arc<Completion>,
    pub(super) count: u32,
    pub(super) bytes: usize,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) enum Contents {
    Batch(BatchBuilder),
    Messages {
        messages: Vec<v1::Message>,
        dedup: bool,
    },
}

/// A request: one batch or some messages, answered as one.
#[derive(Debug)]
pub(in crate::producer) struct Parcel {
    pub(super) lane: u32,
    pub(super) count: u32,
    pub(super) bytes: usize,
    pub body: Body,
    pub(super) completion: Arc<Completion>,
    pub(super) created: Instant,
    pub(super) ordinal: u64,
    pub(super) attempts: u32,
    /// An attempt went unanswered, so it may be stored whatever later attempts are told.
    pub(super) maybe_stored: bool,
    /// A copy of it may still be on its way on a stream that was lost.
    pub(super) was_lost: bool,
    /// Why it was refused last.
    pub(super) refused: Option<Error>,
}

/// What a request carries.
#[derive(Debug)]
pub(in crate::producer) enum Body {
    Batch {
        partition: u32,
        records: Bytes,
    },
    Messages {
        request: v1::PublishStreamRequest,
        dedup: bool,
    },
}

impl Open {
    pub(super) fn new(
        as_message: bool,
        compression: Compression,
        bytes: usize,
        now: Instant,
    ) -> Self {
        let contents = if as_message {
            Contents::Messages {
                messages: Vec::new(),
                dedup: true,
            }
        } else {
            Contents::Batch(BatchBuilder::with_capacity(compression, bytes))
        };
        let completion = Arc::new(Completion::default());
        let load = Load {
            completion,
            count: 0,
            bytes: 0,
            since: now,
        };
        Self { contents, load }
    }

    pub(super) fn push(
        &mut self,
        message: Message,
        partition: Option<u32>,
        clock: &impl Clock,
    ) -> u32 {
        let index = self.load.count;
        self.load.count += 1;
        match &mut self.contents {
            Contents::Batch(builder) => {
                let time = message.timestamp_ms.unwrap_or_else(|| clock.now_ms());
                let (key, value) = (message.key.as_deref(), message.value.as_deref());
                match message.stored_headers() {
                    None => builder.push(time, key, value, &message.headers),
                    Some(headers) => builder.push(time, key, value, &headers),
                };
            }
            Contents::Messages { messages, dedup } => {
                *dedup &= message.dedup_id.is_some();
                let mut message = message.into_proto();
                message.partition = message.partition.or(partition);
                messages.push(message);
            }
        }
        index
    }
}

impl Parcel {
    /// What an open batch has become.
    pub(super) fn new(lane: u32, body: Body, load: Load) -> Self {
        Self {
            lane,
            count: load.count,
            bytes: load.bytes,
            body,
            completion: load.completion,
            created: load.since,
            ordinal: 0,
            attempts: 0,
            maybe_stored: false,
            was_lost: false,
            refused: None,
        }
    }

    /// Sending again cannot store anything twice.
    pub(super) fn resendable(&self) -> bool {
        match &self.body {
            Body::Batch { .. } => true,
            Body::Messages { dedup, .. } => *dedup,
        }
    }
}

/// If nothing of a parcel was stored and all of it may go again: why.
pub(super) fn all_to_retry(results: &[Result<Ack, Error>]) -> Option<Error> {
    let retry = |result: &Result<Ack, Error>| {
        matches!(
            result,
            Err(Error::Exhausted {
                retry_after: Some(_),
                ..
            })
        )
    };
    let first = results.first().filter(|_| results.iter().all(retry))?;
    first.as_ref().err().cloned()
}

pub(super) fn sequence_of(ordinal: u64) -> i32 {
    i32::try_from(ordinal % SEQUENCES).expect("less than 2^31")
}

/// Writes producer id, epoch and sequence into a batch if they are not there; true if so.
pub(super) fn stamp(records: &mut Bytes, identity: Identity, sequence: i32) -> bool {
    let mut wanted = [0; 14];
    wanted[..8].copy_from_slice(&identity.id.to_be_bytes());
    wanted[8..10].copy_from_slice(&identity.epoch.to_be_bytes());
    wanted[10..].copy_from_slice(&sequence.to_be_bytes());
    if records.len() < HEADER_LEN || records[43..57] == wanted {
        return false;
    }
    let bytes = std::mem::take(records);
    let mut bytes = bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    bytes[43..57].copy_from_slice(&wanted);
    let crc = aqueduct_proto::crc::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    *records = bytes.freeze();
    true
}
