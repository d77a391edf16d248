//! `aqueduct dlq`: look at, redrive, discard and export the dead letters of a queue group.
//!
//! The group is named `TOPIC/GROUP` and need not exist any more. What moves dead letters takes
//! `--dry-run` and says on stderr how far it is; Ctrl-C ends it, and what it had not moved stays.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use aqueduct_client::{
    DeadLetter, DeadLetterFilter, DeadLettersProgress, DeadLettersRun, DeadReason, Discard,
    HeaderCondition, Redrive,
};
use clap::{Args, Subcommand, ValueEnum};
use futures::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    ClientArgs, OutputArgs, dead_letters_output as show,
    output::{self, Failure, Format, INTERRUPTED},
    values::{self, GroupName},
};

/// Arguments of `aqueduct dlq`.
#[derive(Debug, Args)]
pub(super) struct DeadLetterArgs {
    #[command(subcommand)]
    command: DeadLetterCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLetterCommand {
    /// List dead letters, a line each
    Ls(ListArgs),
    /// Show dead letters with their payload and their end; leases nothing
    Peek(PeekArgs),
    /// Publish dead letters again, each exactly once
    Redrive(RedriveArgs),
    /// Give dead letters up for good
    Discard(DiscardArgs),
    /// Print dead letters with everything they carry, one JSON object a line
    Export(ExportArgs),
}

/// Why a message was given up.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reason {
    /// Somebody else published it to the dead-letter topic
    Unknown,
    /// The last allowed attempt failed
    Attempts,
    /// Handed out as often as is allowed
    HandOuts,
    /// A consumer's verdict
    Rejected,
    /// Its time to live was over
    Expired,
    /// An earlier message of its key was given up
    Parked,
}

/// Which dead letters: all that is given must hold.
#[derive(Debug, Args)]
struct Filter {
    /// Why they died; may be given several times
    #[arg(long, value_name = "REASON", value_enum)]
    reason: Vec<Reason>,
    /// Their key
    #[arg(long)]
    key: Option<String>,
    /// A header with this value; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    header: Vec<(String, String)>,
    /// A header whose value begins with this; may be given several times
    #[arg(long, value_name = "NAME=PREFIX", value_parser = values::pair)]
    header_prefix: Vec<(String, String)>,
    /// A header of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    has_header: Vec<String>,
    /// The last failure's text holds this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Died then or later: @2h (ago), @2026-11-01T10:00Z
    #[arg(long, value_name = "TIME", value_parser = values::time_ms)]
    from: Option<i64>,
    /// Died before that
    #[arg(long, value_name = "TIME", value_parser = values::time_ms)]
    until: Option<i64>,
    /// Of this partition of the source
    #[arg(long, value_name = "PARTITION")]
    source_partition: Option<u32>,
    /// The one at this place, as `dlq ls` shows it; may be given several times
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = values::place)]
    id: Vec<(u32, u64)>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<usize>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct PeekArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1")]
    count: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RedriveArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    filter: Filter,
    /// To this topic, by their keys. Default: back where they come from
    #[arg(long, value_name = "TOPIC", value_parser = values::topic)]
    to: Option<String>,
    /// Set a header in place of all of its name; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    set_header: Vec<(String, String)>,
    /// Remove all headers of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    remove_header: Vec<String>,
    /// At most so many a second
    #[arg(
        long,
        value_name = "MESSAGES",
        default_value = "0",
        hide_default_value = true
    )]
    rate: u64,
    #[command(flatten)]
    moving: Moving,
}

#[derive(Debug, Args)]
struct DiscardArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    filter: Filter,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    moving: Moving,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The group
    #[arg(value_name = "TOPIC/GROUP", value_parser = values::group)]
    group: GroupName,
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

/// What redrive and discard take.
#[derive(Debug, Args)]
struct Moving {
    /// At most so many
    #[arg(
        short = 'n',
        long,
        value_name = "COUNT",
        default_value = "0",
        hide_default_value = true
    )]
    count: u64,
    /// Count what would be moved, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

impl From<Reason> for DeadReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unknown => Self::Unknown,
            Reason::Attempts => Self::Attempts,
            Reason::HandOuts => Self::HandOuts,
            Reason::Rejected => Self::Rejected,
            Reason::Expired => Self::Expired,
            Reason::Parked => Self::Parked,
        }
    }
}

impl Filter {
    fn into_filter(self) -> DeadLetterFilter {
        let mut filter = DeadLetterFilter::new();
        for reason in self.reason {
            filter = filter.reason(reason.into());
        }
        if let Some(key) = self.key {
            filter = filter.key(key);
        }
        for (name, value) in self.header {
            filter = filter.header(HeaderCondition::Equals(name, value.into()));
        }
        for (name, prefix) in self.header_prefix {
            filter = filter.header(HeaderCondition::Prefix(name, prefix.into()));
        }
        for name in self.has_header {
            filter = filter.header(HeaderCondition::Exists(name));
        }
        if let Some(text) = self.error {
            filter = filter.error_contains(text);
        }
        if let Some(time) = self.from {
            filter = filter.died_from_ms(time);
        }
        if let Some(time) = self.until {
            filter = filter.died_until_ms(time);
        }
        if let Some(partition) = self.source_partition {
            filter = filter.source_partition(partition);
        }
        for (partition, offset) in self.id {
            filter = filter.id(partition, offset);
        }
        filter
    }
}

pub(super) async fn run(args: DeadLetterArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DeadLetterCommand::Ls(args) => list(args).await,
        DeadLetterCommand::Peek(args) => peek(args).await,
        DeadLetterCommand::Redrive(args) => redrive(args).await,
        DeadLetterCommand::Discard(args) => discard(args).await,
        DeadLetterCommand::Export(args) => export(args).await,
    }
}

/// The first of them.
async fn some(
    client: &ClientArgs,
    group: &GroupName,
    filter: Filter,
    count: Option<usize>,
) -> anyhow::Result<impl Stream<Item = Result<DeadLetter, aqueduct_client::Error>> + use<>> {
    let client = client.connect().await?;
    let dead = client.dead_letters(&group.topic, &group.name);
    let letters = dead.list(filter.into_filter());
    Ok(letters.take(count.unwrap_or(usize::MAX)))
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let letters = some(&args.client, &args.group, args.filter, args.count).await?;
    print_all(args.output.output, letters, show::Detail::Line).await?;
    Ok(ExitCode::SUCCESS)
}

async fn peek(args: PeekArgs) -> anyhow::Result<ExitCode> {
    let letters = some(&args.client, &args.group, args.filter, Some(args.count)).await?;
    print_all(args.output.output, letters, show::Detail::Page).await?;
    Ok(ExitCode::SUCCESS)
}

async fn export(args: ExportArgs) -> anyhow::Result<ExitCode> {
    let letters = some(&args.client, &args.group, args.filter, args.count).await?;
    print_all(Format::Jsonl, letters, show::Detail::Page).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints them as they come, so that any number takes little memory.
async fn print_all(
    format: Format,
    letters: impl Stream<Item = Result<DeadLetter, aqueduct_client::Error>>,
    detail: show::Detail,
) -> anyhow::Result<()> {
    let mut letters = std::pin::pin!(letters.ready_chunks(1_000));
    let mut printer = show::Printer::new(format, detail);
    while let Some(chunk) = letters.next().await {
        let mut buffer = Vec::new();
        for letter in chunk {
            match letter {
                Ok(letter) => printer.add(&mut buffer, &letter),
                Err(error) => {
                    output::print(buffer)?;
                    return Err(error.into());
                }
            }
        }
        output::print(buffer)?;
    }
    output::print(printer.end())?;
    Ok(())
}

async fn redrive(args: RedriveArgs) -> anyhow::Result<ExitCode> {
    let mut redrive = Redrive::new()
        .filter(args.filter.into_filter())
        .rate(args.rate)
        .max_messages(args.moving.count)
        .dry_run(args.moving.dry_run);
    if let Some(topic) = args.to {
        redrive = redrive.to(topic);
    }
    for (name, value) in args.set_header {
        redrive = redrive.set_header(name, value);
    }
    for name in args.remove_header {
        redrive = redrive.remove_header(name);
    }
    let client = args.moving.client.connect().await?;
    let dead = client.dead_letters(&args.group.topic, &args.group.name);
    let run = dead.redrive(redrive).await?;
    follow(run, &args.moving, "redriven").await
}

async fn discard(args: DiscardArgs) -> anyhow::Result<ExitCode> {
    let GroupName { topic, name } = &args.group;
    if !args.moving.dry_run {
        let doing = format!("discarding dead letters of {topic}/{name}");
        args.moving.client.confirm(&doing, args.yes)?;
    }
    let discard = Discard::new()
        .filter(args.filter.into_filter())
        .max_messages(args.moving.count)
        .dry_run(args.moving.dry_run);
    let client = args.moving.client.connect().await?;
    let run = client.dead_letters(topic, name).discard(discard).await?;
    follow(run, &args.moving, "discarded").await
}

/// Says how far it is until it is over, or until Ctrl-C ends it.
async fn follow(mut run: DeadLettersRun, moving: &Moving, past: &str) -> anyhow::Result<ExitCode> {
    let bar = bar();
    let mut last = DeadLettersProgress::default();
    let interrupted = loop {
        let report = tokio::select! {
            report = run.next() => report,
            signal = tokio::signal::ctrl_c() => {
                signal?;
                break true;
            }
        };
        match report {
            Ok(Some(progress)) => {
                bar.set_length(progress.total);
                bar.set_position(progress.examined);
                bar.set_message(format!("{} {past}", progress.moved));
                last = progress;
            }
            Ok(None) => break false,
            Err(error) => {
                bar.finish_and_clear();
                show::moved(moving.output.output, past, moving.dry_run, &last)?;
                return Err(error.into());
            }
        }
    };
    bar.finish_and_clear();
    // Ends it before the summary is printed.
    drop(run);
    show::moved(moving.output.output, past, moving.dry_run, &last)?;
    if interrupted {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    if !last.done {
        return Err(Failure::new(5, "the broker broke it off")
            .hint("call again: what was moved is not moved twice")
            .into());
    }
    Ok(ExitCode::SUCCESS)
}

/// On a terminal only.
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} examined, {msg}");
    let bar = ProgressBar::new(0);
    bar.enable_steady_tick(Duration::from_millis(200));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
