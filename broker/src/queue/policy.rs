//! The policy of a queue group: plain values, their bounds, and what follows from them. Pure.
//!
//! Whoever proposes a command asks here what becomes of a failed message, and writes the answer
//! into the command; the replicated state never sees a policy.

use super::{command::Reason, filter::Filter};

/// A policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// How long a lease lasts.
    pub(crate) lease_ms: u64,
    /// Failed attempts after which a message is a dead letter.
    pub(crate) max_attempts: u32,
    /// Leases after which a message is a dead letter, failed or not.
    pub(crate) max_hand_outs: u32,
    pub(crate) backoff: Backoff,
    /// Whether dead letters are kept; else what dies is dropped and counted.
    pub(crate) dead_letters: bool,
    /// Whether messages whose time to live ended become dead letters.
    pub(crate) dead_letters_for_expired: bool,
    pub(crate) order: Order,
    pub(crate) on_key_failure: OnKeyFailure,
    pub(crate) priorities: Priorities,
    pub(crate) max_in_flight: MaxInFlight,
    /// Messages a second for the group and partition; 0 = no limit.
    pub(crate) rate_per_s: u64,
    pub(crate) filter: Filter,
    /// How long messages stay readable after they were done, where the topic retains until then.
    pub(crate) retain_done_ms: u64,
}

/// When a failed message is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) initial_ms: u64,
    /// Each wait is the one before times this, in percent.
    pub(crate) factor_percent: u32,
    pub(crate) max_ms: u64,
    /// A wait is up to this much shorter or longer, in percent, and never longer than `max_ms`.
    pub(crate) jitter_percent: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    None,
    /// One message of a key in flight at a time, in order of offsets among equal priorities.
    PerKey,
}

/// With [`Order::PerKey`]: what the later messages of a key do while one waits for its retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum OnKeyFailure {
    /// They go on; the failed one comes back later, out of order.
    #[default]
    SkipAhead,
    /// They wait until it is done or a dead letter.
    BlockKey,
    /// They wait; if it becomes a dead letter, they become dead letters too, with the reason
    /// `Parked`, until the key is unparked.
    ParkKey,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Priorities {
    /// Priorities of messages are not looked at.
    #[default]
    Off,
    Strict,
    Weighted,
}

/// Leases at a time in one partition; 0 = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxInFlight {
    pub(crate) group: u64,
    pub(crate) consumer: u64,
    pub(crate) key: u64,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            lease_ms: 30_000,
            max_attempts: 10,
            max_hand_outs: 100,
            backoff: Backoff {
                initial_ms: 1_000,
                factor_percent: 200,
                max_ms: 600_000,
                jitter_percent: 20,
            },
            dead_letters: true,
            dead_letters_for_expired: true,
            order: Order::None,
            on_key_failure: OnKeyFailure::SkipAhead,
            priorities: Priorities::Off,
            max_in_flight: MaxInFlight {
                group: 0,
                consumer: 0,
                key: 0,
            },
            rate_per_s: 0,
            filter: Filter::default(),
            retain_done_ms: 0,
        }
    }
}

/// A value that a policy may not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, but must be {limit}")]
pub(crate) struct OutOfBounds {
    pub(crate) field: &'static str,
    pub(crate) value: String,
    pub(crate) limit: String,
}

const DAY_MS: u64 = 86_400_000;

fn within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), OutOfBounds> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(OutOfBounds {
        field,
        value: value.to_string(),
        limit: format!("from {min} to {max}"),
    })
}

fn ms_within(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), OutOfBounds> {
    within(field, value, min, max).map_err(|error| OutOfBounds {
        value: format!("{value} ms"),
        limit: format!("from {min} ms to {max} ms"),
        ..error
    })
}

/// What becomes of a message that was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Retry {
        at_ms: i64,
    },
    /// At once, and not counted as failed.
    Ready,
    Dead {
        reason: Reason,
    },
}

/// How often a message was tried, the attempt in question not counted as failed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tries {
    pub(crate) failed: u32,
    pub(crate) hand_outs: u32,
}

impl Policy {
    /// # Errors
    /// The first value that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), OutOfBounds> {
        let backoff = &self.backoff;
        ms_within("lease", self.lease_ms, 1_000, DAY_MS)?;
        within("max_attempts", self.max_attempts.into(), 1, 10_000)?;
        let attempts = u64::from(self.max_attempts);
        let hand_outs = u64::from(self.max_hand_outs);
        within("max_hand_outs", hand_outs, attempts, 100_000)?;
        ms_within("backoff", backoff.initial_ms, 1, DAY_MS)?;
        let factor = u64::from(backoff.factor_percent);
        within("backoff_factor_percent", factor, 100, 10_000)?;
        let (least_ms, most_ms) = (backoff.initial_ms, 30 * DAY_MS);
        ms_within("backoff_max", backoff.max_ms, least_ms, most_ms)?;
        let jitter = u64::from(backoff.jitter_percent);
        within("backoff_jitter_percent", jitter, 0, 100)?;
        let MaxInFlight {
            group,
            consumer,
            key,
        } = self.max_in_flight;
        within("max_in_flight", group, 0, 1_000_000)?;
        within("max_in_flight_per_consumer", consumer, 0, 1_000_000)?;
        within("max_in_flight_per_key", key, 0, 10_000)?;
        within("messages_per_second", self.rate_per_s, 0, 10_000_000)?;
        ms_within("retain_done", self.retain_done_ms, 0, 30 * DAY_MS)?;
        self.check_order()?;
        self.filter.check()
    }

    /// What means nothing together is a mistake.
    fn check_order(&self) -> Result<(), OutOfBounds> {
        let (limit, holds) = (self.max_in_flight.key, self.on_key_failure);
        if self.order == Order::PerKey && limit > 1 {
            return Err(OutOfBounds {
                field: "max_in_flight_per_key",
                value: limit.to_string(),
                limit: "0 or 1 with order per key".into(),
            });
        }
        if self.order == Order::None && holds != OnKeyFailure::SkipAhead {
            return Err(OutOfBounds {
                field: "on_key_failure",
                value: if holds == OnKeyFailure::BlockKey {
                    "block".into()
                } else {
                    "park".into()
                },
                limit: "unspecified without order per key".into(),
            });
        }
        Ok(())
    }

    /// What becomes of a message whose attempt failed, and equally of one whose lease ended or
    /// whose consumer vanished. `after_ms` is the wait that the consumer asked for instead of
    /// the backoff; `jitter` lies in 0..1.
    pub(crate) fn after_failure(
        &self,
        tries: Tries,
        now_ms: i64,
        after_ms: Option<u64>,
        jitter: f64,
    ) -> Outcome {
        let failed = tries.failed.saturating_add(1);
        if failed >= self.max_attempts {
            let reason = Reason::Attempts;
            return Outcome::Dead { reason };
        }
        if tries.hand_outs >= self.max_hand_outs {
            let reason = Reason::HandOuts;
            return Outcome::Dead { reason };
        }
        let wait_ms = after_ms.unwrap_or_else(|| self.backoff.wait_ms(failed, jitter));
        let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
        Outcome::Retry {
            at_ms: now_ms.saturating_add(wait_ms),
        }
    }

    /// What becomes of a message that was given back.
    pub(crate) fn after_release(&self, tries: Tries) -> Outcome {
        if tries.hand_outs >= self.max_hand_outs {
            let reason = Reason::HandOuts;
            return Outcome::Dead { reason };
        }
        Outcome::Ready
    }
}

impl Backoff {
    /// The wait after so many failed attempts; `jitter` lies in 0..1.
    pub(crate) fn wait_ms(&self, failed: u32, jitter: f64) -> u64 {
        let mut wait_ms = self.initial_ms.min(self.max_ms);
        for _ in 1..failed {
            let next = u128::from(wait_ms) * u128::from(self.factor_percent) / 100;
            let next = u64::try_from(next).unwrap_or(u64::MAX).min(self.max_ms);
            if next <= wait_ms {
                break;
            }
            wait_ms = next;
        }
        let spread = wait_ms as f64 * f64::from(self.jitter_percent) / 100.0;
        let low = wait_ms as f64 - spread;
        let high = (wait_ms as f64 + spread).min(self.max_ms as f64);
        (low + (high - low) * jitter.clamp(0.0, 1.0)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_and_stays_below_its_maximum() {
        let backoff = Policy::default().backoff;
        let middle: Vec<_> = (1..=4).map(|failed| backoff.wait_ms(failed, 0.5)).collect();
        assert_eq!(middle, [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(backoff.wait_ms(1, 0.0), 800);
        assert_eq!(backoff.wait_ms(1, 1.0), 1_200);
        assert_eq!(backoff.wait_ms(u32::MAX, 1.0), 600_000);
        assert_eq!(backoff.wait_ms(50, 0.0), 480_000);
        let flat = Backoff {
            factor_percent: 100,
            ..backoff
        };
        assert_eq!(flat.wait_ms(u32::MAX, 0.5), 1_000);
        let slow = Backoff {
            initial_ms: 1,
            factor_percent: 101,
            ..backoff
        };
        assert_eq!(slow.wait_ms(9, 0.5), 1);
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        let policy = Policy::default();
        let tries = |failed, hand_outs| Tries { failed, hand_outs };
        let at = |tries, after| policy.after_failure(tries, 5_000, after, 0.5);
        assert_eq!(at(tries(0, 1), None), Outcome::Retry { at_ms: 6_000 });
        assert_eq!(at(tries(8, 9), Some(7)), Outcome::Retry { at_ms: 5_007 });
        let reason = Reason::Attempts;
        assert_eq!(at(tries(9, 100), Some(7)), Outcome::Dead { reason });
        let reason = Reason::HandOuts;
        assert_eq!(at(tries(0, 100), None), Outcome::Dead { reason });
        assert_eq!(
            policy.after_release(tries(0, 100)),
            Outcome::Dead { reason }
        );
        assert_eq!(policy.after_release(tries(9, 99)), Outcome::Ready);
        let far = at(tries(0, 1), Some(u64::MAX));
        assert_eq!(far, Outcome::Retry { at_ms: i64::MAX });
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        assert_eq!(Policy::default().check(), Ok(()));
        let field = |change: fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.check().unwrap_err().field
        };
        assert_eq!(field(|p| p.lease_ms = 0), "lease");
        assert_eq!(field(|p| p.max_attempts = 0), "max_attempts");
        assert_eq!(field(|p| p.max_hand_outs = 9), "max_hand_outs");
        assert_eq!(field(|p| p.backoff.max_ms = 999), "backoff_max");
        let factor = field(|p| p.backoff.factor_percent = 99);
        assert_eq!(factor, "backoff_factor_percent");
        assert_eq!(field(|p| p.rate_per_s = u64::MAX), "messages_per_second");
        let two_of_a_key = |p: &mut Policy| {
            p.order = Order::PerKey;
            p.max_in_flight.key = 2;
        };
        assert_eq!(field(two_of_a_key), "max_in_flight_per_key");
        let parks = field(|p| p.on_key_failure = OnKeyFailure::ParkKey);
        assert_eq!(parks, "on_key_failure");
        let policy = Policy {
            lease_ms: u64::MAX,
            ..Policy::default()
        };
        assert_eq!(
            policy.check().unwrap_err().to_string(),
            "lease is 18446744073709551615 ms, but must be from 1000 ms to 86400000 ms"
        );
    }
}
