//! What this machine can do at best: synced writes, loopback, checksums.
//!
//! Each figure takes about half a second and stands for one call pattern of the broker: a small
//! group commit into prepared space, a large one, bytes over TCP, and the checksum of a batch.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aqueduct_proto::crc::crc32c;

const SPAN: Duration = Duration::from_millis(700);
const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;
/// Prepared space: larger than a disk's own cache line of attention, small enough to make fast.
const PREPARED: u64 = 64 << 20;

/// The figures of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    /// Synced 4 KiB overwrites of prepared space a second, one after another.
    pub sync_per_s: f64,
    /// Median of them, in microseconds.
    pub sync_p50_us: u64,
    /// Synced 1 MiB overwrites, in 10^6 bytes a second.
    pub write_mb_s: f64,
    /// One TCP connection over loopback, in 10^6 bytes a second.
    pub loopback_mb_s: f64,
    /// CRC-32C of 64 KiB blocks on one core, in 10^9 bytes a second.
    pub crc_gb_s: f64,
}

/// Measures all of them; blocks for about four seconds.
pub(super) fn measure(directory: &Path) -> anyhow::Result<Ceilings> {
    let place = tempfile::Builder::new()
        .prefix("aqueduct-ceilings-")
        .tempdir_in(directory);
    let place = place.with_context(|| format!("a directory in {}", directory.display()))?;
    let file = prepare(&place.path().join("prepared")).context("preparing a file to write to")?;
    let (sync_per_s, sync_p50_us) = synced(&file, SMALL).context("synced writes")?;
    let (large_per_s, _) = synced(&file, LARGE).context("synced writes")?;
    Ok(Ceilings {
        sync_per_s,
        sync_p50_us,
        write_mb_s: large_per_s * LARGE as f64 / 1e6,
        loopback_mb_s: loopback().context("a loopback connection")?,
        crc_gb_s: crc(),
    })
}

fn prepare(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .create_new(true)
        .read(true)
        .write(true)
        .open(path)?;
    let block = vec![1; LARGE];
    for position in (0..PREPARED).step_by(LARGE) {
        file.write_all_at(&block, position)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Writes a second, and the median in microseconds.
fn synced(file: &File, size: usize) -> std::io::Result<(f64, u64)> {
    let block = vec![2; size];
    let mut times = Vec::with_capacity(8192);
    let start = Instant::now();
    let mut position = 0;
    while start.elapsed() < SPAN {
        let begin = Instant::now();
        file.write_all_at(&block, position)?;
        file.sync_data()?;
        times.push(begin.elapsed());
        position = (position + size as u64) % PREPARED;
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok((rate, u64::try_from(median.as_micros()).unwrap_or(u64::MAX)))
}

fn loopback() -> anyhow::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut writer = TcpStream::connect(listener.local_addr()?)?;
    let (mut reader, _) = listener.accept()?;
    let writing = thread::spawn(move || {
        let block = vec![3; 256 << 10];
        let start = Instant::now();
        while start.elapsed() < SPAN && writer.write_all(&block).is_ok() {}
    });
    let mut block = vec![0; 256 << 10];
    let (start, mut total) = (Instant::now(), 0);
    loop {
        match reader.read(&mut block)? {
            0 => break,
            bytes => total += bytes,
        }
    }
    let elapsed = start.elapsed();
    writing
        .join()
        .map_err(|_| anyhow::anyhow!("the writing thread died"))?;
    Ok(total as f64 / 1e6 / elapsed.as_secs_f64())
}

fn crc() -> f64 {
    let block = vec![4; 64 << 10];
    let (start, mut total, mut sum) = (Instant::now(), 0, 0);
    while start.elapsed() < SPAN / 4 {
        for _ in 0..64 {
            sum ^= crc32c(std::hint::black_box(&block));
            total += block.len();
        }
    }
    std::hint::black_box(sum);
    total as f64 / 1e9 / start.elapsed().as_secs_f64()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    #[test]
    fn every_ceiling_is_above_nothing() {
        let found = super::measure(&std::env::temp_dir()).unwrap();
        let figures = [
            found.sync_per_s,
            found.write_mb_s,
            found.loopback_mb_s,
            found.crc_gb_s,
        ];
        assert!(figures.iter().all(|figure| *figure > 0.0), "{found:?}");
    }
}
