//! Queue groups from the command line: made, looked at, changed, moved, unparked, removed.

use aqueduct_tests::cli::{Finished, exit};
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn group(broker: &Fixture, arguments: &[&str]) -> Finished {
    broker.cli.run(&[&["group"], arguments].concat())
}

/// `aqueduct api`: what a worker would do.
fn call(broker: &Fixture, method: &str, body: &Value) -> Value {
    let body = body.to_string();
    broker.cli.run(&["api", method, &body]).ok().json()
}

fn lease(broker: &Fixture, count: u32) -> Vec<Value> {
    let body = json!({"topic": "jobs", "group": "work", "max_messages": count, "wait": "30s",
        "client_id": "curl-1"});
    let leased = call(broker, "Queues/Lease", &body);
    leased["deliveries"].as_array().unwrap().clone()
}

#[test]
fn a_queue_group_is_made_changed_seen_and_removed() {
    let broker = Fixture::new();
    broker.create("jobs", 1);
    let flags = ["--lease", "5s"];
    let alone = group(&broker, &[&["create", "jobs/work"], &flags[..]].concat());
    let alone = alone.with_code(exit::USAGE);
    assert!(alone.stderr.contains("--queue"), "{}", alone.stderr);
    let make = ["create", "jobs/work", "--queue", "-o", "json"];
    let make = |flags: &[&str]| group(&broker, &[&make, flags].concat());
    for wrong in [
        &["--filter", "type"][..],
        &["--backoff-factor", "-1"],
        &["--max-attempts", "-1"],
        &["--order", "sideways"],
        &["--dead-letters", "true", "--no-dead-letters"],
    ] {
        let _ = make(wrong).with_code(exit::USAGE);
    }
    // What only the broker knows to be wrong.
    for wrong in [
        &["--max-attempts", "0"][..],
        &["--lease", "1ms"],
        &["--on-key-failure", "park"],
    ] {
        let refused = make(wrong).with_code(1);
        let error = refused.stderr;
        assert!(error.contains("error: group.queue."), "{error}");
    }
    #[rustfmt::skip]
    let flags = [
        "--lease", "5s", "--max-attempts", "3", "--max-hand-outs", "7", "--backoff", "2s",
        "--backoff-factor", "1.5", "--backoff-max", "1m", "--backoff-jitter", "0",
        "--no-dead-letters", "--dead-letters-for-expired", "false", "--order", "per-key",
        "--on-key-failure", "block", "--priorities", "weighted", "--max-in-flight", "10",
        "--max-in-flight-per-consumer", "5", "--max-in-flight-per-key", "1", "--rate", "100",
        "--filter", "type^=order.", "--filter", "tenant=a=b", "--filter", "paid?",
        "--retain-done", "2h",
    ];
    let tried = make(&[&flags[..], &["--dry-run"]].concat()).ok().json();
    let _ = group(&broker, &["describe", "jobs/work"]).with_code(exit::NOT_FOUND);
    let made = make(&flags).ok().json();
    assert_eq!(made["queue"], tried["queue"]);
    let mut policy = json!({
        "lease_ms": 5_000, "max_attempts": 3, "max_hand_outs": 7, "backoff_ms": 2_000,
        "backoff_factor_percent": 150, "backoff_max_ms": 60_000, "backoff_jitter_percent": 0,
        "dead_letters": false, "dead_letters_for_expired": false, "order": "per-key",
        "on_key_failure": "block", "priorities": "weighted", "max_in_flight": 10,
        "max_in_flight_per_consumer": 5, "max_in_flight_per_key": 1,
        "messages_per_second": 100, "filter": ["type^=order.", "tenant=a=b", "paid?"],
        "retain_done_ms": 7_200_000,
    });
    assert_eq!(made["queue"], policy);
    let alter = |flags: &[&str]| {
        let head = ["update", "jobs/work", "-o", "json"];
        group(&broker, &[&head, flags].concat())
    };
    let tried = alter(&["--rate", "0", "--dry-run"]).ok().json();
    assert_eq!(tried["queue"]["messages_per_second"], 0);
    let changed = alter(&["--lease", "30s", "--no-filter"]).ok().json();
    policy["lease_ms"] = json!(30_000);
    policy["filter"] = json!([]);
    assert_eq!(changed["queue"], policy, "nothing else has changed");
    let _ = alter(&["--max-hand-outs", "2"]).with_code(1);
    let described = group(&broker, &["describe", "jobs/work", "-o", "json"]).ok();
    assert_eq!(described.json()["queue"], policy);
    let listed = group(&broker, &["ls", "-o", "json"]).ok().json();
    assert_eq!(listed[0]["kind"], "queue");
    group(&broker, &["rm", "jobs/work", "--yes"]).ok();
    let _ = group(&broker, &["describe", "jobs/work"]).with_code(exit::NOT_FOUND);
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one group seen by one command after the other"
)]
fn a_queue_group_at_work_is_seen_and_moved() {
    let broker = Fixture::new();
    broker.create("jobs", 1);
    group(&broker, &["create", "jobs/work", "--queue"]).ok();
    let publish = ["pub", "jobs", "one", "two", "three", "-k", "k"];
    broker.cli.run(&publish).ok();
    let held = lease(&broker, 2);
    let settle = |verdict: Value, of: &Value| {
        let mut settlement = json!({"partition": 0, "offset": of["record"]["offset"],
            "lease": of["lease"]});
        for (name, value) in verdict.as_object().unwrap() {
            settlement[name] = value.clone();
        }
        let body = json!({"topic": "jobs", "group": "work", "settlements": [settlement]});
        call(&broker, "Queues/Settle", &body)
    };
    settle(
        json!({"retry": {"after": "3600s", "error": "no stock"}}),
        &held[0],
    );

    let described = group(&broker, &["describe", "jobs/work", "-o", "json"]).ok();
    let described = described.json();
    let counts = json!({"delayed": 1, "ready": 1, "leased": 1, "done": 0, "dead": 0});
    assert_eq!(described["counts"], counts);
    assert_eq!(
        described["failed"],
        json!([{"failed_attempts": 1, "messages": 1}])
    );
    assert_eq!(described["totals"]["retried"], 1);
    assert_eq!(described["in_flight_list"][0]["client_id"], "curl-1");
    let table = group(&broker, &["describe", "jobs/work"]).ok().stdout;
    for word in [
        "1 ready, 1 delayed, 1 leased",
        "1 times: 1",
        "curl-1",
        "max attempts",
    ] {
        assert!(table.contains(word), "no {word} in\n{table}");
    }
    let listed = ["inflight", "jobs/work", "-o", "json"];
    let listed = group(&broker, &listed).ok().json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["offset"], 1);

    let got = broker.cli.run(&["get", "jobs", "0:0", "-o", "json"]).ok();
    let got = got.json();
    assert_eq!(got["value"], "one");
    let standing = &got["groups"][0];
    assert_eq!(
        (&standing["state"], &standing["group"]),
        (&json!("delayed"), &json!("work"))
    );
    assert_eq!(standing["last_error"], "no stock");
    let page = broker.cli.run(&["get", "jobs", "0:1"]).ok().stdout;
    assert!(
        page.contains("work leased as") && page.contains("curl-1"),
        "{page}"
    );
    let raw = broker.cli.run(&["get", "jobs", "0:2", "-o", "raw"]).ok();
    assert_eq!(raw.stdout, "three");

    let lag = |broker: &Fixture| {
        let told = broker.cli.run(&["lag", "jobs/work", "-o", "json"]).ok();
        told.json()[0]["lag_messages"].clone()
    };
    assert_eq!(lag(&broker), 3);
    settle(json!({"ack": true}), &held[1]);
    assert_eq!(lag(&broker), 2);
    let seek = ["seek", "jobs/work", "--to", "end", "-o", "json"];
    let seen = group(&broker, &[&seek[..], &["--dry-run"]].concat()).ok();
    assert_eq!(seen.json()["partitions"][0]["old_position"], 0);
    assert_eq!(lag(&broker), 2);
    group(&broker, &[&seek[..], &["--yes"]].concat()).ok();
    assert_eq!(lag(&broker), 0);
    group(&broker, &["pause", "jobs/work"]).ok();
    let ls = group(&broker, &["ls", "-o", "json"]).ok().json();
    assert_eq!(ls[0]["state"], "paused");
    group(&broker, &["resume", "jobs/work"]).ok();
    group(
        &broker,
        &["seek", "jobs/work", "--to", "2", "-p", "0", "--yes"],
    )
    .ok();
    assert_eq!(lease(&broker, 5).len(), 1);
}

#[test]
fn keys_are_unparked_by_name_or_all() {
    let broker = Fixture::new();
    broker.create("jobs", 1);
    #[rustfmt::skip]
    let policy = ["--max-attempts", "1", "--order", "per-key", "--on-key-failure", "park"];
    let make = ["create", "jobs/work", "--queue"];
    group(&broker, &[&make[..], &policy].concat()).ok();
    for key in ["a", "b"] {
        broker.cli.run(&["pub", "jobs", "x", "-k", key]).ok();
        let held = lease(&broker, 1).remove(0);
        let settlement = json!({"partition": 0, "offset": held["record"]["offset"],
            "lease": held["lease"], "retry": {}});
        let body = json!({"topic": "jobs", "group": "work", "settlements": [settlement]});
        call(&broker, "Queues/Settle", &body);
    }
    let unpark = |arguments: &[&str]| {
        let head = ["unpark", "jobs/work", "-o", "json"];
        group(&broker, &[&head, arguments].concat())
    };
    let _ = unpark(&[]).with_code(exit::USAGE);
    let _ = unpark(&["--key", "a", "--all"]).with_code(exit::USAGE);
    assert_eq!(unpark(&["--all", "--dry-run"]).ok().json()["unparked"], 2);
    assert_eq!(unpark(&["--key", "none"]).ok().json()["unparked"], 0);
    assert_eq!(unpark(&["--key", "a"]).ok().json()["unparked"], 1);
    assert_eq!(unpark(&["--all"]).ok().json()["unparked"], 1);
    assert_eq!(unpark(&["--all"]).ok().json()["unparked"], 0);
}
