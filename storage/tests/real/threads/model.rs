//! What one log must hold, kept beside it by the threads that change it.

use std::collections::BTreeMap;

use aqueduct_proto::batch::BatchHeader;
use aqueduct_proto::compression::Compression;
use aqueduct_proto::crc::crc32c;
use aqueduct_proto::record::BatchBuilder;
use aqueduct_storage::sim_disk::Chance;
use aqueduct_storage::{EntryId, Kind, Log, NewEntry};
use bytes::Bytes;

/// Base offset and leader epoch are storage's; everything behind them is the publisher's.
const OURS: usize = 16;

/// An entry as it was appended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) id: EntryId,
    pub(crate) kind: Kind,
    pub(crate) base_offset: u64,
    pub(crate) offsets: u64,
    len: usize,
    sum: u32,
}

impl Item {
    /// Whether these are the bytes of the entry.
    pub(crate) fn is(&self, payload: &Bytes) -> bool {
        self.len == payload.len() && self.sum == sum_of(self.kind, payload)
    }
}

fn sum_of(kind: Kind, payload: &Bytes) -> u32 {
    let from = if kind == Kind::Batch { OURS } else { 0 };
    crc32c(&payload[from..])
}

/// A log as it must be.
#[derive(Default)]
pub(crate) struct Model {
    /// By index.
    pub(crate) items: BTreeMap<u64, Item>,
    /// Indexes of batches by base offset.
    pub(crate) batches: BTreeMap<u64, u64>,
    pub(crate) last: Option<EntryId>,
    pub(crate) next_offset: u64,
    pub(crate) first_offset: u64,
    /// Never truncated: its last entry and the offset after it.
    pub(crate) committed: Option<EntryId>,
    pub(crate) committed_offset: u64,
    pub(crate) purged: Option<EntryId>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) term: u64,
}

impl Model {
    fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Makes the next entry. The stamp of each record is its offset.
    pub(crate) fn new_entry(&mut self, chance: &mut Chance) -> NewEntry {
        let id = EntryId {
            term: self.term,
            leader: 3,
            index: self.next_index(),
        };
        let size = [20, 300, 4_000, 70_000][chance.below(4) as usize];
        let (kind, payload, offsets) = match chance.below(8) {
            0 => (Kind::Blank, Bytes::new(), 0),
            1 => (Kind::Command, noise(chance, size), 0),
            _ => {
                let count = 1 + chance.below(3);
                let mut builder = BatchBuilder::new(Compression::None);
                for n in 0..count {
                    let stamp = (self.next_offset + n) as i64;
                    builder.push(stamp, None, Some(&noise(chance, size)), &[]);
                }
                (Kind::Batch, builder.finish().unwrap(), count)
            }
        };
        let item = Item {
            id,
            kind,
            base_offset: self.next_offset,
            offsets,
            len: payload.len(),
            sum: sum_of(kind, &payload),
        };
        if kind == Kind::Batch {
            self.batches.insert(self.next_offset, id.index);
        }
        self.items.insert(id.index, item);
        self.last = Some(id);
        self.next_offset += offsets;
        NewEntry {
            id,
            kind,
            flags: 0,
            payload,
        }
    }

    /// Nothing that is there now will be truncated.
    pub(crate) fn commit(&mut self) {
        (self.committed, self.committed_offset) = (self.last, self.next_offset);
    }

    /// Forgets what comes after an index that is held.
    pub(crate) fn truncate_after(&mut self, keep: u64) {
        let gone = self.items.split_off(&(keep + 1));
        if let Some(first) = gone.values().next() {
            self.next_offset = first.base_offset;
            self.batches.split_off(&first.base_offset);
        }
        let kept = self.items.last_key_value().map(|(_, item)| item.id);
        self.last = kept.or(self.purged);
        self.term += 1;
    }

    pub(crate) fn purge(&mut self, upto: EntryId) {
        let kept = self.items.split_off(&(upto.index + 1));
        self.items = kept;
        let first = self.items.values().next();
        self.first_offset = first.map_or(self.next_offset, |item| item.base_offset);
        self.batches = self.batches.split_off(&self.first_offset);
        self.purged = Some(upto);
    }

    /// Compares batches from a read that began at `from`; what was purged meanwhile is passed.
    pub(crate) fn check_batches(&self, from: u64, batches: &[Bytes]) {
        let mut next = from;
        for batch in batches {
            let header = BatchHeader::read(batch).unwrap();
            let base = header.base_offset as u64;
            let after = base + header.last_offset_delta as u64 + 1;
            assert!(base <= next && next < after, "{next} in {base}..{after}");
            next = after;
            if base < self.first_offset {
                continue;
            }
            let index = self.batches.get(&base);
            let item = &self.items[index.unwrap_or_else(|| panic!("a batch at {base}"))];
            assert_eq!(header.leader_epoch as u64, item.id.term, "epoch at {base}");
            assert!(item.is(batch), "another batch at {base}");
        }
        assert!(!batches.is_empty(), "nothing at {from}");
    }

    /// Compares everything; nobody else is at work.
    pub(crate) fn check_all(&self, log: &Log) {
        assert!(log.damage().is_empty(), "damage: {:?}", log.damage());
        assert_eq!(log.last_id(), self.last, "last id");
        assert_eq!(log.purged_id(), self.purged, "purged");
        assert_eq!(log.next_offset(), self.next_offset, "next offset");
        assert_eq!(log.vote(), self.vote, "vote");
        let mut next = self.items.keys().next().copied().unwrap_or(0);
        let mut items = self.items.values();
        while items.len() > 0 {
            let entries = log.read_entries(next..u64::MAX, 1 << 20).unwrap();
            assert!(!entries.is_empty(), "entries from {next} on are missing");
            next += entries.len() as u64;
            for entry in entries {
                let item = items.next().expect("no more entries than were appended");
                assert_eq!((entry.id, entry.kind), (item.id, item.kind));
                assert_eq!(entry.base_offset, item.base_offset);
                assert!(item.is(&entry.payload), "another payload at {:?}", item.id);
            }
        }
        let mut from = log.first_offset();
        assert_eq!(from, self.first_offset, "first offset");
        while from < self.next_offset {
            let plan = log.plan_read(from, self.next_offset, 1 << 20).unwrap();
            let batches = crate::run(plan).unwrap();
            self.check_batches(from, &batches);
            let last = BatchHeader::read(batches.last().unwrap()).unwrap();
            from = last.base_offset as u64 + last.last_offset_delta as u64 + 1;
        }
    }
}

fn noise(chance: &mut Chance, size: u64) -> Bytes {
    let words = chance.below(size / 8 + 1) + 1;
    let noise: Vec<u8> = (0..words)
        .flat_map(|_| chance.number().to_le_bytes())
        .collect();
    Bytes::from(noise)
}
