//! The task of one queue group: who works, who waits, and when there is something to do.
//!
//! It goes round by round (see `round`): nothing of the group is on its way into the log while it
//! decides. It ends by itself when nobody works, nothing is leased and no dead letter waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::{
    Delivery, Request, Settled,
    beside::Beside,
    complete::Completing,
    deaths::Awaited,
    delays::Asked,
    face::{Face, Holder},
    lane::Lane,
    steer::Steered,
    verdicts::Wish,
};
use crate::{
    clock::{Moves, Steady},
    error::Refusal,
    lanes::Credit,
    limits,
    metadata::groups::Group,
    queue::{policy::Policy, schedule::Rules, time::Now},
    services::Services,
    topics::LiveTopic,
};

/// How long a group with nothing to do stays at hand.
const LINGER: Duration = Duration::from_millis(500);
/// How long a call whose time is over waits at most for a moment in which nothing moves, which
/// shows that nothing is there for it.
const MOST_LATE: Duration = Duration::from_millis(250);

/// A stream.
pub(super) struct Consumer {
    pub(super) id: u64,
    pub(super) credit: Arc<Credit>,
    pub(super) deliveries: mpsc::Sender<Vec<Delivery>>,
}

/// A call that waits for messages.
pub(super) struct Call {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) until: Instant,
    pub(super) holder: Holder,
    /// It was looked for once after the time.
    pub(super) is_late: bool,
    pub(super) answer: oneshot::Sender<Result<Vec<Delivery>, Refusal>>,
}

/// Verdicts that wait for the next round.
pub(super) struct Settling {
    /// Those that are not judged yet, with their places in the request.
    pub(super) wishes: Vec<(usize, Wish)>,
    /// Of all: what is told if the log says nothing else, and what it said.
    pub(super) results: Settled,
    pub(super) answer: oneshot::Sender<Settled>,
}

/// The state of the task.
pub(super) struct Driver {
    pub(super) services: Arc<Services>,
    pub(super) group: Group,
    pub(super) policy: Policy,
    pub(super) live: Arc<LiveTopic>,
    pub(super) lanes: Vec<Lane>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) calls: Vec<Call>,
    pub(super) settling: Vec<Settling>,
    pub(super) completing: Vec<Completing>,
    /// Batches of results on their way.
    pub(super) results_away: usize,
    pub(super) steering: Vec<Steered>,
    pub(super) beside: Beside,
    /// Those who wait for the copies of all dead letters, and until when.
    pub(super) copies_awaited: Vec<Awaited>,
    pub(super) face: Arc<Face>,
    pub(super) asked: Vec<Asked>,
    /// The right to stay without consumers, see `attend`; and when to look again.
    pub(super) attendance: Option<OwnedSemaphorePermit>,
    pub(super) attend_at: Instant,
    pub(super) attending: bool,
    pub(super) clock: Steady,
    moves: Moves,
    /// Who is asked first, so that nobody is always the last.
    pub(super) turn: usize,
    inbox: mpsc::Receiver<Request>,
    wake: Arc<Notify>,
    topics: watch::Receiver<u64>,
    /// Why nobody can work any more.
    over: Option<Refusal>,
}

impl Driver {
    pub(super) fn new(
        services: Arc<Services>,
        group: Group,
        live: Arc<LiveTopic>,
        inbox: mpsc::Receiver<Request>,
        (wake, face): (Arc<Notify>, Arc<Face>),
    ) -> Driver {
        let topics = services.topics.changes();
        let clock = services.clock.steady_from(0);
        let moves = services.clock.moves();
        let mut driver = Driver {
            services,
            policy: policy_of(&group),
            group,
            live,
            lanes: Vec::new(),
            consumers: Vec::new(),
            calls: Vec::new(),
            settling: Vec::new(),
            completing: Vec::new(),
            results_away: 0,
            steering: Vec::new(),
            beside: Beside::default(),
            copies_awaited: Vec::new(),
            face,
            asked: Vec::new(),
            clock,
            moves,
            attendance: None,
            attend_at: Instant::now(),
            attending: false,
            turn: 0,
            inbox,
            wake,
            topics,
            over: None,
        };
        driver.add_lanes();
        driver
    }

    fn add_lanes(&mut self) {
        let known = self.lanes.len();
        for (number, partition) in (0..).zip(&self.live.partitions).skip(known) {
            let lane = Lane::new(number, partition.clone(), self.group.id, &self.wake);
            self.lanes.push(lane);
        }
    }

    pub(super) async fn run(mut self) {
        let services = self.services.clone();
        let drained = services.drained();
        tokio::pin!(drained);
        // Time never goes back behind what the log has seen.
        let policy = &self.policy;
        let seen = |lane: &mut Lane| lane.with(policy, |state, _| state.now_ms());
        let seen = self.lanes.iter_mut().filter_map(seen).max();
        let (id, work) = (self.group.id, &self.services.work);
        self.clock = work.time_of(id, &self.services.clock, seen.unwrap_or(0));
        self.look_at_topic();
        loop {
            // Looked at here too, since under steady load there is nothing to wait for.
            if services.check_draining().is_err() {
                break;
            }
            if self.topics.has_changed().unwrap_or(false) {
                self.topics.mark_unchanged();
                self.look_at_topic();
            }
            while let Ok(request) = self.inbox.try_recv() {
                self.handle(request);
            }
            while let Some(done) = self.beside.try_next() {
                self.came_of(done);
            }
            self.answer_late_calls();
            self.steer().await;
            let more = self.answer_asked().await;
            self.answer_awaited();
            if self.over.is_none() && (self.round().await || more) {
                self.mark_late_calls(MOST_LATE);
                tokio::task::yield_now().await;
                continue;
            }
            let is_behind = self.wake_due();
            // Unless more is due than one look takes, a call has had its round: nothing is there
            // for it now.
            let grace = if is_behind { MOST_LATE } else { Duration::ZERO };
            self.mark_late_calls(grace);
            let idle = self.is_idle();
            let pause = match is_behind {
                true => Duration::ZERO,
                false => self.pause(),
            };
            let attends = self.attendance.is_some();
            tokio::select! {
                request = self.inbox.recv() => match request {
                    Some(request) => self.handle(request),
                    None => break,
                },
                // Nobody demands: what is new is looked at at a pace of its own.
                () = self.wake.notified(), if !attends => {}
                Ok(()) = self.topics.changed() => self.look_at_topic(),
                () = &mut drained => break,
                () = tokio::time::sleep(pause) => {}
                () = self.moves.next() => {}
                Some(done) = self.beside.next() => self.came_of(done),
                () = tokio::time::sleep(LINGER), if idle => {
                    if self.retire() {
                        return;
                    }
                }
            }
        }
        self.finish().await;
        self.services.work.remove(self.group.id);
        for lane in &self.lanes {
            lane.leave(&self.wake);
        }
    }

    /// The node goes down: verdicts that are here are still answered. Who works has not failed by
    /// that: leases last until their deadlines.
    async fn finish(&mut self) {
        while let Ok(request) = self.inbox.try_recv() {
            if matches!(request, Request::Settle { .. } | Request::Complete(_)) {
                self.handle(request);
            }
        }
        self.consumers.clear();
        for call in self.calls.drain(..) {
            let _ = call.answer.send(Err(Refusal::Draining));
        }
        if self.over.is_none() {
            self.round().await;
        }
    }

    /// Calls whose time is over since so long have to go.
    fn mark_late_calls(&mut self, since: Duration) {
        let now = Instant::now();
        for call in &mut self.calls {
            call.is_late = call.until + since <= now;
        }
    }

    fn retire(&mut self) -> bool {
        let (lanes, wake) = (&self.lanes, &self.wake);
        let leave = || lanes.iter().for_each(|lane| lane.leave(wake));
        self.services.work.retire(self.group.id, &self.inbox, leave)
    }

    /// The present moment.
    pub(super) fn now(&self) -> Now {
        Now {
            steady_ms: self.clock.now_ms(),
            wall_ms: self.services.clock.wall_ms(),
        }
    }

    /// How long nobody gets anything, if the group is paused.
    pub(super) fn paused_for(&self) -> Option<Duration> {
        let wall_ms = self.services.clock.wall_ms();
        let left = self.group.paused_until_ms.saturating_sub(wall_ms);
        let left = u64::try_from(left).ok().filter(|left| *left > 0);
        left.map(Duration::from_millis)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_for().is_some()
    }

    pub(super) fn has_demand(&self) -> bool {
        if self.is_paused() {
            return false;
        }
        !self.calls.is_empty() || self.consumers.iter().any(Consumer::wants)
    }

    fn is_idle(&mut self) -> bool {
        if !self.consumers.is_empty()
            || !self.calls.is_empty()
            || !self.settling.is_empty()
            || !self.completing.is_empty()
            || !self.asked.is_empty()
            || !self.beside.is_empty()
            || !self.copies_awaited.is_empty()
        {
            self.attendance = None;
            return false;
        }
        if self.over.is_some() {
            self.attendance = None;
            return true;
        }
        let policy = &self.policy;
        let at_rest = self.lanes.iter_mut().all(|lane| {
            let busy = lane.with(policy, |state, _| {
                state.in_flight() > 0
                    || state.dead_letters(0).next().is_some()
                    || state.outbox().waiting().results > 0
            });
            busy != Some(true)
        });
        let stays = self.stays();
        at_rest && !stays
    }

    fn answer_late_calls(&mut self) {
        let now = Instant::now();
        let calls = std::mem::take(&mut self.calls);
        for call in calls {
            if call.answer.is_closed() {
                continue;
            }
            if call.until > now || !call.is_late {
                self.calls.push(call);
            } else {
                // Whoever hung up does not wait for it.
                let _ = call.answer.send(Ok(Vec::new()));
            }
        }
    }

    fn look_at_topic(&mut self) {
        match self.services.topics.get(&self.group.topic) {
            Ok(live) if live.topic.id == self.live.topic.id => {
                self.live = live;
                self.add_lanes();
                self.look_at_targets();
            }
            Ok(_) | Err(_) => self.end(&Refusal::TopicNotFound {
                topic: self.group.topic.clone(),
                did_you_mean: None,
            }),
        }
    }

    /// Nobody works any more.
    fn end(&mut self, why: &Refusal) {
        self.over = Some(why.clone());
        // The end of its deliveries tells a stream.
        self.consumers.clear();
        self.face.clear();
        for call in self.calls.drain(..) {
            let _ = call.answer.send(Err(why.clone()));
        }
        self.asked.drain(..).for_each(|asked| asked.refuse(why));
        for settling in self.settling.drain(..) {
            let mut results = settling.results;
            for (place, _) in settling.wishes {
                results[place] = Err(why.clone());
            }
            let _ = settling.answer.send(results);
        }
        for awaited in self.copies_awaited.drain(..) {
            let _ = awaited.answer.send(Err(why.clone()));
        }
        self.refuse_steps(why);
        for steered in self.steering.drain(..) {
            let _ = steered.answer.send(Err(why.clone()));
        }
    }

    fn handle(&mut self, request: Request) {
        match request {
            Request::Open {
                consumer,
                holder,
                credit,
                deliveries,
                answer,
            } => {
                let opened = self.admits(self.consumers.len(), "consumers of the group");
                // Whoever hung up leaves a link that says so.
                if opened.is_ok() {
                    self.face.joined(consumer, holder);
                    self.consumers.push(Consumer {
                        id: consumer,
                        credit,
                        deliveries,
                    });
                }
                drop(answer.send(opened));
            }
            Request::Lease {
                messages,
                bytes,
                until,
                holder,
                answer,
            } => {
                if let Err(why) = self.admits(self.calls.len(), "calls that wait in the group") {
                    return drop(answer.send(Err(why)));
                }
                self.calls.push(Call {
                    messages,
                    bytes,
                    until,
                    holder,
                    is_late: false,
                    answer,
                });
            }
            Request::Settle { wishes, answer } => match self.refuses_verdicts() {
                Some(why) => {
                    let results = wishes.iter().map(|_| Err(why.clone()));
                    drop(answer.send(results.collect()));
                }
                None => self.settling.push(Settling::new(wishes, answer)),
            },
            Request::Complete(step) => self.complete(step),
            // Streams that end because the node goes down are nobody's failure.
            Request::Gone { closed: false, .. } if self.services.check_draining().is_err() => {}
            Request::Gone { consumer, closed } => {
                let known = self.consumers.len();
                self.consumers.retain(|known| known.id != consumer);
                if self.consumers.len() < known {
                    self.face.left(consumer);
                    for lane in &mut self.lanes {
                        lane.gone.push((consumer, closed));
                    }
                }
            }
            Request::CountDelayed { answer } => drop(answer.send(self.count_delayed())),
            Request::Delayed(ask) => self.ask(Asked::new(ask)),
            Request::Steer { what, answer } => self.ask_to_steer(Steered { what, answer }),
            Request::Reconfigure => self.reconfigure(),
            Request::Close { answer } => drop(answer.send(self.close())),
            Request::CopyDead { answer } => self.await_copies(answer),
            Request::Reopen => self.over = None,
        }
    }

    fn ask(&mut self, asked: Asked) {
        match self.admits(self.asked.len(), "requests about delayed messages") {
            Err(why) => asked.refuse(&why),
            Ok(()) => self.asked.push(asked),
        }
    }

    fn ask_to_steer(&mut self, steered: Steered) {
        match self.admits(self.steering.len(), "seeks and the like that wait") {
            Err(why) => drop(steered.answer.send(Err(why))),
            Ok(()) => self.steering.push(steered),
        }
    }

    /// Whether there may be one more beside so many.
    fn admits(&self, known: usize, what: &str) -> Result<(), Refusal> {
        if let Some(why) = &self.over {
            return Err(why.clone());
        }
        if known >= limits::MAX_MEMBERS {
            return Err(Refusal::LimitReached {
                what: what.into(),
                limit: limits::MAX_MEMBERS as u64,
            });
        }
        Ok(())
    }

    /// Why no verdict is taken, if so.
    pub(super) fn refuses_verdicts(&self) -> Option<Refusal> {
        let waiting: usize = self.settling.iter().map(|it| it.wishes.len()).sum();
        let waiting = waiting + self.verdicts_of_steps();
        let full = waiting >= limits::MAX_SETTLEMENTS_WAITING;
        self.over.clone().or(full.then(|| Refusal::LimitReached {
            what: "settlements that wait in a queue group".into(),
            limit: limits::MAX_SETTLEMENTS_WAITING as u64,
        }))
    }

    fn reconfigure(&mut self) {
        if let Some(group) = self.services.group_by_id(&self.group) {
            let policy = policy_of(&group);
            // A schedule is built from a scan of the log: not for nothing.
            let same_order = Rules::from(&policy) == Rules::from(&self.policy);
            if !same_order || policy.filter != self.policy.filter {
                self.lanes.iter_mut().for_each(Lane::reschedule);
            }
            self.policy = policy;
            self.group = group;
        }
    }

    fn count_delayed(&mut self) -> Vec<u64> {
        let (policy, now) = (&self.policy, self.now());
        let lanes = self.lanes.iter_mut();
        let delayed = lanes.map(|lane| lane.with(policy, |_, schedule| schedule.delayed(now)));
        delayed.map(Option::unwrap_or_default).collect()
    }

    fn close(&mut self) -> Result<(), Refusal> {
        if let Some(why) = &self.over {
            return Err(why.clone());
        }
        let members = (self.consumers.len() + self.calls.len()) as u64;
        if members > 0 {
            return Err(Refusal::GroupNotEmpty {
                topic: self.group.topic.clone(),
                group: self.group.name.clone(),
                members,
            });
        }
        let waiting = self.lanes.iter().map(Lane::results_waiting);
        let results = waiting.sum::<u64>();
        if results > 0 || !self.completing.is_empty() {
            return Err(Refusal::ResultsWaiting {
                topic: self.group.topic.clone(),
                group: self.group.name.clone(),
                results,
            });
        }
        self.check_copied()?;
        self.end(&Refusal::GroupNotFound {
            topic: self.group.topic.clone(),
            group: self.group.name.clone(),
            did_you_mean: None,
        });
        Ok(())
    }
}

impl Consumer {
    /// It takes more, and has taken what it was given.
    pub(super) fn wants(&self) -> bool {
        self.credit.now().is_some() && self.deliveries.capacity() > 0
    }
}

fn policy_of(group: &Group) -> Policy {
    group.queue.as_ref().map(Policy::from).unwrap_or_default()
}
