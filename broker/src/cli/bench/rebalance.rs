//! `bench group --rebalance`: a member joins and leaves again while the others read.
//!
//! Messages come to every partition at a steady rate. Measured is, for each partition that moves,
//! how long nothing of it was handed out: from the last message at the old member to the first
//! one at the new member. Of every other partition: whether its member was told anything about
//! it, and its longest gap, beside that of a calm time before. No message may be left out, and
//! those that come twice are counted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use aqueduct_client::{
    Chunk, Client, GroupConsumer, GroupEvent, Message, NewGroup, Producer, StartPolicy,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Clients, Measured, Plan,
    latency::{Latency, Pacer, Values},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Gaps are looked at for at least so long.
const WINDOW: Duration = Duration::from_millis(400);

/// What only this workload tells.
pub(super) struct Found {
    members: u32,
    partitions: u32,
    joins: u32,
    leaves: u32,
    moved: u64,
    again: u64,
    interrupted: u64,
    /// Longest gap of each partition that stayed, and of each in a calm time before.
    others: Latency,
    calm: Latency,
}

impl Found {
    pub(super) fn json(&self) -> Value {
        json!({
            "members": self.members,
            "partitions": self.partitions,
            "joins": self.joins,
            "leaves": self.leaves,
            "moved": self.moved,
            "delivered_again": self.again,
            "others_interrupted": self.interrupted,
            "others_longest_gap_us": self.others.json(),
            "calm_longest_gap_us": self.calm.json(),
        })
    }

    pub(super) fn text(&self) -> String {
        let Found {
            members,
            partitions,
            joins,
            leaves,
            moved,
            interrupted,
            ..
        } = self;
        format!(
            "{members} members of {partitions} partitions, {joins} joins and {leaves} leaves: {moved} \
             partitions moved, {interrupted} others were interrupted (longest gaps: {}; before: {})",
            self.others.text(),
            self.calm.text()
        )
    }
}

/// One partition, as seen by all members together.
struct Seen {
    member: u32,
    last: Instant,
    next: Option<u64>,
    longest: Duration,
    /// It went to another member, which got its first message so long after the old one's last.
    away: Option<Duration>,
    /// A member was told something about it.
    told: bool,
}

#[derive(Default)]
struct Board {
    seen: Vec<Seen>,
    again: u64,
}

type Shared = Arc<Mutex<Board>>;

fn lock(board: &Shared) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    fn arrived(&mut self, member: u32, chunk: &Chunk) -> anyhow::Result<()> {
        let (Some(first), Some(last)) = (chunk.first(), chunk.last()) else {
            return Ok(());
        };
        let seen = &mut self.seen[first.partition as usize];
        let (now, next) = (Instant::now(), last.offset + 1);
        let expected = seen.next.unwrap_or(first.offset);
        ensure!(
            first.offset <= expected,
            "partition {}: {} came after {expected}, something was left out",
            first.partition,
            first.offset
        );
        self.again += (expected - first.offset).min(chunk.len() as u64);
        let gap = now - seen.last;
        if seen.member == member {
            seen.longest = seen.longest.max(gap);
        } else {
            seen.away = Some(gap);
        }
        (seen.member, seen.last, seen.next) = (member, now, Some(expected.max(next)));
        Ok(())
    }

    fn told(&mut self, event: &GroupEvent) {
        let mut tell = |partition: u32| {
            if let Some(seen) = self.seen.get_mut(partition as usize) {
                seen.told = true;
            }
        };
        match event {
            GroupEvent::Assigned { partition, .. } => tell(*partition),
            GroupEvent::Revoking { partitions, .. } | GroupEvent::Lost { partitions, .. } => {
                partitions.iter().copied().for_each(tell);
            }
            _ => {}
        }
    }

    /// A new time of observation.
    fn begin(&mut self) {
        for seen in &mut self.seen {
            (seen.longest, seen.away, seen.told) = (Duration::ZERO, None, false);
        }
    }

    fn of(&self, member: u32) -> usize {
        let its = self.seen.iter().filter(|seen| seen.member == member);
        its.count()
    }
}

/// Measures rounds of a join and a leave until the time is over, at least one.
pub(super) async fn run(plan: &Plan, clients: &Clients) -> anyhow::Result<(Measured, Found)> {
    ensure!(
        plan.partitions > plan.members,
        "--rebalance needs more partitions than members"
    );
    let admin = clients.one().await?;
    let new = NewGroup::new(&plan.topic, &plan.group).start(StartPolicy::Latest);
    admin.groups().create(new).await?;
    let mut team = Team::new(plan, clients);
    for _ in 0..plan.members {
        let client = clients.one().await?;
        team.join(client).await?;
    }
    let producer = admin.producer(&plan.topic).plain_messages(true);
    let producer = producer.build().await?;
    let stop = watch::Sender::new(false);
    let feeding = tokio::spawn(feed(producer, plan.clone(), stop.subscribe()));
    let start = Instant::now();
    let measuring = team.measure(start + plan.duration.unwrap_or_default());
    let (latency, found) = measuring.await?;
    stop.send_replace(true);
    let messages = feeding.await??;
    let elapsed = start.elapsed();
    while team.count() > 0 {
        team.leave().await?;
    }
    admin.groups().delete(&plan.topic, &plan.group).await?;
    let measured = Measured {
        messages,
        elapsed,
        latency: Some(latency),
        end_to_end: None,
    };
    Ok((measured, found))
}

/// Publishes to one partition after the other at a steady rate.
async fn feed(producer: Producer, plan: Plan, stop: watch::Receiver<bool>) -> anyhow::Result<u64> {
    let mut values = Values::new(plan.size);
    let mut pacer = Pacer::new(plan.rate.unwrap_or(1.0));
    let (mut sent, mut partition) = (0, 0);
    while !*stop.borrow() {
        pacer.next().await;
        let message = Message::new(values.plain()).partition(partition);
        drop(producer.send(message).await?);
        partition = (partition + 1) % plan.partitions;
        sent += 1;
    }
    producer.close().await?;
    Ok(sent)
}

struct Member {
    number: u32,
    over: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// All members; the last one to join is the first one to leave.
struct Team<'a> {
    plan: &'a Plan,
    clients: &'a Clients,
    board: Shared,
    members: Vec<Member>,
    next: u32,
}

impl<'a> Team<'a> {
    fn new(plan: &'a Plan, clients: &'a Clients) -> Self {
        let seen = |_| Seen {
            member: u32::MAX,
            last: Instant::now(),
            next: None,
            longest: Duration::ZERO,
            away: None,
            told: false,
        };
        let board = Board {
            seen: (0..plan.partitions).map(seen).collect(),
            again: 0,
        };
        Self {
            plan,
            clients,
            board: Arc::new(Mutex::new(board)),
            members: Vec::new(),
            next: 0,
        }
    }

    fn count(&self) -> usize {
        self.members.len()
    }

    async fn join(&mut self, client: Client) -> anyhow::Result<()> {
        let board = self.board.clone();
        let consumer = client.consumer(&self.plan.topic).group(&self.plan.group);
        let consumer = consumer.on_event(move |event| lock(&board).told(event));
        let consumer = consumer.must_exist(true).build().await?;
        let over = watch::Sender::new(false);
        let number = self.next;
        self.next += 1;
        let task = consume(consumer, number, self.board.clone(), over.subscribe());
        let task = tokio::spawn(task);
        self.members.push(Member { number, over, task });
        Ok(())
    }

    async fn leave(&mut self) -> anyhow::Result<()> {
        if let Some(member) = self.members.pop() {
            member.over.send_replace(true);
            member.task.await??;
        }
        Ok(())
    }

    async fn measure(&mut self, until: Instant) -> anyhow::Result<(Latency, Found)> {
        let plan = self.plan;
        let mut found = Found {
            members: plan.members,
            partitions: plan.partitions,
            joins: 0,
            leaves: 0,
            moved: 0,
            again: 0,
            interrupted: 0,
            others: Latency::new(),
            calm: Latency::new(),
        };
        let mut latency = Latency::new();
        let (members, partitions) = (plan.members as usize, plan.partitions as usize);
        let share = partitions / members;
        self.settled("everybody reads", |team| {
            let all = &team.members;
            let board = lock(&team.board);
            all.iter().all(|it| board.of(it.number) >= share)
        })
        .await?;
        while found.joins == 0 || Instant::now() < until {
            lock(&self.board).begin();
            tokio::time::sleep(WINDOW).await;
            self.calm(&mut found);
            let client = self.clients.one().await?;
            lock(&self.board).begin();
            let begun = Instant::now();
            self.join(client).await?;
            found.joins += 1;
            self.settled("the new member has its share", |team| {
                let new = team.next - 1;
                lock(&team.board).of(new) >= partitions / (members + 1)
            })
            .await?;
            tokio::time::sleep(WINDOW.saturating_sub(begun.elapsed())).await;
            self.note(&mut latency, &mut found);
            lock(&self.board).begin();
            let begun = Instant::now();
            let old = self.next - 1;
            self.leave().await?;
            found.leaves += 1;
            self.settled("the old member's share is read", |team| {
                lock(&team.board).of(old) == 0
            })
            .await?;
            tokio::time::sleep(WINDOW.saturating_sub(begun.elapsed())).await;
            self.note(&mut latency, &mut found);
        }
        found.again = lock(&self.board).again;
        Ok((latency, found))
    }

    async fn settled(&self, what: &str, ask: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let since = Instant::now();
        while !ask(self) {
            ensure!(since.elapsed() < PATIENCE, "waited in vain: {what}");
            let mut tasks = self.members.iter().map(|member| &member.task);
            ensure!(!tasks.any(JoinHandle::is_finished), "a member ended early");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn calm(&self, found: &mut Found) {
        let now = Instant::now();
        for seen in &lock(&self.board).seen {
            found.calm.record(seen.longest.max(now - seen.last), 1);
        }
    }

    fn note(&self, latency: &mut Latency, found: &mut Found) {
        let now = Instant::now();
        for seen in &lock(&self.board).seen {
            if let Some(away) = seen.away {
                latency.record(away, 1);
                found.moved += 1;
            } else {
                found.others.record(seen.longest.max(now - seen.last), 1);
                found.interrupted += u64::from(seen.told);
            }
        }
    }
}

async fn consume(
    mut consumer: GroupConsumer,
    number: u32,
    board: Shared,
    mut over: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            biased;
            _ = over.changed() => break,
            chunk = consumer.next_chunk() => match chunk {
                Some(chunk) => lock(&board).arrived(number, &chunk?)?,
                None => bail!("a member's stream ended"),
            },
        }
    }
    consumer.commit_taken().await?;
    consumer.close().await?;
    Ok(())
}
