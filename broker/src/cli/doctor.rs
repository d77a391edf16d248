//! `aqueduct doctor`: is this machine fit to run a broker, and what will it be like?
//!
//! Each check is `ok`, `warn` (works, but something will disappoint) or `fail` (exit code 1). The
//! sync figures are what every acknowledgement waits for, so they are measured, not guessed: 4 KiB
//! overwrites of prepared space, each synced, for a second.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hdrhistogram::Histogram;
use rustix::{fs::statvfs, process::Resource};
use serde_json::{Value, json};

use super::{
    ClientArgs, OutputArgs,
    output::{self, Format},
    values::{self, show_size},
    version::VERSION,
};

const MEASURE: Duration = Duration::from_secs(1);
const BLOCK: usize = 4096;
/// A sync that takes a minute is as bad as any that takes longer.
const LONGEST_US: u64 = 60_000_000;
const PREPARED: u64 = 4 << 20;
const LOW_DISK: u64 = 1 << 30;
const NO_DISK: u64 = 64 << 20;
/// An idle connection takes a descriptor, a partition a few.
const FILES: u64 = 4096;
/// The kernel's own default; each log maps a few windows of its segments.
const MAPS: u64 = 65_530;
/// 2026-01-01: before that, the clock was never set.
const EPOCH_MS: u128 = 1_767_225_600_000;

/// Arguments of `aqueduct doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// The data directory, or where it will be. Default: the temporary directory
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Check that this broker answers, too
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Longest wait for the broker
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: &'static str,
    status: Status,
    detail: String,
    /// Figures for programs.
    values: Value,
}

impl Check {
    fn new(name: &'static str, status: Status, detail: String, values: Value) -> Self {
        Self {
            name,
            status,
            detail,
            values,
        }
    }

    fn failed(name: &'static str, error: impl ToString) -> Self {
        Self::new(name, Status::Fail, error.to_string(), json!({}))
    }
}

pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let directory = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let mut checks = vec![version(), directory_check(&directory), space(&directory)];
    checks.extend(syncs(&directory));
    checks.extend([files(), maps(), memory()]);
    if let Some(server) = &args.server {
        checks.push(broker(server, args.timeout).await);
    }
    let fit = checks.iter().all(|check| check.status != Status::Fail);
    print(args.output.output, fit, &checks)?;
    Ok(if fit {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn version() -> Check {
    let detail = format!("aqueduct {VERSION}");
    Check::new("version", Status::Ok, detail, json!({"version": VERSION}))
}

/// The directory can be made and written; what kind of file system it is on.
fn directory_check(directory: &Path) -> Check {
    const NAME: &str = "data directory";
    let probe = fs::create_dir_all(directory)
        .and_then(|()| tempfile::tempfile_in(directory))
        .and_then(|_| Ok(rustix::fs::statfs(directory)?));
    match probe {
        Err(error) => Check::failed(NAME, format!("{}: {error}", directory.display())),
        Ok(facts) => {
            let kind = file_system(u64::try_from(facts.f_type).unwrap_or(0));
            // Where a map and a write do not share one page cache, readers would see old bytes.
            let foreign = matches!(kind, "nfs" | "fuse" | "cifs" | "9p");
            let volatile = matches!(kind, "tmpfs");
            let status = if foreign || volatile {
                Status::Warn
            } else {
                Status::Ok
            };
            let remark = match (foreign, volatile) {
                (true, _) => ", which is not supported for data",
                (_, true) => ", which forgets everything with the power",
                _ => "",
            };
            let detail = format!("{} on {kind}{remark}", directory.display());
            Check::new(NAME, status, detail, json!({"file_system": kind}))
        }
    }
}

fn file_system(magic: u64) -> &'static str {
    match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        0x0102_1994 => "tmpfs",
        0x6969 => "nfs",
        0x6573_5546 => "fuse",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        _ => "an unknown file system",
    }
}

fn space(directory: &Path) -> Check {
    const NAME: &str = "disk space";
    match statvfs(directory) {
        Err(error) => Check::failed(NAME, error),
        Ok(facts) => {
            let free = facts.f_bavail.saturating_mul(facts.f_frsize);
            let status = match free {
                0..NO_DISK => Status::Fail,
                NO_DISK..LOW_DISK => Status::Warn,
                _ => Status::Ok,
            };
            let detail = format!("{} free", show_size(free));
            Check::new(NAME, status, detail, json!({"free_bytes": free}))
        }
    }
}

/// Sync latency and, from the same second, whether both clocks run alike.
fn syncs(directory: &Path) -> [Check; 2] {
    const NAME: &str = "sync latency";
    let (wall, steady) = (SystemTime::now(), Instant::now());
    let check = match measure_syncs(directory) {
        Err(error) => Check::failed(NAME, error),
        Ok(times) => {
            let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
            let slow = p99 > 50_000;
            let remark = if slow {
                ": acknowledgements will wait for this disk"
            } else {
                ""
            };
            let detail = format!(
                "p50 {:.2} ms, p99 {:.2} ms over {} synced writes of 4 KiB{remark}",
                p50 as f64 / 1000.0,
                p99 as f64 / 1000.0,
                times.len()
            );
            let values = json!({"sync_p50_us": p50, "sync_p99_us": p99, "syncs": times.len()});
            let status = if slow { Status::Warn } else { Status::Ok };
            Check::new(NAME, status, detail, values)
        }
    };
    [check, clock(wall, steady)]
}

fn measure_syncs(directory: &Path) -> io::Result<Histogram<u64>> {
    let file = tempfile::tempfile_in(directory)?;
    prepare(&file)?;
    let block = [0x5a; BLOCK];
    let mut times = Histogram::new_with_max(LONGEST_US, 3).map_err(io::Error::other)?;
    let (begin, mut place) = (Instant::now(), 0);
    while begin.elapsed() < MEASURE {
        let before = Instant::now();
        file.write_all_at(&block, place)?;
        file.sync_data()?;
        times.saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
        place = (place + BLOCK as u64) % PREPARED;
    }
    Ok(times)
}

/// Writes real blocks, so that overwriting them changes no bookkeeping of the file system.
fn prepare(file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for place in (0..PREPARED).step_by(zeros.len()) {
        file.write_all_at(&zeros, place)?;
    }
    file.sync_all()
}

fn clock(wall: SystemTime, steady: Instant) -> Check {
    const NAME: &str = "clock";
    let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let steady = steady.elapsed();
    let passed = wall.elapsed().unwrap_or_default();
    let drift = passed.abs_diff(steady);
    let set = now.as_millis() >= EPOCH_MS;
    let (status, remark) = match (set, drift > Duration::from_millis(100)) {
        (false, _) => (
            Status::Fail,
            ", which is in the past: set it, message times depend on it",
        ),
        (true, true) => (
            Status::Warn,
            ", which is being stepped: message times will jump",
        ),
        (true, false) => (Status::Ok, ""),
    };
    let text = values::show_time(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let values = json!({"drift_us": u64::try_from(drift.as_micros()).unwrap_or(u64::MAX)});
    Check::new(NAME, status, format!("{text}{remark}"), values)
}

fn files() -> Check {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // `serve` raises the soft limit to the hard one by itself.
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let low = hard < FILES;
    let remark = if low {
        format!("; {FILES} or more are better (ulimit -Hn)")
    } else {
        String::new()
    };
    let status = if low { Status::Warn } else { Status::Ok };
    let shown = limit
        .maximum
        .map_or("unlimited".to_owned(), |hard| hard.to_string());
    let detail = format!("{shown} can be open{remark}");
    Check::new(
        "files",
        status,
        detail,
        json!({"max_open_files": limit.maximum}),
    )
}

fn maps() -> Check {
    const NAME: &str = "memory maps";
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    match text.and_then(|text| text.trim().parse::<u64>().ok()) {
        // Not Linux, or hidden: nothing to complain about.
        None => Check::new(NAME, Status::Ok, "limit unknown".to_owned(), json!({})),
        Some(limit) => {
            let low = limit < MAPS;
            let remark = if low {
                "; raise vm.max_map_count to 65530 or more"
            } else {
                ""
            };
            let status = if low { Status::Warn } else { Status::Ok };
            let detail = format!("{limit} allowed{remark}");
            Check::new(NAME, status, detail, json!({"max_map_count": limit}))
        }
    }
}

fn memory() -> Check {
    const NAME: &str = "memory";
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[expect(
        clippy::useless_conversion,
        reason = "the field's width depends on the machine"
    )]
    let total = u64::from(info.totalram).saturating_mul(unit);
    let low = total < 256 << 20;
    let status = if low { Status::Warn } else { Status::Ok };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let detail = format!("{}, {cores} cores", show_size(total));
    Check::new(
        NAME,
        status,
        detail,
        json!({"memory_bytes": total, "cores": cores}),
    )
}

async fn broker(server: &str, timeout: Option<Duration>) -> Check {
    const NAME: &str = "broker";
    let client = ClientArgs::at(server, timeout);
    let stats = async { anyhow::Ok(client.connect().await?.stats().await?) }.await;
    match stats {
        Err(error) => Check::failed(NAME, error),
        Ok(stats) => {
            let other = stats.version != VERSION;
            let remark = if other {
                ", another version than this command"
            } else {
                ""
            };
            let detail = format!(
                "{server} answers: version {}{remark}, {} topics, sync p50 {} us, p99 {} us",
                stats.version, stats.topics, stats.sync_p50_us, stats.sync_p99_us
            );
            let status = if other { Status::Warn } else { Status::Ok };
            Check::new(
                NAME,
                status,
                detail,
                json!({"server": server, "version": stats.version}),
            )
        }
    }
}

fn print(format: Format, fit: bool, checks: &[Check]) -> io::Result<()> {
    let word = |status| match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "fail",
    };
    if format != Format::Table {
        let checks: Vec<_> = checks
            .iter()
            .map(|check| {
                json!({
                    "name": check.name,
                    "status": word(check.status),
                    "detail": check.detail,
                    "values": check.values,
                })
            })
            .collect();
        return output::print_json(&json!({"ok": fit, "checks": checks}));
    }
    let lines = checks.iter().map(|check| {
        format!(
            "{:<5} {:<15} {}\n",
            word(check.status),
            check.name,
            check.detail
        )
    });
    output::print(lines.collect::<String>())
}
