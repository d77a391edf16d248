//! `aqueduct pub`: publishes arguments, lines of stdin or JSON lines.
//!
//! ```text
//! thread: stdin -> lines -> messages     task: producer.send -> deliveries -> tally, acks file
//!                 (publish_input.rs)  ->                 (publish_flow.rs)
//! ```
//! Promises: *acknowledged* counts messages known to be on stable storage, *duplicates* those
//! among them that had been stored before; a line in the acks file is written after its ack and
//! flushed before the next wait. Sending ends at the first message that cannot be stored, so that
//! what follows it in the same partition is not stored without it; the exit code says why.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use aqueduct_client::{Compression, Producer};
use bytes::Bytes;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    ClientArgs, OutputArgs,
    output::{self, Failure, Format, INTERRUPTED},
    publish_dry::{self, Plan},
    publish_flow::{AcksFile, Collector, Sender, Stop, Tally},
    publish_input::{self, Asked, Dedup, Key, Rules, Shape, Source},
    values,
};

/// Chunks between two stages; each holds up to a thousand messages.
const CHUNKS: usize = 16;

/// Arguments of `aqueduct pub`.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    topic: String,
    /// Messages; without any, stdin is read, one message a line
    #[arg(value_name = "VALUE")]
    values: Vec<String>,
    /// What a line of stdin is
    #[arg(long, value_enum, default_value_t)]
    format: InputFormat,
    /// The key of every message
    #[arg(short, long, conflicts_with = "key_regex")]
    key: Option<String>,
    /// The key is the first group of this expression; messages without a match have no key
    #[arg(long, value_name = "RE", value_parser = regex::bytes::Regex::new)]
    key_regex: Option<regex::bytes::Regex>,
    /// A header of every message; may be given several times
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = values::pair)]
    header: Vec<(String, String)>,
    /// The partition of every message, against the rule by key
    #[arg(short, long)]
    partition: Option<u32>,
    /// Dedup id of the one message: within the topic's window a second one is not stored again
    #[arg(long, value_name = "ID", conflicts_with = "dedup_field")]
    dedup_id: Option<String>,
    /// Field of each JSON line that is its dedup id
    #[arg(long, value_name = "FIELD")]
    dedup_field: Option<String>,
    /// Queue groups get the messages so long after they are stored, such as 5m
    #[arg(long, value_name = "TIME", value_parser = values::duration, conflicts_with_all = ["deliver_at", "producer"])]
    delay: Option<Duration>,
    /// Queue groups get the messages at this time, such as 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = values::deliver_at)]
    deliver_at: Option<i64>,
    /// Queue groups do not hand out the messages any more after this time, such as 1h
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    ttl: Option<Duration>,
    /// Priority for queue groups, 0 to 9, the greater first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Name of this producer. Publishing the same input again under the same name goes on where
    /// the broker has it; nothing is stored twice
    #[arg(long, value_name = "NAME", value_parser = values::topic)]
    producer: Option<String>,
    /// Publish the whole input this many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Messages per second at most, such as 500 or 50k
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    rate: Option<f64>,
    /// Append `partition offset line-number` to this file for each acknowledgement
    #[arg(long, value_name = "FILE")]
    acks_to: Option<PathBuf>,
    /// Compression of batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none")]
    compression: Compression,
    /// Size at which a batch is sent
    #[arg(long, value_name = "SIZE", value_parser = values::memory_size)]
    batch_bytes: Option<usize>,
    /// How long a batch may wait for more messages
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    linger: Option<Duration>,
    /// Read the input and say what would be sent, send nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// What a line of stdin is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// The value
    #[default]
    Lines,
    /// An object with key, value, headers, partition, timestamp, dedup_id; key_base64 and
    /// value_base64 for bytes
    Jsonl,
}

pub(super) async fn run(args: PublishArgs) -> anyhow::Result<ExitCode> {
    let (source, rules) = input(&args)?;
    if args.dry_run {
        let (client, topic) = (args.client.connect().await?, &args.topic);
        let plan = Plan {
            topic,
            source,
            rules,
        };
        return publish_dry::run(&client, plan, args.output.output).await;
    }
    let acks = args.acks_to.as_ref().map(AcksFile::open).transpose()?;
    let producer = match connect(&args).await {
        Ok(producer) => producer,
        Err(error) => {
            // Scripts read the last line of stdout whatever happened.
            let failed = args.repeat.saturating_mul(args.values.len() as u64);
            let tally = Tally {
                failed,
                ..Tally::default()
            };
            summarise(args.output.output, &tally, Duration::ZERO)?;
            return Err(error);
        }
    };
    let spread = args.producer.as_ref().map(|_| producer.partitions());

    let started = Instant::now();
    let stop = Stop::default();
    let (chunks, incoming) = mpsc::channel(CHUNKS);
    let (sent, deliveries) = mpsc::channel(CHUNKS);
    let keyless = publish_input::start(source, rules, chunks);
    let sender = Sender {
        producer: &producer,
        stop: &stop,
        rate: args.rate,
        spread,
    };
    let collector = Collector::new(&stop, acks, progress());
    let flow = async {
        let (sending, mut tally) =
            tokio::join!(sender.run(incoming, sent), collector.run(deliveries));
        if let Err(error) = sending {
            tally.fail(error);
        }
        tally
    };
    let tally = tokio::select! {
        tally = flow => tally,
        never = stop.at_interrupt() => match never {},
    };
    // Everything has been counted delivery by delivery.
    let _ = producer.close().await;
    summarise(args.output.output, &tally, started.elapsed())?;
    let keyless = keyless.count();
    if args.key_regex.is_some() && keyless > 0 {
        writeln!(
            std::io::stderr(),
            "note: {keyless} messages did not match and have no key"
        )?;
    }
    match tally.error {
        None if stop.interrupted() => Ok(ExitCode::from(INTERRUPTED)),
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

/// What is published, and how lines become messages.
fn input(args: &PublishArgs) -> Result<(Source, Rules), Failure> {
    let jsonl = args.format == InputFormat::Jsonl;
    if args.dedup_field.is_some() && !jsonl {
        return Err(Failure::usage("--dedup-field needs --format jsonl"));
    }
    if args.dedup_id.is_some() && (args.values.len() != 1 || args.repeat > 1) {
        return Err(Failure::usage("--dedup-id is for exactly one VALUE")
            .hint("with --format jsonl, --dedup-field names the field that holds each id"));
    }
    let key = match (&args.key, &args.key_regex) {
        (Some(key), _) => Key::Fixed(Bytes::from(key.clone())),
        (None, Some(expression)) if expression.captures_len() < 2 => {
            return Err(Failure::usage("--key-regex has no group")
                .hint("put the part that is the key in parentheses, such as '^(\\S+)'"));
        }
        (None, Some(expression)) => Key::Matched(expression.clone()),
        (None, None) => Key::None,
    };
    let headers = args
        .header
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()));
    let dedup = match (&args.dedup_id, &args.dedup_field) {
        (Some(id), _) => Dedup::Id(id.clone()),
        (None, Some(field)) => Dedup::Field(field.clone()),
        (None, None) => Dedup::None,
    };
    let rules = Rules {
        shape: if jsonl { Shape::Json } else { Shape::Value },
        key,
        headers: headers.collect(),
        partition: args.partition,
        asked: Asked {
            delay: args.delay,
            deliver_at_ms: args.deliver_at,
            ttl: args.ttl,
            priority: args.priority,
        },
        dedup,
    };
    let source = if args.values.is_empty() {
        Source::Stdin {
            repeat: args.repeat,
        }
    } else {
        let values = args.values.iter().map(|value| Bytes::from(value.clone()));
        Source::Values {
            values: values.collect(),
            repeat: args.repeat,
        }
    };
    Ok((source, rules))
}

async fn connect(args: &PublishArgs) -> anyhow::Result<Producer> {
    let client = args.client.connect().await?;
    let mut builder = client.producer(&args.topic).compression(args.compression);
    if let Some(name) = &args.producer {
        builder = builder.name(name).resume(true);
    }
    if let Some(bytes) = args.batch_bytes {
        builder = builder.batch_bytes(bytes);
    }
    if let Some(linger) = args.linger {
        builder = builder.linger(linger);
    }
    if let Some(timeout) = args.client.timeout {
        builder = builder.delivery_timeout(timeout);
    }
    Ok(builder.build().await?)
}

/// A line on the terminal, if there is one and nobody is typing there.
fn progress() -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() || std::io::stdin().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("{spinner} {human_pos} acknowledged, {per_sec}");
    let bar = ProgressBar::new_spinner();
    Some(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())))
}

fn summarise(format: Format, tally: &Tally, elapsed: Duration) -> anyhow::Result<()> {
    let Tally {
        acknowledged,
        duplicates,
        failed,
        ..
    } = tally;
    if format == Format::Table {
        let seconds = elapsed.as_secs_f64();
        output::print(format!(
            "acknowledged {acknowledged}, duplicates {duplicates}, failed {failed} in {seconds:.3} s\n"
        ))?;
    } else {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        output::print(format!(
            "{}\n",
            json!({
                "acknowledged": acknowledged,
                "duplicates": duplicates,
                "failed": failed,
                "elapsed_ms": elapsed_ms,
            })
        ))?;
    }
    Ok(())
}
