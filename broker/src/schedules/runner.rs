//! The task that fires schedules.
//!
//! Each firing is decided in the metadata before its message is published: it has a number and a
//! place. A number is a sequence of a producer of the broker's own (one for each schedule
//! and place, which goes where the place changes), so its message is in that place once, however
//! often it is tried. Before the next firing is decided the last one is there: after a crash the
//! place is asked how far the firings have come.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_proto::{
    attributes,
    batch::Batch,
    compression::Compression,
    partitioner,
    record::{BatchBuilder, Header},
    v1,
};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Fired, RunNow,
    timing::{Step, Timing, step},
};
use crate::{
    error::Refusal,
    metadata::{
        internals::InitInternal,
        schedules::{FireSchedule, Schedule, Target},
        state::{Change, Denied, Outcome, Producer},
    },
    partition::{Message, Partition, Stored},
    publish::whole_ms,
    services::Services,
    topics::LiveTopic,
};

/// Schedules that fire at a time.
const AT_A_TIME: usize = 16;
/// Longest sleep while a schedule waits: nobody tells when the wall clock steps.
const STEP_NOTICED: Duration = Duration::from_secs(2);
/// Longest sleep at all.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a schedule that could not fire is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// Sequences count modulo this.
const WRAP: u64 = 1 << 31;

/// The producer of a schedule's firings in one place.
#[derive(Clone)]
struct Ready {
    id: i64,
    epoch: i16,
    place: Partition,
    target: Target,
}

/// Due schedules that are looked at in a round: the metadata is held for it.
const LOOKED_AT: usize = 16;

/// What the task remembers of a schedule.
#[derive(Default)]
struct Known {
    /// Nothing is due before this time, for a definition of this version that fired up to then.
    next: Option<(u64, i64, i64)>,
    /// Read from the definition of this version.
    timing: Option<(u64, Timing)>,
    ready: Option<Ready>,
    /// The last firing that is certainly published.
    published: u64,
    /// Why its times cannot be told.
    unreadable: Option<String>,
    /// Left alone until then.
    until: Option<Instant>,
}

/// Fires until the node drains.
pub(crate) async fn run(services: Arc<Services>) {
    let mut runner = Runner {
        services: services.clone(),
        known: HashMap::new(),
    };
    let mut moves = services.clock.moves();
    let drained = services.drained();
    tokio::pin!(drained);
    loop {
        let pause = runner.round().await;
        tokio::select! {
            () = services.schedules.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            () = moves.next() => {}
            () = &mut drained => {
                // Those who wait are told that nobody knows.
                services.schedules.asked.lock().clear();
                return;
            }
        }
    }
}

struct Runner {
    services: Arc<Services>,
    known: HashMap<u64, Known>,
}

/// Something to do for a schedule.
struct Job {
    schedule: Schedule,
    known: Known,
    /// Absent: only what a crash may have left behind.
    step: Option<Step>,
    asked: Option<oneshot::Sender<Result<Fired, Refusal>>>,
}

impl Runner {
    /// Does what is due; how long nothing will be.
    async fn round(&mut self) -> Duration {
        let asked = std::mem::take(&mut *self.services.schedules.asked.lock());
        let (jobs, mut pause) = self.jobs(asked);
        if jobs.is_empty() {
            return pause;
        }
        let services = &self.services;
        let done: Vec<(u64, Known)> = stream::iter(jobs)
            .map(|job| job.run(services))
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        for (id, known) in done {
            if let Some(until) = known.until {
                pause = pause.min(until.saturating_duration_since(Instant::now()));
            } else {
                // There may be more of it.
                pause = Duration::ZERO;
            }
            self.known.insert(id, known);
        }
        pause
    }

    fn jobs(&mut self, asked: Vec<RunNow>) -> (Vec<Job>, Duration) {
        let now_ms = self.services.clock.wall_ms();
        let mut by_name: BTreeMap<String, Vec<RunNow>> = BTreeMap::new();
        for one in asked {
            by_name.entry(one.name.clone()).or_default().push(one);
        }
        let (mut jobs, mut pause) = (Vec::new(), LONGEST);
        let view = self.services.metadata.view().clone();
        let view = view.read();
        let ids: std::collections::HashSet<u64> = view.schedules.values().map(|s| s.id).collect();
        self.known.retain(|id, _| ids.contains(id));
        self.services
            .schedules
            .problems
            .lock()
            .retain(|id, _| ids.contains(id));
        for schedule in view.schedules.values() {
            if jobs.len() >= LOOKED_AT {
                // The others in the next round, which follows at once, also if these fail.
                pause = Duration::ZERO;
                break;
            }
            let known = self.known.entry(schedule.id).or_default();
            let mut waiting = by_name.remove(&schedule.name).unwrap_or_default();
            if !waiting.is_empty() {
                let first = waiting.remove(0);
                // The others in the rounds to come, one firing each.
                self.services.schedules.asked.lock().extend(waiting);
                jobs.push(Job {
                    schedule: schedule.clone(),
                    known: std::mem::take(known),
                    step: None,
                    asked: Some(first.answer),
                });
                continue;
            }
            if let Some(until) = known.until {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    pause = pause.min(left);
                    continue;
                }
            }
            let step = known.step_told(schedule, now_ms, &self.services);
            let is_open = known.published < schedule.fired;
            match step {
                Step::Wait(next) if !is_open => {
                    if let Some(next_ms) = next {
                        let left = next_ms.saturating_sub(now_ms).max(1).unsigned_abs();
                        pause = pause.min(Duration::from_millis(left)).min(STEP_NOTICED);
                    }
                }
                step => jobs.push(Job {
                    schedule: schedule.clone(),
                    known: std::mem::take(known),
                    step: Some(step),
                    asked: None,
                }),
            }
        }
        for one in by_name.into_values().flatten() {
            if view.schedules.contains_key(&one.name) {
                // Its turn has not come.
                self.services.schedules.asked.lock().push(one);
                continue;
            }
            let name = one.name;
            let _ = one.answer.send(Err(Refusal::ScheduleNotFound { name }));
        }
        (jobs, pause)
    }
}

impl Known {
    /// What is to be done; times that cannot be read are a problem of the schedule.
    fn step_told(&mut self, schedule: &Schedule, now_ms: i64, services: &Services) -> Step {
        let was_unreadable = self.unreadable.is_some();
        let step = self.step(schedule, now_ms);
        if was_unreadable || self.unreadable.is_some() {
            services.note_problem(schedule, self.unreadable.clone());
        }
        step
    }

    fn step(&mut self, schedule: &Schedule, now_ms: i64) -> Step {
        if schedule.paused {
            return Step::Wait(None);
        }
        let known = |(version, after_ms, next_ms): &(u64, i64, i64)| {
            (*version, *after_ms) == (schedule.version, schedule.after_ms) && now_ms < *next_ms
        };
        if let Some((.., next_ms)) = self.next.filter(known) {
            return Step::Wait(Some(next_ms));
        }
        let timing = match &self.timing {
            Some((version, timing)) if *version == schedule.version => timing,
            _ => match Timing::read(schedule.when.as_ref(), schedule.anchor_ms) {
                Ok(timing) => &self.timing.insert((schedule.version, timing)).1,
                // It was right when it was made: by another machine, which knew more zones.
                Err((field, why)) => {
                    self.unreadable = Some(format!("{field}: {why}"));
                    return Step::Wait(None);
                }
            },
        };
        self.unreadable = None;
        let step = step(schedule, timing, now_ms);
        self.next = match step {
            Step::Wait(Some(next_ms)) => Some((schedule.version, schedule.after_ms, next_ms)),
            _ => None,
        };
        step
    }
}

impl Job {
    /// Does what is to be done, and says what is known then.
    async fn run(mut self, services: &Arc<Services>) -> (u64, Known) {
        let id = self.schedule.id;
        let done = self.fire(services).await;
        self.known.until = None;
        if done.is_err() {
            self.known.ready = None;
            self.known.until = Some(Instant::now() + PAUSE);
        }
        let problem = done.as_ref().err().map(ToString::to_string);
        // One whose times cannot be read fires if it is asked to, and has its problem still.
        if problem.is_some() || self.known.unreadable.is_none() {
            services.note_problem(&self.schedule, problem);
        }
        if let Some(asked) = self.asked {
            let done = done.and_then(|fired| {
                fired.ok_or_else(|| Refusal::Unavailable {
                    why: "the schedule changed in this moment".into(),
                })
            });
            // Whoever hung up does not want to know.
            let _ = asked.send(done);
        }
        (id, self.known)
    }

    async fn fire(&mut self, services: &Arc<Services>) -> Result<Option<Fired>, Refusal> {
        if self.known.published < self.schedule.fired {
            self.publish(services).await?;
        }
        let now_ms = services.clock.wall_ms();
        let (after_ms, skipped, planned_ms) = match (&self.asked, self.step) {
            (Some(_), _) => (self.schedule.after_ms, 0, Some(now_ms)),
            (None, Some(Step::Fire(at_ms))) => (at_ms, 0, Some(at_ms)),
            (None, Some(Step::Skip { to_ms, count })) => (to_ms, count, None),
            (None, Some(Step::Wait(_)) | None) => return Ok(None),
        };
        let target = match planned_ms {
            Some(_) => Some(self.target(services).await?),
            None => None,
        };
        let fire = FireSchedule {
            name: self.schedule.name.clone(),
            id: self.schedule.id,
            from_version: self.schedule.version,
            from_fired: self.schedule.fired,
            from_after_ms: self.schedule.after_ms,
            after_ms,
            skipped,
            target,
            planned_ms: planned_ms.unwrap_or(0),
        };
        match services
            .metadata
            .propose(Change::FireSchedule(fire))
            .await?
        {
            Outcome::Schedule(schedule) => self.schedule = *schedule,
            // A user was quicker; the next round decides anew.
            Outcome::Denied(why)
                if why == Denied::Changed as i32 || why == Denied::NotFound as i32 =>
            {
                return Ok(None);
            }
            other => {
                return Err(Refusal::Unknown {
                    why: format!("unexpected outcome {other:?}"),
                });
            }
        }
        match planned_ms {
            Some(_) => self.publish(services).await,
            None => Ok(None),
        }
    }

    fn message(&self) -> v1::Message {
        v1::Message::decode(self.schedule.message.as_slice()).unwrap_or_default()
    }

    /// Where the next firing goes.
    async fn target(&self, services: &Arc<Services>) -> Result<Target, Refusal> {
        let live = services.topics.get_or_create(&self.schedule.topic).await?;
        let partition = partition_of(&self.message(), &self.schedule, &live);
        live.partition(partition)?;
        let same = self
            .schedule
            .target
            .as_ref()
            .filter(|target| target.topic_id == live.topic.id && target.partition == partition);
        Ok(same.cloned().unwrap_or_else(|| Target {
            topic: live.topic.name.clone(),
            topic_id: live.topic.id,
            partition,
            base: self.schedule.fired,
            is_internal: true,
        }))
    }

    /// Publishes the last firing that was decided, unless it is there already.
    async fn publish(&mut self, services: &Arc<Services>) -> Result<Option<Fired>, Refusal> {
        let number = self.schedule.fired;
        let Some(target) = self.schedule.target.clone() else {
            self.known.published = number;
            return Ok(None);
        };
        let ready = match self.known.ready.take() {
            Some(ready) if ready.target == target => ready,
            _ => match self.make_ready(services, &target).await? {
                Some((ready, stored, last_offset)) => {
                    if target.base + stored >= number {
                        self.known.published = number;
                        self.known.ready = Some(ready);
                        return Ok(Some(Fired {
                            number,
                            partition: target.partition,
                            offset: last_offset,
                        }));
                    }
                    ready
                }
                // The topic is gone, and the message with it.
                None => {
                    self.known.published = number;
                    return Ok(None);
                }
            },
        };
        let stored = self.send(services, &ready, number).await?;
        self.known.published = number;
        self.known.ready = Some(ready);
        Ok(Some(Fired {
            number,
            partition: target.partition,
            offset: stored.offset,
        }))
    }

    /// A producer that fences every earlier one, how much is stored of it, and where the last is.
    async fn make_ready(
        &self,
        services: &Arc<Services>,
        target: &Target,
    ) -> Result<Option<(Ready, u64, u64)>, Refusal> {
        let live = match services.topics.get(&target.topic) {
            Ok(live) if live.topic.id == target.topic_id => live,
            Ok(_) | Err(Refusal::TopicNotFound { .. }) => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let place = live.partition(target.partition)?.clone();
        let producer = self.producer(services, target).await?;
        let (stored, last_offset) = place.producer(producer.id).await?.unwrap_or((0, 0));
        let ready = Ready {
            id: producer.id,
            epoch: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
            place,
            target: target.clone(),
        };
        Ok(Some((ready, stored, last_offset)))
    }

    /// The producer of a place, begun anew: it fences whoever had it.
    async fn producer(
        &self,
        services: &Arc<Services>,
        target: &Target,
    ) -> Result<Producer, Refusal> {
        let name = target.producer(self.schedule.id);
        if target.is_internal {
            let init = InitInternal {
                name,
                group_id: 0,
                from_topic: target.topic_id,
                to_topic: target.topic_id,
                base: target.base,
            };
            return Ok(services.internal_producer(init).await?.producer);
        }
        let outcome = services
            .metadata
            .propose(Change::InitProducer(name))
            .await?;
        match outcome {
            Outcome::Producer(producer) => Ok(producer),
            _ => Err(Refusal::LimitReached {
                what: "named producers".into(),
                limit: crate::limits::MAX_NAMED_PRODUCERS as u64,
            }),
        }
    }

    async fn send(
        &self,
        services: &Arc<Services>,
        ready: &Ready,
        number: u64,
    ) -> Result<Stored, Refusal> {
        let now_ms = services.clock.wall_ms();
        let message = self.message();
        let headers = headers(&message, &self.schedule, now_ms);
        let sequence = i32::try_from((number - 1 - ready.target.base) % WRAP).unwrap_or(0);
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_producer(ready.id, ready.epoch, sequence);
        let (key, value) = (message.key.as_deref(), message.value.as_deref());
        builder.push(now_ms, key, value, &headers);
        let bad = |error: aqueduct_proto::batch::BatchError| Refusal::BadBatch {
            why: error.to_string(),
        };
        let batch = Batch::check(builder.finish().map_err(bad)?).map_err(bad)?;
        let permit = services.admit(batch.bytes().len()).await?;
        let (answer, answered) = oneshot::channel();
        let message = Message::Batch {
            batch,
            expected_offset: None,
            permit,
            answer,
        };
        ready.place.send(message).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }
}

/// As the message says, by its key, or one for all firings of the schedule.
fn partition_of(message: &v1::Message, schedule: &Schedule, live: &LiveTopic) -> u32 {
    let count = live.partitions.len() as u32;
    match (message.partition, &message.key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => partitioner::for_key(key, count),
        (None, None) => partitioner::for_key(schedule.name.as_bytes(), count),
    }
}

/// The message's own headers, what it asks of queues, and which firing it is.
fn headers(message: &v1::Message, schedule: &Schedule, now_ms: i64) -> Vec<Header> {
    let own = message.headers.iter();
    let mut headers: Vec<Header> = own
        .map(|header| Header::new(header.name.clone(), header.value.clone()))
        .collect();
    let ms = |duration: &prost_types::Duration| whole_ms(duration.seconds, duration.nanos);
    let mut say = |name: &str, value: String| headers.push(Header::new(name, value));
    if let Some(delay) = &message.delay {
        let until_ms = now_ms.saturating_add(ms(delay));
        say(attributes::DELAY_UNTIL, until_ms.to_string());
    }
    if let Some(ttl) = &message.ttl {
        say(attributes::TTL, ms(ttl).max(1).to_string());
    }
    if let Some(priority) = message.priority {
        say(attributes::PRIORITY, priority.to_string());
    }
    say("aq-schedule", schedule.name.clone());
    say("aq-schedule-number", schedule.fired.to_string());
    say("aq-schedule-time", schedule.last_ms.to_string());
    headers
}
