//! Counters of the node, and what the operating system says of its process.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// Plain counters; whoever does the thing adds.
#[derive(Debug)]
pub(crate) struct Stats {
    started: Instant,
    pub(crate) connections: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

impl Stats {
    pub(crate) fn new() -> Stats {
        Stats {
            started: Instant::now(),
            connections: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        self.messages_in.fetch_add(messages, Relaxed);
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn sent(&self, messages: u64, bytes: u64) {
        self.messages_out.fetch_add(messages, Relaxed);
        self.bytes_out.fetch_add(bytes, Relaxed);
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
