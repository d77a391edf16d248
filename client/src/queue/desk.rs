//! What a queue consumer holds and decides: verdicts, renewals, credit: pure.
//!
//! Time is what has passed since the consumer was built. Promises:
//! - every verdict is answered exactly once; one whose request was lost with its connection is
//!   sent again, and what cannot be told then is answered as unknown, never as done or lost;
//! - requests with verdicts leave in order, two on their way at most: verdicts that come
//!   meanwhile leave together, so one waits no longer than for an answer;
//! - leases that are renewed are so after a third of their time, and at once after a break;
//! - a lease that nobody renewed in time counts as lost, also while the broker is away;
//! - no more is asked for than may be held, in messages and bytes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{Verdict, job::Flag};
use crate::Error;

#[cfg(test)]
mod tests;

/// Requests with verdicts that may be on their way.
const REQUESTS: usize = 2;
/// After the broker could not judge, nothing is sent for so long.
const AFTER_TROUBLE: Duration = Duration::from_millis(100);

/// Names a held message: partition and lease number.
pub(super) type Place = (u32, u64);

/// Settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Messages that may be held without a verdict.
    pub(super) messages: u64,
    /// Bytes of them; one message may go beyond.
    pub(super) bytes: u64,
    /// Verdicts in one request.
    pub(super) batch: usize,
    /// Leases are renewed until there is a verdict.
    pub(super) renew: bool,
}

/// A held message.
#[derive(Debug)]
struct Held {
    offset: u64,
    bytes: i64,
    flag: Arc<Flag>,
    /// When the lease ends, as far as this side can know.
    by: Duration,
    renew_at: Option<Duration>,
    /// There is a verdict: it counts no longer as held.
    is_judged: bool,
}

impl Held {
    /// When to look at it next.
    fn wake_at(&self) -> Duration {
        self.renew_at.map_or(self.by, |at| at.min(self.by))
    }
}

/// A verdict on its way.
#[derive(Debug)]
struct Item<T> {
    place: Place,
    offset: u64,
    verdict: Verdict,
    ticket: Option<T>,
    /// It may have taken effect already.
    was_sent: bool,
}

#[derive(Debug)]
struct Sent<T> {
    at: Duration,
    items: Vec<Item<T>>,
}

/// One verdict as it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) lease: u64,
    pub(super) verdict: Verdict,
}

/// Everything; see the module. `T` is whoever waits for an answer.
#[derive(Debug)]
pub(super) struct Desk<T> {
    terms: Terms,
    lease: Duration,
    held: BTreeMap<Place, Held>,
    /// Of those without a verdict, when to look at them.
    timers: BTreeSet<(Duration, Place)>,
    waiting: VecDeque<Item<T>>,
    sent: VecDeque<Sent<T>>,
    /// Held without a verdict.
    open: (i64, i64),
    /// What the broker may still send.
    granted: (i64, i64),
    is_draining: bool,
    hold_until: Duration,
    answers: Vec<(T, Result<(), Error>)>,
    lost: Vec<Lost>,
}

/// A lease that was lost before there was a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) lease: u64,
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl<T> Desk<T> {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            lease: Duration::from_secs(30),
            held: BTreeMap::new(),
            timers: BTreeSet::new(),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            open: (0, 0),
            granted: (0, 0),
            is_draining: false,
            hold_until: Duration::ZERO,
            answers: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Answers since the last call.
    pub(super) fn answers(&mut self) -> Vec<(T, Result<(), Error>)> {
        mem::take(&mut self.answers)
    }

    /// Leases that were lost since the last call.
    pub(super) fn lost(&mut self) -> Vec<Lost> {
        mem::take(&mut self.lost)
    }

    /// Nothing waits for the broker, and nothing is held.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty() && self.held.is_empty()
    }

    // The connection.

    /// A stream begins; leases last this long.
    pub(super) fn opened(&mut self, lease: Duration, now: Duration) {
        self.lease = lease;
        self.hold_until = Duration::ZERO;
        if !self.terms.renew {
            return;
        }
        // Whether what is held outlived the break is asked at once.
        let open: Vec<Place> = self.timers.iter().map(|(_, place)| *place).collect();
        for place in open {
            self.reschedule(place, |held| held.renew_at = Some(now));
        }
    }

    /// The stream is gone: what was on its way may have arrived or not.
    pub(super) fn disconnected(&mut self) {
        self.granted = (0, 0);
        let mut again = VecDeque::new();
        for sent in mem::take(&mut self.sent) {
            for mut item in sent.items {
                item.was_sent = true;
                // A renewal of our own is asked for anew.
                if item.ticket.is_some() || !item.verdict.extends() {
                    again.push_back(item);
                }
            }
        }
        again.append(&mut self.waiting);
        self.waiting = again;
    }

    /// The end: nobody will be told anything else.
    pub(super) fn fail(&mut self, error: &Error) {
        self.disconnected();
        for item in mem::take(&mut self.waiting) {
            if let Some(ticket) = item.ticket {
                let error = match item.was_sent {
                    true => Error::unknown(error.message()),
                    false => error.clone(),
                };
                self.answers.push((ticket, Err(error)));
            }
        }
        for held in mem::take(&mut self.held).into_values() {
            held.flag.set();
        }
        self.timers.clear();
        self.open = (0, 0);
    }

    // What arrives.

    /// A message was leased. Whether it may be handed out: not while draining, then it goes back.
    pub(super) fn delivered(
        &mut self,
        place: Place,
        (offset, bytes): (u64, usize),
        flag: Arc<Flag>,
        now: Duration,
    ) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.granted = (self.granted.0 - 1, self.granted.1 - bytes);
        self.open = (self.open.0 + 1, self.open.1 + bytes);
        let by = now + self.lease;
        let held = Held {
            offset,
            bytes,
            flag,
            by,
            renew_at: self.terms.renew.then(|| now + self.lease / 3),
            is_judged: false,
        };
        self.timers.insert((held.wake_at(), place));
        self.held.insert(place, held);
        if self.is_draining {
            self.judge(place, Verdict::Release, None);
        }
        !self.is_draining
    }

    /// The answer to the oldest request; an error if it does not fit.
    pub(super) fn settled(
        &mut self,
        results: Vec<Result<(), Error>>,
        now: Duration,
    ) -> Result<(), Error> {
        let fits = self.sent.front().map(|sent| sent.items.len());
        if fits != Some(results.len()) {
            let count = results.len();
            return Err(Error::internal(format!(
                "{count} results for {fits:?} verdicts"
            )));
        }
        let Some(sent) = self.sent.pop_front() else {
            return Ok(());
        };
        for (item, result) in sent.items.into_iter().zip(results) {
            self.result(item, result, sent.at, now);
        }
        Ok(())
    }

    fn result(
        &mut self,
        mut item: Item<T>,
        result: Result<(), Error>,
        sent_at: Duration,
        now: Duration,
    ) {
        let answer = match result {
            Ok(()) => {
                match item.verdict {
                    Verdict::Extend(by) => self.extended(item.place, sent_at + by),
                    _ => drop(self.remove(item.place)),
                }
                Ok(())
            }
            Err(error) if error.is_lease_lost() => {
                let ends = !item.verdict.extends();
                self.lose(item.place);
                Err(match item.was_sent && ends {
                    true => Error::unknown(
                        "the connection broke before the answer, and the lease is over now",
                    ),
                    false => error,
                })
            }
            Err(error) if error.is_retryable() => {
                // Not judged: again, as long as the lease may last. The broker has the last word.
                let known = self.held.get(&item.place);
                if known.is_some_and(|held| now < held.by.saturating_add(self.lease)) {
                    item.was_sent |= error.is_unknown();
                    self.hold_until = now + AFTER_TROUBLE;
                    self.waiting.push_back(item);
                    return;
                }
                self.remove(item.place);
                Err(error)
            }
            Err(error) => {
                if !item.verdict.extends() {
                    self.remove(item.place);
                }
                Err(error)
            }
        };
        if let Some(ticket) = item.ticket {
            self.answers.push((ticket, answer));
        }
    }

    // What the application does.

    /// A verdict. On what is not held any more it is refused here.
    pub(super) fn judge(&mut self, place: Place, verdict: Verdict, ticket: Option<T>) {
        let Some(held) = self.held.get_mut(&place).filter(|held| !held.is_judged) else {
            if let Some(ticket) = ticket {
                self.answers.push((ticket, Err(Error::lease_lost(place))));
            }
            return;
        };
        let offset = held.offset;
        if !verdict.extends() {
            held.is_judged = true;
            self.open = (self.open.0 - 1, self.open.1 - held.bytes);
            self.timers.remove(&(held.wake_at(), place));
        }
        self.waiting.push_back(Item {
            place,
            offset,
            verdict,
            ticket,
            was_sent: false,
        });
    }

    /// Settled by another way: it is not held any more, and nothing is said about it.
    pub(super) fn forget(&mut self, place: Place) {
        self.remove(place);
    }

    /// Nothing more is asked for, and what comes all the same goes back.
    pub(super) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Gives back what is held without a verdict; its holders are told that it is lost.
    pub(super) fn release_all(&mut self) {
        self.drain();
        let open: Vec<Place> = self.timers.iter().map(|(_, place)| *place).collect();
        for place in open {
            if let Some(held) = self.held.get(&place) {
                held.flag.set();
            }
            self.judge(place, Verdict::Release, None);
        }
    }

    // What leaves.

    /// Renews what is due and counts as lost what is over.
    pub(super) fn tick(&mut self, now: Duration) {
        while let Some((at, place)) = self.timers.first().copied()
            && at <= now
        {
            let Some(held) = self.held.get(&place) else {
                self.timers.pop_first();
                continue;
            };
            let offset = held.offset;
            if held.by <= now {
                self.lose(place);
                continue;
            }
            self.reschedule(place, |held| held.renew_at = None);
            self.waiting.push_back(Item {
                place,
                offset,
                verdict: Verdict::Extend(self.lease),
                ticket: None,
                was_sent: false,
            });
        }
    }

    /// The next request, if one may leave.
    pub(super) fn request(&mut self, now: Duration) -> Option<Vec<Judged>> {
        if self.sent.len() >= REQUESTS || now < self.hold_until {
            return None;
        }
        let mut items = Vec::new();
        while items.len() < self.terms.batch
            && let Some(item) = self.waiting.pop_front()
        {
            let held = self.held.get(&item.place);
            let is_open = held.is_some_and(|held| !held.is_judged);
            // A renewal of what was judged meanwhile is for nothing.
            if is_open || item.ticket.is_some() || !item.verdict.extends() {
                items.push(item);
            }
        }
        if items.is_empty() {
            return None;
        }
        let request = items.iter().map(|item| Judged {
            partition: item.place.0,
            offset: item.offset,
            lease: item.place.1,
            verdict: item.verdict.clone(),
        });
        let request = request.collect();
        self.sent.push_back(Sent { at: now, items });
        Some(request)
    }

    /// Credit to give, messages and bytes.
    pub(super) fn credit(&mut self) -> Option<(u64, u64)> {
        if self.is_draining {
            return None;
        }
        let free = |limit: u64, open: i64, granted: i64| {
            let free = signed(limit).saturating_sub(open).saturating_sub(granted);
            u64::try_from(free).unwrap_or(0)
        };
        let messages = free(self.terms.messages, self.open.0, self.granted.0);
        let bytes = free(self.terms.bytes, self.open.1, self.granted.1);
        if messages == 0 && bytes < self.terms.bytes / 2 {
            return None;
        }
        let (more, room) = (signed(messages), signed(bytes));
        self.granted = (self.granted.0 + more, self.granted.1 + room);
        Some((messages, bytes))
    }

    /// When there is something to do without anything happening.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let held_back = (!self.waiting.is_empty() && self.sent.len() < REQUESTS)
            .then_some(self.hold_until)
            .filter(|at| !at.is_zero());
        timer.into_iter().chain(held_back).min()
    }

    fn extended(&mut self, place: Place, until: Duration) {
        let (renew, lease) = (self.terms.renew, self.lease);
        self.reschedule(place, |held| {
            held.by = held.by.max(until);
            held.renew_at = renew.then(|| held.by.saturating_sub(lease - lease / 3));
        });
    }

    fn reschedule(&mut self, place: Place, change: impl FnOnce(&mut Held)) {
        let Some(held) = self.held.get_mut(&place).filter(|held| !held.is_judged) else {
            return;
        };
        self.timers.remove(&(held.wake_at(), place));
        change(held);
        self.timers.insert((held.wake_at(), place));
    }

    fn lose(&mut self, place: Place) {
        let Some(held) = self.remove(place) else {
            return;
        };
        if !held.is_judged {
            held.flag.set();
            self.lost.push(Lost {
                partition: place.0,
                offset: held.offset,
                lease: place.1,
            });
        }
    }

    fn remove(&mut self, place: Place) -> Option<Held> {
        let held = self.held.remove(&place)?;
        self.timers.remove(&(held.wake_at(), place));
        if !held.is_judged {
            self.open = (self.open.0 - 1, self.open.1 - held.bytes);
        }
        Some(held)
    }
}
