//! The policy of a queue group, in and out.

use aqueduct_proto::v1::{
    HeaderCondition, OnKeyFailure as WireOnKeyFailure, QueueOrder, QueuePolicy, QueuePriorities,
    header_condition::Test as WireTest,
};

use super::{status::duration_ms, topics::encode_duration};
use crate::{
    error::Refusal,
    queue::{
        fields::Field,
        filter::{Condition, Filter, Test},
        policy::{Backoff, MaxInFlight, OnKeyFailure, Order, Policy, Priorities},
    },
};

/// A policy; what is absent takes its default. Its bounds are checked later.
pub(super) fn decode_queue(wire: QueuePolicy) -> Result<Policy, Refusal> {
    let standard = Policy::default();
    let ms = |field: &str, value: Option<prost_types::Duration>, default: u64| match value {
        None => Ok(default),
        Some(value) => duration_ms(&format!("group.queue.{field}"), value),
    };
    let backoff = standard.backoff;
    let condition = |wire| decode_condition("group.queue.filter", wire);
    let filter = wire.filter.into_iter().map(condition);
    Ok(Policy {
        lease_ms: ms("lease", wire.lease, standard.lease_ms)?,
        max_attempts: wire.max_attempts.unwrap_or(standard.max_attempts),
        max_hand_outs: wire.max_hand_outs.unwrap_or(standard.max_hand_outs),
        backoff: Backoff {
            initial_ms: ms("backoff", wire.backoff, backoff.initial_ms)?,
            factor_percent: wire
                .backoff_factor_percent
                .unwrap_or(backoff.factor_percent),
            max_ms: ms("backoff_max", wire.backoff_max, backoff.max_ms)?,
            jitter_percent: wire
                .backoff_jitter_percent
                .unwrap_or(backoff.jitter_percent),
        },
        dead_letters: wire.dead_letters.unwrap_or(standard.dead_letters),
        dead_letters_for_expired: wire
            .dead_letters_for_expired
            .unwrap_or(standard.dead_letters_for_expired),
        order: match QueueOrder::try_from(wire.order) {
            Ok(QueueOrder::Unspecified) => Order::None,
            Ok(QueueOrder::PerKey) => Order::PerKey,
            Err(_) => return Err(unknown("order", wire.order)),
        },
        on_key_failure: match WireOnKeyFailure::try_from(wire.on_key_failure) {
            Ok(WireOnKeyFailure::Unspecified) => OnKeyFailure::SkipAhead,
            Ok(WireOnKeyFailure::Block) => OnKeyFailure::BlockKey,
            Ok(WireOnKeyFailure::Park) => OnKeyFailure::ParkKey,
            Err(_) => return Err(unknown("on_key_failure", wire.on_key_failure)),
        },
        priorities: match QueuePriorities::try_from(wire.priorities) {
            Ok(QueuePriorities::Unspecified) => Priorities::Off,
            Ok(QueuePriorities::Strict) => Priorities::Strict,
            Ok(QueuePriorities::Weighted) => Priorities::Weighted,
            Err(_) => return Err(unknown("priorities", wire.priorities)),
        },
        max_in_flight: MaxInFlight {
            group: wire.max_in_flight,
            consumer: wire.max_in_flight_per_consumer,
            key: wire.max_in_flight_per_key,
        },
        rate_per_s: wire.messages_per_second,
        filter: Filter {
            conditions: filter.collect::<Result<_, _>>()?,
        },
        retain_done_ms: ms("retain_done", wire.retain_done, standard.retain_done_ms)?,
    })
}

/// The fields of a policy that say anything.
pub(super) fn fields_set(wire: &QueuePolicy) -> Vec<Field> {
    let is_set = |field: &Field| match field {
        Field::Lease => wire.lease.is_some(),
        Field::MaxAttempts => wire.max_attempts.is_some(),
        Field::MaxHandOuts => wire.max_hand_outs.is_some(),
        Field::Backoff => wire.backoff.is_some(),
        Field::BackoffFactor => wire.backoff_factor_percent.is_some(),
        Field::BackoffMax => wire.backoff_max.is_some(),
        Field::BackoffJitter => wire.backoff_jitter_percent.is_some(),
        Field::DeadLetters => wire.dead_letters.is_some(),
        Field::DeadLettersForExpired => wire.dead_letters_for_expired.is_some(),
        Field::Order => wire.order != 0,
        Field::OnKeyFailure => wire.on_key_failure != 0,
        Field::Priorities => wire.priorities != 0,
        Field::MaxInFlight => wire.max_in_flight != 0,
        Field::MaxInFlightPerConsumer => wire.max_in_flight_per_consumer != 0,
        Field::MaxInFlightPerKey => wire.max_in_flight_per_key != 0,
        Field::Rate => wire.messages_per_second != 0,
        Field::Filter => !wire.filter.is_empty(),
        Field::RetainDone => wire.retain_done.is_some(),
    };
    let all = Field::ALL.into_iter().map(|(_, field)| field);
    all.filter(is_set).collect()
}

fn unknown(field: &str, value: i32) -> Refusal {
    let why = format!("{value} is not one of its values");
    Refusal::invalid(format!("group.queue.{field}"), why)
}

pub(super) fn decode_condition(field: &str, wire: HeaderCondition) -> Result<Condition, Refusal> {
    let test = match wire.test {
        Some(WireTest::Exists(true)) => Test::Exists,
        Some(WireTest::Equals(value)) => Test::Equals(value.to_vec()),
        Some(WireTest::Prefix(value)) => Test::Prefix(value.to_vec()),
        Some(WireTest::Exists(false)) | None => {
            let why = "say what must hold of the header: exists, equals or prefix";
            return Err(Refusal::invalid(field, why));
        }
    };
    let header = wire.header;
    Ok(Condition { header, test })
}

/// The policy with every value that holds.
pub(super) fn encode_queue(policy: &Policy) -> QueuePolicy {
    let condition = |condition: &Condition| HeaderCondition {
        header: condition.header.clone(),
        test: Some(match &condition.test {
            Test::Exists => WireTest::Exists(true),
            Test::Equals(value) => WireTest::Equals(value.clone().into()),
            Test::Prefix(value) => WireTest::Prefix(value.clone().into()),
        }),
    };
    let order = match policy.order {
        Order::None => QueueOrder::Unspecified,
        Order::PerKey => QueueOrder::PerKey,
    };
    let on_key_failure = match policy.on_key_failure {
        OnKeyFailure::SkipAhead => WireOnKeyFailure::Unspecified,
        OnKeyFailure::BlockKey => WireOnKeyFailure::Block,
        OnKeyFailure::ParkKey => WireOnKeyFailure::Park,
    };
    let priorities = match policy.priorities {
        Priorities::Off => QueuePriorities::Unspecified,
        Priorities::Strict => QueuePriorities::Strict,
        Priorities::Weighted => QueuePriorities::Weighted,
    };
    QueuePolicy {
        lease: Some(encode_duration(policy.lease_ms)),
        max_attempts: Some(policy.max_attempts),
        max_hand_outs: Some(policy.max_hand_outs),
        backoff: Some(encode_duration(policy.backoff.initial_ms)),
        backoff_factor_percent: Some(policy.backoff.factor_percent),
        backoff_max: Some(encode_duration(policy.backoff.max_ms)),
        backoff_jitter_percent: Some(policy.backoff.jitter_percent),
        dead_letters: Some(policy.dead_letters),
        dead_letters_for_expired: Some(policy.dead_letters_for_expired),
        order: order as i32,
        on_key_failure: on_key_failure as i32,
        priorities: priorities as i32,
        max_in_flight: policy.max_in_flight.group,
        max_in_flight_per_consumer: policy.max_in_flight.consumer,
        max_in_flight_per_key: policy.max_in_flight.key,
        messages_per_second: policy.rate_per_s,
        filter: policy.filter.conditions.iter().map(condition).collect(),
        retain_done: Some(encode_duration(policy.retain_done_ms)),
    }
}
