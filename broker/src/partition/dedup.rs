//! Dedup ids of one partition, each with the offset it got, for a window of time. Pure.
//!
//! Time is the machine's: stamps that entries brought. The table is bounded in number and
//! bytes; what is over leaves before its window ends, oldest first.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;

use crate::limits::{MAX_DEDUP_BYTES, MAX_DEDUP_IDS};

/// The ids of a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Dedup {
    offsets: BTreeMap<Bytes, (u64, i64)>,
    order: VecDeque<(i64, Bytes)>,
    bytes: usize,
}

/// One id, as a checkpoint keeps it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Saved {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(int64, tag = "3")]
    stamp_ms: i64,
}

impl Dedup {
    /// The offset that was stored under this id, if that was not before `since_ms`.
    pub(crate) fn offset(&self, id: &[u8], since_ms: i64) -> Option<u64> {
        let (offset, stamp_ms) = self.offsets.get(id)?;
        (*stamp_ms >= since_ms).then_some(*offset)
    }

    /// Remembers an id, which the owner only stores when it is not (or no longer) known.
    pub(crate) fn record(&mut self, id: &[u8], offset: u64, now_ms: i64) {
        if self.offsets.remove(id).is_some() {
            self.bytes -= id.len();
            self.order.retain(|(_, known)| known != id);
        }
        // A copy: the id would otherwise keep its whole batch alive.
        let id = Bytes::copy_from_slice(id);
        self.bytes += id.len();
        self.offsets.insert(id.clone(), (offset, now_ms));
        self.order.push_back((now_ms, id));
        while self.order.len() > MAX_DEDUP_IDS || self.bytes > MAX_DEDUP_BYTES {
            self.forget_oldest();
        }
    }

    /// Forgets what is older than the window.
    pub(crate) fn expire(&mut self, now_ms: i64, window_ms: u64) {
        let window = i64::try_from(window_ms).unwrap_or(i64::MAX);
        let limit = now_ms.saturating_sub(window);
        while self.order.front().is_some_and(|(stamp, _)| *stamp < limit) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.bytes -= id.len();
            self.offsets.remove(&id);
        }
    }

    /// Everything, oldest first.
    pub(crate) fn save(&self) -> Vec<Saved> {
        let saved = |(stamp_ms, id): &(i64, Bytes)| {
            let (offset, _) = self.offsets.get(id).copied()?;
            Some(Saved {
                id: id.clone(),
                offset,
                stamp_ms: *stamp_ms,
            })
        };
        self.order.iter().filter_map(saved).collect()
    }

    /// The inverse of [`Dedup::save`].
    pub(crate) fn load(saved: Vec<Saved>) -> Dedup {
        let mut dedup = Dedup::default();
        for one in saved {
            dedup.record(&one.id, one.offset, one.stamp_ms);
        }
        dedup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_offset_until_its_window_ends() {
        let mut dedup = Dedup::default();
        dedup.record(b"a", 1, 1_000);
        dedup.record(b"b", 2, 2_000);
        assert_eq!(
            (dedup.offset(b"a", 1_000), dedup.offset(b"a", 1_001)),
            (Some(1), None)
        );
        dedup.record(b"a", 9, 2_500);
        dedup.expire(3_100, 1_000);
        assert_eq!(
            (dedup.offset(b"a", 0), dedup.offset(b"b", 0)),
            (Some(9), None)
        );
        assert_eq!(Dedup::load(dedup.save()), dedup);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut dedup = Dedup::default();
        let long = vec![b'x'; MAX_DEDUP_BYTES / 4];
        for i in 0..6u8 {
            let mut id = long.clone();
            id.push(i);
            dedup.record(&id, u64::from(i), 0);
        }
        assert_eq!(dedup.order.len(), 3);
        assert!(dedup.bytes <= MAX_DEDUP_BYTES);
    }
}
