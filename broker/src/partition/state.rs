//! The partition machine's state and its commands. Pure: entries in, state and replies out.
//!
//! Batches take offsets in log order; that is all that gives an offset its record. The state
//! beside them is what idempotence needs (producers, dedup ids), where consumer groups stand,
//! what queue groups have leased and done, which dead letters are gone, where the log begins for
//! readers, what is kept aside of what lies below, and the greatest stamp seen.

use aqueduct_proto::{
    attributes,
    batch::{Batch, BatchHeader},
};
use aqueduct_storage::Kind;
use bytes::Bytes;
use prost::Message;

use super::{
    dedup::{Dedup, Saved},
    kept::{Cut, CutReply, Kept, KeptRecord},
    positions::{Moves, Positions},
    producers::{Origin, Producers},
    queues::{Queues, SavedQueue, Steps},
    taken::{SavedTaken, Taken, Taking},
};
use crate::{
    limits::MAX_DECOMPRESSED_BYTES,
    queue::{offsets::Offsets, saved::Damaged},
    raft::engine::{Data, Reply},
};

/// Entry flag: some record of the batch carries a dedup id.
pub(crate) const FLAG_DEDUP: u8 = 1;

/// A change of a partition that is not a batch.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Command {
    #[prost(oneof = "Change", tags = "1, 2, 3, 4, 20, 21")]
    pub(crate) change: Option<Change>,
}

/// What a [`Command`] changes.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Change {
    /// Messages below this offset are gone.
    #[prost(uint64, tag = "1")]
    Trim(u64),
    /// Time has passed.
    #[prost(message, tag = "2")]
    Tick(Tick),
    /// Consumer groups claim, commit and seek.
    #[prost(message, tag = "3")]
    Moves(Moves),
    /// Queue groups lease, settle and expire.
    #[prost(message, tag = "4")]
    Steps(Steps),
    /// Dead letters are redriven or discarded.
    #[prost(message, tag = "20")]
    Take(Taking),
    /// The log's start moves on; what is still needed is kept aside.
    #[prost(message, tag = "21")]
    Cut(Cut),
}

/// The proposer's time, and how long dedup ids live by its configuration.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Tick {
    #[prost(int64, tag = "1")]
    pub(crate) now_ms: i64,
    #[prost(uint64, tag = "2")]
    pub(crate) dedup_window_ms: u64,
}

impl Command {
    /// The command as a proposal.
    pub(crate) fn data(change: Change) -> Data {
        let payload = Command {
            change: Some(change),
        }
        .encode_to_vec()
        .into();
        Data {
            kind: Kind::Command,
            flags: 0,
            payload,
        }
    }
}

/// Everything a partition knows besides its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Offset of the next record.
    pub(crate) next_offset: u64,
    /// First offset that readers may see.
    pub(crate) log_start_offset: u64,
    /// Greatest stamp seen.
    pub(crate) now_ms: i64,
    pub(crate) producers: Producers,
    pub(crate) dedup: Dedup,
    pub(crate) positions: Positions,
    pub(crate) queues: Queues,
    pub(crate) taken: Taken,
    /// Messages below the log's start that queue groups still need.
    pub(crate) kept: Kept,
    /// Entries that this version could not read; kept for diagnosis, not replicated.
    pub(crate) unreadable: u64,
}

/// The state as a checkpoint keeps it.
#[derive(Clone, PartialEq, Message)]
struct SavedState {
    #[prost(uint64, tag = "1")]
    next_offset: u64,
    #[prost(uint64, tag = "2")]
    log_start_offset: u64,
    #[prost(int64, tag = "3")]
    now_ms: i64,
    #[prost(message, required, tag = "4")]
    producers: Producers,
    #[prost(message, repeated, tag = "5")]
    dedup: Vec<Saved>,
    #[prost(message, optional, tag = "6")]
    positions: Option<Positions>,
    #[prost(message, repeated, tag = "7")]
    queues: Vec<SavedQueue>,
    #[prost(message, optional, tag = "20")]
    taken: Option<SavedTaken>,
    #[prost(message, repeated, tag = "21")]
    kept: Vec<KeptRecord>,
}

/// The bytes are not a saved state.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Unloadable {
    #[error(transparent)]
    Form(#[from] prost::DecodeError),
    #[error(transparent)]
    Queue(#[from] Damaged),
    #[error("the list of dead letters that are gone is damaged")]
    Taken,
}

/// What the header of a batch says of its producer, if it has one.
pub(crate) fn origin_of(header: &BatchHeader) -> Option<Origin> {
    (header.producer_id >= 0).then_some(Origin {
        producer_id: header.producer_id,
        epoch: header.producer_epoch,
        sequence: header.base_sequence,
        count: u32::try_from(header.count).unwrap_or(0),
    })
}

impl State {
    /// Applies one committed entry.
    pub(crate) fn apply(&mut self, data: &Data) -> Reply {
        match data.kind {
            Kind::Batch => self.apply_batch(&data.payload, data.flags),
            _ => self.apply_command(&data.payload),
        }
    }

    fn apply_batch(&mut self, bytes: &Bytes, flags: u8) -> Reply {
        let base_offset = self.next_offset;
        let Ok(header) = BatchHeader::read(bytes) else {
            // Storage verified the batch's frame when it was written and read.
            self.unreadable += 1;
            return Reply::Done;
        };
        self.next_offset += u64::from(header.last_offset_delta.unsigned_abs()) + 1;
        if let Some(origin) = origin_of(&header) {
            self.producers.record(origin, base_offset, self.now_ms);
        }
        if flags & FLAG_DEDUP != 0 {
            self.record_dedup_ids(bytes, base_offset);
        }
        Reply::Stored { base_offset }
    }

    fn record_dedup_ids(&mut self, bytes: &Bytes, base_offset: u64) {
        let records = Batch::check(bytes.clone()).and_then(|b| b.records(MAX_DECOMPRESSED_BYTES));
        let Ok(records) = records else {
            self.unreadable += 1;
            return;
        };
        for (record, offset) in records.map_while(Result::ok).zip(base_offset..) {
            if let Some(id) = attributes::dedup_id(&record) {
                self.dedup.record(id, offset, self.now_ms);
            }
        }
    }

    fn apply_command(&mut self, payload: &Bytes) -> Reply {
        match Command::decode(payload.as_ref())
            .ok()
            .and_then(|command| command.change)
        {
            Some(Change::Trim(offset)) => {
                let offset = offset.min(self.next_offset);
                self.log_start_offset = self.log_start_offset.max(offset);
                // Whoever trims means what is kept aside, too.
                self.kept.remove_below(offset);
                self.tell_start();
            }
            Some(Change::Tick(tick)) => {
                self.now_ms = self.now_ms.max(tick.now_ms);
                self.dedup.expire(self.now_ms, tick.dedup_window_ms);
            }
            Some(Change::Moves(moves)) => {
                let moved = self.positions.apply(&moves, self.next_offset);
                return Reply::Answer(moved.encode_to_vec().into());
            }
            Some(Change::Steps(steps)) => {
                let stepped = self.queues.apply(&steps, self.next_offset);
                return Reply::Answer(stepped.encode_to_vec().into());
            }
            Some(Change::Take(taking)) => {
                let taken = self.taken.apply(&taking, self.next_offset);
                return Reply::Answer(taken.encode_to_vec().into());
            }
            Some(Change::Cut(cut)) => {
                return Reply::Answer(self.cut(cut).encode_to_vec().into());
            }
            None => self.unreadable += 1,
        }
        Reply::Done
    }

    /// Moves the log's start, unless somebody needs what would be lost.
    fn cut(&mut self, cut: Cut) -> CutReply {
        let (start, before) = (self.log_start_offset, cut.before.min(self.next_offset));
        let mut keeps = Offsets::default();
        for record in &cut.keep {
            keeps.insert(record.offset);
        }
        let is_needed =
            || self.positions.any_before(before) || self.queues.needs_before(before, &keeps);
        let is_made = before > start && !is_needed();
        if is_made {
            self.log_start_offset = before;
            let keep = cut.keep.into_iter();
            for record in keep.filter(|record| (start..before).contains(&record.offset)) {
                self.kept.insert(record.offset, record.batch);
            }
        }
        if !cut.drop.is_empty() {
            let needed = self.queues.needed_of(self.kept.offsets());
            let dropped = cut.drop.into_iter().filter(|it| !needed.contains(*it));
            dropped.for_each(|offset| self.kept.remove(offset));
        }
        self.tell_start();
        CutReply { is_made }
    }

    /// Where the log begins, and what is kept of what lies below, for those who depend on it.
    fn tell_start(&mut self) {
        self.queues.trim(self.log_start_offset, self.kept.offsets());
        self.taken.trim(self.log_start_offset);
    }

    /// The state for a checkpoint.
    pub(crate) fn save(&self) -> Vec<u8> {
        SavedState {
            next_offset: self.next_offset,
            log_start_offset: self.log_start_offset,
            now_ms: self.now_ms,
            producers: self.producers.clone(),
            dedup: self.dedup.save(),
            positions: Some(self.positions.clone()),
            queues: self.queues.save(),
            taken: (self.taken != Taken::default()).then(|| self.taken.save()),
            kept: self.kept.save(),
        }
        .encode_to_vec()
    }

    /// The inverse of [`State::save`].
    ///
    /// # Errors
    /// If the bytes are not a saved state.
    pub(crate) fn load(bytes: &[u8]) -> Result<State, Unloadable> {
        let saved = SavedState::decode(bytes)?;
        let kept = Kept::load(saved.kept);
        Ok(State {
            next_offset: saved.next_offset,
            log_start_offset: saved.log_start_offset,
            now_ms: saved.now_ms,
            producers: saved.producers,
            dedup: Dedup::load(saved.dedup),
            positions: saved.positions.unwrap_or_default(),
            queues: Queues::load(saved.queues, saved.log_start_offset, kept.offsets())?,
            taken: match saved.taken {
                Some(saved) => Taken::load(saved).ok_or(Unloadable::Taken)?,
                None => Taken::default(),
            },
            kept,
            unreadable: 0,
        })
    }
}
