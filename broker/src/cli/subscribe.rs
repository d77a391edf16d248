//! `aqueduct sub`: reads a topic to stdout; as a member of a group, see [`subscribe_group`];
//! from a queue group, see [`subscribe_queue`] and [`subscribe_exec`].
//!
//! Records of one partition come in order; partitions are mixed as they arrive. Output is written
//! in large pieces, and at once while following. Ends at `--until`, after `-n`, with Ctrl-C, or
//! when nobody reads its output any more; all of these are success.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use aqueduct_client::{Client, From, Reader, Record, Until};
use clap::ValueEnum;

use super::{
    ClientArgs, records,
    subscribe_exec::{self, ExecArgs},
    subscribe_group::{self, MemberArgs},
    subscribe_queue, values,
};

/// Bytes that are collected before they are written.
const WRITE_BYTES: usize = 128 * 1024;

/// Arguments of `aqueduct sub`.
#[derive(Debug, clap::Args)]
pub(super) struct SubscribeArgs {
    /// The topic
    #[arg(value_parser = values::topic)]
    topic: String,
    /// Where to begin: start, end, OFFSET, -N (the last N of each partition), @1h (ago),
    /// @2026-11-01T10:00Z. Default: start, or end with --follow
    #[arg(long, value_name = "POSITION", value_parser = values::from, allow_hyphen_values = true)]
    from: Option<From>,
    /// Where to stop, exclusively: now, OFFSET or @TIME. Default: now, or never with --follow
    #[arg(long, value_name = "POSITION", value_parser = values::until)]
    until: Option<Until>,
    /// Wait for further messages
    #[arg(short, long)]
    follow: bool,
    /// Stop after this many messages
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only this partition; may be given several times
    #[arg(short, long, value_name = "PARTITION")]
    partition: Vec<u32>,
    #[command(flatten)]
    member: MemberArgs,
    #[command(flatten)]
    exec: ExecArgs,
    /// Format of the output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: RecordsFormat,
    #[command(flatten)]
    client: ClientArgs,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RecordsFormat {
    /// The value and a newline
    #[default]
    Raw,
    /// One JSON object a line
    Jsonl,
    /// One JSON array
    Json,
    /// For people; may change
    #[value(alias = "text")]
    Table,
}

pub(super) async fn run(args: SubscribeArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.connect().await?;
    if let Some(group) = args.member.group() {
        return consume(&client, &args, group).await;
    }
    let until = args.until.or((!args.follow).then_some(Until::Now));
    let from = args
        .from
        .unwrap_or(if args.follow { From::End } else { From::Start });
    let mut reader = client.reader(&args.topic).from(from).follow(args.follow);
    if let Some(until) = until {
        reader = reader.until(until);
    }
    if let Some(count) = args.count {
        reader = reader.max_messages(count);
    }
    if !args.partition.is_empty() {
        reader = reader.partitions(args.partition.iter().copied());
    }
    let mut printer = Printer::new(args.topic, args.output, args.follow);
    copy(reader.build().await?, &mut printer).await?;
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads as a member of a group, or works through a queue group.
async fn consume(client: &Client, args: &SubscribeArgs, group: &str) -> anyhow::Result<ExitCode> {
    let names = (args.topic.as_str(), group);
    if args.exec.command().is_some() {
        if !args.member.must_exist() {
            subscribe_queue::ensure(client, names.0, names.1).await?;
        }
        let (server, idle) = (args.client.address()?, args.member.idle());
        return subscribe_exec::run(client, &args.exec, names, &server, idle).await;
    }
    let mut printer = Printer::new(args.topic.clone(), args.output, true);
    let (member, count) = (&args.member, args.count);
    if subscribe_queue::is_queue(client, names.0, names.1).await? {
        return subscribe_queue::run(client, member, names, &mut printer, count).await;
    }
    subscribe_group::run(client, member, names, &mut printer, count).await
}

/// Prints everything that comes, until the end or Ctrl-C.
async fn copy(mut reader: Reader, printer: &mut Printer) -> anyhow::Result<()> {
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = reader.next_chunk() => chunk,
            _ = &mut interrupt => return Ok(()),
        };
        match chunk {
            Some(Ok(records)) => printer.print(&records)?,
            // What was read before the failure has happened, and is worth having.
            Some(Err(error)) => return printer.flush().map_err(Into::into).and(Err(error.into())),
            None => return Ok(()),
        }
    }
}

/// Collects output and writes it in large pieces.
pub(super) struct Printer {
    topic: String,
    format: RecordsFormat,
    /// Write at once: somebody is waiting for each message.
    live: bool,
    buffer: Vec<u8>,
    printed: u64,
}

impl Printer {
    fn new(topic: String, format: RecordsFormat, live: bool) -> Self {
        let mut buffer = Vec::with_capacity(2 * WRITE_BYTES);
        match format {
            RecordsFormat::Json => buffer.extend_from_slice(b"["),
            RecordsFormat::Table => buffer.extend_from_slice(records::ROW_HEADER),
            RecordsFormat::Raw | RecordsFormat::Jsonl => {}
        }
        Self {
            topic,
            format,
            live,
            buffer,
            printed: 0,
        }
    }

    /// Adds records; when somebody waits for them, they are written before this returns.
    pub(super) fn print(&mut self, records: &[Record]) -> io::Result<()> {
        for record in records {
            self.add(record);
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        if self.live { self.flush() } else { Ok(()) }
    }

    /// Adds records and writes all there is.
    pub(super) fn print_now(&mut self, records: &[Record]) -> io::Result<()> {
        self.print(records)?;
        self.flush()
    }

    fn add(&mut self, record: &Record) {
        let buffer = &mut self.buffer;
        match self.format {
            RecordsFormat::Raw => records::write_raw(buffer, record),
            RecordsFormat::Table => records::write_row(buffer, record),
            RecordsFormat::Jsonl => {
                records::write_json(buffer, &self.topic, record);
                buffer.push(b'\n');
            }
            RecordsFormat::Json => {
                buffer.extend_from_slice(if self.printed == 0 { b"\n" } else { b",\n" });
                records::write_json(buffer, &self.topic, record);
            }
        }
        self.printed += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&self.buffer)?;
        self.buffer.clear();
        stdout.flush()
    }

    /// Writes what is left, and the end of a document.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.format == RecordsFormat::Json {
            self.buffer.extend_from_slice(b"\n]\n");
        }
        self.flush()
    }
}
