//! How topics are printed. The keys of the JSON are a contract.

use std::io;

use aqueduct_client::{PartitionInfo, Retain, TimestampKind, Topic, TrimmedPartition};
use serde_json::{Map, Value, json};

use super::{
    output::{self, Format},
    values::{show_retention, show_size, show_time},
};

/// A topic as JSON: durations in milliseconds (0 = for ever), times in RFC 3339.
pub(super) fn topic_json(topic: &Topic) -> Value {
    let config = &topic.config;
    let milliseconds = |duration: Option<std::time::Duration>| {
        duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    };
    let labels: Map<String, Value> = topic
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({
        "name": topic.name,
        "id": topic.id,
        "partitions": topic.partitions,
        "retention_ms": milliseconds(config.retention),
        "retention_bytes": config.retention_bytes,
        "max_message_bytes": config.max_message_bytes,
        "timestamp": config.timestamp_kind.map(timestamp_name),
        "dedup_window_ms": milliseconds(config.dedup_window),
        "retain": config.retain.map(retain_name),
        "labels": labels,
        "create_time": show_time(topic.create_time_ms),
        "update_time": show_time(topic.update_time_ms),
        "etag": topic.etag,
    })
}

fn timestamp_name(kind: TimestampKind) -> &'static str {
    match kind {
        TimestampKind::Create => "create",
        TimestampKind::Append => "append",
    }
}

fn retain_name(retain: Retain) -> &'static str {
    match retain {
        Retain::Time => "time",
        Retain::UntilDone => "until-done",
    }
}

/// How long messages are kept, in a word.
fn kept_for(topic: &Topic) -> String {
    match topic.config.retain {
        Some(Retain::UntilDone) => "until done".to_owned(),
        _ => topic
            .config
            .retention
            .map(show_retention)
            .unwrap_or_default(),
    }
}

/// A list of topics.
pub(super) fn topics(format: Format, topics: &[Topic]) -> io::Result<()> {
    if format != Format::Table {
        return output::print_list(format, topics.iter().map(topic_json).collect());
    }
    let mut table = output::table(&["NAME", "PARTITIONS", "RETENTION", "MAX MESSAGE", "LABELS"]);
    for topic in topics {
        let config = &topic.config;
        table.add_row([
            topic.name.clone(),
            topic.partitions.to_string(),
            kept_for(topic),
            config.max_message_bytes.map(show_size).unwrap_or_default(),
            labels(topic),
        ]);
    }
    output::print_table(&table)
}

fn labels(topic: &Topic) -> String {
    let labels = topic
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    labels.collect::<Vec<_>>().join(" ")
}

/// One topic and its partitions.
pub(super) fn description(
    format: Format,
    topic: &Topic,
    partitions: &[PartitionInfo],
) -> io::Result<()> {
    if format != Format::Table {
        let mut whole = topic_json(topic);
        whole["partition_list"] = partitions.iter().map(partition_json).collect();
        return output::print_json(&whole);
    }
    let config = &topic.config;
    let bytes = match config.retention_bytes {
        _ if config.retain == Some(Retain::UntilDone) => "not regarded".to_owned(),
        None | Some(0) => "unlimited".to_owned(),
        Some(bytes) => show_size(bytes),
    };
    let facts = [
        ("topic", topic.name.clone()),
        ("id", topic.id.to_string()),
        ("partitions", topic.partitions.to_string()),
        ("retention", kept_for(topic)),
        ("retention size", bytes),
        (
            "max message",
            config.max_message_bytes.map(show_size).unwrap_or_default(),
        ),
        (
            "timestamps",
            config
                .timestamp_kind
                .map(timestamp_name)
                .unwrap_or_default()
                .to_owned(),
        ),
        (
            "dedup window",
            config.dedup_window.map(show_window).unwrap_or_default(),
        ),
        ("labels", labels(topic)),
        ("created", show_time(topic.create_time_ms)),
        ("updated", show_time(topic.update_time_ms)),
        ("etag", topic.etag.clone()),
    ];
    let lines = facts
        .iter()
        .map(|(name, value)| format!("{name:<15} {value}"));
    output::print(lines.fold(String::new(), |text, line| text + line.trim_end() + "\n") + "\n")?;
    let header = ["PARTITION", "START", "END", "MESSAGES", "SIZE", "STATE"];
    let mut table = output::table(&header);
    for partition in partitions {
        let state = if partition.unavailable.is_empty() {
            "ok"
        } else {
            partition.unavailable.as_str()
        };
        table.add_row([
            partition.partition.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            partition
                .high_watermark
                .saturating_sub(partition.log_start_offset)
                .to_string(),
            show_size(partition.size_bytes),
            state.to_owned(),
        ]);
    }
    output::print_table(&table)?;
    output::print(partitions.iter().map(aside).collect::<String>())
}

/// What there is to say of messages that are still needed; nothing as a rule.
fn aside(partition: &PartitionInfo) -> String {
    let number = partition.partition;
    let mut text = String::new();
    if partition.kept_messages > 0 {
        let (count, size) = (partition.kept_messages, show_size(partition.kept_bytes));
        text += &format!("partition {number}: {count} older messages kept aside ({size})\n");
    }
    if let Some((group, offset)) = &partition.held_by {
        text += &format!("partition {number}: group {group} needs the log from {offset} on\n");
    }
    text
}

/// Zero is off here, not for ever.
fn show_window(window: std::time::Duration) -> String {
    if window.is_zero() {
        "off".to_owned()
    } else {
        show_retention(window)
    }
}

fn partition_json(partition: &PartitionInfo) -> Value {
    json!({
        "partition": partition.partition,
        "log_start_offset": partition.log_start_offset,
        "high_watermark": partition.high_watermark,
        "size_bytes": partition.size_bytes,
        "kept_messages": partition.kept_messages,
        "kept_bytes": partition.kept_bytes,
        "held_by": partition.held_by.as_ref().map(|(group, _)| group),
        "held_offset": partition.held_by.as_ref().map(|(_, offset)| offset),
        "unavailable": (!partition.unavailable.is_empty()).then_some(&partition.unavailable),
    })
}

/// Where partitions begin after a trim.
pub(super) fn trimmed(
    format: Format,
    topic: &str,
    partitions: &[TrimmedPartition],
    dry_run: bool,
) -> io::Result<()> {
    if format != Format::Table {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|it| json!({"partition": it.partition, "log_start_offset": it.log_start_offset}))
            .collect();
        let result = json!({"topic": topic, "dry_run": dry_run, "partitions": partitions});
        return output::print_json(&result);
    }
    let begins = if dry_run { "would begin" } else { "begins" };
    let lines = partitions.iter().map(|trimmed| {
        format!(
            "partition {} {begins} at offset {}\n",
            trimmed.partition, trimmed.log_start_offset
        )
    });
    output::print(lines.collect::<String>())
}
