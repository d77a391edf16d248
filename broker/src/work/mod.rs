//! Queue groups at work: consumers lease messages one by one, and every lease comes to an end.
//!
//! ```text
//!  stream or call ──► driver ── one round ──► lanes ── commands ──► partition's owner ──► its log
//!        ▲              │   scan, choose, read, propose, apply           │
//!        └─ deliveries ─┘◄───────────── replies, events ◄────────────────┘
//! ```
//! - [`attributes`], [`verdicts`]: the decisions here, pure; the larger ones are the `queue`'s
//! - [`driver`]: a task for each group that has consumers, leases or dead letters on their way
//! - [`lane`]: one partition of it
//! - [`round`]: one round; [`choose`], [`plan`], [`outcome`]: its parts
//! - [`steer`]: seeks, and parked keys that go on; [`face`]: who works; [`seeing`]: the rest to be seen
//! - [`delays`]: messages that wait, by id
//! - [`attend`]: what leaves without being handed out, also while nobody works
//! - [`complete`]: verdicts and what is published with them; [`results`]: the way to its topics
//! - [`deaths`]: copies of dead letters to their topic, exactly once
//! - [`beside`]: what a round starts and does not wait for; [`pausing`]: how long nothing happens
//! - [`reading`]: messages out of the log; [`rest`]: pauses after errors
//!
//! Promised: a message is delivered after its lease is durable and not before; what the driver
//! loses (it may end at any time) is nothing that the log does not know. All commands of a group
//! come from its driver, one entry a partition at a time, so a verdict is always resolved against
//! the state that it meets.

pub(crate) mod attend;
mod attributes;
mod beside;
mod choose;
pub(crate) mod complete;
mod deaths;
mod delays;
mod driver;
pub(crate) mod face;
mod lane;
mod outcome;
mod pausing;
mod plan;
mod reading;
mod rest;
mod results;
mod round;
pub(crate) mod seeing;
mod steer;
#[cfg(test)]
mod trial;
mod verdicts;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_proto::record::Record;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

pub(crate) use self::{
    attributes::hash as key_hash,
    delays::{Change, Delayed},
    steer::Steering,
    verdicts::{Wanted, Wish},
};
use self::{
    driver::Driver,
    face::{Face, Holder},
};
use crate::{
    clock::{Clock, Steady},
    error::Refusal,
    groups::admin::{NewGroup, wrong_kind},
    lanes::Credit,
    limits,
    metadata::groups::Group,
    partition::Partition,
    queue::{policy::Policy, time::Now},
    services::Services,
};

/// Requests that may wait for a group's task.
const INBOX: usize = 1_024;
/// Deliveries that may wait for a stream that does not take them; then it gets no more.
const UNREAD_DELIVERIES: usize = 2;

/// How long a group that is to be deleted may take to publish results of steps.
const CLOSING: Duration = Duration::from_secs(2);

/// A leased message on its way to its consumer.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) partition: u32,
    pub(crate) record: Record,
    /// 1 for the first.
    pub(crate) attempt: u32,
    pub(crate) hand_outs: u32,
    pub(crate) lease: u64,
    pub(crate) deadline_ms: i64,
    /// 0 if no attempt failed.
    pub(crate) first_failure_ms: i64,
    pub(crate) last_error: String,
}

impl Delivery {
    /// Times as the wall clock of this moment shows them, for a reader who has such a clock.
    fn tell_by_wall(&mut self, now: Now) {
        self.deadline_ms = now.by_wall(self.deadline_ms);
        if self.first_failure_ms > 0 {
            self.first_failure_ms = now.by_wall(self.first_failure_ms).max(1);
        }
    }
}

/// Results of verdicts, in their order.
pub(crate) type Settled = Vec<Result<(), Refusal>>;

/// What a group's task can be asked.
pub(crate) enum Request {
    /// A stream begins to work.
    Open {
        consumer: u64,
        holder: Holder,
        credit: Arc<Credit>,
        deliveries: mpsc::Sender<Vec<Delivery>>,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A call waits for messages until a time.
    Lease {
        messages: u64,
        bytes: u64,
        until: Instant,
        holder: Holder,
        answer: oneshot::Sender<Result<Vec<Delivery>, Refusal>>,
    },
    Settle {
        wishes: Vec<Wish>,
        answer: oneshot::Sender<Settled>,
    },
    /// Verdicts and results, all or nothing.
    Complete(complete::Completing),
    /// A stream is gone; `closed`: in order.
    Gone { consumer: u64, closed: bool },
    /// How many messages wait for a time, by partition, as far as the scan has come.
    CountDelayed { answer: oneshot::Sender<Vec<u64>> },
    /// The queue is to be moved, or keys are to go on.
    Steer {
        what: Steering,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// About messages that wait for their delay.
    Delayed(delays::Ask),
    /// The group's policy has changed.
    Reconfigure,
    /// Answers when all dead letters have their copies, or that they have not for a while.
    CopyDead {
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Nobody works from now on; refused while there are consumers, or dead letters without a copy.
    Close {
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// It is not deleted after all.
    Reopen,
}

struct Active {
    sender: mpsc::Sender<Request>,
    wake: Arc<Notify>,
    face: Arc<Face>,
}

/// The queue groups that have a task.
pub(crate) struct Work {
    active: Mutex<HashMap<u64, Active>>,
    /// The time of each group that had a task in this process: it goes on while there is none.
    times: Mutex<HashMap<u64, Steady>>,
    /// One for each partition that is attended without consumers.
    places: Arc<Semaphore>,
    /// Bytes of results that wait, by group; nothing for one that has none.
    results: Mutex<HashMap<u64, u64>>,
}

impl Default for Work {
    fn default() -> Work {
        Work {
            active: Mutex::default(),
            times: Mutex::default(),
            places: Arc::new(Semaphore::new(limits::MAX_ATTENDED_PARTITIONS)),
            results: Mutex::default(),
        }
    }
}

impl Work {
    /// The group's task ends, if nobody can reach it any more but through here; `leave` comes
    /// before another task can begin.
    fn retire(&self, id: u64, inbox: &mpsc::Receiver<Request>, leave: impl FnOnce()) -> bool {
        let mut active = self.active.lock();
        let unreached = inbox.is_empty() && inbox.sender_strong_count() == 1;
        if unreached {
            leave();
            active.remove(&id);
            self.note_results(id, 0);
        }
        unreached
    }

    /// The group's time, which never goes back behind what the log has seen.
    fn time_of(&self, id: u64, clock: &Clock, seen_ms: i64) -> Steady {
        let mut times = self.times.lock();
        let known = times.get(&id);
        let time = match known {
            Some(known) => known.not_before(seen_ms),
            None => clock.steady_from(seen_ms),
        };
        times.insert(id, time.clone());
        time
    }

    /// Only of these groups time is remembered: ids are not used again.
    fn keep_times(&self, groups: &HashSet<u64>) {
        self.times.lock().retain(|id, _| groups.contains(id));
    }

    fn remove(&self, id: u64) {
        self.active.lock().remove(&id);
        self.note_results(id, 0);
    }

    /// So many bytes of the group's results wait.
    fn note_results(&self, id: u64, bytes: u64) {
        let mut results = self.results.lock();
        match bytes {
            0 => results.remove(&id),
            _ => results.insert(id, bytes),
        };
    }

    /// Bytes of results that wait in all groups, as of their last rounds.
    pub(crate) fn result_bytes(&self) -> u64 {
        self.results.lock().values().sum()
    }

    /// The way to the group's task, if it has one.
    pub(crate) fn running(&self, id: u64) -> Option<mpsc::Sender<Request>> {
        let active = self.active.lock();
        active.get(&id).map(|active| active.sender.clone())
    }
}

/// A stream that works through a queue.
pub(crate) struct Worker {
    pub(crate) deliveries: mpsc::Receiver<Vec<Delivery>>,
    pub(crate) link: Arc<Link>,
    pub(crate) lease_ms: u64,
}

/// From a stream to its group's task; when the last of it is dropped, the consumer is gone.
pub(crate) struct Link {
    consumer: u64,
    driver: mpsc::Sender<Request>,
    wake: Arc<Notify>,
    credit: Arc<Credit>,
}

impl Link {
    /// The stream takes more.
    pub(crate) fn add_credit(&self, messages: u64, bytes: u64) {
        self.credit.add(messages, bytes);
        self.wake.notify_one();
    }

    /// The stream has taken deliveries, so there is room for others.
    pub(crate) fn taken(&self) {
        self.wake.notify_one();
    }

    /// Verdicts, and what came of them.
    ///
    /// # Errors
    /// If the request cannot be, or nobody knows.
    pub(crate) async fn settle(&self, wishes: Vec<Wish>) -> Result<Settled, Refusal> {
        settle(&self.driver, wishes).await
    }

    /// The consumer has closed its side: what it holds is given back at once.
    pub(crate) async fn close(&self) {
        let consumer = self.consumer;
        let closed = true;
        // An error means that the task has ended, and with it everything.
        let _ = self.driver.send(Request::Gone { consumer, closed }).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let gone = Request::Gone {
            consumer: self.consumer,
            closed: false,
        };
        let driver = self.driver.clone();
        if let Err(mpsc::error::TrySendError::Full(gone)) = driver.try_send(gone)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { driver.send(gone).await });
        }
    }
}

async fn settle(driver: &mpsc::Sender<Request>, wishes: Vec<Wish>) -> Result<Settled, Refusal> {
    let limit = limits::MAX_SETTLEMENTS;
    if wishes.len() > limit {
        let why = format!("{} is above the limit of {limit}", wishes.len());
        return Err(Refusal::invalid("settlements", why));
    }
    let (answer, answered) = oneshot::channel();
    let unknown = || Refusal::Unknown {
        why: "the group's task stopped".into(),
    };
    let request = Request::Settle { wishes, answer };
    driver.send(request).await.map_err(|_| unknown())?;
    answered.await.map_err(|_| unknown())
}

impl Services {
    /// The way to the task of a queue group, started if it does not run.
    fn driver(
        self: &Arc<Self>,
        group: &Group,
    ) -> Result<(mpsc::Sender<Request>, Arc<Notify>), Refusal> {
        if group.queue.is_none() {
            return Err(wrong_kind(group));
        }
        let live = self.topics.get(&group.topic)?;
        let mut active = self.work.active.lock();
        if let Some(active) = active.get(&group.id) {
            return Ok((active.sender.clone(), active.wake.clone()));
        }
        // Under the lock: a group that is deleted has closed its task first.
        let Some(group) = self.group_by_id(group) else {
            return Err(Refusal::GroupNotFound {
                topic: group.topic.clone(),
                group: group.name.clone(),
                did_you_mean: None,
            });
        };
        self.check_draining()?;
        let (sender, inbox) = mpsc::channel(INBOX);
        let wake = Arc::new(Notify::new());
        let id = group.id;
        let face = Arc::new(Face::default());
        let shown = (wake.clone(), face.clone());
        let driver = Driver::new(self.clone(), group, live, inbox, shown);
        self.groups.shards.of(id).spawn(driver.run());
        let handle = sender.clone();
        let waker = wake.clone();
        active.insert(id, Active { sender, wake, face });
        Ok((handle, waker))
    }

    /// The group; where the node makes queue groups by itself, made on first use.
    async fn queue_group(&self, topic: &str, group: &str) -> Result<Group, Refusal> {
        if !self.groups.auto_create_queues {
            return self.group(topic, group);
        }
        let new = NewGroup {
            topic: topic.to_owned(),
            name: group.to_owned(),
            queue: Some(Policy::default()),
            ..NewGroup::default()
        };
        Ok(self.group_or_new(new).await?.0)
    }

    /// A stream begins to work.
    ///
    /// # Errors
    /// If there is no such queue group, or it has too many consumers.
    pub(crate) async fn work(
        self: &Arc<Self>,
        (topic, group): (&str, &str),
        holder: Holder,
    ) -> Result<Worker, Refusal> {
        let group = self.queue_group(topic, group).await?;
        let lease_ms = group.queue.as_ref().map_or(0, |q| Policy::from(q).lease_ms);
        let (driver, wake) = self.driver(&group)?;
        let credit = Arc::new(Credit::new(0, 0));
        let (sender, deliveries) = mpsc::channel(UNREAD_DELIVERIES);
        let consumer = new_consumer();
        let (answer, answered) = oneshot::channel();
        let open = Request::Open {
            consumer,
            holder,
            credit: credit.clone(),
            deliveries: sender,
            answer,
        };
        // Before the request: whoever gives up in between is gone too.
        let link = Arc::new(Link {
            consumer,
            driver,
            wake,
            credit,
        });
        link.driver.send(open).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())??;
        Ok(Worker {
            deliveries,
            link,
            lease_ms,
        })
    }

    /// Leases messages to a call; waits for the first until a time.
    ///
    /// # Errors
    /// If there is no such queue group, or too many calls wait.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        (topic, group): (&str, &str),
        (messages, bytes): (u64, u64),
        until: Instant,
        holder: Holder,
    ) -> Result<Vec<Delivery>, Refusal> {
        let group = self.queue_group(topic, group).await?;
        let (driver, _) = self.driver(&group)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Lease {
            messages,
            bytes,
            until,
            holder,
            answer,
        };
        driver.send(request).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Verdicts on leased messages.
    ///
    /// # Errors
    /// If there is no such queue group, or nobody knows what came of them.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        (topic, group): (&str, &str),
        wishes: Vec<Wish>,
    ) -> Result<Settled, Refusal> {
        let group = self.group(topic, group)?;
        let (driver, _) = self.driver(&group)?;
        settle(&driver, wishes).await
    }

    /// Waits until the dead letters of a queue group have their copies.
    ///
    /// # Errors
    /// If some have none after a while.
    pub(crate) async fn copy_dead_letters(self: &Arc<Self>, group: &Group) -> Result<(), Refusal> {
        let (driver, wake) = self.driver(group)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::CopyDead { answer };
        driver.send(request).await.map_err(|_| stopped())?;
        wake.notify_one();
        answered.await.map_err(|_| stopped())?
    }

    /// Waits until the results of a queue group's steps are published, if that does not take long.
    pub(crate) async fn await_results(&self, group: &Group) {
        let until = Instant::now() + CLOSING;
        let wait = |partition: &Partition| {
            partition.shared().with_queues(|queues| {
                let state = queues.get(group.id);
                state.is_some_and(|state| state.outbox().waiting().results > 0)
            })
        };
        while Instant::now() < until
            && let Ok(live) = self.topics.get(&group.topic)
            && live.partitions.iter().any(wait)
        {
            tokio::time::sleep(CLOSING / 40).await;
        }
    }

    /// Ends the task of a queue group for good.
    ///
    /// # Errors
    /// If somebody works, or something of it has to be published before.
    pub(crate) async fn close_queue(self: &Arc<Self>, group: &Group) -> Result<(), Refusal> {
        let (driver, _) = self.driver(group)?;
        let (answer, answered) = oneshot::channel();
        let close = Request::Close { answer };
        driver.send(close).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Starts the tasks of all queue groups: those with nothing to do end again. What a crash
    /// left (leases that ended, dead letters without a copy) is worked off without a consumer.
    pub(crate) fn resume_queues(self: &Arc<Self>) {
        let groups: Vec<Group> = {
            let view = self.metadata.view().read();
            let queues = view.groups.values().filter(|group| group.queue.is_some());
            queues.cloned().collect()
        };
        for group in groups {
            if let Err(refusal) = self.driver(&group) {
                tracing::warn!(topic = group.topic, group = group.name, %refusal,
                    "a queue group waits for its first consumer");
            }
        }
    }
}

fn stopped() -> Refusal {
    Refusal::Unavailable {
        why: "the group's task stopped".into(),
    }
}

/// An id that no other consumer has; 0 is the broker's own.
fn new_consumer() -> u64 {
    rand::random_range(1..=u64::MAX)
}
