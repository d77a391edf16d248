//! The leased messages of a queue: which they are, whose, and when their leases end. Pure.
//!
//! All of it can be read out of the messages' records; it is kept so that nobody has to look
//! through a million of them for the few that a consumer holds, or whose time is over. Never
//! saved. It must be told of every lease that begins, ends or is prolonged, and always with the
//! consumer and deadline that the record has.

use std::{collections::BTreeMap, ops::Range};

use super::{
    offsets::Offsets,
    record::{Lease, MAX_TIME_MS, Record},
};

/// Leases in ranges of neighbours with the same consumer and deadline.
#[derive(Debug, Default)]
pub(super) struct Leases(Vec<(u64, i64, Range<u64>)>);

impl Leases {
    /// The lease of a message, if it has one.
    pub(super) fn note(&mut self, offset: u64, record: &Record) {
        if let Some(lease) = record.lease() {
            self.push(offset, &lease);
        }
    }

    fn push(&mut self, offset: u64, lease: &Lease) {
        let (consumer, deadline_ms) = (lease.consumer, kept(lease.deadline_ms));
        match self.0.last_mut() {
            Some((c, d, run)) if *c == consumer && *d == deadline_ms && run.end == offset => {
                run.end += 1;
            }
            _ => self.0.push((consumer, deadline_ms, offset..offset + 1)),
        }
    }
}

/// Which messages are leased.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Leased {
    all: Offsets,
    by_consumer: Marks,
    by_deadline: Marks,
}

/// A deadline as a record keeps it.
fn kept(deadline_ms: i64) -> i64 {
    deadline_ms.clamp(0, MAX_TIME_MS)
}

fn mark(deadline_ms: i64) -> u64 {
    kept(deadline_ms) as u64
}

impl Leased {
    /// A run is leased that was not.
    pub(super) fn add(&mut self, run: Range<u64>, consumer: u64, deadline_ms: i64) {
        self.all.insert_range(run.clone());
        self.by_consumer.insert(consumer, run.clone());
        self.by_deadline.insert(mark(deadline_ms), run);
    }

    /// These leases are over.
    pub(super) fn end(&mut self, ended: Leases) {
        for (consumer, deadline_ms, run) in ended.0 {
            self.all.remove_range(run.clone());
            self.by_consumer.remove(consumer, run.clone());
            self.by_deadline.remove(mark(deadline_ms), run);
        }
    }

    /// These leases last until a time, if that is later.
    pub(super) fn prolong(&mut self, prolonged: Leases, deadline_ms: i64) {
        for (_, before_ms, run) in prolonged.0 {
            if kept(deadline_ms) > before_ms {
                self.by_deadline.remove(mark(before_ms), run.clone());
                self.by_deadline.insert(mark(deadline_ms), run);
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.all.len()
    }

    /// In order, from an offset on.
    pub(super) fn iter_from(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        self.all.iter_from(from)
    }

    /// Of one consumer, in order.
    pub(super) fn of(&self, consumer: u64) -> impl Iterator<Item = u64> + '_ {
        self.by_consumer.under(consumer..=consumer)
    }

    pub(super) fn count_of(&self, consumer: u64) -> u64 {
        let marked = self.by_consumer.0.get(&consumer);
        marked.map_or(0, Marked::len)
    }

    pub(super) fn consumers(&self) -> impl Iterator<Item = u64> + '_ {
        self.by_consumer.0.keys().copied()
    }

    /// Those whose deadline has come, in order of deadlines.
    pub(super) fn due(&self, now_ms: i64) -> impl Iterator<Item = u64> + '_ {
        // The greatest time that is kept stands for all that are greater.
        let to = u64::try_from(now_ms).unwrap_or(0);
        let never = now_ms < 0;
        self.by_deadline.under(0..=to).filter(move |_| !never)
    }

    /// The earliest deadline after this time.
    pub(super) fn next_after(&self, now_ms: i64) -> Option<i64> {
        let from = u64::try_from(now_ms.saturating_add(1)).unwrap_or(0);
        let (next, _) = self.by_deadline.0.range(from..).next()?;
        i64::try_from(*next).ok()
    }

    /// Bytes that it takes, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.all.bytes() + self.by_consumer.bytes() + self.by_deadline.bytes()
    }
}

/// Offsets under numbers, each offset under one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Marks(BTreeMap<u64, Marked>);

/// What stands under a number. Mostly that is a run: of a call that got some messages, of the
/// entry that leased them.
#[derive(Debug, Clone)]
enum Marked {
    Run { first: u64, count: u32 },
    Many(Box<Offsets>),
}

impl Marks {
    fn insert(&mut self, number: u64, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        let known = self.0.entry(number);
        let known = known.or_insert(Marked::Run { first: 0, count: 0 });
        known.insert(run);
    }

    fn remove(&mut self, number: u64, run: Range<u64>) {
        if let Some(known) = self.0.get_mut(&number) {
            known.remove(run);
            if known.is_empty() {
                self.0.remove(&number);
            }
        }
    }

    fn under(&self, numbers: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = u64> + '_ {
        let marked = self.0.range(numbers);
        marked.flat_map(|(_, marked)| marked.offsets())
    }

    /// Bytes that they take, about: the half-full nodes of the tree, and the bitmaps'.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let many = self.0.values().map(|marked| match marked {
            Marked::Run { .. } => 0,
            Marked::Many(many) => many.bytes() + 400,
        });
        many.sum::<usize>() + self.0.len() * (size_of::<(u64, Marked)>()) * 3 / 2
    }
}

impl Marked {
    fn insert(&mut self, run: Range<u64>) {
        if let Marked::Run { first, count } = self {
            let end = *first + u64::from(*count);
            let joined = match *count {
                0 => Some(run.clone()),
                _ if end == run.start => Some(*first..run.end),
                _ if run.end == *first => Some(run.start..end),
                _ => None,
            };
            let fits = joined.and_then(|joined| {
                let count = u32::try_from(joined.end - joined.start).ok()?;
                Some((joined.start, count))
            });
            if let Some((first, count)) = fits {
                *self = Marked::Run { first, count };
                return;
            }
        }
        self.change(|many| _ = many.insert_range(run));
    }

    fn remove(&mut self, run: Range<u64>) {
        if let Marked::Run { first, count } = self {
            let end = *first + u64::from(*count);
            let left = match (run.start <= *first, run.end >= end) {
                (true, true) => Some(0..0),
                (true, false) => Some((*first).max(run.end)..end),
                (false, true) => Some(*first..end.min(run.start)),
                (false, false) => None,
            };
            if let Some(left) = left {
                *first = left.start;
                // No more than there were.
                *count = u32::try_from(left.end - left.start).unwrap_or(*count);
                return;
            }
        }
        self.change(|many| _ = many.remove_range(run));
    }

    /// Changes it as a set, which it is from now on.
    fn change(&mut self, change: impl FnOnce(&mut Offsets)) {
        match self {
            Marked::Many(many) => change(many),
            Marked::Run { first, count } => {
                let mut many = Offsets::default();
                many.insert_range(*first..*first + u64::from(*count));
                change(&mut many);
                *self = Marked::Many(Box::new(many));
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Marked::Run { count, .. } => *count == 0,
            Marked::Many(many) => many.is_empty(),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Marked::Run { count, .. } => u64::from(*count),
            Marked::Many(many) => many.len(),
        }
    }

    fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        let (run, many) = match self {
            Marked::Run { first, count } => (*first..first + u64::from(*count), None),
            Marked::Many(many) => (0..0, Some(many.iter_from(0))),
        };
        run.chain(many.into_iter().flatten())
    }
}

/// The same offsets, however they are kept.
impl PartialEq for Marked {
    fn eq(&self, other: &Marked) -> bool {
        self.offsets().eq(other.offsets())
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn it_agrees_with_a_plain_list() {
        let seed = super::super::testing::seed();
        for round in 0..200 {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
            let mut leased = Leased::default();
            let mut model: BTreeMap<u64, (u64, i64)> = BTreeMap::new();
            for _ in 0..60 {
                let first = random.random_range(0..40);
                let run = first..first + random.random_range(1..12);
                let lease = |(consumer, deadline_ms): (u64, i64)| Lease {
                    number: 0,
                    deadline_ms,
                    consumer,
                };
                let mut touched = Leases::default();
                for (offset, known) in model.range(run.clone()) {
                    touched.push(*offset, &lease(*known));
                }
                match random.random_range(0..3) {
                    0 if touched.0.is_empty() => {
                        let (consumer, deadline_ms) =
                            (random.random_range(0..4), random.random_range(-1..5));
                        leased.add(run.clone(), consumer, deadline_ms);
                        model.extend(run.map(|offset| (offset, (consumer, deadline_ms.max(0)))));
                    }
                    0 | 1 => {
                        leased.end(touched);
                        model.retain(|offset, _| !run.contains(offset));
                    }
                    _ => {
                        let deadline_ms = random.random_range(0..7);
                        leased.prolong(touched, deadline_ms);
                        let known = model.range_mut(run);
                        known.for_each(|(_, known)| known.1 = known.1.max(deadline_ms));
                    }
                }
                check(&leased, &model);
            }
        }
    }

    fn check(leased: &Leased, model: &BTreeMap<u64, (u64, i64)>) {
        let found = |wanted: &dyn Fn(&(u64, i64)) -> bool| {
            let found = model.iter().filter(|(_, known)| wanted(known));
            found.map(|(offset, _)| *offset).collect::<Vec<_>>()
        };
        assert_eq!(leased.iter_from(0).collect::<Vec<_>>(), found(&|_| true));
        for number in 0..4 {
            let held = found(&|known| known.0 == number);
            assert_eq!(leased.of(number).collect::<Vec<_>>(), held);
            assert_eq!(leased.count_of(number), held.len() as u64);
            assert_eq!(leased.consumers().any(|it| it == number), !held.is_empty());
        }
        for now_ms in -1..8 {
            let mut due: Vec<u64> = leased.due(now_ms).collect();
            due.sort_unstable();
            assert_eq!(due, found(&|known| known.1 <= now_ms));
            let next = model.values().map(|known| known.1);
            let next = next.filter(|at_ms| *at_ms > now_ms).min();
            assert_eq!(leased.next_after(now_ms), next);
        }
    }
}
