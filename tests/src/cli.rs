//! The command line as a script sees it: arguments and stdin in; stdout, stderr and an exit code out.

use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    history::{Acknowledged, Stored},
    process::binary,
};

/// Exit codes of the contract.
pub mod exit {
    /// Everything asked for was done.
    pub const OK: i32 = 0;
    /// The command line itself is wrong.
    pub const USAGE: i32 = 2;
    /// No such topic, partition or message.
    pub const NOT_FOUND: i32 = 3;
    /// The broker cannot be reached or cannot answer now.
    pub const UNAVAILABLE: i32 = 5;
    /// The outcome is unknown.
    pub const TIMEOUT: i32 = 6;
    /// Exists already, or not in the expected state.
    pub const CONFLICT: i32 = 7;
}

/// Client commands against one server.
#[derive(Clone, Debug)]
pub struct Cli {
    server: String,
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Asserts the exit code and gives the result back.
    ///
    /// # Panics
    /// If the code is another one.
    #[must_use]
    #[track_caller]
    pub fn with_code(self, code: i32) -> Finished {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts success.
    ///
    /// # Panics
    /// If the exit code is not 0.
    #[track_caller]
    pub fn ok(self) -> Finished {
        self.with_code(exit::OK)
    }

    /// The last line of stdout as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn last_json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// All of stdout as one JSON document.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }
}

impl Cli {
    /// Commands for the server at this address.
    #[must_use]
    pub fn new(server: SocketAddr) -> Cli {
        Cli {
            server: server.to_string(),
        }
    }

    /// A command that is not started yet, with the server in its environment.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("AQUEDUCT_SERVER", &self.server)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments))
    }

    /// Runs a command with this standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Finished {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A thread, because a child that stops reading must not hang the test.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let finished = collect(child);
        let _ = writer.join().unwrap();
        finished
    }

    /// Starts a command with a file as its standard input and returns at once.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_with_file(&self, arguments: &[&str], input: &Path) -> Running {
        let child = self
            .command(arguments)
            .stdin(File::open(input).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Running { child: Some(child) }
    }

    /// Everything stored in a topic, as `sub --from start --until now -o jsonl` prints it.
    ///
    /// # Panics
    /// If the command fails or prints something else than the contract says.
    #[must_use]
    pub fn read_all(&self, topic: &str) -> Vec<Stored> {
        let out = self
            .run(&[
                "sub", topic, "--from", "start", "--until", "now", "-o", "jsonl",
            ])
            .ok();
        out.stdout.lines().map(Stored::from_json_line).collect()
    }
}

/// A command that runs beside the test. Dropped, it is killed.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    /// Waits for its end and collects what it printed.
    ///
    /// # Panics
    /// If it was already ended.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        collect(self.child.take().unwrap())
    }

    /// Has it ended?
    ///
    /// # Panics
    /// If its state cannot be asked.
    pub fn has_ended(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines of an `--acks-to` file. A torn last line (the writer was killed) is left out.
///
/// # Panics
/// If a whole line is not `partition offset line-number`.
#[must_use]
pub fn read_acks(path: &Path) -> Vec<Acknowledged> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(Acknowledged::from_line).collect()
}

/// Runs a command to its end, whatever it is.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn finish(command: &mut Command) -> Finished {
    collect(
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

fn collect(child: Child) -> Finished {
    let output = child.wait_with_output().unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
