//! Figures of the broker process, as plain numbers.

use aqueduct_proto::v1;

/// What the broker says of itself. Counters count since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Version of the broker.
    pub version: String,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// Processor time so far, in microseconds.
    pub cpu_us: u64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Largest resident memory so far, in bytes.
    pub rss_peak_bytes: u64,
    /// Open connections.
    pub connections: u64,
    /// Topics there are.
    pub topics: u64,
    /// Partitions there are.
    pub partitions: u64,
    /// Messages stored.
    pub messages_in: u64,
    /// Bytes stored.
    pub bytes_in: u64,
    /// Messages delivered.
    pub messages_out: u64,
    /// Bytes delivered.
    pub bytes_out: u64,
    /// Synced writes.
    pub syncs: u64,
    /// Median duration of a sync, in microseconds.
    pub sync_p50_us: u64,
    /// 99th percentile of it.
    pub sync_p99_us: u64,
    /// Free space of the data directory's file system.
    pub disk_free_bytes: u64,
    /// `synced`: on stable storage before the acknowledgement.
    pub durability: String,
}

impl Stats {
    pub(crate) fn from_proto(stats: v1::GetStatsResponse) -> Self {
        Self {
            version: stats.version,
            uptime_ms: stats.uptime_ms,
            cpu_us: stats.cpu_us,
            rss_bytes: stats.rss_bytes,
            rss_peak_bytes: stats.rss_peak_bytes,
            connections: stats.connections,
            topics: stats.topics,
            partitions: stats.partitions,
            messages_in: stats.messages_in,
            bytes_in: stats.bytes_in,
            messages_out: stats.messages_out,
            bytes_out: stats.bytes_out,
            syncs: stats.syncs,
            sync_p50_us: stats.sync_p50_us,
            sync_p99_us: stats.sync_p99_us,
            disk_free_bytes: stats.disk_free_bytes,
            durability: stats.durability,
        }
    }
}
