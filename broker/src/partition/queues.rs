//! The queues of one partition: a state for each queue group, and their commands. Pure.
//!
//! All commands of all groups lie in the partition's own log, as positions do. What an applied
//! command changed is also kept as events for whoever *watches* the group: the leader's
//! schedule, which is not replicated and neither saved.

use std::collections::BTreeMap;

use prost::Message;

use crate::queue::{
    command::{Batch, Kind, Replies},
    events::Event,
    offsets::Offsets,
    saved::Damaged,
    state::State,
};

/// Commands of several groups in one entry, applied in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Steps {
    #[prost(message, repeated, tag = "1")]
    pub(crate) steps: Vec<Step>,
}

/// Commands of one group.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Step {
    #[prost(uint64, tag = "1")]
    pub(crate) group_id: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) batch: Batch,
}

impl Step {
    /// Whether it is for more to be kept: the others end something, and let retention free space.
    pub(super) fn takes_room(&self) -> bool {
        let kinds = self.batch.commands.iter().map(|command| &command.kind);
        kinds.flatten().any(|kind| match kind {
            Kind::Lease(_) | Kind::Delay(_) => true,
            Kind::Complete(step) => !step.results.is_empty(),
            _ => false,
        })
    }
}

/// What became of each step, in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stepped {
    #[prost(message, repeated, tag = "1")]
    pub(crate) replies: Vec<Replies>,
}

/// A queue as a checkpoint keeps it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SavedQueue {
    #[prost(uint64, tag = "1")]
    group_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    state: Vec<u8>,
}

/// The queues of all groups.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queues {
    groups: BTreeMap<u64, State>,
    /// Where the log begins, and what is kept aside of it; saved beside the queues.
    log_start: u64,
    kept: Offsets,
    /// Events that the watcher of a group has not taken yet.
    watched: BTreeMap<u64, Vec<Event>>,
}

/// Equal is what would be saved.
impl PartialEq for Queues {
    fn eq(&self, other: &Queues) -> bool {
        self.save() == other.save()
    }
}

impl Eq for Queues {}

impl Queues {
    /// Applies the steps of one entry; `end` is the offset of the next record.
    pub(crate) fn apply(&mut self, steps: &Steps, end: u64) -> Stepped {
        let apply_one = |step: &Step| self.apply_one(step, end);
        Stepped {
            replies: steps.steps.iter().map(apply_one).collect(),
        }
    }

    fn apply_one(&mut self, step: &Step, end: u64) -> Replies {
        let state = self.groups.entry(step.group_id);
        let state = state.or_insert_with(|| State::of_log(self.log_start, &self.kept));
        let applied = state.apply(&step.batch, end);
        // Ids of groups are never reused, so nothing of a forgotten one has to go on.
        let is_over = matches!(
            step.batch
                .commands
                .last()
                .and_then(|last| last.kind.as_ref()),
            Some(Kind::Forget(_))
        );
        if is_over || !state.begun() {
            self.groups.remove(&step.group_id);
        }
        if let Some(events) = self.watched.get_mut(&step.group_id) {
            events.extend(applied.events);
        }
        applied.replies
    }

    /// The log begins at this offset now, and of what lies below only `kept` is left.
    pub(crate) fn trim(&mut self, log_start: u64, kept: &Offsets) {
        self.log_start = log_start;
        self.kept = kept.clone();
        for (group_id, state) in &mut self.groups {
            let events = state.trim(log_start, kept);
            if let Some(watched) = self.watched.get_mut(group_id) {
                watched.extend(events);
            }
        }
    }

    /// Whether the log below `before` holds anything that a queue needs, other than `kept`.
    pub(crate) fn needs_before(&self, before: u64, kept: &Offsets) -> bool {
        let range = self.log_start..before;
        let needs = |state: &State| state.needs_in(range.clone(), |offset| kept.contains(offset));
        self.groups.values().any(needs)
    }

    /// Those of `offsets` that a queue needs.
    pub(crate) fn needed_of(&self, offsets: &Offsets) -> Offsets {
        let mut needed = Offsets::default();
        for state in self.groups.values() {
            state.needed_of(offsets, &mut needed);
        }
        needed
    }

    /// The queue of a group, if it has begun here.
    pub(crate) fn get(&self, group_id: u64) -> Option<&State> {
        self.groups.get(&group_id)
    }

    /// The groups that have a queue here.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.groups.keys().copied()
    }

    /// Keeps this group's events from now on. There is one watcher of a group at a time.
    pub(crate) fn watch(&mut self, group_id: u64) {
        self.watched.insert(group_id, Vec::new());
    }

    /// The opposite of [`Queues::watch`].
    pub(crate) fn unwatch(&mut self, group_id: u64) {
        self.watched.remove(&group_id);
    }

    /// What happened since the watcher asked last, in order.
    pub(crate) fn take_events(&mut self, group_id: u64) -> Vec<Event> {
        let events = self.watched.get_mut(&group_id);
        events.map(std::mem::take).unwrap_or_default()
    }

    /// What comes from a checkpoint replaces the queues; watchers stay and begin anew.
    pub(crate) fn replace(&mut self, restored: Queues) {
        self.groups = restored.groups;
        self.log_start = restored.log_start;
        self.kept = restored.kept;
        for events in self.watched.values_mut() {
            *events = vec![Event::Restarted];
        }
    }

    /// The queues for a checkpoint.
    pub(crate) fn save(&self) -> Vec<SavedQueue> {
        let save_one = |(group_id, state): (&u64, &State)| SavedQueue {
            group_id: *group_id,
            state: state.save(),
        };
        self.groups.iter().map(save_one).collect()
    }

    /// The inverse of [`Queues::save`], of a log that begins here and of which this is kept aside.
    ///
    /// # Errors
    /// If one of them is not a saved queue.
    pub(crate) fn load(
        saved: Vec<SavedQueue>,
        log_start: u64,
        kept: &Offsets,
    ) -> Result<Queues, Damaged> {
        let load_one = |one: SavedQueue| Ok((one.group_id, State::load(&one.state)?));
        let mut queues = Queues {
            groups: saved.into_iter().map(load_one).collect::<Result<_, _>>()?,
            ..Queues::default()
        };
        queues.trim(log_start, kept);
        Ok(queues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::command::{Command, Grant, Run, Status};

    const GROUP: u64 = 7;

    fn run(queues: &mut Queues, kind: Kind) -> Replies {
        let batch = Batch {
            now_ms: 1_000,
            discard_dead: false,
            commands: vec![Command::new(kind)],
        };
        let step = Step {
            group_id: GROUP,
            batch,
        };
        queues.apply(&Steps { steps: vec![step] }, 100).replies[0].clone()
    }

    fn grant(queues: &Queues, first: u64) -> Kind {
        Kind::Lease(Grant {
            consumer: 1,
            deadline_ms: 9_000,
            runs: vec![Run { first, count: 5 }],
            epoch: queues.get(GROUP).map_or(0, State::epoch),
        })
    }

    #[test]
    fn what_is_saved_comes_back_and_goes_on() {
        let mut queues = Queues::default();
        run(&mut queues, Kind::Begin(10));
        let lease = grant(&queues, 10);
        let first = run(&mut queues, lease).replies[0].spans[0];
        assert_eq!((first.first, first.count, first.lease), (10, 5, 1));
        let mut restored = Queues::load(queues.save(), 0, &Offsets::default()).unwrap();
        assert_eq!(restored, queues);
        let lease = grant(&restored, 15);
        assert_eq!(run(&mut restored, lease).replies[0].spans[0].lease, 6);
        assert!(restored != queues);
    }

    #[test]
    fn a_watcher_sees_what_happens_and_that_the_log_was_cut() {
        let mut queues = Queues::default();
        queues.watch(GROUP);
        run(&mut queues, Kind::Begin(0));
        assert_eq!(queues.take_events(GROUP), [Event::Restarted]);
        queues.trim(3, &Offsets::default());
        assert_eq!(queues.take_events(GROUP), [Event::Trimmed { to: 3 }]);
        queues.unwatch(GROUP);
        queues.trim(5, &Offsets::default());
        assert_eq!(queues.take_events(GROUP), []);
        assert_eq!(queues.get(GROUP).map(State::floor), Some(5));
    }

    #[test]
    fn what_never_began_or_was_forgotten_leaves_no_trace() {
        let mut queues = Queues::default();
        let lease = grant(&queues, 0);
        let refused = run(&mut queues, lease).replies[0].status();
        assert_eq!(refused, Status::NotBegun);
        assert!(queues.ids().next().is_none());
        run(&mut queues, Kind::Begin(0));
        assert_eq!(queues.ids().collect::<Vec<_>>(), [GROUP]);
        run(&mut queues, Kind::Forget(true));
        assert_eq!(queues, Queues::default());
    }
}
