//! What may have become of a lease. A lease whose end is known has one fate; one whose verdict
//! has no answer, or that nobody settled, has several.

use std::collections::{BTreeMap, HashMap};

use super::history::{Clock, End, Ended, Given, Moment, Outcome, Rules, Said, Word};

/// Wall time and the broker's clock, and roundings of both, differ by less.
pub(super) const SLACK_MS: i64 = 50;
/// Deadlines are told in wall time, each rounded for itself; they differ by less.
pub(super) const ROUNDED_MS: i64 = 5;
/// Roundings of two readings of one clock differ by less.
pub(super) const SLACK_US: u64 = 5_000;

/// One way in which a lease may have ended. Times are the earliest that are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// The message does not come back.
    pub(super) is_final: bool,
    /// The failed attempts that it adds.
    pub(super) failures: u32,
    /// Over at this time since the history began.
    pub(super) over_us: u64,
    /// Over at this time of the broker's clock.
    pub(super) over_ms: i64,
    /// Handed out again at this time since the history began.
    pub(super) again_us: u64,
    /// Handed out again at this time of the broker's clock.
    pub(super) again_ms: i64,
}

/// A lease, and what is known of it.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    pub(super) given: &'a Given,
    pub(super) said: Vec<&'a Said>,
    pub(super) ended: Option<Ended>,
    /// Surely valid until then, if nothing ended it.
    pub(super) valid_to_ms: i64,
    /// The same since the history began, as far as it is known.
    pub(super) valid_to_us: u64,
    /// Surely over then.
    pub(super) over_by_ms: i64,
    /// The final verdict that was surely taken.
    pub(super) done: Option<&'a Said>,
}

/// All leases, by partition and number.
pub(super) type Leases<'a> = BTreeMap<(u32, u64), Lease<'a>>;

fn is_verdict(said: &Said) -> bool {
    !matches!(said.word, Word::Extend { .. })
}

impl<'a> Lease<'a> {
    fn new(given: &'a Given, lease_ms: i64) -> Lease<'a> {
        let lease_us = lease_ms.unsigned_abs() * 1_000;
        Lease {
            given,
            valid_to_us: match given.asked_us {
                0 => 0,
                asked_us => asked_us + lease_us,
            },
            said: Vec::new(),
            ended: None,
            valid_to_ms: given.deadline_ms,
            over_by_ms: given.deadline_ms,
            done: None,
        }
    }

    /// When it was granted, by the broker's clock.
    pub(super) fn granted_ms(&self, rules: &Rules) -> i64 {
        self.given.deadline_ms - rules.lease_ms
    }

    fn conclude(&mut self, rules: &Rules) {
        self.said.sort_by_key(|said| said.sent.us);
        for said in &self.said {
            let Word::Extend { by_ms } = said.word else {
                continue;
            };
            let by_ms = i64::try_from(by_ms).unwrap();
            let latest = said.answered.wall_ms + by_ms + SLACK_MS;
            match said.outcome {
                Outcome::Done => {
                    let valid_to_us = said.sent.us + by_ms.unsigned_abs() * 1_000;
                    self.valid_to_us = self.valid_to_us.max(valid_to_us);
                    self.valid_to_ms = self.valid_to_ms.max(said.sent.wall_ms + by_ms - SLACK_MS);
                    self.over_by_ms = self.over_by_ms.max(latest);
                }
                // It may still be on its way when its sender gives up.
                Outcome::Unknown => self.over_by_ms = self.over_by_ms.max(latest + 5_000),
                Outcome::LeaseLost | Outcome::Refused => {}
            }
        }
        let verdicts = || self.said.iter().filter(|said| is_verdict(said));
        self.done = verdicts().find(|s| s.outcome == Outcome::Done).copied();
        // LEASE_LOST while it was valid: then the only one without an answer was taken.
        let mut unknown = verdicts().filter(|said| said.outcome == Outcome::Unknown);
        if let (None, Some(first), None) = (self.done, unknown.next(), unknown.next()) {
            let lost_in_time = |said: &&Said| {
                said.outcome == Outcome::LeaseLost
                    && said.sent.us >= first.sent.us
                    && self.is_valid_at(said.answered, rules)
            };
            if self.ended.is_none() && self.said.iter().copied().any(|s| lost_in_time(&s)) {
                self.done = Some(first);
            }
        }
    }

    /// Surely not over at this time, by itself.
    pub(super) fn is_valid_at(&self, at: Moment, rules: &Rules) -> bool {
        match rules.clock {
            Clock::True => at.wall_ms < self.valid_to_ms - SLACK_MS,
            Clock::Stepped => at.us + SLACK_US < self.valid_to_us,
            Clock::Wild => false,
        }
    }

    /// The fates that are possible.
    pub(super) fn fates(&self, rules: &Rules) -> Vec<Fate> {
        if let Some(said) = self.done {
            let mut fate = self.by_verdict(said, rules);
            if rules.clock == Clock::Wild {
                fate.again_us = fate.over_us;
            }
            return vec![fate];
        }
        let unknown = |said: &&&Said| is_verdict(said) && said.outcome == Outcome::Unknown;
        let unknown = self.said.iter().filter(unknown);
        let mut fates: Vec<Fate> = unknown.map(|said| self.by_verdict(said, rules)).collect();
        fates.push(self.expired(rules));
        let wait_ms = rules.backoff.least_ms(self.given.attempt);
        if let Some(ended) = self.ended {
            let at = ended.at.us;
            let fate = Fate {
                over_us: at,
                again_us: at,
                ..Fate::default()
            };
            match ended.how {
                End::Closed => fates.push(fate),
                End::Cut => fates.push(Fate {
                    failures: 1,
                    again_us: at + wait_ms * 1_000,
                    ..fate
                }),
                End::Left => {}
            }
        }
        if rules.clock == Clock::Wild {
            fates
                .iter_mut()
                .for_each(|fate| fate.again_us = fate.over_us);
        }
        fates
    }

    fn expired(&self, rules: &Rules) -> Fate {
        let wait_ms = rules.backoff.least_ms(self.given.attempt);
        let expired = Fate {
            failures: 1,
            ..Fate::default()
        };
        match rules.clock {
            Clock::True => Fate {
                over_ms: self.valid_to_ms,
                again_ms: self.valid_to_ms + i64::try_from(wait_ms).unwrap(),
                ..expired
            },
            Clock::Stepped => Fate {
                over_us: self.valid_to_us.saturating_sub(SLACK_US),
                again_us: self.valid_to_us + wait_ms * 1_000,
                ..expired
            },
            Clock::Wild => expired,
        }
    }

    fn by_verdict(&self, said: &Said, rules: &Rules) -> Fate {
        let sent = said.sent.us;
        let fate = Fate {
            over_us: sent,
            again_us: sent,
            ..Fate::default()
        };
        match &said.word {
            Word::Release | Word::Extend { .. } => fate,
            Word::Ack | Word::Dead { .. } => Fate {
                is_final: true,
                ..fate
            },
            Word::Retry { .. } if self.given.attempt >= rules.max_attempts => Fate {
                is_final: true,
                ..fate
            },
            Word::Retry { after_ms, .. } => {
                let wait_ms = after_ms.unwrap_or(rules.backoff.least_ms(self.given.attempt));
                Fate {
                    failures: 1,
                    again_us: sent + wait_ms * 1_000,
                    ..fate
                }
            }
        }
    }
}

/// Brings together what is known of each lease.
///
/// # Errors
/// If one lease was given twice, or a verdict was taken under one that nobody was given.
pub(super) fn leases<'a>(
    given: &'a [Given],
    said: &'a [Said],
    (ended, rules): (&[Ended], &Rules),
) -> Result<Leases<'a>, String> {
    let ends: HashMap<u64, Ended> = ended.iter().map(|end| (end.session, *end)).collect();
    let mut leases = Leases::new();
    for given in given {
        let mut lease = Lease::new(given, rules.lease_ms);
        lease.ended = ends.get(&given.session).copied();
        if let Some(other) = leases.insert((given.partition, given.lease), lease) {
            let other = other.given;
            return Err(format!(
                "one lease was given twice: {other:?} and {given:?}"
            ));
        }
    }
    for said in said {
        let lease = leases.get_mut(&(said.partition, said.lease));
        match lease.filter(|lease| lease.given.offset == said.offset) {
            Some(lease) => lease.said.push(said),
            None if said.outcome == Outcome::Done => {
                return Err(format!("taken under a lease that nobody has: {said:?}"));
            }
            None => {}
        }
    }
    leases.values_mut().for_each(|lease| lease.conclude(rules));
    Ok(leases)
}
