//! What becomes of a batch by its producer: stored, known already, or refused.

use super::{
    owner::Owner,
    producers::{Origin, Verdict},
};
use crate::{error::Refusal, metadata::state::is_named};

impl Owner {
    /// `Some(offset)` for a duplicate, `None` for a batch to store.
    pub(super) fn judge(&self, origin: Origin) -> Result<Option<u64>, Refusal> {
        let (producer_id, partition) = (origin.producer_id, self.shared.number);
        let current = {
            let view = self.view.read();
            if !view.has_given_out(producer_id) {
                return Err(Refusal::ProducerUnknown { producer_id });
            }
            view.epochs.get(&producer_id).copied()
        };
        if is_named(producer_id) {
            let current = i16::try_from(current.unwrap_or(0)).unwrap_or(i16::MAX);
            if current != origin.epoch {
                let epoch = origin.epoch;
                return Err(Refusal::ProducerFenced {
                    producer_id,
                    epoch,
                    current,
                });
            }
        }
        let got = origin.sequence;
        match self.producers.check(origin) {
            Verdict::Store => Ok(None),
            Verdict::Duplicate { base_offset } => Ok(Some(base_offset)),
            Verdict::TooOld => Err(Refusal::SequenceTooOld {
                producer_id,
                partition,
                got,
            }),
            Verdict::Gap { expected } => Err(Refusal::SequenceGap {
                producer_id,
                partition,
                expected,
                got,
            }),
            Verdict::Fenced { current } => Err(Refusal::ProducerFenced {
                producer_id,
                epoch: origin.epoch,
                current,
            }),
        }
    }
}
