//! What happens seldom: reschedules, trims and cuts, seeks, keys that go on, foreign leases, a new beginning.

use rand::Rng as _;

use super::{
    super::{
        command::{Delay, Kind},
        model::Is,
        offsets::Offsets,
    },
    World,
};

impl World {
    /// The log's start moves on, or stays, and messages below it are kept aside or given up: as
    /// a rule just those that are finished, and sometimes others.
    pub(super) fn cut(&mut self) {
        let start = self.model.trimmed_to;
        let to = (start + self.below(6)).min(self.end());
        let is_rude = self.chance(0.2);
        let mut kept = self.model.kept.clone();
        kept.extend(start..to);
        kept.retain(|offset| {
            let message = &self.model.messages[*offset as usize];
            let is_needed = message.is != Is::Settled;
            self.random.random_bool(match (is_needed, is_rude) {
                (true, false) => 1.0,
                (true, true) => 0.5,
                (false, _) => 0.2,
            })
        });
        self.model.trim(to, &kept);
        let mut offsets = Offsets::default();
        for offset in &kept {
            offsets.insert(*offset);
        }
        let events = self.state.trim(to, &offsets);
        self.follow(&events);
    }

    /// Rescheduled by a user: one that is delayed, or any.
    pub(super) fn delay(&mut self) {
        let delayed: Vec<_> = self.schedule.delays((i64::MIN, 0)).collect();
        let offset = match delayed.len() {
            0 => self.below(self.end() + 2),
            count => delayed[self.below(count as u64) as usize].1,
        };
        // The driver names nothing that is on its way, or is to leave.
        if self.is_taken(offset) || self.is_leaving(offset) {
            return;
        }
        let until_ms = self.now().wall_ms + self.random.random_range(-500..2_000);
        let epoch = self.state.epoch() - u64::from(self.chance(0.05));
        self.apply(vec![Kind::Delay(Delay {
            offset,
            until_ms,
            epoch,
        })]);
    }

    pub(super) fn rare_step(&mut self) {
        let floor = self.state.floor();
        match self.below(16) {
            12.. => self.delay(),
            0..4 => {
                let to = floor + self.below(4);
                self.apply(vec![Kind::Trim(to)]);
            }
            4 => {
                let to = self.below(self.end() + 2);
                self.apply(vec![Kind::Seek(to)]);
            }
            5..10 => {
                let key = self.below(4);
                self.apply(vec![Kind::Unpark(key)]);
            }
            10 => {
                // Leases that the schedule did not choose.
                let first = self.below(self.schedule.scanned_to);
                let run = first..(first + self.below(5)).min(self.schedule.scanned_to);
                let free = |offset: &u64| {
                    self.log[*offset as usize].is_wanted
                        && !self.is_taken(*offset)
                        && !self.is_leaving(*offset)
                };
                let runs: Vec<_> = run.filter(free).map(|o| o..o + 1).collect();
                self.grant(runs);
            }
            _ if self.chance(0.1) => {
                let start = self.below(self.end() + 1);
                self.apply(vec![Kind::Forget(true), Kind::Begin(start)]);
            }
            _ => {}
        }
    }
}
