//! The real `aqueduct` binary as a child process: start, kill -9, SIGTERM, SIGSTOP, restart.
//!
//! Promises: the binary is built once per test binary with the profile the tests were
//! built with (`AQUEDUCT_BIN` names another one); `start` returns only when the broker has
//! said `ready api=HOST:PORT`; a dropped handle ends its process with SIGKILL.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before a test gives up. Generous: a slow machine is no bug.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The path of the `aqueduct` binary, built on first use.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("AQUEDUCT_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Builds the binary as users get it (no test features).
fn build() -> PathBuf {
    built("aqueduct-broker", &["--bin", "aqueduct"], "aqueduct")
}

/// The path of a package's example, built now.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn example(package: &str, name: &str) -> PathBuf {
    built(package, &["--example", name], name)
}

/// Builds one target and asks cargo where it lies.
fn built(package: &str, target: &[&str], name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "-p", package])
        .args(target)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(crate::input::workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "building {name} failed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable it built")
}

/// A broker: one child process on one data directory.
pub struct Process {
    child: Child,
    address: SocketAddr,
    data: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `aqueduct serve --data DIR` on a free loopback port and waits until it serves.
    ///
    /// # Panics
    /// If the broker ends or says nothing within [`PATIENCE`].
    #[must_use]
    pub fn start(data: &Path) -> Process {
        Process::start_with(data, &[])
    }

    /// The same with more arguments for `serve`.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_with(data: &Path, arguments: &[&str]) -> Process {
        match Process::try_start(data, "127.0.0.1:0", arguments) {
            Ok(process) => process,
            Err(why) => panic!("the broker did not start: {why}"),
        }
    }

    /// The same with more variables in its environment.
    ///
    /// # Panics
    /// As [`Process::start`].
    #[must_use]
    pub fn start_in(data: &Path, environment: &[(&str, &str)]) -> Process {
        match Process::launch(data, "127.0.0.1:0", &[], environment) {
            Ok(process) => process,
            Err(why) => panic!("the broker did not start: {why}"),
        }
    }

    /// Starts a broker, or tells what it said before it ended.
    ///
    /// # Errors
    /// The exit status and stderr of a broker that ended or did not get ready.
    pub fn try_start(data: &Path, listen: &str, arguments: &[&str]) -> Result<Process, String> {
        Process::launch(data, listen, arguments, &[])
    }

    fn launch(
        data: &Path,
        listen: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Process, String> {
        let mut child = Command::new(binary())
            .args(["serve", "--listen", listen, "--data"])
            .arg(data)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", binary().display()))?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let ready = follow_stderr(&mut child, Arc::clone(&stderr));
        let address = ready.recv_timeout(PATIENCE);
        let said = || stderr.lock().unwrap().join("\n");
        match address {
            Ok(address) => Ok(Process {
                child,
                address,
                data: data.to_path_buf(),
                arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
                environment: environment
                    .iter()
                    .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                stderr,
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let status = child.wait().unwrap();
                Err(format!("{status}\n{}", said()))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                child.wait().unwrap();
                Err(format!("not ready after {PATIENCE:?}\n{}", said()))
            }
        }
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the broker has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().join("\n")
    }

    /// Ends the process as a power switch would end its memory: SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGSTOP: the process stands still, its connections stay.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    /// If the process still runs after [`PATIENCE`].
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.wait()
    }

    /// Waits for the process to end.
    ///
    /// # Panics
    /// If it still runs after [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the broker did not end:\n{}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has the process ended by itself?
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Starts the broker again on the same data, port and arguments; kills it first if it runs.
    ///
    /// # Panics
    /// As [`Process::start`].
    pub fn restart(&mut self) {
        self.kill();
        let listen = self.address.to_string();
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let start = Instant::now();
        let next = loop {
            match Process::launch(&self.data, &listen, &arguments, &environment) {
                Ok(process) => break process,
                // Somebody's outgoing connection may sit on our old port for a moment.
                Err(why) if why.contains("in use") && start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(why) => panic!("the broker did not start again: {why}"),
            }
        };
        *self = next;
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of the broker ---\n{}", self.stderr());
        }
    }
}

/// Keeps what the child writes to stderr and sends the address of its `ready` line.
/// The channel closes without an address if the child ends first.
fn follow_stderr(child: &mut Child, lines: Arc<Mutex<Vec<String>>>) -> mpsc::Receiver<SocketAddr> {
    let (sender, receiver) = mpsc::channel();
    let reader = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn(move || {
        let mut sender = Some(sender);
        for line in reader.lines() {
            let Ok(line) = line else { break };
            let address = line
                .strip_prefix("ready api=")
                .and_then(|rest| rest.trim().parse().ok());
            lines.lock().unwrap().push(line);
            if let (Some(address), Some(sender)) = (address, sender.take_if(|_| address.is_some()))
            {
                let _ = sender.send(address);
            }
        }
    });
    receiver
}
