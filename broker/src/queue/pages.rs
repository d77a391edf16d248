//! A map from offsets to small values of one size: little room, quick in order. Pure.
//!
//! Values lie in pages of 128 neighbouring offsets; a page holds a bit for each offset and the
//! values of those that are present, in order and close together.

use std::{collections::BTreeMap, ops::Range};

const PAGE: u64 = 128;

/// A sorted map with `u64` keys.
#[derive(Debug, Clone)]
pub(crate) struct Pages<V> {
    pages: BTreeMap<u64, Page<V>>,
    len: usize,
}

impl<V> Default for Pages<V> {
    fn default() -> Pages<V> {
        Pages {
            pages: BTreeMap::new(),
            len: 0,
        }
    }
}

#[derive(Debug, Clone)]
struct Page<V> {
    /// Bit `i`: the page's offset `i` is present. As many bits as values.
    present: u128,
    values: Vec<V>,
}

impl<V: Copy> Page<V> {
    fn new() -> Page<V> {
        Page {
            present: 0,
            values: Vec::new(),
        }
    }

    fn has(&self, bit: u64) -> bool {
        self.present >> bit & 1 == 1
    }

    /// Where the value of this bit lies, or would.
    fn rank(&self, bit: u64) -> usize {
        (self.present & ((1 << bit) - 1)).count_ones() as usize
    }

    fn get(&self, bit: u64) -> Option<V> {
        self.has(bit).then(|| self.values[self.rank(bit)])
    }

    fn insert(&mut self, bit: u64, value: V) {
        if self.values.len() == self.values.capacity() {
            let more = (self.values.len() / 2).clamp(4, PAGE as usize - self.values.len());
            self.values.reserve_exact(more);
        }
        self.values.insert(self.rank(bit), value);
        self.present |= 1 << bit;
    }

    fn remove(&mut self, bit: u64) -> V {
        let value = self.values.remove(self.rank(bit));
        self.present &= !(1 << bit);
        self.give_back_room();
        value
    }

    /// What stays of a page whose values are mostly gone must not keep the room of all.
    fn give_back_room(&mut self) {
        let unused = self.values.capacity() - self.values.len();
        if unused >= (self.values.len() / 8).max(2) {
            // A copy and not a shrunken vector: allocators leave that where it is.
            self.values = Vec::from(self.values.as_slice());
        }
    }
}

/// Whether a visited value stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Visit {
    Keep,
    Remove,
}

/// The bits of `range` within page `key`; `range` touches the page.
fn bits_of(key: u64, range: &Range<u64>) -> Range<u64> {
    let first = key * PAGE;
    let start = range.start.max(first) - first;
    let end = range.end.min(first.saturating_add(PAGE)) - first;
    start..end
}

fn keys_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / PAGE..(range.end - 1) / PAGE + 1
}

impl<V: Copy> Pages<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, offset: u64) -> Option<V> {
        self.pages.get(&(offset / PAGE))?.get(offset % PAGE)
    }

    pub(crate) fn insert(&mut self, offset: u64, value: V) {
        let page = self.pages.entry(offset / PAGE).or_insert_with(Page::new);
        let bit = offset % PAGE;
        if page.has(bit) {
            let at = page.rank(bit);
            page.values[at] = value;
        } else {
            page.insert(bit, value);
            self.len += 1;
        }
    }

    pub(crate) fn remove(&mut self, offset: u64) -> Option<V> {
        let page = self.pages.get_mut(&(offset / PAGE))?;
        if !page.has(offset % PAGE) {
            return None;
        }
        let value = page.remove(offset % PAGE);
        self.len -= 1;
        if page.present == 0 {
            self.pages.remove(&(offset / PAGE));
        }
        Some(value)
    }

    /// Calls `each` for every offset of the range, present or not; a value it returns is put
    /// there, nothing leaves what is.
    pub(crate) fn fill(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(u64, Option<V>) -> Option<V>,
    ) {
        for key in keys_of(&range) {
            let page = self.pages.entry(key).or_insert_with(Page::new);
            for bit in bits_of(key, &range) {
                let known = page.get(bit);
                let Some(value) = each(key * PAGE + bit, known) else {
                    continue;
                };
                if known.is_some() {
                    let at = page.rank(bit);
                    page.values[at] = value;
                } else {
                    page.insert(bit, value);
                    self.len += 1;
                }
            }
            if page.present == 0 {
                self.pages.remove(&key);
            }
        }
    }

    /// Calls `each` for every value of the range in order; it may change the value or have it
    /// removed.
    pub(crate) fn visit(&mut self, range: Range<u64>, mut each: impl FnMut(u64, &mut V) -> Visit) {
        let mut emptied = Vec::new();
        for (&key, page) in self.pages.range_mut(keys_of(&range)) {
            let bits = bits_of(key, &range);
            let (mut from, mut to) = (page.rank(bits.start), page.rank(bits.start));
            let width = bits.end - bits.start;
            let mask = (u128::MAX >> (PAGE - width)) << bits.start;
            let mut left = page.present & mask;
            while left != 0 {
                let bit = u64::from(left.trailing_zeros());
                left &= left - 1;
                let visit = each(key * PAGE + bit, &mut page.values[from]);
                if visit == Visit::Keep {
                    page.values[to] = page.values[from];
                    to += 1;
                } else {
                    page.present &= !(1 << bit);
                }
                from += 1;
            }
            self.len -= page.values.drain(to..from).len();
            if page.present == 0 {
                emptied.push(key);
            } else if to < from {
                page.give_back_room();
            }
        }
        for key in emptied {
            self.pages.remove(&key);
        }
    }

    /// Removes a range.
    pub(crate) fn remove_range(&mut self, range: Range<u64>) {
        self.visit(range, |_, _| Visit::Remove);
    }

    /// The values at and after `from`, in order.
    pub(crate) fn iter_from(&self, from: u64) -> impl Iterator<Item = (u64, V)> + '_ {
        let pages = self.pages.range(from / PAGE..);
        pages
            .flat_map(|(&key, page)| {
                let bits = (0..PAGE).filter(|bit| page.has(*bit));
                let offsets = bits.map(move |bit| key * PAGE + bit);
                offsets.zip(page.values.iter().copied())
            })
            .skip_while(move |(offset, _)| *offset < from)
    }

    /// The last offset that has a value.
    pub(crate) fn last(&self) -> Option<u64> {
        let (key, page) = self.pages.last_key_value()?;
        Some(key * PAGE + u64::from(127 - page.present.leading_zeros()))
    }

    /// Bytes that the map takes, about: values, pages, and the half-full nodes of the tree.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        let values = |page: &Page<V>| page.values.capacity() * size_of::<V>() + 16;
        let page = (size_of::<Page<V>>() + 8) * 2;
        self.pages.values().map(values).sum::<usize>() + self.pages.len() * page
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn it_agrees_with_a_plain_map() {
        let seed = super::super::testing::seed();
        for round in 0..100 {
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
            let mut pages = Pages::default();
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for step in 0..300u32 {
                let first = random.random_range(0..300);
                let range = first..first + random.random_range(0..150);
                match random.random_range(0..5) {
                    0 => {
                        pages.insert(first, step);
                        model.insert(first, step);
                    }
                    1 => assert_eq!(pages.remove(first), model.remove(&first)),
                    2 => {
                        let odd = |offset: u64, known: Option<u32>| {
                            (offset % 3 == 1).then(|| known.unwrap_or(0) + 1)
                        };
                        pages.fill(range.clone(), odd);
                        for offset in range {
                            if let Some(value) = odd(offset, model.get(&offset).copied()) {
                                model.insert(offset, value);
                            }
                        }
                    }
                    3 => {
                        let mut seen = Vec::new();
                        pages.visit(range.clone(), |offset, value| {
                            seen.push((offset, *value));
                            *value += 1;
                            if offset % 4 == 0 {
                                Visit::Remove
                            } else {
                                Visit::Keep
                            }
                        });
                        let all: Vec<_> =
                            model.range(range.clone()).map(|(o, v)| (*o, *v)).collect();
                        assert_eq!(seen, all);
                        model.retain(|o, _| !range.contains(o) || o % 4 != 0);
                        model.range_mut(range).for_each(|(_, v)| *v += 1);
                    }
                    _ => assert_eq!(pages.get(first), model.get(&first).copied()),
                }
                assert_eq!(pages.len(), model.len());
                assert_eq!(pages.last(), model.keys().next_back().copied());
            }
            let all: Vec<_> = pages.iter_from(37).collect();
            let expected: Vec<_> = model.range(37..).map(|(o, v)| (*o, *v)).collect();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn the_last_offset_of_all_is_not_special() {
        let mut pages = Pages::default();
        pages.insert(u64::MAX - 1, 1);
        pages.visit(u64::MAX - 5..u64::MAX, |_, value| {
            *value = 2;
            Visit::Keep
        });
        assert_eq!(pages.get(u64::MAX - 1), Some(2));
    }
}
