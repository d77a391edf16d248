//! `aqueduct get`: one message, and where it stands with each group.

use std::process::ExitCode;

use aqueduct_client::{Record, Standing};
use clap::ValueEnum;
use serde_json::Value;

use super::{
    ClientArgs, output,
    queue_output::{history_text, standing_json, standing_text},
    records,
    values::{self, show_time},
};

/// Arguments of `aqueduct get`.
#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    topic: String,
    /// Which message, such as 3:1042
    #[arg(value_name = "PARTITION:OFFSET", value_parser = values::place)]
    place: (u32, u64),
    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: RecordFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// How one record is printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum RecordFormat {
    /// For people; may change
    #[default]
    #[value(alias = "text")]
    Table,
    /// One JSON object
    #[value(alias = "jsonl")]
    Json,
    /// The value as it is
    Raw,
}

pub(super) async fn run(args: GetArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.connect().await?;
    let (partition, offset) = args.place;
    let record = client.get_message(&args.topic, partition, offset).await?;
    let standings = match args.output {
        RecordFormat::Raw => Vec::new(),
        _ => {
            let groups = client.groups();
            groups.standings(&args.topic, partition, offset).await?
        }
    };
    let mut buffer = Vec::new();
    match args.output {
        RecordFormat::Table => write_page(&mut buffer, &args.topic, &record, &standings),
        RecordFormat::Json => {
            records::write_json(&mut buffer, &args.topic, &record);
            // Behind what every record has.
            buffer.pop();
            let standings: Vec<Value> = standings.iter().map(standing_json).collect();
            let groups = format!(",\"groups\":{}}}", Value::from(standings));
            buffer.extend_from_slice(groups.as_bytes());
            buffer.push(b'\n');
        }
        RecordFormat::Raw => buffer.extend_from_slice(record.value.as_deref().unwrap_or_default()),
    }
    output::print(buffer)?;
    Ok(ExitCode::SUCCESS)
}

fn write_page(buffer: &mut Vec<u8>, topic: &str, record: &Record, standings: &[Standing]) {
    let mut line = |name: &str, value: &[u8]| {
        buffer.extend_from_slice(format!("{name:<10} ").as_bytes());
        buffer.extend_from_slice(value);
        buffer.push(b'\n');
    };
    line("topic", topic.as_bytes());
    line("partition", record.partition.to_string().as_bytes());
    line("offset", record.offset.to_string().as_bytes());
    line("time", show_time(record.timestamp_ms).as_bytes());
    line("key", record.key.as_deref().unwrap_or(b"(none)"));
    for header in &record.headers {
        let value = String::from_utf8_lossy(header.value.as_deref().unwrap_or_default());
        line(
            "header",
            format!("{}={value}", header.name_str()).as_bytes(),
        );
    }
    for standing in standings {
        line("group", standing_text(standing).as_bytes());
        for attempt in history_text(&standing.history, standing.failed_attempts) {
            line("  attempt", attempt.as_bytes());
        }
    }
    line("value", record.value.as_deref().unwrap_or(b"(none)"));
}
