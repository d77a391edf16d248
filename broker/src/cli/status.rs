//! `aqueduct status`: one look at a broker.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{Error, Stats};
use clap::Args;
use serde_json::json;

use super::{
    ClientArgs, OutputArgs,
    output::{self, Format},
    values::{show_long, show_size},
};

/// Arguments of `aqueduct status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let server = args.client.address()?;
    let client = args.client.connect().await?;
    let stats = client.stats().await?;
    let groups = match client.groups().list(None).await {
        Ok(groups) => Some(groups.len()),
        // A broker of another version may not know the question; the rest is worth having.
        Err(Error::Internal(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if args.output.output == Format::Table {
        output::print(text(&server, &stats, groups))?;
    } else {
        output::print_json(&json!({
            "server": server,
            "version": stats.version,
            "durability": stats.durability,
            "uptime_ms": stats.uptime_ms,
            "topics": stats.topics,
            "partitions": stats.partitions,
            "groups": groups,
            "connections": stats.connections,
            "messages_in": stats.messages_in,
            "bytes_in": stats.bytes_in,
            "messages_out": stats.messages_out,
            "bytes_out": stats.bytes_out,
            "cpu_us": stats.cpu_us,
            "rss_bytes": stats.rss_bytes,
            "rss_peak_bytes": stats.rss_peak_bytes,
            "disk_free_bytes": stats.disk_free_bytes,
            "syncs": stats.syncs,
            "sync_p50_us": stats.sync_p50_us,
            "sync_p99_us": stats.sync_p99_us,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(server: &str, stats: &Stats, groups: Option<usize>) -> String {
    let groups = groups.map_or_else(String::new, |count| format!(", {count} groups"));
    let milliseconds = |us: u64| format!("{:.2} ms", us as f64 / 1000.0);
    let facts = [
        ("server", server.to_owned()),
        (
            "version",
            format!("{}, acknowledged = {}", stats.version, stats.durability),
        ),
        ("uptime", show_long(Duration::from_millis(stats.uptime_ms))),
        (
            "holds",
            format!(
                "{} topics, {} partitions{groups}",
                stats.topics, stats.partitions
            ),
        ),
        ("connections", stats.connections.to_string()),
        (
            "published",
            format!(
                "{} messages, {} since the start",
                stats.messages_in,
                show_size(stats.bytes_in)
            ),
        ),
        (
            "delivered",
            format!(
                "{} messages, {} since the start",
                stats.messages_out,
                show_size(stats.bytes_out)
            ),
        ),
        (
            "memory",
            format!(
                "{}, at most {}",
                show_size(stats.rss_bytes),
                show_size(stats.rss_peak_bytes)
            ),
        ),
        (
            "processor",
            format!("{} so far", show_long(Duration::from_micros(stats.cpu_us))),
        ),
        ("disk", format!("{} free", show_size(stats.disk_free_bytes))),
        (
            "syncs",
            format!(
                "{}, p50 {}, p99 {}",
                stats.syncs,
                milliseconds(stats.sync_p50_us),
                milliseconds(stats.sync_p99_us)
            ),
        ),
    ];
    let lines = facts
        .iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"));
    lines.collect()
}
