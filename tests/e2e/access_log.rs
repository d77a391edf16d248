//! The main job: a real access log, keyed by client address, through a broker that is
//! killed again and again; nothing acknowledged is lost, doubled or out of order.

use std::{path::Path, time::Duration};

use aqueduct_tests::{
    check_publish_history,
    cli::read_acks,
    input::{ADDRESS, access_lines, access_log, address},
};
use serde_json::json;

use crate::fixture::Fixture;

/// Enough repeats of the input for about this many lines.
const LINES: usize = 100_000;

fn pub_arguments<'a>(acks: &'a str, repeat: &'a str) -> Vec<&'a str> {
    let fixed = [
        "pub",
        "access",
        "--key-regex",
        ADDRESS,
        "--producer",
        "shop-log",
        "-o",
        "json",
    ];
    [&fixed[..], &["--acks-to", acks, "--repeat", repeat]].concat()
}

/// Waits until the file of acknowledgements has grown by some lines, or the time is up.
fn wait_for_progress(acks: &Path) {
    let size = || std::fs::metadata(acks).map_or(0, |file| file.len());
    let before = size();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(10));
        if size() > before + 20_000 {
            return;
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed_under_load() {
    let lines = access_lines();
    let repeat = LINES.div_ceil(lines.len());
    let mut broker = Fixture::new();
    broker.create("access", 6);
    let acks = broker.directory.path().join("acks");
    let repeat_text = repeat.to_string();
    let arguments = pub_arguments(acks.to_str().unwrap(), &repeat_text);
    let mut publisher = broker.cli.start_with_file(&arguments, &access_log());
    let mut kills = 0;
    while kills < 5 && !publisher.has_ended() {
        wait_for_progress(&acks);
        broker.process.restart();
        kills += 1;
    }
    let finished = publisher.finish().ok();
    assert!(
        kills >= 2,
        "the load ended before the broker was killed twice"
    );

    let total = (repeat * lines.len()) as u64;
    let summary = finished.last_json();
    assert_eq!(summary["acknowledged"], json!(total), "{summary}");
    assert_eq!(summary["failed"], json!(0), "{summary}");
    let stored = broker.cli.read_all("access");
    assert_eq!(stored.len() as u64, total, "each line once");
    let acknowledged = read_acks(&acks);
    assert_eq!(
        acknowledged.len() as u64,
        total,
        "each line has an acknowledgement"
    );
    check_publish_history(&lines, address, &acknowledged, &stored).unwrap();
}

#[test]
fn the_same_input_under_the_same_name_goes_on_where_the_broker_has_it() {
    let lines = access_lines();
    let broker = Fixture::new();
    broker.create("access", 6);
    let acks = broker.directory.path().join("acks");
    let arguments = pub_arguments(acks.to_str().unwrap(), "3");
    let publisher = broker.cli.start_with_file(&arguments, &access_log());
    wait_for_progress(&acks);
    publisher.kill();

    let again = broker
        .cli
        .start_with_file(&arguments, &access_log())
        .finish()
        .ok();
    let total = (3 * lines.len()) as u64;
    let summary = again.last_json();
    assert_eq!(summary["acknowledged"], json!(total), "{summary}");
    let stored = broker.cli.read_all("access");
    assert_eq!(stored.len() as u64, total, "each line once");
    check_publish_history(&lines, address, &read_acks(&acks), &stored).unwrap();

    let third = broker
        .cli
        .start_with_file(&arguments, &access_log())
        .finish()
        .ok();
    assert_eq!(third.last_json()["duplicates"], json!(total));
    assert_eq!(
        broker.cli.read_all("access").len() as u64,
        total,
        "and still once"
    );
}
