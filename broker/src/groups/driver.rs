//! The task of one group: carries the coordinator's effects out and brings it events.
//!
//! It runs while the group has members (or somebody asks something of it) and ends by itself
//! afterwards, so an idle group costs nothing. All that changes who has what passes through here,
//! one after the other; commits and deliveries do not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::{
    commit::Held,
    coordinator::Coordinator,
    not_empty, not_found,
    pull::PullSession,
    requests::{Answer, Joined, Request},
    session::{Control, Link, MemberSession},
    start::{Kept, begin},
    terms::{Conn, Effect, Found, Joining, LostReason, NotJoined, Tell},
};
use crate::{
    clock,
    error::Refusal,
    limits,
    metadata::groups::{Group, StartAt},
    partition::positions::{Commit, Kind, Move},
    services::Services,
    topics::LiveTopic,
};

/// What a connection may leave unread before it is given up.
const CONTROLS: usize = 4_096;
/// How long a group without members stays at hand.
const LINGER: Duration = Duration::from_millis(500);
/// A timer that fires so late means that the whole process stood still, and nobody was heard.
const STALL_MS: u64 = 1_000;

/// What can be seen of a group's task without asking it.
#[derive(Default)]
pub(crate) struct Face {
    pub(crate) members: AtomicU32,
    pub(crate) rebalancing: AtomicBool,
}

struct Connection {
    controls: mpsc::Sender<Control>,
    held: Arc<Held>,
    pull: Option<Arc<PullSession>>,
}

/// Work that the driver waits for.
enum Done {
    Claimed {
        partition: u32,
        claim: u64,
        made: Result<(u64, Found), Refusal>,
    },
    Sought {
        partitions: Vec<u32>,
        failed: Option<Refusal>,
        answer: Answer<()>,
    },
}

/// The state of the task.
pub(super) struct Driver {
    services: Arc<Services>,
    group: Group,
    live: Arc<LiveTopic>,
    coordinator: Coordinator,
    conns: HashMap<Conn, Connection>,
    inbox: mpsc::Receiver<Request>,
    /// For links of new connections.
    sender: mpsc::WeakSender<Request>,
    works: FuturesUnordered<BoxFuture<'static, Done>>,
    topics: watch::Receiver<u64>,
    face: Arc<Face>,
    paused: bool,
    /// Why partitions cannot be assigned: tried each second, and told once.
    failing: BTreeMap<u32, &'static str>,
    /// Why nobody can join any more.
    over: Option<Refusal>,
}

impl Driver {
    pub(super) fn new(
        services: Arc<Services>,
        group: Group,
        live: Arc<LiveTopic>,
        inbox: mpsc::Receiver<Request>,
        sender: mpsc::WeakSender<Request>,
        face: Arc<Face>,
    ) -> Driver {
        let partitions = live.partitions.len() as u32;
        let topics = services.topics.changes();
        let mut driver = Driver {
            services,
            group,
            live,
            coordinator: Coordinator::new(partitions, limits::MAX_MEMBERS),
            conns: HashMap::new(),
            inbox,
            sender,
            works: FuturesUnordered::new(),
            topics,
            face,
            paused: false,
            failing: BTreeMap::new(),
            over: None,
        };
        driver.reconfigure();
        driver
    }

    pub(super) async fn run(mut self) {
        let services = self.services.clone();
        let drained = services.drained();
        tokio::pin!(drained);
        // The topic may have changed between the look and the subscription.
        self.look_at_topic();
        loop {
            self.carry_out();
            self.show();
            let idle = self.coordinator.members() == 0 && self.works.is_empty();
            let due = self.next_due_ms();
            let pause = due.map(|due| due.saturating_sub(clock::monotonic_ms()));
            tokio::select! {
                Some(request) = self.inbox.recv() => self.handle(request),
                Some(done) = self.works.next(), if !self.works.is_empty() => {
                    self.finished(done);
                    // What else is ready goes out with it.
                    while let Some(Some(done)) = self.works.next().now_or_never() {
                        self.finished(done);
                    }
                }
                Ok(()) = self.topics.changed() => self.look_at_topic(),
                () = &mut drained => break,
                () = tokio::time::sleep(Duration::from_millis(pause.unwrap_or(0))), if pause.is_some() => {
                    self.tick(due.unwrap_or(0));
                }
                () = tokio::time::sleep(LINGER), if idle => {
                    if self.services.groups.retire(self.group.id, &self.inbox) {
                        return;
                    }
                }
            }
        }
        self.services.groups.remove(self.group.id);
    }

    fn show(&self) {
        let members = u32::try_from(self.coordinator.members()).unwrap_or(u32::MAX);
        self.face.members.store(members, Relaxed);
        let rebalancing = self.coordinator.is_rebalancing();
        self.face.rebalancing.store(rebalancing, Relaxed);
    }

    fn next_due_ms(&self) -> Option<u64> {
        let resume = (self.paused && self.group.paused_until_ms < i64::MAX).then(|| {
            let left = self.group.paused_until_ms.saturating_sub(clock::now_ms());
            clock::monotonic_ms() + u64::try_from(left).unwrap_or(0)
        });
        self.coordinator
            .next_tick_ms()
            .into_iter()
            .chain(resume)
            .min()
    }

    fn tick(&mut self, due_ms: u64) {
        let now_ms = clock::monotonic_ms();
        let late_ms = now_ms.saturating_sub(due_ms);
        if late_ms > STALL_MS {
            self.coordinator.forgive(late_ms);
        }
        for (conn, connection) in &self.conns {
            self.coordinator.heard(*conn, connection.held.heard_ms());
        }
        self.coordinator.tick(now_ms);
        self.set_paused();
    }

    fn set_paused(&mut self) {
        let paused = self.group.paused_until_ms > clock::now_ms();
        if paused != self.paused {
            self.paused = paused;
            for conn in self.coordinator.conns() {
                self.tell(conn, Tell::Paused(paused));
            }
        }
    }

    /// The group's settings, as the metadata has them now.
    fn reconfigure(&mut self) {
        if let Some(group) = self.services.group_by_id(&self.group) {
            self.group = group;
        }
        let revocation = u64::try_from(limits::MAX_REVOCATION.as_millis()).unwrap_or(u64::MAX);
        self.coordinator
            .configure(self.group.session_timeout_ms, revocation);
        self.set_paused();
    }

    fn look_at_topic(&mut self) {
        let id = self.live.topic.id;
        match self.services.topics.get(&self.group.topic) {
            Ok(live) if live.topic.id == id => {
                if live.partitions.len() == self.live.partitions.len() {
                    return;
                }
                self.live = live;
                for connection in self.conns.values() {
                    // A connection that is too slow for this is given up with its next tell.
                    let _ = connection
                        .controls
                        .try_send(Control::Topic(self.live.clone()));
                }
                let count = self.live.partitions.len() as u32;
                self.coordinator
                    .set_partitions(count, clock::monotonic_ms());
            }
            Ok(_) | Err(_) => {
                let gone = Refusal::TopicNotFound {
                    topic: self.group.topic.clone(),
                    did_you_mean: None,
                };
                self.over = Some(gone.clone());
                for (_, connection) in self.conns.drain() {
                    let _ = connection.controls.try_send(Control::End(gone.clone()));
                }
                self.coordinator.forget_everybody();
            }
        }
    }

    fn handle(&mut self, request: Request) {
        let now_ms = clock::monotonic_ms();
        match request {
            Request::Join { joining, answer } => {
                let joined = self.join(joining).map(|(member_id, session)| Joined {
                    session,
                    member_id,
                    session_ms: self.group.session_timeout_ms,
                });
                // Whoever hung up drops the session, and that says it is gone.
                let _ = answer.send(joined);
            }
            Request::Pull { joining, answer } => drop(answer.send(self.pull(joining))),
            Request::Released { conn, partitions } => {
                self.coordinator.released(conn, &partitions, now_ms);
            }
            Request::Gone { conn, closed } => {
                if closed {
                    if let Some(connection) = self.conns.get(&conn) {
                        // A connection that is too slow for this ends with an error.
                        let _ = connection.controls.try_send(Control::Left);
                    }
                    self.coordinator.closed(conn, now_ms);
                } else {
                    self.heard(conn);
                    self.coordinator.disconnected(conn);
                }
                self.conns.remove(&conn);
            }
            Request::Stopped { conn, stop } => self.coordinator.stopped(conn, stop),
            Request::Leave { member_id, answer } => {
                let left = self.coordinator.leave(&member_id, now_ms);
                let unknown = || self.member_unknown(&member_id);
                let _ = answer.send(if left { Ok(()) } else { Err(unknown()) });
            }
            Request::Find { member_id, answer } => drop(answer.send(self.find(&member_id))),
            Request::Memberless { partitions, answer } => {
                let _ = answer.send(self.memberless(&partitions));
            }
            Request::Describe { answer } => {
                for (conn, connection) in &self.conns {
                    self.coordinator.heard(*conn, connection.held.heard_ms());
                }
                let _ = answer.send(Ok(self.coordinator.describe(now_ms)));
            }
            Request::Seek { targets, answer } => self.seek(targets, answer),
            Request::Reconfigure => self.reconfigure(),
            Request::Close { answer } => drop(answer.send(self.close())),
            Request::Reopen => self.over = None,
        }
    }

    fn heard(&mut self, conn: Conn) {
        if let Some(connection) = self.conns.get(&conn) {
            self.coordinator.heard(conn, connection.held.heard_ms());
        }
    }

    fn member_unknown(&self, member_id: &str) -> Refusal {
        Refusal::MemberUnknown {
            group: self.group.name.clone(),
            member: member_id.to_owned(),
        }
    }

    fn check_open(&self) -> Result<(), Refusal> {
        self.over.clone().map_or(Ok(()), Err)
    }

    fn close(&mut self) -> Result<(), Refusal> {
        self.check_open()?;
        let members = self.coordinator.members() as u64;
        if members > 0 {
            return Err(not_empty(&self.group, members));
        }
        self.over = Some(not_found(&self.group, None));
        Ok(())
    }

    fn join(&mut self, joining: Joining) -> Result<(String, MemberSession), Refusal> {
        self.check_open()?;
        let sender = self.sender.upgrade().ok_or(Refusal::Draining)?;
        let asked = joining.member_id.clone();
        let joined = self.coordinator.join(joining, clock::monotonic_ms());
        let (conn, member_id) = joined.map_err(|why| match why {
            NotJoined::TooMany => Refusal::LimitReached {
                what: "members of the group".into(),
                limit: limits::MAX_MEMBERS as u64,
            },
            NotJoined::IdTaken => Refusal::invalid(
                "member_id",
                format!("\"{asked}\" is the id of a member with another instance id"),
            ),
        })?;
        let (controls, receiver) = mpsc::channel(CONTROLS);
        let held = Arc::new(Held::new(
            self.group.name.clone(),
            self.group.id,
            member_id.clone(),
            self.live.clone(),
        ));
        let link = Arc::new(Link {
            conn,
            coordinator: sender,
        });
        let session = MemberSession::new(self.services.clone(), receiver, held.clone(), link);
        let pull = None;
        self.conns.insert(
            conn,
            Connection {
                controls,
                held,
                pull,
            },
        );
        if self.paused {
            self.tell(conn, Tell::Paused(true));
        }
        Ok((member_id, session))
    }

    /// The session of a member that pulls; a new one if there is none of its kind.
    fn pull(&mut self, joining: Joining) -> Result<Arc<PullSession>, Refusal> {
        if let Some(Some(conn)) = self.coordinator.conn_of(&joining.member_id)
            && let Some(pull) = self.conns.get(&conn).and_then(|c| c.pull.clone())
        {
            return Ok(pull);
        }
        let (member_id, session) = self.join(joining)?;
        let conn = session.link().conn;
        let pull = Arc::new(PullSession::new(member_id, session));
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.pull = Some(pull.clone());
        }
        Ok(pull)
    }

    fn find(&self, member_id: &str) -> Result<Arc<Held>, Refusal> {
        let conn = self.coordinator.conn_of(member_id).flatten();
        let connection = conn.and_then(|conn| self.conns.get(&conn));
        connection
            .map(|connection| connection.held.clone())
            .ok_or_else(|| self.member_unknown(member_id))
    }

    fn memberless(&self, partitions: &[u32]) -> Result<Vec<u64>, Refusal> {
        self.check_open()?;
        let members = self.coordinator.members();
        if members > 0 {
            let why = format!("the group has members ({members}): say which one commits");
            return Err(Refusal::invalid("member_id", why));
        }
        let epoch = |number: &u32| {
            let partition = self.live.partition(*number).ok();
            let position = partition.and_then(|p| p.shared().position(self.group.id));
            position.unwrap_or_default().epoch
        };
        Ok(partitions.iter().map(epoch).collect())
    }

    fn seek(&mut self, targets: Vec<(u32, u64)>, answer: Answer<()>) {
        if let Err(refusal) = self.check_open() {
            return drop(answer.send(Err(refusal)));
        }
        let (live, group_id) = (self.live.clone(), self.group.id);
        self.works.push(Box::pin(async move {
            let partitions = targets.iter().map(|(partition, _)| *partition).collect();
            let seeks = targets.iter().map(|(partition, offset)| {
                let kind = Some(Kind::Seek(*offset));
                let found = live.partition(*partition);
                async move { found?.change_position(Move { group_id, kind }).await }
            });
            let done = futures::future::join_all(seeks).await;
            let failed = done.into_iter().find_map(Result::err);
            Done::Sought {
                partitions,
                failed,
                answer,
            }
        }));
    }

    /// Logs that a partition cannot be assigned, or can again: once for each change.
    fn note_claim(&mut self, partition: u32, refusal: Option<&Refusal>) {
        let (topic, group) = (&self.group.topic, &self.group.name);
        match refusal {
            Some(refusal) => {
                let reason = refusal.kind().1;
                if self.failing.insert(partition, reason) != Some(reason) {
                    tracing::warn!(topic, group, partition, %refusal,
                        "a partition could not be assigned; it is tried again each second");
                }
            }
            None if self.failing.remove(&partition).is_some() => {
                tracing::info!(topic, group, partition, "the partition is assigned again");
            }
            None => {}
        }
    }

    fn finished(&mut self, done: Done) {
        let now_ms = clock::monotonic_ms();
        match done {
            Done::Claimed {
                partition,
                claim,
                made,
            } => {
                self.note_claim(partition, made.as_ref().err());
                self.coordinator
                    .claimed(partition, claim, made.ok(), now_ms);
            }
            Done::Sought {
                partitions,
                failed,
                answer,
            } => {
                // Those that were not moved are claimed anew like the others: that harms nothing.
                self.coordinator.sought(&partitions, now_ms);
                let _ = answer.send(failed.map_or(Ok(()), Err));
            }
        }
    }

    /// Does what the coordinator has decided.
    fn carry_out(&mut self) {
        let mut last: Option<(Conn, Tell)> = None;
        loop {
            let effects = self.coordinator.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Claim {
                        partition,
                        claim,
                        cursor,
                    } => self.claim(partition, claim, cursor),
                    Effect::Tell(conn, tell) => match &mut last {
                        Some((same, Tell::Assigned(before))) if *same == conn => match tell {
                            Tell::Assigned(more) => before.extend(more),
                            other => {
                                let before = last.replace((conn, other));
                                before.into_iter().for_each(|(c, t)| self.tell(c, t));
                            }
                        },
                        _ => {
                            let before = last.replace((conn, tell));
                            before.into_iter().for_each(|(c, t)| self.tell(c, t));
                        }
                    },
                }
            }
        }
        last.into_iter().for_each(|(c, t)| self.tell(c, t));
    }

    fn tell(&mut self, conn: Conn, tell: Tell) {
        let last = matches!(tell, Tell::Fenced | Tell::Expired | Tell::Removed);
        let Some(connection) = self.conns.get(&conn) else {
            return;
        };
        let taken = connection.controls.try_send(Control::Tell(tell)).is_ok();
        if !taken {
            self.coordinator.disconnected(conn);
        }
        if last || !taken {
            self.conns.remove(&conn);
        }
    }

    fn claim(&mut self, partition: u32, claim: u64, cursor: Option<u64>) {
        let (services, live) = (self.services.clone(), self.live.clone());
        let group = self.group.clone();
        self.works.push(Box::pin(async move {
            let made = make_claim(&services, &live, &group, partition, cursor).await;
            Done::Claimed {
                partition,
                claim,
                made,
            }
        }));
    }
}

/// Raises the epoch in the partition's log, and finds where the member begins.
async fn make_claim(
    services: &Services,
    live: &LiveTopic,
    group: &Group,
    number: u32,
    cursor: Option<u64>,
) -> Result<(u64, Found), Refusal> {
    let partition = live.partition(number)?;
    let group_id = group.id;
    let kind = Some(Kind::Claim(true));
    let claimed = partition.change_position(Move { group_id, kind }).await?;
    let shared = partition.shared();
    let kept = Kept {
        start: shared.log_start_offset(),
        end: shared.high_watermark(),
    };
    // The policy as of now.
    let group = services.group_by_id(group).unwrap_or_else(|| group.clone());
    let position = claimed.position;
    let found = begin(&group, number, position.offset, cursor, kept);
    match found {
        Found::At {
            position: to,
            skipped: Some((from, _)),
        } => {
            tracing::warn!(
                topic = group.topic,
                group = group.name,
                partition = number,
                from,
                to,
                "retention has overtaken the group; messages were skipped by its policy"
            );
            if group.overrun() == StartAt::Latest {
                // The end moves on, so where the group jumped to is kept: what is published from
                // now on is not skipped if this member dies before it commits.
                let (epoch, offset) = (position.epoch, to);
                let kind = Some(Kind::Commit(Commit { epoch, offset }));
                partition.change_position(Move { group_id, kind }).await?;
            }
        }
        Found::Stuck(LostReason::Overrun) => {
            tracing::warn!(
                topic = group.topic,
                group = group.name,
                partition = number,
                "retention has overtaken the group; by its policy it waits for a seek"
            );
        }
        _ => {}
    }
    Ok((position.epoch, found))
}
