//! `aqueduct delayed`: messages of a queue group that wait for their delay.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{Delayed, Queue};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ClientArgs, OutputArgs,
    output::{self, Failure, Format},
    records, values,
};

/// Arguments of `aqueduct delayed`.
#[derive(Debug, Args)]
pub(super) struct DelayedArgs {
    #[command(subcommand)]
    command: DelayedCommand,
}

#[derive(Debug, Subcommand)]
enum DelayedCommand {
    /// List messages that wait for their delay, in order of time
    Ls(ListArgs),
    /// Show one of them
    Get(OneArgs),
    /// Never hand a message out to this group
    Cancel(OneArgs),
    /// Give a message another time
    Reschedule(RescheduleArgs),
}

#[derive(Debug, Args)]
struct Of {
    /// The topic
    #[arg(value_parser = values::topic)]
    topic: String,
    /// The queue group
    #[arg(value_parser = values::topic)]
    group: String,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    of: Of,
    /// List so many at most
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct OneArgs {
    #[command(flatten)]
    of: Of,
    /// Which message, such as 3:1042
    #[arg(value_name = "PARTITION:OFFSET", value_parser = values::place)]
    place: (u32, u64),
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct RescheduleArgs {
    #[command(flatten)]
    one: OneArgs,
    /// The new time, such as 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::deliver_at, conflicts_with = "after")]
    at: Option<i64>,
    /// The new time, from now, such as 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    after: Option<Duration>,
}

pub(super) async fn run(args: DelayedArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DelayedCommand::Ls(args) => list(args).await?,
        DelayedCommand::Get(args) => {
            let (partition, offset) = args.place;
            let found = args.queue().await?.get_delayed(partition, offset).await?;
            print_one(&args, &found)?;
        }
        DelayedCommand::Cancel(args) => {
            let (partition, offset) = args.place;
            args.queue()
                .await?
                .cancel_delayed(partition, offset)
                .await?;
            match args.common.output.output {
                Format::Table => output::print(format!("cancelled {partition}:{offset}\n"))?,
                _ => output::print_json(&json!({
                    "partition": partition, "offset": offset, "cancelled": true,
                }))?,
            }
        }
        DelayedCommand::Reschedule(RescheduleArgs { one, at, after }) => {
            let now_ms = Timestamp::now().as_millisecond();
            let after = after.map(|after| {
                now_ms.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
            });
            let Some(at_ms) = at.or(after) else {
                return Err(Failure::usage("say when: --at TIME or --after TIME").into());
            };
            let (partition, offset) = one.place;
            let queue = one.queue().await?;
            let changed = queue.reschedule_delayed(partition, offset, at_ms).await?;
            print_one(&one, &changed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl OneArgs {
    async fn queue(&self) -> anyhow::Result<Queue> {
        let client = self.common.client.connect().await?;
        Ok(client.queue(&self.of.topic, &self.of.group))
    }
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.common.client.connect().await?;
    let queue = client.queue(&args.of.topic, &args.of.group);
    let (mut all, mut page, mut complete) = (Vec::new(), String::new(), true);
    while all.len() < args.limit {
        let most = u32::try_from((args.limit - all.len()).min(1_000)).unwrap_or(1_000);
        let found = queue.delayed(most, &page).await?;
        all.extend(found.messages);
        complete = found.complete;
        page = found.next_page;
        if page.is_empty() {
            break;
        }
    }
    match args.common.output.output {
        Format::Table => {
            let mut table = output::table(&["ID", "DELIVER AT"]);
            for one in &all {
                let id = format!("{}:{}", one.partition, one.offset);
                table.add_row([id, values::show_time(one.deliver_at_ms)]);
            }
            output::print_table(&table)?;
        }
        format => output::print_list(format, all.iter().map(to_json).collect())?,
    }
    if !page.is_empty() {
        let hint = Some("-n lists more");
        output::complain("note: there are more", hint);
    } else if !complete {
        let why = "note: a million messages are ready before the rest of the log, which was not looked at";
        output::complain(why, None);
    }
    Ok(())
}

fn to_json(delayed: &Delayed) -> Value {
    json!({
        "partition": delayed.partition,
        "offset": delayed.offset,
        "deliver_at": values::show_time(delayed.deliver_at_ms),
    })
}

fn print_one(args: &OneArgs, delayed: &Delayed) -> anyhow::Result<()> {
    if args.common.output.output != Format::Table {
        let mut value = to_json(delayed);
        if let Some(record) = &delayed.record {
            let mut text = Vec::new();
            records::write_json(&mut text, &args.of.topic, record);
            value["message"] = serde_json::from_slice(&text)?;
        }
        return Ok(output::print_json(&value)?);
    }
    let mut table = output::table(&["ID", "DELIVER AT", "KEY", "VALUE"]);
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let record = delayed.record.as_ref();
    table.add_row([
        format!("{}:{}", delayed.partition, delayed.offset),
        values::show_time(delayed.deliver_at_ms),
        text(record.and_then(|record| record.key.as_deref())),
        text(record.and_then(|record| record.value.as_deref())),
    ]);
    Ok(output::print_table(&table)?)
}
