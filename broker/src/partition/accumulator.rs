//! The batch that the owner is building from single messages.
//!
//! Decides nothing about when it closes; it only knows what is in it and who waits for it.

use aqueduct_proto::{
    attributes,
    batch::BatchError,
    compression::Compression,
    record::{BatchBuilder, Header},
};
use aqueduct_storage::stored_len;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{NewRecord, Permit, RecordsAnswer};

/// Digits of the largest number.
const NUMBER_LEN: usize = 20;
/// Largest cost of a record beside its key, value and headers: its varints.
const RECORD_OVERHEAD: usize = 40;
/// The same of a header.
const HEADER_OVERHEAD: usize = 12;

/// Who waits for part of a batch.
pub(super) struct Waiter {
    pub(super) answer: oneshot::Sender<RecordsAnswer>,
    pub(super) answers: RecordsAnswer,
    pub(super) permit: Permit,
}

/// A batch in the making.
pub(super) struct Open {
    builder: BatchBuilder,
    append_time: bool,
    /// Bytes set aside in the log for it.
    pub(super) reserved: u64,
    pub(super) waiters: Vec<Waiter>,
    /// Some record has a dedup id.
    pub(super) dedup: bool,
}

impl Open {
    pub(super) fn new(append_time: bool) -> Open {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_append_time(append_time);
        Open {
            builder,
            append_time,
            reserved: 0,
            waiters: Vec::new(),
            dedup: false,
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.builder.count()
    }

    pub(super) fn bytes(&self) -> usize {
        self.builder.len_bytes()
    }

    pub(super) fn is_append_time(&self) -> bool {
        self.append_time
    }

    /// Adds a record, stamped `now_ms` if it has no stamp or the topic does not keep it.
    pub(super) fn push(&mut self, record: &NewRecord, now_ms: i64) {
        let stamp = match record.timestamp_ms {
            Some(stamp) if !self.append_time => stamp,
            _ => now_ms,
        };
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        if record.dedup_id.is_none() && record.delay_ms.is_none() {
            self.builder.push(stamp, key, value, &record.headers);
            return;
        }
        let mut headers = record.headers.clone();
        if let Some(id) = &record.dedup_id {
            self.dedup = true;
            headers.push(Header::new(attributes::DEDUP_ID, id.clone()));
        }
        if let Some(delay_ms) = record.delay_ms {
            let until_ms = now_ms.saturating_add(delay_ms).to_string();
            headers.push(Header::new(attributes::DELAY_UNTIL, until_ms));
        }
        self.builder.push(stamp, key, value, &headers);
    }

    /// The finished batch.
    ///
    /// # Errors
    /// If it became too long for its format, which the request limits rule out.
    pub(super) fn finish(self) -> (Result<Bytes, BatchError>, u64, Vec<Waiter>, bool) {
        (
            self.builder.finish(),
            self.reserved,
            self.waiters,
            self.dedup,
        )
    }
}

/// An upper bound of what storing these records in a batch of their own takes in a segment.
pub(super) fn stored_bound(records: &[NewRecord]) -> u64 {
    let records: usize = records.iter().map(NewRecord::bound).sum();
    stored_len(aqueduct_proto::batch::HEADER_LEN + records)
}

impl NewRecord {
    /// Bytes of key, value and headers: what topics limit.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
            .sum();
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + headers
    }

    /// Most bytes that it takes in a batch.
    pub(crate) fn bound(&self) -> usize {
        let id = self.dedup_id.as_ref().map_or(0, |id| {
            id.len() + attributes::DEDUP_ID.len() + HEADER_OVERHEAD
        });
        let delay = self.delay_ms.map_or(0, |_| {
            attributes::DELAY_UNTIL.len() + NUMBER_LEN + HEADER_OVERHEAD
        });
        self.bytes() + RECORD_OVERHEAD + HEADER_OVERHEAD * self.headers.len() + id + delay
    }
}
