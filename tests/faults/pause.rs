//! A broker that stands still (SIGSTOP): outcomes are unknown and said to be, and a retry
//! stores nothing twice.

use aqueduct_tests::{Cli, Process, cli::exit};
use serde_json::json;

#[test]
fn a_pause_makes_outcomes_unknown_and_a_retry_stores_once() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Process::start(&directory.path().join("data"));
    let cli = Cli::new(broker.address());
    cli.run(&["topic", "create", "orders"]).ok();
    cli.run(&["pub", "orders", "first"]).ok();
    broker.pause();
    let arguments = [
        "pub",
        "orders",
        "second",
        "--dedup-id",
        "second-1",
        "--timeout",
        "1s",
    ];
    let stuck = cli.run(&arguments);
    broker.resume();
    assert!(
        matches!(stuck.code, exit::TIMEOUT | exit::UNAVAILABLE),
        "{stuck:?}"
    );
    let again = cli
        .run(&[
            "pub",
            "orders",
            "second",
            "--dedup-id",
            "second-1",
            "-o",
            "json",
        ])
        .ok();
    assert_eq!(again.last_json()["acknowledged"], json!(1));
    let stored = cli.read_all("orders");
    let values: Vec<_> = stored
        .iter()
        .map(|record| record.value.as_deref().unwrap())
        .collect();
    assert_eq!(values, ["first", "second"]);
}
