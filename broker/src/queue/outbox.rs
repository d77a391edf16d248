//! What steps have promised to publish and what is not in its topic yet; and which steps were
//! made. Pure.
//!
//! - The results for one target (a partition of a topic) are a *line*: numbers from 1, without
//!   gaps, in the order of the steps. The number is the sequence of the producer that publishes
//!   them, so each is in its topic exactly once.
//! - A line stays when all of it is written, because its numbers go on; it ends with its topic.
//! - A step is known by its first lease. Each of its verdicts ended a lease, so a step that comes
//!   again cannot be made again; but it is told from one that lost its leases.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;

use super::{
    command::{Status, Verdicts},
    parcel::{Parcel, Target, Written, WrittenLine},
    saved::{Damaged, MAX_NUMBER, Reader, put},
};
use crate::limits::MAX_STEPS_REMEMBERED;

/// A step, by the first message that it names and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepId {
    offset: u64,
    lease: u64,
    count: u64,
}

impl StepId {
    /// Of this many messages, of which this is the first.
    pub(crate) fn new((offset, lease): (u64, u64), count: u64) -> StepId {
        StepId {
            offset,
            lease,
            count,
        }
    }

    /// Of these verdicts; `None` if there are none.
    pub(crate) fn of(verdicts: &Verdicts) -> Option<StepId> {
        let first = verdicts.verdicts.first()?;
        let counts = verdicts.verdicts.iter().map(|verdict| verdict.count.max(1));
        Some(StepId {
            offset: first.first,
            lease: first.lease,
            count: counts.fold(0, u64::saturating_add),
        })
    }
}

/// The results for one target.
#[derive(Debug, Clone)]
struct Line {
    /// Number of the next one to come.
    next: u64,
    /// Those before it that are not written.
    waiting: VecDeque<Parcel>,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            next: 1,
            waiting: VecDeque::new(),
        }
    }
}

impl Line {
    fn written_to(&self) -> u64 {
        self.next - 1 - self.waiting.len() as u64
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) results: u64,
    /// With what each takes beside its own bytes.
    pub(crate) bytes: u64,
}

impl Waiting {
    pub(crate) fn add(&mut self, other: Waiting) {
        self.results += other.results;
        self.bytes += other.bytes;
    }

    pub(crate) fn of(parcels: &[Parcel]) -> Waiting {
        Waiting {
            results: parcels.len() as u64,
            bytes: parcels.iter().map(Parcel::cost).sum(),
        }
    }

    fn remove(&mut self, parcel: &Parcel) {
        self.results -= 1;
        self.bytes -= parcel.cost();
    }
}

/// Results on their way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    lines: BTreeMap<Target, Line>,
    waiting: Waiting,
    /// The latest, oldest first.
    steps: VecDeque<StepId>,
    written: u64,
    dropped: u64,
}

impl Outbox {
    /// Takes results in; answers the number of each.
    pub(super) fn add(&mut self, results: &[Parcel]) -> Vec<u64> {
        self.waiting.add(Waiting::of(results));
        let number = |parcel: &Parcel| {
            let line = self.lines.entry(parcel.target()).or_default();
            line.waiting.push_back(parcel.clone());
            line.next += 1;
            line.next - 1
        };
        results.iter().map(number).collect()
    }

    pub(super) fn remember(&mut self, step: StepId) {
        if self.steps.len() >= MAX_STEPS_REMEMBERED {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
    }

    /// Whether this step was made. Looks at all of them, newest first.
    pub(crate) fn knows(&self, step: &StepId) -> bool {
        self.steps.iter().rev().any(|known| known == step)
    }

    pub(super) fn note_written(&mut self, written: &Written) -> Status {
        // Of a line that ended meanwhile nothing is left to be said.
        let ahead = |line: &WrittenLine| {
            let known = self.lines.get(&line.target());
            known.is_some_and(|known| line.up_to >= known.next)
        };
        if written.lines.iter().any(ahead) {
            return Status::BeyondEnd;
        }
        for line in &written.lines {
            self.free(line);
        }
        Status::Done
    }

    fn free(&mut self, written: &WrittenLine) {
        let Some(line) = self.lines.get_mut(&written.target()) else {
            return;
        };
        while line.written_to() < written.up_to {
            let Some(parcel) = line.waiting.pop_front() else {
                break;
            };
            self.waiting.remove(&parcel);
            self.written += 1;
        }
        if line.waiting.is_empty() {
            line.waiting = VecDeque::new();
        }
        if written.is_gone {
            for parcel in &line.waiting {
                self.waiting.remove(parcel);
                self.dropped += 1;
            }
            self.lines.remove(&written.target());
        }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.waiting
    }

    /// Targets with something that waits.
    pub(crate) fn busy(&self) -> impl Iterator<Item = Target> + '_ {
        let busy = self.lines.iter().filter(|(_, it)| !it.waiting.is_empty());
        busy.map(|(target, _)| *target)
    }

    /// All targets that are remembered.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.lines.keys().copied()
    }

    pub(crate) fn has_target(&self, target: Target) -> bool {
        self.lines.contains_key(&target)
    }

    pub(crate) fn target_count(&self) -> usize {
        self.lines.len()
    }

    /// Of this target everything up to this number is known as written, and nothing above the
    /// other was ever promised; `None` for one that is not remembered.
    pub(crate) fn span(&self, target: Target) -> Option<(u64, u64)> {
        let line = self.lines.get(&target)?;
        Some((line.written_to(), line.next - 1))
    }

    /// What waits for this target from a number on, in order.
    pub(crate) fn parcels(&self, target: Target, from: u64) -> impl Iterator<Item = &Parcel> + '_ {
        let line = self.lines.get(&target);
        let skipped = line.map_or(0, |line| from.saturating_sub(line.written_to() + 1));
        let waiting = line.into_iter().flat_map(|line| &line.waiting);
        waiting.skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// Results that were published, and those whose topic was deleted before.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.written, self.dropped)
    }

    /// | field | form |
    /// |---|---|
    /// | written, dropped | varints |
    /// | targets | count, then topic, partition, next number, count of what waits each, and every parcel with its length |
    /// | steps | count, then offset, lease, messages each, oldest first |
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        put(out, self.written);
        put(out, self.dropped);
        put(out, self.lines.len() as u64);
        for (target, line) in &self.lines {
            put(out, target.topic_id);
            put(out, target.partition.into());
            put(out, line.next);
            put(out, line.waiting.len() as u64);
            for parcel in &line.waiting {
                let bytes = parcel.encode_to_vec();
                put(out, bytes.len() as u64);
                out.extend_from_slice(&bytes);
            }
        }
        put(out, self.steps.len() as u64);
        for step in &self.steps {
            put(out, step.offset);
            put(out, step.lease);
            put(out, step.count);
        }
    }

    /// The inverse of [`Outbox::save`]; leases up to `last_lease` were given.
    pub(super) fn load(reader: &mut Reader, last_lease: u64) -> Result<Outbox, Damaged> {
        const WHAT: &str = "outbox";
        let mut outbox = Outbox {
            written: reader.number(WHAT)?,
            dropped: reader.number(WHAT)?,
            ..Outbox::default()
        };
        for _ in 0..reader.number(WHAT)? {
            outbox.load_line(reader)?;
        }
        let steps = reader.number(WHAT)?;
        if steps > MAX_STEPS_REMEMBERED as u64 {
            return Err(Damaged(WHAT));
        }
        for _ in 0..steps {
            let step = StepId {
                offset: reader.number(WHAT)?,
                lease: reader.number(WHAT)?,
                count: reader.number(WHAT)?,
            };
            if step.lease > last_lease {
                return Err(Damaged(WHAT));
            }
            outbox.steps.push_back(step);
        }
        let possible = outbox.written <= MAX_NUMBER && outbox.dropped <= MAX_NUMBER;
        possible.then_some(outbox).ok_or(Damaged(WHAT))
    }

    fn load_line(&mut self, reader: &mut Reader) -> Result<(), Damaged> {
        const WHAT: &str = "results of a target";
        let target = Target {
            topic_id: reader.number(WHAT)?,
            partition: reader.small(WHAT)?,
        };
        let mut line = Line {
            next: reader.number(WHAT)?,
            waiting: VecDeque::new(),
        };
        let count = reader.number(WHAT)?;
        if line.next > MAX_NUMBER || line.next <= count {
            return Err(Damaged(WHAT));
        }
        for _ in 0..count {
            let len = reader.number(WHAT)?;
            let bytes = Bytes::copy_from_slice(reader.bytes(len, WHAT)?);
            let parcel = Parcel::decode(bytes).map_err(|_| Damaged(WHAT))?;
            if parcel.target() != target {
                return Err(Damaged(WHAT));
            }
            self.waiting.add(Waiting::of(std::slice::from_ref(&parcel)));
            line.waiting.push_back(parcel);
        }
        let follows = self.lines.keys().next_back().is_none_or(|k| *k < target);
        self.lines.insert(target, line);
        follows.then_some(()).ok_or(Damaged(WHAT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::command::Verdict;

    const TARGET: Target = Target {
        topic_id: 3,
        partition: 1,
    };

    fn parcel(topic_id: u64, value: &'static str) -> Parcel {
        Parcel {
            topic_id,
            partition: 1,
            value: Some(Bytes::from_static(value.as_bytes())),
            ..Parcel::default()
        }
    }

    fn written(up_to: u64, is_gone: bool) -> Written {
        let line = WrittenLine {
            topic_id: 3,
            partition: 1,
            up_to,
            is_gone,
        };
        Written { lines: vec![line] }
    }

    fn step(lease: u64) -> StepId {
        let verdict = |count| Verdict {
            first: 10,
            count,
            lease,
            action: None,
        };
        let verdicts = vec![verdict(3), verdict(0)];
        let verdicts = Verdicts {
            consumer: None,
            verdicts,
        };
        let id = StepId::of(&verdicts).unwrap();
        assert_eq!(id, StepId::new((10, lease), 4));
        id
    }

    fn again(outbox: &Outbox) -> Outbox {
        let mut saved = Vec::new();
        outbox.save(&mut saved);
        let mut reader = Reader(&saved);
        let loaded = Outbox::load(&mut reader, 1 << 40).unwrap();
        assert!(reader.0.is_empty());
        let mut twice = Vec::new();
        loaded.save(&mut twice);
        assert_eq!(saved, twice);
        assert_eq!(loaded.waiting(), outbox.waiting());
        loaded
    }

    #[test]
    fn numbers_of_each_target_have_no_gaps_and_go_on() {
        let mut outbox = Outbox::default();
        let some = [parcel(3, "a"), parcel(4, "b"), parcel(3, "c")];
        assert_eq!(outbox.add(&some), [1, 1, 2]);
        assert_eq!(outbox.span(TARGET), Some((0, 2)));
        assert_eq!(outbox.note_written(&written(3, false)), Status::BeyondEnd);
        assert_eq!(outbox.note_written(&written(1, false)), Status::Done);
        let mut outbox = again(&outbox);
        assert_eq!(outbox.waiting().results, 2);
        let left =
            |outbox: &Outbox, from| outbox.parcels(TARGET, from).cloned().collect::<Vec<_>>();
        assert_eq!(left(&outbox, 0), [parcel(3, "c")]);
        assert_eq!(left(&outbox, 3), []);
        // Said twice, and late.
        assert_eq!(outbox.note_written(&written(2, false)), Status::Done);
        assert_eq!(outbox.note_written(&written(1, false)), Status::Done);
        let mut outbox = again(&outbox);
        assert_eq!(outbox.add(&[parcel(3, "d")]), [3]);
        assert_eq!(outbox.busy().count(), 2);
        assert_eq!(outbox.totals(), (2, 0));
    }

    #[test]
    fn what_went_to_a_deleted_topic_is_counted_and_forgotten() {
        let mut outbox = Outbox::default();
        outbox.add(&[parcel(3, "a"), parcel(3, "b"), parcel(4, "c")]);
        assert_eq!(outbox.note_written(&written(1, true)), Status::Done);
        assert_eq!(outbox.totals(), (1, 1));
        assert!(!outbox.has_target(TARGET));
        assert_eq!(outbox.waiting(), Waiting::of(&[parcel(4, "c")]));
        assert_eq!(outbox.note_written(&written(9, true)), Status::Done);
    }

    #[test]
    fn the_latest_steps_are_known_by_first_lease_and_count() {
        let mut outbox = Outbox::default();
        for lease in 1..=MAX_STEPS_REMEMBERED as u64 + 1 {
            outbox.remember(step(lease));
        }
        let outbox = again(&outbox);
        assert!(outbox.knows(&step(2)) && !outbox.knows(&step(1)));
        let other = StepId {
            count: 1,
            ..step(2)
        };
        assert!(!outbox.knows(&other));
    }

    #[test]
    fn what_could_not_have_been_saved_is_refused() {
        let mut outbox = Outbox::default();
        outbox.add(&[parcel(3, "a")]);
        outbox.remember(step(7));
        let mut saved = Vec::new();
        outbox.save(&mut saved);
        assert!(
            Outbox::load(&mut Reader(&saved), 6).is_err(),
            "no such lease"
        );
        for len in 0..saved.len() {
            assert!(Outbox::load(&mut Reader(&saved[..len]), 7).is_err());
        }
        // The third byte counts the targets, the fourth is the topic of the first.
        saved[3] = 9;
        assert!(Outbox::load(&mut Reader(&saved), 7).is_err());
    }
}
