//! Mapped windows of segments, shared by all readers of the store.
//!
//! A window is a piece of 4 MiB (with 1 MiB more, so that entries rarely straddle two). What is
//! promised: windows together hold at most a fixed number of bytes, so that the resident memory does
//! not grow with the log; a window keeps its file from being used again until `forget`, and a slice
//! of it keeps the map alive for as long as a reader holds it. What lives here must never know:
//! entries, logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

impl Window {
    /// What the window costs: the pages that readers may have touched, which grow with what is
    /// published in it.
    fn weight(&self, published: u64) -> u64 {
        let len = self.bytes.len() as u64;
        published
            .saturating_sub(self.start)
            .clamp(LEAST, len + LEAST)
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

impl Cache {
    /// A window that is kept and good for what is published now. Its weight is taken anew: a
    /// reader that follows the end of a log maps a window when little is in it.
    fn find(&mut self, key: (u64, u64), published: u64) -> Option<Window> {
        self.clock += 1;
        let kept = self.windows.get_mut(&key)?;
        if kept.window.filled_to < published {
            return None;
        }
        let window = kept.window.clone();
        let weight = window.weight(published);
        self.weight = self.weight - kept.weight + weight;
        (kept.weight, kept.used) = (weight, self.clock);
        self.shrink();
        Some(window)
    }

    /// Lets go of the windows that were not used for longest, down to the budget.
    fn shrink(&mut self) {
        while self.weight > BUDGET && self.windows.len() > 1 {
            let oldest = self.windows.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            if let Some(gone) = self.windows.remove(&oldest) {
                self.weight -= gone.weight;
            }
        }
    }
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
        if let Some(window) = self.cache.lock().find(key, published) {
            return Ok(window);
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
        let weight = window.weight(published);
        self.keep(key, window.clone(), weight, &segment.retired);
        Ok(window)
    }

    fn keep(&self, key: (u64, u64), window: Window, weight: u64, retired: &AtomicBool) {
        let mut cache = self.cache.lock();
        if retired.load(Ordering::Acquire) {
            // `forget` has been here while the file was mapped.
            return;
        }
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
        cache.shrink();
    }

    /// Lets go of all windows of a file that is retired.
    pub(crate) fn forget(&self, segment: &Segment) {
        segment.retired.store(true, Ordering::Release);
        let salt = segment.header.salt;
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

#[cfg(test)]
mod tests {
    use super::*;

    static LONG: [u8; (STRIDE + OVERLAP) as usize] = [0; (STRIDE + OVERLAP) as usize];

    /// A reader at the end of a log maps each window when next to nothing is in it, and reads on
    /// in it until it is full. Its full weight must count, or resident memory follows the log.
    #[test]
    fn windows_that_fill_up_while_they_are_kept_stay_within_the_budget() {
        let windows = Windows::default();
        for number in 0..100 {
            let start = number * STRIDE;
            let window = Window {
                bytes: Bytes::from_static(&LONG),
                start,
                filled_to: u64::MAX,
            };
            let weight = window.weight(start + 1);
            windows.keep((1, number), window, weight, &AtomicBool::new(false));
            let full = start + STRIDE + OVERLAP;
            assert!(windows.cache.lock().find((1, number), full).is_some());
            let cache = windows.cache.lock();
            let mapped: u64 = cache.windows.values().map(|kept| kept.weight).sum();
            assert_eq!(mapped, cache.weight);
            assert!(mapped <= BUDGET, "{} windows are kept", cache.windows.len());
        }
    }
}
