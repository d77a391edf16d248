//! A member's side of a group inside the broker: what it is delivered and told, in order.
//!
//! A session has a lane for each partition that the member was assigned and drops the lane the
//! moment the partition is asked back or lost; what it yields after that holds nothing of the
//! partition any more. It waits by being woken, never by looking again. Deciding who has what is
//! the coordinator's; whether a commit counts is the partition's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Notify, mpsc};

use super::{
    commit::{Committed, Held},
    requests::Request,
    terms::{Assignment, Conn, LostReason, Stop, Tell},
};
use crate::{
    error::Refusal,
    lanes::{Credit, Event, Lane, Step},
    services::Services,
    topics::LiveTopic,
};

/// What a session yields.
pub(crate) enum Happening {
    Assigned(Vec<Assignment>),
    Revoking {
        partitions: Vec<u32>,
        deadline_ms: u64,
    },
    Lost {
        partitions: Vec<u32>,
        reason: LostReason,
    },
    Delivered(Event),
    Committed(Vec<Committed>),
}

/// What the coordinator's driver sends to a connection.
pub(super) enum Control {
    Tell(Tell),
    /// The topic has more partitions.
    Topic(Arc<LiveTopic>),
    /// The member has left in order; what it committed is still answered.
    Left,
    /// The group or the topic is gone.
    End(Refusal),
}

/// Commits on their way, in order.
pub(super) type Answering = BoxFuture<'static, Vec<Committed>>;

struct MemberLane {
    lane: Lane,
    epoch: u64,
}

/// The way back to the coordinator. Dropping it says that the connection is gone.
pub(crate) struct Link {
    pub(super) conn: Conn,
    pub(super) coordinator: mpsc::Sender<Request>,
}

impl Link {
    pub(super) async fn send(&self, request: Request) {
        // An error means that the group is over, which the controls say too.
        let _ = self.coordinator.send(request).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let gone = Request::Gone {
            conn: self.conn,
            closed: false,
        };
        if let Err(mpsc::error::TrySendError::Full(gone)) = self.coordinator.try_send(gone)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let coordinator = self.coordinator.clone();
            runtime.spawn(async move { coordinator.send(gone).await });
        }
    }
}

/// A member's deliveries.
pub(crate) struct MemberSession {
    services: Arc<Services>,
    controls: mpsc::Receiver<Control>,
    held: Arc<Held>,
    lanes: Vec<MemberLane>,
    /// Why lanes were given up, by partition.
    stops: BTreeMap<u32, Refusal>,
    turn: usize,
    wake: Arc<Notify>,
    paused: bool,
    left: bool,
    /// Obeyed already, and not yet told.
    unread: VecDeque<Happening>,
    link: Arc<Link>,
}

impl MemberSession {
    pub(super) fn new(
        services: Arc<Services>,
        controls: mpsc::Receiver<Control>,
        held: Arc<Held>,
        link: Arc<Link>,
    ) -> MemberSession {
        MemberSession {
            services,
            controls,
            held,
            lanes: Vec::new(),
            stops: BTreeMap::new(),
            turn: 0,
            wake: Arc::new(Notify::new()),
            paused: false,
            left: false,
            unread: VecDeque::new(),
            link,
        }
    }

    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// What the coordinator has said by now, if anything.
    ///
    /// # Errors
    /// If the session is over.
    pub(super) fn told(&mut self) -> Result<Option<Happening>, Refusal> {
        if let Some(happening) = self.unread.pop_front() {
            return Ok(Some(happening));
        }
        while let Ok(control) = self.controls.try_recv() {
            if let Some(happening) = self.obey(control)? {
                return Ok(Some(happening));
            }
        }
        Ok(None)
    }

    fn obey(&mut self, control: Control) -> Result<Option<Happening>, Refusal> {
        let tell = match control {
            Control::Tell(tell) => tell,
            Control::Topic(live) => {
                self.held.set_live(live);
                return Ok(None);
            }
            Control::Left => {
                self.left = true;
                self.lanes.clear();
                return Ok(None);
            }
            Control::End(why) => return Err(why),
        };
        match tell {
            Tell::Assigned(assignments) => {
                for assignment in &assignments {
                    self.add(assignment)?;
                }
                Ok(Some(Happening::Assigned(assignments)))
            }
            Tell::Revoking {
                partitions,
                deadline_ms,
            } => {
                self.drop_lanes(&partitions);
                Ok(Some(Happening::Revoking {
                    partitions,
                    deadline_ms,
                }))
            }
            Tell::Lost { partitions, reason } => {
                self.drop_lanes(&partitions);
                self.held.lose(&partitions);
                Ok(Some(Happening::Lost { partitions, reason }))
            }
            Tell::Paused(paused) => {
                self.paused = paused;
                Ok(None)
            }
            Tell::Fenced => Err(self.held.fenced()),
            Tell::Expired => Err(self.held.unknown()),
            Tell::Removed => Err(self.held.removed()),
        }
    }

    fn add(&mut self, assignment: &Assignment) -> Result<(), Refusal> {
        let live = self.held.live();
        let partition = live.partition(assignment.partition)?;
        let cursor = partition.cursor(assignment.position);
        cursor.register(&self.wake);
        self.drop_lane(assignment.partition);
        self.stops.remove(&assignment.partition);
        self.held.gain(assignment.partition, assignment.epoch);
        self.lanes.push(MemberLane {
            lane: Lane::new(cursor, None),
            epoch: assignment.epoch,
        });
        Ok(())
    }

    fn drop_lanes(&mut self, partitions: &[u32]) {
        let live = self.held.live();
        for partition in partitions {
            self.drop_lane(*partition);
            if let Ok(partition) = live.partition(*partition) {
                partition.cursor(0).unregister(&self.wake);
            }
        }
    }

    fn drop_lane(&mut self, partition: u32) {
        self.lanes.retain(|lane| lane.lane.partition() != partition);
    }

    /// The partitions that are delivered, with what comes next of each.
    pub(super) fn standing(&self) -> Vec<Assignment> {
        let assignment = |lane: &MemberLane| Assignment {
            partition: lane.lane.partition(),
            epoch: lane.epoch,
            position: lane.lane.next(),
            skipped: None,
        };
        self.lanes.iter().map(assignment).collect()
    }

    /// Why nothing of a partition is delivered.
    pub(super) fn stuck(&self, partition: u32, reason: LostReason) -> Option<Refusal> {
        let damaged = self.stops.get(&partition).cloned();
        let damaged = damaged.filter(|_| reason == LostReason::Damaged);
        damaged.or_else(|| self.held.stuck(partition, reason))
    }

    /// The lanes stand again where they stood then, as far as they still are the same. What is
    /// committed since has arrived, whatever was said of it.
    pub(super) fn go_back(&mut self, then: &[Assignment]) {
        for lane in &mut self.lanes {
            let same =
                |a: &&Assignment| (a.partition, a.epoch) == (lane.lane.partition(), lane.epoch);
            if let Some(assignment) = then.iter().find(same) {
                let committed = self.held.committed(assignment.partition, lane.epoch);
                let from = assignment.position.max(committed.unwrap_or(0));
                lane.lane.go_back(from.min(lane.lane.next()));
            }
        }
    }

    /// Waits until there may be something new; `false`: there will be nothing.
    pub(super) async fn changed(&mut self) -> Result<bool, Refusal> {
        tokio::select! {
            control = self.controls.recv() => {
                let control = control.ok_or_else(|| self.held.unknown())?;
                if let Some(happening) = self.obey(control)? {
                    self.unread.push_back(happening);
                }
            }
            () = self.wake.notified(), if !self.paused => {}
        }
        Ok(true)
    }

    /// One round over the lanes. A lane that cannot read on is given up, unless it shall be kept:
    /// then the round ends there, and the next one meets the same.
    pub(super) async fn look(
        &mut self,
        raw: bool,
        credit: (u64, u64),
        keep: impl Fn(u32) -> bool,
    ) -> Result<Option<Step>, Refusal> {
        if self.paused {
            return Ok(None);
        }
        for _ in 0..self.lanes.len() {
            self.turn = (self.turn + 1) % self.lanes.len();
            let MemberLane { lane, epoch } = &mut self.lanes[self.turn];
            match lane.step(raw, credit).await {
                Ok(None) => {}
                Ok(Some(step)) => {
                    let traffic = &self.held.live().traffic;
                    let stats = &self.services.stats;
                    stats.sent(traffic, step.messages, step.bytes);
                    return Ok(Some(step));
                }
                Err(refusal @ (Refusal::TopicNotFound { .. } | Refusal::Draining)) => {
                    return Err(refusal);
                }
                Err(_) if keep(lane.partition()) => return Ok(None),
                Err(refusal) => {
                    let stop = Stop {
                        partition: lane.partition(),
                        epoch: *epoch,
                        cursor: lane.next(),
                        reason: lost_by(&refusal),
                    };
                    self.lanes.remove(self.turn);
                    tracing::warn!(partition = stop.partition, %refusal,
                        "a member cannot read on");
                    self.stops.insert(stop.partition, refusal);
                    let conn = self.link.conn;
                    self.link.send(Request::Stopped { conn, stop }).await;
                    if self.lanes.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(None)
    }

    /// The next delivery within this credit, or whatever the coordinator says before that.
    ///
    /// # Errors
    /// If the session is over.
    pub(super) async fn next(
        &mut self,
        raw: bool,
        credit: &Credit,
        commits: &mut Commits,
    ) -> Result<Option<Happening>, Refusal> {
        loop {
            if let Some(happening) = self.told()? {
                return Ok(Some(happening));
            }
            match commits.next().now_or_never() {
                Some(Some(committed)) => return Ok(Some(Happening::Committed(committed))),
                Some(None) => return Ok(None),
                None => {}
            }
            let wanted = !self.paused && !self.lanes.is_empty();
            let left = credit.now();
            if let Some(left) = left.filter(|_| wanted)
                && let Some(step) = self.look(raw, left, |_| false).await?
            {
                credit.take(step.messages, step.bytes);
                return Ok(Some(Happening::Delivered(step.event)));
            }
            tokio::select! {
                biased;
                control = self.controls.recv(), if !self.left => {
                    let control = control.ok_or_else(|| self.held.unknown())?;
                    if let Some(happening) = self.obey(control)? {
                        return Ok(Some(happening));
                    }
                }
                committed = commits.next() => return Ok(committed.map(Happening::Committed)),
                _ = credit.some(), if wanted && left.is_none() => {}
                () = self.wake.notified(), if wanted && left.is_some() => {}
            }
        }
    }
}

fn lost_by(refusal: &Refusal) -> LostReason {
    match refusal {
        Refusal::OffsetOutOfRange { .. } => LostReason::Overrun,
        _ => LostReason::Damaged,
    }
}

/// Answers of commits, in the order of their requests.
pub(crate) struct Commits {
    queue: mpsc::Receiver<Answering>,
    first: Option<Answering>,
}

impl Commits {
    pub(super) fn new(queue: mpsc::Receiver<Answering>) -> Commits {
        Commits { queue, first: None }
    }

    /// The next answer; `None` when the member has closed its side and has all answers. Nothing
    /// is lost if this is dropped before it ends.
    async fn next(&mut self) -> Option<Vec<Committed>> {
        if self.first.is_none() {
            self.first = self.queue.recv().await;
        }
        let committed = self.first.as_mut()?.await;
        self.first = None;
        Some(committed)
    }
}
