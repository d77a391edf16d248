//! Schedules from the command line.

use aqueduct_tests::cli::{Finished, exit};
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn run(broker: &Fixture, arguments: &[&str]) -> Finished {
    broker.cli.run(arguments)
}

#[test]
fn a_schedule_is_made_seen_paused_run_and_removed() {
    let broker = Fixture::new();
    broker.create("ticks", 1);
    let create = ["schedule", "create", "daily", "ticks", "tick", "-o", "json"];
    let _ = run(&broker, &create).with_code(exit::USAGE);
    let cron = ["--cron", "0 8 * * MON-FRI", "--time-zone", "Europe/Berlin"];
    let made = run(&broker, &[&create[..], &cron[..]].concat()).ok().json();
    assert_eq!(made["when"], "0 8 * * MON-FRI Europe/Berlin", "{made}");
    assert_eq!(
        (&made["fired"], &made["paused"]),
        (&json!(0), &json!(false))
    );
    assert!(made["next_time"].is_string(), "{made}");
    let again = run(&broker, &[&create[..], &cron[..]].concat());
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
    let wrong = run(&broker, &[&create[..], &["--cron", "every day"]].concat());
    assert!(wrong.stderr.contains("cron.expression"), "{}", wrong.stderr);
    let of = |verb| run(&broker, &["schedule", verb, "daily", "-o", "json"]);
    assert_eq!(of("pause").ok().json()["paused"], true);
    let fired = of("run").ok().json();
    assert_eq!(fired["offset"], 0, "{fired}");
    let shown = of("show").ok().json();
    assert_eq!(
        (&shown["fired"], &shown["next_time"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(of("resume").ok().json()["paused"], false);
    let table = run(&broker, &["schedule", "ls"]).ok().stdout;
    assert!(
        table.contains("daily") && table.contains("waiting"),
        "{table}"
    );
    let replaced = [&create[..], &["--every", "1h", "--replace"]].concat();
    assert_eq!(run(&broker, &replaced).ok().json()["when"], "every 1h");
    let _ = of("rm").ok();
    let _ = of("show").with_code(exit::NOT_FOUND);
}
