//! Snapshots of what `bench`, `log verify` and `log dump` print.
//!
//! A change here is a change of the contract, as in `contract`. Figures are redacted: their
//! shape is the contract. The cluster's own log (number 0) is looked at elsewhere, because
//! it says how the broker agrees with itself, which is nobody's matter.

use std::process::Stdio;

use aqueduct_tests::Cli;
use regex::Regex;
use serde_json::Value;

use crate::fixture::Fixture;

/// Commands that look at a directory, or only explain themselves, need no server.
fn offline() -> Cli {
    Cli::new("127.0.0.1:1".parse().unwrap())
}

#[test]
fn help_texts_of_the_tools() {
    let mut all = String::new();
    for command in ["bench", "log verify", "log dump"] {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let mut process = offline().command(&arguments);
        process.env_remove("AQUEDUCT_SERVER").stdin(Stdio::null());
        let finished = aqueduct_tests::cli::finish(&mut process).ok();
        all.push_str(&format!(
            "$ aqueduct {command} --help\n{}\n",
            finished.stdout
        ));
    }
    insta::assert_snapshot!("tools_help", all);
}

/// The same object with a 0 for each number.
fn redacted(value: &Value) -> Value {
    match value {
        Value::Number(_) => Value::from(0),
        Value::Array(values) => values.iter().map(redacted).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| (name.clone(), redacted(value)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[test]
fn bench_prints_one_object() {
    let broker = Fixture::new();
    let mut all = String::new();
    let sizes = ["--count", "300", "--batch", "10", "--size", "40"];
    for (workload, more) in [
        ("pub", &["--no-ceilings"][..]),
        ("pub", &["--rate", "10000", "--no-ceilings"]),
        ("sub", &["--no-ceilings"]),
        ("both", &["--no-ceilings"]),
        ("group", &["--no-ceilings"]),
        ("group", &["--rate", "10000", "--no-ceilings"]),
        ("group", &["--commit-every", "100", "--no-ceilings"]),
        ("pub", &[]),
    ] {
        let arguments = [&["bench", workload, "-o", "json"], &sizes[..], more].concat();
        let finished = broker.cli.run(&arguments).ok();
        assert_eq!(finished.stdout.lines().count(), 1, "{}", finished.stdout);
        let found = finished.json();
        assert_eq!(found["messages"], 300, "{found}");
        for figure in ["seconds", "msgs_per_s", "mb_per_s"] {
            assert!(found[figure].as_f64().unwrap() > 0.0, "{figure}: {found}");
        }
        let text = serde_json::to_string_pretty(&redacted(&found)).unwrap();
        all.push_str(&format!("$ aqueduct {}\n{text}\n\n", arguments.join(" ")));
    }
    insta::assert_snapshot!("bench_json", all);
}

#[test]
fn bench_of_a_rebalance_prints_one_object() {
    let broker = Fixture::new();
    let command = "bench group --rebalance --members 2 --partitions 4 --duration 1ms --no-ceilings";
    let arguments: Vec<&str> = command.split(' ').chain(["-o", "json"]).collect();
    let finished = broker.cli.run(&arguments).ok();
    let found = finished.json();
    let rebalance = &found["rebalance"];
    assert_eq!(
        (&rebalance["joins"], &rebalance["leaves"]),
        (&1.into(), &1.into())
    );
    assert_eq!(rebalance["moved"], 2, "one to the new member, and back");
    assert_eq!(rebalance["others_interrupted"], 0);
    let text = serde_json::to_string_pretty(&redacted(&found)).unwrap();
    insta::assert_snapshot!("bench_rebalance_json", text);
}

/// Two partitions: one message of a named producer, three messages of nobody.
fn small_log() -> Fixture {
    let mut broker = Fixture::new();
    broker.create("orders", 2);
    let jsonl = |key: &str, timestamp: u64, more: &str| {
        format!(r#"{{"key":"{key}","value":"text","timestamp":{timestamp}{more}}}"#) + "\n"
    };
    let publish = |arguments: &[&str], input: String| {
        let common = ["pub", "orders", "--format", "jsonl", "--partition"];
        let arguments = [&common[..], arguments].concat();
        broker.cli.run_with_input(&arguments, input.as_bytes()).ok();
    };
    publish(&["0", "--producer", "p"], jsonl("k", 1_700_000_000_000, ""));
    for n in 0..3 {
        let id = format!(r#","dedup_id":"{n}""#);
        publish(&["1"], jsonl("l", 1_700_000_000_000 + n, &id));
    }
    assert!(broker.process.terminate().success());
    broker
}

#[test]
fn log_tools_print_a_small_log() {
    let broker = small_log();
    let data = broker.process.data().to_str().unwrap();
    let mut all = String::new();
    for (command, log, format) in [
        ("verify", "1", "table"),
        ("verify", "1", "json"),
        ("dump", "1", "table"),
        ("dump", "2", "table"),
        ("dump", "1", "json"),
        ("dump", "2", "jsonl"),
    ] {
        let finished = offline().run(&["log", command, data, "--log", log, "-o", format]);
        let finished = finished.ok();
        if format == "json" {
            let _one_document = finished.json();
        }
        let title = format!("$ aqueduct log {command} DIR --log {log} -o {format}");
        all.push_str(&format!("{title}\n{}\n", finished.stdout));
    }
    let whole = offline().run(&["log", "dump", data, "-o", "json"]).ok();
    assert!(whole.json().as_array().unwrap().len() > 8);
    insta::assert_snapshot!("log_tools", all);
}

/// Where a byte has changed, the tools name the file and the place, and end with 1.
#[test]
fn log_tools_name_the_damage() {
    let broker = small_log();
    let directory = broker.process.data();
    let segments = std::fs::read_dir(directory.join("logs/2")).unwrap();
    let segment = segments
        .map(|item| item.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(4).position(|four| four == b"text").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let data = directory.to_str().unwrap();
    let mut all = String::new();
    for arguments in [
        &["log", "verify", data, "--log", "2"][..],
        &["log", "verify", data, "--log", "2", "-o", "json"],
        &["log", "dump", data, "--log", "2"],
    ] {
        let finished = offline().run(arguments);
        let title = arguments.join(" ").replace(data, "DIR");
        let (out, err) = (&finished.stdout, &finished.stderr);
        all.push_str(&format!("$ aqueduct {title}\n{out}{err}"));
        all.push_str(&format!("exit code {}\n\n", finished.code));
    }
    let all = Regex::new(r"\d{20}\.seg")
        .unwrap()
        .replace_all(&all, "<segment>");
    insta::assert_snapshot!("log_tools_damaged", all);
}
