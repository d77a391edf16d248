//! `aqueduct lag`: how far groups are behind, in messages and in seconds.
//!
//! With `--watch` it looks again and again: on a terminal it redraws, elsewhere it prints lines with
//! the time in front. A broker that is away for a moment does not end it; it says so and goes on.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use aqueduct_client::{Client, Error, Group, GroupLag};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    ClientArgs, OutputArgs,
    group_output::{partition_json, show_seconds, state},
    output::{self, Format},
    values,
};

/// Groups that are asked for at a time.
const ASKED: usize = 16;
/// Back to the corner, and after the text everything below goes.
const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[2J\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Arguments of `aqueduct lag`.
#[derive(Debug, Args)]
pub(super) struct LagArgs {
    /// Only groups of this topic, or only this group
    #[arg(value_name = "TOPIC[/GROUP]", value_parser = scope)]
    scope: Option<Scope>,
    /// Show each partition
    #[arg(long)]
    partitions: bool,
    /// Look again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "1s")]
    interval: Duration,
    /// With --watch: stop after so many looks
    #[arg(short = 'n', long, value_name = "COUNT", requires = "watch")]
    count: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Which groups.
#[derive(Clone, Debug)]
struct Scope {
    topic: String,
    group: Option<String>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let short = text.strip_prefix("topics/").unwrap_or(text);
    if short.contains('/') {
        let group = values::group(text)?;
        return Ok(Scope {
            topic: group.topic,
            group: Some(group.name),
        });
    }
    Ok(Scope {
        topic: values::topic(text)?,
        group: None,
    })
}

type Row = (Group, GroupLag);

pub(super) async fn run(args: LagArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.connect().await?;
    if args.watch {
        tokio::select! {
            watched = watch(&args, &client) => watched?,
            // Seen enough.
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = look(&args, &client).await?;
    match args.output.output {
        Format::Table => output::print(table(&rows, args.partitions))?,
        format => output::print_list(format, json_rows(&rows, args.partitions, None))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(args: &LagArgs, client: &Client) -> Result<Vec<Row>, Error> {
    let groups = client.groups();
    let found = match &args.scope {
        Some(Scope {
            topic,
            group: Some(name),
        }) => vec![groups.get(topic, name).await?],
        Some(scope) => groups.list(Some(&scope.topic)).await?,
        None => groups.list(None).await?,
    };
    let rows = stream::iter(found).map(|group| {
        let groups = groups.clone();
        async move {
            match groups.lag(&group.topic, &group.name).await {
                Ok(lag) => Ok(Some((group, lag))),
                // It was deleted since it was listed.
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
    });
    let rows: Vec<_> = rows.buffered(ASKED).try_collect().await?;
    Ok(rows.into_iter().flatten().collect())
}

async fn watch(args: &LagArgs, client: &Client) -> anyhow::Result<()> {
    let redraws = args.output.output == Format::Table && io::stdout().is_terminal();
    if redraws {
        output::print(CLEAR)?;
    }
    let mut looks = 0;
    let mut ticks = tokio::time::interval(args.interval.max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let time = Timestamp::now();
        match look(args, client).await {
            Ok(rows) if redraws => output::print(screen(&rows, args, time))?,
            Ok(rows) => output::print(lines(&rows, args, time))?,
            Err(error) if error.is_retryable() => {
                output::complain(&format!("{time:.0}: {error}"), None);
            }
            Err(error) => return Err(error.into()),
        }
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
    }
}

/// The whole picture, each line cleared behind its end, so that nothing flickers.
fn screen(rows: &[Row], args: &LagArgs, time: Timestamp) -> String {
    let text = format!("{time:.0}\n\n{}", table(rows, args.partitions));
    let text = text.replace('\n', &format!("{CLEAR_LINE}\n"));
    format!("{HOME}{text}{CLEAR_BELOW}")
}

/// Lines of one look for those who read line by line.
fn lines(rows: &[Row], args: &LagArgs, time: Timestamp) -> String {
    if args.output.output != Format::Table {
        let rows = json_rows(rows, args.partitions, Some(time));
        return rows.iter().map(|row| format!("{row}\n")).collect();
    }
    let table = table(rows, args.partitions);
    let body = table.lines().skip(1);
    body.map(|line| format!("{time:.0}  {line}\n")).collect()
}

fn json_rows(rows: &[Row], partitions: bool, time: Option<Timestamp>) -> Vec<Value> {
    let row = |(group, lag): &Row| {
        let mut row = json!({
            "topic": group.topic,
            "group": group.name,
            "state": state(group.state),
            "members": group.members,
            "lag_messages": lag.messages,
            "lag_seconds": lag.seconds,
        });
        if let Some(time) = time {
            row["time"] = json!(format!("{time:.3}"));
        }
        if partitions {
            row["partition_list"] = lag.partitions.iter().map(partition_json).collect();
        }
        row
    };
    rows.iter().map(row).collect()
}

fn table(rows: &[Row], partitions: bool) -> String {
    if partitions {
        return by_partition(rows);
    }
    let header = ["TOPIC", "GROUP", "STATE", "MEMBERS", "MESSAGES", "SECONDS"];
    let mut table = output::table(&header);
    for (group, lag) in rows {
        table.add_row([
            group.topic.clone(),
            group.name.clone(),
            state(group.state).to_owned(),
            group.members.to_string(),
            lag.messages.to_string(),
            show_seconds(lag.seconds),
        ]);
    }
    output::table_text(&table)
}

fn by_partition(rows: &[Row]) -> String {
    let header = [
        "TOPIC",
        "GROUP",
        "PARTITION",
        "POSITION",
        "END",
        "MESSAGES",
        "SECONDS",
        "MEMBER",
    ];
    let mut table = output::table(&header);
    for (group, lag) in rows {
        for it in &lag.partitions {
            table.add_row([
                group.topic.clone(),
                group.name.clone(),
                it.partition.to_string(),
                it.position.map_or("-".to_owned(), |at| at.to_string()),
                it.high_watermark.to_string(),
                it.messages.to_string(),
                show_seconds(it.seconds),
                it.member.clone(),
            ]);
        }
    }
    output::table_text(&table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn scopes() {
        let all = scope("orders").unwrap();
        assert_eq!((all.topic.as_str(), all.group), ("orders", None));
        assert_eq!(scope("topics/orders").unwrap().topic, "orders");
        let one = scope("orders/billing").unwrap();
        assert_eq!(one.group.as_deref(), Some("billing"));
        assert!(scope("orders/").is_err());
        assert!(scope("").is_err());
    }
}
