//! The command line's contract: formats, exit codes, what scripts rely on.

use aqueduct_tests::{cli::exit, cli::read_acks};
use serde_json::{Value, json};

use crate::fixture::Fixture;

#[test]
fn a_record_is_one_object_with_its_keys_in_order() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    broker
        .cli
        .run(&[
            "pub",
            "orders",
            "hi \"there\"",
            "-k",
            "k1",
            "-H",
            "a=1",
            "-H",
            "a=2",
        ])
        .ok();
    broker.cli.run(&["pub", "orders", "no key"]).ok();
    let out = broker.cli.run(&[
        "sub", "orders", "--from", "start", "--until", "now", "-o", "jsonl",
    ]);
    let out = out.ok().stdout;
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    let keys: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "topic",
            "partition",
            "offset",
            "timestamp",
            "key",
            "value",
            "headers"
        ]
    );
    assert_eq!(lines[0]["topic"], "orders");
    assert_eq!(lines[0]["offset"], 0);
    assert_eq!(lines[0]["key"], "k1");
    assert_eq!(lines[0]["value"], "hi \"there\"");
    let headers = json!([{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]);
    assert_eq!(lines[0]["headers"], headers);
    assert_eq!(lines[1]["key"], Value::Null);
}

#[test]
fn bytes_that_are_no_text_come_as_base64() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    broker
        .cli
        .run_with_input(&["pub", "orders"], b"\xff\xfe\n")
        .ok();
    let out = broker.cli.run(&[
        "sub", "orders", "--from", "start", "--until", "now", "-o", "jsonl",
    ]);
    let record: Value = serde_json::from_str(out.ok().stdout.trim()).unwrap();
    assert_eq!(record["value_base64"], "//4=");
    assert!(record.get("value").is_none(), "{record}");
}

#[test]
fn the_summary_counts_and_acks_are_written_down() {
    let broker = Fixture::new();
    broker.create("orders", 3);
    let acks = broker.directory.path().join("acks");
    let arguments = [
        "pub",
        "orders",
        "-o",
        "json",
        "--acks-to",
        acks.to_str().unwrap(),
    ];
    let finished = broker
        .cli
        .run_with_input(&arguments, b"one\ntwo\nthree")
        .ok();
    let summary = finished.last_json();
    let keys: Vec<&String> = summary.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["acknowledged", "duplicates", "failed", "elapsed_ms"]);
    assert_eq!(
        (&summary["acknowledged"], &summary["failed"]),
        (&json!(3), &json!(0))
    );
    let mut lines: Vec<u64> = read_acks(&acks).iter().map(|ack| ack.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [1, 2, 3], "a last line without its end counts");
}

#[test]
fn raw_output_is_the_input() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    let input: String = (0..10_000).map(|n| format!("line {n}\n")).collect();
    broker
        .cli
        .run_with_input(&["pub", "orders"], input.as_bytes())
        .ok();
    let out = broker.cli.run(&[
        "sub", "orders", "--from", "start", "--until", "now", "-o", "raw",
    ]);
    assert!(out.ok().stdout == input);
    let three = broker
        .cli
        .run(&["sub", "orders", "--from", "start", "-n", "3", "-o", "raw"])
        .ok();
    assert_eq!(three.stdout, "line 0\nline 1\nline 2\n");
    let last = broker
        .cli
        .run(&["sub", "orders", "--from=-2", "--until", "now", "-o", "raw"])
        .ok();
    assert_eq!(last.stdout, "line 9998\nline 9999\n");
}

#[test]
fn get_prints_one_message() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    broker.cli.run(&["pub", "orders", "a", "b", "c"]).ok();
    let got = broker
        .cli
        .run(&["get", "orders", "0:1", "-o", "json"])
        .ok()
        .json();
    assert_eq!(got["value"], "b");
    let _ = broker
        .cli
        .run(&["get", "orders", "0:77"])
        .with_code(exit::NOT_FOUND);
}

#[test]
fn a_dedup_id_makes_a_repeat_a_duplicate() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    let arguments = ["pub", "orders", "x", "--dedup-id", "id-1", "-o", "json"];
    assert_eq!(
        broker.cli.run(&arguments).ok().last_json()["duplicates"],
        json!(0)
    );
    let again = broker.cli.run(&arguments).ok().last_json();
    assert_eq!(
        (&again["acknowledged"], &again["duplicates"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(broker.cli.read_all("orders").len(), 1);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let broker = Fixture::new();
    let wrong: [&[&str]; 5] = [
        &["no-such-command"],
        &["topic", "create"],
        &["sub", "orders", "--from", "yesterday-ish"],
        &["pub", "orders", "--key-regex", "(", "x"],
        &["topic", "create", "orders", "--partitions", "many"],
    ];
    for arguments in wrong {
        let failed = broker.cli.run(arguments).with_code(exit::USAGE);
        assert!(failed.stdout.is_empty(), "{arguments:?}");
        assert!(
            failed.stderr.contains("error"),
            "{arguments:?}: {}",
            failed.stderr
        );
    }
}

#[test]
fn jsonl_comes_back_as_it_was_given() {
    let broker = Fixture::new();
    broker.create("orders", 2);
    let input = concat!(
        r#"{"key":"a","value":"1","partition":1,"timestamp":1700000000000}"#,
        "\n",
        r#"{"value_base64":"//4=","partition":0,"headers":[{"name":"h","value":"v"}]}"#,
        "\n"
    );
    broker
        .cli
        .run_with_input(&["pub", "orders", "--format", "jsonl"], input.as_bytes())
        .ok();
    let stored = broker.cli.read_all("orders");
    let one = stored.iter().find(|record| record.partition == 1).unwrap();
    assert_eq!(
        (one.key.as_deref(), one.value.as_deref()),
        (Some("a"), Some("1"))
    );
    assert_eq!(stored.len(), 2);
}

#[test]
fn the_doctor_and_the_version_speak_json() {
    let broker = Fixture::new();
    let version = broker.cli.run(&["version", "-o", "json"]).ok().json();
    assert!(version["version"].is_string(), "{version}");
    let doctor = broker.cli.run(&["doctor", "-o", "json"]);
    let report = doctor.json();
    assert!(report.is_object() || report.is_array(), "{report}");
}
