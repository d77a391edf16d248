//! Latencies as a histogram, stamps inside messages, and the clock of an open loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Bytes of a stamp at the front of a message.
pub(super) const STAMP: usize = 8;
/// Longest time that is told apart, in microseconds.
const LONGEST_US: u64 = 600_000_000;
/// A sleeping thread is woken at best about this often; what is due in between goes together.
const FINEST: Duration = Duration::from_micros(100);

/// Microseconds, three digits exact.
pub(super) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    pub(super) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Self {
            histogram: histogram.expect("constant bounds are valid"),
        }
    }

    /// Notes `count` messages that took this long.
    pub(super) fn record(&mut self, latency: Duration, count: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US);
        self.histogram.saturating_record_n(micros.max(1), count);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all have the same bounds");
    }

    pub(super) fn json(&self) -> Value {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        let max = self.histogram.max();
        json!({ "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": max })
    }

    pub(super) fn p50_us(&self) -> u64 {
        self.histogram.value_at_quantile(0.5)
    }

    pub(super) fn text(&self) -> String {
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max = self.histogram.max() as f64 / 1000.0;
        let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
        format!("p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms")
    }
}

/// Values of messages: slices of one random block, or with a stamp in front.
pub(super) struct Values {
    block: Bytes,
    size: usize,
    next: usize,
}

impl Values {
    pub(super) fn new(size: usize) -> Self {
        let mut block = vec![0; size + (64 << 10)];
        rand::Rng::fill(&mut rand::rng(), &mut block[..]);
        Self {
            block: block.into(),
            size,
            next: 0,
        }
    }

    pub(super) fn plain(&mut self) -> Bytes {
        self.next = (self.next + 61) % (64 << 10);
        self.block.slice(self.next..self.next + self.size)
    }

    /// A value that begins with the nanoseconds since the run's epoch; 0 is no stamp.
    pub(super) fn stamped(&mut self, nanos: u64) -> Bytes {
        let mut value = BytesMut::with_capacity(self.size);
        value.put_u64(nanos);
        value.extend_from_slice(&self.block[self.next..self.next + self.size - STAMP]);
        value.freeze()
    }
}

/// The stamp of a value, unless it is 0.
pub(super) fn stamp(value: &[u8]) -> Option<u64> {
    let stamp = u64::from_be_bytes(*value.first_chunk()?);
    (stamp != 0).then_some(stamp)
}

/// Says when the next message is due, at a steady rate whatever happened to the ones before.
///
/// A thread of its own sleeps, because the runtime's timer only knows whole milliseconds.
pub(super) struct Pacer {
    start: Instant,
    interval: Duration,
    due: u64,
    tick: Arc<Notify>,
    over: Arc<AtomicBool>,
}

impl Pacer {
    pub(super) fn new(rate: f64) -> Self {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let tick = Arc::new(Notify::new());
        let over = Arc::new(AtomicBool::new(false));
        let (ticking, stop) = (tick.clone(), over.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(interval.clamp(FINEST, Duration::from_millis(10)));
                ticking.notify_one();
            }
        });
        Self {
            start: Instant::now(),
            interval,
            due: 0,
            tick,
            over,
        }
    }

    /// Waits until the next message is due; returns when that was.
    pub(super) async fn next(&mut self) -> Instant {
        let at = self.start + self.interval.mul_f64(self.due as f64);
        self.due += 1;
        while Instant::now() < at {
            self.tick.notified().await;
        }
        at
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn stamps_come_back() {
        let mut values = Values::new(20);
        let value = values.stamped(77);
        assert_eq!((value.len(), stamp(&value)), (20, Some(77)));
        assert_eq!(stamp(&values.stamped(0)), None);
        assert_eq!(stamp(b"short"), None);
        assert_eq!(values.plain().len(), 20);
    }

    #[test]
    fn a_histogram_says_what_went_in() {
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(100), 99);
        latency.record(Duration::from_millis(5), 1);
        assert_eq!(latency.p50_us(), 100);
        assert_eq!(latency.json()["max"], 5003);
    }

    #[tokio::test]
    async fn the_pacer_keeps_to_its_times() {
        let mut pacer = Pacer::new(10_000.0);
        let first = pacer.next().await;
        let second = pacer.next().await;
        assert_eq!(second - first, Duration::from_micros(100));
    }
}
