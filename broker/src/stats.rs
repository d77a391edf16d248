//! Counters of the node, and what the operating system says of its process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Plain counters; whoever does the thing adds.
#[derive(Debug)]
pub(crate) struct Stats {
    started: Instant,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) grpc_requests: AtomicU64,
    /// Answers of the HTTP door by their class: 1xx to 5xx.
    pub(crate) http_answers: [AtomicU64; 5],
    /// From the hand-over to a partition to its answer, which comes after the sync.
    pub(crate) publish_time: Arc<Histogram>,
}

/// What went in and out of one topic.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) messages_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// Times by bounds.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Bounds of [`Histogram`], microseconds.
pub(crate) const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let within = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[within].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// How many kept each bound but not the one before, those beyond all, and the sum.
    pub(crate) fn read(&self) -> ([u64; BOUNDS_US.len() + 1], u64) {
        let mut counts = [0; BOUNDS_US.len() + 1];
        for (count, atomic) in counts.iter_mut().zip(&self.counts) {
            *count = atomic.load(Relaxed);
        }
        (counts, self.sum_us.load(Relaxed))
    }
}

impl Stats {
    pub(crate) fn new() -> Stats {
        Stats {
            started: Instant::now(),
            connections: AtomicU64::new(0),
            connections_total: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            grpc_requests: AtomicU64::new(0),
            http_answers: Default::default(),
            publish_time: Arc::default(),
        }
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Messages were taken for a topic; bytes are those of keys, values and headers, or of the
    /// batch as it came.
    pub(crate) fn received(&self, topic: &Traffic, messages: u64, bytes: u64) {
        self.messages_in.fetch_add(messages, Relaxed);
        self.bytes_in.fetch_add(bytes, Relaxed);
        topic.messages_in.fetch_add(messages, Relaxed);
        topic.bytes_in.fetch_add(bytes, Relaxed);
    }

    /// Messages of a topic were delivered.
    pub(crate) fn sent(&self, topic: &Traffic, messages: u64, bytes: u64) {
        self.messages_out.fetch_add(messages, Relaxed);
        self.bytes_out.fetch_add(bytes, Relaxed);
        topic.messages_out.fetch_add(messages, Relaxed);
        topic.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// The HTTP door has answered with this status.
    pub(crate) fn answered_http(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.http_answers[class].fetch_add(1, Relaxed);
    }
}

/// What this process has cost so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessCost {
    /// Processor time, user and system, microseconds.
    pub(crate) cpu_us: u64,
    /// Resident memory now and at its peak, bytes; 0 where the system does not tell.
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
}

/// Reads the process's cost from the operating system.
pub(crate) fn process_cost() -> ProcessCost {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_us = u64::try_from(cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1_000).unwrap_or(0);
    let status = read_proc_status();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok())
            .map_or(0, |kib| kib * 1_024)
    };
    ProcessCost {
        cpu_us,
        rss_bytes: field("VmRSS:"),
        rss_peak_bytes: field("VmHWM:"),
    }
}

fn read_proc_status() -> String {
    std::fs::read_to_string("/proc/self/status").unwrap_or_default()
}
