//! `/metrics` of a node with much in it: a bounded page, exact sums, and others are not held up.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use aqueduct_tests::http::Http;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::{fixture::Fixture, http::started};

/// One more than are named, and a few.
const GROUPS: usize = 1_005;
/// Of the one large topic. Ten thousand are measured by hand (docs/performance.md): they take
/// more than a gigabyte, which is too much beside other tests.
const PARTITIONS: usize = 2_000;
/// Groups of the large topic.
const WIDE_GROUPS: usize = 50;

fn create_all(address: SocketAddr) {
    let mut http = Http::connect(address);
    let large = json!({ "name": "large", "partitions": PARTITIONS });
    let _ = http.post("/v1/topics", &large).ok();
    let _ = http.post("/v1/topics", &json!({ "name": "small" })).ok();
    let makers = (0..8).map(|maker| {
        thread::spawn(move || {
            let mut http = Http::connect(address);
            for n in (maker..GROUPS).step_by(8) {
                // At most a thousand for a topic.
                let topic = if n < WIDE_GROUPS { "large" } else { "small" };
                let group = json!({ "name": format!("g{n:04}") });
                let path = format!("/v1/topics/{topic}/groups");
                let _ = http.post(&path, &group).ok();
            }
        })
    });
    for maker in makers.collect::<Vec<_>>() {
        maker.join().unwrap();
    }
}

/// The value of each series of a metric, by its labels.
fn series(page: &str, name: &str) -> Vec<(String, f64)> {
    let of_name = page.lines().filter_map(|line| line.strip_prefix(name));
    let values = of_name.filter_map(|rest| rest.rsplit_once(' '));
    let labelled = values.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
    labelled
        .map(|(labels, value)| (labels.to_owned(), value.parse().unwrap()))
        .collect()
}

fn sum(series: &[(String, f64)]) -> f64 {
    series.iter().map(|(_, value)| value).sum()
}

#[test]
fn a_scrape_of_much_is_bounded_and_adds_up() {
    let mut broker = Fixture::new();
    let address = broker.process.address();
    create_all(address);
    let mut http = Http::connect(address);
    for (topic, count) in [("large", 20), ("small", 10)] {
        for _ in 0..count {
            let path = format!("/v1/topics/{topic}/messages");
            let _ = http.send("POST", &path, &[], b"x").ok();
        }
    }
    let _ = http.post("/v1/topics", &json!({ "name": "other" })).ok();
    // Somebody publishes beside it; how long it takes is for benches, that it is answered is looked at here.
    let stop = Arc::new(AtomicBool::new(false));
    let beside = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut http = Http::connect(address);
            let mut served = 0;
            while !stop.load(Relaxed) {
                let _ = http
                    .send("POST", "/v1/topics/other/messages", &[], b"y")
                    .ok();
                served += 1;
            }
            served
        }
    });
    let scrapers: Vec<_> = (0..8)
        .map(|_| thread::spawn(move || Http::connect(address).get("/metrics").text().to_owned()))
        .collect();
    for scraper in scrapers {
        let page = scraper.join().unwrap();
        assert!(page.len() < 2 << 20, "{} bytes", page.len());
    }
    stop.store(true, Relaxed);
    assert!(beside.join().unwrap() > 0);

    let page = http.get("/metrics").text().to_owned();
    let get = |name: &str| series(&page, name);
    assert_eq!(get("aqueduct_topics")[0].1, 3.0);
    let all = (PARTITIONS + 2) as f64;
    assert_eq!(get("aqueduct_partitions")[0].1, all);
    assert_eq!(sum(&get("aqueduct_topic_partitions")), all);
    assert_eq!(get("aqueduct_groups")[0].1, GROUPS as f64);
    let behind = get("aqueduct_group_lag_messages");
    assert_eq!(behind.len(), 1_001);
    // All begin at the start.
    let expected = WIDE_GROUPS * 20 + (GROUPS - WIDE_GROUPS) * 10;
    assert_eq!(sum(&behind), expected as f64);
    let (label, rest) = behind.last().unwrap();
    let name = "{topic=\"other\",group=\"other\"}";
    assert_eq!((label.as_str(), *rest), (name, 50.0));
    assert!(get("aqueduct_group_lag_age_seconds")[0].1 < 600.0);
    let detailed = http.get("/metrics/detailed?topic=large").text().to_owned();
    let partitions = series(&detailed, "aqueduct_partition_high_watermark");
    assert_eq!((partitions.len(), sum(&partitions)), (PARTITIONS, 20.0));
    broker.assert_serves();
}

/// A broker that may have few files open refuses partitions and connections, and lives.
#[test]
fn open_files_bound_partitions_and_connections() {
    let (mut broker, mut http) = started();
    let address = broker.process.address();
    let few = Rlimit {
        current: Some(1_024),
        maximum: Some(1_024),
    };
    let id = i32::try_from(broker.process.id()).unwrap();
    prlimit(Pid::from_raw(id), Resource::Nofile, few).unwrap();
    let many = json!({ "name": "many", "partitions": 300 });
    let refused = http.post("/v1/topics", &many);
    let refused = refused.refused(429, "LIMIT_REACHED");
    let limit = &refused["details"][0]["metadata"]["limit"];
    assert_eq!(limit, "170", "{refused}");
    http.get("/v1/topics/many").refused(404, "TOPIC_NOT_FOUND");
    // More connections than there are files: they leave the partitions theirs.
    let mut idle: Vec<_> = (0..1_100).map(|_| TcpStream::connect(address)).collect();
    let fit = json!({ "name": "many", "partitions": 165 });
    let _ = http.post("/v1/topics", &fit).ok();
    let more = json!({ "partitions": 171 });
    let kind = [("content-type", "application/json")];
    let path = "/v1/topics/many?updateMask=partitions";
    http.send("PATCH", path, &kind, more.to_string().as_bytes())
        .refused(429, "LIMIT_REACHED");
    idle.extend((0..1_100).map(|_| TcpStream::connect(address)));
    for partition in 0..165 {
        let number = partition.to_string();
        let headers = [("aq-partition", number.as_str())];
        let path = "/v1/topics/many/messages";
        let _ = http.send("POST", path, &headers, &[b'x'; 4_096]).ok();
    }
    drop(idle);
    broker.assert_serves();
}

/// The node's bound is said, and what is beyond leaves nothing behind.
#[test]
fn more_partitions_than_a_node_may_have_are_refused() {
    let (mut broker, mut http) = started();
    let _ = http.post("/v1/topics", &json!({ "name": "one" })).ok();
    let rest = json!({ "name": "rest", "partitions": 10_000 });
    let refused = http.post("/v1/topics", &rest);
    let refused = refused.refused(429, "LIMIT_REACHED");
    let limit = &refused["details"][0]["metadata"]["limit"];
    // Less where the process may not have enough files open.
    let limit: usize = limit.as_str().unwrap().parse().unwrap();
    assert!(limit <= 10_000, "{refused}");
    http.get("/v1/topics/rest").refused(404, "TOPIC_NOT_FOUND");
    let page = http.get("/metrics").text().to_owned();
    assert_eq!(series(&page, "aqueduct_partitions")[0].1, 1.0);
    broker.assert_serves();
}
