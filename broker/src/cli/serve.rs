//! `aqueduct serve` and `aqueduct dev`: run a node until a signal ends it.
//!
//! The one line `ready api=HOST:PORT` on stderr says that the node serves; scripts wait for it.
//! SIGTERM and SIGINT let what is under way be answered, for at most the time of `--grace`; a
//! second signal ends the process at once. Logs go to stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use aqueduct_broker::{
    config::Config,
    node::{Node, StartError},
};
use clap::{Args, ValueEnum};
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::{
    output::{self, Failure, INTERRUPTED},
    values,
};

/// What both commands take.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Address of the API; port 0 picks a free one
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "AQUEDUCT_LISTEN",
        default_value = "127.0.0.1:7320"
    )]
    listen: SocketAddr,
    /// Listen beyond this machine although there is neither TLS nor authentication
    #[arg(long)]
    insecure: bool,
    /// Refuse to publish when the data takes this much, such as 10GiB. Default: the whole disk
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    disk_limit: Option<u64>,
    /// Threads that serve. Default: one less than the cores
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How long a shutdown waits for what is under way
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::duration)]
    grace: Duration,
    /// Which log lines to show, such as debug or info,aqueduct_broker=debug
    #[arg(
        long,
        value_name = "FILTER",
        env = "AQUEDUCT_LOG",
        default_value = aqueduct_broker::DEFAULT_LOG
    )]
    log: String,
    /// Format of log lines
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// Arguments of `aqueduct serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where everything durable lies; made if it is not there
    #[arg(long, value_name = "DIR", env = "AQUEDUCT_DATA")]
    data: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `aqueduct dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// Keep the data here. Default: a temporary directory that goes with the process
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Partitions of topics that are made by publishing to them
    #[arg(long, value_name = "N", default_value_t = 6)]
    partitions: u32,
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs a node on a data directory.
pub(super) fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = configure(Config::new(args.data), &args.node)?;
    start_logging(&args.node)?;
    run(config, args.node.grace, |_| Ok(()))
}

/// Runs a node to try things out: topics are made by publishing, and nothing stays behind.
pub(super) fn dev(args: DevArgs) -> anyhow::Result<ExitCode> {
    let temporary = match args.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("aqueduct-dev-").tempdir()?),
    };
    let directory = match (&args.data, &temporary) {
        (Some(directory), _) => directory.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two was chosen above"),
    };
    let mut config = configure(Config::new(&directory), &args.node)?;
    config.auto_create_topics = true;
    config.auto_create_partitions = args.partitions;
    start_logging(&args.node)?;
    let kept = args.data.is_some();
    let ended = run(config, args.node.grace, |address| {
        welcome(address, &directory, kept)
    });
    match temporary.map(TempDir::close) {
        Some(Err(error)) if ended.is_ok() => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => ended,
    }
}

fn configure(mut config: Config, args: &NodeArgs) -> Result<Config, Failure> {
    config.listen = args.listen;
    config.insecure = args.insecure;
    config.disk_limit_bytes = args.disk_limit;
    if let Some(threads) = args.threads {
        config.threads = threads;
    }
    config
        .validate()
        .map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config)
}

fn start_logging(args: &NodeArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| Failure::usage(format!("--log {:?}: {error}", args.log)))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let started = match args.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// Starts the node, says so, and waits for its end.
/// Without huge pages: each of a thousand partitions touches a little memory here and there, and
/// would otherwise take two megabytes for it.
fn keep_memory_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

fn run(
    config: Config,
    grace: Duration,
    greet: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    keep_memory_small();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the node starts: a signal that comes meanwhile is not lost.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let node = Node::start(config).map_err(explain)?;
    let address = node.address();
    writeln!(io::stderr(), "ready api={address}")?;
    greet(address)?;
    runtime.block_on(async {
        signals.next().await;
        tracing::info!(
            "stopping: what is under way is answered first; a second signal stops at once"
        );
        let stopping = tokio::task::spawn_blocking(move || node.shutdown(grace));
        tokio::select! {
            stopped = stopping => stopped?,
            () = signals.next() => stop_at_once(),
        }
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// What to do about a node that does not start.
fn explain(error: StartError) -> Failure {
    let message = error.to_string();
    match error {
        StartError::Config(_) => Failure::usage(message),
        StartError::Listen { .. } => {
            Failure::new(1, message).hint("--listen 127.0.0.1:0 takes a free port")
        }
        StartError::Store {
            source: aqueduct_storage::Error::Locked { .. },
            ..
        } => Failure::new(1, message).hint("another broker is using this directory"),
        _ => Failure::new(1, message),
    }
}

/// Nothing acknowledged is lost by this: it is on stable storage already.
fn stop_at_once() {
    std::process::exit(i32::from(INTERRUPTED));
}

/// The signals that end a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The soft limit of open files is meant for programs that use `select`; we may have what the
/// hard one allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What to try, ready to copy.
fn welcome(address: SocketAddr, directory: &std::path::Path, kept: bool) -> io::Result<()> {
    let server = if address.port() == 7320 && address.ip().is_loopback() {
        String::new()
    } else {
        format!(" --server {address}")
    };
    let fate = if kept { "kept" } else { "removed at the end" };
    output::print(format!(
        "\nAqueduct is up.\n\
         \n  gRPC  http://{address}  (health and reflection included)\
         \n  data  {} ({fate})\n\
         \nTry it in another terminal:\n\
         \n  aqueduct pub hello 'first message' -k me{server}\
         \n  aqueduct sub hello{server}\
         \n  aqueduct topic ls{server}\n\n",
        directory.display()
    ))
}
