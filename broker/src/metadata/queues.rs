//! The policy of a queue group as the metadata keeps it. Pure.
//!
//! Only the form: what the values mean, and their bounds, is the queue's.

use prost::Message;

use crate::queue::{
    filter::{Condition, Filter, Test},
    policy::{Backoff, MaxInFlight, OnKeyFailure, Order, Policy, Priorities},
};

/// All values, as they were resolved when the group was made or changed.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct QueueSettings {
    #[prost(uint64, tag = "1")]
    lease_ms: u64,
    #[prost(uint32, tag = "2")]
    max_attempts: u32,
    #[prost(uint32, tag = "3")]
    max_hand_outs: u32,
    #[prost(uint64, tag = "4")]
    backoff_ms: u64,
    #[prost(uint32, tag = "5")]
    backoff_factor_percent: u32,
    #[prost(uint64, tag = "6")]
    backoff_max_ms: u64,
    #[prost(uint32, tag = "7")]
    backoff_jitter_percent: u32,
    #[prost(bool, tag = "8")]
    dead_letters: bool,
    #[prost(bool, tag = "9")]
    dead_letters_for_expired: bool,
    #[prost(bool, tag = "10")]
    per_key: bool,
    /// 0 skip ahead, 1 block, 2 park.
    #[prost(uint32, tag = "11")]
    on_key_failure: u32,
    /// 0 off, 1 strict, 2 weighted.
    #[prost(uint32, tag = "12")]
    priorities: u32,
    #[prost(uint64, tag = "13")]
    in_flight_group: u64,
    #[prost(uint64, tag = "14")]
    in_flight_consumer: u64,
    #[prost(uint64, tag = "15")]
    in_flight_key: u64,
    #[prost(uint64, tag = "16")]
    rate_per_s: u64,
    #[prost(message, repeated, tag = "17")]
    filter: Vec<SavedCondition>,
    #[prost(uint64, tag = "18")]
    retain_done_ms: u64,
}

/// A condition on a header.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct SavedCondition {
    #[prost(string, tag = "1")]
    header: String,
    /// 0 exists, 1 equals, 2 prefix.
    #[prost(uint32, tag = "2")]
    test: u32,
    #[prost(bytes = "vec", tag = "3")]
    value: Vec<u8>,
}

impl From<&Policy> for QueueSettings {
    fn from(policy: &Policy) -> QueueSettings {
        QueueSettings {
            lease_ms: policy.lease_ms,
            max_attempts: policy.max_attempts,
            max_hand_outs: policy.max_hand_outs,
            backoff_ms: policy.backoff.initial_ms,
            backoff_factor_percent: policy.backoff.factor_percent,
            backoff_max_ms: policy.backoff.max_ms,
            backoff_jitter_percent: policy.backoff.jitter_percent,
            dead_letters: policy.dead_letters,
            dead_letters_for_expired: policy.dead_letters_for_expired,
            per_key: policy.order == Order::PerKey,
            on_key_failure: match policy.on_key_failure {
                OnKeyFailure::SkipAhead => 0,
                OnKeyFailure::BlockKey => 1,
                OnKeyFailure::ParkKey => 2,
            },
            priorities: match policy.priorities {
                Priorities::Off => 0,
                Priorities::Strict => 1,
                Priorities::Weighted => 2,
            },
            in_flight_group: policy.max_in_flight.group,
            in_flight_consumer: policy.max_in_flight.consumer,
            in_flight_key: policy.max_in_flight.key,
            rate_per_s: policy.rate_per_s,
            filter: policy.filter.conditions.iter().map(save).collect(),
            retain_done_ms: policy.retain_done_ms,
        }
    }
}

fn save(condition: &Condition) -> SavedCondition {
    let (test, value) = match &condition.test {
        Test::Exists => (0, Vec::new()),
        Test::Equals(value) => (1, value.clone()),
        Test::Prefix(value) => (2, value.clone()),
    };
    let header = condition.header.clone();
    SavedCondition {
        header,
        test,
        value,
    }
}

fn load(saved: &SavedCondition) -> Condition {
    let value = saved.value.clone();
    Condition {
        header: saved.header.clone(),
        test: match saved.test {
            1 => Test::Equals(value),
            2 => Test::Prefix(value),
            _ => Test::Exists,
        },
    }
}

impl From<&QueueSettings> for Policy {
    fn from(saved: &QueueSettings) -> Policy {
        Policy {
            lease_ms: saved.lease_ms,
            max_attempts: saved.max_attempts,
            max_hand_outs: saved.max_hand_outs,
            backoff: Backoff {
                initial_ms: saved.backoff_ms,
                factor_percent: saved.backoff_factor_percent,
                max_ms: saved.backoff_max_ms,
                jitter_percent: saved.backoff_jitter_percent,
            },
            dead_letters: saved.dead_letters,
            dead_letters_for_expired: saved.dead_letters_for_expired,
            order: if saved.per_key {
                Order::PerKey
            } else {
                Order::None
            },
            on_key_failure: match saved.on_key_failure {
                1 => OnKeyFailure::BlockKey,
                2 => OnKeyFailure::ParkKey,
                _ => OnKeyFailure::SkipAhead,
            },
            priorities: match saved.priorities {
                1 => Priorities::Strict,
                2 => Priorities::Weighted,
                _ => Priorities::Off,
            },
            max_in_flight: MaxInFlight {
                group: saved.in_flight_group,
                consumer: saved.in_flight_consumer,
                key: saved.in_flight_key,
            },
            rate_per_s: saved.rate_per_s,
            filter: Filter {
                conditions: saved.filter.iter().map(load).collect(),
            },
            retain_done_ms: saved.retain_done_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_comes_back_as_it_was() {
        let condition = |header: &str, test| Condition {
            header: header.to_owned(),
            test,
        };
        let policy = Policy {
            lease_ms: 5_000,
            order: Order::PerKey,
            on_key_failure: OnKeyFailure::ParkKey,
            priorities: Priorities::Weighted,
            rate_per_s: 7,
            retain_done_ms: 8,
            filter: Filter {
                conditions: vec![
                    condition("a", Test::Exists),
                    condition("b", Test::Equals(b"1".to_vec())),
                    condition("c", Test::Prefix(b"2".to_vec())),
                ],
            },
            ..Policy::default()
        };
        for policy in [policy, Policy::default()] {
            let saved = QueueSettings::from(&policy).encode_to_vec();
            let loaded = QueueSettings::decode(saved.as_slice()).unwrap();
            assert_eq!(Policy::from(&loaded), policy);
        }
    }
}
