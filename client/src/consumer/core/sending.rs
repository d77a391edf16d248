//! What is to be sent, and when to look again: pure.

use super::*;

impl Core {
    /// What to send now.
    pub(in crate::consumer) fn requests(&mut self, now: Duration) -> Vec<consume_request::Kind> {
        let mut requests = Vec::new();
        if !self.closing
            && let Some(grant) = self.flow.grant()
        {
            requests.push(consume_request::Kind::Credit(v1::Credit {
                messages: grant.messages,
                bytes: grant.bytes,
            }));
        }
        if self.may_commit(now) {
            let commits = self.commits();
            if !commits.is_empty() {
                requests.push(consume_request::Kind::Commit(v1::Commits { commits }));
            }
        }
        let partitions = self.releasable(now);
        if !partitions.is_empty() {
            for partition in &partitions {
                self.drop_slot(*partition);
            }
            self.event(GroupEvent::Released {
                partitions: partitions.clone(),
            });
            let released = v1::Released { partitions };
            requests.push(consume_request::Kind::Released(released));
        }
        requests
    }

    /// True when there is nothing left to do but to leave.
    pub(in crate::consumer) fn may_leave(&self) -> bool {
        let dirty = !self.refused && self.slots.values().any(|it| it.progress.due().is_some());
        self.closing && self.in_flight.is_empty() && !dirty
    }

    fn may_commit(&mut self, now: Duration) -> bool {
        let hold = if self.closing {
            self.refused
        } else {
            now < self.hold_until
        };
        if hold || !self.in_flight.is_empty() {
            return false;
        }
        let timely = self.policy.mode != CommitMode::Manual && now >= self.commit_at;
        if timely {
            self.commit_at = now + self.policy.commit_interval;
        }
        let leaving = |slot: &Slot| {
            let over = slot.release_by.is_some_and(|by| now >= by);
            slot.release_by.is_some() && (over || slot.progress.is_idle())
        };
        timely || !self.tickets.is_empty() || self.closing || self.slots.values().any(leaving)
    }

    /// A commit for everything that is done and not asked for yet.
    fn commits(&mut self) -> Vec<v1::PartitionCommit> {
        for (partition, slot) in &mut self.slots {
            if let Some(offset) = slot.progress.due() {
                slot.progress.ask();
                self.in_flight.push(Asked {
                    partition: *partition,
                    epoch: slot.epoch,
                    offset,
                });
            }
        }
        let commits = self.in_flight.iter().map(|asked| v1::PartitionCommit {
            partition: asked.partition,
            epoch: asked.epoch,
            offset: asked.offset,
        });
        commits.collect()
    }

    /// Partitions that were asked back and can go now.
    fn releasable(&self, now: Duration) -> Vec<u32> {
        let sent = |partition| self.in_flight.iter().any(|it| it.partition == partition);
        let ready = |(partition, slot): &(&u32, &Slot)| {
            let Some(by) = slot.release_by else {
                return false;
            };
            let committed = slot.progress.due().is_none() || slot.refused;
            let done = slot.progress.is_idle() && committed;
            (done || now >= by) && !sent(**partition)
        };
        let ready = self.slots.iter().filter(ready);
        ready.map(|(partition, _)| *partition).collect()
    }

    /// When to look again, if nothing happens before.
    pub(in crate::consumer) fn wake_at(&self) -> Duration {
        let mut at = Duration::MAX;
        if self.in_flight.is_empty() {
            if self.policy.mode != CommitMode::Manual {
                at = self.commit_at;
            }
            if !self.tickets.is_empty() {
                at = at.min(self.hold_until);
            }
            let releases = self.slots.values().filter_map(|slot| slot.release_by);
            at = releases.fold(at, Duration::min);
            at = at.max(self.hold_until);
        }
        at
    }
}
