//! The time stamp of one message, for telling how old what is not consumed is.
//!
//! A few stamps are kept by offset: groups that stand still are asked again and again.

use std::collections::BTreeMap;

use aqueduct_proto::{
    batch::{Batch, BatchHeader},
    compression::Compression,
};
use bytes::Bytes;
use parking_lot::Mutex;

use super::Partition;
use crate::{error::Refusal, limits::MAX_DECOMPRESSED_BYTES};

/// Stamps kept of one partition.
const KEPT: usize = 64;

/// Stamps by offset; an offset never changes its record, so they never go stale.
#[derive(Default)]
pub(super) struct Stamps(Mutex<BTreeMap<u64, i64>>);

impl Stamps {
    fn get(&self, offset: u64) -> Option<i64> {
        self.0.lock().get(&offset).copied()
    }

    fn keep(&self, offset: u64, stamp_ms: i64) {
        let mut kept = self.0.lock();
        kept.insert(offset, stamp_ms);
        if kept.len() > KEPT {
            // The oldest offsets are the first that nobody stands at any more.
            kept.pop_first();
        }
    }
}

impl Partition {
    /// The stamp of the message at `offset`, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(crate) async fn timestamp_of(&self, offset: u64) -> Result<i64, Refusal> {
        let shared = self.shared();
        if let Some(stamp_ms) = shared.stamps.get(offset) {
            return Ok(stamp_ms);
        }
        let missing = || Refusal::MessageNotFound {
            partition: shared.number,
            offset,
        };
        let chunk = self.queue_cursor(offset).read(Some(offset + 1), 1).await?;
        let batch = chunk.and_then(|chunk| chunk.batches.into_iter().next());
        let batch = batch.ok_or_else(missing)?;
        let header = BatchHeader::read(&batch).map_err(|_| missing())?;
        let found = if header.is_append_time() {
            Some(header.max_timestamp)
        } else if header.compression().ok() == Some(Compression::None) {
            stamp_in(batch, offset)
        } else {
            let reading = tokio::task::spawn_blocking(move || stamp_in(batch, offset));
            reading.await.ok().flatten()
        };
        let stamp_ms = found.ok_or_else(missing)?;
        shared.stamps.keep(offset, stamp_ms);
        Ok(stamp_ms)
    }
}

fn stamp_in(batch: Bytes, offset: u64) -> Option<i64> {
    let batch = Batch::check(batch).ok()?;
    let mut records = batch.records(MAX_DECOMPRESSED_BYTES).ok()?;
    records
        .find_map(|record| record.ok().filter(|record| record.offset == offset))
        .map(|record| record.timestamp_ms)
}
