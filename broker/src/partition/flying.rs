//! Dedup ids on their way: accepted by the owner, not yet applied by the machine. Pure.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

/// Dedup ids that are accepted and not yet applied.
#[derive(Default)]
pub(super) struct FlyingIds {
    offsets: HashMap<Bytes, u64>,
    order: VecDeque<(u64, Bytes)>,
}

impl FlyingIds {
    /// The offset that was given to this id.
    pub(super) fn offset(&self, id: &[u8]) -> Option<u64> {
        self.offsets.get(id).copied()
    }

    pub(super) fn insert(&mut self, id: Bytes, offset: u64) {
        self.offsets.insert(id.clone(), offset);
        self.order.push_back((offset, id));
    }

    /// Forgets what lies below the high watermark: the machine knows it now.
    pub(super) fn landed(&mut self, high_watermark: u64) {
        while self
            .order
            .front()
            .is_some_and(|(offset, _)| *offset < high_watermark)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.offsets.remove(&id);
            }
        }
    }
}
