//! One round of a queue group: scan on, choose, read, one entry for each partition, and what came
//! of it.
//!
//! A message is delivered after its lease is durable.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{
    Settled,
    complete::Completing,
    driver::{Driver, Settling},
    lane::Lane,
    outcome::Waiting,
    plan::{Choice, Demand, Docket, Part, Results, Wishes, plan},
    verdicts::Wish,
};
use crate::{
    error::Refusal,
    lanes::record_bytes,
    partition::{Stepping, queues::Step},
    queue::{command::Batch, time::Now},
};

/// Verdicts of a round after which no further request is taken: an entry has a limit.
const SETTLED_AT_A_TIME: usize = 20_000;

/// An entry on its way into a partition's log, by the partition's place.
type Proposed = (usize, Vec<Part>, Result<Stepping, Refusal>);

/// The verdicts of a round.
struct Verdicts {
    /// By request, with what of each has to wait.
    settlings: Vec<Settling>,
    /// What is told if the log says nothing else.
    results: Results,
    /// By the partition's place.
    wishes: BTreeMap<usize, Wishes>,
}

impl Driver {
    /// Whether anything was done, or is left to do at once.
    pub(super) async fn round(&mut self) -> bool {
        let now = self.now();
        let policy = &self.policy;
        let lanes = self.lanes.iter_mut();
        lanes.for_each(|lane| lane.follow_wall(policy, now.wall_ms));
        self.attending = self.is_attending();
        let mut more = match self.attending {
            true => {
                self.attend().await;
                false
            }
            false => self.scan().await,
        };
        let mut demands = self.demands();
        let choices = self.choose(now, &mut demands).await;
        let Verdicts {
            settlings,
            results,
            wishes,
        } = self.take_verdicts();
        let mut waiting = Waiting { demands, results };
        let now = self.now();
        let mut steps = Vec::new();
        if !self.completing.is_empty() {
            steps.extend((0..self.lanes.len()).map(|lane| self.take_steps(lane)));
        }
        let proposed = self.propose(now, choices, (wishes, steps)).await;
        more |= !proposed.is_empty();
        for (index, parts, begun) in proposed {
            let outcome = match begun {
                Ok(stepping) => stepping.outcome().await,
                Err(refusal) => Err(refusal),
            };
            let lane = &mut self.lanes[index];
            lane.conclude(&self.policy, now.steady_ms, (parts, outcome), &mut waiting);
        }
        self.answer_settled(settlings, waiting.results);
        self.deliver(now, waiting.demands);
        self.send_results();
        self.turn = self.turn.wrapping_add(1);
        self.copy_dead();
        more
    }

    /// One entry for each partition that has something to log.
    async fn propose(
        &mut self,
        now: Now,
        mut choices: BTreeMap<usize, Vec<Choice>>,
        (mut wishes, mut steps): (BTreeMap<usize, Wishes>, Vec<Vec<Completing>>),
    ) -> Vec<Proposed> {
        let is_demanded = self.has_demand() || !self.asked.is_empty();
        let mut proposed = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let wishes = wishes.remove(&index).unwrap_or_default();
            let chosen = choices.remove(&index).unwrap_or_default();
            let steps = steps.get_mut(index).map(std::mem::take).unwrap_or_default();
            let is_quiet = wishes.is_empty() && steps.is_empty() && chosen.is_empty();
            if lane.pause_left_ms().is_some() && is_quiet {
                continue;
            }
            let docket = Docket {
                now,
                is_demanded: is_demanded || self.attending && lane.has_messages(),
                wishes,
                steps,
                chosen,
            };
            let plan = plan(lane, &self.group, &self.policy, docket);
            if plan.commands.is_empty() {
                continue;
            }
            let step = Step {
                group_id: self.group.id,
                batch: Batch {
                    now_ms: now.steady_ms,
                    discard_dead: !self.policy.dead_letters,
                    commands: plan.commands,
                },
            };
            let begun = lane.partition.begin_step(step).await;
            proposed.push((index, plan.parts, begun));
        }
        proposed
    }

    async fn scan(&mut self) -> bool {
        let is_asked = !self.asked.is_empty();
        let (mut more, demanded) = (false, self.has_demand() || is_asked);
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

    /// The verdicts of this round; those that have to wait stay.
    fn take_verdicts(&mut self) -> Verdicts {
        let policy = &self.policy;
        let blind: Vec<bool> = self
            .lanes
            .iter_mut()
            .map(|l| l.judges_blindly(policy))
            .collect();
        let is_blind = |wish: &Wish| blind.get(wish.partition as usize) == Some(&true);
        let (mut settlings, mut results) = (Vec::new(), Results(Vec::new()));
        let mut wishes: BTreeMap<usize, Wishes> = BTreeMap::new();
        let mut taken = 0;
        for mut settling in std::mem::take(&mut self.settling) {
            let some_seen = settling.wishes.iter().any(|(_, wish)| !is_blind(wish));
            let only_empty = settling.wishes.is_empty();
            if taken >= SETTLED_AT_A_TIME || !(some_seen || only_empty) {
                self.settling.push(settling);
                continue;
            }
            let request = settlings.len();
            for (place, wish) in std::mem::take(&mut settling.wishes) {
                if is_blind(&wish) {
                    settling.wishes.push((place, wish));
                    continue;
                }
                taken += 1;
                let lane = wish.partition as usize;
                match self.lanes.get(lane) {
                    Some(known) if wish.offset < known.partition.shared().high_watermark() => {
                        let judged = wishes.entry(lane).or_default();
                        judged.push(((request, place), wish));
                    }
                    Some(_) => {}
                    // Nothing but the log's answer makes a verdict good.
                    None => {
                        let known = self.live.partition(wish.partition);
                        let why = known.err().unwrap_or_else(|| wish.lease_lost());
                        settling.results[place] = Err(why);
                    }
                }
            }
            results.0.push(std::mem::take(&mut settling.results));
            settlings.push(settling);
        }
        Verdicts {
            settlings,
            results,
            wishes,
        }
    }

    /// Answers requests of which all is judged; the rest of the others goes on waiting.
    fn answer_settled(&mut self, settlings: Vec<Settling>, results: Results) {
        for (mut settling, results) in settlings.into_iter().zip(results.0) {
            if settling.wishes.is_empty() {
                // Whoever hung up does not want to know.
                let _ = settling.answer.send(results);
            } else {
                settling.results = results;
                self.settling.push(settling);
            }
        }
    }

    /// Sends what was leased. What nobody takes any more is given back.
    fn deliver(&mut self, now: Now, demands: Vec<Demand>) {
        let mut calls = std::mem::take(&mut self.calls).into_iter();
        let streams = self.consumers.len();
        let (mut messages, mut bytes) = (0, 0);
        for (index, mut demand) in demands.into_iter().enumerate() {
            demand.got.iter_mut().for_each(|got| got.tell_by_wall(now));
            let sizes = demand.got.iter().map(|d| record_bytes(&d.record));
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
                    Some(call) => {
                        let lanes = &self.lanes;
                        let holding = || lanes.iter().flat_map(Lane::holders).collect();
                        self.face.holds(demand.consumer, call.holder, holding);
                        call.answer.send(Ok(demand.got)).is_ok()
                    }
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
}

impl Settling {
    pub(super) fn new(wishes: Vec<Wish>, answer: oneshot::Sender<Settled>) -> Settling {
        Settling {
            results: wishes.iter().map(|wish| Err(wish.lease_lost())).collect(),
            wishes: wishes.into_iter().enumerate().collect(),
            answer,
        }
    }
}
