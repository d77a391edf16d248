//! `aqueduct sub -g` on queue groups: a shell command for each job, and plain printing.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aqueduct_tests::{
    cli::{Finished, exit},
    process::PATIENCE,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::fixture::Fixture;

fn publish(broker: &Fixture, arguments: &[&str]) {
    let head = ["pub", "jobs"];
    broker.cli.run(&[&head, arguments].concat()).ok();
}

/// A queue group with almost no backoff; leases last this many seconds.
fn create(broker: &Fixture, lease_s: u32) {
    broker.create("jobs", 1);
    let lease = format!("{lease_s}s");
    let body = serde_json::json!({"topic": "jobs", "group": {"name": "work", "queue":
        {"lease": lease, "backoff": "0.005s", "backoffFactorPercent": 100, "backoffMax": "0.005s"}}});
    broker
        .cli
        .run(&["api", "Groups/CreateGroup", &body.to_string()])
        .ok();
}

struct Script {
    broker: Fixture,
    log: PathBuf,
}

impl Script {
    fn new(lease_s: u32) -> Script {
        let broker = Fixture::new();
        create(&broker, lease_s);
        let log = broker.directory.path().join("log");
        fs::write(&log, "").unwrap();
        Script { broker, log }
    }

    fn worker(&self, script: &str, arguments: &[&str]) -> Command {
        let head = ["sub", "jobs", "-g", "work", "--exec", script];
        let mut command = self.broker.cli.command(&[&head, arguments].concat());
        command.env("LOG", &self.log);
        command
    }

    /// Works until nothing has come for a while.
    fn work(&self, script: &str, arguments: &[&str]) -> Finished {
        let idle = ["--idle", "1500ms"];
        let mut command = self.worker(script, &[&idle, arguments].concat());
        aqueduct_tests::cli::finish(&mut command).ok()
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn until(&self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !is_so(&self.lines()) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.lines());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

#[test]
fn exit_codes_are_verdicts_and_variables_tell_of_the_job() {
    let here = Script::new(30);
    for value in ["fine", "again", "broken", "odd"] {
        publish(
            &here.broker,
            &[value, "-k", "k 1", "-H", "content-type=text/plain"],
        );
    }
    let script = r#"
        value=$(cat)
        echo "$AQUEDUCT_TOPIC $AQUEDUCT_GROUP $AQUEDUCT_PARTITION:$AQUEDUCT_OFFSET $AQUEDUCT_KEY $AQUEDUCT_HEADER_CONTENT_TYPE $value $AQUEDUCT_ATTEMPT [$AQUEDUCT_LAST_ERROR]" >> "$LOG"
        test "$AQUEDUCT_LEASE" -gt 0 || exit 65
        case "$value$AQUEDUCT_ATTEMPT" in
            again1) echo chatter >&2; echo "not now" >&2; exit 75;;
            again2) exit 3;;
            broken*) echo "cannot be read" >&2; exit 65;;
            odd1) kill -9 $$;;
        esac
    "#;
    let finished = here.work(script, &["-j", "2"]);
    assert!(finished.stderr.contains("not now"), "{}", finished.stderr);
    let mut lines = here.lines();
    lines.sort_unstable();
    let head = "jobs work 0:";
    let rest = "k 1 text/plain";
    let wanted = [
        format!("{head}0 {rest} fine 1 []"),
        format!("{head}1 {rest} again 1 []"),
        format!("{head}1 {rest} again 2 [not now]"),
        format!("{head}1 {rest} again 3 [exit code 3]"),
        format!("{head}2 {rest} broken 1 []"),
        format!("{head}3 {rest} odd 1 []"),
        format!("{head}3 {rest} odd 2 [killed by signal 9]"),
    ];
    assert_eq!(lines, wanted);
    let dead = here
        .broker
        .cli
        .run(&["sub", "jobs.work.dlq", "-o", "jsonl"])
        .ok();
    assert_eq!(dead.last_json()["value"], "broken");
    assert!(dead.stdout.contains("cannot be read"), "{}", dead.stdout);
}

#[test]
fn a_message_that_makes_no_variables_is_still_a_job() {
    let here = Script::new(30);
    let long = "x".repeat(40_000);
    publish(
        &here.broker,
        &[
            "a",
            "-H",
            &format!("long={long}"),
            "-H",
            "ok=1",
            "-H",
            "OK=2",
        ],
    );
    let large = "y".repeat(1 << 20);
    here.broker
        .cli
        .run_with_input(&["pub", "jobs"], large.as_bytes())
        .ok();
    // It reads nothing of its input, and leaves something behind that holds its output open.
    here.work(
        r#"echo "$AQUEDUCT_OMITTED $AQUEDUCT_HEADER_OK" >> "$LOG"; (sleep 3 >/dev/null)& exit 0"#,
        &[],
    );
    assert_eq!(here.lines(), ["AQUEDUCT_HEADER_LONG 1", " "]);
}

#[test]
fn a_command_that_takes_long_keeps_its_lease_and_one_that_lost_it_is_killed() {
    let mut here = Script::new(1);
    publish(&here.broker, &["one"]);
    let script = r#"
        echo "begin $AQUEDUCT_ATTEMPT" >> "$LOG"
        (while true; do sleep 0.05; echo "alive $AQUEDUCT_ATTEMPT" >> "$LOG"; done) &
        test "$AQUEDUCT_ATTEMPT" = 1 && sleep 600
        sleep 3; kill $!; echo end >> "$LOG"
    "#;
    let mut child = here.worker(script, &[]).spawn().unwrap();
    here.until("it runs", |lines| {
        lines.iter().any(|line| line == "alive 1")
    });
    here.broker.process.kill();
    // Longer than the lease: then it is lost, and the group with the loop in it is killed.
    let start = Instant::now();
    loop {
        let before = here.lines().len();
        std::thread::sleep(Duration::from_millis(500));
        if here.lines().len() == before {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it was not killed");
    }
    here.broker.process.restart();
    // The second attempt takes three times as long as a lease.
    here.until("it ends", |lines| lines.iter().any(|line| line == "end"));
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let begun = here
        .lines()
        .iter()
        .filter(|line| line.starts_with("begin"))
        .count();
    assert_eq!(begun, 2);
}

#[test]
fn sigterm_drains_and_what_is_not_done_in_time_is_given_back() {
    let here = Script::new(30);
    for value in ["quick", "stuck", "waits"] {
        publish(&here.broker, &[value]);
    }
    let script = r#"
        value=$(cat); echo "$value $AQUEDUCT_ATTEMPT" >> "$LOG"
        case $value$AQUEDUCT_HAND_OUTS in quick*) sleep 1;; stuck1) sleep 600;; esac
        echo "end $value" >> "$LOG"
    "#;
    let mut child = here
        .worker(script, &["-j", "2", "--grace", "3s"])
        .spawn()
        .unwrap();
    here.until("two run", |lines| lines.len() >= 2);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut lines = here.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["end quick", "quick 1", "stuck 1"]);
    here.work(script, &["-j", "2"]);
    let mut lines = here.lines();
    lines.sort_unstable();
    lines.dedup();
    let all = [
        "end quick",
        "end stuck",
        "end waits",
        "quick 1",
        "stuck 1",
        "waits 1",
    ];
    assert_eq!(lines, all, "given back is not failed");
}

#[test]
fn a_job_timeout_kills_and_a_group_is_made_by_the_first_worker() {
    let broker = Fixture::new();
    broker.create("jobs", 2);
    publish(&broker, &["one"]);
    let head = ["sub", "jobs", "-g", "fresh", "--exec"];
    let sub = |arguments: &[&str]| broker.cli.run(&[&head[..], arguments].concat());
    let _ = sub(&["true", "--must-exist"]).with_code(exit::NOT_FOUND);
    let slow = "test $AQUEDUCT_ATTEMPT = 2 || sleep 600";
    let done = sub(&[slow, "--job-timeout", "200ms", "--idle", "4s"]).ok();
    assert!(
        done.stderr.contains("created the queue group"),
        "{}",
        done.stderr
    );
    let none = broker
        .cli
        .run(&["sub", "jobs", "-g", "fresh", "--idle", "500ms"])
        .ok();
    assert_eq!(none.stdout, "", "it is done");

    let _ = broker
        .cli
        .run(&["sub", "jobs", "--exec", "true"])
        .with_code(exit::USAGE);
    let _ = sub(&["true", "-n", "3"]).with_code(exit::USAGE);
    let _ = sub(&["true", "-j", "0"]).with_code(exit::USAGE);
    broker.cli.run(&["group", "create", "jobs/stream"]).ok();
    let wrong = ["sub", "jobs", "-g", "stream", "--exec", "true"];
    let _ = broker.cli.run(&wrong).with_code(exit::CONFLICT);
}

#[test]
fn without_a_command_messages_are_printed_and_acknowledged() {
    let broker = Fixture::new();
    create(&broker, 30);
    let input: String = (0..1_000).map(|n| format!("{n}\n")).collect();
    broker
        .cli
        .run_with_input(&["pub", "jobs"], input.as_bytes())
        .ok();
    let sub = |arguments: &[&str]| {
        let head = ["sub", "jobs", "-g", "work"];
        broker.cli.run(&[&head[..], arguments].concat())
    };
    assert_eq!(sub(&["-n", "3"]).ok().stdout, "0\n1\n2\n");
    let one = sub(&["-n", "1", "-o", "jsonl"]).ok().last_json();
    assert_eq!(
        (one["offset"].as_u64(), one["value"].as_str()),
        (Some(3), Some("3"))
    );
    let _ = sub(&["--no-commit"]).with_code(exit::USAGE);
    let _ = sub(&["--member", "me"]).with_code(exit::USAGE);
    let rest = sub(&["--idle", "2s"]).ok().stdout;
    assert_eq!(rest.lines().count(), 996);
    assert_eq!(rest.lines().next(), Some("4"));
    let mut command = broker.cli.command(&["sub", "jobs", "-g", "work"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    publish(&broker, &["late"]);
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    let left = sub(&["--idle", "1s"]).ok().stdout;
    assert_eq!(format!("{printed}{left}"), "late\n");
}

#[test]
fn output_that_is_not_whole_is_no_result() {
    let here = Script::new(30);
    here.broker.create("done", 1);
    publish(&here.broker, &["one"]);
    let script = r#"
        echo "$AQUEDUCT_ATTEMPT [$AQUEDUCT_LAST_ERROR]" >> "$LOG"
        test "$AQUEDUCT_ATTEMPT" = 2 && echo whole && exit 0
        echo part; (sleep 5; echo rest) 2>/dev/null & exit 0
    "#;
    here.work(script, &["--results", "done"]);
    let why = "its output was not at its end when it had ended";
    assert_eq!(here.lines(), ["1 []", &format!("2 [{why}]")]);
    let results = here.broker.cli.run(&["sub", "done", "-o", "jsonl"]).ok();
    assert_eq!(results.stdout.lines().count(), 1, "{}", results.stdout);
    assert_eq!(results.last_json()["value"], "whole\n");
}
