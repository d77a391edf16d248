//! Steps by chance: verdicts with results, made again, and results that get written.

use rand::Rng as _;

use super::{
    super::{
        command::{Kind, Verdict, Verdicts},
        parcel::{Completion, Parcel, Written, WrittenLine},
    },
    World,
};

impl World {
    /// A step with these verdicts, or one that was tried before.
    pub(super) fn complete(&mut self, verdicts: Vec<Verdict>) {
        let consumer = None;
        let verdicts = Verdicts { consumer, verdicts };
        let mut results = Vec::new();
        for _ in 0..self.below(4) {
            let number = self.random.random::<u32>();
            results.push(Parcel {
                topic_id: 1 + self.below(2),
                partition: self.below(2) as u32,
                value: Some(number.to_string().into()),
                ..Parcel::default()
            });
        }
        let mut step = Completion { verdicts, results };
        if self.chance(0.3) && !self.steps.is_empty() {
            let recent = self.steps.len().min(8) as u64;
            let chosen = self.steps.len() - 1 - self.below(recent) as usize;
            step = self.steps[chosen].clone();
        } else {
            self.steps.push(step.clone());
        }
        self.apply(vec![Kind::Complete(step)]);
    }

    /// Some of the results are in their topics, or the topic is gone.
    pub(super) fn write_results(&mut self) {
        let mut lines = Vec::new();
        for (target, (all, _)) in &self.model.lines {
            if self.random.random_bool(0.6) {
                lines.push(WrittenLine {
                    topic_id: target.topic_id,
                    partition: target.partition,
                    up_to: self.random.random_range(0..=all.len() as u64),
                    is_gone: self.random.random_bool(0.05),
                });
            }
        }
        if self.chance(0.1) {
            lines.push(WrittenLine {
                topic_id: 1,
                partition: self.below(3) as u32,
                up_to: self.below(90),
                is_gone: self.chance(0.1),
            });
        }
        self.apply(vec![Kind::Written(Written { lines })]);
    }
}
