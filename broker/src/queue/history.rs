//! The latest failed attempts of messages that are not done, and of dead letters that wait for
//! their copy. Pure.
//!
//! | field of an attempt | form |
//! |---|---|
//! | [`End`] | 1 byte |
//! | number, hand-out, consumer, time | varints |
//! | error text | length as a varint, UTF-8 |
//!
//! A message keeps its last [`MAX_HISTORY_ATTEMPTS`]; all histories of a queue take at most
//! [`MAX_HISTORY_BYTES`]. When that is used up no history begins, and those that are there grow
//! no more: each new attempt takes the place of older ones. How many are missing follows from the
//! count of failed attempts, so nothing has to say that something was cut.
//!
//! It knows neither policy nor order nor payloads, and decides nothing.

use std::{collections::BTreeMap, ops::Range};

use prost::encoding::{decode_varint, encode_varint};

use super::{record::MAX_TIME_MS, time::Now};
use crate::limits::{MAX_HISTORY_ATTEMPTS, MAX_HISTORY_BYTES, MAX_HISTORY_ERROR_BYTES};

/// What a history costs beside its bytes: its place in the tree, about.
const PLACE_BYTES: usize = 64;

/// How a failed attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum End {
    /// The consumer said that it failed.
    Retry = 1,
    /// The lease ended.
    Expired = 2,
    /// The consumer vanished.
    Lost = 3,
    /// The consumer made a dead letter of it.
    Rejected = 4,
}

impl End {
    pub(crate) const ALL: [End; 4] = [End::Retry, End::Expired, End::Lost, End::Rejected];

    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Retry => "RETRY",
            End::Expired => "EXPIRED",
            End::Lost => "LOST",
            End::Rejected => "REJECTED",
        }
    }
}

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt<'a> {
    /// 1 is the first that failed.
    pub(crate) number: u32,
    /// Which lease of the message it was; 1 is the first.
    pub(crate) hand_out: u32,
    pub(crate) consumer: u64,
    /// Steady time.
    pub(crate) ended_ms: i64,
    pub(crate) end: End,
    /// As much of it as is kept here; empty if none was given.
    pub(crate) error: &'a str,
}

impl<'a> Attempt<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.end as u8);
        encode_varint(self.number.into(), out);
        encode_varint(self.hand_out.into(), out);
        encode_varint(self.consumer, out);
        encode_varint(self.ended_ms.clamp(0, MAX_TIME_MS) as u64, out);
        let mut cut = self.error.len().min(MAX_HISTORY_ERROR_BYTES);
        while !self.error.is_char_boundary(cut) {
            cut -= 1;
        }
        encode_varint(cut as u64, out);
        out.extend_from_slice(&self.error.as_bytes()[..cut]);
    }

    /// Takes the first attempt off the bytes.
    fn take(bytes: &mut &'a [u8]) -> Option<Attempt<'a>> {
        let (first, rest) = bytes.split_first()?;
        let end = End::ALL.into_iter().find(|end| *end as u8 == *first)?;
        *bytes = rest;
        let mut number = || decode_varint(bytes).ok();
        let small = |value: u64| u32::try_from(value).ok();
        let (attempt, hand_out) = (number().and_then(small)?, number().and_then(small)?);
        let (consumer, ended_ms) = (number()?, i64::try_from(number()?).ok()?);
        let len = usize::try_from(number()?).ok()?;
        let (error, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(Attempt {
            number: attempt,
            hand_out,
            consumer,
            ended_ms,
            end,
            error: std::str::from_utf8(error).ok()?,
        })
    }
}

/// A failed attempt, on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PastAttempt {
    pub(crate) number: u32,
    pub(crate) hand_out: u32,
    pub(crate) consumer: u64,
    /// Wall time.
    pub(crate) ended_ms: i64,
    pub(crate) end: End,
    pub(crate) error: String,
}

impl Attempt<'_> {
    /// As it is told to others.
    pub(crate) fn told(&self, now: Now) -> PastAttempt {
        PastAttempt {
            number: self.number,
            hand_out: self.hand_out,
            consumer: self.consumer,
            ended_ms: now.by_wall(self.ended_ms),
            end: self.end,
            error: self.error.to_owned(),
        }
    }
}

/// The attempts of one history, the oldest first; ends early at bytes that are none.
pub(crate) fn attempts(mut bytes: &[u8]) -> impl Iterator<Item = Attempt<'_>> {
    std::iter::from_fn(move || Attempt::take(&mut bytes))
}

/// Histories of open messages by offset, of dead letters by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Histories {
    open: BTreeMap<u64, Box<[u8]>>,
    dead: BTreeMap<u64, Box<[u8]>>,
    /// What all of them cost.
    bytes: usize,
}

fn cost(history: &[u8]) -> usize {
    PLACE_BYTES + history.len()
}

impl Histories {
    /// Adds the attempt that just failed.
    pub(super) fn add(&mut self, offset: u64, attempt: &Attempt<'_>) {
        let known = self.open.get(&offset).map_or(&[][..], AsRef::as_ref);
        let before = if known.is_empty() { 0 } else { cost(known) };
        let room = MAX_HISTORY_BYTES - (self.bytes - before);
        if before == 0 && room <= PLACE_BYTES {
            return;
        }
        let mut history = known.to_vec();
        attempt.put(&mut history);
        let mut kept = history.as_slice();
        let mut count = attempts(kept).count();
        while count > 0 && (count > MAX_HISTORY_ATTEMPTS || cost(kept) > room) {
            Attempt::take(&mut kept);
            count -= 1;
        }
        self.bytes -= before;
        if kept.is_empty() {
            self.open.remove(&offset);
        } else {
            self.bytes += cost(kept);
            self.open.insert(offset, kept.into());
        }
    }

    /// These messages are done.
    pub(super) fn settle(&mut self, run: Range<u64>) {
        while let Some((&offset, _)) = self.open.range(run.clone()).next() {
            self.take(offset);
        }
    }

    /// Nothing was ever tried, but dead letters stay.
    pub(super) fn start_over(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.bytes -= open.values().map(|history| cost(history)).sum::<usize>();
    }

    /// The history of a message that is a dead letter or done.
    pub(super) fn take(&mut self, offset: u64) -> Option<Box<[u8]>> {
        let history = self.open.remove(&offset)?;
        self.bytes -= cost(&history);
        Some(history)
    }

    /// Keeps a history with a dead letter.
    pub(super) fn bury(&mut self, number: u64, history: Box<[u8]>) {
        self.bytes += cost(&history);
        self.dead.insert(number, history);
    }

    /// The copies of the dead letters up to this number are written.
    pub(super) fn forget_dead(&mut self, up_to: u64) {
        while let Some(first) = self.dead.first_entry()
            && *first.key() <= up_to
        {
            self.bytes -= cost(&first.remove());
        }
    }

    pub(super) fn of_open(&self, offset: u64) -> &[u8] {
        self.open.get(&offset).map_or(&[], AsRef::as_ref)
    }

    pub(super) fn of_dead(&self, number: u64) -> &[u8] {
        self.dead.get(&number).map_or(&[], AsRef::as_ref)
    }

    /// For a checkpoint: those of open messages, and those of dead letters.
    pub(super) fn saved(&self) -> [&BTreeMap<u64, Box<[u8]>>; 2] {
        [&self.open, &self.dead]
    }

    /// The inverse; whether this can be what was saved. `failed` tells how often a message or a
    /// dead letter failed, if it is there.
    pub(super) fn restore(
        [open, dead]: [BTreeMap<u64, Box<[u8]>>; 2],
        failed: [&dyn Fn(u64) -> Option<u32>; 2],
    ) -> Option<Histories> {
        let mut bytes = 0;
        for (histories, failed) in [&open, &dead].into_iter().zip(failed) {
            for (key, history) in histories {
                if !could_be(history, failed(*key)?) {
                    return None;
                }
                bytes += cost(history);
            }
        }
        let histories = Histories { open, dead, bytes };
        (bytes <= MAX_HISTORY_BYTES).then_some(histories)
    }

    /// Bytes that the histories take, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Whether these bytes are attempts of a message that failed so often, written as they are here.
fn could_be(history: &[u8], failed: u32) -> bool {
    let (mut again, mut count, mut last) = (Vec::with_capacity(history.len()), 0, 0);
    for attempt in attempts(history) {
        if attempt.number <= last {
            return false;
        }
        last = attempt.number;
        count += 1;
        attempt.put(&mut again);
    }
    again == history && (1..=MAX_HISTORY_ATTEMPTS).contains(&count) && last <= failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, error: &str) -> Attempt<'_> {
        Attempt {
            number,
            hand_out: number + 1,
            consumer: u64::MAX,
            ended_ms: 1_800_000_000_000 + i64::from(number),
            end: End::ALL[number as usize % 4],
            error,
        }
    }

    fn numbers(history: &[u8]) -> Vec<u32> {
        attempts(history).map(|attempt| attempt.number).collect()
    }

    #[test]
    fn the_last_eight_attempts_stay_whole_and_their_texts_are_cut_between_characters() {
        let mut histories = Histories::default();
        let long = "é".repeat(40);
        for number in 1..=11 {
            histories.add(7, &attempt(number, &long));
        }
        assert_eq!(numbers(histories.of_open(7)), (4..=11).collect::<Vec<_>>());
        let last = attempts(histories.of_open(7)).last().unwrap();
        assert_eq!(last, attempt(11, &long[..64]));
        let odd = format!("a{long}");
        histories.add(7, &attempt(12, &odd));
        let last = attempts(histories.of_open(7)).last().unwrap();
        assert_eq!(last.error, &odd[..63]);
        assert_eq!(histories.bytes(), cost(histories.of_open(7)));
    }

    #[test]
    fn a_dead_letter_takes_its_history_along_until_it_is_copied() {
        let mut histories = Histories::default();
        histories.add(3, &attempt(1, "no"));
        histories.add(4, &attempt(1, "no"));
        let history = histories.take(3).unwrap();
        histories.bury(1, history);
        histories.start_over();
        assert!(histories.of_open(4).is_empty());
        assert_eq!(numbers(histories.of_dead(1)), [1]);
        histories.forget_dead(1);
        assert_eq!((histories.of_dead(1).len(), histories.bytes()), (0, 0));
    }

    #[test]
    fn used_up_room_begins_no_history_and_lets_none_grow() {
        let mut histories = Histories::default();
        let text = "x".repeat(64);
        let mut offset = 0;
        while histories.bytes() + 200 < MAX_HISTORY_BYTES {
            histories.add(offset, &attempt(1, &text));
            offset += 1;
        }
        for more in 0..10_000 {
            histories.add(offset + more, &attempt(1, ""));
            histories.add(more, &attempt(2, &text));
            histories.add(more, &attempt(3, &text));
            assert!(histories.bytes() <= MAX_HISTORY_BYTES);
        }
        assert!(histories.of_open(offset + 9_999).is_empty());
        assert_eq!(numbers(histories.of_open(5_000)), [3]);
        // Larger than what there was: then it is all missing.
        histories.add(offset - 1, &attempt(2, ""));
        histories.add(offset - 1, &attempt(3, &text));
        assert!(histories.bytes() <= MAX_HISTORY_BYTES);
        histories.settle(0..offset);
        histories.add(offset + 9_999, &attempt(4, &text));
        assert_eq!(numbers(histories.of_open(offset + 9_999)), [4]);
    }

    #[test]
    fn bytes_that_no_history_has_are_refused() {
        let mut good = Vec::new();
        attempt(1, "a").put(&mut good);
        attempt(3, "b").put(&mut good);
        assert!(could_be(&good, 3));
        assert!(!could_be(&good, 2), "more than failed");
        assert!(!could_be(&[], 2), "empty");
        assert!(!could_be(&good[..good.len() - 1], 3), "cut");
        let mut twice = good.clone();
        attempt(3, "b").put(&mut twice);
        assert!(!could_be(&twice, 9), "not in order");
        let mut overlong = vec![1, 0x81, 0x00];
        overlong.extend_from_slice(&[1, 1, 1, 0]);
        assert_eq!(numbers(&overlong), [1]);
        assert!(!could_be(&overlong, 1), "written otherwise");
        let mut many = Vec::new();
        (1..=9).for_each(|number| attempt(number, "").put(&mut many));
        assert!(!could_be(&many, 9), "more than are kept");
    }
}
