//! A broker of the same binary, for one run, in a directory of its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const READY: &str = "ready api=";
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the process when dropped, then deletes its directory.
pub(super) struct Broker {
    process: Child,
    address: String,
    _directory: TempDir,
}

impl Broker {
    /// Starts `serve` on a free port and waits until it serves.
    pub(super) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("aqueduct-bench-")
            .tempdir()?;
        let program = std::env::current_exe().context("where this program is")?;
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting a broker")?;
        let errors = process.stderr.take().context("the broker's stderr")?;
        let mut lines = BufReader::new(errors).lines();
        let mut said = Vec::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix(READY).map(str::to_owned);
            said.push(line);
            address
        });
        let Some(address) = address else {
            process.wait().context("waiting for the broker")?;
            bail!("the broker did not start: {}", said.join("\n"));
        };
        // What it says later must not fill the pipe.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Ok(Self {
            process,
            address,
            _directory: directory,
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn stop(&mut self) -> std::io::Result<()> {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        let start = Instant::now();
        while self.process.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                self.process.kill()?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "the bench's broker may still run");
        }
    }
}
