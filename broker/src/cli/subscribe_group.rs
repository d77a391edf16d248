//! `aqueduct sub -g`: reads as a member of a consumer group.
//!
//! Messages are committed after they have been written to stdout, never before: whoever reads the
//! output gets each at least once. SIGTERM and Ctrl-C end it cleanly: what was printed is
//! committed, the group is left, and its partitions move at once. What happens to the membership is
//! told on stderr, as `note:` lines.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use aqueduct_client::{
    Chunk, Client, CommitMode, Error, GroupConsumer, GroupConsumerBuilder, GroupEvent,
};
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{group::Policy, output, subscribe::Printer, values};

/// What only a member of a group takes.
#[derive(Debug, Args)]
pub(super) struct MemberArgs {
    /// Read as a member of this group, from the group's positions, and commit what was printed;
    /// waits for further messages. From a queue group: lease, print, acknowledge
    #[arg(short, long, value_name = "GROUP", value_parser = values::topic,
          conflicts_with_all = ["from", "until", "follow", "partition"])]
    group: Option<String>,
    /// With -g: the member's name; another with the same takes its place
    #[arg(long, value_name = "ID", requires = "group")]
    member: Option<String>,
    /// With -g: the name of a static member; a restart within the session moves no partition
    #[arg(long, value_name = "ID", requires = "group")]
    instance: Option<String>,
    /// With -g: where the group begins if this creates it. Default: earliest
    #[arg(long, value_name = "POLICY", value_enum, requires = "group")]
    start: Option<Policy>,
    /// With -g: do not create the group
    #[arg(long, requires = "group")]
    must_exist: bool,
    /// With -g: commit nothing
    #[arg(long, requires = "group")]
    no_commit: bool,
    /// With -g: how often to commit. Default: 1s
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "group")]
    commit_interval: Option<Duration>,
    /// With -g: stop when nothing has come for so long
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "group")]
    idle: Option<Duration>,
}

impl MemberArgs {
    /// The group, if one was given.
    pub(super) fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    pub(super) fn must_exist(&self) -> bool {
        self.must_exist
    }

    pub(super) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Whether something was given that a queue group does not have.
    pub(super) fn is_for_streams(&self) -> bool {
        let names = self.member.is_some() || self.instance.is_some();
        let commits = self.no_commit || self.commit_interval.is_some();
        names || commits || self.start.is_some()
    }

    fn builder(&self, client: &Client, topic: &str, group: &str) -> GroupConsumerBuilder {
        let mut builder = client
            .consumer(topic)
            .group(group)
            .client_id("aqueduct sub")
            .must_exist(self.must_exist);
        if let Some(id) = &self.member {
            builder = builder.member_id(id);
        }
        if let Some(id) = &self.instance {
            builder = builder.instance_id(id);
        }
        if let Some(policy) = self.start {
            builder = builder.start(policy.into());
        }
        if let Some(interval) = self.commit_interval {
            builder = builder.commit_interval(interval);
        }
        if self.no_commit {
            builder = builder
                .commit_mode(CommitMode::Manual)
                .max_unfinished(u64::MAX);
        }
        builder
    }
}

/// Joins the group and prints until somebody says stop.
pub(super) async fn run(
    client: &Client,
    args: &MemberArgs,
    (topic, group): (&str, &str),
    printer: &mut Printer,
    count: Option<u64>,
) -> anyhow::Result<ExitCode> {
    let (told, mut events) = mpsc::unbounded_channel();
    let builder = args.builder(client, topic, group);
    let consumer = builder.on_event(move |event| {
        // Nobody listens any more when the end has come.
        let _ = told.send(event.clone());
    });
    let mut consumer = consumer.build().await?;
    let copied = {
        let copying = copy(&mut consumer, printer, args.idle, count);
        tokio::pin!(copying);
        loop {
            tokio::select! {
                copied = &mut copying => break copied,
                Some(event) = events.recv() => tell(event, &mut events)?,
            }
        }
    };
    // What is printed is committed, also before an error is told.
    let committed = match &copied {
        Ok(printed) if !args.no_commit => commit(&consumer, printed).await,
        _ => Ok(()),
    };
    let closed = consumer.close().await;
    if let Ok(event) = events.try_recv() {
        tell(event, &mut events)?;
    }
    copied?;
    committed?;
    closed?;
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// How much of what was handed out has been printed.
enum Printed {
    /// All of it.
    All,
    /// Of the last chunk, what is below this offset of this partition.
    Below(u32, u64),
}

async fn copy(
    consumer: &mut GroupConsumer,
    printer: &mut Printer,
    idle: Option<Duration>,
    count: Option<u64>,
) -> anyhow::Result<Printed> {
    let mut left = count.unwrap_or(u64::MAX);
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let idle = idle.unwrap_or(Duration::MAX);
    loop {
        // Asking for more says that what came before is done: it has been flushed.
        let next = tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(Printed::All),
            _ = &mut interrupt => return Ok(Printed::All),
            next = tokio::time::timeout(idle, consumer.next_chunk()) => next,
        };
        let chunk: Chunk = match next {
            Err(_) | Ok(None) => return Ok(Printed::All),
            Ok(Some(Ok(chunk))) => chunk,
            // One partition waits for a seek; the others go on.
            Ok(Some(Err(error))) if error.reason() == "OVERRUN" => {
                output::complain(&error.to_string(), None);
                continue;
            }
            Ok(Some(Err(error))) => return Err(error.into()),
        };
        let wanted = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        printer.print(&chunk[..wanted])?;
        left -= wanted as u64;
        if left == 0 {
            return Ok(match chunk.get(wanted) {
                Some(next) => Printed::Below(next.partition, next.offset),
                None => Printed::All,
            });
        }
    }
}

/// Commits what was printed last; everything before it counts as done already.
async fn commit(consumer: &GroupConsumer, printed: &Printed) -> Result<(), Error> {
    let committed = match *printed {
        Printed::All => consumer.commit_taken().await,
        Printed::Below(partition, next) => consumer.commit_through(partition, next).await.map(drop),
    };
    match committed {
        // The partition has gone to another member meanwhile, which prints this again.
        Err(Error::Fenced(_)) => Ok(()),
        committed => committed,
    }
}

/// Writes a line about the membership to stderr. Assignments that come together share one.
fn tell(event: GroupEvent, more: &mut mpsc::UnboundedReceiver<GroupEvent>) -> io::Result<()> {
    let mut assigned = Vec::new();
    let mut next = Some(event);
    while let Some(event) = next {
        match event {
            GroupEvent::Assigned {
                partition,
                position,
                skipped,
            } => {
                assigned.push(format!("{partition}:{position}"));
                if let Some(range) = skipped {
                    let (from, to) = (range.start, range.end);
                    note(&format!(
                        "partition {partition}: offsets {from} to before {to} were skipped, \
                         retention had overtaken the group"
                    ))?;
                }
            }
            event => {
                say_assigned(&mut assigned)?;
                if let Some(text) = describe(&event) {
                    note(&text)?;
                }
            }
        }
        next = more.try_recv().ok();
    }
    say_assigned(&mut assigned)
}

fn say_assigned(assigned: &mut Vec<String>) -> io::Result<()> {
    if assigned.is_empty() {
        return Ok(());
    }
    note(&format!("assigned {}", assigned.join(" ")))?;
    assigned.clear();
    Ok(())
}

fn describe(event: &GroupEvent) -> Option<String> {
    let list = |partitions: &[u32]| {
        let numbers: Vec<String> = partitions.iter().map(u32::to_string).collect();
        numbers.join(" ")
    };
    Some(match event {
        GroupEvent::Connected { member_id } => format!("joined as {member_id}"),
        GroupEvent::Disconnected { error } => format!("disconnected: {error}; trying again"),
        GroupEvent::Released { partitions } => format!("released {}", list(partitions)),
        GroupEvent::Lost { partitions, reason } => {
            format!("lost {} ({reason})", list(partitions))
        }
        GroupEvent::CommitFailed {
            partition, error, ..
        } => format!("partition {partition}: not committed: {error}"),
        _ => return None,
    })
}

fn note(text: &str) -> io::Result<()> {
    writeln!(io::stderr(), "note: {text}")
}
