//! The node's configuration: one list of settings is the source of everything.
//!
//! `settings!` below makes of each entry a field of [`Config`] with its default, a key of the
//! TOML file, a variable `AQUEDUCT_*`, a flag, its bounds, and a line of docs/configuration.md.
//! Flags win over the environment, the environment over the file, the file over the defaults
//! ([`Layers`]). Unknown keys and variables are errors that say what was probably meant. Nothing
//! here reads files or the environment, or changes while a node runs.

mod key;
mod layers;
mod page;
mod value;
mod variables;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::Duration,
};

pub use key::Key;
pub use layers::{Layers, Origin, Problem, Settled};
pub use page::page;
pub use value::{LogFormat, duration, show_duration, show_size, size};
pub use variables::{OTHER_VARIABLES, PREFIX};

use key::settings;
use value::{Address, Collector, Count, DiskLimit, Filter, Flag, Folder, Form, Size, Time};

use crate::limits;

settings! {
    /// Where everything durable lies; made if it is not there.
    data_dir("data"): PathBuf = Folder, PathBuf::new() => "none: it has to be said";
    /// Address of the API; port 0 picks a free one.
    listen("listen"): SocketAddr = Address, SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7320);
    /// Listen beyond this machine although there is neither TLS nor authentication.
    insecure("insecure"): bool = Flag, false;
    /// Threads that serve; each runs its own share of connections and partitions.
    threads("threads"): usize = Count, default_threads()
        => "the cores less one, at least 1, at most 8", within 1 => 256;
    /// Publishing stops when the data takes this much; none is the whole disk.
    disk_limit_bytes("disk_limit"): Option<u64> = DiskLimit, None;
    /// Publishing stops when less than this is free on the file system.
    min_free_bytes("min_free"): u64 = Size, 64 << 20;
    /// Largest segment file.
    max_segment_bytes("max_segment"): u64 = Size, 128 << 20, within 1 << 20 => 1 << 30;
    /// How often retention looks at each partition.
    retention_interval("retention_interval"): Duration = Time, Duration::from_secs(30),
        within 100 => 86_400_000;
    /// Bytes of publishes that may wait for their sync, over all partitions.
    in_flight_bytes("in_flight"): usize = Size, limits::DEFAULT_IN_FLIGHT_BYTES,
        within 32 << 20 => 16 << 30;
    /// Create a topic when somebody publishes to it; `aqueduct dev` does.
    auto_create_topics("auto_create_topics"): bool = Flag, false;
    /// Partitions of a topic that is made by publishing to it.
    auto_create_partitions("auto_create_partitions"): u32 = Count, 1, within 1 => 10_000;
    /// Create a queue group with defaults when somebody works in it; `aqueduct dev` does.
    auto_create_queues("auto_create_queues"): bool = Flag, false;
    /// How long a shutdown waits for what is under way.
    grace("grace"): Duration = Time, Duration::from_secs(10), within 0 => 3_600_000;
    /// Which log lines to show, such as debug or info,aqueduct_broker=debug.
    log("log"): String = Filter, crate::DEFAULT_LOG.to_owned();
    /// Format of log lines: text for people, or json, an object a line.
    log_format("log_format"): LogFormat = Form, LogFormat::Text;
    /// OpenTelemetry collector that gets a span of each request, by gRPC; none exports nothing.
    otlp_endpoint("otlp_endpoint"): Option<String> = Collector, None;
}

fn default_threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(1).clamp(1, 8)
}

impl Config {
    /// The defaults with this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            ..Config::defaults()
        }
    }

    /// The bounds of every field, and relations between them.
    ///
    /// # Errors
    /// A sentence that names the key and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::NoData);
        }
        if !self.listen.ip().is_loopback() && !self.insecure {
            return Err(ConfigError::Exposed {
                listen: self.listen,
            });
        }
        KEYS.iter().try_for_each(|key| key.check(self))
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("data is not set, and there is no default: give --data DIR or AQUEDUCT_DATA")]
    NoData,
    #[error(
        "listen {listen} is reachable from other machines, but there is no TLS and no \
         authentication; listen on 127.0.0.1, or give --insecure to accept the risk"
    )]
    Exposed { listen: SocketAddr },
    #[error("{key} is {value}, it must lie between {min} and {max}")]
    OutOfRange {
        key: &'static str,
        value: String,
        min: String,
        max: String,
    },
    #[error("{key}: {why}")]
    Unreadable { key: &'static str, why: String },
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_loopback_without_insecure() {
        let mut config = Config::new("x");
        config.validate().unwrap();
        config.listen = "0.0.0.0:0".parse().unwrap();
        assert!(matches!(
            config.validate(),
            Err(ConfigError::Exposed { .. })
        ));
        config.insecure = true;
        config.validate().unwrap();
    }

    #[test]
    fn fields_that_were_set_by_hand_are_bounded_too() {
        let mut config = Config::new("x");
        config.in_flight_bytes = 1;
        let error = config.validate().unwrap_err();
        let words = "in_flight is 1B, it must lie between 32MiB and 16GiB";
        assert_eq!(error.to_string(), words);
        assert_eq!(Config::new("").validate(), Err(ConfigError::NoData));
    }

    #[test]
    fn keys_and_variables_have_one_meaning() {
        let mut names: Vec<String> = KEYS.iter().map(Key::env).collect();
        names.extend(OTHER_VARIABLES.iter().map(|(name, ..)| (*name).to_owned()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_default_reads_back() {
        let defaults = Config::new("some/where");
        for key in KEYS {
            let mut config = Config::new("x");
            let text = key.show(&defaults);
            key.set(&mut config, &text).unwrap();
            assert_eq!(key.show(&config), text, "{}", key.name);
        }
    }
}
