//! The saved form of a queue's state, version 2. Pure.
//!
//! | field | form |
//! |---|---|
//! | version | 1 byte |
//! | begun | 1 byte, 0 or 1 |
//! | epoch, time, start, trimmed to, floor, next lease, next dead, dead written | varints |
//! | counters | varints, as many as [`COUNTERS`] |
//! | settled above the floor | length as a varint, portable roaring treemap |
//! | parked keys | count as a varint, 8 bytes each, ascending |
//! | open messages | count, then each as below |
//! | error texts of open messages | count, then (offset, length, text) each |
//! | dead letters | each as below; numbers and count follow from the header |
//! | error texts of dead letters | count, then (number, length, text) each |
//! | histories of open messages | count, then (offset, length, bytes as in [`super::history`]) each; not in version 1 |
//! | histories of dead letters | count, then (number, length, bytes) each; not in version 1 |
//! | results and steps | see [`Outbox`]; not in version 1 |
//!
//! Offsets and numbers are differences to the one before; times and leases too, in zigzag. An
//! open message begins with a byte of flags (below) that leaves out what is as expected, so
//! most take 7 to 10 bytes.
//!
//! Loading refuses whatever could not have been saved, and allocates in proportion to the
//! bytes that are there.

use std::collections::{BTreeMap, BTreeSet};

use prost::encoding::{decode_varint, encode_varint};

use super::{
    command::{REASONS, Reason},
    history::Histories,
    leased::Leased,
    outbox::Outbox,
    pages::Pages,
    record::{Dead, Lease, MAX_TIME_MS, PackedDead, PackedRecord, Phase, Record},
    settled::Settled,
    state::{Counters, State},
};
use crate::limits::{MAX_FAILURE_BYTES, MAX_PARKED_KEYS};

const VERSION: u8 = 2;
/// The oldest that is read.
const OLDEST_VERSION: u8 = 1;
/// No count or number that begins at nothing comes near it; so what is loaded can still grow.
pub(super) const MAX_NUMBER: u64 = 1 << 62;
const COUNTERS: usize = 10 + REASONS;

/// The bytes are not a saved queue; says which part is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("saved queue: {0}")]
pub(crate) struct Damaged(pub(super) &'static str);

/// Flags of an open message. The phase is in the lowest two bits.
const RETRY: u8 = 1;
const LEASED: u8 = 2;
const DELAYED: u8 = 3;
const NEVER_FAILED: u8 = 1 << 2;
/// As many hand-outs as failed attempts, and one more if leased.
const USUAL_HAND_OUTS: u8 = 1 << 3;
const NEXT_LEASE: u8 = 1 << 4;
const SAME_DEADLINE: u8 = 1 << 5;
const SAME_CONSUMER: u8 = 1 << 6;

/// What differences are taken to: the values before.
#[derive(Default)]
struct Before {
    offset: u64,
    first_failure_ms: i64,
    at_ms: i64,
    lease: Option<Lease>,
}

pub(super) fn put(out: &mut Vec<u8>, value: u64) {
    encode_varint(value, out);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_texts(out: &mut Vec<u8>, texts: &BTreeMap<u64, Box<str>>) {
    put(out, texts.len() as u64);
    let mut before = 0;
    for (key, text) in texts {
        put(out, key - before);
        put_text(out, text);
        before = *key;
    }
}

fn put_histories(out: &mut Vec<u8>, histories: &BTreeMap<u64, Box<[u8]>>) {
    put(out, histories.len() as u64);
    let mut before = 0;
    for (key, history) in histories {
        put(out, key - before);
        put(out, history.len() as u64);
        out.extend_from_slice(history);
        before = *key;
    }
}

/// The rest of the bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self, what: &'static str) -> Result<u8, Damaged> {
        let (first, rest) = self.0.split_first().ok_or(Damaged(what))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self, what: &'static str) -> Result<u64, Damaged> {
        decode_varint(&mut self.0).map_err(|_| Damaged(what))
    }

    fn signed(&mut self, what: &'static str) -> Result<i64, Damaged> {
        let value = self.number(what)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The value before plus a difference.
    fn after(&mut self, before: u64, what: &'static str) -> Result<u64, Damaged> {
        let difference = self.number(what)?;
        before.checked_add(difference).ok_or(Damaged(what))
    }

    fn time_after(&mut self, before: i64, what: &'static str) -> Result<i64, Damaged> {
        let time_ms = before.wrapping_add(self.signed(what)?);
        let possible = (0..=MAX_TIME_MS).contains(&time_ms);
        possible.then_some(time_ms).ok_or(Damaged(what))
    }

    pub(super) fn small(&mut self, what: &'static str) -> Result<u32, Damaged> {
        u32::try_from(self.number(what)?).map_err(|_| Damaged(what))
    }

    pub(super) fn bytes(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], Damaged> {
        let len = usize::try_from(len).map_err(|_| Damaged(what))?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Damaged(what))?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Error texts; their keys must be in `known`.
    fn texts(
        &mut self,
        what: &'static str,
        known: impl Fn(u64) -> bool,
    ) -> Result<BTreeMap<u64, Box<str>>, Damaged> {
        let mut texts = BTreeMap::new();
        let mut key = 0;
        for _ in 0..self.number(what)? {
            key = self.after(key, what)?;
            let len = self.number(what)?;
            let text = std::str::from_utf8(self.bytes(len, what)?).map_err(|_| Damaged(what))?;
            let fits = known(key) && (1..=MAX_FAILURE_BYTES as u64).contains(&len);
            if !fits || texts.insert(key, text.into()).is_some() {
                return Err(Damaged(what));
            }
        }
        Ok(texts)
    }

    fn histories(&mut self) -> Result<BTreeMap<u64, Box<[u8]>>, Damaged> {
        const WHAT: &str = "histories";
        let (mut histories, mut key) = (BTreeMap::new(), 0);
        for _ in 0..self.number(WHAT)? {
            key = self.after(key, WHAT)?;
            let len = self.number(WHAT)?;
            let history = self.bytes(len, WHAT)?;
            if histories.insert(key, history.into()).is_some() {
                return Err(Damaged(WHAT));
            }
        }
        Ok(histories)
    }
}

impl Counters {
    fn to_array(self) -> [u64; COUNTERS] {
        let mut all = [0; COUNTERS];
        let (plain, dead) = all.split_at_mut(COUNTERS - REASONS);
        plain.copy_from_slice(&[
            self.acked,
            self.retried,
            self.released,
            self.expired,
            self.lost,
            self.discarded,
            self.cancelled,
            self.unmatched,
            self.trimmed,
            self.unparkable,
        ]);
        dead.copy_from_slice(&self.dead);
        all
    }

    fn from_array(all: [u64; COUNTERS]) -> Counters {
        let mut dead = [0; REASONS];
        dead.copy_from_slice(&all[COUNTERS - REASONS..]);
        Counters {
            acked: all[0],
            retried: all[1],
            released: all[2],
            expired: all[3],
            lost: all[4],
            discarded: all[5],
            cancelled: all[6],
            unmatched: all[7],
            trimmed: all[8],
            unparkable: all[9],
            dead,
        }
    }
}

fn put_record(out: &mut Vec<u8>, before: &mut Before, offset: u64, record: &Record) {
    put(out, offset - before.offset);
    before.offset = offset;
    let leased = record.lease();
    let mut flags = match record.phase {
        Phase::Ready => 0,
        Phase::Retry { .. } => RETRY,
        Phase::Leased(_) => LEASED,
        Phase::Delayed { .. } => DELAYED,
    };
    let usual = record.failed.checked_add(u32::from(leased.is_some()));
    let is_usual = usual == Some(record.hand_outs);
    flags |= if record.failed == 0 { NEVER_FAILED } else { 0 };
    flags |= if is_usual { USUAL_HAND_OUTS } else { 0 };
    if let (Some(lease), Some(known)) = (leased, before.lease) {
        let is_next = known.number.checked_add(1) == Some(lease.number);
        flags |= if is_next { NEXT_LEASE } else { 0 };
        let is_same = lease.deadline_ms == known.deadline_ms;
        flags |= if is_same { SAME_DEADLINE } else { 0 };
        let is_same = lease.consumer == known.consumer;
        flags |= if is_same { SAME_CONSUMER } else { 0 };
    }
    out.push(flags);
    if record.failed > 0 {
        put(out, record.failed.into());
        put_signed(out, record.first_failure_ms - before.first_failure_ms);
        before.first_failure_ms = record.first_failure_ms;
    }
    if !is_usual {
        put(out, record.hand_outs.into());
    }
    if let Phase::Retry { at_ms } | Phase::Delayed { until_ms: at_ms } = record.phase {
        put_signed(out, at_ms - before.at_ms);
        before.at_ms = at_ms;
    }
    if let Some(lease) = leased {
        if flags & NEXT_LEASE == 0 {
            put(out, lease.number);
        }
        if flags & SAME_DEADLINE == 0 {
            put_signed(out, lease.deadline_ms - before.at_ms);
        }
        if flags & SAME_CONSUMER == 0 {
            put(out, lease.consumer);
        }
        before.at_ms = lease.deadline_ms;
        before.lease = leased;
    }
}

fn read_record(reader: &mut Reader, before: &mut Before) -> Result<(u64, Record), Damaged> {
    const WHAT: &str = "open message";
    let offset = reader.after(before.offset, WHAT)?;
    before.offset = offset;
    let flags = reader.byte(WHAT)?;
    let mut record = Record::FRESH;
    if flags & NEVER_FAILED == 0 {
        record.failed = reader.small(WHAT)?;
        record.first_failure_ms = reader.time_after(before.first_failure_ms, WHAT)?;
        before.first_failure_ms = record.first_failure_ms;
    }
    let is_leased = flags & 3 == LEASED;
    record.hand_outs = if flags & USUAL_HAND_OUTS == 0 {
        reader.small(WHAT)?
    } else {
        let usual = record.failed.checked_add(u32::from(is_leased));
        usual.ok_or(Damaged(WHAT))?
    };
    record.phase = match flags & 3 {
        0 => Phase::Ready,
        RETRY => {
            before.at_ms = reader.time_after(before.at_ms, WHAT)?;
            Phase::Retry {
                at_ms: before.at_ms,
            }
        }
        LEASED => Phase::Leased(read_lease(reader, before, flags)?),
        _ => {
            before.at_ms = reader.time_after(before.at_ms, WHAT)?;
            Phase::Delayed {
                until_ms: before.at_ms,
            }
        }
    };
    Ok((offset, record))
}

fn read_lease(reader: &mut Reader, before: &mut Before, flags: u8) -> Result<Lease, Damaged> {
    const WHAT: &str = "lease";
    let known = |flag| match before.lease {
        Some(lease) if flags & flag != 0 => Ok(Some(lease)),
        None if flags & flag != 0 => Err(Damaged(WHAT)),
        _ => Ok(None),
    };
    let number = match known(NEXT_LEASE)? {
        Some(lease) => lease.number.checked_add(1).ok_or(Damaged(WHAT))?,
        None => reader.number(WHAT)?,
    };
    let deadline_ms = match known(SAME_DEADLINE)? {
        Some(lease) => lease.deadline_ms,
        None => reader.time_after(before.at_ms, WHAT)?,
    };
    let consumer = match known(SAME_CONSUMER)? {
        Some(lease) => lease.consumer,
        None => reader.number(WHAT)?,
    };
    let lease = Lease {
        number,
        deadline_ms,
        consumer,
    };
    before.at_ms = deadline_ms;
    before.lease = Some(lease);
    Ok(lease)
}

fn put_dead(out: &mut Vec<u8>, before: &mut Before, dead: &Dead) {
    out.push(dead.reason as u8);
    put_signed(out, dead.offset.wrapping_sub(before.offset) as i64);
    put(out, dead.failed.into());
    put(out, dead.hand_outs.into());
    put_signed(out, dead.first_failure_ms - before.first_failure_ms);
    put_signed(out, dead.died_ms - before.at_ms);
    before.offset = dead.offset;
    before.first_failure_ms = dead.first_failure_ms;
    before.at_ms = dead.died_ms;
}

fn read_dead(reader: &mut Reader, before: &mut Before) -> Result<Dead, Damaged> {
    const WHAT: &str = "dead letter";
    let reason = Reason::try_from(i32::from(reader.byte(WHAT)?));
    let dead = Dead {
        reason: reason.map_err(|_| Damaged(WHAT))?,
        offset: before.offset.wrapping_add(reader.signed(WHAT)? as u64),
        failed: reader.small(WHAT)?,
        hand_outs: reader.small(WHAT)?,
        first_failure_ms: reader.time_after(before.first_failure_ms, WHAT)?,
        died_ms: reader.time_after(before.at_ms, WHAT)?,
    };
    before.offset = dead.offset;
    before.first_failure_ms = dead.first_failure_ms;
    before.at_ms = dead.died_ms;
    Ok(dead)
}

impl State {
    /// The state for a checkpoint. The same state has the same bytes.
    pub(crate) fn save(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.begun)];
        for value in [
            self.epoch,
            self.now_ms.max(0) as u64,
            self.start,
            self.trimmed_to,
            self.settled.floor(),
            self.next_lease,
            self.next_dead,
            self.dead_written,
        ] {
            put(&mut out, value);
        }
        for value in self.counters.to_array() {
            put(&mut out, value);
        }
        let mut settled = Vec::new();
        self.settled.save(&mut settled);
        put(&mut out, settled.len() as u64);
        out.append(&mut settled);
        put(&mut out, self.parked.len() as u64);
        for key in &self.parked {
            out.extend_from_slice(&key.to_le_bytes());
        }
        put(&mut out, self.open.len() as u64);
        let mut before = Before::default();
        for (offset, record) in self.open(0) {
            put_record(&mut out, &mut before, offset, &record);
        }
        put_texts(&mut out, &self.errors);
        let mut before = Before::default();
        for (_, dead) in self.dead_letters(0) {
            put_dead(&mut out, &mut before, &dead);
        }
        put_texts(&mut out, &self.dead_errors);
        for histories in self.histories.saved() {
            put_histories(&mut out, histories);
        }
        self.outbox.save(&mut out);
        out
    }

    /// The inverse of [`State::save`].
    ///
    /// # Errors
    /// If the bytes are not a saved state.
    pub(crate) fn load(bytes: &[u8]) -> Result<State, Damaged> {
        let mut reader = Reader(bytes);
        let version = reader.byte("version")?;
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            return Err(Damaged("unknown version"));
        }
        let mut state = State {
            begun: match reader.byte("begun")? {
                0 => false,
                1 => true,
                _ => return Err(Damaged("begun")),
            },
            epoch: reader.number("epoch")?,
            now_ms: i64::try_from(reader.number("time")?).map_err(|_| Damaged("time"))?,
            start: reader.number("start")?,
            trimmed_to: reader.number("trimmed to")?,
            ..State::default()
        };
        let floor = reader.number("floor")?;
        state.next_lease = reader.number("next lease")?;
        state.next_dead = reader.number("next dead letter")?;
        state.dead_written = reader.number("dead letters written")?;
        let mut counters = [0; COUNTERS];
        for counter in &mut counters {
            *counter = reader.number("counters")?;
        }
        let grown = [state.epoch, state.next_lease, state.next_dead]
            .into_iter()
            .chain(counters);
        if state.next_lease == 0 || grown.max() > Some(MAX_NUMBER) {
            return Err(Damaged("numbers"));
        }
        state.counters = Counters::from_array(counters);
        let len = reader.number("settled")?;
        let settled = Settled::load(floor, reader.bytes(len, "settled")?);
        state.settled = settled.ok_or(Damaged("settled"))?;
        state.load_parked(&mut reader)?;
        state.load_open(&mut reader)?;
        state.load_dead(&mut reader)?;
        if version > 1 {
            state.load_histories(&mut reader)?;
            state.outbox = Outbox::load(&mut reader, state.next_lease - 1)?;
        }
        reader
            .0
            .is_empty()
            .then_some(state)
            .ok_or(Damaged("length"))
    }

    fn load_parked(&mut self, reader: &mut Reader) -> Result<(), Damaged> {
        const WHAT: &str = "parked keys";
        let count = reader.number(WHAT)?;
        if count > MAX_PARKED_KEYS as u64 {
            return Err(Damaged(WHAT));
        }
        let keys = reader.bytes(count * 8, WHAT)?.as_chunks().0;
        self.parked = keys
            .iter()
            .map(|key| u64::from_le_bytes(*key))
            .collect::<BTreeSet<_>>();
        let is_whole = self.parked.len() as u64 == count;
        is_whole.then_some(()).ok_or(Damaged(WHAT))
    }

    fn load_open(&mut self, reader: &mut Reader) -> Result<(), Damaged> {
        const WHAT: &str = "open messages";
        let mut before = Before::default();
        let mut open: Pages<PackedRecord> = Pages::default();
        let mut leased = Leased::default();
        let mut last = None;
        for _ in 0..reader.number(WHAT)? {
            let (offset, record) = read_record(reader, &mut before)?;
            let follows = last.replace(offset).is_none_or(|last| offset > last);
            let lease = record.lease();
            let is_given = lease.is_none_or(|lease| lease.number < self.next_lease);
            if !follows || !is_given || offset == u64::MAX || self.settled.contains(offset) {
                return Err(Damaged(WHAT));
            }
            if let Some(lease) = lease {
                leased.add(offset..offset + 1, lease.consumer, lease.deadline_ms);
            }
            open.insert(offset, record.into());
        }
        let errors = reader.texts("error texts", |offset| open.get(offset).is_some())?;
        (self.open, self.leased, self.errors) = (open, leased, errors);
        Ok(())
    }

    fn load_dead(&mut self, reader: &mut Reader) -> Result<(), Damaged> {
        const WHAT: &str = "dead letters";
        if self.dead_written >= self.next_dead {
            return Err(Damaged(WHAT));
        }
        let mut before = Before::default();
        let mut dead: Pages<PackedDead> = Pages::default();
        for number in self.dead_written + 1..self.next_dead {
            dead.insert(number, read_dead(reader, &mut before)?.into());
        }
        let errors = reader.texts("error texts", |number| dead.get(number).is_some())?;
        (self.dead, self.dead_errors) = (dead, errors);
        Ok(())
    }

    fn load_histories(&mut self, reader: &mut Reader) -> Result<(), Damaged> {
        let saved = [reader.histories()?, reader.histories()?];
        let open = |offset| Some(Record::from(self.open.get(offset)?).failed);
        let dead = |number| Some(Dead::from(self.dead.get(number)?).failed);
        let histories = Histories::restore(saved, [&open, &dead]);
        self.histories = histories.ok_or(Damaged("histories"))?;
        Ok(())
    }
}
