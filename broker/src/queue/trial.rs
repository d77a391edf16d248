//! The model test: state and schedule, driven together by chance, against the model. Only in
//! tests.
//!
//! A [`World`] is a log, the real state and schedule, the model, and a driver that makes
//! mistakes: proposals get lost or land late, verdicts are stale or foreign, the schedule is
//! thrown away, the state saved and loaded. Every reply is compared with the model's, the whole
//! state after every step, and every hand-out with what the model allows.

mod checks;
mod rare;
mod steps;

use std::{ops::Range, panic::catch_unwind};

use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    command::{
        Action, Batch, Command, Death, DropReason, Dropping, Grant, Kind, Reason, Reply, Retry,
        Run, Status, Verdict, Verdicts,
    },
    events::Event,
    known::Attributes,
    model::{Is, Model, Results},
    parcel::Completion,
    policy::{OnKeyFailure, Order, Outcome, Policy, Priorities, Tries},
    schedule::{Rules, Schedule},
    state::State,
    testing,
    time::Now,
    view::{Held, Standing},
};

struct World {
    random: StdRng,
    /// Steady time.
    now_ms: i64,
    /// What the wall clock shows beyond it; steps back and forth.
    wall_ms: i64,
    policy: Policy,
    log: Vec<Attributes>,
    state: State,
    schedule: Schedule,
    model: Model,
    /// Handed out by the schedule, not proposed yet; lost by a crash.
    taken: Vec<Range<u64>>,
    /// Came out of the schedule to be dropped, not proposed yet.
    leaving: Vec<(Range<u64>, DropReason)>,
    /// (offset, lease, consumer) of old and present leases.
    leases: Vec<(u64, u64, u64)>,
    /// Old and present steps, made or not.
    steps: Vec<Completion>,
}

fn expand(reply: &Reply) -> Results {
    let spans = reply.spans.iter().flat_map(|span| {
        let lease = move |i| if span.lease > 0 { span.lease + i } else { 0 };
        (0..span.count).map(move |i| (span.first + i, span.status(), lease(i)))
    });
    spans.collect()
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let mut policy = Policy {
            max_attempts: random.random_range(1..5),
            max_hand_outs: random.random_range(5..9),
            lease_ms: 1_000,
            ..Policy::default()
        };
        // In some of them histories get longer than what is kept of them.
        if policy.max_hand_outs == 8 {
            (policy.max_attempts, policy.max_hand_outs) = (12, 30);
        }
        policy.backoff.initial_ms = 100;
        policy.order = [Order::None, Order::PerKey][random.random_range(0..2)];
        policy.on_key_failure = [
            OnKeyFailure::SkipAhead,
            OnKeyFailure::BlockKey,
            OnKeyFailure::ParkKey,
        ][random.random_range(0..3)];
        policy.priorities =
            [Priorities::Off, Priorities::Strict, Priorities::Weighted][random.random_range(0..3)];
        policy.max_in_flight.key = [0, 0, 1, 2][random.random_range(0..4)];
        policy.max_in_flight.group = [0, 0, 3][random.random_range(0..3)];
        if policy.order == Order::PerKey {
            policy.max_in_flight.key = 0;
        }
        policy.dead_letters = random.random_bool(0.8);
        let state = State::default();
        let schedule = Schedule::new(Rules::from(&policy), &state);
        let mut world = World {
            random,
            now_ms: 1_000_000,
            wall_ms: 0,
            policy,
            log: Vec::new(),
            state,
            schedule,
            model: Model::default(),
            taken: Vec::new(),
            leaving: Vec::new(),
            leases: Vec::new(),
            steps: Vec::new(),
        };
        world.apply(vec![Kind::Begin(0)]);
        world
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.random_range(0..bound.max(1))
    }

    fn now(&self) -> Now {
        Now {
            steady_ms: self.now_ms,
            wall_ms: self.now_ms + self.wall_ms,
        }
    }

    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn keys_matter(&self) -> bool {
        self.policy.order == Order::PerKey || self.policy.max_in_flight.key > 0
    }

    // The driver.

    fn apply(&mut self, kinds: Vec<Kind>) -> Vec<Reply> {
        let batch = Batch {
            now_ms: self.now_ms,
            discard_dead: !self.policy.dead_letters,
            commands: kinds.into_iter().map(Command::new).collect(),
        };
        let batch = Batch::decode(batch.encode_to_vec().as_slice()).unwrap();
        let applied = self.state.apply(&batch, self.end());
        self.model.now_ms = self.now_ms;
        for (command, reply) in batch.commands.iter().zip(&applied.replies.replies) {
            let kind = command.kind.as_ref().unwrap();
            let (status, results) = self.model.apply(kind, batch.discard_dead);
            assert_eq!(reply.status(), status, "{kind:?}");
            assert_eq!(expand(reply), results, "{kind:?}");
        }
        self.follow(&applied.events);
        applied.replies.replies
    }

    fn follow(&mut self, events: &[Event]) {
        for event in events {
            if *event == Event::Restarted {
                // What was taken for the old schedule is fenced by the epoch.
                self.rebuild();
            }
            self.schedule.follow(event);
        }
    }

    fn rebuild(&mut self) {
        self.schedule = Schedule::new(Rules::from(&self.policy), &self.state);
        self.taken.clear();
        self.leaving.clear();
    }

    fn scan(&mut self, at_most: u64) {
        let wanted = self.schedule.scan_wanted(self.end());
        let to = wanted.end.min(wanted.start.saturating_add(at_most));
        let mut at = wanted.start;
        while let Some(gap) = self.state.next_unfinished(at, to) {
            for offset in gap.clone() {
                let is_there = offset >= self.model.trimmed_to;
                assert!(is_there || self.model.kept.contains(&offset), "{offset}");
                let standing = self.state.standing(offset);
                let attributes = &self.log[offset as usize];
                if *attributes == Attributes::default() && standing == Standing::Fresh {
                    self.schedule.scanned_plain(offset..offset + 1);
                } else {
                    self.schedule.scanned(offset, attributes, standing);
                }
            }
            at = gap.end;
        }
        self.schedule.scanned_up_to(to);
    }

    fn take(&mut self, max: u64) {
        if self.schedule.is_ahead_of(self.now().wall_ms, 0) {
            self.rebuild();
        }
        let expected = self.expected();
        let runs = self.schedule.next(self.now(), max);
        let offsets: Vec<u64> = runs.into_iter().flatten().collect();
        assert!(offsets.len() as u64 <= max);
        if let Some(expected) = expected {
            let wanted = max.min(expected.len() as u64) as usize;
            assert_eq!(offsets, expected[..wanted]);
        }
        for offset in offsets {
            self.check_hand_out(offset);
            self.taken.push(offset..offset + 1);
        }
        if max == u64::MAX {
            self.check_complete();
        }
    }

    fn grant(&mut self, runs: Vec<Range<u64>>) {
        let consumer = self.below(3);
        let grant = Grant {
            consumer,
            deadline_ms: self.now_ms + self.policy.lease_ms as i64,
            runs: runs.into_iter().map(Run::from).collect(),
            epoch: self.state.epoch(),
        };
        let reply = self.apply(vec![Kind::Lease(grant)]).remove(0);
        for (offset, status, lease) in expand(&reply) {
            if status == Status::Done {
                self.leases.push((offset, lease, consumer));
            } else {
                let standing = self.state.standing(offset);
                self.schedule.refused(offset, standing);
            }
        }
    }

    fn propose_taken(&mut self) {
        let count = self.below(self.taken.len() as u64 + 1) as usize;
        let runs: Vec<_> = self.taken.drain(..count).collect();
        if runs.is_empty() {
            return;
        }
        if self.chance(0.2) {
            for run in &runs {
                self.schedule.give_back(run.clone());
            }
            // Lost; or only its answer was, and it lands after all.
            if self.chance(0.5) {
                return;
            }
        }
        self.grant(runs);
    }

    fn take_leaving(&mut self, max: u64) {
        let expired = self.schedule.expired(self.now().wall_ms, max as usize);
        for offset in expired {
            let expires = self.log[offset as usize].expires_at_ms;
            assert!(expires.is_some_and(|at_ms| at_ms <= self.now().wall_ms));
            self.leaving.push((offset..offset + 1, DropReason::Ttl));
        }
        for run in self.schedule.unmatched(max) {
            assert!(
                run.clone()
                    .all(|offset| !self.log[offset as usize].is_wanted)
            );
            self.leaving.push((run, DropReason::Unmatched));
        }
        for run in self.schedule.parked(max) {
            self.leaving.push((run, DropReason::Parked));
        }
    }

    fn propose_leaving(&mut self) {
        for (run, reason) in std::mem::take(&mut self.leaving) {
            if self.chance(0.2) {
                self.schedule.give_back_leaving(run, reason);
                continue;
            }
            let reply = self.drop_run(run, reason);
            for (offset, status, _) in expand(&reply) {
                if status == Status::Settled {
                    self.schedule.forget(offset..offset + 1);
                }
            }
        }
    }

    fn drop_run(&mut self, run: Range<u64>, reason: DropReason) -> Reply {
        let dropping = Dropping {
            runs: vec![run.into()],
            reason: reason as i32,
            discard: self.chance(0.2),
            epoch: self.state.epoch(),
        };
        self.apply(vec![Kind::Drop(dropping)]).remove(0)
    }

    fn outcome(&mut self, held: &Held) -> Action {
        let tries = Tries {
            failed: held.failed,
            hand_outs: held.hand_outs,
        };
        let jitter = self.random.random_range(0.0..1.0);
        let outcome = self.policy.after_failure(tries, self.now_ms, None, jitter);
        self.action(held.offset, outcome, false)
    }

    fn action(&mut self, offset: u64, outcome: Outcome, uncounted: bool) -> Action {
        let long = "é".repeat(40);
        let error = ["", "", "out of stock", &long][self.below(4) as usize].to_owned();
        match outcome {
            Outcome::Retry { at_ms } => Action::Retry(Retry { at_ms, error }),
            Outcome::Ready => Action::Release(true),
            Outcome::Dead { reason } => Action::Dead(Death {
                reason: reason as i32,
                error,
                uncounted,
                park_key: self.park_key(offset),
            }),
        }
    }

    fn park_key(&self, offset: u64) -> Option<u64> {
        let parks = self.policy.order == Order::PerKey
            && self.policy.on_key_failure == OnKeyFailure::ParkKey;
        self.log[offset as usize].key_hash.filter(|_| parks)
    }

    fn expire(&mut self) {
        if !self.schedule.leases_may_end(self.now_ms) {
            let over = |message: &&super::model::Message| matches!(message.is, Is::Leased(_, deadline_ms, _) if deadline_ms <= self.now_ms);
            let scanned = &self.model.messages[..self.schedule.scanned_to as usize];
            assert_eq!(scanned.iter().find(over), None, "the timer is late");
            return;
        }
        let max = 1 + self.below(4) as usize;
        let (overdue, next) = self.state.overdue(self.now_ms, max);
        self.schedule.leases_end_from(next);
        let mut verdicts = Vec::new();
        for held in overdue {
            verdicts.push(Verdict {
                first: held.offset,
                count: 1,
                lease: held.lease.number,
                action: Some(self.outcome(&held)),
            });
        }
        let consumer = None;
        self.apply(vec![Kind::Expire(Verdicts { consumer, verdicts })]);
        // Those whose proposal failed would be looked for again.
        let (_, next) = self.state.overdue(self.now_ms, 0);
        self.schedule.leases_end_from(next);
    }

    fn lose_consumer(&mut self) {
        let consumer = self.below(3);
        let held: Vec<_> = self
            .state
            .held(0)
            .filter(|h| h.lease.consumer == consumer)
            .collect();
        let mut verdicts = Vec::new();
        for held in held {
            verdicts.push(Verdict {
                first: held.offset,
                count: 1,
                lease: held.lease.number,
                action: Some(self.outcome(&held)),
            });
        }
        let consumer = Some(consumer);
        self.apply(vec![Kind::Gone(Verdicts { consumer, verdicts })]);
    }

    fn settle(&mut self) {
        let mut verdicts = Vec::new();
        let mut by = None;
        for _ in 0..=self.below(4) {
            if self.leases.is_empty() {
                break;
            }
            let recent = self.leases.len().min(12) as u64;
            let chosen = self.leases.len() - 1 - self.below(recent) as usize;
            let (offset, mut lease, consumer) = self.leases[chosen];
            by = [None, Some(consumer), Some(7)][self.below(8).min(2) as usize];
            if self.chance(0.05) {
                lease += 1;
            }
            let Standing::Open(record) = self.state.standing(offset) else {
                continue;
            };
            let tries = Tries {
                failed: record.failed,
                hand_outs: record.hand_outs,
            };
            let action = match self.below(8) {
                0..3 => Action::Ack(true),
                3..5 => {
                    let after = [None, Some(0), Some(50)][self.below(3) as usize];
                    let outcome = self.policy.after_failure(tries, self.now_ms, after, 0.5);
                    self.action(offset, outcome, false)
                }
                5 => {
                    let outcome = self.policy.after_release(tries);
                    self.action(offset, outcome, true)
                }
                6 => Action::Extend(self.now_ms + self.random.random_range(-100..3_000)),
                _ => {
                    let reason = Reason::Rejected;
                    self.action(offset, Outcome::Dead { reason }, false)
                }
            };
            let is_one = matches!(action, Action::Dead(_)) || self.chance(0.5);
            let count = if is_one {
                self.below(2)
            } else {
                1 + self.below(4)
            };
            verdicts.push(Verdict {
                first: offset,
                count,
                lease,
                action: Some(action),
            });
        }
        if self.chance(0.3) {
            return self.complete(verdicts);
        }
        let consumer = by;
        let verdicts = Verdicts { consumer, verdicts };
        // A consumer's verdicts in the leader's words must fail, not pass.
        let kind = match self.below(20) {
            0 => Kind::Expire(verdicts),
            _ => Kind::Settle(verdicts),
        };
        self.apply(vec![kind]);
    }

    fn publish(&mut self) {
        let count = 1 + self.below(4) as usize;
        let special = self.chance(0.7);
        for _ in 0..count {
            let mut attributes = Attributes::default();
            if special {
                let now_ms = self.now().wall_ms;
                attributes.key_hash = self.chance(0.8).then(|| self.below(4));
                let delay = self.random.random_range(-100..2_000);
                attributes.delay_until_ms = self.chance(0.2).then_some(now_ms + delay);
                let ttl = self.random.random_range(1..4_000);
                attributes.expires_at_ms = self.chance(0.2).then_some(now_ms + ttl);
                attributes.priority = if self.chance(0.5) {
                    4
                } else {
                    self.below(11) as u8
                };
                attributes.is_wanted = self.chance(0.9);
            }
            self.log.push(attributes);
        }
        self.model.publish(count);
    }

    fn crash(&mut self) {
        // What was on its way either lands before the new leader begins, or never.
        if self.chance(0.5) {
            let runs = std::mem::take(&mut self.taken);
            if !runs.is_empty() {
                self.grant(runs);
            }
        }
        if self.chance(0.3) {
            self.change_policy();
        }
        let saved = self.state.save();
        let kept = std::mem::take(&mut self.state.kept);
        self.state = State::load(&saved).unwrap();
        // Who loads it knows what is kept.
        let lost = self.state.trim(self.model.trimmed_to, &kept);
        assert_eq!(lost, [], "nothing is lost by a restart");
        assert_eq!(self.state.save(), saved);
        self.rebuild();
    }

    fn change_policy(&mut self) {
        let changed = World::new(self.random.random()).policy;
        self.policy = changed;
    }

    fn step(&mut self) {
        match self.below(100) {
            0..14 => self.publish(),
            14..26 => {
                let wait = [1, 50, 400, 1_100][self.below(4) as usize];
                self.now_ms += self.random.random_range(0..=wait);
                if self.chance(0.1) {
                    self.wall_ms = self.random.random_range(-1_500..1_500);
                }
            }
            26..40 => {
                let at_most = 1 + self.below(8);
                self.scan(at_most);
            }
            40..56 => {
                let max = [1, 3, u64::MAX][self.below(3) as usize];
                self.take(max);
            }
            56..66 => self.propose_taken(),
            66..80 => self.settle(),
            80..86 => self.expire(),
            86..89 => self.take_leaving(3),
            89..92 => self.propose_leaving(),
            92 => self.lose_consumer(),
            93..96 => self.rare_step(),
            96 => self.crash(),
            97 if self.chance(0.5) => self.write_results(),
            97 => {
                let up_to = self.below(self.model.letters.len() as u64 + 2);
                self.apply(vec![Kind::DeadWritten(up_to)]);
            }
            _ => {
                // Cancelled by a user.
                let first = self.below(self.end() + 2);
                let run = first..first + 1 + self.below(3);
                self.drop_run(run, DropReason::Cancelled);
            }
        }
    }
}

fn run(seed: u64, steps: usize, cuts: bool) -> World {
    let mut world = World::new(seed);
    for _ in 0..steps {
        if cuts && world.chance(0.01) {
            world.cut();
        }
        world.step();
        world.check();
    }
    world.drain();
    world.check();
    world
}

#[test]
fn chance_finds_no_difference_to_the_model() {
    let seed = testing::seed();
    let rounds = std::env::var("QUEUE_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let fails = |seed: &u64| catch_unwind(|| drop(run(*seed, 400, true))).is_err();
    let seeds = (0..rounds.unwrap_or(250)).map(|round| seed.wrapping_add(round));
    let failed: Vec<u64> = seeds.filter(fails).take(5).collect();
    assert!(
        failed.is_empty(),
        "fails with each AQUEDUCT_SEED of {failed:?}"
    );
}

/// It found messages that had expired by a clock that went back before they could be dropped.
#[test]
fn what_was_found_stays_found() {
    run(15_749_832_460_531_168_346, 400, false);
}
