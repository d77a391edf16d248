//! What a topic may be: how many partitions, which configuration, which labels, and what a
//! change makes of it.
//!
//! Pure: a topic and a wish go in, the topic that comes of it or the refusal comes out. It
//! never knows which topics exist, what runs for them, or how a change is agreed on.

use std::collections::BTreeMap;

use super::TopicChange;
use crate::{
    error::Refusal,
    limits,
    metadata::state::{Topic, TopicConfig},
};

/// The topic with the change, and how many partitions it shall have.
pub(super) fn changed_topic(topic: &Topic, change: TopicChange) -> Result<(Topic, u32), Refusal> {
    let mut topic = topic.clone();
    let now = topic.groups.len() as u32;
    let partitions = change.partitions.unwrap_or(now);
    check_partitions(partitions)?;
    if partitions < now {
        let why =
            format!("there are {now}; they can only be added, not be reduced to {partitions}");
        return Err(Refusal::invalid("partitions", why));
    }
    let config = &mut topic.config;
    config.retention_ms = change.retention_ms.unwrap_or(config.retention_ms);
    config.retention_bytes = change.retention_bytes.unwrap_or(config.retention_bytes);
    config.max_message_bytes = change.max_message_bytes.unwrap_or(config.max_message_bytes);
    config.append_time = change.append_time.unwrap_or(config.append_time);
    config.dedup_window_ms = change.dedup_window_ms.unwrap_or(config.dedup_window_ms);
    config.until_done = change.until_done.unwrap_or(config.until_done);
    check_config(config)?;
    if let Some(labels) = change.labels {
        check_labels(&labels)?;
        topic.labels = labels;
    }
    topic.groups.resize(partitions as usize, 0);
    Ok((topic, partitions))
}

pub(super) fn check_partitions(partitions: u32) -> Result<(), Refusal> {
    if (1..=limits::MAX_PARTITIONS_PER_TOPIC).contains(&partitions) {
        return Ok(());
    }
    let limit = limits::MAX_PARTITIONS_PER_TOPIC;
    Err(Refusal::invalid(
        "partitions",
        format!("{partitions} is not between 1 and {limit}"),
    ))
}

pub(super) fn check_config(config: &TopicConfig) -> Result<(), Refusal> {
    let check = |field: &str, value: u64, max: u64| {
        if value <= max {
            return Ok(());
        }
        Err(Refusal::invalid(
            field,
            format!("{value} is above the limit of {max}"),
        ))
    };
    let ms = |limit: std::time::Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    check(
        "config.retention",
        config.retention_ms,
        ms(limits::MAX_RETENTION),
    )?;
    check(
        "config.dedup_window",
        config.dedup_window_ms,
        ms(limits::MAX_DEDUP_WINDOW),
    )?;
    check(
        "config.max_message_bytes",
        config.max_message_bytes,
        limits::MAX_MESSAGE_BYTES,
    )?;
    if config.max_message_bytes == 0 {
        return Err(Refusal::invalid(
            "config.max_message_bytes",
            "0 would allow no message",
        ));
    }
    Ok(())
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    if labels.len() > limits::MAX_LABELS {
        let why = format!(
            "{} labels, the limit is {}",
            labels.len(),
            limits::MAX_LABELS
        );
        return Err(Refusal::invalid("labels", why));
    }
    for (key, value) in labels {
        let longest = key.len().max(value.len());
        if key.is_empty() || longest > limits::MAX_LABEL_BYTES {
            let limit = limits::MAX_LABEL_BYTES;
            let why = format!("keys have 1 to {limit} bytes, values up to {limit}; got {longest}");
            return Err(Refusal::invalid("labels", why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(partitions: usize) -> Topic {
        Topic {
            name: "orders".into(),
            groups: (1..=partitions as u64).collect(),
            config: TopicConfig::standard(),
            ..Topic::default()
        }
    }

    #[test]
    fn a_change_of_nothing_changes_nothing() {
        let (same, partitions) = changed_topic(&orders(3), TopicChange::default()).unwrap();
        assert_eq!((same, partitions), (orders(3), 3));
    }

    #[test]
    fn partitions_only_grow() {
        let to = |partitions| TopicChange {
            partitions: Some(partitions),
            ..TopicChange::default()
        };
        let (grown, partitions) = changed_topic(&orders(3), to(5)).unwrap();
        // The new ones have no Raft group before the change is agreed on.
        assert_eq!((grown.groups, partitions), (vec![1, 2, 3, 0, 0], 5));
        changed_topic(&orders(3), to(2)).unwrap_err();
        changed_topic(&orders(3), to(0)).unwrap_err();
        changed_topic(&orders(3), to(limits::MAX_PARTITIONS_PER_TOPIC + 1)).unwrap_err();
    }

    #[test]
    fn a_refused_change_names_its_field() {
        let change = TopicChange {
            dedup_window_ms: Some(u64::MAX),
            ..TopicChange::default()
        };
        let refusal = changed_topic(&orders(1), change).unwrap_err();
        assert!(refusal.to_string().contains("config.dedup_window"));
    }

    #[test]
    fn labels_are_bounded_in_number_and_bytes() {
        let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let longest = "x".repeat(limits::MAX_LABEL_BYTES);
        check_labels(&label(&longest, &longest)).unwrap();
        check_labels(&label(&format!("{longest}x"), "")).unwrap_err();
        check_labels(&label("", "value")).unwrap_err();
        let many = |count: usize| (0..count).map(|n| (n.to_string(), String::new())).collect();
        check_labels(&many(limits::MAX_LABELS)).unwrap();
        check_labels(&many(limits::MAX_LABELS + 1)).unwrap_err();
    }
}
