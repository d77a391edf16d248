//! Snapshots of what scripts and people rely on: help texts and JSON documents.
//!
//! A change here is a change of the contract: look at it twice, then accept it with
//! `INSTA_UPDATE=always cargo test -p aqueduct-tests --test e2e contract` and write it into
//! the changelog.

use std::process::{Command, Stdio};

use aqueduct_tests::{cli::finish, process::binary};
use regex::Regex;

use crate::fixture::Fixture;

/// Every command with a help text.
const COMMANDS: &[&str] = &[
    "",
    "dev",
    "serve",
    "topic",
    "topic ls",
    "topic create",
    "topic describe",
    "topic alter",
    "topic trim",
    "topic rm",
    "pub",
    "sub",
    "get",
    "group",
    "group ls",
    "group create",
    "group describe",
    "group alter",
    "group seek",
    "group pause",
    "group resume",
    "group inflight",
    "group unpark",
    "group rm",
    "dlq",
    "dlq ls",
    "dlq peek",
    "dlq redrive",
    "dlq discard",
    "dlq export",
    "lag",
    "status",
    "doctor",
    "context",
    "context ls",
    "context set",
    "context use",
    "context rm",
    "api",
    "completion",
    "config",
    "config show",
    "config env",
    "config check",
    "log",
    "version",
];

#[test]
fn help_texts() {
    let mut all = String::new();
    for command in COMMANDS {
        let mut process = Command::new(binary());
        process.args(command.split_whitespace()).arg("--help");
        process
            .env_remove("AQUEDUCT_SERVER")
            .env_remove("AQUEDUCT_CONFIG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        let finished = finish(&mut process).ok();
        all.push_str(&format!(
            "$ aqueduct {command} --help\n{}\n",
            finished.stdout
        ));
    }
    insta::assert_snapshot!("help", all);
}

/// Replaces what differs from run to run.
fn steady(text: &str) -> String {
    let rules = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "<time>"),
        (r#"("(?:create|update)_time(?:_ms)?":\s*)\d+"#, "$1<time>"),
        (r#"("etag":\s*)"[^"]*""#, "$1\"<etag>\""),
        (r#"("size_bytes":\s*)\d+"#, "$1<bytes>"),
        (r#"("lag_seconds":\s*)[0-9.]+"#, "$1<s>"),
        (r#"("elapsed_ms":\s*)\d+"#, "$1<ms>"),
    ];
    rules.iter().fold(text.to_owned(), |text, (pattern, to)| {
        Regex::new(pattern)
            .unwrap()
            .replace_all(&text, *to)
            .into_owned()
    })
}

#[test]
fn json_documents() {
    let broker = Fixture::new();
    let message = concat!(
        r#"{"key":"k","value":"text","timestamp":1700000000000,"#,
        r#""headers":[{"name":"a","value":"1"},{"name":"a","value_base64":"/w=="}]}"#,
        "\n"
    );
    let mut all = String::new();
    let mut note = |arguments: &[&str], input: &[u8]| {
        let finished = broker.cli.run_with_input(arguments, input);
        let command = arguments.join(" ");
        all.push_str(&format!(
            "$ aqueduct {command}\n{}",
            steady(&finished.stdout)
        ));
        all.push_str(&format!("exit code {}\n\n", finished.code));
    };
    let label = ["--label", "team=billing", "--retention", "1d"];
    note(
        &[
            &["topic", "create", "orders", "-p", "2", "-o", "json"],
            &label[..],
        ]
        .concat(),
        b"",
    );
    note(&["topic", "create", "orders", "-o", "json"], b"");
    let jsonl = [
        "pub",
        "orders",
        "--partition",
        "1",
        "--format",
        "jsonl",
        "-o",
        "json",
    ];
    note(&jsonl, message.as_bytes());
    note(&["topic", "ls", "-o", "json"], b"");
    note(&["topic", "ls", "-o", "jsonl"], b"");
    note(&["topic", "describe", "orders", "-o", "json"], b"");
    note(&["sub", "orders", "-o", "jsonl"], b"");
    note(&["sub", "orders", "-o", "json"], b"");
    note(&["get", "orders", "1:0", "-o", "json"], b"");
    note(&["get", "orders", "1:1", "-o", "json"], b"");
    note(
        &["topic", "trim", "orders", "--all", "--yes", "-o", "json"],
        b"",
    );
    note(
        &[
            "topic",
            "alter",
            "orders",
            "--partitions",
            "1",
            "-o",
            "json",
        ],
        b"",
    );
    note(&["topic", "rm", "orders", "-o", "json"], b"");
    note(&["topic", "rm", "orders", "--yes", "-o", "json"], b"");
    insta::assert_snapshot!("json", all);
}

#[test]
fn json_documents_of_groups() {
    let broker = Fixture::new();
    broker.create("orders", 2);
    let publish = ["pub", "orders", "-p", "1", "--format", "jsonl"];
    let message = br#"{"value":"x","timestamp":1700000000000}"#;
    broker.cli.run_with_input(&publish, message).ok();
    let mut all = String::new();
    for command in [
        "group create orders/billing --label team=shop -o json",
        "group create orders/billing -o json",
        "group ls -o json",
        "group ls orders -o jsonl",
        "sub orders -g billing -n 1 -o jsonl",
        "group describe orders/billing -o json",
        "lag -o json",
        "lag orders/billing --partitions -o jsonl",
        "group seek orders/billing --to start --dry-run -o json",
        "group seek orders/billing --to start -o json",
        "group pause orders/billing --for 1h --dry-run -o json",
        "group resume orders/billing -o json",
        "group alter orders/billing --overrun latest -o json",
        "group rm orders/billing -o json",
        "group rm orders/billing --yes -o json",
        "lag -o json",
        "lag orders/billing -o json",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let finished = broker.cli.run(&arguments);
        let (stdout, code) = (steady(&finished.stdout), finished.code);
        all.push_str(&format!(
            "$ aqueduct {command}\n{stdout}exit code {code}\n\n"
        ));
    }
    insta::assert_snapshot!("groups_json", all);
}
