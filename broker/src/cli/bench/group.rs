//! Members of a consumer group: catching up, following, committing.
//!
//! What is compared is measured in the same run, one after the other: a read without a group,
//! or the same members without their commits. Members join while the group is paused and start
//! when every one has its partitions, so that no rebalance is measured.
//!
//! Beside commits the time runs until everything that was published is read and committed, with
//! commits and without: a member that falls behind must not leave its work out of the figure.
//! A member asks for a commit after each so many messages and reads on meanwhile; what waits for
//! the answer before it is put together by the client, so fewer commits may be made.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use aqueduct_client::{
    Chunk, Client, CommitMode, Error, GroupConsumer, NewGroup, Record, StartPolicy,
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Clients, Measured, Plan,
    latency::{Latency, stamp},
    publish, subscribe,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Commits that a member waits for at a time.
const COMMITS_OPEN: usize = 10_000;

/// What the same machine does without the group, or without its commits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    pub(super) name: &'static str,
    pub(super) messages_per_s: f64,
}

/// What only this workload tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extra {
    members: u32,
    commits: Commits,
    baseline: Option<Baseline>,
}

/// Commits by hand.
#[derive(Clone, Copy, Debug, Default)]
struct Commits {
    asked: u64,
    /// Positions that were answered, each counted once.
    made: u64,
}

impl Extra {
    pub(super) fn json(&self) -> Value {
        let baseline = self.baseline.map(|it| it.messages_per_s.round());
        json!({
            "members": self.members,
            "commits": self.commits.asked,
            "commits_made": self.commits.made,
            "baseline_msgs_per_s": baseline,
        })
    }

    pub(super) fn text(&self) -> String {
        let (members, Commits { asked, made }) = (self.members, self.commits);
        let against = self.baseline.map(|it| {
            let (name, rate) = (it.name.replace('_', " "), it.messages_per_s);
            format!(", {name} {rate:.0} messages/s")
        });
        format!(
            "{members} members, {asked} commits by hand in {made}{}",
            against.unwrap_or_default()
        )
    }

    pub(super) fn ratio(&self, messages_per_s: f64) -> Option<(&'static str, f64)> {
        let baseline = self.baseline?;
        let rate = baseline.messages_per_s.max(1e-9);
        Some((baseline.name, messages_per_s / rate))
    }
}

/// The figure to compare with, if there is one.
pub(super) async fn baseline(plan: &Plan, clients: &Clients) -> anyhow::Result<Option<Baseline>> {
    let (name, measured) = match (plan.commit_every, plan.rate) {
        (Some(_), _) => {
            let without = Plan {
                commit_every: None,
                group: format!("{}-without", plan.group),
                ..plan.clone()
            };
            let (measured, _) = publish_beside(&without, clients).await?;
            ("without_commits", measured)
        }
        (None, Some(_)) => return Ok(None),
        (None, None) => {
            let alone = Plan {
                connections: 1,
                ..plan.clone()
            };
            ("groupless", subscribe::run(&alone, clients).await?)
        }
    };
    let seconds = measured.elapsed.as_secs_f64().max(1e-9);
    Ok(Some(Baseline {
        name,
        messages_per_s: measured.messages as f64 / seconds,
    }))
}

/// Runs the workload's shape.
pub(super) async fn run(
    plan: &Plan,
    clients: &Clients,
    baseline: Option<Baseline>,
) -> anyhow::Result<(Measured, Extra)> {
    let (measured, commits) = if plan.by_hand || plan.rate.is_some() {
        publish_beside(plan, clients).await?
    } else {
        (catch_up(plan, clients).await?, Commits::default())
    };
    let extra = Extra {
        members: plan.members,
        commits,
        baseline,
    };
    Ok((measured, extra))
}

/// Reads what is stored, shared among the members.
async fn catch_up(plan: &Plan, clients: &Clients) -> anyhow::Result<Measured> {
    let admin = clients.one().await?;
    let offsets = admin.offsets(&plan.topic, None).await?;
    let held = offsets
        .iter()
        .map(|it| it.high_watermark - it.log_start_offset);
    let messages: u64 = held.sum();
    let team = Team::join(plan, clients, admin, StartPolicy::Earliest).await?;
    let start = team.start().await?;
    team.wait_for(messages).await?;
    let elapsed = start.elapsed();
    team.leave().await?;
    Ok(Measured {
        messages,
        elapsed,
        latency: None,
        end_to_end: None,
    })
}

/// Publishes while the members follow; the messages are those published. Also says how many
/// commits there were.
async fn publish_beside(plan: &Plan, clients: &Clients) -> anyhow::Result<(Measured, Commits)> {
    let admin = clients.one().await?;
    let team = Team::join(plan, clients, admin, StartPolicy::Latest).await?;
    let start = team.start().await?;
    let mut measured = publish::run(plan, clients).await?;
    team.wait_for(measured.messages).await?;
    let (latency, commits, end) = team.leave().await?;
    if plan.by_hand {
        measured.elapsed = end - start;
    }
    measured.end_to_end = plan.rate.map(|_| latency);
    Ok((measured, commits))
}

/// What a member found.
struct Done {
    latency: Latency,
    commits: Commits,
    /// Everything was committed, if it was to be.
    at: Instant,
}

/// All members, each a task with a connection of its own.
struct Team {
    plan: Plan,
    admin: Client,
    seen: Arc<AtomicU64>,
    /// Changes at the end.
    over: watch::Sender<bool>,
    tasks: Vec<JoinHandle<anyhow::Result<Done>>>,
}

impl Team {
    /// Joins everybody to a paused group and waits until the partitions are shared out.
    async fn join(
        plan: &Plan,
        clients: &Clients,
        admin: Client,
        start: StartPolicy,
    ) -> anyhow::Result<Self> {
        let groups = admin.groups();
        let new = NewGroup::new(&plan.topic, &plan.group).start(start);
        groups.create(new).await?;
        groups.pause(&plan.topic, &plan.group, None).await?;
        let mut team = Self {
            plan: plan.clone(),
            admin,
            seen: Arc::default(),
            over: watch::channel(false).0,
            tasks: Vec::new(),
        };
        for _ in 0..plan.members {
            let client = clients.one().await?;
            let consumer = client.consumer(&plan.topic).group(&plan.group);
            let mode = if plan.by_hand {
                CommitMode::Manual
            } else {
                CommitMode::Automatic
            };
            // By hand a member may be as far ahead of its commits as it likes.
            let consumer = consumer.commit_mode(mode).max_unfinished(u64::MAX);
            let consumer = consumer.must_exist(true).build().await?;
            let member = Member {
                consumer,
                epoch: plan.epoch,
                commit_every: plan.commit_every,
                seen: team.seen.clone(),
                latency: Latency::new(),
                by_hand: plan.by_hand,
                commits: Commits::default(),
                open: FuturesUnordered::new(),
                positions: BTreeMap::new(),
            };
            let task = member.run(team.over.subscribe());
            team.tasks.push(tokio::spawn(task));
        }
        team.balanced().await?;
        Ok(team)
    }

    async fn balanced(&self) -> anyhow::Result<()> {
        let (topic, group) = (&self.plan.topic, &self.plan.group);
        let partitions = self.admin.get_topic(topic).await?.partitions as usize;
        let members = self.plan.members as usize;
        let since = Instant::now();
        loop {
            let found = self.admin.groups().members(topic, group).await?;
            let shares = found.iter().map(|member| member.partitions.len());
            let (most, total) = (shares.clone().max().unwrap_or(0), shares.sum::<usize>());
            if found.len() == members && total == partitions && most <= partitions.div_ceil(members)
            {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                bail!("the partitions were not shared out: {found:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn start(&self) -> anyhow::Result<Instant> {
        let start = Instant::now();
        let (topic, group) = (&self.plan.topic, &self.plan.group);
        self.admin.groups().resume(topic, group).await?;
        Ok(start)
    }

    /// Waits until so many messages have come.
    async fn wait_for(&self, messages: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let seen = self.seen.load(Ordering::Relaxed);
            if seen >= messages {
                return Ok(());
            }
            if seen > last {
                (last, since) = (seen, Instant::now());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{seen} of {messages} messages came, then none"
            );
            ensure!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "a member ended early"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends everybody and forgets the group; also says when the last commit was answered.
    async fn leave(self) -> anyhow::Result<(Latency, Commits, Instant)> {
        self.over.send_replace(true);
        let (mut latency, mut commits) = (Latency::new(), Commits::default());
        let mut end = Instant::now();
        for task in self.tasks {
            let done = task.await??;
            latency.merge(&done.latency);
            commits.asked += done.commits.asked;
            commits.made += done.commits.made;
            end = end.max(done.at);
        }
        let groups = self.admin.groups();
        groups.delete(&self.plan.topic, &self.plan.group).await?;
        Ok((latency, commits, end))
    }
}

/// A commit on its way: its partition and its answer.
type Open = BoxFuture<'static, (u32, Result<u64, Error>)>;

struct Member {
    consumer: GroupConsumer,
    epoch: Instant,
    by_hand: bool,
    commit_every: Option<u64>,
    seen: Arc<AtomicU64>,
    latency: Latency,
    commits: Commits,
    open: FuturesUnordered<Open>,
    /// The last position of each partition that was answered.
    positions: BTreeMap<u32, u64>,
}

impl Member {
    async fn run(mut self, mut over: watch::Receiver<bool>) -> anyhow::Result<Done> {
        loop {
            tokio::select! {
                biased;
                _ = over.changed() => break,
                Some(answer) = self.open.next(), if !self.open.is_empty() => self.answered(answer)?,
                chunk = self.consumer.next_chunk(), if self.open.len() < COMMITS_OPEN => match chunk {
                    Some(chunk) => self.take(chunk?),
                    None => bail!("a member's stream ended"),
                },
            }
        }
        while let Some(answer) = self.open.next().await {
            self.answered(answer)?;
        }
        if self.by_hand {
            self.consumer.commit_taken().await?;
        }
        let at = Instant::now();
        self.consumer.close().await?;
        Ok(Done {
            latency: self.latency,
            commits: self.commits,
            at,
        })
    }

    fn answered(&mut self, (partition, answer): (u32, Result<u64, Error>)) -> anyhow::Result<()> {
        let position = answer?;
        if self.positions.insert(partition, position) != Some(position) {
            self.commits.made += 1;
        }
        Ok(())
    }

    fn take(&mut self, chunk: Chunk) {
        let now = self.epoch.elapsed();
        for record in chunk.iter() {
            if let Some(nanos) = sent_at(record) {
                let way = now.saturating_sub(Duration::from_nanos(nanos));
                self.latency.record(way, 1);
            }
        }
        let count = chunk.len() as u64;
        self.seen.fetch_add(count, Ordering::Relaxed);
        let (Some(every), Some(first), Some(last)) =
            (self.commit_every, chunk.first(), chunk.last())
        else {
            return;
        };
        let partition = first.partition;
        let places = (first.offset..=last.offset).filter(|it| (it + 1) % every == 0);
        let places: Vec<u64> = places.collect();
        let chunk = Arc::new(chunk);
        for offset in places {
            let chunk = chunk.clone();
            self.commits.asked += 1;
            self.open.push(Box::pin(async move {
                (partition, chunk.commit_through(offset + 1).await)
            }));
        }
    }
}

/// Looks at the value, so that decoding cannot be left out.
fn sent_at(record: &Record) -> Option<u64> {
    record.value.as_ref().and_then(|value| stamp(value))
}
