//! How groups are printed. The keys of the JSON are a contract.

use std::io;

use aqueduct_client::{
    Group, GroupLag, GroupState, InFlight, Member, PartitionLag, QueueDescription, SoughtPartition,
    StartPolicy,
};
use serde_json::{Map, Value, json};

use super::{
    output::{self, Format},
    queue_output::{add_description, description_text, policy_facts, policy_json},
    values::{GroupName, show_duration, show_time},
};

/// Everything about one group.
pub(super) struct Described {
    pub(super) group: Group,
    /// Of a queue group, and some of its messages in flight.
    pub(super) queue: Option<(QueueDescription, Vec<InFlight>)>,
    pub(super) members: Vec<Member>,
    pub(super) lag: GroupLag,
}

/// A group as JSON: durations in milliseconds, times in RFC 3339.
pub(super) fn group_json(group: &Group) -> Value {
    let labels: Map<String, Value> = group
        .labels
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    let session = group
        .session_timeout
        .map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    json!({
        "topic": group.topic,
        "name": group.name,
        "id": group.id,
        "kind": kind(group),
        "state": state(group.state),
        "members": group.members,
        "start": group.start.map(policy),
        "start_offsets": group.start_offsets,
        "overrun": group.overrun.map(policy),
        "session_timeout_ms": session,
        "paused_until": group.paused_until_ms.map(show_time),
        "labels": labels,
        "create_time": show_time(group.create_time_ms),
        "update_time": show_time(group.update_time_ms),
        "etag": group.etag,
        "queue": group.queue.as_ref().map(policy_json),
    })
}

fn kind(group: &Group) -> &'static str {
    match group.queue {
        Some(_) => "queue",
        None => "stream",
    }
}

/// Says how many keys go on.
pub(super) fn unparked(format: Format, done: &str, keys: u64) -> io::Result<()> {
    match format {
        Format::Table => output::print(format!("{done} {keys} keys\n")),
        _ => output::print_json(&json!({ "unparked": keys })),
    }
}

/// The word for what a group is doing.
pub(super) fn state(state: GroupState) -> &'static str {
    match state {
        GroupState::Empty => "empty",
        GroupState::Stable => "stable",
        GroupState::Rebalancing => "rebalancing",
        GroupState::Paused => "paused",
        _ => "unknown",
    }
}

fn policy(policy: StartPolicy) -> &'static str {
    match policy {
        StartPolicy::Earliest => "earliest",
        StartPolicy::Latest => "latest",
        StartPolicy::Error => "error",
        StartPolicy::Pinned => "pinned",
    }
}

/// A list of groups.
pub(super) fn groups(format: Format, groups: &[Group]) -> io::Result<()> {
    if format != Format::Table {
        return output::print_list(format, groups.iter().map(group_json).collect());
    }
    let mut table = output::table(&[
        "TOPIC", "GROUP", "KIND", "STATE", "MEMBERS", "START", "LABELS",
    ]);
    for group in groups {
        table.add_row([
            group.topic.clone(),
            group.name.clone(),
            kind(group).to_owned(),
            state(group.state).to_owned(),
            group.members.to_string(),
            group.start.map(policy).unwrap_or_default().to_owned(),
            labels(group),
        ]);
    }
    output::print_table(&table)
}

fn labels(group: &Group) -> String {
    let labels = group.labels.iter();
    let labels = labels.map(|(name, value)| format!("{name}={value}"));
    labels.collect::<Vec<_>>().join(" ")
}

/// Says what was done in a line, or prints the group as JSON.
pub(super) fn report(format: Format, done: &str, group: &Group) -> io::Result<()> {
    if format != Format::Table {
        return output::print_json(&group_json(group));
    }
    let until = match group.paused_until_ms {
        Some(time) => format!(" until {}", show_time(time)),
        None => String::new(),
    };
    output::print(format!("{done} {}/{}{until}\n", group.topic, group.name))
}

/// One group, its members, and where it is.
pub(super) fn description(format: Format, described: &Described) -> io::Result<()> {
    let Described {
        group,
        queue,
        members,
        lag,
    } = described;
    if format != Format::Table {
        let mut whole = group_json(group);
        whole["lag_messages"] = json!(lag.messages);
        whole["lag_seconds"] = json!(lag.seconds);
        whole["member_list"] = members.iter().map(member_json).collect();
        whole["partition_list"] = lag.partitions.iter().map(partition_json).collect();
        if let Some((queue, held)) = queue {
            add_description(&mut whole, queue, held);
        }
        return output::print_json(&whole);
    }
    let queued = group.queue.as_ref().map(policy_facts).unwrap_or_default();
    let facts = [
        ("group", format!("{}/{}", group.topic, group.name)),
        ("kind", kind(group).to_owned()),
        ("id", group.id.to_string()),
        ("state", state(group.state).to_owned()),
        (
            "paused until",
            group.paused_until_ms.map(show_time).unwrap_or_default(),
        ),
        (
            "start",
            group.start.map(policy).unwrap_or_default().to_owned(),
        ),
        (
            "overrun",
            group.overrun.map(policy).unwrap_or_default().to_owned(),
        ),
        (
            "session",
            group.session_timeout.map(show_duration).unwrap_or_default(),
        ),
        ("labels", labels(group)),
        ("created", show_time(group.create_time_ms)),
        ("updated", show_time(group.update_time_ms)),
        ("etag", group.etag.clone()),
        (
            "lag",
            format!("{} messages, {} s", lag.messages, show_seconds(lag.seconds)),
        ),
    ];
    let lines = facts
        .iter()
        .chain(&queued)
        .filter(|(_, value)| !value.is_empty());
    let lines = lines.map(|(name, value)| format!("{name:<15} {value}\n"));
    output::print(lines.collect::<String>() + "\n")?;
    if !members.is_empty() {
        output::print_table(&members_table(members))?;
        output::print("\n")?;
    }
    if let Some((queue, held)) = queue {
        return output::print(description_text(queue, held));
    }
    output::print_table(&partitions_table(&lag.partitions))
}

fn member_json(member: &Member) -> Value {
    json!({
        "member_id": member.member_id,
        "instance_id": (!member.instance_id.is_empty()).then_some(&member.instance_id),
        "client_id": member.client_id,
        "address": member.address,
        "partitions": member.partitions,
        "pulls": member.pulls,
        "idle_ms": u64::try_from(member.idle.as_millis()).unwrap_or(u64::MAX),
    })
}

fn members_table(members: &[Member]) -> comfy_table::Table {
    let header = [
        "MEMBER",
        "INSTANCE",
        "CLIENT",
        "ADDRESS",
        "IDLE",
        "PARTITIONS",
    ];
    let mut table = output::table(&header);
    for member in members {
        let numbers: Vec<String> = member.partitions.iter().map(u32::to_string).collect();
        table.add_row([
            member.member_id.clone(),
            member.instance_id.clone(),
            member.client_id.clone(),
            member.address.clone(),
            format!("{} s", show_seconds(member.idle.as_secs_f64())),
            numbers.join(" "),
        ]);
    }
    table
}

/// Where a group is in one partition, as JSON.
pub(super) fn partition_json(lag: &PartitionLag) -> Value {
    json!({
        "partition": lag.partition,
        "position": lag.position,
        "log_start_offset": lag.log_start_offset,
        "high_watermark": lag.high_watermark,
        "lag_messages": lag.messages,
        "lag_seconds": lag.seconds,
        "member": (!lag.member.is_empty()).then_some(&lag.member),
        "commit_time": lag.commit_time_ms.map(show_time),
    })
}

fn partitions_table(partitions: &[PartitionLag]) -> comfy_table::Table {
    let header = [
        "PARTITION",
        "POSITION",
        "END",
        "LAG",
        "SECONDS",
        "MEMBER",
        "COMMITTED",
    ];
    let mut table = output::table(&header);
    for lag in partitions {
        table.add_row([
            lag.partition.to_string(),
            lag.position.map_or("-".to_owned(), |it| it.to_string()),
            lag.high_watermark.to_string(),
            lag.messages.to_string(),
            show_seconds(lag.seconds),
            lag.member.clone(),
            lag.commit_time_ms.map(show_time).unwrap_or_default(),
        ]);
    }
    table
}

/// Seconds as people read them.
pub(super) fn show_seconds(seconds: f64) -> String {
    if seconds < 100.0 {
        format!("{seconds:.1}")
    } else {
        format!("{seconds:.0}")
    }
}

/// Where positions are after a seek.
pub(super) fn sought(
    format: Format,
    group: &GroupName,
    partitions: &[SoughtPartition],
    dry_run: bool,
) -> io::Result<()> {
    if format != Format::Table {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|it| {
                json!({
                    "partition": it.partition,
                    "old_position": it.old_position,
                    "new_position": it.new_position,
                    "log_start_offset": it.log_start_offset,
                    "high_watermark": it.high_watermark,
                })
            })
            .collect();
        return output::print_json(&json!({
            "topic": group.topic,
            "group": group.name,
            "dry_run": dry_run,
            "partitions": partitions,
        }));
    }
    let now = if dry_run { "WOULD BE" } else { "NOW" };
    let mut table = output::table(&["PARTITION", "WAS", now, "MOVES", "LAG"]);
    for it in partitions {
        let moves = it.old_position.map_or_else(String::new, |old| {
            let (old, new) = (i128::from(old), i128::from(it.new_position));
            format!("{:+}", new - old)
        });
        table.add_row([
            it.partition.to_string(),
            it.old_position
                .map_or("-".to_owned(), |old| old.to_string()),
            it.new_position.to_string(),
            moves,
            it.high_watermark
                .saturating_sub(it.new_position)
                .to_string(),
        ]);
    }
    output::print_table(&table)
}
