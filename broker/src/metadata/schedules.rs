//! Schedules as the metadata keeps them: what is to be published when, and how far that is. Pure.
//!
//! A firing is decided here before its message is published: it takes the next number, and with it
//! the place (topic, partition) where the message goes. So whoever takes over after a crash knows
//! what the last firing was and can ask that place whether its message is there.

use prost::Message;

use super::state::{Denied, Outcome, State};
use crate::limits;

/// When a schedule fires.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(crate) enum When {
    #[prost(message, tag = "5")]
    Cron(Cron),
    /// Every so many milliseconds, counted from the creation or the last change.
    #[prost(uint64, tag = "6")]
    EveryMs(u64),
    /// Once, at this time.
    #[prost(int64, tag = "7")]
    OnceMs(i64),
}

/// A cron expression in a time zone.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Cron {
    #[prost(string, tag = "1")]
    pub(crate) expression: String,
    /// A name of the IANA database.
    #[prost(string, tag = "2")]
    pub(crate) zone: String,
}

/// What becomes of firings that were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CatchUp {
    /// They are left out.
    Skip = 0,
    /// The last of them is made up for.
    Once = 1,
    /// The last ones are made up for, as many as the limit says.
    All = 2,
}

/// Where the firings from a number on go.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Target {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(uint64, tag = "2")]
    pub(crate) topic_id: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) partition: u32,
    /// The first firing that goes there has the number after this.
    #[prost(uint64, tag = "4")]
    pub(crate) base: u64,
    /// Its producer is one of the broker's own, which goes when the place does. Places of before
    /// that have a named one, and keep it.
    #[prost(bool, tag = "5")]
    pub(crate) is_internal: bool,
}

impl Target {
    /// The name of the producer of a schedule's firings that go here.
    pub(crate) fn producer(&self, schedule_id: u64) -> String {
        let Target {
            topic_id,
            partition,
            base,
            ..
        } = self;
        format!("schedule/{schedule_id}/{topic_id}/{partition}/{base}")
    }
}

/// A schedule.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Schedule {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
    #[prost(string, tag = "3")]
    pub(crate) topic: String,
    /// As the API has it.
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) message: Vec<u8>,
    #[prost(oneof = "When", tags = "5, 6, 7")]
    pub(crate) when: Option<When>,
    #[prost(enumeration = "CatchUp", tag = "8")]
    pub(crate) catch_up: i32,
    /// Of `All`.
    #[prost(uint32, tag = "9")]
    pub(crate) catch_up_limit: u32,
    #[prost(bool, tag = "10")]
    pub(crate) paused: bool,
    /// From where intervals are counted.
    #[prost(int64, tag = "11")]
    pub(crate) anchor_ms: i64,
    /// Times up to this one are done with.
    #[prost(int64, tag = "12")]
    pub(crate) after_ms: i64,
    /// The number of the last firing.
    #[prost(uint64, tag = "13")]
    pub(crate) fired: u64,
    /// The time that the last firing was meant for; 0 if there was none.
    #[prost(int64, tag = "14")]
    pub(crate) last_ms: i64,
    /// Times that were left out.
    #[prost(uint64, tag = "15")]
    pub(crate) skipped: u64,
    #[prost(message, optional, tag = "16")]
    pub(crate) target: Option<Target>,
    #[prost(int64, tag = "17")]
    pub(crate) create_time_ms: i64,
    #[prost(int64, tag = "18")]
    pub(crate) update_time_ms: i64,
    /// Counts changes by users; what they see as etag.
    #[prost(uint64, tag = "19")]
    pub(crate) version: u64,
}

/// A change by a user: the whole new definition.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct UpdateSchedule {
    /// Name, topic, message, when, catch-up and paused are read.
    #[prost(message, required, tag = "1")]
    pub(crate) schedule: Schedule,
    /// The version that the change was made from: another one is refused.
    #[prost(uint64, tag = "2")]
    pub(crate) from_version: u64,
}

/// A firing, or times that are left out.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct FireSchedule {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint64, tag = "2")]
    pub(crate) id: u64,
    /// As decided from: another one is refused.
    #[prost(uint64, tag = "3")]
    pub(crate) from_version: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) from_fired: u64,
    #[prost(int64, tag = "5")]
    pub(crate) from_after_ms: i64,
    /// Times up to this one are done with from now on.
    #[prost(int64, tag = "6")]
    pub(crate) after_ms: i64,
    /// Times that are left out.
    #[prost(uint64, tag = "7")]
    pub(crate) skipped: u64,
    /// Absent: nothing is fired.
    #[prost(message, optional, tag = "8")]
    pub(crate) target: Option<Target>,
    /// The time that the firing is for.
    #[prost(int64, tag = "9")]
    pub(crate) planned_ms: i64,
}

impl State {
    pub(super) fn create_schedule(&mut self, mut schedule: Schedule, now: i64) -> Outcome {
        if self.schedules.contains_key(&schedule.name) {
            return Outcome::Denied(Denied::Exists as i32);
        }
        if self.schedules.len() >= limits::MAX_SCHEDULES {
            return Outcome::Denied(Denied::TooMany as i32);
        }
        self.last_schedule_id += 1;
        schedule.id = self.last_schedule_id;
        schedule.anchor_ms = now;
        schedule.after_ms = now;
        schedule.create_time_ms = now;
        schedule.update_time_ms = now;
        schedule.version = 1;
        if let Some(When::OnceMs(at_ms)) = schedule.when {
            // A time that is past already is not missed: it is now.
            schedule.after_ms = now.min(at_ms.saturating_sub(1));
        }
        self.schedules
            .insert(schedule.name.clone(), schedule.clone());
        Outcome::Schedule(Box::new(schedule))
    }

    /// Firings that were to come are those of the new definition, from now on; so are those of a
    /// schedule that is resumed.
    pub(super) fn update_schedule(&mut self, update: UpdateSchedule, now: i64) -> Outcome {
        let UpdateSchedule {
            schedule: new,
            from_version,
        } = update;
        let Some(schedule) = self.schedules.get_mut(&new.name) else {
            return Outcome::Denied(Denied::NotFound as i32);
        };
        if schedule.version != from_version {
            return Outcome::Denied(Denied::Changed as i32);
        }
        if schedule.when != new.when {
            schedule.anchor_ms = now;
            schedule.after_ms = now;
            if let Some(When::OnceMs(at_ms)) = new.when {
                schedule.after_ms = now.min(at_ms.saturating_sub(1));
            }
        } else if schedule.paused && !new.paused {
            schedule.after_ms = schedule.after_ms.max(now);
        }
        schedule.topic = new.topic;
        schedule.message = new.message;
        schedule.when = new.when;
        schedule.catch_up = new.catch_up;
        schedule.catch_up_limit = new.catch_up_limit;
        schedule.paused = new.paused;
        schedule.update_time_ms = now;
        schedule.version += 1;
        Outcome::Schedule(Box::new(schedule.clone()))
    }

    pub(super) fn delete_schedule(&mut self, name: &str) -> Outcome {
        match self.schedules.remove(name) {
            Some(schedule) => {
                self.forget_firing(&schedule);
                Outcome::Schedule(Box::new(schedule))
            }
            None => Outcome::Denied(Denied::NotFound as i32),
        }
    }

    pub(super) fn fire_schedule(&mut self, fire: FireSchedule) -> Outcome {
        let schedule = self.schedules.get_mut(&fire.name);
        let Some(schedule) = schedule.filter(|schedule| schedule.id == fire.id) else {
            return Outcome::Denied(Denied::NotFound as i32);
        };
        let decided_from = (fire.from_version, fire.from_fired, fire.from_after_ms);
        if decided_from != (schedule.version, schedule.fired, schedule.after_ms) {
            return Outcome::Denied(Denied::Changed as i32);
        }
        schedule.after_ms = fire.after_ms;
        schedule.skipped += fire.skipped;
        if let Some(target) = fire.target {
            let before = schedule.clone();
            schedule.fired += 1;
            schedule.last_ms = fire.planned_ms;
            let moves = before.target.as_ref() != Some(&target);
            schedule.target = Some(target);
            let schedule = schedule.clone();
            if moves {
                // All that went to the place before is there, or this was not decided.
                self.forget_firing(&before);
            }
            return Outcome::Schedule(Box::new(schedule));
        }
        Outcome::Schedule(Box::new(schedule.clone()))
    }

    /// Nothing goes to the schedule's present place any more.
    fn forget_firing(&mut self, schedule: &Schedule) {
        let target = schedule.target.as_ref().filter(|it| it.is_internal);
        if let Some(target) = target {
            self.forget_internal(&target.producer(schedule.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Change, Command};
    use super::*;

    fn run(state: &mut State, now_ms: i64, change: Change) -> Outcome {
        let change = Some(change);
        state.apply(Command { now_ms, change })
    }

    fn minutely(name: &str) -> Schedule {
        Schedule {
            name: name.into(),
            topic: "t".into(),
            when: Some(When::EveryMs(60_000)),
            ..Schedule::default()
        }
    }

    fn made(outcome: Outcome) -> Schedule {
        match outcome {
            Outcome::Schedule(schedule) => *schedule,
            other => panic!("{other:?}"),
        }
    }

    fn firing(schedule: &Schedule, planned_ms: i64) -> FireSchedule {
        FireSchedule {
            name: schedule.name.clone(),
            id: schedule.id,
            from_version: schedule.version,
            from_fired: schedule.fired,
            from_after_ms: schedule.after_ms,
            after_ms: planned_ms,
            skipped: 0,
            target: Some(Target::default()),
            planned_ms,
        }
    }

    #[test]
    fn a_place_takes_its_producer_with_it() {
        let mut state = State::default();
        let create = super::super::state::CreateTopic {
            name: "t".into(),
            partitions: 3,
            ..super::super::state::CreateTopic::default()
        };
        run(&mut state, 1, Change::CreateTopic(create));
        let topic_id = state.topics["t"].id;
        let mut schedule = made(run(&mut state, 1, Change::CreateSchedule(minutely("s"))));
        for partition in [0, 0, 1, 2, 2] {
            let base = schedule.fired;
            let target = schedule.target.clone();
            let target = target.filter(|target| target.partition == partition);
            let target = target.unwrap_or(Target {
                topic: "t".into(),
                topic_id,
                partition,
                base,
                is_internal: true,
            });
            let init = super::super::internals::InitInternal {
                name: target.producer(schedule.id),
                from_topic: topic_id,
                to_topic: topic_id,
                ..super::super::internals::InitInternal::default()
            };
            let fire = FireSchedule {
                target: Some(target),
                ..firing(&schedule, 5)
            };
            schedule = made(run(&mut state, 2, Change::FireSchedule(fire)));
            let ready = run(&mut state, 2, Change::InitInternal(init));
            assert!(matches!(ready, Outcome::Internal(_)), "{ready:?}");
            assert_eq!((state.internals.len(), state.producers.len()), (1, 0));
        }
        run(&mut state, 3, Change::DeleteSchedule("s".into()));
        assert_eq!((state.internals.len(), state.epochs.len()), (0, 0));
    }

    #[test]
    fn a_firing_that_was_decided_from_something_else_changes_nothing() {
        let mut state = State::default();
        let create = Change::CreateSchedule(minutely("a"));
        let schedule = made(run(&mut state, 1_000, create.clone()));
        assert_eq!((schedule.id, schedule.after_ms), (1, 1_000));
        let denied = |why: Denied| Outcome::Denied(why as i32);
        assert_eq!(run(&mut state, 1, create.clone()), denied(Denied::Exists));
        let fire = firing(&schedule, 61_000);
        let fired = made(run(&mut state, 0, Change::FireSchedule(fire.clone())));
        assert_eq!((fired.fired, fired.after_ms, fired.version), (1, 61_000, 1));
        // The same once more, as a second leader might.
        let again = run(&mut state, 0, Change::FireSchedule(fire));
        assert_eq!(again, denied(Denied::Changed));
        // After a change by a user.
        let update = UpdateSchedule {
            schedule: Schedule {
                paused: true,
                ..minutely("a")
            },
            from_version: 1,
        };
        let paused = made(run(&mut state, 70_000, Change::UpdateSchedule(update)));
        assert_eq!((paused.version, paused.after_ms), (2, 61_000));
        let fire = Change::FireSchedule(firing(&fired, 121_000));
        assert_eq!(run(&mut state, 0, fire), denied(Denied::Changed));
        // Resumed: what was missed meanwhile is not made up for.
        let update = UpdateSchedule {
            schedule: minutely("a"),
            from_version: 2,
        };
        let resumed = made(run(&mut state, 500_000, Change::UpdateSchedule(update)));
        assert_eq!(resumed.after_ms, 500_000);
        // Another one of the same name is another one.
        made(run(&mut state, 0, Change::DeleteSchedule("a".into())));
        made(run(&mut state, 0, create));
        let fire = Change::FireSchedule(firing(&resumed, 560_000));
        assert_eq!(run(&mut state, 0, fire), denied(Denied::NotFound));
        let restored = State::decode(state.encode_to_vec().as_slice());
        assert_eq!(restored, Ok(state));
    }

    #[test]
    fn schedules_are_bounded() {
        let mut state = State::default();
        for n in 0..limits::MAX_SCHEDULES {
            let create = Change::CreateSchedule(minutely(&n.to_string()));
            made(run(&mut state, 0, create));
        }
        let more = run(&mut state, 0, Change::CreateSchedule(minutely("more")));
        assert_eq!(more, Outcome::Denied(Denied::TooMany as i32));
    }
}
