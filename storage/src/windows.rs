//! Mapped windows of segments, shared by all readers of the store.
//!
//! A window is a piece of 4 MiB (with 1 MiB more, so that entries rarely straddle two). What is
//! promised: windows together hold at most a fixed number of bytes, so that the resident memory does
//! not grow with the log; a window keeps its file from being used again until `forget`, and a slice
//! of it keeps the map alive for as long as a reader holds it. What lives here must never know:
//! entries, logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::Error;
use crate::map::Map;
use crate::pool::SegmentFile;
use crate::segment::Segment;

/// Bytes from one window to the next.
const STRIDE: u64 = 4 << 20;
/// Bytes by which a window reaches into the next.
const OVERLAP: u64 = 1 << 20;
/// Bytes of all windows that are kept, as far as something is published in them.
const BUDGET: u64 = 48 << 20;
/// A window counts for at least this much.
const LEAST: u64 = 64 << 10;

/// Owner of the bytes of a window: the map first, then the file it belongs to.
struct Owner {
    map: Map,
    _file: Arc<SegmentFile>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.map.as_ref()
    }
}

#[derive(Clone)]
pub(crate) struct Window {
    bytes: Bytes,
    start: u64,
    /// Bytes at and beyond this position may be stale (a copy, not a map).
    filled_to: u64,
}

impl Window {
    /// A range of the file, if the window holds all of it.
    pub(crate) fn slice(&self, position: u64, len: usize) -> Option<Bytes> {
        let from = position.checked_sub(self.start)? as usize;
        let to = from.checked_add(len)?;
        let held = to <= self.bytes.len() && position + len as u64 <= self.filled_to;
        held.then(|| self.bytes.slice(from..to))
    }
}

struct Kept {
    window: Window,
    weight: u64,
    used: u64,
}

#[derive(Default)]
struct Cache {
    windows: BTreeMap<(u64, u64), Kept>,
    weight: u64,
    clock: u64,
}

#[derive(Default)]
pub(crate) struct Windows {
    cache: Mutex<Cache>,
}

impl Windows {
    /// The window that holds a position below the published end.
    pub(crate) fn get(
        &self,
        segment: &Segment,
        position: u64,
        published: u64,
    ) -> Result<Window, Error> {
        let number = position / STRIDE;
        let key = (segment.header.salt, number);
        {
            let mut cache = self.cache.lock();
            cache.clock += 1;
            let clock = cache.clock;
            let kept = cache.windows.get_mut(&key);
            if let Some(kept) = kept.filter(|kept| kept.window.filled_to >= published) {
                kept.used = clock;
                return Ok(kept.window.clone());
            }
        }
        let start = number * STRIDE;
        let end = (start + STRIDE + OVERLAP).min(segment.file.capacity);
        let map = segment.file.handle.map(start..end);
        let map = map.map_err(|e| Error::io(&segment.name(), "map", e))?;
        let filled_to = if map.is_live() { u64::MAX } else { published };
        let owner = Owner {
            map,
            _file: segment.file.clone(),
        };
        let window = Window {
            bytes: Bytes::from_owner(owner),
            start,
            filled_to,
        };
        let weight = published
            .saturating_sub(start)
            .clamp(LEAST, end - start + LEAST);
        self.keep(key, window.clone(), weight);
        Ok(window)
    }

    fn keep(&self, key: (u64, u64), window: Window, weight: u64) {
        let mut cache = self.cache.lock();
        let used = cache.clock;
        if let Some(old) = cache.windows.insert(
            key,
            Kept {
                window,
                weight,
                used,
            },
        ) {
            cache.weight -= old.weight;
        }
        cache.weight += weight;
        while cache.weight > BUDGET && cache.windows.len() > 1 {
            let oldest = cache.windows.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            if let Some(gone) = cache.windows.remove(&oldest) {
                cache.weight -= gone.weight;
            }
        }
    }

    /// Lets go of all windows of a file that is retired.
    pub(crate) fn forget(&self, salt: u64) {
        let mut cache = self.cache.lock();
        let gone: Vec<_> = cache
            .windows
            .range((salt, 0)..=(salt, u64::MAX))
            .map(|(k, _)| *k)
            .collect();
        for key in gone {
            if let Some(kept) = cache.windows.remove(&key) {
                cache.weight -= kept.weight;
            }
        }
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        *self.cache.lock() = Cache::default();
    }
}
