//! A worker process that stands still for longer than its lease, and then goes on.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use aqueduct_tests::{Cli, Process, process::PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the worker, however the test ends.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        signal(&self.0, Signal::CONT);
        signal(&self.0, Signal::TERM);
        let _ = self.0.wait();
    }
}

struct Scene {
    cli: Cli,
    directory: tempfile::TempDir,
    _broker: Process,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let broker = Process::start(&directory.path().join("data"));
        let cli = Cli::new(broker.address());
        let _ = cli.run(&["topic", "create", "jobs"]).ok();
        let make = ["group", "create", "jobs/work", "--queue", "--lease", "2s"];
        let _ = cli.run(&[&make[..], &["--backoff", "1ms"]].concat()).ok();
        Scene {
            cli,
            directory,
            _broker: broker,
        }
    }

    fn call(&self, method: &str, body: &Value) -> Value {
        let body = body.to_string();
        self.cli.run(&["api", method, &body]).ok().json()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Notes each job, and ends well when the file "go" is there.
    fn worker(&self) -> Worker {
        let script = r#"
            echo "begin $(cat) $AQUEDUCT_ATTEMPT $AQUEDUCT_LEASE" >> "$HERE/log"
            while ! test -e "$HERE/go"; do sleep 0.02; done
            echo "end $AQUEDUCT_LEASE" >> "$HERE/log"
        "#;
        let line = ["sub", "jobs", "-g", "work", "--exec", script, "-j", "1"];
        let mut command = self.cli.command(&line);
        command.env("HERE", self.directory.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Worker(command.spawn().unwrap())
    }
}

/// What it says late is refused, and the message is done once, by who has it then.
#[test]
fn a_worker_that_was_stopped_past_its_lease_finishes_nothing() {
    let scene = Scene::new();
    let _ = scene.cli.run(&["pub", "jobs", "one"]).ok();
    let worker = scene.worker();
    until("it begins", || scene.log().contains("begin one 1 "));
    let lease = scene.log().split_whitespace().last().unwrap().to_owned();
    // From now on leases last; the one that was given stays as it is.
    let longer = ["group", "update", "jobs/work", "--lease", "10m"];
    let _ = scene.cli.run(&longer).ok();
    signal(&worker.0, Signal::STOP);
    fs::write(scene.directory.path().join("go"), "").unwrap();
    until("the job ends", || scene.log().contains("end "));

    let wait = json!({"topic": "jobs", "group": "work", "wait": "60s"});
    let leased = scene.call("Queues/Lease", &wait);
    let second = leased["deliveries"][0].clone();
    assert_eq!(second["attempt"], 2, "{leased}");
    let next = second["lease"].as_str().unwrap().to_owned();
    assert!(next.parse::<u64>().unwrap() > lease.parse::<u64>().unwrap());

    signal(&worker.0, Signal::CONT);
    // It works again, and what it did before is over.
    let _ = scene.cli.run(&["pub", "jobs", "two"]).ok();
    until("it works again", || scene.log().contains("begin two 1 "));
    let settle = |lease: &str, verdict: &str| {
        let settlement = json!({"offset": "0", "lease": lease, verdict: true});
        let body = json!({"topic": "jobs", "group": "work", "settlements": [settlement]});
        scene.call("Queues/Settle", &body)["results"][0].clone()
    };
    for late in ["ack", "release"] {
        let result = settle(&lease, late).to_string();
        assert!(result.contains("LEASE_LOST"), "{result}");
    }
    let seen = scene.cli.run(&["get", "jobs", "0:0", "-o", "json"]).ok();
    let standing = seen.json()["groups"][0].clone();
    assert_eq!(standing["state"], "leased", "{standing}");
    assert_eq!(standing["lease"]["lease"].to_string(), next);
    assert_eq!(standing["history"][0]["end"], "EXPIRED");
    assert_eq!(
        (&standing["failed_attempts"], &standing["hand_outs"]),
        (&1.into(), &2.into())
    );

    let done = settle(&next, "ack");
    assert!(done.get("error").is_none(), "{done}");
    let described = || {
        let line = ["group", "describe", "jobs/work", "-o", "json"];
        scene.cli.run(&line).ok().json()
    };
    until("both are done", || described()["counts"]["done"] == 2);
    let totals = described()["totals"].clone();
    assert_eq!(
        (&totals["acked"], &totals["expired"]),
        (&2.into(), &1.into()),
        "{totals}"
    );
    assert_eq!(scene.log().matches("begin one").count(), 1);
    assert_eq!(scene.log().matches("end ").count(), 2);
}
