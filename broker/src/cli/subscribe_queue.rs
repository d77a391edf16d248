//! `aqueduct sub -g` on a queue group: leases messages, prints them, and acknowledges what was
//! printed.
//!
//! A message counts as done once it was written to stdout, never before. Whatever else was leased
//! when it ends is given back.

use std::{process::ExitCode, time::Duration};

use aqueduct_client::{Client, Error, Lease, NewGroup, QueueConsumer, QueueEvent, QueuePolicy};
use futures::{FutureExt as _, future};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    output::{self, Failure},
    subscribe::Printer,
    subscribe_group::MemberArgs,
};

/// Messages that are printed, and then acknowledged, together.
const TOGETHER: u64 = 500;

/// Whether this is a queue group; one that is not there is none.
pub(super) async fn is_queue(client: &Client, topic: &str, group: &str) -> Result<bool, Error> {
    match client.groups().get(topic, group).await {
        Ok(group) => Ok(group.queue.is_some()),
        Err(error) if error.reason() == "GROUP_NOT_FOUND" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the queue group with the broker's defaults, if there is no group of this name.
pub(super) async fn ensure(client: &Client, topic: &str, group: &str) -> Result<(), Error> {
    let groups = client.groups();
    match groups.get(topic, group).await {
        Err(error) if error.reason() == "GROUP_NOT_FOUND" => {}
        known => return known.map(drop),
    }
    let new = NewGroup::new(topic, group).queue(QueuePolicy::new());
    match groups.create(new).await {
        Ok(_) => output::note(&format!("created the queue group {topic}/{group}")),
        // Somebody else was quicker.
        Err(Error::AlreadyExists(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Prints until somebody says stop.
pub(super) async fn run(
    client: &Client,
    args: &MemberArgs,
    (topic, group): (&str, &str),
    printer: &mut Printer,
    count: Option<u64>,
) -> anyhow::Result<ExitCode> {
    if args.is_for_streams() {
        let why = format!("{topic}/{group} is a queue group: it has no members and no commits");
        return Err(Failure::usage(why)
            .hint("what is printed is acknowledged; `aqueduct get` looks without leasing")
            .into());
    }
    let left = count.unwrap_or(u64::MAX);
    let queue = client.queue(topic, group);
    let consumer = queue.consumer().client_id("aqueduct sub");
    let consumer = consumer.renew(true).on_event(tell);
    let mut jobs = consumer.max_in_flight(left.min(TOGETHER)).build().await?;
    let printed = copy(&mut jobs, printer, args.idle(), left).await;
    jobs.drain();
    let closed = jobs.close().await;
    printed?;
    closed?;
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn copy(
    jobs: &mut QueueConsumer,
    printer: &mut Printer,
    idle: Option<Duration>,
    mut left: u64,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let idle = idle.unwrap_or(Duration::MAX);
    while left > 0 {
        let next = tokio::select! {
            biased;
            _ = terminate.recv() => return Ok(()),
            _ = &mut interrupt => return Ok(()),
            next = tokio::time::timeout(idle, jobs.next()) => next,
        };
        let first = match next {
            Err(_) | Ok(None) => return Ok(()),
            Ok(Some(lease)) => lease?,
        };
        let mut leases = vec![first];
        let mut failure = None;
        while (leases.len() as u64) < left.min(TOGETHER)
            && let Some(Some(lease)) = jobs.next().now_or_never()
        {
            match lease {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        left -= leases.len() as u64;
        let records: Vec<_> = leases
            .iter()
            .map(|lease| lease.job().record.clone())
            .collect();
        printer.print_now(&records)?;
        acknowledge(leases).await?;
        if let Some(error) = failure {
            return Err(error.into());
        }
    }
    Ok(())
}

async fn acknowledge(leases: Vec<Lease>) -> Result<(), Error> {
    let acks = leases.into_iter().map(|lease| {
        let place = (lease.partition, lease.offset);
        async move { (place, lease.ack().await) }
    });
    for ((partition, offset), acked) in future::join_all(acks).await {
        match acked {
            Ok(()) => {}
            Err(error) if error.is_lease_lost() || error.is_unknown() => output::note(&format!(
                "{partition}:{offset} was printed, but may come again: {error}"
            )),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tell(event: &QueueEvent) {
    if let QueueEvent::Disconnected { error } = event {
        output::note(&format!("disconnected: {error}; trying again"));
    }
}
