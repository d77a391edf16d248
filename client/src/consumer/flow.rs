//! How much the broker may send ahead: pure.
//!
//! Promises: what is granted and not yet taken never exceeds the limits, except by the one
//! batch that the broker may send to use up the last of it; a grant goes out for each half, so
//! the broker never waits for one while the client has nothing.

/// Limits and what has been taken since the last grant, in messages and bytes.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    limit: Amount,
    taken: Amount,
    /// The first grant of a connection is the whole.
    fresh: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Flow {
    pub(super) fn new(limit: Amount) -> Self {
        Self {
            limit,
            taken: Amount::default(),
            fresh: true,
        }
    }

    /// A new connection knows of no grants.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.limit);
    }

    /// So much of what was received is no longer held.
    pub(super) fn taken(&mut self, amount: Amount) {
        self.taken.messages = self.taken.messages.saturating_add(amount.messages);
        self.taken.bytes = self.taken.bytes.saturating_add(amount.bytes);
    }

    /// True if a grant is due.
    pub(super) fn is_due(&self) -> bool {
        let half = |taken: u64, limit: u64| taken > 0 && taken >= limit / 2;
        self.fresh
            || half(self.taken.messages, self.limit.messages)
            || half(self.taken.bytes, self.limit.bytes)
    }

    /// The grant to send now, if one is due.
    pub(super) fn grant(&mut self) -> Option<Amount> {
        if !self.is_due() {
            return None;
        }
        let amount = if self.fresh { self.limit } else { self.taken };
        self.fresh = false;
        self.taken = Amount::default();
        Some(amount)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn of(messages: u64, bytes: u64) -> Amount {
        Amount { messages, bytes }
    }

    #[test]
    fn grants_come_by_halves() {
        let mut flow = Flow::new(of(100, 1000));
        assert_eq!(flow.grant(), Some(of(100, 1000)));
        assert_eq!(flow.grant(), None);
        flow.taken(of(1, 499));
        assert_eq!(flow.grant(), None);
        flow.taken(of(1, 1));
        assert_eq!(flow.grant(), Some(of(2, 500)));
        flow.taken(of(50, 1));
        assert_eq!(flow.grant(), Some(of(50, 1)));
        flow.restart();
        assert_eq!(flow.grant(), Some(of(100, 1000)));
    }

    /// With the smallest limits the broker is never left without credit for good.
    #[test]
    fn a_broker_that_overdraws_goes_on() {
        for limit in [of(1, 1), of(3, 10), of(1000, 64)] {
            let mut flow = Flow::new(limit);
            let (mut messages, mut bytes) = (0_i64, 0_i64);
            for _ in 0..1000 {
                if let Some(grant) = flow.grant() {
                    messages += i64::try_from(grant.messages).unwrap();
                    bytes += i64::try_from(grant.bytes).unwrap();
                }
                assert!(messages > 0 && bytes > 0, "{limit:?}: stuck");
                // One batch whatever is left, taken at once.
                (messages, bytes) = (messages - 7, bytes - 90);
                flow.taken(of(7, 90));
            }
        }
    }
}
