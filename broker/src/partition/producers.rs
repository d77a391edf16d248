//! Idempotent producers of one partition: which sequences are stored, and where. Pure.
//!
//! A producer numbers its messages per partition from 0 on, modulo 2^31. The table keeps the
//! number that comes next, and for the latest runs of messages the offsets they got, so that a
//! batch that is sent again is answered with the offset of its first time. Consecutive batches
//! at consecutive offsets are one run.
//!
//! A named producer's numbers go on across its epochs and are kept for ever. A nameless one that
//! is not in the table (new, or long unseen) may begin anywhere.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    limits::{MAX_PRODUCER_RUNS, MAX_PRODUCERS_PER_PARTITION},
    metadata::state::is_named,
};

/// Sequences count modulo this.
const WRAP: u64 = 1 << 31;

/// What a batch says of its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    /// Sequence of the batch's first message.
    pub(crate) sequence: i32,
    /// Messages in the batch.
    pub(crate) count: u32,
}

/// Whether a batch may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    Store,
    /// It is stored already, from this offset on.
    Duplicate { base_offset: u64 },
    /// It is stored already; where is forgotten.
    TooOld,
    /// Something before it is missing, or it overlaps what is stored.
    Gap { expected: i32 },
    /// A newer epoch has written since.
    Fenced { current: i16 },
}

/// Messages with consecutive numbers at consecutive offsets.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Run {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(uint64, tag = "3")]
    count: u64,
}

/// One producer.
#[derive(Clone, PartialEq, Eq, Message)]
struct Producer {
    #[prost(int32, tag = "1")]
    epoch: i32,
    /// Number of the next message, not wrapped.
    #[prost(uint64, tag = "2")]
    next: u64,
    /// Oldest first.
    #[prost(message, repeated, tag = "3")]
    runs: Vec<Run>,
    /// When it last stored something, in the machine's time.
    #[prost(int64, tag = "4")]
    seen_ms: i64,
    /// Number of the first message seen of it: what lies below was never stored here.
    #[prost(uint64, tag = "5")]
    first: u64,
}

/// All producers of a partition.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Producers {
    #[prost(btree_map = "int64, message", tag = "1")]
    table: BTreeMap<i64, Producer>,
}

impl Producers {
    /// May this batch be stored?
    pub(crate) fn check(&self, origin: Origin) -> Verdict {
        let Some(producer) = self.table.get(&origin.producer_id) else {
            if is_named(origin.producer_id) && origin.sequence != 0 {
                return Verdict::Gap { expected: 0 };
            }
            return Verdict::Store;
        };
        // Names are fenced by the metadata, whose epochs start over; here only nameless ones.
        if !is_named(origin.producer_id) && i32::from(origin.epoch) < producer.epoch {
            return Verdict::Fenced {
                current: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
            };
        }
        producer.place(origin)
    }

    /// Notes that the batch is stored at `base_offset`.
    pub(crate) fn record(&mut self, origin: Origin, base_offset: u64, now_ms: i64) {
        let sequence = u64::from(origin.sequence.unsigned_abs());
        let known = self.table.len();
        let producer = self
            .table
            .entry(origin.producer_id)
            .or_insert_with(|| Producer {
                next: sequence,
                first: sequence,
                ..Producer::default()
            });
        producer.epoch = i32::from(origin.epoch);
        producer.seen_ms = now_ms;
        producer.store(u64::from(origin.count), base_offset);
        let is_new = self.table.len() > known;
        if is_new && !is_named(origin.producer_id) && known >= MAX_PRODUCERS_PER_PARTITION {
            self.forget_one_of_too_many(origin.producer_id);
        }
    }

    /// The number of the producer's next message and the offset of its last one.
    pub(crate) fn position(&self, producer_id: i64) -> Option<(u64, u64)> {
        let producer = self.table.get(&producer_id)?;
        let last = producer.runs.last()?;
        Some((producer.next, last.offset + last.count - 1))
    }

    /// Forgets the nameless producer that was unseen for longest, if there are too many. Named
    /// ones do not count: they stay, and must not drive out the others.
    fn forget_one_of_too_many(&mut self, except: i64) {
        let nameless = || self.table.iter().filter(|(id, _)| !is_named(**id));
        if nameless().count() <= MAX_PRODUCERS_PER_PARTITION {
            return;
        }
        let oldest = nameless()
            .filter(|(id, _)| **id != except)
            .min_by_key(|(id, producer)| (producer.seen_ms, **id))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.table.remove(&id);
        }
    }
}

impl Producer {
    fn place(&self, origin: Origin) -> Verdict {
        let expected = i32::try_from(self.next % WRAP).unwrap_or(0);
        let sequence = u64::from(origin.sequence.unsigned_abs());
        // How far before the next number the batch begins, if it lies in the past.
        let behind = (self.next % WRAP + WRAP - sequence) % WRAP;
        if behind == 0 {
            return Verdict::Store;
        }
        if behind > WRAP / 2 || behind > self.next || u64::from(origin.count) > behind {
            return Verdict::Gap { expected };
        }
        let number = self.next - behind;
        if number < self.first {
            return Verdict::Gap { expected };
        }
        let holds = |run: &&Run| run.number <= number && number < run.number + run.count;
        match self.runs.iter().rev().find(holds) {
            Some(run) if number + u64::from(origin.count) <= run.number + run.count => {
                Verdict::Duplicate {
                    base_offset: run.offset + (number - run.number),
                }
            }
            Some(_) => Verdict::Gap { expected },
            None => Verdict::TooOld,
        }
    }

    fn store(&mut self, count: u64, offset: u64) {
        match self.runs.last_mut() {
            Some(run) if run.offset + run.count == offset => run.count += count,
            _ => self.runs.push(Run {
                number: self.next,
                offset,
                count,
            }),
        }
        self.next += count;
        if self.runs.len() > MAX_PRODUCER_RUNS {
            self.runs.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(producer_id: i64, sequence: i32, count: u32) -> Origin {
        Origin {
            producer_id,
            epoch: 0,
            sequence,
            count,
        }
    }

    #[test]
    fn in_order_duplicates_and_gaps() {
        let mut producers = Producers::default();
        assert_eq!(
            producers.check(origin(3, 5, 1)),
            Verdict::Gap { expected: 0 }
        );
        assert_eq!(producers.check(origin(3, 0, 5)), Verdict::Store);
        producers.record(origin(3, 0, 5), 100, 1);
        assert_eq!(
            producers.check(origin(3, 0, 5)),
            Verdict::Duplicate { base_offset: 100 }
        );
        assert_eq!(
            producers.check(origin(3, 3, 2)),
            Verdict::Duplicate { base_offset: 103 }
        );
        assert_eq!(
            producers.check(origin(3, 3, 3)),
            Verdict::Gap { expected: 5 }
        );
        assert_eq!(
            producers.check(origin(3, 6, 1)),
            Verdict::Gap { expected: 5 }
        );
        producers.record(origin(3, 5, 5), 200, 2);
        assert_eq!(
            producers.check(origin(3, 5, 5)),
            Verdict::Duplicate { base_offset: 200 }
        );
        assert_eq!(
            producers.check(origin(3, 0, 10)),
            Verdict::Gap { expected: 10 }
        );
        assert_eq!(producers.position(3), Some((10, 204)));
    }

    #[test]
    fn a_nameless_producer_begins_anywhere_and_is_fenced_by_its_own_epoch() {
        let mut producers = Producers::default();
        assert_eq!(producers.check(origin(2, 77, 1)), Verdict::Store);
        producers.record(
            Origin {
                epoch: 1,
                ..origin(2, 77, 1)
            },
            0,
            1,
        );
        assert_eq!(
            producers.check(origin(2, 78, 1)),
            Verdict::Fenced { current: 1 }
        );
        assert_eq!(
            producers.check(Origin {
                epoch: 1,
                ..origin(2, 78, 1)
            }),
            Verdict::Store
        );
    }

    #[test]
    fn numbers_wrap_at_two_to_the_31() {
        let mut producers = Producers::default();
        producers.record(origin(2, i32::MAX - 1, 2), 10, 1);
        assert_eq!(producers.check(origin(2, 0, 1)), Verdict::Store);
        producers.record(origin(2, 0, 1), 12, 1);
        let duplicate = producers.check(origin(2, i32::MAX, 1));
        assert_eq!(duplicate, Verdict::Duplicate { base_offset: 11 });
        assert_eq!(producers.check(origin(2, 1, 1)), Verdict::Store);
    }

    #[test]
    fn what_lies_before_a_nameless_producers_first_number_was_never_stored() {
        let mut producers = Producers::default();
        producers.record(origin(2, 10, 5), 100, 1);
        let before = producers.check(origin(2, 8, 2));
        assert_eq!(before, Verdict::Gap { expected: 15 });
        let stored = producers.check(origin(2, 10, 1));
        assert_eq!(stored, Verdict::Duplicate { base_offset: 100 });
    }

    #[test]
    fn named_producers_do_not_drive_out_nameless_ones() {
        let mut producers = Producers::default();
        producers.record(origin(2, 0, 1), 0, 0);
        for i in 1..=MAX_PRODUCERS_PER_PARTITION as i64 {
            producers.record(origin(i * 2 + 1, 0, 1), 1, i);
        }
        assert!(producers.position(2).is_some());
    }

    #[test]
    fn old_runs_and_old_producers_are_forgotten_but_never_named_ones() {
        let mut producers = Producers::default();
        for i in 0..=(MAX_PRODUCER_RUNS as i32) {
            producers.record(origin(3, i, 1), u64::from(i.unsigned_abs()) * 2, 0);
        }
        assert_eq!(producers.check(origin(3, 0, 1)), Verdict::TooOld);
        assert_eq!(
            producers.check(origin(3, 1, 1)),
            Verdict::Duplicate { base_offset: 2 }
        );
        for i in 0..(MAX_PRODUCERS_PER_PARTITION as i64 + 5) {
            producers.record(origin((i + 10) * 2, 0, 1), 1_000, i + 1);
        }
        let nameless = producers.table.keys().filter(|id| !is_named(**id));
        assert_eq!(nameless.count(), MAX_PRODUCERS_PER_PARTITION);
        assert!(producers.position(3).is_some());
        assert!(
            producers.position(20).is_none(),
            "the oldest nameless one is gone"
        );
    }
}
