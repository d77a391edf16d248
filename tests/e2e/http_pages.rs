//! The pages for operators and machines: health through a drain, metrics, OpenAPI.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    time::{Duration, Instant},
};

use aqueduct_tests::{http::Http, process::PATIENCE};
use serde_json::{Value, json};

use crate::http::started;

/// Metrics by name and labels; asserts that the text is well-formed.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"));
    let (mut values, mut typed, mut helped) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned()), "{line}: twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            helped.insert(rest.split(' ').next().unwrap().to_owned());
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            let endings = ["_total", "_sum", "_count", "_bucket", ""];
            let known = endings.iter().any(|ending| {
                let base = family.strip_suffix(ending);
                base.is_some_and(|base| typed.contains(base))
            });
            assert!(known, "{line}: of no type");
            assert!(family.starts_with("aqueduct_"), "{line}");
            assert!(
                values
                    .insert(name.to_owned(), value.parse().unwrap())
                    .is_none(),
                "{line}: twice"
            );
        }
    }
    assert_eq!(typed, helped, "each has a help");
    values
}

fn metrics(http: &mut Http) -> BTreeMap<String, f64> {
    let answer = http.get("/metrics");
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    parse(answer.text())
}

/// Ten messages, read once, four of them pulled by a group, and one refusal.
fn some_traffic(http: &mut Http) {
    let _ = http
        .post("/v1/topics", &json!({ "name": "orders", "partitions": 3 }))
        .ok();
    for _ in 0..10 {
        let _ = http
            .send("POST", "/v1/topics/orders/messages", &[], b"0123456789")
            .ok();
    }
    let _ = http.post(
        "/v1/topics/orders:read",
        &json!({ "from": { "start": true } }),
    );
    http.get("/v1/topics/nope").refused(404, "TOPIC_NOT_FOUND");
    // The first pull joins, and waits for its partitions, which may come one by one.
    let mut pulled = 0;
    while pulled < 4 {
        let pull = json!({ "memberId": "m", "maxMessages": 4 - pulled, "wait": "10s" });
        let answer = http.post("/v1/topics/orders/groups/bill:pull", &pull).ok();
        let records = answer["records"].as_array().unwrap();
        assert!(!records.is_empty(), "{answer}");
        pulled += records.len();
    }
}

#[test]
fn metrics_say_what_happened() {
    let (_broker, mut http) = started();
    some_traffic(&mut http);
    let found = metrics(&mut http);
    assert!(found["aqueduct_group_lag_seconds{topic=\"orders\",group=\"bill\"}"] > 0.0);
    for (name, value) in [
        ("aqueduct_groups", 1.0),
        // Pulled, but not committed.
        (
            "aqueduct_group_lag_messages{topic=\"orders\",group=\"bill\"}",
            10.0,
        ),
        (
            "aqueduct_group_members{topic=\"orders\",group=\"bill\"}",
            1.0,
        ),
        ("aqueduct_topics", 1.0),
        ("aqueduct_partitions", 3.0),
        ("aqueduct_partitions_unavailable", 0.0),
        ("aqueduct_connections", 1.0),
        ("aqueduct_draining", 0.0),
        ("aqueduct_topic_messages_in_total{topic=\"orders\"}", 10.0),
        ("aqueduct_topic_messages_out_total{topic=\"orders\"}", 14.0),
        ("aqueduct_topic_partitions{topic=\"orders\"}", 3.0),
        ("aqueduct_publish_duration_seconds_count", 10.0),
        ("aqueduct_http_answers_total{class=\"4xx\"}", 1.0),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}: {found:?}");
    }
    for name in [
        "aqueduct_uptime_seconds",
        "aqueduct_process_cpu_seconds_total",
        "aqueduct_process_resident_memory_bytes",
        "aqueduct_disk_free_bytes",
        "aqueduct_disk_used_bytes",
        "aqueduct_sync_duration_seconds_count",
        "aqueduct_sync_duration_seconds_sum",
        "aqueduct_publish_duration_seconds_sum",
        "aqueduct_topic_log_bytes{topic=\"orders\"}",
        "aqueduct_topic_bytes_in_total{topic=\"orders\"}",
        "aqueduct_http_answers_total{class=\"2xx\"}",
    ] {
        assert!(
            found.get(name).is_some_and(|value| *value > 0.0),
            "{name}: {found:?}"
        );
    }
    assert!(
        found
            .keys()
            .any(|name| name.starts_with("aqueduct_build_info{"))
    );
    let last = "aqueduct_publish_duration_seconds_bucket{le=\"+Inf\"}";
    assert_eq!(found[last], 10.0, "buckets add up");
    assert!(
        !found.keys().any(|name| name.contains("partition=")),
        "nothing finer than topics"
    );
    let detailed = parse(http.get("/metrics/detailed?topic=orders").text());
    assert_eq!(detailed.len(), 6 * 3);
    http.get("/metrics/detailed").names("topic");
    http.get("/metrics/detailed?topic=nope&x=1").names("x");
    assert_eq!(http.get("/metrics/detailed?topic=nope").status, 404);
}

/// Every name that is promised is served, and every name that is served is promised.
#[test]
fn the_page_of_metrics_is_true() {
    let (_broker, mut http) = started();
    let _ = http.post("/v1/topics", &json!({ "name": "orders" })).ok();
    let _ = http
        .post("/v1/topics/orders/groups", &json!({ "name": "bill" }))
        .ok();
    let page = aqueduct_tests::input::workspace().join("docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut text = http.get("/metrics").text().to_owned();
    text.push_str(http.get("/metrics/detailed?topic=orders").text());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut served = BTreeSet::new();
    for line in types {
        let (name, kind) = line.split_once(' ').unwrap();
        let ending = if kind == "counter" { "_total" } else { "" };
        served.insert(format!("{name}{ending}"));
    }
    let names = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let promised: BTreeSet<String> = names
        .map(|rest| rest.split('`').next().unwrap().to_owned())
        .collect();
    assert_eq!(served, promised);
}

#[test]
fn a_drain_is_seen_by_who_asks() {
    let (mut broker, mut http) = started();
    let address = broker.process.address();
    assert_eq!(http.get("/health").ok()["status"], "alive");
    assert_eq!(http.get("/ready").ok()["status"], "ready");
    let _ = http.post("/v1/topics", &json!({ "name": "orders" })).ok();
    // A request that is not whole holds the drain up.
    let mut open = Http::connect(address);
    open.socket()
        .write_all(
            b"POST /v1/topics/orders/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx",
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    broker.process.ask_to_end();
    let start = Instant::now();
    loop {
        // A connection that came in the very moment may be closed.
        let mut one = Http::connect(address);
        let asked = one
            .socket()
            .write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n");
        match asked.and_then(|()| one.answer(false)) {
            Ok(answer) if answer.status == 503 => {
                answer.refused(503, "DRAINING");
                assert!(answer.header("retry-after").is_some());
                break;
            }
            _ => {}
        }
        assert!(start.elapsed() < PATIENCE, "still ready");
    }
    assert_eq!(
        Http::connect(address).get("/health").status,
        200,
        "it lives"
    );
    assert_eq!(
        metrics(&mut Http::connect(address))["aqueduct_draining"],
        1.0
    );
    open.socket().write_all(b"y").unwrap();
    // What came too late is refused in words.
    open.answer(false).unwrap().refused(503, "DRAINING");
    assert!(broker.process.wait().success());
}

/// Each reference leads to a schema, and each schema looks like one.
#[test]
fn the_openapi_document_holds_together() {
    let (_broker, mut http) = started();
    let document = http.get("/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let (mut references, mut ids) = (0, BTreeSet::new());
    let mut waiting = vec![&document];
    while let Some(value) = waiting.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{reference}");
            references += 1;
        }
        if let Some(id) = value.get("operationId").and_then(Value::as_str) {
            assert!(ids.insert(id), "{id} twice");
            assert!(
                value["responses"]
                    .as_object()
                    .is_some_and(|r| !r.is_empty()),
                "{id}"
            );
        }
        match value {
            Value::Object(object) => waiting.extend(object.values()),
            Value::Array(array) => waiting.extend(array),
            _ => {}
        }
    }
    assert!(
        references > 50 && ids.len() > 40,
        "{references} {}",
        ids.len()
    );
    for (name, schema) in schemas {
        let kind = schema["type"]
            .as_str()
            .unwrap_or_else(|| panic!("{name}: {schema}"));
        assert!(["object", "string"].contains(&kind), "{name}");
    }
    let publish = &document["paths"]["/v1/topics/{topic}:publish"]["post"];
    assert_eq!(
        publish["description"],
        "Some messages, and a result for each."
    );
    let message = &schemas["aqueduct.v1.Message"]["properties"]["key"];
    assert!(
        message["description"].as_str().unwrap().contains("Absent"),
        "{message}"
    );
}
