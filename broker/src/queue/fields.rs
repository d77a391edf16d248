//! The fields of a policy by name, so that some of them can be changed and the others stay. Pure.

use super::policy::Policy;

/// A field, named as in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Lease,
    MaxAttempts,
    MaxHandOuts,
    Backoff,
    BackoffFactor,
    BackoffMax,
    BackoffJitter,
    DeadLetters,
    DeadLettersForExpired,
    Order,
    OnKeyFailure,
    Priorities,
    MaxInFlight,
    MaxInFlightPerConsumer,
    MaxInFlightPerKey,
    Rate,
    Filter,
    RetainDone,
}

impl Field {
    /// All fields with their names.
    pub(crate) const ALL: [(&'static str, Field); 18] = [
        ("lease", Field::Lease),
        ("max_attempts", Field::MaxAttempts),
        ("max_hand_outs", Field::MaxHandOuts),
        ("backoff", Field::Backoff),
        ("backoff_factor_percent", Field::BackoffFactor),
        ("backoff_max", Field::BackoffMax),
        ("backoff_jitter_percent", Field::BackoffJitter),
        ("dead_letters", Field::DeadLetters),
        ("dead_letters_for_expired", Field::DeadLettersForExpired),
        ("order", Field::Order),
        ("on_key_failure", Field::OnKeyFailure),
        ("priorities", Field::Priorities),
        ("max_in_flight", Field::MaxInFlight),
        ("max_in_flight_per_consumer", Field::MaxInFlightPerConsumer),
        ("max_in_flight_per_key", Field::MaxInFlightPerKey),
        ("messages_per_second", Field::Rate),
        ("filter", Field::Filter),
        ("retain_done", Field::RetainDone),
    ];

    pub(crate) fn named(name: &str) -> Option<Field> {
        let found = Field::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, field)| *field)
    }
}

/// A change of a policy.
#[derive(Debug, Clone)]
pub(crate) struct PolicyChange {
    /// Where the new values stand.
    pub(crate) policy: Policy,
    /// Which of them count; `None`: all.
    pub(crate) fields: Option<Vec<Field>>,
}

impl PolicyChange {
    /// What the policy becomes.
    pub(crate) fn apply(&self, present: Policy) -> Policy {
        let Some(fields) = &self.fields else {
            return self.policy.clone();
        };
        let mut policy = present;
        for field in fields {
            take(&mut policy, *field, &self.policy);
        }
        policy
    }
}

fn take(policy: &mut Policy, field: Field, from: &Policy) {
    match field {
        Field::Lease => policy.lease_ms = from.lease_ms,
        Field::MaxAttempts => policy.max_attempts = from.max_attempts,
        Field::MaxHandOuts => policy.max_hand_outs = from.max_hand_outs,
        Field::Backoff => policy.backoff.initial_ms = from.backoff.initial_ms,
        Field::BackoffFactor => policy.backoff.factor_percent = from.backoff.factor_percent,
        Field::BackoffMax => policy.backoff.max_ms = from.backoff.max_ms,
        Field::BackoffJitter => policy.backoff.jitter_percent = from.backoff.jitter_percent,
        Field::DeadLetters => policy.dead_letters = from.dead_letters,
        Field::DeadLettersForExpired => {
            policy.dead_letters_for_expired = from.dead_letters_for_expired;
        }
        Field::Order => policy.order = from.order,
        Field::OnKeyFailure => policy.on_key_failure = from.on_key_failure,
        Field::Priorities => policy.priorities = from.priorities,
        Field::MaxInFlight => policy.max_in_flight.group = from.max_in_flight.group,
        Field::MaxInFlightPerConsumer => {
            policy.max_in_flight.consumer = from.max_in_flight.consumer;
        }
        Field::MaxInFlightPerKey => policy.max_in_flight.key = from.max_in_flight.key,
        Field::Rate => policy.rate_per_s = from.rate_per_s,
        Field::Filter => policy.filter = from.filter.clone(),
        Field::RetainDone => policy.retain_done_ms = from.retain_done_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{
        filter::{Condition, Filter, Test},
        policy::{Backoff, MaxInFlight, OnKeyFailure, Order, Priorities},
    };

    /// Every value is another one than the default.
    fn other() -> Policy {
        let condition = Condition {
            header: "a".into(),
            test: Test::Exists,
        };
        Policy {
            lease_ms: 1,
            max_attempts: 2,
            max_hand_outs: 3,
            backoff: Backoff {
                initial_ms: 4,
                factor_percent: 5,
                max_ms: 6,
                jitter_percent: 7,
            },
            dead_letters: false,
            dead_letters_for_expired: false,
            order: Order::PerKey,
            on_key_failure: OnKeyFailure::BlockKey,
            priorities: Priorities::Strict,
            max_in_flight: MaxInFlight {
                group: 8,
                consumer: 9,
                key: 10,
            },
            rate_per_s: 11,
            filter: Filter {
                conditions: vec![condition],
            },
            retain_done_ms: 12,
        }
    }

    #[test]
    fn each_field_changes_itself_and_all_of_them_everything() {
        let mut policy = Policy::default();
        for (name, field) in Field::ALL {
            assert_eq!(Field::named(name), Some(field));
            let change = PolicyChange {
                policy: other(),
                fields: Some(vec![field]),
            };
            let changed = change.apply(policy.clone());
            assert_ne!(changed, policy, "{name}");
            policy = changed;
        }
        assert_eq!(policy, other());
        assert_eq!(Field::named("leases"), None);
        let whole = PolicyChange {
            policy: Policy::default(),
            fields: None,
        };
        assert_eq!(whole.apply(other()), Policy::default());
    }
}
