//! Groups from the command line: administration, lag, and members that share a topic.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use aqueduct_tests::{cli::exit, process::PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// `aqueduct sub -g` beside the test. Dropped, it is killed.
struct Member {
    child: Child,
    printed: mpsc::Receiver<String>,
    notes: mpsc::Receiver<String>,
}

impl Member {
    fn start(broker: &Fixture, arguments: &[&str]) -> Member {
        let mut child = broker
            .cli
            .command(&[&["sub", "orders", "-g", "billing"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = follow(child.stdout.take().unwrap());
        let notes = follow(child.stderr.take().unwrap());
        Member {
            child,
            printed,
            notes,
        }
    }

    /// Waits for a note that holds this.
    fn note(&self, what: &str) -> String {
        loop {
            let note = self.notes.recv_timeout(PATIENCE);
            let note = note.unwrap_or_else(|_| panic!("no note with {what:?} in time"));
            if note.contains(what) {
                return note;
            }
        }
    }

    fn line(&self) -> String {
        self.printed.recv_timeout(PATIENCE).expect("a line in time")
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    fn wait(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < PATIENCE, "the member did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whatever else it has printed, after its end.
    fn rest(&self) -> Vec<String> {
        self.printed.iter().collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stream: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines, read) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    read
}

fn publish(broker: &Fixture, partition: u32, values: std::ops::Range<u32>) {
    let input: String = values.map(|n| format!("{n}\n")).collect();
    let partition = partition.to_string();
    broker
        .cli
        .run_with_input(&["pub", "orders", "-p", &partition], input.as_bytes())
        .ok();
}

fn lag(broker: &Fixture) -> Value {
    let told = broker.cli.run(&["lag", "orders/billing", "-o", "json"]);
    told.ok().json()[0].take()
}

#[test]
fn a_group_is_made_looked_at_moved_and_removed() {
    let broker = Fixture::new();
    broker.create("orders", 2);
    publish(&broker, 0, 0..10);
    publish(&broker, 1, 0..5);
    let group = |arguments: &[&str]| broker.cli.run(&[&["group"], arguments].concat());

    group(&["create", "orders/billing", "--dry-run"]).ok();
    let _ = group(&["describe", "orders/billing"]).with_code(exit::NOT_FOUND);
    group(&["create", "orders/billing", "--label", "team=shop"]).ok();
    let _ = group(&["create", "orders/billing"]).with_code(exit::CONFLICT);
    group(&["create", "orders/billing", "--if-not-exists"]).ok();
    let listed = group(&["ls", "-o", "json"]).ok().json();
    assert_eq!(listed[0]["name"], "billing");
    assert_eq!(listed[0]["labels"], json!({"team": "shop"}));
    let status = broker.cli.run(&["status", "-o", "json"]).ok().json();
    assert_eq!(status["groups"], 1);
    assert_eq!(lag(&broker)["lag_messages"], 15);

    let seek = |arguments: &[&str]| {
        let head = ["group", "seek", "orders/billing", "-o", "json"];
        broker.cli.run(&[&head, arguments].concat())
    };
    let preview = seek(&["--to", "end", "--dry-run"]).ok().json();
    assert_eq!(preview["partitions"][0]["new_position"], 10);
    assert_eq!(lag(&broker)["lag_messages"], 15, "a dry run moves nothing");
    let _ = seek(&["--to", "end"]).with_code(exit::USAGE);
    seek(&["--to", "end", "--yes"]).ok();
    assert_eq!(lag(&broker)["lag_messages"], 0);
    seek(&["--shift", "-3", "--yes"]).ok();
    assert_eq!(lag(&broker)["lag_messages"], 6);
    seek(&["--to", "2", "-p", "0", "--yes"]).ok();
    assert_eq!(lag(&broker)["lag_messages"], 11);
    let _ = seek(&["--to", "2", "--yes"]).with_code(exit::USAGE);
    let _ = seek(&["--yes"]).with_code(exit::USAGE);
    group(&["create", "orders/other"]).ok();
    seek(&["--from-group", "other", "--yes"]).ok();
    assert_eq!(lag(&broker)["lag_messages"], 15);

    group(&["alter", "orders/billing", "--session-timeout", "5s"]).ok();
    group(&["alter", "orders/billing", "--label", "tier=1"]).ok();
    let described = group(&["describe", "orders/billing", "-o", "json"]).ok();
    let described = described.json();
    assert_eq!(described["session_timeout_ms"], 5000);
    let labels = json!({"team": "shop", "tier": "1"});
    assert_eq!(described["labels"], labels);
    assert_eq!(described["partition_list"][1]["high_watermark"], 5);

    group(&["pause", "orders/billing", "--for", "10m", "--dry-run"]).ok();
    assert_eq!(lag(&broker)["state"], "empty");
    group(&["pause", "orders/billing", "--for", "10m"]).ok();
    assert_eq!(lag(&broker)["state"], "paused");
    group(&["resume", "orders/billing"]).ok();
    assert_ne!(lag(&broker)["state"], "paused");

    let _ = group(&["rm", "orders/billing"]).with_code(exit::USAGE);
    group(&["rm", "orders/billing", "--dry-run"]).ok();
    group(&["rm", "orders/billing", "--yes"]).ok();
    let gone = group(&["describe", "orders/billing"]).with_code(exit::NOT_FOUND);
    assert!(gone.stderr.contains("hint:"), "{}", gone.stderr);
    let _ = group(&["rm", "orders", "--yes"]).with_code(exit::USAGE);
}

#[test]
fn a_member_prints_commits_and_leaves() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    publish(&broker, 0, 0..100);
    let head = ["sub", "orders", "-g", "billing"];
    let sub = |arguments: &[&str]| broker.cli.run(&[&head[..], arguments].concat());

    let first = sub(&["-n", "7"]).ok().stdout;
    assert_eq!(first.lines().count(), 7);
    assert_eq!(lag(&broker)["lag_messages"], 93);
    assert_eq!(lag(&broker)["members"], 0, "it has left");
    let second = sub(&["-n", "3", "-o", "jsonl"]).ok();
    assert_eq!(second.last_json()["value"], "9");
    let looked = sub(&["-n", "5", "--no-commit"]).ok().stdout;
    assert_eq!(looked, "10\n11\n12\n13\n14\n");
    assert_eq!(lag(&broker)["lag_messages"], 90);
    let rest = sub(&["--idle", "1s"]).ok().stdout;
    assert_eq!(rest.lines().count(), 90);
    assert_eq!(lag(&broker)["lag_messages"], 0);
    let json = sub(&["--idle", "100ms", "-o", "json"]).ok().json();
    assert_eq!(json, json!([]));

    let _ = sub(&["--from", "start"]).with_code(exit::USAGE);
    let none = ["sub", "orders", "-g", "none", "--must-exist"];
    let _ = broker.cli.run(&none).with_code(exit::NOT_FOUND);
    let nowhere = ["sub", "nowhere", "-g", "billing"];
    let _ = broker.cli.run(&nowhere).with_code(exit::NOT_FOUND);
    let alone = broker.cli.run(&["sub", "orders", "--idle", "1s"]);
    let _ = alone.with_code(exit::USAGE);
}

#[test]
fn a_signal_ends_a_member_cleanly() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    for (signal, values) in [(Signal::TERM, 0..10), (Signal::INT, 10..20)] {
        let mut member = Member::start(&broker, &["--commit-interval", "1h"]);
        publish(&broker, 0, values.clone());
        for n in values {
            assert_eq!(member.line(), n.to_string());
        }
        member.signal(signal);
        assert_eq!(member.wait(), 0);
        let lag = lag(&broker);
        assert_eq!(lag["lag_messages"], 0, "what was printed is committed");
        assert_eq!(lag["members"], 0, "the group is left");
    }
}

#[test]
fn members_share_and_take_over() {
    let broker = Fixture::new();
    broker.create("orders", 4);
    broker
        .cli
        .run(&[
            "group",
            "create",
            "orders/billing",
            "--session-timeout",
            "2s",
        ])
        .ok();
    let mut one = Member::start(&broker, &["--member", "one"]);
    one.note("assigned");
    let two = Member::start(&broker, &["--member", "two"]);
    two.note("assigned");
    let shares = |wanted: [usize; 2]| {
        let start = Instant::now();
        loop {
            let described = broker
                .cli
                .run(&["group", "describe", "orders/billing", "-o", "json"]);
            let described = described.ok().json();
            let members = described["member_list"].as_array().unwrap().clone();
            let mut counts: Vec<usize> = members
                .iter()
                .map(|member| member["partitions"].as_array().unwrap().len())
                .collect();
            counts.resize(2, 0);
            counts.sort_unstable();
            if counts == wanted {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{described}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    shares([2, 2]);
    for partition in 0..4 {
        publish(&broker, partition, partition * 10..partition * 10 + 10);
    }
    let mut seen: Vec<String> = (0..20).map(|_| one.line()).collect();
    seen.extend((0..20).map(|_| two.line()));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 40, "each message once");

    one.signal(Signal::KILL);
    assert_eq!(one.wait(), -1);
    two.note("assigned");
    shares([0, 4]);
    for partition in 0..4 {
        publish(&broker, partition, 100 + partition..101 + partition);
    }
    let mut taken = Vec::new();
    while taken.len() < 4 {
        let line = two.line();
        // Beyond the last commit of the one that was killed, messages come again.
        if line.len() == 3 {
            taken.push(line);
        }
    }
    taken.sort_unstable();
    assert_eq!(taken, ["100", "101", "102", "103"]);
    drop(one.rest());
}

#[test]
fn lag_can_be_watched_also_while_the_broker_is_away() {
    let mut broker = Fixture::new();
    broker.create("orders", 2);
    broker.cli.run(&["group", "create", "orders/billing"]).ok();
    publish(&broker, 1, 0..3);
    let people = broker.cli.run(&["lag"]).ok().stdout;
    assert!(people.contains("billing"), "{people}");
    let arguments = ["lag", "--partitions", "-o", "json"];
    let partitions = broker.cli.run(&arguments).ok().json();
    let list = partitions[0]["partition_list"].as_array().unwrap().clone();
    assert_eq!(list[1]["lag_messages"], 3);
    assert!(list[1]["lag_seconds"].as_f64().unwrap() >= 0.0);

    let looks = ["lag", "-w", "--interval", "50ms", "-n", "3", "-o", "jsonl"];
    let watched = broker.cli.run(&looks).ok().stdout;
    assert_eq!(watched.lines().count(), 3);
    let last: Value = serde_json::from_str(watched.lines().last().unwrap()).unwrap();
    assert!(last["time"].is_string(), "{last}");
    assert_eq!(last["lag_messages"], 3);

    let mut watch = broker
        .cli
        .command(&["lag", "-w", "--interval", "50ms", "-o", "jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = follow(watch.stdout.take().unwrap());
    let errors = follow(watch.stderr.take().unwrap());
    lines.recv_timeout(PATIENCE).expect("a look");
    broker.process.kill();
    errors.recv_timeout(PATIENCE).expect("the broker is missed");
    broker.process.restart();
    while lines.try_recv().is_ok() {}
    lines
        .recv_timeout(PATIENCE)
        .expect("a look after the restart");
    let id = i32::try_from(watch.id()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::INT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0));

    let _ = broker
        .cli
        .run(&["lag", "orders/no"])
        .with_code(exit::NOT_FOUND);
    let _ = broker.cli.run(&["lag", "no"]).with_code(exit::NOT_FOUND);
    let _ = broker.cli.run(&["lag", "-n", "3"]).with_code(exit::USAGE);
}
