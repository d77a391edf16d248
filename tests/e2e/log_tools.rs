//! `aqueduct log verify|dump` on a stopped broker.

use aqueduct_tests::Cli;

use crate::fixture::Fixture;

fn filled() -> Fixture {
    let broker = Fixture::new();
    broker.create("orders", 2);
    let input: String = (0..1_000).map(|n| format!("key-{n} value {n}\n")).collect();
    let pub_arguments = ["pub", "orders", "--key-regex", r"^(\S+)"];
    broker
        .cli
        .run_with_input(&pub_arguments, input.as_bytes())
        .ok();
    broker
}

/// Commands that look at a directory need no server.
fn offline() -> Cli {
    Cli::new("127.0.0.1:1".parse().unwrap())
}

#[test]
fn a_sound_log_verifies_and_dumps() {
    let mut broker = filled();
    let data = broker.process.data().to_str().unwrap().to_owned();
    let locked = offline().run(&["log", "verify", &data]);
    assert_ne!(locked.code, 0, "a running broker's directory is refused");
    assert!(broker.process.terminate().success());
    let verified = offline().run(&["log", "verify", &data]).ok();
    assert!(!verified.stdout.is_empty());
    let dumped = offline().run(&["log", "dump", &data]).ok();
    assert!(dumped.stdout.lines().count() > 2, "{}", dumped.stdout);
    broker.process.restart();
    assert_eq!(
        broker.cli.read_all("orders").len(),
        1_000,
        "looking changes nothing"
    );
}

#[test]
fn a_log_after_a_kill_verifies_too() {
    let mut broker = filled();
    let data = broker.process.data().to_str().unwrap().to_owned();
    broker.process.kill();
    offline().run(&["log", "verify", &data]).ok();
    broker.process.restart();
    assert_eq!(broker.cli.read_all("orders").len(), 1_000);
}
