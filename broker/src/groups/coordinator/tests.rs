//! The coordinator against a model of the world around it: random events in any order, claims
//! that come late or fail, members that vanish. Whatever happens, no partition is delivered to
//! two; and when the world calms down, every partition is delivered to somebody, in balance.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const SESSION: u64 = 1_000;
const PARTITIONS: u32 = 7;

#[derive(Debug, Clone)]
enum Op {
    Join {
        name: u8,
        fixed: bool,
    },
    Disconnect(u8),
    Close(u8),
    Leave(u8),
    Release(u8),
    Heartbeat(u8),
    /// The n-th claim that waits is made, or fails.
    Claim {
        n: usize,
        made: bool,
    },
    Seek(u32),
    Overtaken(u8),
    Pass(u64),
    Grow,
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0u8..6;
    prop_oneof![
        4 => (name.clone(), any::<bool>()).prop_map(|(name, fixed)| Op::Join { name, fixed }),
        1 => name.clone().prop_map(Op::Disconnect),
        1 => name.clone().prop_map(Op::Close),
        1 => name.clone().prop_map(Op::Leave),
        4 => name.clone().prop_map(Op::Release),
        3 => name.clone().prop_map(Op::Heartbeat),
        8 => (0usize..8, prop::bool::weighted(0.9)).prop_map(|(n, made)| Op::Claim { n, made }),
        1 => (0..PARTITIONS).prop_map(Op::Seek),
        1 => name.prop_map(Op::Overtaken),
        2 => (0u64..700).prop_map(Op::Pass),
        1 => Just(Op::Grow),
    ]
}

/// The world: connections that are open, what each may be delivered, claims on their way.
struct World {
    coordinator: Coordinator,
    now_ms: u64,
    conns: BTreeMap<u8, Conn>,
    /// Delivered now: partition to connection and epoch.
    delivered: BTreeMap<u32, (Conn, u64)>,
    revoking: BTreeMap<Conn, BTreeSet<u32>>,
    claims: Vec<(u32, u64)>,
    epochs: BTreeMap<u32, u64>,
    partitions: u32,
}

impl World {
    fn new() -> World {
        let mut coordinator = Coordinator::new(PARTITIONS, 4);
        coordinator.configure(SESSION, 300);
        World {
            coordinator,
            now_ms: 0,
            conns: BTreeMap::new(),
            delivered: BTreeMap::new(),
            revoking: BTreeMap::new(),
            claims: Vec::new(),
            epochs: BTreeMap::new(),
            partitions: PARTITIONS,
        }
    }

    fn end(&mut self, conn: Conn) {
        self.conns.retain(|_, open| *open != conn);
        self.delivered.retain(|_, (owner, _)| *owner != conn);
        self.revoking.remove(&conn);
    }

    fn stop(&mut self, conn: Conn, partitions: &[u32]) {
        for partition in partitions {
            if self
                .delivered
                .get(partition)
                .is_some_and(|(c, _)| *c == conn)
            {
                self.delivered.remove(partition);
            }
        }
    }

    /// Carries out what the coordinator wants, and checks that it may.
    fn effects(&mut self) {
        for effect in self.coordinator.take_effects() {
            let (conn, tell) = match effect {
                Effect::Claim {
                    partition, claim, ..
                } => {
                    self.claims.push((partition, claim));
                    continue;
                }
                Effect::Tell(conn, tell) => (conn, tell),
            };
            match tell {
                Tell::Assigned(assignments) => {
                    for Assignment {
                        partition, epoch, ..
                    } in assignments
                    {
                        let before = self.delivered.insert(partition, (conn, epoch));
                        assert_eq!(before, None, "partition {partition} has two owners");
                        assert_eq!(self.epochs[&partition], epoch, "not the present epoch");
                    }
                }
                Tell::Revoking { partitions, .. } => {
                    self.stop(conn, &partitions);
                    self.revoking.entry(conn).or_default().extend(partitions);
                }
                Tell::Lost { partitions, .. } => {
                    self.stop(conn, &partitions);
                    if let Some(revoking) = self.revoking.get_mut(&conn) {
                        revoking.retain(|p| !partitions.contains(p));
                    }
                }
                Tell::Fenced | Tell::Expired | Tell::Removed => self.end(conn),
                Tell::Paused(_) => {}
            }
        }
    }

    fn join(&mut self, name: u8, fixed: bool) {
        let joining = Joining {
            member_id: format!("m{name}"),
            instance_id: if fixed {
                format!("i{name}")
            } else {
                String::new()
            },
            ..Joining::default()
        };
        let members = self.coordinator.members();
        match self.coordinator.join(joining, self.now_ms) {
            Ok((conn, id)) => {
                assert_eq!(id, format!("m{name}"));
                // The old connection is told first; the new one counts from now on.
                self.effects();
                self.conns.insert(name, conn);
            }
            Err(NotJoined::TooMany) => assert_eq!(members, 4),
            Err(NotJoined::IdTaken) => {}
        }
    }

    fn run(&mut self, op: &Op) {
        let now_ms = self.now_ms;
        match *op {
            Op::Join { name, fixed } => self.join(name, fixed),
            Op::Disconnect(name) => {
                if let Some(conn) = self.conns.get(&name).copied() {
                    self.end(conn);
                    self.coordinator.disconnected(conn);
                }
            }
            Op::Close(name) => {
                if let Some(conn) = self.conns.get(&name).copied() {
                    self.end(conn);
                    self.coordinator.closed(conn, now_ms);
                }
            }
            Op::Leave(name) => {
                self.coordinator.leave(&format!("m{name}"), now_ms);
            }
            Op::Release(name) => {
                if let Some(conn) = self.conns.get(&name).copied() {
                    let partitions = self.revoking.remove(&conn).unwrap_or_default();
                    let partitions: Vec<u32> = partitions.into_iter().collect();
                    self.coordinator.released(conn, &partitions, now_ms);
                }
            }
            Op::Heartbeat(name) => {
                if let Some(conn) = self.conns.get(&name).copied() {
                    self.coordinator.heard(conn, now_ms);
                }
            }
            Op::Claim { n, made } => self.claim(n, made),
            Op::Seek(partition) => {
                *self.epochs.entry(partition).or_default() += 1;
                self.coordinator.sought(&[partition], now_ms);
            }
            Op::Overtaken(name) => {
                let conn = self.conns.get(&name).copied();
                let mine = self.delivered.iter().find(|(_, (c, _))| Some(*c) == conn);
                if let Some((partition, (conn, epoch))) = mine.map(|(p, owner)| (*p, *owner)) {
                    let stop = Stop {
                        partition,
                        epoch,
                        cursor: 5,
                        reason: LostReason::Overrun,
                    };
                    self.coordinator.stopped(conn, stop);
                }
            }
            Op::Pass(ms) => {
                self.now_ms += ms;
                self.coordinator.tick(self.now_ms);
            }
            Op::Grow => {
                self.partitions = (self.partitions + 1).min(12);
                self.coordinator.set_partitions(self.partitions, now_ms);
            }
        }
        self.effects();
    }

    fn claim(&mut self, n: usize, made: bool) {
        if self.claims.is_empty() {
            return;
        }
        let (partition, claim) = self.claims.remove(n % self.claims.len());
        let made = made.then(|| {
            let epoch = self.epochs.entry(partition).or_default();
            *epoch += 1;
            let found = Found::At {
                position: 0,
                skipped: None,
            };
            (*epoch, found)
        });
        self.coordinator
            .claimed(partition, claim, made, self.now_ms);
    }

    /// Everybody behaves and time passes.
    fn calm_down(&mut self) {
        for _ in 0..40 {
            for name in 0..6 {
                self.run(&Op::Heartbeat(name));
                self.run(&Op::Release(name));
            }
            while !self.claims.is_empty() {
                self.run(&Op::Claim { n: 0, made: true });
            }
            self.run(&Op::Pass(200));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn one_owner_at_a_time_and_in_the_end_one_for_each(
        ops in proptest::collection::vec(op(), 0..120),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.calm_down();
        prop_assert_eq!(world.coordinator.members(), world.conns.len());
        if world.conns.is_empty() {
            prop_assert!(world.delivered.is_empty());
            return Ok(());
        }
        prop_assert_eq!(world.delivered.len(), world.partitions as usize);
        let count = |conn: &Conn| world.delivered.values().filter(|(c, _)| c == conn).count();
        let counts: Vec<usize> = world.conns.values().map(count).collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        prop_assert!(most.zip(least).is_some_and(|(m, l)| m - l <= 1), "{:?}", counts);
        prop_assert!(!world.coordinator.is_rebalancing());
        // Without cause nothing moves.
        let before = world.delivered.clone();
        world.calm_down();
        prop_assert_eq!(before, world.delivered);
    }
}

fn settled(names: &[u8]) -> World {
    let mut world = World::new();
    for name in names {
        world.run(&Op::Join {
            name: *name,
            fixed: true,
        });
    }
    world.calm_down();
    world
}

#[test]
fn a_member_that_comes_back_gets_its_own_under_new_epochs() {
    let mut world = settled(&[0, 1]);
    let before = world.delivered.clone();
    let (mine, other) = (world.conns[&0], world.conns[&1]);
    world.run(&Op::Close(0));
    world.run(&Op::Join {
        name: 0,
        fixed: true,
    });
    while !world.claims.is_empty() {
        world.run(&Op::Claim { n: 0, made: true });
    }
    let now = world.conns[&0];
    for (partition, (conn, epoch)) in before {
        let (owner, current) = world.delivered[&partition];
        if conn == mine {
            assert!(owner == now && current > epoch);
        } else {
            assert_eq!((owner, current), (other, epoch), "it was not touched");
        }
    }
}

#[test]
fn an_id_of_another_instance_is_refused_and_a_stall_counts_for_nobody() {
    let mut world = settled(&[0]);
    let joining = Joining {
        member_id: "m0".into(),
        instance_id: "other".into(),
        ..Joining::default()
    };
    let refused = world.coordinator.join(joining, world.now_ms);
    assert_eq!(refused, Err(NotJoined::IdTaken));
    world.now_ms += 10 * SESSION;
    world.coordinator.forgive(10 * SESSION);
    world.coordinator.tick(world.now_ms);
    world.effects();
    assert_eq!(world.conns.len(), 1);
}
