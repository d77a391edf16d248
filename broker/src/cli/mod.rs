//! The command line: one file per family of verbs.
//!
//! Promises, on which scripts rely: what a command prints with `-o json` or `-o jsonl` keeps its
//! keys; errors go to stderr as `error: …` and `hint: …`; the exit code says what kind of failure
//! it was (see [`output`]); nothing is asked when there is nobody to answer. Client commands speak
//! to a broker through `aqueduct-client` only, and never look into its data directory; `log` does
//! the opposite, on a stopped broker.

mod connect;
mod context;
mod output;
mod values;

mod config;
mod serve;
mod settings;

mod exec_job;
mod publish;
mod publish_dry;
mod publish_flow;
mod publish_input;
mod publish_json;
mod subscribe;
mod subscribe_exec;
mod subscribe_group;
mod subscribe_queue;

mod get;
mod records;
mod topic;
mod topic_output;

mod dead_letters;
mod dead_letters_output;
mod delayed;
mod group;
mod group_output;
mod group_queue;
mod lag;
mod queue_output;
mod schedule;

mod log;
mod log_walk;
mod logging;
mod overlay;

mod api;
mod bench;
mod doctor;
mod export;
mod manual;
mod status;
mod version;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use connect::ClientArgs;
use output::Format;

/// A durable message queue and event-streaming broker.
#[derive(Debug, Parser)]
#[command(
    name = "aqueduct",
    version,
    after_help = "Without a command, `aqueduct dev` runs.\n\
                  Exit codes: 0 ok, 2 usage, 3 not found, 4 denied, 5 unavailable, 6 time-out, \
                  7 conflict, 1 anything else."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try things out: a broker with temporary data that creates topics by itself
    Dev(serve::DevArgs),
    /// Run a broker
    Serve(serve::ServeArgs),
    /// Create, look at, change, trim and delete topics
    Topic(topic::TopicArgs),
    /// Publish messages: arguments, lines of stdin, or JSON lines
    Pub(publish::PublishArgs),
    /// Read messages
    Sub(subscribe::SubscribeArgs),
    /// Create, look at, move, pause and delete consumer groups
    Group(group::GroupArgs),
    /// Show how far groups are behind, in messages and in seconds
    Lag(lag::LagArgs),
    /// List, look at, cancel and reschedule delayed messages of a queue group
    Delayed(delayed::DelayedArgs),
    /// Publish messages by cron, in intervals, or once
    Schedule(schedule::ScheduleArgs),
    /// Look at, redrive, discard and export dead letters of queue groups
    Dlq(dead_letters::DeadLetterArgs),
    /// Print one message
    Get(get::GetArgs),
    /// Look at a broker: what it holds, what it uses, how fast its disk is
    Status(status::StatusArgs),
    /// Measure a broker and this machine
    Bench(bench::BenchArgs),
    /// Check this machine: disk, sync latency, limits, clock
    Doctor(doctor::DoctorArgs),
    /// Verify or dump the log of a stopped broker
    Log(log::LogArgs),
    /// Show, check and explain the configuration of a broker
    Config(config::ConfigArgs),
    /// Name brokers, and say which one is meant
    Context(context::ContextArgs),
    /// Call any method of the broker's API with JSON
    Api(api::ApiArgs),
    /// Print the completions of a shell
    Completion(manual::CompletionArgs),
    /// Write man pages into a directory
    #[command(hide = true)]
    Man(manual::ManArgs),
    /// Print the version
    Version(version::VersionArgs),
}

/// What most commands print.
#[derive(Clone, Copy, Debug, Args)]
struct OutputArgs {
    /// Format of the output; json and jsonl keep their keys from version to version
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

/// Parses the arguments, runs the command and says how it went.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or_else(|| {
        let default = Cli::parse_from(["aqueduct", "dev"]);
        default.command.expect("the default names its command")
    });
    match run(command) {
        Ok(code) => code,
        Err(error) => output::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(args) => serve::dev(args),
        Command::Serve(args) => serve::serve(args),
        Command::Topic(args) => block_on(topic::run(args)),
        Command::Pub(args) => block_on(publish::run(args)),
        Command::Sub(args) => block_on(subscribe::run(args)),
        Command::Group(args) => block_on(group::run(args)),
        Command::Lag(args) => block_on(lag::run(args)),
        Command::Delayed(args) => block_on(delayed::run(args)),
        Command::Schedule(args) => block_on(schedule::run(args)),
        Command::Dlq(args) => block_on(dead_letters::run(args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Log(args) => log::run(args),
        Command::Config(args) => config::run(args),
        Command::Status(args) => block_on(status::run(args)),
        Command::Context(args) => context::run(args),
        Command::Api(args) => block_on(api::run(args)),
        Command::Completion(args) => manual::completion(args),
        Command::Man(args) => manual::man(args),
        Command::Version(args) => version::run(args),
    }
}

/// Runs a client command on one thread: it has one connection, and hand-overs between threads
/// would cost more than they win.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // A thread may sit in a read of stdin that never ends.
    runtime.shutdown_background();
    result
}
