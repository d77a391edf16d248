//! `aqueduct serve` and `aqueduct dev`: run a node until a signal ends it.
//!
//! The one line `ready api=HOST:PORT` on stderr says that the node serves; scripts wait for it.
//! SIGTERM and SIGINT let what is under way be answered, for at most the time of `grace`; a
//! second signal ends the process at once. Logs go to stderr.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context as _;
use aqueduct_broker::{
    config::{Config, Layers},
    node::{Node, StartError},
};
use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    export::Export,
    logging,
    output::{self, Failure, INTERRUPTED},
    settings::SettingArgs,
};

/// Who sets what `aqueduct dev` has of its own.
const DEV: &str = "aqueduct dev";

/// Arguments of `aqueduct serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    settings: SettingArgs,
}

/// Arguments of `aqueduct dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The same as --auto-create-partitions. Default: 6
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    #[command(flatten)]
    settings: SettingArgs,
}

/// Runs a node on a data directory.
pub(super) fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = match args.settings.settle(Layers::default())? {
        Ok(settled) => settled.config,
        Err(code) => return Ok(code),
    };
    logging::start(&config)?;
    run(config, |_| Ok(()))
}

/// Runs a node to try things out: topics are made by publishing, and nothing stays behind.
pub(super) fn dev(mut args: DevArgs) -> anyhow::Result<ExitCode> {
    let kept = args.settings.flag("data").is_some();
    let temporary = match kept {
        true => None,
        false => Some(tempfile::Builder::new().prefix("aqueduct-dev-").tempdir()?),
    };
    let mut layers = Layers::default();
    layers.preset("auto_create_topics", "true", DEV);
    layers.preset("auto_create_partitions", "6", DEV);
    layers.preset("auto_create_queues", "true", DEV);
    if let Some(partitions) = args.partitions {
        let count = partitions.to_string();
        args.settings.add("auto_create_partitions", count);
    }
    if let Some(temporary) = &temporary {
        // As a flag, because the directory of a real broker may stand in a variable or a file.
        let directory = temporary.path().display().to_string();
        args.settings.add("data", directory);
    }
    let config = match args.settings.settle(layers)? {
        Ok(settled) => settled.config,
        Err(code) => return Ok(code),
    };
    logging::start(&config)?;
    let directory = config.data_dir.clone();
    let ended = run(config, |address| welcome(address, &directory, kept));
    match temporary.map(TempDir::close) {
        Some(Err(error)) if ended.is_ok() => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => ended,
    }
}

/// Without huge pages: each of a thousand partitions touches a little memory here and there, and
/// would otherwise take two megabytes for it.
fn keep_memory_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Starts the node, says so, and waits for its end.
fn run(
    config: Config,
    greet: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    keep_memory_small();
    let grace = config.grace;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the node starts: a signal that comes meanwhile is not lost.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let export = {
        // Its connection lives on this runtime, which has nothing else to do.
        let _within = runtime.enter();
        config.otlp_endpoint.as_deref().map(Export::start)
    };
    let export = export.transpose()?;
    let node = Node::start(config).map_err(explain)?;
    let address = node.address();
    writeln!(io::stderr(), "ready api={address}")?;
    greet(address)?;
    runtime.block_on(async {
        signals.next().await;
        tracing::info!(
            "stopping: what is under way is answered first; a second signal stops at once"
        );
        let stopping = tokio::task::spawn_blocking(move || {
            node.shutdown(grace);
            if let Some(export) = export {
                export.finish();
            }
        });
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
