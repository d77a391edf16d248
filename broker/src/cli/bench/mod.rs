//! `aqueduct bench`: how fast a broker publishes and delivers, beside what the machine can do.
//!
//! Promises: the machine's own ceilings are measured in the same run, so that figures are ratios
//! and can be compared between machines; with `--rate` latencies count from when a message was
//! due, not from when the client got round to it (no coordinated omission); the client stays on
//! one thread; the broker is another process. Publishing figures are acknowledged messages, which
//! means synced ones.

mod ceilings;
mod group;
mod latency;
mod publish;
mod queue;
mod rebalance;
mod report;
mod spawn;
mod subscribe;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aqueduct_client::{Client, NewTopic};
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::{ClientArgs, OutputArgs, output, output::Failure, values};
use latency::Latency;
use report::Report;

/// Messages in flight one by one, unless told otherwise.
const SINGLES_IN_FLIGHT: usize = 1000;
/// Bytes in flight in batches, unless told otherwise.
const BATCH_BYTES_IN_FLIGHT: usize = 8 << 20;
/// Messages a second beside a rebalance, unless told otherwise.
const REBALANCE_RATE: f64 = 5_000.0;
/// Messages to read, if the topic holds none and no count was given.
const PREFILL: u64 = 5_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Publish
    Pub,
    /// Read what is stored
    Sub,
    /// Publish and read at once
    Both,
    /// Read as members of a group: what is stored, or with --rate what is published
    Group,
    /// Publish, lease and acknowledge
    Queue,
}

/// Measure a broker and this machine
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    workload: Workload,
    /// Bytes of a message's value
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = values::memory_size)]
    size: usize,
    /// Messages in all
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    count: Option<u64>,
    /// Stop after this time (default 5s)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    duration: Option<Duration>,
    /// Messages a second in all; latencies then count from when each was due
    #[arg(long, value_name = "N", value_parser = values::rate)]
    rate: Option<f64>,
    /// Messages of a batch; 1 sends each by itself on a stream
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Unanswered batches (or messages, with --batch 1) of each connection
    #[arg(long, value_name = "N")]
    in_flight: Option<usize>,
    /// One request for each message, answered before the next one; with `queue`: one job at a
    /// time, worked off before the next one
    #[arg(long)]
    unary: bool,
    /// Clients, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Partitions of the topic (default 1; with `group` 6, or one for each member; with
    /// --rebalance 100)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Members of the group (default 2; with --rebalance 10; with `queue` 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    members: Option<u32>,
    /// Messages have so many keys; with `queue` they are worked off in order per key
    #[arg(long, value_name = "N", default_value_t = 0)]
    keys: u32,
    /// With `group`: a member joins and leaves again, over and over, while messages come to all
    /// partitions (100, unless told otherwise) at --rate (5,000)
    #[arg(long, conflicts_with_all = ["commit_every", "count", "batch", "in_flight"])]
    rebalance: bool,
    /// With `group`: publish, while members commit after each N messages; compared with
    /// publishing while they do not
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "rate")]
    commit_every: Option<u64>,
    /// Use this topic and keep it (default: one that is deleted afterwards)
    #[arg(long, value_parser = values::topic)]
    topic: Option<String>,
    /// Start a broker for this run, with a directory that is deleted afterwards
    #[arg(long)]
    spawn: bool,
    /// Where disk ceilings are measured (default: the temporary directory)
    #[arg(long, value_name = "DIR")]
    ceiling_dir: Option<PathBuf>,
    /// Leave the machine's ceilings out
    #[arg(long)]
    no_ceilings: bool,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a workload needs to know.
#[derive(Clone, Debug)]
struct Plan {
    topic: String,
    size: usize,
    /// Messages in all, or `u64::MAX`.
    count: u64,
    duration: Option<Duration>,
    rate: Option<f64>,
    batch: u32,
    in_flight: usize,
    unary: bool,
    connections: u32,
    partitions: u32,
    /// Members of a group.
    members: u32,
    /// Members commit by hand or not at all.
    by_hand: bool,
    /// Messages between commits by hand.
    commit_every: Option<u64>,
    /// Keys of the messages; 0 = none.
    keys: u32,
    /// The group's name.
    group: String,
    /// The first message of each batch carries when it was sent.
    stamped: bool,
    /// Zero of those stamps.
    epoch: Instant,
}

/// What a workload found.
struct Measured {
    messages: u64,
    elapsed: Duration,
    latency: Option<Latency>,
    end_to_end: Option<Latency>,
}

impl BenchArgs {
    fn plan(&self) -> Plan {
        let batch = self.batch as usize;
        let in_flight = self.in_flight.unwrap_or(if self.batch == 1 {
            SINGLES_IN_FLIGHT
        } else {
            (BATCH_BYTES_IN_FLIGHT / (batch * (self.size + 16)).max(1)).clamp(4, 64)
        });
        let endless = !self.reads_stored() && self.count.is_none();
        let members = self.members.unwrap_or(match self.workload {
            Workload::Queue => 4,
            _ if self.rebalance => 10,
            _ => 2,
        });
        let rate = self.rate.or(self.rebalance.then_some(REBALANCE_RATE));
        let topic = self.topic.clone();
        Plan {
            topic: topic.unwrap_or_else(|| format!("bench-{}", std::process::id())),
            size: self.size,
            count: self
                .count
                .unwrap_or(if endless { u64::MAX } else { PREFILL }),
            duration: endless.then(|| self.duration.unwrap_or(Duration::from_secs(5))),
            rate,
            batch: self.batch,
            in_flight: in_flight.max(1),
            unary: self.unary,
            connections: self.connections,
            partitions: self.partitions.unwrap_or(match self.workload {
                Workload::Group if self.rebalance => members.saturating_add(1).max(100),
                Workload::Group => members.max(6),
                _ => 1,
            }),
            members,
            by_hand: self.commit_every.is_some(),
            commit_every: self.commit_every,
            keys: self.keys,
            group: format!("bench-{}", std::process::id()),
            stamped: self.stamps(),
            epoch: Instant::now(),
        }
    }

    /// True if the workload reads what is stored, and publishes only to have something.
    fn reads_stored(&self) -> bool {
        match self.workload {
            Workload::Sub => true,
            Workload::Group => {
                self.rate.is_none() && self.commit_every.is_none() && !self.rebalance
            }
            Workload::Pub | Workload::Both | Workload::Queue => false,
        }
    }

    /// True if messages carry when they were sent.
    fn stamps(&self) -> bool {
        let follows = self.workload == Workload::Group && self.rate.is_some() && !self.rebalance;
        matches!(self.workload, Workload::Both | Workload::Queue) || follows
    }

    fn check(&self) -> Result<(), Failure> {
        if self.stamps() && self.size < latency::STAMP {
            let least = latency::STAMP;
            return Err(Failure::usage(format!(
                "end-to-end latencies need --size {least} or more"
            )));
        }
        if self.workload != Workload::Group && self.commit_every.is_some() {
            return Err(Failure::usage(
                "--commit-every goes with `bench group` only",
            ));
        }
        if self.workload != Workload::Group && self.rebalance {
            return Err(Failure::usage("--rebalance goes with `bench group` only"));
        }
        if !matches!(self.workload, Workload::Pub | Workload::Queue) && self.unary {
            return Err(Failure::usage(
                "--unary goes with `bench pub` and `bench queue` only",
            ));
        }
        if !matches!(self.workload, Workload::Pub | Workload::Queue) && self.keys > 0 {
            return Err(Failure::usage(
                "--keys goes with `bench pub` and `bench queue` only",
            ));
        }
        Ok(())
    }
}

/// Runs a workload and prints what it found.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    args.check()?;
    let ceilings = if args.no_ceilings {
        None
    } else {
        let directory = args.ceiling_dir.clone().unwrap_or_else(std::env::temp_dir);
        let measuring = tokio::task::spawn_blocking(move || ceilings::measure(&directory));
        Some(measuring.await??)
    };
    let broker = if args.spawn {
        Some(spawn::Broker::start()?)
    } else {
        None
    };
    let address = match &broker {
        Some(broker) => broker.address().to_string(),
        None => args.client.address()?,
    };
    let builder = args.client.builder()?.server(&address);
    let clients = Clients { builder, address };
    let plan = args.plan();
    // However this ends, a broker that was started for it must not outlive it.
    let report = tokio::select! {
        report = measure(&args, &plan, &clients, ceilings) => report?,
        stopped = interrupted() => {
            stopped?;
            return Err(Failure::new(1, "interrupted before the end").into());
        }
    };
    drop(broker);
    match args.output.output {
        output::Format::Table => output::print(report.text())?,
        output::Format::Json | output::Format::Jsonl => output::print_json(&report.json())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped,
        _ = terminate.recv() => Ok(()),
    }
}

/// Makes clients, each with a connection of its own.
struct Clients {
    builder: aqueduct_client::ClientBuilder,
    address: String,
}

impl Clients {
    async fn one(&self) -> Result<Client, aqueduct_client::Error> {
        self.builder.clone().build().await
    }
}

async fn measure(
    args: &BenchArgs,
    plan: &Plan,
    clients: &Clients,
    ceilings: Option<ceilings::Ceilings>,
) -> anyhow::Result<Report> {
    let admin = clients.one().await?;
    let made = prepare(args, plan, clients, &admin).await?;
    let baseline = match args.workload {
        Workload::Group if !args.rebalance => group::baseline(plan, clients).await?,
        _ => None,
    };
    let before = admin.stats().await?;
    let (mut extra, mut rebalance, mut queue) = (None, None, None);
    let measured = match args.workload {
        Workload::Pub => publish::run(plan, clients).await,
        Workload::Sub => subscribe::run(plan, clients).await,
        Workload::Both => subscribe::run_both(plan, clients).await,
        Workload::Group if args.rebalance => {
            let found = rebalance::run(plan, clients).await;
            found.map(|(measured, its)| {
                rebalance = Some(its);
                measured
            })
        }
        Workload::Queue => {
            let found = queue::run(plan, clients).await;
            found.map(|(measured, its)| {
                queue = Some(its);
                measured
            })
        }
        Workload::Group => {
            let found = group::run(plan, clients, baseline).await;
            found.map(|(measured, its)| {
                extra = Some(its);
                measured
            })
        }
    };
    let after = admin.stats().await?;
    if made {
        admin
            .delete_topic(&plan.topic)
            .await
            .context("deleting the bench's topic")?;
    }
    let workload = match args.workload {
        Workload::Pub => "pub",
        Workload::Sub => "sub",
        Workload::Both => "both",
        Workload::Group => "group",
        Workload::Queue => "queue",
    };
    Ok(Report {
        workload,
        size: plan.size,
        measured: measured?,
        group: extra,
        rebalance,
        queue,
        before,
        after,
        ceilings,
    })
}

/// Makes the topic if it is not there, and fills it for reading; true if it is to be deleted.
async fn prepare(
    args: &BenchArgs,
    plan: &Plan,
    clients: &Clients,
    admin: &Client,
) -> anyhow::Result<bool> {
    let found = match admin.get_topic(&plan.topic).await {
        Ok(_) => true,
        Err(aqueduct_client::Error::NotFound(_)) => false,
        Err(error) => return Err(error.into()),
    };
    if !found {
        let new = NewTopic::new(&plan.topic).partitions(plan.partitions);
        admin.create_topic(new).await?;
    }
    if args.reads_stored() {
        let offsets = admin.offsets(&plan.topic, None).await?;
        let held: u64 = offsets
            .iter()
            .map(|it| it.high_watermark - it.log_start_offset)
            .sum();
        if held == 0 {
            let fill = Plan {
                batch: 1000,
                in_flight: 32,
                connections: 1,
                ..plan.clone()
            };
            let fill = Plan {
                rate: None,
                unary: false,
                duration: None,
                ..fill
            };
            publish::run(&fill, clients).await?;
        }
    }
    Ok(!found && args.topic.is_none())
}
