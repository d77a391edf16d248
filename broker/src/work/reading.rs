//! Reading messages of one partition out of its log, or out of what is kept aside, by offset.
//!
//! It knows nothing of queues: what cannot be read is told, and what becomes of that is the
//! caller's.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use aqueduct_proto::record::Record;
use tokio::sync::Notify;

use crate::{
    error::Refusal,
    lanes::{decode_from, detached, record_bytes},
    limits::READ_CHUNK_BYTES,
    partition::{Cursor, Partition},
};

/// Messages of a run that are copied out of their batch, if there are no more.
const FEW: u64 = 16;

/// Reads one partition.
pub(super) struct Reader {
    number: u32,
    cursor: Cursor,
}

impl Reader {
    pub(super) fn new(partition: &Partition) -> Reader {
        Reader {
            number: partition.shared().number,
            cursor: partition.queue_cursor(0),
        }
    }

    /// `wake` is woken when there is more to read.
    pub(super) fn register(&self, wake: &Arc<Notify>) {
        self.cursor.register(wake);
    }

    /// The opposite of [`Reader::register`].
    pub(super) fn unregister(&self, wake: &Arc<Notify>) {
        self.cursor.unregister(wake);
    }

    /// A piece from the beginning of this range, and where it ends.
    pub(super) async fn read_chunk(
        &mut self,
        range: Range<u64>,
    ) -> Result<Option<(Vec<Record>, u64)>, Refusal> {
        let read = self.read_from(range.clone()).await?;
        Ok(read.map(|(mut records, to)| {
            records.retain(|record| record.offset < range.end);
            (records, to.min(range.end))
        }))
    }

    /// The same, to the end of the batches that were read for it, as far as memory allows.
    async fn read_from(
        &mut self,
        range: Range<u64>,
    ) -> Result<Option<(Vec<Record>, u64)>, Refusal> {
        self.cursor.go_to(range.start);
        let chunk = self.cursor.read(Some(range.end), READ_CHUNK_BYTES).await?;
        let Some(chunk) = chunk else { return Ok(None) };
        let to = chunk.next;
        let records = decode_from(chunk.batches, range.start).await;
        let records = records.map_err(|why| Refusal::Damaged {
            partition: self.number,
            offset: range.start,
            file: String::new(),
            position: 0,
            why,
        })?;
        // Offsets have no holes: what was not decoded follows the last record.
        let to = records.last().map_or(to, |last| last.offset + 1);
        Ok(Some((records, to)))
    }

    /// Reads messages of these runs until `bytes` are reached, at least one.
    pub(super) async fn read_runs(&mut self, runs: &[Range<u64>], bytes: u64) -> Read {
        let (mut read, mut taken) = (Read::default(), 0);
        // Runs are often neighbours in a batch, which is decoded once for all of them.
        let mut window = Window::default();
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                if !read.records.is_empty() && taken >= bytes {
                    read.back.push(at..run.end);
                    break;
                }
                if window.get(at).is_none() {
                    window = match self.read_from(at..run.end).await {
                        Ok(Some((records, _))) => Window(records),
                        Err(Refusal::Damaged { .. }) => Window::default(),
                        // Not now; or retention was quicker, which an event will tell.
                        Ok(None) | Err(_) => {
                            read.is_cut_off = true;
                            read.back.push(at..run.end);
                            break;
                        }
                    };
                }
                match window.get(at) {
                    Some(record) => {
                        taken += record_bytes(record);
                        // A few of a batch must not keep the whole of it in memory.
                        let few = run.end - run.start < FEW;
                        let record = record.clone();
                        let record = if few { detached(record) } else { record };
                        read.records.insert(at, record);
                    }
                    None => read.unreadable.push(at),
                }
                at += 1;
            }
        }
        read
    }

    /// The message at an offset, if it can be read.
    pub(super) async fn read_one(&mut self, offset: u64) -> Option<Record> {
        let read = self.read_chunk(offset..offset + 1).await.ok()??;
        read.0.into_iter().find(|record| record.offset == offset)
    }
}

/// Messages that were decoded together, without holes.
#[derive(Default)]
struct Window(Vec<Record>);

impl Window {
    fn get(&self, offset: u64) -> Option<&Record> {
        let first = self.0.first()?.offset;
        let place = usize::try_from(offset.checked_sub(first)?).ok()?;
        self.0.get(place).filter(|record| record.offset == offset)
    }
}

/// What came of reading some messages.
#[derive(Default)]
pub(super) struct Read {
    pub(super) records: BTreeMap<u64, Record>,
    /// What the disk does not give back.
    pub(super) unreadable: Vec<u64>,
    /// Not read: too much, or not now.
    pub(super) back: Vec<Range<u64>>,
    /// The partition cannot be read just now.
    pub(super) is_cut_off: bool,
}
