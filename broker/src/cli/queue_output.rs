//! How queue groups are printed. The keys of the JSON are a contract.

use std::io;

use aqueduct_client::{
    FailedAttempt, InFlight, MessageCounts, MessageState, OnKeyFailure, QueueDescription,
    QueueOrder, QueuePolicy, QueuePriorities, Standing,
};
use serde_json::{Map, Value, json};

use super::{
    dead_letters_output::plain,
    group_output::show_seconds,
    group_queue::show_condition,
    output::{self, Format},
    values::{show_duration, show_time},
};

/// The word for a state.
pub(super) fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Delayed => "delayed",
        MessageState::Ready => "ready",
        MessageState::Leased => "leased",
        MessageState::Done => "done",
        MessageState::Dead => "dead",
        _ => "unknown",
    }
}

fn order(order: QueueOrder) -> &'static str {
    match order {
        QueueOrder::None => "none",
        QueueOrder::PerKey => "per-key",
    }
}

fn on_key_failure(failure: OnKeyFailure) -> &'static str {
    match failure {
        OnKeyFailure::SkipAhead => "skip",
        OnKeyFailure::Block => "block",
        OnKeyFailure::Park => "park",
    }
}

fn priorities(priorities: QueuePriorities) -> &'static str {
    match priorities {
        QueuePriorities::Off => "off",
        QueuePriorities::Strict => "strict",
        QueuePriorities::Weighted => "weighted",
    }
}

/// A policy as JSON: durations in milliseconds.
pub(super) fn policy_json(policy: &QueuePolicy) -> Value {
    let ms = |time: Option<std::time::Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    let filter: Vec<String> = policy.filter.iter().map(show_condition).collect();
    json!({
        "lease_ms": ms(policy.lease),
        "max_attempts": policy.max_attempts,
        "max_hand_outs": policy.max_hand_outs,
        "backoff_ms": ms(policy.backoff),
        "backoff_factor_percent": policy.backoff_factor_percent,
        "backoff_max_ms": ms(policy.backoff_max),
        "backoff_jitter_percent": policy.backoff_jitter_percent,
        "dead_letters": policy.dead_letters,
        "dead_letters_for_expired": policy.dead_letters_for_expired,
        "order": order(policy.order),
        "on_key_failure": on_key_failure(policy.on_key_failure),
        "priorities": priorities(policy.priorities),
        "max_in_flight": policy.max_in_flight,
        "max_in_flight_per_consumer": policy.max_in_flight_per_consumer,
        "max_in_flight_per_key": policy.max_in_flight_per_key,
        "messages_per_second": policy.messages_per_second,
        "filter": filter,
        "retain_done_ms": ms(policy.retain_done),
    })
}

/// The policy's facts for people.
pub(super) fn policy_facts(policy: &QueuePolicy) -> Vec<(&'static str, String)> {
    let number = |value: Option<u32>| value.map(|it| it.to_string()).unwrap_or_default();
    let time = |value: Option<std::time::Duration>| value.map(show_duration).unwrap_or_default();
    let limit = |value: u64| match value {
        0 => String::new(),
        value => value.to_string(),
    };
    let filter: Vec<String> = policy.filter.iter().map(show_condition).collect();
    let per_key = policy.order == QueueOrder::PerKey;
    let holds = per_key.then(|| on_key_failure(policy.on_key_failure).to_owned());
    vec![
        ("lease", time(policy.lease)),
        ("max attempts", number(policy.max_attempts)),
        ("max hand-outs", number(policy.max_hand_outs)),
        (
            "backoff",
            format!(
                "{} × {}% to {}, ±{}%",
                time(policy.backoff),
                number(policy.backoff_factor_percent),
                time(policy.backoff_max),
                number(policy.backoff_jitter_percent),
            ),
        ),
        (
            "dead letters",
            match (policy.dead_letters, policy.dead_letters_for_expired) {
                (Some(false), _) => "dropped".into(),
                (_, Some(false)) => "kept, but those that expired are dropped".into(),
                _ => "kept".into(),
            },
        ),
        ("order", order(policy.order).to_owned()),
        ("on key failure", holds.unwrap_or_default()),
        ("priorities", priorities(policy.priorities).to_owned()),
        ("max in flight", limit(policy.max_in_flight)),
        ("per consumer", limit(policy.max_in_flight_per_consumer)),
        ("per key", limit(policy.max_in_flight_per_key)),
        ("rate per second", limit(policy.messages_per_second)),
        ("filter", filter.join(" ")),
        (
            "retain done",
            time(policy.retain_done.filter(|kept| !kept.is_zero())),
        ),
    ]
}

fn counts_json(counts: &MessageCounts) -> Value {
    json!({
        "delayed": counts.delayed,
        "ready": counts.ready,
        "leased": counts.leased,
        "done": counts.done,
        "dead": counts.dead,
    })
}

/// Adds what is seen of a queue to the JSON of its group.
pub(super) fn add_description(whole: &mut Value, queue: &QueueDescription, held: &[InFlight]) {
    let failed: Vec<_> = queue.failed.iter().collect();
    let failed = failed
        .iter()
        .map(|(attempts, messages)| json!({"failed_attempts": attempts, "messages": messages}));
    let totals: Map<String, Value> = queue
        .totals
        .iter()
        .map(|(name, count)| ((*name).to_owned(), json!(count)))
        .collect();
    let partitions = queue.partitions.iter().map(|it| {
        let mut partition = counts_json(&it.counts);
        partition["partition"] = json!(it.partition);
        partition["oldest_offset"] = json!(it.oldest_offset);
        partition["oldest_seconds"] = json!(it.oldest_seconds);
        partition["parked_keys"] = json!(it.parked_keys);
        partition["results_waiting"] = json!(it.results_waiting);
        partition["result_bytes_waiting"] = json!(it.result_bytes_waiting);
        partition
    });
    whole["counts"] = counts_json(&queue.counts);
    whole["totals"] = Value::Object(totals);
    whole["oldest_seconds"] = json!(queue.oldest_seconds);
    whole["parked_keys"] = json!(queue.parked_keys);
    whole["failed"] = failed.collect();
    whole["queue_partition_list"] = partitions.collect();
    whole["in_flight_list"] = held.iter().map(in_flight_json).collect();
}

/// The same for people.
pub(super) fn description_text(queue: &QueueDescription, held: &[InFlight]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<15} {value}\n"));
        }
    };
    let MessageCounts {
        delayed,
        ready,
        leased,
        done,
        dead,
    } = queue.counts;
    let states =
        format!("{ready} ready, {delayed} delayed, {leased} leased, {done} done, {dead} dead");
    line("messages", states);
    let oldest = format!("{} s", show_seconds(queue.oldest_seconds));
    line("oldest", oldest);
    let failed = queue.failed.iter();
    let failed: Vec<String> = failed
        .map(|(attempts, messages)| format!("{attempts} times: {messages}"))
        .collect();
    line("failed", failed.join(", "));
    let totals = queue.totals.iter().filter(|(_, count)| **count > 0);
    let totals: Vec<String> = totals
        .map(|(name, count)| format!("{count} {}", name.replace('_', " ")))
        .collect();
    line("so far", totals.join(", "));
    if queue.parked_keys > 0 {
        line("parked keys", queue.parked_keys.to_string());
    }
    let waiting = queue.partitions.iter().filter(|it| it.results_waiting > 0);
    let waiting = waiting.map(|it| {
        let (number, results) = (it.partition, it.results_waiting);
        format!(
            "{results} of partition {number}, {} bytes",
            it.result_bytes_waiting
        )
    });
    line("results", waiting.collect::<Vec<_>>().join("; "));
    text.push('\n');
    text.push_str(&partitions_text(queue));
    if !held.is_empty() {
        text.push('\n');
        text.push_str(&output::table_text(&in_flight_table(held)));
    }
    text
}

fn partitions_text(queue: &QueueDescription) -> String {
    let header = [
        "PARTITION",
        "READY",
        "DELAYED",
        "LEASED",
        "DONE",
        "DEAD",
        "OLDEST",
        "SECONDS",
        "PARKED",
    ];
    let mut table = output::table(&header);
    for it in &queue.partitions {
        table.add_row([
            it.partition.to_string(),
            it.counts.ready.to_string(),
            it.counts.delayed.to_string(),
            it.counts.leased.to_string(),
            it.counts.done.to_string(),
            it.counts.dead.to_string(),
            it.oldest_offset.map_or("-".to_owned(), |at| at.to_string()),
            show_seconds(it.oldest_seconds),
            it.parked_keys.to_string(),
        ]);
    }
    output::table_text(&table)
}

fn in_flight_json(held: &InFlight) -> Value {
    json!({
        "partition": held.partition,
        "offset": held.offset,
        "lease": held.lease,
        "attempt": held.attempt,
        "hand_outs": held.hand_outs,
        "lease_deadline": show_time(held.deadline_ms),
        "consumer": held.consumer.to_string(),
        "client_id": held.client_id,
        "address": held.address,
        "last_error": held.last_error,
    })
}

fn in_flight_table(held: &[InFlight]) -> comfy_table::Table {
    let header = [
        "IN FLIGHT",
        "LEASE",
        "ATTEMPT",
        "HAND-OUTS",
        "UNTIL",
        "HOLDER",
        "ADDRESS",
        "LAST ERROR",
    ];
    let mut table = output::table(&header);
    for it in held {
        let holder = match it.client_id.as_str() {
            "" => it.consumer.to_string(),
            name => name.to_owned(),
        };
        table.add_row([
            format!("{}:{}", it.partition, it.offset),
            it.lease.to_string(),
            it.attempt.to_string(),
            it.hand_outs.to_string(),
            show_time(it.deadline_ms),
            holder,
            it.address.clone(),
            it.last_error.clone(),
        ]);
    }
    table
}

/// Messages that are held.
pub(super) fn in_flight(format: Format, held: &[InFlight]) -> io::Result<()> {
    match format {
        Format::Table => output::print_table(&in_flight_table(held)),
        format => output::print_list(format, held.iter().map(in_flight_json).collect()),
    }
}

/// Where a message stands, as JSON.
pub(super) fn standing_json(standing: &Standing) -> Value {
    json!({
        "group": standing.group,
        "kind": if standing.is_queue { "queue" } else { "stream" },
        "state": state(standing.state),
        "failed_attempts": standing.failed_attempts,
        "hand_outs": standing.hand_outs,
        "first_failure": standing.first_failure_ms.map(show_time),
        "last_error": standing.last_error,
        "ready_time": standing.ready_ms.map(show_time),
        "lease": standing.lease.as_ref().map(in_flight_json),
        "history": history_json(&standing.history),
    })
}

/// Failed attempts, as JSON; times as texts.
fn history_json(history: &[FailedAttempt]) -> Vec<Value> {
    let attempt = |it: &FailedAttempt| {
        json!({
            "attempt": it.attempt,
            "hand_out": it.hand_out,
            "end": it.end.name(),
            "end_time": show_time(it.end_ms),
            "consumer": it.consumer.to_string(),
            "error": it.error,
        })
    };
    history.iter().map(attempt).collect()
}

/// The same for people, a line each; `failed` is how many there were.
pub(super) fn history_text(history: &[FailedAttempt], failed: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let missing = (failed as usize).saturating_sub(history.len());
    if missing > 0 {
        lines.push(format!("{missing} not kept"));
    }
    for it in history {
        let mut line = format!(
            "{} {} at {}, consumer {}, hand-out {}",
            it.attempt,
            it.end.name(),
            show_time(it.end_ms),
            it.consumer,
            it.hand_out
        );
        if !it.error.is_empty() {
            line.push_str(": ");
            line.extend(it.error.chars().map(plain));
        }
        lines.push(line);
    }
    lines
}

/// The same in a line.
pub(super) fn standing_text(standing: &Standing) -> String {
    let mut text = format!("{} {}", standing.group, state(standing.state));
    if let Some(ready_ms) = standing.ready_ms {
        text.push_str(&format!(" until {}", show_time(ready_ms)));
    }
    if let Some(lease) = &standing.lease {
        let holder = match lease.client_id.as_str() {
            "" => lease.consumer.to_string(),
            name => name.to_owned(),
        };
        let until = show_time(lease.deadline_ms);
        text.push_str(&format!(" as {} by {holder} until {until}", lease.lease));
    }
    if standing.hand_outs > 0 {
        let (failed, hand_outs) = (standing.failed_attempts, standing.hand_outs);
        text.push_str(&format!(", {failed} failed of {hand_outs} hand-outs"));
    }
    if let Some(first_ms) = standing.first_failure_ms {
        let error = &standing.last_error;
        text.push_str(&format!(
            ", first at {}, last: {error}",
            show_time(first_ms)
        ));
    }
    text
}
