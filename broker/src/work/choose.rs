//! Who takes messages, and which they get: chosen by the schedule, then read.
//!
//! A message is read before it is leased, so that a consumer is never leased more bytes than it
//! asked for.

use std::collections::BTreeMap;

use super::{
    driver::Driver,
    lane::Lane,
    plan::{Choice, Demand, runs_of},
};
use crate::{
    lanes::record_bytes,
    queue::{policy::Policy, time::Now},
};

/// Messages that a consumer is leased in a partition and round.
const AT_A_TIME: u64 = 1_000;
/// What a stream is given in a round, bytes, whatever its credit is.
const DELIVERY_BYTES: u64 = 1 << 20;
/// What a message takes beside its own bytes.
const MESSAGE_BYTES: u64 = 256;
/// What all are given in a round, bytes; one message each may go beyond.
const ROUND_BYTES: u64 = 32 << 20;

impl Driver {
    /// Everybody who takes messages now; streams first, then calls.
    pub(super) fn demands(&self) -> Vec<Demand> {
        let is_paused = self.is_paused();
        let streams = self.consumers.iter().map(|consumer| {
            let (messages, bytes) = consumer.credit.now().unwrap_or((0, 0));
            let wants = !is_paused && consumer.wants();
            Demand {
                consumer: consumer.id,
                messages: if wants { messages } else { 0 },
                bytes: bytes.min(DELIVERY_BYTES),
                got: Vec::new(),
            }
        });
        let calls = self.calls.iter().map(|call| Demand {
            consumer: super::new_consumer(),
            messages: if is_paused { 0 } else { call.messages },
            bytes: call.bytes,
            got: Vec::new(),
        });
        streams.chain(calls).collect()
    }

    pub(super) async fn choose(
        &mut self,
        now: Now,
        demands: &mut [Demand],
    ) -> BTreeMap<usize, Vec<Choice>> {
        let mut choices: BTreeMap<usize, Vec<Choice>> = BTreeMap::new();
        let (count, lanes) = (demands.len(), self.lanes.len());
        let mut room = ROUND_BYTES;
        // What has nothing for one has nothing for the next.
        let mut is_empty = vec![false; lanes];
        for turn in 0..count {
            let who = (turn + self.turn) % count;
            let demand = &mut demands[who];
            demand.bytes = demand.bytes.min(room);
            let wanted = (demand.bytes, demand.messages);
            for turn in 0..lanes {
                let index = (turn + self.turn) % lanes;
                if demand.messages == 0 || demand.bytes == 0 {
                    break;
                }
                if is_empty[index] {
                    continue;
                }
                let lane = &mut self.lanes[index];
                match choose_in(lane, &self.policy, now, who, demand).await {
                    Some(chosen) => choices.entry(index).or_default().extend(chosen),
                    None => is_empty[index] = true,
                }
            }
            let (bytes, messages) = (wanted.0 - demand.bytes, wanted.1 - demand.messages);
            room = room.saturating_sub(bytes + messages * MESSAGE_BYTES);
            if room == 0 || is_empty.iter().all(|is_empty| *is_empty) {
                break;
            }
        }
        choices
    }
}

/// Takes messages of one partition for somebody, and reads them; `None` if there are none for
/// anybody.
async fn choose_in(
    lane: &mut Lane,
    policy: &Policy,
    now: Now,
    who: usize,
    demand: &mut Demand,
) -> Option<Vec<Choice>> {
    if lane.pause_left_ms().is_some() || lane.leases_rest() {
        return None;
    }
    let rate = lane.bucket.available(now.steady_ms, policy.rate_per_s);
    let (limit, consumer) = (policy.max_in_flight.consumer, demand.consumer);
    let most = demand.messages.min(AT_A_TIME).min(rate);
    let taken = lane.with(policy, |state, schedule| {
        let most = match limit {
            0 => most,
            limit => most.min(limit.saturating_sub(state.held_count(consumer))),
        };
        (schedule.next(now, most), state.epoch(), most)
    });
    let (runs, epoch, most) = taken?;
    if runs.is_empty() {
        // Whoever holds all it may leaves the others theirs.
        return (most == 0 && rate > 0).then(Vec::new);
    }
    let read = lane.reader.read_runs(&runs, demand.bytes).await;
    if read.is_cut_off {
        lane.pause();
    }
    lane.with(policy, |_, schedule| {
        for run in &read.back {
            schedule.give_back(run.clone());
        }
    });
    let count = read.records.len() as u64;
    lane.bucket.take(count);
    demand.messages -= count;
    let bytes = read.records.values().map(record_bytes).sum();
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
    Some(chosen)
}
