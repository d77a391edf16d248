//! Reading record batches: slices of the map near the end, `pread` for everything older.
//!
//! What is promised: each piece is exactly one stored batch with its offset and leader epoch set,
//! verified, consecutive with the one before, and never at or beyond the caller's limit. A plan that
//! is `Ready` has not waited for a disk (its pages were written lately). What lives here must never
//! know: who reads, what is committed.

use std::sync::Arc;

use aqueduct_proto::batch::Batch;
use bytes::Bytes;

use crate::entry::{HEADER_LEN, Header, Kind};
use crate::error::{Error, ReadError};
use crate::locate::PARTS_PER_READ;
use crate::log::{LogInner, Part};
use crate::segment::{CHUNK, FIRST_ENTRY};
use crate::windows::Window;

/// Output limit of a decompression while looking for a time.
const MAX_RECORDS_BYTES: usize = 64 << 20;

/// How a read can be served.
#[derive(Debug)]
pub enum ReadPlan {
    /// Each exactly one stored batch; nothing was waited for.
    Ready(Vec<Bytes>),
    /// Must be run where blocking is allowed.
    Blocking(BlockingRead),
}

/// A read that must touch the disk. Holds its segments' files.
pub struct BlockingRead {
    job: Job,
}

impl std::fmt::Debug for BlockingRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "BlockingRead(log {}, from {})",
            self.job.log.id, self.job.from
        )
    }
}

impl BlockingRead {
    /// Reads the batches; blocks.
    ///
    /// # Errors
    /// `Damaged` if the first batch cannot be read; `Storage`.
    pub fn run(self) -> Result<Vec<Bytes>, ReadError> {
        let mut source = FileSource {
            chunk: Bytes::new(),
            chunk_at: 0,
            salt: 0,
        };
        self.job.run(&mut source)
    }
}

/// What a read looks for, and where.
struct Job {
    log: Arc<LogInner>,
    parts: Vec<Part>,
    /// Position in the first part, where it is known.
    position: Option<u64>,
    from: u64,
    until: u64,
    max_bytes: usize,
    /// The first batch must hold `from`, and the others follow without a gap.
    dense: bool,
}

/// Where the bytes of a segment come from.
trait Source {
    /// Exactly this range, which lies below the published end; fewer bytes if the file is short.
    fn bytes(&mut self, log: &LogInner, part: &Part, at: u64, len: usize) -> Result<Bytes, Error>;
}

/// Mapped windows; what straddles two of them is copied.
struct MapSource {
    window: Option<(u64, Window)>,
}

impl Source for MapSource {
    fn bytes(&mut self, log: &LogInner, part: &Part, at: u64, len: usize) -> Result<Bytes, Error> {
        let salt = part.segment.header.salt;
        if at + len as u64 > part.segment.file.capacity {
            // The file was cut short: an error of this range, never a fault of the map.
            return part.segment.read(at, len);
        }
        let held = self.window.as_ref().filter(|(of, _)| *of == salt);
        if let Some(bytes) = held.and_then(|(_, window)| window.slice(at, len)) {
            return Ok(bytes);
        }
        let window = log.shared.windows.get(&part.segment, at, part.end)?;
        let bytes = window.slice(at, len);
        self.window = Some((salt, window));
        match bytes {
            Some(bytes) => Ok(bytes),
            None => part.segment.read(at, len),
        }
    }
}

/// Large sequential reads.
struct FileSource {
    chunk: Bytes,
    chunk_at: u64,
    salt: u64,
}

impl Source for FileSource {
    fn bytes(&mut self, _: &LogInner, part: &Part, at: u64, len: usize) -> Result<Bytes, Error> {
        let salt = part.segment.header.salt;
        let end = self.chunk_at + self.chunk.len() as u64;
        if salt != self.salt || at < self.chunk_at || at + len as u64 > end {
            let wanted = ((part.end - at).min(CHUNK as u64) as usize).max(len);
            self.chunk = part.segment.read(at, wanted)?;
            (self.chunk_at, self.salt) = (at, salt);
        }
        let from = (at - self.chunk_at) as usize;
        Ok(self.chunk.slice(from..(from + len).min(self.chunk.len())))
    }
}

/// What has been collected.
struct Batches {
    out: Vec<Bytes>,
    bytes: usize,
    /// Offset that the next batch must hold.
    next: u64,
}

impl Job {
    fn run(&self, source: &mut dyn Source) -> Result<Vec<Bytes>, ReadError> {
        let mut batches = Batches {
            out: Vec::new(),
            bytes: 0,
            next: self.from,
        };
        for (at, part) in self.parts.iter().enumerate() {
            let position = match self.position.filter(|_| at == 0) {
                Some(position) => position,
                None if at == 0 => self.log.seek(part, |index| index.by_offset(self.from))?,
                None => FIRST_ENTRY,
            };
            match self.run_part(source, part, position, &mut batches) {
                Ok(true) => {}
                Ok(false) => break,
                // What was read before the damage is good; the next read meets it first.
                Err(_) if !batches.out.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        match self
            .parts
            .last()
            .filter(|_| self.dense && batches.out.is_empty())
        {
            // The offset exists, and no batch holds it.
            Some(part) => Err(self.damaged(part, part.end, self.from, "a batch is missing")),
            None => Ok(batches.out),
        }
    }

    /// Collects a part's batches; false once enough is read.
    fn run_part(
        &self,
        source: &mut dyn Source,
        part: &Part,
        mut position: u64,
        batches: &mut Batches,
    ) -> Result<bool, ReadError> {
        let salt = part.segment.header.salt;
        let mut next_offset = self.from;
        while position < part.end {
            let damaged = |why| self.damaged(part, position, next_offset, why);
            let head = match source.bytes(&self.log, part, position, HEADER_LEN) {
                Ok(head) => head,
                Err(error) => return Err(self.unreadable(part, position, next_offset, error)),
            };
            let header = Header::decode(&head, salt, position)
                .filter(|header| position + header.stored_len() <= part.end)
                .ok_or_else(|| damaged("no entry header"))?;
            let at = position;
            position += header.stored_len();
            if self.dense && header.base_offset > batches.next {
                if batches.out.is_empty() {
                    return Err(self.damaged(part, at, batches.next, "a batch is missing"));
                }
                return Ok(false);
            }
            if header.base_offset >= self.until {
                return Ok(false);
            }
            if header.kind != Kind::Batch {
                continue;
            }
            let len = header.payload_len as usize;
            if !batches.out.is_empty() && batches.bytes + len > self.max_bytes {
                return Ok(false);
            }
            let damaged = |why| self.damaged(part, at, self.from.max(header.base_offset), why);
            let payload = match source.bytes(&self.log, part, at + HEADER_LEN as u64, len) {
                Ok(payload) => payload,
                Err(error) => return Err(self.unreadable(part, at, next_offset, error)),
            };
            if payload.len() < len {
                return Err(damaged("entry is cut short"));
            }
            let after = header.base_offset + header.offsets(&payload);
            if after <= self.from {
                continue;
            }
            if !header.fits(&payload) {
                return Err(damaged("payload checksum"));
            }
            next_offset = after;
            batches.next = after;
            batches.bytes += len;
            batches.out.push(payload);
        }
        Ok(true)
    }

    fn damaged(&self, part: &Part, position: u64, offset: u64, why: &str) -> ReadError {
        // The entry is noted in the log's damage, the caller hears of the offset.
        let _ = self.log.damaged(part, position, why);
        ReadError::Damaged {
            offset,
            file: part.segment.name(),
            position,
        }
    }

    fn unreadable(&self, part: &Part, position: u64, offset: u64, error: Error) -> ReadError {
        match error {
            Error::Io {
                op: "read", source, ..
            } => self.damaged(part, position, offset, &format!("read: {source}")),
            other => other.into(),
        }
    }
}

impl LogInner {
    pub(crate) fn plan_read(
        self: &Arc<Self>,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<ReadPlan, ReadError> {
        let Some((job, hot_left)) = self.find_read(from, until, max_bytes)? else {
            return Ok(ReadPlan::Ready(Vec::new()));
        };
        let mut job = job;
        if job.position.is_none() && hot_left > 0 {
            job.position = self.seek_in_memory(&job.parts[0], |index| index.by_offset(from));
        }
        match job.position {
            Some(position) if job.parts[0].end - position <= hot_left => {
                let batches = job.run(&mut MapSource { window: None })?;
                Ok(ReadPlan::Ready(batches))
            }
            _ => Ok(ReadPlan::Blocking(BlockingRead { job })),
        }
    }

    /// The parts to read, and how far from the end of the first one the hot range reaches; `None`
    /// if there is nothing to read.
    fn find_read(
        self: &Arc<Self>,
        from: u64,
        until: u64,
        max_bytes: usize,
    ) -> Result<Option<(Job, u64)>, ReadError> {
        let view = self.view.lock();
        let earliest = view.first_offset();
        let latest = view.next_offset;
        if from < earliest || from > latest {
            return Err(ReadError::OutOfRange { earliest, latest });
        }
        if view.end_lost && from == latest {
            let last = view
                .damage
                .last()
                .map_or((String::new(), 0), |d| (d.file.clone(), d.position));
            return Err(ReadError::Damaged {
                offset: from,
                file: last.0,
                position: last.1,
            });
        }
        let until = until.min(latest);
        if from >= until {
            return Ok(None);
        }
        let at = view
            .parts
            .partition_point(|part| part.segment.header.base_offset <= from);
        let Some(at) = at.checked_sub(1) else {
            // The segments that held it are missing.
            let file = view
                .parts
                .first()
                .map_or(self.dir(), |part| part.segment.name());
            return Err(ReadError::Damaged {
                offset: from,
                file,
                position: 0,
            });
        };
        let parts: Vec<Part> = view.parts[at..]
            .iter()
            .take(PARTS_PER_READ)
            .cloned()
            .collect();
        let after: u64 = view.parts[at + 1..].iter().map(|part| part.end).sum();
        let salt = parts[0].segment.header.salt;
        let recent = view.recent.partition_point(|recent| recent.offset <= from);
        let recent = recent.checked_sub(1).map(|at| view.recent[at]);
        let position = recent
            .filter(|recent| recent.salt == salt)
            .map(|recent| recent.position);
        let hot_left = self.shared.options.hot_bytes.saturating_sub(after);
        let job = Job {
            log: self.clone(),
            parts,
            position,
            from,
            until,
            max_bytes,
            dense: true,
        };
        Ok(Some((job, hot_left)))
    }

    /// The first batch whose latest timestamp is not before the time, then the record in it.
    pub(crate) fn offset_for_timestamp(
        self: &Arc<Self>,
        timestamp: i64,
        until: u64,
    ) -> Result<Option<u64>, ReadError> {
        let first_offset = self.view.lock().first_offset();
        let parts: Vec<Part> = self.view.lock().parts.clone();
        for part in parts.iter().filter(|part| part.max_timestamp >= timestamp) {
            let position = self.seek(part, |index| index.by_timestamp(timestamp))?;
            let mut job = Job {
                log: self.clone(),
                parts: vec![part.clone()],
                position: Some(position),
                from: first_offset,
                until,
                max_bytes: CHUNK,
                dense: false,
            };
            let mut source = FileSource {
                chunk: Bytes::new(),
                chunk_at: 0,
                salt: 0,
            };
            loop {
                let batches = job.run(&mut source)?;
                for batch in &batches {
                    if let Some(offset) = find_record(batch, timestamp, first_offset) {
                        return Ok(Some(offset).filter(|offset| *offset < until));
                    }
                }
                let Some(last) = batches.last() else { break };
                let next = last_offset(last) + 1;
                (job.from, job.position) = (next, None);
            }
        }
        Ok(None)
    }
}

fn last_offset(batch: &Bytes) -> u64 {
    let header = aqueduct_proto::batch::BatchHeader::read(batch);
    header.map_or(0, |h| h.base_offset as u64 + h.last_offset_delta as u64)
}

/// Offset of the first record of a batch at or after a time.
fn find_record(bytes: &Bytes, timestamp: i64, first_offset: u64) -> Option<u64> {
    let batch = Batch::check(bytes.clone()).ok()?;
    if batch.header().max_timestamp < timestamp {
        return None;
    }
    let base = (batch.header().base_offset as u64).max(first_offset);
    // A batch whose records cannot be decoded still says that it holds the time: its first offset.
    let Ok(records) = batch.records(MAX_RECORDS_BYTES) else {
        return Some(base);
    };
    let mut records = records.filter_map(Result::ok);
    let found = records.find(|r| r.timestamp_ms >= timestamp && r.offset >= first_offset);
    found.map(|record| record.offset)
}
