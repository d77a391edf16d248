//! Schedules: a message that is published by itself, by cron, in intervals or once.
//!
//! ```text
//!  users ── changes ──► metadata ◄── firings (number, time, place) ── runner ── message ──► partition
//! ```
//! - [`timing`]: when, and what is made up for; pure
//! - [`runner`]: the one task that fires, and how each firing is published exactly once
//!
//! The records lie in the metadata group (`metadata::schedules`).

mod runner;
pub(crate) mod timing;
#[cfg(test)]
mod trial;

use std::collections::BTreeMap;

use aqueduct_proto::{attributes, names, v1};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, oneshot};

pub(crate) use self::runner::run;
use self::timing::Timing;
use crate::{
    error::Refusal,
    limits,
    metadata::{
        schedules::{Schedule, UpdateSchedule},
        state::{Change, Denied, Outcome},
    },
    services::Services,
};

/// Headers that only the broker sets on what it publishes.
const OWN_PREFIX: &str = "aq-schedule";

/// A firing that somebody asked for.
struct RunNow {
    name: String,
    answer: oneshot::Sender<Result<Fired, Refusal>>,
}

/// What a firing has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) number: u64,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// What doors and runner share.
#[derive(Default)]
pub(crate) struct Schedules {
    /// Something has changed.
    wake: Notify,
    asked: Mutex<Vec<RunNow>>,
    /// Why a schedule cannot fire just now, by id.
    problems: Mutex<BTreeMap<u64, String>>,
}

/// Checks what a user says of a schedule.
///
/// # Errors
/// `InvalidArgument` by the field, or what is too large.
fn check(schedule: &Schedule) -> Result<(), Refusal> {
    let invalid = |field: &str, why: String| Refusal::invalid(format!("schedule.{field}"), why);
    names::check_topic(&schedule.name).map_err(|error| invalid("name", error.to_string()))?;
    names::check_topic(&schedule.topic).map_err(|error| invalid("topic", error.to_string()))?;
    if schedule.catch_up_limit > limits::MAX_CATCH_UP {
        let (count, limit) = (schedule.catch_up_limit, limits::MAX_CATCH_UP);
        let why = format!("{count} is above the limit of {limit}");
        return Err(invalid("catch_up_limit", why));
    }
    if schedule.message.len() > limits::MAX_SCHEDULE_MESSAGE_BYTES {
        return Err(Refusal::TooLarge {
            what: "schedule.message".into(),
            bytes: schedule.message.len() as u64,
            limit: limits::MAX_SCHEDULE_MESSAGE_BYTES as u64,
        });
    }
    let message = v1::Message::decode(schedule.message.as_slice());
    let message = message.map_err(|error| invalid("message", error.to_string()))?;
    check_message(&message)?;
    let read = Timing::read(schedule.when.as_ref(), schedule.anchor_ms);
    read.map_err(|(field, why)| invalid(field, why)).map(drop)
}

fn check_message(message: &v1::Message) -> Result<(), Refusal> {
    let invalid =
        |field: &str, why: &str| Err(Refusal::invalid(format!("schedule.message.{field}"), why));
    if !message.dedup_id.is_empty() {
        return invalid("dedup_id", "each firing is another message");
    }
    if message.timestamp_ms.is_some() {
        return invalid("timestamp_ms", "it is the time of the firing");
    }
    if message.deliver_at.is_some() {
        return invalid("deliver_at", "give a delay, which counts from each firing");
    }
    if message.headers.len() > limits::MAX_HEADERS {
        return invalid("headers", "there are too many");
    }
    let own = [attributes::DEDUP_ID, attributes::DELAY_UNTIL];
    for header in &message.headers {
        let name = header.name.as_str();
        if own.contains(&name) || name.starts_with(OWN_PREFIX) {
            return invalid("headers", &format!("{name} is the broker's"));
        }
    }
    Ok(())
}

impl Services {
    /// The schedule of this name.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn schedule(&self, name: &str) -> Result<Schedule, Refusal> {
        let found = self.metadata.view().read().schedules.get(name).cloned();
        found.ok_or_else(|| Refusal::ScheduleNotFound { name: name.into() })
    }

    /// Schedules by name, from behind this one on, and whether there are more.
    pub(crate) fn list_schedules(&self, behind: &str, most: usize) -> (Vec<Schedule>, bool) {
        let view = self.metadata.view().read();
        let names = (
            std::ops::Bound::Excluded(behind.to_owned()),
            std::ops::Bound::Unbounded,
        );
        let mut found = view.schedules.range(names).map(|(_, schedule)| schedule);
        let page: Vec<Schedule> = found.by_ref().take(most).cloned().collect();
        (page, found.next().is_some())
    }

    /// Makes a schedule.
    ///
    /// # Errors
    /// If it cannot be, or there is one of this name, or no such topic.
    pub(crate) async fn create_schedule(&self, schedule: Schedule) -> Result<Schedule, Refusal> {
        self.check_draining()?;
        self.check_schedule(&schedule).await?;
        let name = schedule.name.clone();
        self.change_schedule(name, Change::CreateSchedule(schedule))
            .await
    }

    /// Gives a schedule another definition; how far it is stays.
    ///
    /// # Errors
    /// As [`Services::create_schedule`], or if it changed since `version`.
    pub(crate) async fn update_schedule(
        &self,
        schedule: Schedule,
        version: Option<u64>,
    ) -> Result<Schedule, Refusal> {
        self.check_draining()?;
        self.check_schedule(&schedule).await?;
        let present = self.schedule(&schedule.name)?;
        let from_version = version.unwrap_or(present.version);
        let name = schedule.name.clone();
        let update = UpdateSchedule {
            schedule,
            from_version,
        };
        self.change_schedule(name, Change::UpdateSchedule(update))
            .await
    }

    /// Pauses or resumes a schedule. What would have fired meanwhile is not made up for.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn pause_schedule(
        &self,
        name: &str,
        paused: bool,
    ) -> Result<Schedule, Refusal> {
        self.check_draining()?;
        let present = self.schedule(name)?;
        let update = UpdateSchedule {
            from_version: present.version,
            schedule: Schedule { paused, ..present },
        };
        self.change_schedule(name.into(), Change::UpdateSchedule(update))
            .await
    }

    /// Deletes a schedule.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn delete_schedule(&self, name: &str) -> Result<Schedule, Refusal> {
        self.check_draining()?;
        self.change_schedule(name.into(), Change::DeleteSchedule(name.into()))
            .await
    }

    /// Fires now, paused or not; the times to come stay as they are.
    ///
    /// # Errors
    /// If there is no such schedule, or its message could not be published; `Unknown` if it may
    /// have been, or still will be.
    pub(crate) async fn run_schedule(&self, name: &str) -> Result<Fired, Refusal> {
        self.check_draining()?;
        self.schedule(name)?;
        let (answer, answered) = oneshot::channel();
        let asked = RunNow {
            name: name.into(),
            answer,
        };
        {
            let mut waiting = self.schedules.asked.lock();
            if waiting.len() >= limits::MAX_SCHEDULES {
                return Err(Refusal::Unavailable {
                    why: "too many firings wait".into(),
                });
            }
            waiting.push(asked);
        }
        self.schedules.wake.notify_one();
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the schedules stopped".into(),
        })?
    }

    /// Why a schedule cannot fire just now.
    pub(crate) fn schedule_problem(&self, id: u64) -> Option<String> {
        self.schedules.problems.lock().get(&id).cloned()
    }

    /// Notes why a schedule cannot fire, or that it can; each cause is told once.
    fn note_problem(&self, schedule: &Schedule, problem: Option<String>) {
        let mut problems = self.schedules.problems.lock();
        let Some(why) = problem else {
            problems.remove(&schedule.id);
            return;
        };
        let before = problems.insert(schedule.id, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(schedule = schedule.name, why, "a schedule cannot fire");
        }
    }

    async fn check_schedule(&self, schedule: &Schedule) -> Result<(), Refusal> {
        check(schedule)?;
        let live = self.topics.get_or_create(&schedule.topic).await?;
        let limit = live.topic.config.max_message_bytes;
        let bytes = schedule.message.len() as u64;
        if bytes > limit {
            return Err(Refusal::TooLarge {
                what: "schedule.message".into(),
                bytes,
                limit,
            });
        }
        let message = v1::Message::decode(schedule.message.as_slice()).unwrap_or_default();
        if let Some(partition) = message.partition {
            live.partition(partition)?;
        }
        self.check_options(&message)
            .map_err(|refusal| match refusal {
                Refusal::Invalid { field, why } => {
                    Refusal::invalid(field.replace("messages[0]", "schedule.message"), why)
                }
                other => other,
            })
    }

    async fn change_schedule(&self, name: String, change: Change) -> Result<Schedule, Refusal> {
        let expected = match &change {
            Change::UpdateSchedule(update) => update.from_version,
            _ => 0,
        };
        let outcome = self.metadata.propose(change).await?;
        self.schedules.wake.notify_one();
        let denied = match outcome {
            Outcome::Schedule(schedule) => return Ok(*schedule),
            Outcome::Denied(denied) => Denied::try_from(denied).unwrap_or(Denied::Unreadable),
            other => {
                return Err(Refusal::Unknown {
                    why: format!("unexpected outcome {other:?}"),
                });
            }
        };
        Err(match denied {
            Denied::Exists => Refusal::ScheduleExists { name },
            Denied::NotFound => Refusal::ScheduleNotFound { name },
            Denied::TooMany => Refusal::LimitReached {
                what: "schedules".into(),
                limit: limits::MAX_SCHEDULES as u64,
            },
            Denied::Changed => Refusal::ScheduleChanged {
                actual: self.schedule(&name).map_or(0, |known| known.version),
                name,
                expected,
            },
            Denied::Unreadable | Denied::FewerPartitions => Refusal::Unknown {
                why: "the metadata did not understand the change".into(),
            },
        })
    }
}
