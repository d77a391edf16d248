//! The coordinator of a group: who is a member, who has which partition. Pure: events and the
//! time go in, effects come out; no clock, no I/O.
//!
//! ```text
//!          claim made                    another shall have it
//!  Free ──► Claiming ──────────► Owned ─────────────────────────► Revoking ──► Free
//!    ▲          │ failed           │ member gone, or seek             released, or the
//!    └──────────┴──────────────────┘                                 deadline has passed
//! ```
//!
//! A partition has one place in this picture, so it never has two owners. A member is told of a
//! partition only when its claim is in the partition's log, which fences whoever had it before:
//! what this file believes decides who is *told*, never whose commit counts.
//!
//! A rebalance is incremental: only partitions that move are asked back, everybody else goes on.
//! A member that is away (its stream broke) keeps its partitions until its session ends; when it
//! comes back it gets them under new epochs. A member that leaves loses them at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{
    assign::assign,
    terms::{
        Assignment, Conn, Effect, Found, Joining, LostReason, MemberInfo, NotJoined, Slot, Stop,
        Tell,
    },
};

/// After a claim failed, the next try.
const CLAIM_AGAIN_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free { not_before_ms: u64 },
    Claiming { slot: Slot, claim: u64 },
    Owned { slot: Slot, epoch: u64 },
    Revoking { slot: Slot, deadline_ms: u64 },
}

const FREE: Place = Place::Free { not_before_ms: 0 };

impl Place {
    fn slot(&self) -> Option<Slot> {
        match self {
            Place::Free { .. } => None,
            Place::Claiming { slot, .. }
            | Place::Owned { slot, .. }
            | Place::Revoking { slot, .. } => Some(*slot),
        }
    }
}

struct Member {
    info: Joining,
    /// `None`: away.
    conn: Option<Conn>,
    heard_ms: u64,
}

/// The state of a group with members.
pub(super) struct Coordinator {
    session_ms: u64,
    revocation_ms: u64,
    members_max: usize,
    members: BTreeMap<Slot, Member>,
    places: Vec<Place>,
    target: Vec<Option<Slot>>,
    /// Members or partitions have changed since the target was made.
    unbalanced: bool,
    last: u64,
    effects: Vec<Effect>,
}

impl Coordinator {
    pub(super) fn new(partitions: u32, members_max: usize) -> Coordinator {
        Coordinator {
            session_ms: 0,
            revocation_ms: 0,
            members_max,
            members: BTreeMap::new(),
            places: vec![FREE; partitions as usize],
            target: vec![None; partitions as usize],
            unbalanced: false,
            last: 0,
            effects: Vec::new(),
        }
    }

    /// The group's time-outs, milliseconds.
    pub(super) fn configure(&mut self, session_ms: u64, revocation_ms: u64) {
        self.session_ms = session_ms;
        self.revocation_ms = revocation_ms.min(session_ms);
    }

    /// Members that are connected or within their session.
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// Whether some partition is not with the member that shall have it.
    pub(super) fn is_rebalancing(&self) -> bool {
        !self.members.is_empty()
            && !self
                .places
                .iter()
                .all(|place| matches!(place, Place::Owned { .. }))
    }

    /// Everybody, in the order of joining.
    pub(super) fn describe(&self, now_ms: u64) -> Vec<MemberInfo> {
        let mut partitions: BTreeMap<Slot, Vec<u32>> = BTreeMap::new();
        for (number, place) in (0..).zip(&self.places) {
            if let Some(slot) = place.slot() {
                partitions.entry(slot).or_default().push(number);
            }
        }
        let info = |(slot, member): (&Slot, &Member)| MemberInfo {
            member: member.info.clone(),
            partitions: partitions.remove(slot).unwrap_or_default(),
            idle_ms: now_ms.saturating_sub(member.heard_ms),
        };
        self.members.iter().map(info).collect()
    }

    /// The connection of a member, if it is connected.
    pub(super) fn conn_of(&self, member_id: &str) -> Option<Option<Conn>> {
        self.slot_of(member_id).map(|slot| self.members[&slot].conn)
    }

    fn slot_of(&self, member_id: &str) -> Option<Slot> {
        self.find(|member| member.info.member_id == member_id)
    }

    fn slot_of_conn(&self, conn: Conn) -> Option<Slot> {
        self.find(|member| member.conn == Some(conn))
    }

    fn find(&self, wanted: impl Fn(&Member) -> bool) -> Option<Slot> {
        let mut all = self.members.iter();
        all.find(|(_, member)| wanted(member))
            .map(|(slot, _)| *slot)
    }

    /// What there is to do by now.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(&mut self.effects)
    }

    /// A member joins or comes back; answers its connection and its id.
    ///
    /// # Errors
    /// If there is no room, or the id is another's.
    pub(super) fn join(
        &mut self,
        mut joining: Joining,
        now_ms: u64,
    ) -> Result<(Conn, String), NotJoined> {
        let by_id = self.slot_of(&joining.member_id);
        let by_instance = (!joining.instance_id.is_empty())
            .then(|| self.find(|member| member.info.instance_id == joining.instance_id))
            .flatten();
        if let Some(slot) = by_id {
            let known = &self.members[&slot].info.instance_id;
            if by_instance.is_some_and(|other| other != slot)
                || (*known != joining.instance_id && !known.is_empty())
            {
                return Err(NotJoined::IdTaken);
            }
        }
        let known = by_instance.or(by_id);
        if known.is_none() && self.members.len() >= self.members_max {
            return Err(NotJoined::TooMany);
        }
        let conn = self.next();
        let slot = match known {
            Some(slot) => {
                if joining.is_new {
                    joining.member_id = self.members[&slot].info.member_id.clone();
                }
                self.come_back(slot);
                slot
            }
            None => {
                self.unbalanced = true;
                self.next()
            }
        };
        let member_id = joining.member_id.clone();
        let member = Member {
            info: joining,
            conn: Some(conn),
            heard_ms: now_ms,
        };
        self.members.insert(slot, member);
        self.settle(now_ms);
        Ok((conn, member_id))
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A known member has a new connection: what it has, it gets anew; what it was asked to give
    /// back, it has given back.
    fn come_back(&mut self, slot: Slot) {
        if let Some(old) = self.members[&slot].conn {
            self.effects.push(Effect::Tell(old, Tell::Fenced));
        }
        for place in &mut self.places {
            if place.slot() == Some(slot) {
                *place = FREE;
            }
        }
    }

    /// The member was heard of at this time.
    pub(super) fn heard(&mut self, conn: Conn, at_ms: u64) {
        if let Some(slot) = self.slot_of_conn(conn)
            && let Some(member) = self.members.get_mut(&slot)
        {
            member.heard_ms = member.heard_ms.max(at_ms);
        }
    }

    /// The connection broke; the member may come back within its session.
    pub(super) fn disconnected(&mut self, conn: Conn) {
        if let Some(slot) = self.slot_of_conn(conn)
            && let Some(member) = self.members.get_mut(&slot)
        {
            member.conn = None;
        }
    }

    /// The member closed its stream in order. A static one may be on its way back.
    pub(super) fn closed(&mut self, conn: Conn, now_ms: u64) {
        let Some(slot) = self.slot_of_conn(conn) else {
            return;
        };
        if self.members[&slot].info.instance_id.is_empty() {
            self.remove(slot);
            self.settle(now_ms);
        } else {
            self.disconnected(conn);
        }
    }

    /// The member goes for good. `false`: there is none of this id.
    pub(super) fn leave(&mut self, member_id: &str, now_ms: u64) -> bool {
        let Some(slot) = self.slot_of(member_id) else {
            return false;
        };
        if let Some(conn) = self.members[&slot].conn {
            self.effects.push(Effect::Tell(conn, Tell::Removed));
        }
        self.remove(slot);
        self.settle(now_ms);
        true
    }

    fn remove(&mut self, slot: Slot) {
        self.members.remove(&slot);
        self.unbalanced = true;
        for place in &mut self.places {
            if place.slot() == Some(slot) {
                *place = FREE;
            }
        }
    }

    /// The member gives back what it was asked for.
    pub(super) fn released(&mut self, conn: Conn, partitions: &[u32], now_ms: u64) {
        let Some(slot) = self.slot_of_conn(conn) else {
            return;
        };
        for number in partitions {
            match self.places.get_mut(*number as usize) {
                Some(place @ Place::Revoking { .. }) if place.slot() == Some(slot) => *place = FREE,
                _ => {}
            }
        }
        self.settle(now_ms);
    }

    /// A claim is in the partition's log under `epoch`, or (`None`) failed.
    pub(super) fn claimed(
        &mut self,
        partition: u32,
        claim: u64,
        made: Option<(u64, Found)>,
        now_ms: u64,
    ) {
        let number = partition as usize;
        let slot = match self.places.get(number) {
            Some(Place::Claiming { slot, claim: now }) if *now == claim => *slot,
            // It was given up in between.
            _ => return,
        };
        match made {
            None => {
                let not_before_ms = now_ms + CLAIM_AGAIN_MS;
                self.places[number] = Place::Free { not_before_ms };
            }
            // Meanwhile another shall have it, who makes a claim of its own.
            Some(_) if self.target[number] != Some(slot) => self.places[number] = FREE,
            Some((epoch, found)) => {
                self.places[number] = Place::Owned { slot, epoch };
                if let Some(conn) = self.members.get(&slot).and_then(|member| member.conn) {
                    let tell = tell_found(partition, epoch, found);
                    self.effects.push(Effect::Tell(conn, tell));
                }
            }
        }
        self.settle(now_ms);
    }

    /// The positions of these partitions were moved in their logs.
    pub(super) fn sought(&mut self, partitions: &[u32], now_ms: u64) {
        let mut lost: BTreeMap<Conn, Vec<u32>> = BTreeMap::new();
        for number in partitions {
            let Some(place) = self.places.get_mut(*number as usize) else {
                continue;
            };
            let before = mem::replace(place, FREE);
            if let Place::Owned { slot, .. } | Place::Revoking { slot, .. } = before
                && let Some(conn) = self.members.get(&slot).and_then(|member| member.conn)
            {
                lost.entry(conn).or_default().push(*number);
            }
        }
        for (conn, partitions) in lost {
            let reason = LostReason::Seek;
            let tell = Tell::Lost { partitions, reason };
            self.effects.push(Effect::Tell(conn, tell));
        }
        self.settle(now_ms);
    }

    /// A member that stood at `cursor` under this epoch cannot read on: retention has overtaken
    /// it (then it begins anew by the group's policy), or what is there cannot be read.
    pub(super) fn stopped(&mut self, conn: Conn, stop: Stop) {
        let Stop {
            partition,
            epoch,
            cursor,
            reason,
        } = stop;
        let slot = self.slot_of_conn(conn);
        let place = self.places.get_mut(partition as usize);
        let Some((slot, place)) = slot.zip(place) else {
            return;
        };
        if *place != (Place::Owned { slot, epoch }) {
            return;
        }
        let tell = Tell::Lost {
            partitions: vec![partition],
            reason,
        };
        self.effects.push(Effect::Tell(conn, tell));
        if reason == LostReason::Overrun {
            self.last += 1;
            let claim = self.last;
            *place = Place::Claiming { slot, claim };
            self.effects.push(Effect::Claim {
                partition,
                claim,
                cursor: Some(cursor),
            });
        }
    }

    /// The topic has this many partitions now.
    pub(super) fn set_partitions(&mut self, count: u32, now_ms: u64) {
        let count = (count as usize).max(self.places.len());
        self.unbalanced |= count > self.places.len();
        self.places.resize(count, FREE);
        self.target.resize(count, None);
        self.settle(now_ms);
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now_ms: u64) {
        let session_ms = self.session_ms;
        let expired = |(slot, member): (&Slot, &Member)| {
            (member.heard_ms + session_ms <= now_ms).then_some((*slot, member.conn))
        };
        let expired: Vec<_> = self.members.iter().filter_map(expired).collect();
        for (slot, conn) in expired {
            if let Some(conn) = conn {
                self.effects.push(Effect::Tell(conn, Tell::Expired));
            }
            self.remove(slot);
        }
        let mut lost: BTreeMap<Conn, Vec<u32>> = BTreeMap::new();
        for (number, place) in (0..).zip(&mut self.places) {
            if let Place::Revoking { slot, deadline_ms } = *place
                && deadline_ms <= now_ms
            {
                *place = FREE;
                if let Some(conn) = self.members.get(&slot).and_then(|member| member.conn) {
                    lost.entry(conn).or_default().push(number);
                }
            }
        }
        for (conn, partitions) in lost {
            let reason = LostReason::Revoked;
            let tell = Tell::Lost { partitions, reason };
            self.effects.push(Effect::Tell(conn, tell));
        }
        self.settle(now_ms);
    }

    /// For so long nobody could be heard: it counts for nobody.
    pub(super) fn forgive(&mut self, late_ms: u64) {
        for member in self.members.values_mut() {
            member.heard_ms += late_ms;
        }
        for place in &mut self.places {
            if let Place::Revoking { deadline_ms, .. } = place {
                *deadline_ms += late_ms;
            }
        }
    }

    /// The group is over.
    pub(super) fn forget_everybody(&mut self) {
        self.members.clear();
        self.places.fill(FREE);
        self.target.fill(None);
        self.effects.clear();
    }

    /// When [`Coordinator::tick`] is due next.
    pub(super) fn next_tick_ms(&self) -> Option<u64> {
        let sessions = self
            .members
            .values()
            .map(|member| member.heard_ms + self.session_ms);
        let places = self.places.iter().zip(&self.target);
        let places = places.filter_map(|(place, target)| match place {
            Place::Revoking { deadline_ms, .. } => Some(*deadline_ms),
            Place::Free { not_before_ms } if target.is_some() => Some(*not_before_ms),
            _ => None,
        });
        sessions.chain(places).min()
    }

    /// Brings everything on its way to where it shall be.
    fn settle(&mut self, now_ms: u64) {
        if mem::take(&mut self.unbalanced) {
            let members: Vec<Slot> = self.members.keys().copied().collect();
            let owners: Vec<Option<Slot>> = self
                .target
                .iter()
                .map(|owner| owner.filter(|slot| self.members.contains_key(slot)))
                .collect();
            self.target = assign(&members, &owners);
        }
        let deadline_ms = now_ms + self.revocation_ms;
        let mut revoking: BTreeMap<Conn, Vec<u32>> = BTreeMap::new();
        for (partition, (place, target)) in (0..).zip(self.places.iter_mut().zip(&self.target)) {
            match (*place, *target) {
                (Place::Free { not_before_ms }, Some(slot)) if not_before_ms <= now_ms => {
                    self.last += 1;
                    let claim = self.last;
                    *place = Place::Claiming { slot, claim };
                    let cursor = None;
                    self.effects.push(Effect::Claim {
                        partition,
                        claim,
                        cursor,
                    });
                }
                (Place::Owned { slot, .. }, target) if target != Some(slot) => {
                    *place = Place::Revoking { slot, deadline_ms };
                    if let Some(conn) = self.members.get(&slot).and_then(|member| member.conn) {
                        revoking.entry(conn).or_default().push(partition);
                    }
                }
                _ => {}
            }
        }
        let deadline_ms = self.revocation_ms;
        for (conn, partitions) in revoking {
            let tell = Tell::Revoking {
                partitions,
                deadline_ms,
            };
            self.effects.push(Effect::Tell(conn, tell));
        }
    }

    /// Every connection there is.
    pub(super) fn conns(&self) -> BTreeSet<Conn> {
        self.members.values().filter_map(|m| m.conn).collect()
    }
}

fn tell_found(partition: u32, epoch: u64, found: Found) -> Tell {
    match found {
        Found::At { position, skipped } => Tell::Assigned(vec![Assignment {
            partition,
            epoch,
            position,
            skipped,
        }]),
        Found::Stuck(reason) => Tell::Lost {
            partitions: vec![partition],
            reason,
        },
    }
}

#[cfg(test)]
mod tests;
