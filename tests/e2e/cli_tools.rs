//! Commands around the data: contexts, raw calls, completions, man pages, dry runs, status.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use aqueduct_tests::cli::{Finished, exit, finish};
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// A command with its own home and no address in its environment.
fn at_home(broker: &Fixture, home: &Path, arguments: &[&str]) -> Finished {
    let mut command = broker.cli.command(arguments);
    command
        .env_remove("AQUEDUCT_SERVER")
        .env_remove("AQUEDUCT_CONTEXT")
        .env("XDG_CONFIG_HOME", home);
    finish(&mut command)
}

#[test]
fn contexts_say_where_the_broker_is() {
    let broker = Fixture::new();
    broker.create("orders", 1);
    let home = broker.directory.path().join("home");
    let address = broker.process.address().to_string();
    let run = |arguments: &[&str]| at_home(&broker, &home, arguments);

    let _ = run(&["context", "use", "prod"]).with_code(exit::NOT_FOUND);
    run(&["context", "set", "prod", "--server", &address, "--dry-run"]).ok();
    assert!(!home.exists(), "a dry run writes nothing");
    run(&["context", "set", "prod", "--server", &address]).ok();
    run(&["context", "set", "gone", "--server", "127.0.0.1:1"]).ok();
    let file = home.join("aqueduct/contexts.toml");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    run(&["topic", "describe", "orders", "--context", "prod"]).ok();
    run(&["context", "use", "prod"]).ok();
    run(&["topic", "describe", "orders"]).ok();
    let listed = run(&["context", "ls", "-o", "json"]).ok().json();
    let expected = json!([
        {"name": "gone", "server": "127.0.0.1:1", "current": false},
        {"name": "prod", "server": address, "current": true},
    ]);
    assert_eq!(listed, expected);

    // What is said wins over what is in use, and a flag over a variable.
    let _ = run(&["topic", "ls", "--server", "127.0.0.1:1"]).with_code(exit::UNAVAILABLE);
    let _ = run(&["topic", "ls", "--context", "gone"]).with_code(exit::UNAVAILABLE);
    let mut by_variable = broker.cli.command(&["topic", "ls"]);
    by_variable
        .env("XDG_CONFIG_HOME", &home)
        .env("AQUEDUCT_CONTEXT", "gone");
    finish(&mut by_variable).ok();
    let mut by_flag = broker.cli.command(&["topic", "ls", "--context", "gone"]);
    by_flag.env("XDG_CONFIG_HOME", &home);
    let _ = finish(&mut by_flag).with_code(exit::UNAVAILABLE);

    let unknown = run(&["topic", "ls", "--context", "nope"]).with_code(exit::NOT_FOUND);
    assert!(unknown.stderr.contains("hint: there are: gone, prod"));
    run(&["context", "rm", "prod"]).ok();
    let _ = run(&["context", "rm", "prod"]).with_code(exit::NOT_FOUND);
    fs::write(&file, "contexts = [").unwrap();
    let broken = run(&["topic", "ls"]).with_code(exit::USAGE);
    assert!(broken.stderr.contains("contexts.toml"), "{}", broken.stderr);
}

#[test]
fn any_method_can_be_called_with_json() {
    let broker = Fixture::new();
    broker.create("orders", 2);
    let api = |arguments: &[&str]| broker.cli.run(&[&["api"], arguments].concat());

    let methods = api(&["-o", "json"]).ok().json();
    let names: Vec<&str> = methods
        .as_array()
        .unwrap()
        .iter()
        .map(|method| method["method"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"aqueduct.v1.Topics/GetTopic"), "{names:?}");
    assert!(names.contains(&"aqueduct.v1.Groups/GetLag"), "{names:?}");

    let topic = api(&["Topics/GetTopic", r#"{"name":"orders"}"#]).ok();
    assert_eq!(topic.json()["partitions"], 2);
    let full = api(&["aqueduct.v1.Topics/ListTopics"]).ok().json();
    assert_eq!(full["topics"][0]["name"], "topics/orders");
    let input = br#"{"topic":"orders","messages":[{"value":"aGk=","partition":1}]}"#;
    let arguments = ["api", "Publisher/Publish", "-"];
    broker.cli.run_with_input(&arguments, input).ok();
    let read = r#"{"topic":"orders","from":{"start":true}}"#;
    let stream = api(&["Reader/Read", read]).ok().stdout;
    let lines: Vec<Value> = stream
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let records = lines.iter().find(|line| line["records"].is_object());
    assert_eq!(records.unwrap()["records"]["records"][0]["value"], "aGk=");
}

#[test]
fn calls_that_cannot_be_right_are_refused() {
    let broker = Fixture::new();
    let api = |arguments: &[&str]| broker.cli.run(&[&["api"], arguments].concat());
    for request in [
        "{",
        "[]",
        "{} {}",
        r#"{"nam":"orders"}"#,
        r#"{"name":7}"#,
        "not json",
    ] {
        let refused = api(&["Topics/GetTopic", request]).with_code(exit::USAGE);
        assert!(refused.stderr.contains("GetTopicRequest"), "{request}");
    }
    let refused = api(&["Topics/GetTopic", r#"{"name":"nope"}"#]);
    let refused = refused.with_code(exit::NOT_FOUND);
    assert!(refused.stderr.contains("TOPIC_NOT_FOUND"));
    let _ = api(&["Topics/Nope"]).with_code(exit::NOT_FOUND);
    let _ = api(&["nope"]).with_code(exit::USAGE);
    let _ = api(&["Publisher/PublishStream"]).with_code(exit::USAGE);
    let _ = api(&["--server", "127.0.0.1:1"]).with_code(exit::UNAVAILABLE);
    let _ = api(&["--server", "a b"]).with_code(exit::USAGE);
}

#[test]
fn a_dry_run_of_pub_reads_everything_and_sends_nothing() {
    let broker = Fixture::new();
    broker.create("orders", 2);
    let lines = "k1 a\nk2 b\nnone\n".as_bytes();
    let arguments = [
        "pub",
        "orders",
        "--dry-run",
        "--key-regex",
        r"^(\S+) ",
        "-o",
        "json",
    ];
    let told = broker.cli.run_with_input(&arguments, lines).ok().json();
    let expected = json!({
        "dry_run": true, "topic": "orders", "partitions": 2, "messages": 3, "keyless": 1,
    });
    assert_eq!(told, expected);
    let bad = ["pub", "orders", "--dry-run", "--format", "jsonl"];
    let refused = broker.cli.run_with_input(&bad, b"{\"value\":\"x\"}\n{\n");
    assert!(refused.stderr.contains("line 2"), "{}", refused.stderr);
    assert_ne!(refused.code, exit::OK);
    let _ = broker
        .cli
        .run(&["pub", "orders", "x", "-p", "7", "--dry-run"])
        .with_code(exit::NOT_FOUND);
    let unmade = broker.cli.run(&["pub", "new", "x", "--dry-run"]).ok();
    assert!(
        unmade.stdout.contains("does not exist"),
        "{}",
        unmade.stdout
    );
    assert!(broker.cli.read_all("orders").is_empty());
}

#[test]
fn completions_and_man_pages_are_made() {
    let broker = Fixture::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = broker.cli.run(&["completion", shell]).ok().stdout;
        assert!(script.contains("aqueduct"), "{shell}");
        assert!(script.contains("if-not-exists"), "{shell}");
    }
    let _ = broker
        .cli
        .run(&["completion", "tcl"])
        .with_code(exit::USAGE);
    let pages = broker.directory.path().join("man");
    broker.cli.run(&["man", pages.to_str().unwrap()]).ok();
    for page in ["aqueduct.1", "aqueduct-topic-create.1", "aqueduct-serve.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn status_is_one_look() {
    let broker = Fixture::new();
    broker.create("orders", 3);
    broker.cli.run(&["pub", "orders", "a", "b"]).ok();
    let status = broker.cli.run(&["status", "-o", "json"]).ok().json();
    let keys: Vec<&String> = status.as_object().unwrap().keys().collect();
    let expected = [
        "server",
        "version",
        "durability",
        "uptime_ms",
        "topics",
        "partitions",
        "groups",
        "connections",
        "messages_in",
        "bytes_in",
        "messages_out",
        "bytes_out",
        "cpu_us",
        "rss_bytes",
        "rss_peak_bytes",
        "disk_free_bytes",
        "syncs",
        "sync_p50_us",
        "sync_p99_us",
    ];
    assert_eq!(keys, expected);
    assert_eq!(status["server"], broker.process.address().to_string());
    assert_eq!(
        (&status["topics"], &status["partitions"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(status["messages_in"], 2);
    let people = broker.cli.run(&["status"]).ok().stdout;
    assert!(people.contains("1 topics, 3 partitions"), "{people}");
    let _ = broker
        .cli
        .run(&["status", "--server", "127.0.0.1:1"])
        .with_code(exit::UNAVAILABLE);
}
