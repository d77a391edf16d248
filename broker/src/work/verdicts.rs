//! From what consumers and time say to what is logged: the policy resolved for one message. Pure.

use crate::{
    error::Refusal,
    queue::{
        command::{Action, Death, Reason, Retry, Verdict},
        policy::{OnKeyFailure, Order, Outcome, Policy, Tries},
        schedule::Schedule,
        state::State,
        view::{Held, Standing},
    },
};

/// What a consumer wants to become of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Ack,
    Retry {
        after_ms: Option<u64>,
        error: String,
    },
    Release,
    Extend {
        by_ms: u64,
    },
    Dead {
        error: String,
    },
}

/// A consumer's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) lease: u64,
    pub(crate) wanted: Wanted,
}

impl Wish {
    /// The lease is over.
    pub(super) fn lease_lost(&self) -> Refusal {
        Refusal::LeaseLost {
            partition: self.partition,
            offset: self.offset,
            lease: self.lease,
        }
    }
}

/// What verdicts are resolved with: the state of the moment, and nothing of the group's is on
/// its way into the log.
pub(super) struct Court<'a> {
    pub(super) policy: &'a Policy,
    pub(super) state: &'a State,
    pub(super) schedule: &'a Schedule,
    pub(super) now_ms: i64,
    /// In 0..1, anew for each retry.
    pub(super) jitter: &'a dyn Fn() -> f64,
}

impl Court<'_> {
    /// Consumers' verdicts; acknowledgements of neighbours become one.
    pub(super) fn settle(&self, wishes: &[Wish]) -> Vec<Verdict> {
        let mut verdicts: Vec<Verdict> = Vec::new();
        for wish in wishes {
            let action = self.action(wish);
            if let (Action::Ack(_), Some(last)) = (&action, verdicts.last_mut())
                && matches!(last.action, Some(Action::Ack(_)))
                && last.first.checked_add(last.count) == Some(wish.offset)
                && last.lease.checked_add(last.count) == Some(wish.lease)
            {
                last.count += 1;
                continue;
            }
            verdicts.push(verdict(wish.offset, wish.lease, action));
        }
        verdicts
    }

    fn action(&self, wish: &Wish) -> Action {
        match &wish.wanted {
            Wanted::Ack => Action::Ack(true),
            Wanted::Extend { by_ms } => {
                let by_ms = i64::try_from(*by_ms).unwrap_or(i64::MAX);
                Action::Extend(self.now_ms.saturating_add(by_ms))
            }
            Wanted::Release => self.release(wish.offset),
            Wanted::Retry { after_ms, error } => {
                let tries = self.tries(wish.offset);
                let outcome =
                    self.policy
                        .after_failure(tries, self.now_ms, *after_ms, (self.jitter)());
                self.failed(wish.offset, outcome, error)
            }
            Wanted::Dead { error } => self.dead(wish.offset, Reason::Rejected, error, false),
        }
    }

    /// The end of a lease that was not settled: its time is over, or its consumer vanished.
    pub(super) fn lost(&self, held: &Held, error: &str) -> Verdict {
        let tries = Tries {
            failed: held.failed,
            hand_outs: held.hand_outs,
        };
        let outcome = self
            .policy
            .after_failure(tries, self.now_ms, None, (self.jitter)());
        let action = self.failed(held.offset, outcome, error);
        verdict(held.offset, held.lease.number, action)
    }

    /// A lease given back in order.
    pub(super) fn given_back(&self, held: &Held) -> Verdict {
        verdict(held.offset, held.lease.number, self.release(held.offset))
    }

    fn release(&self, offset: u64) -> Action {
        match self.policy.after_release(self.tries(offset)) {
            Outcome::Dead { reason } => self.dead(offset, reason, "", true),
            Outcome::Ready | Outcome::Retry { .. } => Action::Release(true),
        }
    }

    fn failed(&self, offset: u64, outcome: Outcome, error: &str) -> Action {
        match outcome {
            Outcome::Retry { at_ms } => Action::Retry(Retry {
                at_ms,
                error: error.to_owned(),
            }),
            Outcome::Ready => Action::Release(true),
            Outcome::Dead { reason } => self.dead(offset, reason, error, false),
        }
    }

    fn dead(&self, offset: u64, reason: Reason, error: &str, uncounted: bool) -> Action {
        let policy = self.policy;
        let parks = policy.order == Order::PerKey && policy.on_key_failure == OnKeyFailure::ParkKey;
        Action::Dead(Death {
            reason: reason as i32,
            error: error.to_owned(),
            uncounted,
            park_key: self.schedule.key_of(offset).filter(|_| parks),
        })
    }

    fn tries(&self, offset: u64) -> Tries {
        // What is not open has no lease either, and the verdict will be refused.
        let (failed, hand_outs) = match self.state.standing(offset) {
            Standing::Open(record) => (record.failed, record.hand_outs),
            Standing::Settled | Standing::Fresh => (0, 0),
        };
        Tries { failed, hand_outs }
    }
}

fn verdict(first: u64, lease: u64, action: Action) -> Verdict {
    Verdict {
        first,
        count: 1,
        lease,
        action: Some(action),
    }
}
