//! `aqueduct log verify|dump`: the log of a stopped broker, looked at without being changed.
//!
//! Opens the directory as a broker would, but over an [`Overlay`], so what recovery repairs is
//! repaired in memory only. Every entry of every log is then read, its checksums verified and its
//! records decoded. Damage is named by file and position, and is exit code 1. A directory that a
//! running broker holds is refused.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use aqueduct_proto::batch::{Batch, BatchHeader};
use aqueduct_storage::{
    Damage, Entry, Error, Kind, Log, RaftId, Store, StoreOptions, disk::RealDisk,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    OutputArgs,
    output::{self, Failure, Format},
    overlay::Overlay,
    values::show_size,
};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;
/// Bytes that one batch may decompress to.
const MAX_DECOMPRESSED: usize = 128 << 20;
/// Entries behind a damaged one that are tried one by one: those after it can be found only from
/// the next place that the sparse index knows.
const PROBES: u64 = 1000;
const NOT_FOUND: u8 = 3;

/// Arguments of `aqueduct log`.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Read every entry, and say what is damaged and where
    Verify(DirectoryArgs),
    /// Print a line for every entry
    Dump(DirectoryArgs),
}

#[derive(Debug, Args)]
struct DirectoryArgs {
    /// The data directory of a stopped broker
    directory: PathBuf,
    /// Only the log of this number, as in logs/NUMBER
    #[arg(long, value_name = "NUMBER")]
    log: Option<RaftId>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: LogArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        LogCommand::Verify(args) => verify(&args),
        LogCommand::Dump(args) => dump(&args),
    }
}

/// Opens the directory without changing it.
fn open(directory: &Path) -> anyhow::Result<Store> {
    // Opening would make a missing directory, and a new store of an empty one.
    if !directory.join("node").is_file() {
        let message = format!("{} is not a data directory", directory.display());
        return Err(Failure::new(NOT_FOUND, message).into());
    }
    let disk = Overlay::new(RealDisk::new(directory)?);
    let options = StoreOptions {
        manual: true,
        ..StoreOptions::default()
    };
    match Store::open(Arc::new(disk), options) {
        Ok(store) => Ok(store),
        Err(Error::Locked { .. }) => {
            let message = format!("a broker is running on {}", directory.display());
            Err(Failure::new(1, message)
                .hint("stop it first; its log is verified as it runs")
                .into())
        }
        Err(error) => Err(error.into()),
    }
}

fn logs(store: &Store, only: Option<RaftId>) -> anyhow::Result<Vec<Log>> {
    let mut ids = store.logs();
    ids.sort_unstable();
    if let Some(only) = only {
        if !ids.contains(&only) {
            return Err(Failure::new(NOT_FOUND, format!("there is no log {only}")).into());
        }
        ids = vec![only];
    }
    Ok(ids
        .into_iter()
        .map(|id| store.open_log(id))
        .collect::<Result<_, _>>()?)
}

/// What a log was found to hold.
#[derive(Default)]
struct Found {
    segments: usize,
    entries: u64,
    records: u64,
    bytes: u64,
    problems: Vec<Damage>,
}

fn verify(args: &DirectoryArgs) -> anyhow::Result<ExitCode> {
    let store = open(&args.directory)?;
    let mut reports = Vec::new();
    for log in logs(&store, args.log)? {
        let mut found = Found {
            segments: log.segments().len(),
            ..Found::default()
        };
        let problems = walk(&log, |entry| {
            found.entries += 1;
            found.bytes += entry.payload.len() as u64;
            found.records += records(entry)?;
            Ok(())
        })?;
        found.problems = problems;
        reports.push((log, found));
    }
    let journal = store.journal_damage();
    let sound = journal.is_empty() && reports.iter().all(|(_, found)| found.problems.is_empty());
    if args.output.output == Format::Table {
        print_report(&reports, journal, sound)?;
    } else {
        let logs: Vec<Value> = reports
            .iter()
            .map(|(log, found)| report_json(log, found))
            .collect();
        let journal: Vec<Value> = journal.iter().map(problem_json).collect();
        output::print_json(&json!({"sound": sound, "logs": logs, "journal_problems": journal}))?;
    }
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Gives every readable entry to `visit`, in order; returns what is damaged.
fn walk(
    log: &Log,
    mut visit: impl FnMut(&Entry) -> Result<(), WalkError>,
) -> anyhow::Result<Vec<Damage>> {
    let mut problems: Vec<Damage> = Vec::new();
    let end = log.last_id().map_or(0, |last| last.index + 1);
    let mut index = log.first_index();
    let mut next_offset = log.first_offset();
    let mut at_once = READ_BYTES;
    while index < end {
        let entries = match log.read_entries(index..end, at_once) {
            Ok(entries) => entries,
            // Something in there is damaged: what lies before it is read one by one.
            Err(Error::Corrupt { .. }) if at_once > 1 => {
                at_once = 1;
                continue;
            }
            Err(Error::Corrupt {
                file,
                position,
                why,
            }) => {
                let next = readable_after(log, index, end);
                problems.push(Damage {
                    first_index: index,
                    last_index: next.map(|next| next - 1),
                    base_offset: next_offset,
                    file,
                    position,
                    why,
                });
                index = next.unwrap_or(end);
                at_once = READ_BYTES;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some(last) = entries.last() else { break };
        index = last.id.index + 1;
        next_offset = offset_after(last);
        for entry in &entries {
            match visit(entry) {
                Ok(()) => {}
                Err(WalkError::Output(error)) => return Err(error.into()),
                Err(WalkError::Content(why)) => problems.push(content_problem(log, entry, why)),
            }
        }
    }
    for known in log.damage() {
        if !problems
            .iter()
            .any(|it| it.file == known.file && it.position == known.position)
        {
            problems.push(known);
        }
    }
    problems.sort_by_key(|problem| problem.first_index);
    Ok(problems)
}

/// Why an entry was not taken.
enum WalkError {
    /// Nobody takes the output.
    Output(io::Error),
    /// The entry is whole, but what is in it is not.
    Content(String),
}

/// The first index behind a damaged one that can be read: one of the next, where the damage found by
/// recovery ends, or where a segment begins.
fn readable_after(log: &Log, index: u64, end: u64) -> Option<u64> {
    let damage = log.damage();
    let known = damage
        .iter()
        .filter_map(|it| it.last_index)
        .map(|last| last + 1);
    let segments = log.segments();
    let begins = segments.iter().map(|segment| segment.first_index);
    let mut candidates: Vec<u64> = known
        .chain(begins)
        .chain(index + 1..index + PROBES)
        .collect();
    candidates.retain(|next| (index + 1..end).contains(next));
    candidates.sort_unstable();
    candidates
        .into_iter()
        .find(|next| log.read_entries(*next..end, 1).is_ok())
}

/// The offset that follows an entry.
fn offset_after(entry: &Entry) -> u64 {
    let header = BatchHeader::read(&entry.payload)
        .ok()
        .filter(|_| entry.kind == Kind::Batch);
    let delta = header.and_then(|header| u64::try_from(header.last_offset_delta).ok());
    entry.base_offset + delta.map_or(0, |delta| delta + 1)
}

fn content_problem(log: &Log, entry: &Entry, why: String) -> Damage {
    let segments = log.segments();
    let holding = segments
        .iter()
        .rev()
        .find(|segment| segment.first_index <= entry.id.index);
    let first = holding.map_or(0, |segment| segment.first_index);
    Damage {
        first_index: entry.id.index,
        last_index: Some(entry.id.index),
        base_offset: entry.base_offset,
        file: format!("logs/{}/{first:020}.seg", log.id()),
        position: 0,
        why,
    }
}

/// Number of records of an entry, each of them decoded.
fn records(entry: &Entry) -> Result<u64, WalkError> {
    if entry.kind != Kind::Batch {
        return Ok(0);
    }
    let content = |error: aqueduct_proto::batch::BatchError| WalkError::Content(error.to_string());
    let batch = Batch::check(entry.payload.clone()).map_err(content)?;
    let mut count = 0;
    for record in batch.records(MAX_DECOMPRESSED).map_err(content)? {
        record.map_err(content)?;
        count += 1;
    }
    Ok(count)
}

fn print_report(reports: &[(Log, Found)], journal: &[Damage], sound: bool) -> io::Result<()> {
    let header = [
        "LOG", "SEGMENTS", "ENTRIES", "RECORDS", "SIZE", "OFFSETS", "STATE",
    ];
    let mut table = output::table(&header);
    for (log, found) in reports {
        let state = match found.problems.len() {
            0 => "sound".to_owned(),
            count => format!("{count} damaged"),
        };
        table.add_row([
            log.id().to_string(),
            found.segments.to_string(),
            found.entries.to_string(),
            found.records.to_string(),
            show_size(found.bytes),
            format!("{}..{}", log.first_offset(), log.next_offset()),
            state,
        ]);
    }
    output::print_table(&table)?;
    let problems = reports
        .iter()
        .flat_map(|(_, found)| &found.problems)
        .chain(journal);
    let lines = problems.map(|problem| {
        let Damage { file, position, why, first_index, base_offset, .. } = problem;
        let last = problem.last_index.map_or("the end".to_owned(), |last| last.to_string());
        format!(
            "damaged: {file} at byte {position}: {why} (entries {first_index} to {last}, from offset {base_offset})\n"
        )
    });
    output::print(lines.collect::<String>())?;
    output::print(if sound { "sound\n" } else { "DAMAGED\n" })
}

fn report_json(log: &Log, found: &Found) -> Value {
    json!({
        "log": log.id(),
        "segments": found.segments,
        "entries": found.entries,
        "records": found.records,
        "bytes": found.bytes,
        "first_offset": log.first_offset(),
        "next_offset": log.next_offset(),
        "problems": found.problems.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

fn problem_json(problem: &Damage) -> Value {
    json!({
        "file": problem.file,
        "position": problem.position,
        "why": problem.why,
        "first_index": problem.first_index,
        "last_index": problem.last_index,
        "base_offset": problem.base_offset,
    })
}

fn dump(args: &DirectoryArgs) -> anyhow::Result<ExitCode> {
    let store = open(&args.directory)?;
    let format = args.output.output;
    let mut stdout = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    if format == Format::Table {
        writeln!(
            stdout,
            "LOG       INDEX   TERM  KIND             OFFSET  RECORDS     BYTES  CODEC"
        )?;
    }
    let mut sound = true;
    for log in logs(&store, args.log)? {
        let problems = walk(&log, |entry| {
            let line = match format {
                Format::Table => entry_row(log.id(), entry),
                Format::Json | Format::Jsonl => entry_json(log.id(), entry).to_string(),
            };
            writeln!(stdout, "{line}").map_err(WalkError::Output)
        })?;
        stdout.flush()?;
        sound &= problems.is_empty();
        for problem in problems {
            let Damage {
                file,
                position,
                why,
                ..
            } = problem;
            writeln!(io::stderr(), "damaged: {file} at byte {position}: {why}")?;
        }
    }
    stdout.flush()?;
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Batch => "batch",
        Kind::Command => "command",
        Kind::Membership => "membership",
        Kind::Blank => "blank",
    }
}

fn entry_row(log: RaftId, entry: &Entry) -> String {
    let batch = Batch::check(entry.payload.clone())
        .ok()
        .filter(|_| entry.kind == Kind::Batch);
    let count = batch.as_ref().map_or(0, Batch::count);
    let codec = batch.and_then(|batch| batch.header().compression().ok());
    let codec = codec.map(|codec| codec.to_string()).unwrap_or_default();
    let (id, kind) = (entry.id, kind_name(entry.kind));
    let (offset, bytes) = (entry.base_offset, entry.payload.len());
    let line = format!(
        "{log:>3}  {:>10}  {:>5}  {kind:<10}  {offset:>11}  {count:>7}  {bytes:>8}  {codec}",
        id.index, id.term
    );
    line.trim_end().to_owned()
}

fn entry_json(log: RaftId, entry: &Entry) -> Value {
    let batch = Batch::check(entry.payload.clone())
        .ok()
        .filter(|_| entry.kind == Kind::Batch);
    let header = batch.as_ref().map(|batch| *batch.header());
    let codec = header.and_then(|header| header.compression().ok());
    json!({
        "log": log,
        "index": entry.id.index,
        "term": entry.id.term,
        "kind": kind_name(entry.kind),
        "base_offset": entry.base_offset,
        "bytes": entry.payload.len(),
        "records": header.map(|header| header.count),
        "max_timestamp": header.map(|header| header.max_timestamp),
        "producer_id": header.map(|header| header.producer_id).filter(|id| *id >= 0),
        "base_sequence": header.map(|header| header.base_sequence).filter(|it| *it >= 0),
        "compression": codec.map(|codec| codec.to_string()),
    })
}
