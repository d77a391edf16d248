//! `aqueduct schedule`: messages that are published by themselves.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{CatchUp, Client, Message, NewSchedule, Schedule, When};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    ClientArgs, OutputArgs,
    output::{self, Failure, Format},
    values::{self, show_duration, show_time},
};

/// Arguments of `aqueduct schedule`.
#[derive(Debug, Args)]
pub(super) struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// Publish a message by cron, in intervals, or once
    Create(Box<CreateArgs>),
    /// List schedules
    Ls(Common),
    /// Show a schedule
    Show(NameArgs),
    /// Let nothing fire until it is resumed
    Pause(NameArgs),
    /// Fire again; what was missed meanwhile is not made up for
    Resume(NameArgs),
    /// Fire now
    Run(NameArgs),
    /// Delete a schedule
    Rm(NameArgs),
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The schedule
    #[arg(value_parser = values::topic)]
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Name of the schedule
    #[arg(value_parser = values::topic)]
    name: String,
    /// The topic to publish to
    #[arg(value_parser = values::topic)]
    topic: String,
    /// The message
    value: String,
    /// Minute, hour, day of month, month, day of week, such as '0 8 * * MON-FRI'
    #[arg(long, value_name = "EXPRESSION", group = "when")]
    cron: Option<String>,
    /// Time zone of the expression, such as Europe/Berlin; UTC without one
    #[arg(long, value_name = "ZONE", requires = "cron")]
    time_zone: Option<String>,
    /// Again and again after this time, such as 15m
    #[arg(long, value_name = "TIME", value_parser = values::duration, group = "when")]
    every: Option<Duration>,
    /// Once, at this time, such as 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::deliver_at, group = "when")]
    at: Option<i64>,
    /// What becomes of times that passed while the broker was down: skip, once (the last), or a
    /// number (so many of the last)
    #[arg(long, value_name = "POLICY", value_parser = catch_up, default_value = "skip")]
    catch_up: CatchUp,
    /// Create it paused
    #[arg(long)]
    paused: bool,
    /// Replace the definition of a schedule that exists
    #[arg(long)]
    replace: bool,
    /// The key of the message
    #[arg(short, long)]
    key: Option<String>,
    /// A header of the message; may be given several times
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = values::pair)]
    header: Vec<(String, String)>,
    /// Queue groups get the message so long after each firing
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    delay: Option<Duration>,
    /// Queue groups do not hand it out any more after this time
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    ttl: Option<Duration>,
    /// Priority for queue groups, 0 to 9, the greater first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    #[command(flatten)]
    common: Common,
}

fn catch_up(text: &str) -> Result<CatchUp, String> {
    match text {
        "skip" => Ok(CatchUp::Skip),
        "once" => Ok(CatchUp::Once),
        _ => match text.parse() {
            Ok(limit @ 1..=1_000) => Ok(CatchUp::All(limit)),
            _ => Err(format!("{text:?} is none of skip, once, or 1 to 1000")),
        },
    }
}

pub(super) async fn run(args: ScheduleArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ScheduleCommand::Create(args) => create(*args).await?,
        ScheduleCommand::Ls(common) => {
            let all = common.client.connect().await?.schedules().list().await?;
            print_all(common.output.output, &all)?;
        }
        ScheduleCommand::Show(args) => {
            let found = args.connect().await?.schedules().get(&args.name).await?;
            args.print(&found)?;
        }
        ScheduleCommand::Pause(args) => {
            let paused = args.connect().await?.schedules().pause(&args.name).await?;
            args.print(&paused)?;
        }
        ScheduleCommand::Resume(args) => {
            let resumed = args.connect().await?.schedules().resume(&args.name).await?;
            args.print(&resumed)?;
        }
        ScheduleCommand::Run(args) => {
            let ack = args.connect().await?.schedules().run(&args.name).await?;
            match args.common.output.output {
                Format::Table => {
                    output::print(format!("published {}:{}\n", ack.partition, ack.offset))?;
                }
                _ => output::print_json(&json!({
                    "name": args.name, "partition": ack.partition, "offset": ack.offset,
                }))?,
            }
        }
        ScheduleCommand::Rm(args) => {
            args.connect().await?.schedules().delete(&args.name).await?;
            match args.common.output.output {
                Format::Table => output::print(format!("deleted {}\n", args.name))?,
                _ => output::print_json(&json!({ "name": args.name, "deleted": true }))?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl NameArgs {
    async fn connect(&self) -> anyhow::Result<Client> {
        self.common.client.connect().await
    }

    fn print(&self, schedule: &Schedule) -> anyhow::Result<()> {
        print_one(self.common.output.output, schedule)
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let when = match (args.cron, args.every, args.at) {
        (Some(expression), _, _) => When::Cron {
            expression,
            time_zone: args.time_zone.unwrap_or_default(),
        },
        (None, Some(every), _) => When::Every(every),
        (None, None, Some(time_ms)) => When::Once(time_ms),
        (None, None, None) => {
            return Err(Failure::usage("say when: --cron, --every or --at").into());
        }
    };
    let mut message = Message::new(args.value);
    if let Some(key) = args.key {
        message = message.key(key);
    }
    for (name, value) in args.header {
        message = message.header(name, value);
    }
    if let Some(delay) = args.delay {
        message = message.delay(delay);
    }
    if let Some(ttl) = args.ttl {
        message = message.ttl(ttl);
    }
    if let Some(priority) = args.priority {
        message = message.priority(priority);
    }
    let new = NewSchedule {
        name: args.name,
        topic: args.topic,
        message,
        when,
        catch_up: args.catch_up,
        paused: args.paused,
    };
    let schedules = args.common.client.connect().await?.schedules();
    let made = match args.replace {
        true => schedules.update(new).await?,
        false => schedules.create(new).await?,
    };
    print_one(args.common.output.output, &made)
}

/// When it fires, as the arguments say it.
fn show_when(when: Option<&When>) -> String {
    match when {
        Some(When::Cron {
            expression,
            time_zone,
        }) if time_zone.is_empty() => format!("{expression} UTC"),
        Some(When::Cron {
            expression,
            time_zone,
        }) => format!("{expression} {time_zone}"),
        Some(When::Every(every)) => format!("every {}", show_duration(*every)),
        Some(When::Once(time_ms)) => format!("at {}", show_time(*time_ms)),
        None => "?".to_owned(),
    }
}

/// A schedule as JSON. The keys are a contract.
fn to_json(schedule: &Schedule) -> Value {
    let (catch_up, limit) = match schedule.catch_up {
        CatchUp::Skip => ("skip", None),
        CatchUp::Once => ("once", None),
        CatchUp::All(limit) => ("all", Some(limit)),
    };
    json!({
        "name": schedule.name,
        "id": schedule.id,
        "topic": schedule.topic,
        "when": show_when(schedule.when.as_ref()),
        "catch_up": catch_up,
        "catch_up_limit": limit,
        "paused": schedule.paused,
        "next_time": schedule.next_time_ms.map(show_time),
        "last_time": schedule.last_time_ms.map(show_time),
        "fired": schedule.fired,
        "skipped": schedule.skipped,
        "problem": schedule.problem,
        "create_time": show_time(schedule.create_time_ms),
        "update_time": show_time(schedule.update_time_ms),
        "etag": schedule.etag,
    })
}

fn print_one(format: Format, schedule: &Schedule) -> anyhow::Result<()> {
    match format {
        Format::Table => print_all(format, std::slice::from_ref(schedule)),
        _ => Ok(output::print_json(&to_json(schedule))?),
    }
}

fn print_all(format: Format, schedules: &[Schedule]) -> anyhow::Result<()> {
    if format != Format::Table {
        let values = schedules.iter().map(to_json).collect();
        return Ok(output::print_list(format, values)?);
    }
    let mut table = output::table(&["NAME", "TOPIC", "WHEN", "NEXT", "FIRED", "SKIPPED", "STATE"]);
    for schedule in schedules {
        let state = match (schedule.paused, schedule.next_time_ms) {
            _ if !schedule.problem.is_empty() => schedule.problem.clone(),
            (true, _) => "paused".to_owned(),
            (false, Some(_)) => "waiting".to_owned(),
            (false, None) => "over".to_owned(),
        };
        table.add_row([
            schedule.name.clone(),
            schedule.topic.clone(),
            show_when(schedule.when.as_ref()),
            schedule.next_time_ms.map(show_time).unwrap_or_default(),
            schedule.fired.to_string(),
            schedule.skipped.to_string(),
            state,
        ]);
    }
    Ok(output::print_table(&table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catch_up_is_a_word_or_a_number() {
        assert_eq!(catch_up("skip"), Ok(CatchUp::Skip));
        assert_eq!(catch_up("once"), Ok(CatchUp::Once));
        assert_eq!(catch_up("1000"), Ok(CatchUp::All(1_000)));
        for bad in ["0", "1001", "all", ""] {
            assert!(catch_up(bad).is_err(), "{bad}");
        }
    }
}
