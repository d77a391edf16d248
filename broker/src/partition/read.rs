//! Reading one partition: where a position lies, and a cursor that moves from there.
//!
//! Readers go to storage themselves. What lies near the end comes as slices of the mapped log;
//! what is older is read on a blocking thread, so that a slow disk stalls nobody else.

use std::sync::Arc;

use aqueduct_proto::batch::BatchHeader;
use aqueduct_storage::{ReadError, ReadPlan};
use bytes::Bytes;
use tokio::sync::Notify;

use super::{Partition, Shared};
use crate::error::Refusal;

/// A place in a partition, as a caller names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Start,
    End,
    Offset(u64),
    /// First message stamped at or after this, milliseconds since the Unix epoch.
    Time(i64),
    /// So many messages before the end.
    Last(u64),
}

/// Stored batches, in offset order.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Each is one whole batch. The first may begin before the cursor stood.
    pub(crate) batches: Vec<Bytes>,
    /// Where the cursor stood.
    pub(crate) from: u64,
    /// Where it stands now.
    pub(crate) next: u64,
}

impl Partition {
    /// The offset of a place, as of now; `high_watermark` where nothing lies there yet.
    ///
    /// # Errors
    /// `OffsetOutOfRange` for an offset that is gone or not written yet.
    pub(crate) async fn offset_of(&self, place: Place) -> Result<u64, Refusal> {
        let shared = &self.shared;
        let (start, end) = (shared.log_start_offset(), shared.high_watermark());
        match place {
            Place::Start => Ok(start),
            Place::End => Ok(end),
            Place::Last(count) => Ok(end.saturating_sub(count).max(start)),
            Place::Offset(offset) if (start..=end).contains(&offset) => Ok(offset),
            Place::Offset(offset) => Err(shared.out_of_range(offset)),
            Place::Time(timestamp_ms) => {
                let log = shared.log.clone();
                let found = tokio::task::spawn_blocking(move || {
                    log.offset_for_timestamp(timestamp_ms, end)
                });
                let found = found.await.map_err(|error| Refusal::Unavailable {
                    why: format!("the search was stopped: {error}"),
                })?;
                let offset = found.map_err(|error| shared.refusal(error, start))?;
                Ok(offset.unwrap_or(end).max(start))
            }
        }
    }

    /// A cursor at `offset`.
    pub(crate) fn cursor(&self, offset: u64) -> Cursor {
        Cursor {
            shared: self.shared.clone(),
            next: offset,
            finds_kept: false,
        }
    }

    /// A cursor at `offset` for somebody who works through a queue: below the log's start it finds
    /// what is kept aside.
    pub(crate) fn queue_cursor(&self, offset: u64) -> Cursor {
        let finds_kept = true;
        Cursor {
            finds_kept,
            ..self.cursor(offset)
        }
    }
}

impl Shared {
    /// The refusal of an offset, with what there is.
    pub(crate) fn out_of_range(&self, offset: u64) -> Refusal {
        Refusal::OffsetOutOfRange {
            partition: self.number,
            offset,
            earliest: self.log_start_offset(),
            latest: self.high_watermark(),
        }
    }

    fn refusal(&self, error: ReadError, asked: u64) -> Refusal {
        let partition = self.number;
        match error {
            ReadError::OutOfRange { .. } => self.out_of_range(asked),
            ReadError::Damaged {
                offset,
                file,
                position,
            } => {
                let why = "the checksum does not fit".to_owned();
                Refusal::Damaged {
                    partition,
                    offset,
                    file,
                    position,
                    why,
                }
            }
            ReadError::Storage(error) => Refusal::Unavailable {
                why: error.to_string(),
            },
        }
    }
}

/// Moves through one partition.
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    next: u64,
    finds_kept: bool,
}

impl Cursor {
    /// The offset it will deliver next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Moves to another offset.
    pub(crate) fn go_to(&mut self, offset: u64) {
        self.next = offset;
    }

    pub(crate) fn partition(&self) -> u32 {
        self.shared.number
    }

    pub(crate) fn high_watermark(&self) -> u64 {
        self.shared.high_watermark()
    }

    /// From now on `notify` is woken when there may be more to read.
    pub(crate) fn register(&self, notify: &Arc<Notify>) {
        self.shared.waiters.register(notify);
    }

    /// The opposite of [`Cursor::register`].
    pub(crate) fn unregister(&self, notify: &Arc<Notify>) {
        self.shared.waiters.unregister(notify);
    }

    /// Reads on, up to `until` (exclusive) and about `max_bytes`, at least one batch if there is
    /// one. `None`: there is nothing below `until` now.
    ///
    /// # Errors
    /// `OffsetOutOfRange` if retention has overtaken the cursor and nothing is kept there, `Damaged` where the disk does
    /// not hold what was written.
    pub(crate) async fn read(
        &mut self,
        until: Option<u64>,
        max_bytes: usize,
    ) -> Result<Option<Chunk>, Refusal> {
        let high_watermark = self.shared.high_watermark();
        let until = until.map_or(high_watermark, |until| until.min(high_watermark));
        if let Some(gone) = self.shared.gone() {
            return Err(gone);
        }
        if self.next >= until {
            return Ok(None);
        }
        let from = self.next;
        if from < self.shared.log_start_offset() {
            return self.read_kept(max_bytes).map(Some);
        }
        let plan = self.shared.log.plan_read(from, until, max_bytes);
        let batches = match plan.map_err(|error| self.shared.refusal(error, from))? {
            ReadPlan::Ready(batches) => batches,
            ReadPlan::Blocking(read) => {
                let read = tokio::task::spawn_blocking(move || read.run()).await;
                let read = read.map_err(|error| Refusal::Unavailable {
                    why: format!("the read was stopped: {error}"),
                })?;
                read.map_err(|error| self.shared.refusal(error, from))?
            }
        };
        let Some(last) = batches.last() else {
            return Ok(None);
        };
        self.next = end_of(last).max(from + 1);
        Ok(Some(Chunk {
            batches,
            from,
            next: self.next,
        }))
    }

    /// Reads on below the log's start.
    fn read_kept(&mut self, max_bytes: usize) -> Result<Chunk, Refusal> {
        let from = self.next;
        let batches = match self.finds_kept {
            true => self.shared.kept_from(from, max_bytes),
            false => Vec::new(),
        };
        if batches.is_empty() {
            return Err(self.shared.out_of_range(from));
        }
        self.next = from + batches.len() as u64;
        Ok(Chunk {
            batches,
            from,
            next: self.next,
        })
    }
}

/// The offset after a stored batch; storage has verified its header.
fn end_of(batch: &[u8]) -> u64 {
    BatchHeader::read(batch).map_or(0, |header| {
        header.base_offset.unsigned_abs() + u64::from(header.last_offset_delta.unsigned_abs()) + 1
    })
}
