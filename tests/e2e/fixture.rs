//! A broker with everything a test wants to reach it by.

use aqueduct_tests::{Cli, Process, grpc::Api};
use tempfile::TempDir;

/// A running broker on a fresh directory. Ends with the test.
pub(crate) struct Fixture {
    pub(crate) process: Process,
    pub(crate) cli: Cli,
    /// Keeps the directory; also for files a test wants beside the data.
    pub(crate) directory: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture::with(&[])
    }

    /// With more arguments for `serve`.
    pub(crate) fn with(arguments: &[&str]) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let process = Process::start_with(&directory.path().join("data"), arguments);
        let cli = Cli::new(process.address());
        Fixture {
            process,
            cli,
            directory,
        }
    }

    pub(crate) async fn api(&self) -> Api {
        Api::connect(self.process.address()).await
    }

    /// Creates a topic by the command line.
    pub(crate) fn create(&self, topic: &str, partitions: u32) {
        let count = partitions.to_string();
        self.cli
            .run(&["topic", "create", topic, "--partitions", &count])
            .ok();
    }

    /// The broker is alive and serves: what a test says after it did something bad.
    #[track_caller]
    pub(crate) fn assert_serves(&mut self) {
        assert!(
            !self.process.has_ended(),
            "the broker ended:\n{}",
            self.process.stderr()
        );
        self.cli.run(&["topic", "ls"]).ok();
    }
}
