//! Keys of which something is in flight, waits or failed: who of a key may go. Pure.
//!
//! A key has a place here only while it needs one. Its messages that wait behind another are a
//! *line*: sets of offsets, by priority. When the key has room, the first of its line (of the
//! highest priority, then by offset) is *called*: it is ready again and takes part like any
//! other, and the others stay in the line.
//!
//! With `BlockKey` and `ParkKey` a message that failed *holds* its key: until it is done, dead
//! or given back, only it may go (of several, after a change of policy, the lowest).

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::offsets::Offsets;

/// Whether a message may be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Yes, and it counts as in flight now.
    Go,
    /// Not before another one of its key.
    Wait,
    /// Never, as long as its key is parked.
    Parked,
}

#[derive(Debug, Default)]
struct Key {
    in_flight: u64,
    holders: BTreeSet<u64>,
    /// Called out of the line, and not handed out yet; with their priorities.
    called: BTreeMap<u64, u8>,
    line: BTreeMap<u8, Offsets>,
}

/// The keys of one queue, by hash.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Messages of a key in flight; `u64::MAX` where keys do not matter.
    limit: u64,
    failed_ones_hold: bool,
    parked: BTreeSet<u64>,
    keys: BTreeMap<u64, Key>,
}

impl Key {
    fn is_idle(&self) -> bool {
        self.in_flight == 0
            && self.holders.is_empty()
            && self.called.is_empty()
            && self.line.is_empty()
    }

    fn take_from_line(&mut self, priority: u8, offset: u64) -> bool {
        let Some(line) = self.line.get_mut(&priority) else {
            return false;
        };
        let taken = line.remove(offset);
        if line.is_empty() {
            self.line.remove(&priority);
        }
        taken
    }

    fn first_of_line(&self) -> Option<(u64, u8)> {
        let (priority, line) = self.line.last_key_value()?;
        Some((line.first()?, *priority))
    }

    fn in_line(&self, offset: u64) -> Option<u8> {
        let mut lines = self.line.iter();
        let found = lines.find(|(_, line)| line.contains(offset));
        found.map(|(priority, _)| *priority)
    }

    /// How many of those that were called have their turn before this one.
    fn called_before(&self, offset: u64, priority: u8) -> u64 {
        let precedes = |(called, level): &(&u64, &u8)| {
            **level > priority || (**level == priority && **called < offset)
        };
        self.called.iter().filter(precedes).count() as u64
    }

    /// Who is to be called next, if the key has room. One that stands before those that were
    /// called is called too.
    fn next(&self, limit: u64) -> Option<(u64, u8)> {
        if self.in_flight >= limit {
            return None;
        }
        if let Some(holder) = self.holders.first() {
            return Some((*holder, self.in_line(*holder)?));
        }
        let (offset, priority) = self.first_of_line()?;
        let before = self.called_before(offset, priority);
        (self.in_flight + before < limit).then_some((offset, priority))
    }
}

impl Keys {
    pub(super) fn new(limit: u64, failed_ones_hold: bool, parked: BTreeSet<u64>) -> Keys {
        Keys {
            limit,
            failed_ones_hold,
            parked,
            keys: BTreeMap::new(),
        }
    }

    /// Whether keys matter at all.
    pub(super) fn matter(&self) -> bool {
        self.limit < u64::MAX
    }

    /// A message is about to be handed out.
    pub(super) fn take(&mut self, key: u64, priority: u8, offset: u64) -> Gate {
        if self.parked.contains(&key) {
            if let Some(entry) = self.keys.get_mut(&key) {
                entry.called.remove(&offset);
            }
            return Gate::Parked;
        }
        let entry = self.keys.entry(key).or_default();
        entry.called.remove(&offset);
        // A holder waits for nobody, and all others for it.
        let before = match entry.holders.first() {
            Some(holder) if *holder == offset => 0,
            Some(_) => return Gate::Wait,
            None => entry.called_before(offset, priority),
        };
        if entry.in_flight + before >= self.limit {
            return Gate::Wait;
        }
        entry.in_flight += 1;
        Gate::Go
    }

    /// A message is in flight, whoever handed it out.
    pub(super) fn force(&mut self, key: u64, offset: u64) {
        let entry = self.keys.entry(key).or_default();
        entry.called.remove(&offset);
        entry.in_flight += 1;
    }

    /// Puts a message into its key's line.
    pub(super) fn queue(&mut self, key: u64, priority: u8, offset: u64) {
        let entry = self.keys.entry(key).or_default();
        entry.line.entry(priority).or_default().insert(offset);
    }

    /// A message of this key came back from flight.
    pub(super) fn land(&mut self, key: u64) {
        if let Some(entry) = self.keys.get_mut(&key) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
    }

    /// A message waits for its retry, and holds its key if the policy says so.
    pub(super) fn hold(&mut self, key: u64, offset: u64) {
        if self.failed_ones_hold {
            self.keys.entry(key).or_default().holders.insert(offset);
        }
    }

    /// A message holds its key no more.
    pub(super) fn let_go(&mut self, key: u64, offset: u64) {
        if let Some(entry) = self.keys.get_mut(&key) {
            entry.holders.remove(&offset);
        }
    }

    /// A message is gone for good; it was not in flight.
    pub(super) fn remove(&mut self, key: u64, priority: u8, offset: u64) {
        if let Some(entry) = self.keys.get_mut(&key) {
            entry.holders.remove(&offset);
            entry.called.remove(&offset);
            entry.take_from_line(priority, offset);
        }
    }

    /// Calls the next of a key's line, if there is room; to be repeated until there is none.
    /// Forgets the key when nothing is left of it.
    pub(super) fn call(&mut self, key: u64) -> Option<(u64, u8)> {
        let limit = self.limit;
        let entry = self.keys.get_mut(&key)?;
        let Some((offset, priority)) = entry.next(limit) else {
            if entry.is_idle() {
                self.keys.remove(&key);
            }
            return None;
        };
        entry.take_from_line(priority, offset);
        entry.called.insert(offset, priority);
        Some((offset, priority))
    }

    /// Parks a key; returns the messages of its line, which has none from now on.
    pub(super) fn park(&mut self, key: u64) -> Vec<(Range<u64>, u8)> {
        self.parked.insert(key);
        let Some(entry) = self.keys.get_mut(&key) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (priority, mut line) in std::mem::take(&mut entry.line) {
            while let Some(run) = line.take_run(u64::MAX) {
                out.push((run, priority));
            }
        }
        out
    }

    pub(super) fn unpark(&mut self, key: u64) {
        self.parked.remove(&key);
    }

    pub(super) fn is_parked(&self, key: u64) -> bool {
        self.parked.contains(&key)
    }

    /// Removes everything below `to` that is not in flight; returns the keys, each of which may have
    /// become idle.
    pub(super) fn trim(&mut self, to: u64) -> Vec<u64> {
        for entry in self.keys.values_mut() {
            entry.holders = entry.holders.split_off(&to);
            entry.called = entry.called.split_off(&to);
            entry.line.retain(|_, line| {
                line.remove_range(0..to);
                !line.is_empty()
            });
        }
        self.keys.keys().copied().collect()
    }

    /// In whose line a message waits, and with which priority. Looks at all lines.
    pub(super) fn find(&self, offset: u64) -> Option<(u64, u8)> {
        let mut keys = self.keys.iter();
        keys.find_map(|(key, entry)| Some((*key, entry.in_line(offset)?)))
    }

    /// How many keys have a place here.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes that the keys take, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let lines = self.keys.values().flat_map(|key| key.line.values());
        let lines = lines.map(|line| line.bytes() + 64).sum::<usize>();
        lines + self.keys.len() * (size_of::<Key>() + 8) * 2 + self.parked.len() * 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_key_goes_at_a_time_and_the_line_is_in_order() {
        let mut keys = Keys::new(1, false, BTreeSet::new());
        assert_eq!(keys.take(7, 4, 1), Gate::Go);
        for offset in [3, 2] {
            assert_eq!(keys.take(7, 4, offset), Gate::Wait);
            keys.queue(7, 4, offset);
        }
        assert_eq!(keys.take(8, 4, 4), Gate::Go);
        assert_eq!(keys.call(7), None);
        keys.land(7);
        assert_eq!((keys.call(7), keys.call(7)), (Some((2, 4)), None));
        assert_eq!(keys.take(7, 4, 2), Gate::Go);
        keys.land(7);
        assert_eq!((keys.call(7), keys.take(7, 4, 3)), (Some((3, 4)), Gate::Go));
        keys.land(7);
        assert_eq!((keys.call(7), keys.len()), (None, 1));
    }

    #[test]
    fn a_failed_message_holds_its_key() {
        let mut keys = Keys::new(1, true, BTreeSet::new());
        assert_eq!(keys.take(7, 4, 5), Gate::Go);
        keys.land(7);
        keys.hold(7, 5);
        assert_eq!(keys.take(7, 4, 2), Gate::Wait);
        keys.queue(7, 4, 2);
        assert_eq!(keys.call(7), None);
        assert_eq!(keys.take(7, 4, 5), Gate::Go);
        keys.land(7);
        keys.let_go(7, 5);
        assert_eq!(keys.call(7), Some((2, 4)));
    }

    #[test]
    fn a_parked_key_gives_up_its_line() {
        let mut keys = Keys::new(1, true, BTreeSet::new());
        keys.take(7, 4, 1);
        keys.queue(7, 4, 3);
        assert_eq!(keys.park(7), [(3..4, 4)]);
        assert_eq!(keys.take(7, 4, 5), Gate::Parked);
        keys.unpark(7);
        keys.land(7);
        assert_eq!(keys.take(7, 4, 5), Gate::Go);
    }
}
