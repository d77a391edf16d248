//! Cuts of a partition's state by chance, good and bad ones, between everything that groups do.
//! Only in tests.
//!
//! Whatever is cut, nothing that a group needs is lost; and a state that was saved and loaded in
//! between goes on like one that was not.

use std::{collections::BTreeSet, panic::catch_unwind};

use aqueduct_proto::{compression::Compression, record::BatchBuilder};
use aqueduct_storage::Kind as EntryKind;
use bytes::Bytes;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    kept::{Cut, CutReply, KeptRecord},
    positions::{self, Commit, Move, Moves},
    queues::{Step, Steps},
    state::{Change, Command, State},
};
use crate::{
    queue::{
        command::{Action, Batch, Command as QueueCommand, Grant, Kind, Run, Verdict, Verdicts},
        state::State as Queue,
    },
    raft::engine::{Data, Reply},
};

const QUEUES: [u64; 2] = [1, 2];
const STREAM: u64 = 3;

struct World {
    random: StdRng,
    now_ms: i64,
    /// Goes straight on, and is saved and loaded now and then.
    states: [State; 2],
    made: u64,
    kept: u64,
}

fn batch_of(count: u32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..count {
        builder.push(1, None, Some(b"job"), &[]);
    }
    builder.finish().unwrap()
}

impl World {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.random_range(0..bound.max(1))
    }

    fn state(&self) -> &State {
        &self.states[0]
    }

    fn apply(&mut self, data: &Data) -> Reply {
        let [straight, loaded] = &mut self.states;
        let reply = straight.apply(data);
        assert_eq!(reply, loaded.apply(data));
        assert_eq!(straight, loaded);
        reply
    }

    fn publish(&mut self) {
        let count = 1 + self.below(20) as u32;
        let kind = EntryKind::Batch;
        let payload = batch_of(count);
        self.apply(&Data {
            kind,
            flags: 0,
            payload,
        });
    }

    fn step_queue(&mut self) {
        self.now_ms += self.random.random_range(0..5);
        let group_id = QUEUES[self.below(2) as usize];
        let (start, end) = (self.state().log_start_offset, self.state().next_offset);
        let (ahead, choice, sought) = (self.below(6), self.below(20), self.below(end + 1));
        let known = self.state().queues.get(group_id);
        let first = known.map_or(start, Queue::floor) + ahead;
        let held = known.and_then(|queue| queue.held(0).next());
        let epoch = known.map_or(0, Queue::epoch);
        let kind = match choice {
            _ if known.is_none() => Kind::Begin(start),
            0 => Kind::Seek(sought),
            1 => Kind::Forget(true),
            2 => Kind::DeadWritten(known.map_or(0, Queue::dead_numbered_to)),
            3..10 => Kind::Lease(Grant {
                consumer: 1,
                deadline_ms: self.now_ms + 1_000_000,
                runs: vec![Run { first, count: 12 }],
                epoch,
            }),
            choice => {
                let Some(held) = held else { return };
                let dead = Action::Dead(crate::queue::command::Death {
                    reason: 3,
                    ..Default::default()
                });
                let action = if choice == 19 {
                    dead
                } else {
                    Action::Ack(true)
                };
                let count = if choice == 19 { 1 } else { 8 };
                let verdict = Verdict {
                    first: held.offset,
                    count,
                    lease: held.lease.number,
                    action: Some(action),
                };
                Kind::Settle(Verdicts {
                    consumer: None,
                    verdicts: vec![verdict],
                })
            }
        };
        let batch = Batch {
            now_ms: self.now_ms,
            commands: vec![QueueCommand::new(kind)],
            ..Batch::default()
        };
        let steps = vec![Step { group_id, batch }];
        self.apply(&Command::data(Change::Steps(Steps { steps })));
    }

    fn move_stream(&mut self) {
        let end = self.state().next_offset;
        let known = self.state().positions.get(STREAM).unwrap_or_default();
        let offset = (known.offset.unwrap_or(0) + self.below(30)).min(end);
        let epoch = known.epoch;
        let kind = match self.below(30) {
            0 => positions::Kind::Seek(self.below(end + 1)),
            1 => positions::Kind::Forget(true),
            _ => positions::Kind::Commit(Commit { epoch, offset }),
        };
        let kind = Some(kind);
        let group_id = STREAM;
        let moves = vec![Move { group_id, kind }];
        self.apply(&Command::data(Change::Moves(Moves { now_ms: 1, moves })));
    }

    /// Every offset that each queue needs.
    fn needs(&self) -> Vec<BTreeSet<u64>> {
        let state = self.state();
        let queues = QUEUES.iter().filter_map(|id| state.queues.get(*id));
        let needs = queues.map(|queue| {
            let of = |offset: &u64| queue.needs_in(*offset..offset + 1, |_| false);
            (0..state.next_offset).filter(of).collect()
        });
        needs.collect()
    }

    /// As a rule everything that is needed is kept; sometimes something is forgotten.
    fn cut(&mut self) {
        let (start, end) = (self.state().log_start_offset, self.state().next_offset);
        let before = start + self.below(40);
        let all: BTreeSet<u64> = self.needs().into_iter().flatten().collect();
        let forgets = self.random.random_bool(0.1);
        let mut keep: Vec<u64> = all.range(start..before.max(start)).copied().collect();
        keep.retain(|_| !forgets || self.random.random_bool(0.8));
        let kept: Vec<u64> = self.state().kept.offsets().iter_from(0).collect();
        let is_wrong = self.random.random_bool(0.2);
        let drop = kept.into_iter().filter(|it| is_wrong || !all.contains(it));
        let cut = Cut {
            before,
            keep: keep
                .iter()
                .map(|offset| KeptRecord {
                    offset: *offset,
                    batch: batch_of(1),
                })
                .collect(),
            drop: drop.collect(),
        };
        let needed = self.needs();
        let reply = self.apply(&Command::data(Change::Cut(cut)));
        let Reply::Answer(reply) = reply else {
            panic!("a cut answers")
        };
        let is_made = CutReply::decode(reply.as_ref()).unwrap().is_made;
        assert_eq!(self.needs(), needed, "a cut takes nothing that is needed");
        assert_eq!(
            self.state().log_start_offset > start,
            is_made && end > start
        );
        self.made += u64::from(is_made);
    }

    fn trim(&mut self) {
        let before = self.state().log_start_offset + self.below(3);
        self.apply(&Command::data(Change::Trim(before)));
        assert_eq!(
            self.state().kept.first_from(0).filter(|at| *at < before),
            None
        );
    }

    fn check(&mut self) {
        let state = self.state();
        let kept = state.kept.offsets();
        assert!(
            kept.last() < Some(state.log_start_offset).filter(|start| *start > 0)
                || kept.is_empty()
        );
        for needed in self.needs() {
            let mut below = needed.range(..state.log_start_offset);
            // A dead letter's message may be gone since a trim.
            let is_there = |offset: &&u64| kept.contains(**offset) || self.is_dead(**offset);
            assert!(below.all(|offset| is_there(&offset)), "{needed:?}");
        }
        self.kept = self.kept.max(kept.len());
    }

    fn is_dead(&self, offset: u64) -> bool {
        let queues = QUEUES.iter().filter_map(|id| self.state().queues.get(*id));
        let mut dead = queues.flat_map(|queue| queue.dead_letters(0));
        dead.any(|(_, dead)| dead.offset == offset)
    }

    fn step(&mut self) {
        match self.below(100) {
            0..15 => self.publish(),
            15..70 => self.step_queue(),
            70..85 => self.move_stream(),
            85..97 => self.cut(),
            97 => self.trim(),
            _ => {
                let saved = self.states[1].save();
                self.states[1] = State::load(&saved).unwrap();
            }
        }
    }
}

fn run(seed: u64) -> World {
    let mut world = World {
        random: StdRng::seed_from_u64(seed),
        now_ms: 1_000,
        states: Default::default(),
        made: 0,
        kept: 0,
    };
    for _ in 0..400 {
        world.step();
        world.check();
    }
    world
}

#[test]
fn no_cut_takes_what_is_needed() {
    let seed = std::env::var("AQUEDUCT_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let (mut made, mut kept) = (0, 0);
    for seed in (0..60).map(|round| seed.wrapping_add(round)) {
        match catch_unwind(|| run(seed)) {
            Ok(world) => (made, kept) = (made + world.made, world.kept.max(kept)),
            Err(_) => panic!("fails with AQUEDUCT_SEED={seed}"),
        }
    }
    assert!(made > 100 && kept > 3, "{made} {kept}");
}
