//! `aqueduct pub --dry-run`: reads the whole input as `pub` would, and sends nothing.
//!
//! What can be told without sending is told: whether every line is a message, how many would go,
//! how many of them have no key, and whether topic and partition are there.

use std::process::ExitCode;

use aqueduct_client::{Client, Error};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    output::{self, Failure, Format},
    publish_input::{self, Rules, Source},
};

/// Exit code for a partition that is not there.
const NOT_FOUND: u8 = 3;

/// What would be published, and where.
pub(super) struct Plan<'a> {
    pub(super) topic: &'a str,
    pub(super) source: Source,
    pub(super) rules: Rules,
}

pub(super) async fn run(
    client: &Client,
    plan: Plan<'_>,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let partitions = match client.get_topic(plan.topic).await {
        Ok(topic) => Some(topic.partitions),
        // Some brokers make topics of publishing; `pub` would find out.
        Err(Error::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let (Some(partition), Some(count)) = (plan.rules.partition, partitions)
        && partition >= count
    {
        let message = format!("topic {} has {count} partitions", plan.topic);
        return Err(Failure::new(NOT_FOUND, format!("no partition {partition}: {message}")).into());
    }
    let (chunks, mut incoming) = mpsc::channel(1);
    publish_input::start(plan.source, plan.rules, chunks);
    let (mut messages, mut keyless) = (0_u64, 0_u64);
    while let Some(chunk) = incoming.recv().await {
        let chunk = chunk?;
        messages += chunk.len() as u64;
        keyless += chunk.iter().filter(|message| !message.keyed).count() as u64;
    }
    if format == Format::Table {
        let place = match partitions {
            Some(count) => format!("topic {} ({count} partitions)", plan.topic),
            None => format!("topic {}, which does not exist", plan.topic),
        };
        output::print(format!(
            "would publish {messages} messages to {place}, {keyless} of them with neither key nor partition\n"
        ))?;
    } else {
        output::print_json(&json!({
            "dry_run": true,
            "topic": plan.topic,
            "partitions": partitions,
            "messages": messages,
            "keyless": keyless,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}
