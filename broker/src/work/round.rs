//! One round of a queue group: scan on, choose, read, one entry for each partition, and what came
//! of it.
//!
//! A message is read before it is leased, so that a consumer is never leased more bytes than it
//! asked for; and delivered after the lease is durable.

use std::{collections::BTreeMap, ops::Range};

use aqueduct_proto::record::Record;

use super::{
    Delivery, Settled,
    driver::Driver,
    lane::{Lane, size_of_record},
    verdicts::{Court, Wish},
};
use crate::{
    error::Refusal,
    metadata::groups::{Group, StartAt},
    partition::queues::Step,
    queue::{
        command::{
            Batch, Command, DropReason, Dropping, Grant, Kind, Replies, Reply, Run, Span, Status,
            Verdicts,
        },
        policy::Policy,
        schedule::Schedule,
        state::State,
        view::Standing,
    },
};

/// Messages that a consumer is leased in a partition and round.
const AT_A_TIME: u64 = 1_000;
/// Leases that are ended in a round.
const ENDED_AT_A_TIME: usize = 10_000;
/// Messages that leave a partition without a lease in a round.
const LEAVING_AT_A_TIME: u64 = 10_000;
/// What a stream is given in a round, bytes, whatever its credit is.
const DELIVERY_BYTES: u64 = 4 << 20;

/// Somebody who takes messages.
struct Demand {
    consumer: u64,
    messages: u64,
    bytes: u64,
    got: Vec<Delivery>,
}

/// Messages chosen for somebody, or (nobody can read them) for nobody.
struct Choice {
    demand: Option<usize>,
    consumer: u64,
    runs: Vec<Range<u64>>,
    records: BTreeMap<u64, Record>,
    epoch: u64,
}

/// What a command of a batch is about.
enum Part {
    /// Nobody waits for it, and the events say what came of it.
    Plain,
    /// Of these verdicts, by request and place.
    Settle(Vec<(usize, usize)>),
    Drop(Vec<Range<u64>>, DropReason),
    Lease(Choice, i64),
}

/// One entry in the making.
#[derive(Default)]
struct Plan {
    commands: Vec<Command>,
    parts: Vec<Part>,
}

impl Plan {
    fn add(&mut self, kind: Kind, part: Part) {
        self.commands.push(Command::new(kind));
        self.parts.push(part);
    }
}

/// Verdicts on messages of one partition, with request and place of each.
type Wishes = Vec<((usize, usize), Wish)>;

/// Results by request and place.
struct Results(Vec<Vec<Result<(), Refusal>>>);

impl Results {
    fn set(&mut self, (request, place): (usize, usize), result: Result<(), Refusal>) {
        self.0[request][place] = result;
    }
}

impl Driver {
    /// Whether anything was done, or is left to do at once.
    pub(super) async fn round(&mut self) -> bool {
        let mut more = self.scan().await;
        let mut demands = self.demands();
        let mut choices = self.choose(&mut demands).await;
        let (settling, mut results, mut wishes) = self.take_verdicts();
        let now_ms = self.clock.now_ms();
        let mut proposed = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let wishes = wishes.remove(&index).unwrap_or_default();
            let chosen = choices.remove(&index).unwrap_or_default();
            if lane.pause_left_ms().is_some() && wishes.is_empty() && chosen.is_empty() {
                continue;
            }
            let demanded = !demands.is_empty();
            let context = (&self.group, &self.policy, now_ms);
            let plan = plan(lane, context, demanded, wishes, chosen, &mut results);
            if plan.commands.is_empty() {
                continue;
            }
            let step = Step {
                group_id: self.group.id,
                batch: Batch {
                    now_ms,
                    discard_dead: !self.policy.dead_letters,
                    commands: plan.commands,
                },
            };
            let begun = lane.partition.begin_step(step).await;
            proposed.push((index, plan.parts, begun));
        }
        more |= !proposed.is_empty();
        for (index, parts, begun) in proposed {
            let outcome = match begun {
                Ok(stepping) => stepping.outcome().await,
                Err(refusal) => Err(refusal),
            };
            let lane = &mut self.lanes[index];
            conclude(
                lane,
                &self.policy,
                now_ms,
                (parts, outcome),
                &mut demands,
                &mut results,
            );
        }
        for (settling, results) in settling.into_iter().zip(results.0) {
            // Whoever hung up does not want to know.
            let _ = settling.send(results);
        }
        self.deliver(demands);
        self.turn = self.turn.wrapping_add(1);
        more | self.copy_dead().await
    }

    async fn scan(&mut self) -> bool {
        let (mut more, demanded) = (false, self.has_demand());
        for lane in &mut self.lanes {
            if lane.pause_left_ms().is_some() || !(demanded || lane.judges_blindly(&self.policy)) {
                continue;
            }
            match lane.scan(&self.policy).await {
                Ok(scanned) => more |= scanned,
                Err(refusal) => {
                    tracing::warn!(group = self.group.name, partition = lane.number, %refusal,
                        "a queue cannot read on");
                    lane.pause();
                }
            }
        }
        more
    }

    /// Everybody who takes messages now; streams first, then calls.
    fn demands(&self) -> Vec<Demand> {
        let streams = self.consumers.iter().map(|consumer| {
            let (messages, bytes) = consumer.credit.now().unwrap_or((0, 0));
            let wants = consumer.wants();
            Demand {
                consumer: consumer.id,
                messages: if wants { messages } else { 0 },
                bytes: bytes.min(DELIVERY_BYTES),
                got: Vec::new(),
            }
        });
        let calls = self.calls.iter().map(|call| Demand {
            consumer: super::new_consumer(),
            messages: call.messages,
            bytes: call.bytes,
            got: Vec::new(),
        });
        streams.chain(calls).collect()
    }

    async fn choose(&mut self, demands: &mut [Demand]) -> BTreeMap<usize, Vec<Choice>> {
        let mut choices: BTreeMap<usize, Vec<Choice>> = BTreeMap::new();
        let (count, lanes) = (demands.len(), self.lanes.len());
        for turn in 0..count {
            let who = (turn + self.turn) % count;
            for turn in 0..lanes {
                let index = (turn + self.turn) % lanes;
                let demand = &mut demands[who];
                if demand.messages == 0 || demand.bytes == 0 {
                    break;
                }
                let now_ms = self.clock.now_ms();
                let lane = &mut self.lanes[index];
                let chosen = choose_in(lane, &self.policy, now_ms, who, demand).await;
                choices.entry(index).or_default().extend(chosen);
            }
        }
        choices
    }

    #[expect(
        clippy::type_complexity,
        reason = "three parts that are taken apart at once"
    )]
    fn take_verdicts(
        &mut self,
    ) -> (
        Vec<tokio::sync::oneshot::Sender<Settled>>,
        Results,
        BTreeMap<usize, Wishes>,
    ) {
        let policy = &self.policy;
        let blind: Vec<bool> = self
            .lanes
            .iter_mut()
            .map(|l| l.judges_blindly(policy))
            .collect();
        let is_blind = |wish: &Wish| blind.get(wish.partition as usize) == Some(&true);
        let (mut answers, mut results) = (Vec::new(), Results(Vec::new()));
        let mut wishes: BTreeMap<usize, Wishes> = BTreeMap::new();
        for settling in std::mem::take(&mut self.settling) {
            if settling.wishes.iter().any(is_blind) {
                self.settling.push(settling);
                continue;
            }
            let request = answers.len();
            answers.push(settling.answer);
            let mut judged = Vec::with_capacity(settling.wishes.len());
            for (place, wish) in settling.wishes.into_iter().enumerate() {
                let lane = wish.partition as usize;
                if let Some(known) = self.lanes.get(lane) {
                    judged.push(Err(lost(&wish)));
                    if wish.offset >= known.partition.shared().high_watermark() {
                        continue;
                    }
                    wishes
                        .entry(lane)
                        .or_default()
                        .push(((request, place), wish));
                } else {
                    let refused = self.live.partition(wish.partition).map(drop);
                    judged.push(refused);
                }
            }
            results.0.push(judged);
        }
        (answers, results, wishes)
    }

    /// Sends what was leased. What nobody takes any more is given back.
    fn deliver(&mut self, demands: Vec<Demand>) {
        let mut calls = std::mem::take(&mut self.calls).into_iter();
        let streams = self.consumers.len();
        let (mut messages, mut bytes) = (0, 0);
        for (index, demand) in demands.into_iter().enumerate() {
            let sizes = demand.got.iter().map(|d| size_of_record(&d.record));
            let (count, size) = (demand.got.len() as u64, sizes.sum::<u64>());
            let is_taken = match self.consumers.get(index) {
                Some(_) if count == 0 => true,
                Some(consumer) => {
                    consumer.credit.take(count, size);
                    // A stream that has ended says so by itself, and all it held comes back.
                    drop(consumer.deliveries.try_send(demand.got));
                    true
                }
                None => match calls.next() {
                    Some(call) if count == 0 => {
                        self.calls.push(call);
                        true
                    }
                    Some(call) => call.answer.send(Ok(demand.got)).is_ok(),
                    None => false,
                },
            };
            debug_assert!(index >= streams || is_taken);
            if is_taken {
                (messages, bytes) = (messages + count, bytes + size);
            } else {
                for lane in &mut self.lanes {
                    lane.gone.push((demand.consumer, true));
                }
            }
        }
        self.services
            .stats
            .sent(&self.live.traffic, messages, bytes);
    }

    async fn copy_dead(&mut self) -> bool {
        let mut more = false;
        for lane in &mut self.lanes {
            if lane.pause_left_ms().is_some() {
                continue;
            }
            let copied = lane
                .copy_dead(&self.services, &self.group, &self.policy)
                .await;
            match copied {
                Ok(copied) => more |= copied,
                Err(refusal) => {
                    tracing::warn!(group = self.group.name, partition = lane.number, %refusal,
                        "dead letters wait for their copies");
                    lane.pause();
                }
            }
        }
        more
    }
}

fn lost(wish: &Wish) -> Refusal {
    Refusal::LeaseLost {
        partition: wish.partition,
        offset: wish.offset,
        lease: wish.lease,
    }
}

/// Takes messages of one partition for somebody, and reads them.
async fn choose_in(
    lane: &mut Lane,
    policy: &Policy,
    now_ms: i64,
    who: usize,
    demand: &mut Demand,
) -> Vec<Choice> {
    if lane.pause_left_ms().is_some() {
        return Vec::new();
    }
    let rate = lane.bucket.available(now_ms, policy.rate_per_s);
    let (limit, consumer) = (policy.max_in_flight.consumer, demand.consumer);
    let most = demand.messages.min(AT_A_TIME).min(rate);
    let taken = lane.with(policy, |state, schedule| {
        let held = || {
            state
                .held(0)
                .filter(|held| held.lease.consumer == consumer)
                .count() as u64
        };
        let most = match limit {
            0 => most,
            limit => most.min(limit.saturating_sub(held())),
        };
        (schedule.next(now_ms, most), state.epoch())
    });
    let Some((runs, epoch)) = taken.filter(|(runs, _)| !runs.is_empty()) else {
        return Vec::new();
    };
    let read = lane.read_runs(&runs, demand.bytes).await;
    lane.with(policy, |_, schedule| {
        for run in &read.back {
            schedule.give_back(run.clone());
        }
    });
    let count = read.records.len() as u64;
    lane.bucket.take(count);
    demand.messages -= count;
    let bytes = read.records.values().map(size_of_record).sum();
    demand.bytes = demand.bytes.saturating_sub(bytes);
    let choice = |demand, offsets: &mut dyn Iterator<Item = u64>, records| Choice {
        demand,
        consumer: if demand.is_some() { consumer } else { 0 },
        runs: runs_of(offsets),
        records,
        epoch,
    };
    let mut chosen = Vec::new();
    if !read.unreadable.is_empty() {
        // Leased to nobody: such an attempt fails in time, and the last one makes it a dead
        // letter. So it is seen, and neither lost nor in the way.
        let offsets = &mut read.unreadable.iter().copied();
        chosen.push(choice(None, offsets, BTreeMap::new()));
    }
    if count > 0 {
        let offsets: Vec<u64> = read.records.keys().copied().collect();
        chosen.push(choice(Some(who), &mut offsets.into_iter(), read.records));
    }
    chosen
}

fn runs_of(offsets: &mut dyn Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    runs
}

/// The commands for one partition.
fn plan(
    lane: &mut Lane,
    (group, policy, now_ms): (&Group, &Policy, i64),
    demanded: bool,
    wishes: Wishes,
    chosen: Vec<Choice>,
    results: &mut Results,
) -> Plan {
    let is_blind = lane.judges_blindly(policy);
    let (gone, copied_to, number) = (lane.gone.clone(), lane.copied_to, lane.number);
    let mut left = gone.clone();
    let planned = lane.with(policy, |state, schedule| {
        let mut plan = Plan::default();
        if !wishes.is_empty() {
            let (places, wishes): (Vec<_>, Vec<Wish>) = wishes.into_iter().unzip();
            let court = court(policy, state, schedule, now_ms);
            let verdicts = court.settle(&wishes);
            let consumer = None;
            let settle = Kind::Settle(Verdicts { consumer, verdicts });
            plan.add(settle, Part::Settle(places));
        }
        if !is_blind {
            let court = court(policy, state, schedule, now_ms);
            left.retain(|(consumer, closed)| end_of(&court, (*consumer, *closed), &mut plan));
            expire(policy, state, schedule, now_ms, &mut plan);
        }
        leave(policy, state, schedule, now_ms, &mut plan);
        if copied_to > state.dead_written_to() {
            plan.add(Kind::DeadWritten(copied_to), Part::Plain);
        }
        let lease_ms = i64::try_from(policy.lease_ms).unwrap_or(i64::MAX);
        let deadline_ms = now_ms.saturating_add(lease_ms);
        for choice in chosen {
            let grant = Grant {
                consumer: choice.consumer,
                deadline_ms,
                runs: choice.runs.iter().cloned().map(Run::from).collect(),
                epoch: choice.epoch,
            };
            plan.add(Kind::Lease(grant), Part::Lease(choice, deadline_ms));
        }
        plan
    });
    if let Some(plan) = planned {
        lane.gone = left;
        return plan;
    }
    // Not begun: nothing was ever leased here, and what verdicts there are is refused already.
    lane.gone.clear();
    let _ = results;
    let mut plan = Plan::default();
    if demanded {
        let start = lane.partition.shared().log_start_offset();
        let pinned = group.pinned.get(number as usize).copied();
        let pinned = pinned.filter(|_| group.start() == StartAt::Latest);
        plan.add(Kind::Begin(pinned.unwrap_or(start).max(start)), Part::Plain);
    }
    plan
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

/// Ends leases of a consumer that is gone; whether there may be others.
fn end_of(court: &Court<'_>, (consumer, closed): (u64, bool), plan: &mut Plan) -> bool {
    let held = court.state.held(0);
    let held = held.filter(|held| held.lease.consumer == consumer);
    let verdicts: Vec<_> = held
        .take(ENDED_AT_A_TIME)
        .map(|held| match closed {
            true => court.given_back(&held),
            false => court.lost(&held, "the consumer's connection broke"),
        })
        .collect();
    if verdicts.is_empty() {
        return false;
    }
    let consumer = Some(consumer);
    plan.add(Kind::Gone(Verdicts { consumer, verdicts }), Part::Plain);
    true
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
fn leave(policy: &Policy, state: &State, schedule: &mut Schedule, now_ms: i64, plan: &mut Plan) {
    let expired = schedule.expired(now_ms, LEAVING_AT_A_TIME as usize);
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

/// Carries on with what came of an entry.
fn conclude(
    lane: &mut Lane,
    policy: &Policy,
    now_ms: i64,
    (parts, outcome): (Vec<Part>, Result<Replies, Refusal>),
    demands: &mut [Demand],
    results: &mut Results,
) {
    let outcome = outcome.and_then(|replies| match replies.replies.len() == parts.len() {
        true => Ok(replies.replies),
        false => Err(Refusal::Unknown {
            why: "the partition answered for other commands".into(),
        }),
    });
    let number = lane.number;
    match outcome {
        Ok(replies) => {
            lane.with(policy, |state, schedule| {
                for (part, reply) in parts.into_iter().zip(replies) {
                    match part {
                        Part::Plain => {}
                        Part::Settle(places) => settled(places, &reply, results),
                        Part::Drop(_, reason) => dropped(schedule, &reply, reason),
                        Part::Lease(choice, deadline_ms) => {
                            let context = (number, state, &mut *schedule);
                            leased(context, choice, deadline_ms, &reply, demands);
                        }
                    }
                }
            });
        }
        Err(refusal) => {
            lane.pause();
            lane.with(policy, |_, schedule| {
                schedule.leases_end_from(Some(now_ms));
                for part in parts {
                    match part {
                        Part::Plain => {}
                        Part::Settle(places) => {
                            for place in places {
                                results.set(place, Err(refusal.clone()));
                            }
                        }
                        Part::Drop(runs, reason) => {
                            for run in runs {
                                schedule.give_back_leaving(run, reason);
                            }
                        }
                        Part::Lease(choice, _) => {
                            for run in choice.runs {
                                schedule.give_back(run);
                            }
                        }
                    }
                }
            });
        }
    }
}

/// Results of verdicts stand in the reply in the order in which the verdicts were named. What
/// the caller is told otherwise is that the lease is lost, which is there already.
fn settled(places: Vec<(usize, usize)>, reply: &Reply, results: &mut Results) {
    let statuses = reply.spans.iter().flat_map(|span| {
        let count = usize::try_from(span.count).unwrap_or(usize::MAX);
        std::iter::repeat_n(span.status(), count)
    });
    for (place, status) in places.into_iter().zip(statuses) {
        if status == Status::Done {
            results.set(place, Ok(()));
        }
    }
}

fn dropped(schedule: &mut Schedule, reply: &Reply, reason: DropReason) {
    for span in &reply.spans {
        match span.status() {
            // An event has said so.
            Status::Done => {}
            Status::Settled => schedule.forget(span.range()),
            _ => schedule.give_back_leaving(span.range(), reason),
        }
    }
}

fn leased(
    (partition, state, schedule): (u32, &State, &mut Schedule),
    choice: Choice,
    deadline_ms: i64,
    reply: &Reply,
    demands: &mut [Demand],
) {
    if reply.spans.is_empty() {
        // The command as a whole was refused. After a seek the schedule is another one.
        if reply.status() != Status::Fenced {
            choice
                .runs
                .into_iter()
                .for_each(|run| schedule.give_back(run));
        }
        return;
    }
    let mut records = choice.records;
    for span in &reply.spans {
        if span.status() != Status::Done {
            for offset in span.range() {
                schedule.refused(offset, state.standing(offset));
            }
            continue;
        }
        let Some(demand) = choice.demand.and_then(|who| demands.get_mut(who)) else {
            continue;
        };
        let delivered = span.range().filter_map(|offset| {
            let record = records.remove(&offset)?;
            delivery((partition, state), record, span, deadline_ms)
        });
        demand.got.extend(delivered);
    }
}

fn delivery(
    (partition, state): (u32, &State),
    record: Record,
    span: &Span,
    deadline_ms: i64,
) -> Option<Delivery> {
    let offset = record.offset;
    let Standing::Open(known) = state.standing(offset) else {
        // Retention took it in this moment.
        return None;
    };
    Some(Delivery {
        partition,
        attempt: known.failed.saturating_add(1),
        hand_outs: known.hand_outs,
        lease: span.lease + (offset - span.first),
        deadline_ms,
        first_failure_ms: known.first_failure_ms,
        last_error: state.last_error(offset).unwrap_or_default().to_owned(),
        record,
    })
}
