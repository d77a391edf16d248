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

use aqueduct_proto::batch::Batch;
use aqueduct_storage::{
    Damage, Entry, Error, Kind, Log, RaftId, Store, StoreOptions, disk::RealDisk,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    OutputArgs,
    log_walk::{WalkError, records, walk},
    output::{self, Failure, Format},
    overlay::Overlay,
    values::show_size,
};

/// Exit code for a directory or a log that is not there.
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
    let (mut sound, mut before) = (true, "[\n");
    for log in logs(&store, args.log)? {
        let problems = walk(&log, |entry| {
            let written = match format {
                Format::Table => writeln!(stdout, "{}", entry_row(log.id(), entry)),
                Format::Jsonl => writeln!(stdout, "{}", entry_json(log.id(), entry)),
                Format::Json => write!(stdout, "{before}{}", entry_json(log.id(), entry)),
            };
            before = ",\n";
            written.map_err(WalkError::Output)
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
    if format == Format::Json {
        // Every log begins with an entry; without any log there is still a document.
        writeln!(stdout, "{}", if before == "[\n" { "[]" } else { "\n]" })?;
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
