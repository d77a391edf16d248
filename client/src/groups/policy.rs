//! How a queue group hands messages out, as plain values: pure.

use std::time::Duration;

use aqueduct_proto::v1;
use bytes::Bytes;

use crate::times::{duration_from_proto, duration_to_proto};

/// In which order the messages of a queue group are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueOrder {
    /// As they are ready.
    #[default]
    None,
    /// One message of a key at a time, in the order of offsets; keys run beside each other.
    PerKey,
}

/// What the later messages of a key do while one of them waits for its retry
/// ([`QueueOrder::PerKey`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnKeyFailure {
    /// They go on; the failed one comes back out of order.
    #[default]
    SkipAhead,
    /// They wait until it is done or a dead letter.
    Block,
    /// They wait, and become dead letters if it becomes one.
    Park,
}

/// Whether messages with a higher priority come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueuePriorities {
    /// Priorities are not looked at.
    #[default]
    Off,
    /// Always.
    Strict,
    /// More often, and the lower ones never not.
    Weighted,
}

/// What must hold of the first header with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    /// There is one.
    Exists(String),
    /// Its value is this.
    Equals(String, Bytes),
    /// Its value begins with this.
    Prefix(String, Bytes),
}

/// How a queue group hands messages out. What is not set takes the broker's default.
///
/// ```
/// use aqueduct_client::{NewGroup, OnKeyFailure, QueueOrder, QueuePolicy};
/// use std::time::Duration;
/// let policy = QueuePolicy::new()
///     .lease(Duration::from_secs(60))
///     .max_attempts(5)
///     .order(QueueOrder::PerKey)
///     .on_key_failure(OnKeyFailure::Block);
/// let group = NewGroup::new("orders", "packing").queue(policy);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// How long a lease lasts (1 s to 1 day). Default 30 s.
    pub lease: Option<Duration>,
    /// Failed attempts after which a message is a dead letter. Default 10.
    pub max_attempts: Option<u32>,
    /// Leases after which it is one, failed or not. Default 100.
    pub max_hand_outs: Option<u32>,
    /// Wait after the first failed attempt. Default 1 s.
    pub backoff: Option<Duration>,
    /// Each further wait is the one before times this, in percent. Default 200.
    pub backoff_factor_percent: Option<u32>,
    /// Longest wait. Default 10 min.
    pub backoff_max: Option<Duration>,
    /// Waits are up to so much shorter or longer. Default 20.
    pub backoff_jitter_percent: Option<u32>,
    /// Copies of dead letters go to the topic `{topic}.{group}.dlq`; else they are dropped and
    /// counted. Default true.
    pub dead_letters: Option<bool>,
    /// The same for messages whose time to live is over. Default true.
    pub dead_letters_for_expired: Option<bool>,
    /// In which order.
    pub order: QueueOrder,
    /// What a failure does to its key.
    pub on_key_failure: OnKeyFailure,
    /// Whether priorities count.
    pub priorities: QueuePriorities,
    /// Messages leased at a time in each partition; 0 = no limit.
    pub max_in_flight: u64,
    /// The same for one consumer.
    pub max_in_flight_per_consumer: u64,
    /// The same for one key.
    pub max_in_flight_per_key: u64,
    /// In each partition; 0 = no limit.
    pub messages_per_second: u64,
    /// All must hold; messages that they leave out are done at once. At most 16.
    pub filter: Vec<HeaderCondition>,
    /// In a topic that retains until done ([`crate::Retain::UntilDone`]): how long messages stay
    /// readable after that, up to 30 days. Default 0.
    pub retain_done: Option<Duration>,
}

impl QueuePolicy {
    /// The broker's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a lease lasts (1 s to 1 day).
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Failed attempts after which a message is a dead letter.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Leases after which it is one, failed or not.
    #[must_use]
    pub fn max_hand_outs(mut self, hand_outs: u32) -> Self {
        self.max_hand_outs = Some(hand_outs);
        self
    }

    /// Waits between attempts: the first, by how much each is longer than the one before (in
    /// percent of it; 100 = all alike), and the longest.
    #[must_use]
    pub fn backoff(mut self, first: Duration, factor_percent: u32, longest: Duration) -> Self {
        self.backoff = Some(first);
        self.backoff_factor_percent = Some(factor_percent);
        self.backoff_max = Some(longest);
        self
    }

    /// Whether copies of dead letters are kept.
    #[must_use]
    pub fn dead_letters(mut self, keep: bool) -> Self {
        self.dead_letters = Some(keep);
        self
    }

    /// In which order.
    #[must_use]
    pub fn order(mut self, order: QueueOrder) -> Self {
        self.order = order;
        self
    }

    /// What a failure does to its key.
    #[must_use]
    pub fn on_key_failure(mut self, on_key_failure: OnKeyFailure) -> Self {
        self.on_key_failure = on_key_failure;
        self
    }

    /// Whether priorities count.
    #[must_use]
    pub fn priorities(mut self, priorities: QueuePriorities) -> Self {
        self.priorities = priorities;
        self
    }

    /// Adds a condition.
    #[must_use]
    pub fn filter(mut self, condition: HeaderCondition) -> Self {
        self.filter.push(condition);
        self
    }

    /// How long messages stay readable after they were done, in a topic that retains until then.
    #[must_use]
    pub fn retain_done(mut self, retain_done: Duration) -> Self {
        self.retain_done = Some(retain_done);
        self
    }

    #[allow(clippy::needless_update, reason = "fields of a newer broker")]
    pub(super) fn into_proto(self) -> v1::QueuePolicy {
        v1::QueuePolicy {
            lease: self.lease.map(duration_to_proto),
            max_attempts: self.max_attempts,
            max_hand_outs: self.max_hand_outs,
            backoff: self.backoff.map(duration_to_proto),
            backoff_factor_percent: self.backoff_factor_percent,
            backoff_max: self.backoff_max.map(duration_to_proto),
            backoff_jitter_percent: self.backoff_jitter_percent,
            dead_letters: self.dead_letters,
            dead_letters_for_expired: self.dead_letters_for_expired,
            order: match self.order {
                QueueOrder::None => v1::QueueOrder::Unspecified,
                QueueOrder::PerKey => v1::QueueOrder::PerKey,
            }
            .into(),
            on_key_failure: match self.on_key_failure {
                OnKeyFailure::SkipAhead => v1::OnKeyFailure::Unspecified,
                OnKeyFailure::Block => v1::OnKeyFailure::Block,
                OnKeyFailure::Park => v1::OnKeyFailure::Park,
            }
            .into(),
            priorities: match self.priorities {
                QueuePriorities::Off => v1::QueuePriorities::Unspecified,
                QueuePriorities::Strict => v1::QueuePriorities::Strict,
                QueuePriorities::Weighted => v1::QueuePriorities::Weighted,
            }
            .into(),
            max_in_flight: self.max_in_flight,
            max_in_flight_per_consumer: self.max_in_flight_per_consumer,
            max_in_flight_per_key: self.max_in_flight_per_key,
            messages_per_second: self.messages_per_second,
            filter: self.filter.into_iter().map(condition_to_proto).collect(),
            retain_done: self.retain_done.map(duration_to_proto),
            ..v1::QueuePolicy::default()
        }
    }

    pub(super) fn from_proto(policy: v1::QueuePolicy) -> Self {
        Self {
            order: match policy.order() {
                v1::QueueOrder::Unspecified => QueueOrder::None,
                v1::QueueOrder::PerKey => QueueOrder::PerKey,
            },
            on_key_failure: match policy.on_key_failure() {
                v1::OnKeyFailure::Unspecified => OnKeyFailure::SkipAhead,
                v1::OnKeyFailure::Block => OnKeyFailure::Block,
                v1::OnKeyFailure::Park => OnKeyFailure::Park,
            },
            priorities: match policy.priorities() {
                v1::QueuePriorities::Unspecified => QueuePriorities::Off,
                v1::QueuePriorities::Strict => QueuePriorities::Strict,
                v1::QueuePriorities::Weighted => QueuePriorities::Weighted,
            },
            lease: policy.lease.map(duration_from_proto),
            max_attempts: policy.max_attempts,
            max_hand_outs: policy.max_hand_outs,
            backoff: policy.backoff.map(duration_from_proto),
            backoff_factor_percent: policy.backoff_factor_percent,
            backoff_max: policy.backoff_max.map(duration_from_proto),
            backoff_jitter_percent: policy.backoff_jitter_percent,
            dead_letters: policy.dead_letters,
            dead_letters_for_expired: policy.dead_letters_for_expired,
            max_in_flight: policy.max_in_flight,
            max_in_flight_per_consumer: policy.max_in_flight_per_consumer,
            max_in_flight_per_key: policy.max_in_flight_per_key,
            messages_per_second: policy.messages_per_second,
            filter: policy
                .filter
                .into_iter()
                .filter_map(condition_from_proto)
                .collect(),
            retain_done: policy.retain_done.map(duration_from_proto),
        }
    }
}

pub(crate) fn condition_to_proto(condition: HeaderCondition) -> v1::HeaderCondition {
    use v1::header_condition::Test;
    let (header, test) = match condition {
        HeaderCondition::Exists(header) => (header, Test::Exists(true)),
        HeaderCondition::Equals(header, value) => (header, Test::Equals(value)),
        HeaderCondition::Prefix(header, value) => (header, Test::Prefix(value)),
    };
    v1::HeaderCondition {
        header,
        test: Some(test),
    }
}

/// `None`: a test that this library does not know.
fn condition_from_proto(condition: v1::HeaderCondition) -> Option<HeaderCondition> {
    use v1::header_condition::Test;
    let header = condition.header;
    Some(match condition.test? {
        Test::Exists(_) => HeaderCondition::Exists(header),
        Test::Equals(value) => HeaderCondition::Equals(header, value),
        Test::Prefix(value) => HeaderCondition::Prefix(header, value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_keeps_its_settings_on_the_wire() {
        let policy = QueuePolicy {
            backoff_jitter_percent: Some(7),
            dead_letters_for_expired: Some(false),
            max_in_flight: 1,
            max_in_flight_per_consumer: 2,
            max_in_flight_per_key: 3,
            messages_per_second: 4,
            ..QueuePolicy::new()
        };
        let policy = policy
            .lease(Duration::from_millis(1500))
            .max_attempts(3)
            .max_hand_outs(9)
            .retain_done(Duration::from_secs(60))
            .backoff(Duration::from_millis(10), 150, Duration::from_secs(1))
            .dead_letters(false)
            .order(QueueOrder::PerKey)
            .on_key_failure(OnKeyFailure::Park)
            .priorities(QueuePriorities::Weighted)
            .filter(HeaderCondition::Exists("a".into()))
            .filter(HeaderCondition::Equals(
                "b".into(),
                Bytes::from_static(b"1"),
            ))
            .filter(HeaderCondition::Prefix(
                "c".into(),
                Bytes::from_static(b"2"),
            ));
        assert_eq!(QueuePolicy::from_proto(policy.clone().into_proto()), policy);
    }
}
