//! What one entry of a partition is made of: verdicts, ends of leases, leavings, new leases. Pure
//! but for the lane's own state.

use std::{collections::BTreeMap, ops::Range};

use aqueduct_proto::record::Record;

use super::{
    Delivery,
    complete::{self, Completing, Room},
    lane::Lane,
    verdicts::{Court, Wish},
};
use crate::{
    error::Refusal,
    metadata::groups::Group,
    queue::{
        command::{Command, DropReason, Dropping, Grant, Kind, Run, Verdict, Verdicts},
        parcel::Written,
        policy::Policy,
        schedule::Schedule,
        state::State,
        time::Now,
    },
};

/// Leases that are ended in a partition and round for the same cause.
const ENDED_AT_A_TIME: usize = 10_000;
/// Messages that leave a partition without a lease in a round.
const LEAVING_AT_A_TIME: u64 = 10_000;

/// Somebody who takes messages.
pub(super) struct Demand {
    pub(super) consumer: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) got: Vec<Delivery>,
}

/// Messages chosen for somebody, or (nobody can read them) for nobody.
pub(super) struct Choice {
    pub(super) demand: Option<usize>,
    pub(super) consumer: u64,
    pub(super) runs: Vec<Range<u64>>,
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) epoch: u64,
}

/// What a command of a batch is about.
pub(super) enum Part {
    /// Nobody waits for it, and the events say what came of it.
    Plain,
    /// Of these verdicts, by request and place.
    Settle(Vec<(usize, usize)>),
    Drop(Vec<Range<u64>>, DropReason),
    Lease(Choice, i64),
    Complete(complete::Proposed),
}

/// One entry in the making.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) commands: Vec<Command>,
    pub(super) parts: Vec<Part>,
}

impl Plan {
    fn add(&mut self, kind: Kind, part: Part) {
        self.commands.push(Command::new(kind));
        self.parts.push(part);
    }

    fn settle(&mut self, court: &Court<'_>, wishes: Wishes) {
        if wishes.is_empty() {
            return;
        }
        let (places, wishes): (Vec<_>, Vec<Wish>) = wishes.into_iter().unzip();
        let verdicts = court.settle(&wishes);
        let consumer = None;
        let settle = Kind::Settle(Verdicts { consumer, verdicts });
        self.add(settle, Part::Settle(places));
    }

    fn complete(&mut self, court: &Court<'_>, mut room: Room<'_>, steps: Vec<Completing>) {
        for step in steps {
            if let Some((completion, step)) = complete::propose(court, &mut room, step) {
                self.add(Kind::Complete(completion), Part::Complete(step));
            }
        }
    }

    fn lease(&mut self, policy: &Policy, now_ms: i64, chosen: Vec<Choice>) {
        let lease_ms = i64::try_from(policy.lease_ms).unwrap_or(i64::MAX);
        let deadline_ms = now_ms.saturating_add(lease_ms);
        for choice in chosen {
            let grant = Grant {
                consumer: choice.consumer,
                deadline_ms,
                runs: choice.runs.iter().cloned().map(Run::from).collect(),
                epoch: choice.epoch,
            };
            self.add(Kind::Lease(grant), Part::Lease(choice, deadline_ms));
        }
    }
}

/// Verdicts on messages of one partition, with request and place of each.
pub(super) type Wishes = Vec<((usize, usize), Wish)>;

/// Results by request and place.
pub(super) struct Results(pub(super) Vec<Vec<Result<(), Refusal>>>);

impl Results {
    pub(super) fn set(&mut self, (request, place): (usize, usize), result: Result<(), Refusal>) {
        self.0[request][place] = result;
    }
}
/// What is to be decided for one partition in a round.
pub(super) struct Docket {
    pub(super) now: Now,
    /// Somebody takes messages of the group.
    pub(super) is_demanded: bool,
    pub(super) wishes: Wishes,
    pub(super) steps: Vec<Completing>,
    pub(super) chosen: Vec<Choice>,
}

/// The commands for one partition.
pub(super) fn plan(lane: &mut Lane, group: &Group, policy: &Policy, docket: Docket) -> Plan {
    let Docket {
        now,
        is_demanded,
        wishes,
        steps,
        chosen,
    } = docket;
    let now_ms = now.steady_ms;
    let is_blind = lane.judges_blindly(policy);
    let copied_to = lane.copies.done_to;
    let mut left = lane.gone.clone();
    let is_disk_full = lane.leases_rest();
    let mut steps = Some(steps);
    let couriers = std::mem::take(&mut lane.couriers);
    let planned = lane.with(policy, |state, schedule| {
        let mut plan = Plan::default();
        let court = court(policy, state, schedule, now_ms);
        plan.settle(&court, wishes);
        let room = Room::of(state.outbox(), is_disk_full);
        plan.complete(&court, room, steps.take().unwrap_or_default());
        if !is_blind {
            end_gone(&court, &mut left, &mut plan);
            expire(policy, state, schedule, now_ms, &mut plan);
        }
        leave(policy, state, schedule, now.wall_ms, &mut plan);
        // Somebody else's copies under the same name would say more than there is.
        let copied_to = copied_to.min(state.dead_numbered_to());
        if copied_to > state.dead_written_to() {
            plan.add(Kind::DeadWritten(copied_to), Part::Plain);
        }
        let lines = couriers.news(state.outbox());
        if !lines.is_empty() {
            plan.add(Kind::Written(Written { lines }), Part::Plain);
        }
        plan.lease(policy, now_ms, chosen);
        plan
    });
    lane.couriers = couriers;
    // Where the queue has not begun, nothing is leased.
    let lost = steps.into_iter().flatten();
    lost.for_each(|step| step.not_made(|_| true));
    if let Some(plan) = planned {
        lane.gone = left;
        return plan;
    }
    // Not begun: nothing was ever leased here, and what verdicts there are is refused already.
    lane.gone.clear();
    let mut plan = Plan::default();
    if is_demanded {
        let begin = begin_at(lane, group);
        plan.add(Kind::Begin(begin), Part::Plain);
    }
    plan
}

/// Where a queue begins in a partition that it has not touched.
fn begin_at(lane: &Lane, group: &Group) -> u64 {
    let start = lane.partition.shared().log_start_offset();
    let pinned = group.pinned.get(lane.number as usize).copied();
    pinned.unwrap_or(start).max(start)
}

fn court<'a>(
    policy: &'a Policy,
    state: &'a State,
    schedule: &'a Schedule,
    now_ms: i64,
) -> Court<'a> {
    Court {
        policy,
        state,
        schedule,
        now_ms,
        jitter: &rand::random::<f64>,
    }
}

/// Ends leases of consumers that are gone, as many as there is room for. They stay until nothing is
/// found of them: an entry may be refused.
fn end_gone(court: &Court<'_>, gone: &mut Vec<(u64, bool)>, plan: &mut Plan) {
    if gone.is_empty() {
        return;
    }
    let closed: BTreeMap<u64, bool> = gone.iter().copied().collect();
    let (mut ended, mut room) = (Vec::new(), ENDED_AT_A_TIME);
    for (consumer, closed) in &closed {
        let held = court.state.held_by(*consumer).take(room);
        let verdicts: Vec<Verdict> = held
            .map(|held| match closed {
                true => court.given_back(&held),
                false => court.lost(&held, "the consumer's connection broke"),
            })
            .collect();
        room -= verdicts.len();
        if !verdicts.is_empty() {
            ended.push((*consumer, verdicts));
        }
    }
    gone.retain(|(consumer, _)| court.state.held_count(*consumer) > 0);
    for (consumer, verdicts) in ended {
        let consumer = Some(consumer);
        plan.add(Kind::Gone(Verdicts { consumer, verdicts }), Part::Plain);
    }
}

/// Ends leases whose time is over.
fn expire(policy: &Policy, state: &State, schedule: &mut Schedule, now_ms: i64, plan: &mut Plan) {
    if !schedule.leases_may_end(now_ms) {
        return;
    }
    let (overdue, next) = state.overdue(now_ms, ENDED_AT_A_TIME);
    schedule.leases_end_from(next);
    let court = court(policy, state, schedule, now_ms);
    let verdicts: Vec<_> = overdue
        .iter()
        .map(|held| court.lost(held, "the lease ended before a verdict"))
        .collect();
    if !verdicts.is_empty() {
        let consumer = None;
        plan.add(Kind::Expire(Verdicts { consumer, verdicts }), Part::Plain);
    }
}

/// Ends messages that nobody gets: expired, not wanted, of a parked key.
fn leave(policy: &Policy, state: &State, schedule: &mut Schedule, wall_ms: i64, plan: &mut Plan) {
    let expired = schedule.expired(wall_ms, LEAVING_AT_A_TIME as usize);
    let leaving = [
        (runs_of(&mut sorted(expired).into_iter()), DropReason::Ttl),
        (schedule.unmatched(LEAVING_AT_A_TIME), DropReason::Unmatched),
        (schedule.parked(LEAVING_AT_A_TIME), DropReason::Parked),
    ];
    for (runs, reason) in leaving {
        if runs.is_empty() {
            continue;
        }
        let dropping = Dropping {
            runs: runs.iter().cloned().map(Run::from).collect(),
            reason: reason as i32,
            discard: reason == DropReason::Ttl && !policy.dead_letters_for_expired,
            epoch: state.epoch(),
        };
        plan.add(Kind::Drop(dropping), Part::Drop(runs, reason));
    }
}

fn sorted(mut offsets: Vec<u64>) -> Vec<u64> {
    offsets.sort_unstable();
    offsets
}

/// Neighbours as runs.
pub(super) fn runs_of(offsets: &mut dyn Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs
}
