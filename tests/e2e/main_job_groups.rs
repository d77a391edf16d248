//! The main job of groups: an access log shared while it is published. A member is killed, one
//! joins, the broker is killed; nobody skips anything, and nothing comes twice but what was
//! not committed. Beside it messages are published and pulled over HTTP as `curl` does, and
//! Prometheus and `lag --watch` see how far behind the group is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use aqueduct_client::{Client, GroupEvent, NewGroup};
use aqueduct_tests::{
    Stored,
    http::Http,
    input::{ADDRESS, access_lines, access_log},
};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::{
    fixture::Fixture,
    group_client::{connect, held, until},
};

/// Enough repeats of the input for about this many lines, over about ten seconds.
const LINES: usize = 30_000;
const RATE: &str = "3000";

/// A command whose output goes to a file; killed when dropped.
struct Background {
    child: Child,
    output: PathBuf,
}

impl Background {
    fn start(broker: &Fixture, name: &str, arguments: &[&str]) -> Self {
        let output = broker.directory.path().join(name);
        let errors = File::create(output.with_extension("err")).unwrap();
        let child = broker
            .cli
            .command(arguments)
            .stdout(File::create(&output).unwrap())
            .stderr(errors)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Ends it with SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The whole lines so far; a torn last one is left out.
    fn lines(&self) -> Vec<String> {
        lines(&self.output)
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let errors = std::fs::read_to_string(self.output.with_extension("err"));
            eprintln!(
                "--- {} ---\n{}",
                self.output.display(),
                errors.unwrap_or_default()
            );
        }
    }
}

/// A member through the Rust client: what it saw and what it was told.
#[derive(Clone, Default)]
struct Member {
    seen: Arc<Mutex<Vec<(u32, u64)>>>,
    events: Arc<Mutex<Vec<GroupEvent>>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Member {
    fn join(&self, client: &Client) -> tokio::task::JoinHandle<()> {
        let (client, member) = (client.clone(), self.clone());
        let events = self.events.clone();
        tokio::spawn(async move {
            let consumer = client.consumer("access").group("report");
            let consumer = consumer.on_event(move |it| events.lock().unwrap().push(it.clone()));
            let mut consumer = consumer.build().await.unwrap();
            let mut stop = member.stop.subscribe();
            loop {
                let message = tokio::select! {
                    message = consumer.next() => message.unwrap().unwrap(),
                    _ = stop.changed() => break,
                };
                let place = (message.partition, message.offset);
                member.seen.lock().unwrap().push(place);
            }
            consumer.close().await.unwrap();
        })
    }

    fn seen(&self) -> Vec<(u32, u64)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn shares(client: &Client, wanted: &[usize]) {
    until("the partitions are shared out", || async {
        // The broker may be away for a moment.
        let members = client.groups().members("access", "report").await;
        let mut shares: Vec<_> = members
            .iter()
            .flatten()
            .map(|member| member.partitions.len())
            .collect();
        shares.sort_unstable();
        shares == wanted
    })
    .await;
}

/// The group's position in each partition.
async fn positions(client: &Client) -> BTreeMap<u32, u64> {
    let lag = client.groups().lag("access", "report").await.unwrap();
    let positions = lag.partitions.iter();
    positions
        .map(|lag| (lag.partition, lag.position.unwrap_or(0)))
        .collect()
}

/// Of each partition that the killed member had read, another one has what came after.
fn check_takeover(of_first: &BTreeSet<(u32, u64)>, seen: &[(u32, u64)]) {
    let last: BTreeMap<u32, u64> = of_first.iter().copied().collect();
    assert!(last.len() >= 3, "{last:?}");
    for (partition, offset) in last {
        let after = seen.iter().any(|it| *it == (partition, offset + 1));
        assert!(after, "{partition}:{offset} was not gone on from");
    }
}

/// Messages and seconds that the group is behind, as Prometheus reads them.
fn scraped(address: SocketAddr) -> [f64; 2] {
    let page = Http::connect(address).get("/metrics");
    let value = |name: &str| {
        let series = format!("{name}{{topic=\"access\",group=\"report\"}} ");
        let found = page.text().lines().find_map(|it| it.strip_prefix(&series));
        found
            .unwrap_or_else(|| panic!("no {series}"))
            .parse()
            .unwrap()
    };
    let (messages, seconds) = ("aqueduct_group_lag_messages", "aqueduct_group_lag_seconds");
    [value(messages), value(seconds)]
}

/// What `curl` does: publishes lines as JSON, pulls them as a member of another group that
/// starts at the end, commits, leaves.
fn publish_and_pull(address: SocketAddr) {
    let mut http = Http::connect(address);
    let group = json!({ "name": "curl", "start": "START_POLICY_LATEST" });
    let _ = http.post("/v1/topics/access/groups", &group).ok();
    let mut stored = BTreeSet::new();
    for n in 0..20_u32 {
        // "curl" in base64.
        let message = json!({ "value": "Y3VybA==", "partition": n % 6 });
        let request = json!({ "messages": [message] });
        let answer = http.post("/v1/topics/access:publish", &request).ok();
        let offset = answer["results"][0]["offset"].as_str().unwrap().to_owned();
        stored.insert((u64::from(n % 6), offset));
    }
    let mut commits = json!([]);
    while !stored.is_empty() {
        let pull = json!({
            "memberId": "curl", "wait": "10s", "maxMessages": 1_000, "commits": commits,
        });
        let answer = http.post("/v1/topics/access/groups/curl:pull", &pull).ok();
        let results = answer["commitResults"].as_array();
        for result in results.into_iter().flatten() {
            assert!(result["error"].is_null(), "{result}");
        }
        for record in answer["records"].as_array().unwrap() {
            let offset = record["offset"].as_str().unwrap().to_owned();
            let partition = record["partition"].as_u64().unwrap();
            if stored.remove(&(partition, offset)) {
                assert_eq!(record["value"], "Y3VybA==");
            }
        }
        let held = answer["assignments"].as_array().unwrap().iter();
        commits = held
            .map(|it| json!({ "partition": it["partition"], "epoch": it["epoch"], "offset": it["position"] }))
            .collect();
    }
    let leave = json!({ "memberId": "curl" });
    let _ = http
        .post("/v1/topics/access/groups/curl:leave", &leave)
        .ok();
}

fn check_repeats(what: &str, repeats: &[(u32, u64)], positions: &BTreeMap<u32, u64>) {
    for (partition, offset) in repeats {
        let position = positions[partition];
        assert!(
            *offset >= position,
            "{what}: {partition}:{offset} came twice although {position} was committed"
        );
    }
    println!("{what}: {} came twice", repeats.len());
}

/// What comes more than once in here.
fn repeats(seen: &[(u32, u64)]) -> Vec<(u32, u64)> {
    let mut once = BTreeSet::new();
    let twice = seen.iter().copied().filter(|place| !once.insert(*place));
    twice.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn an_access_log_is_shared_through_kills_of_a_member_and_of_the_broker() {
    let repeat = LINES.div_ceil(access_lines().len()).to_string();
    let mut broker = Fixture::new();
    broker.create("access", 6);
    let client = connect(&broker).await;
    let group = NewGroup::new("access", "report").session_timeout(Duration::from_secs(2));
    client.groups().create(group).await.unwrap();
    let publish = [
        "pub",
        "access",
        "--key-regex",
        ADDRESS,
        "--producer",
        "weblog",
    ];
    let publish = [
        &publish[..],
        &["--repeat", &repeat, "--rate", RATE, "-o", "json"],
    ]
    .concat();
    let publisher = broker.cli.start_with_file(&publish, &access_log());
    let watch = ["lag", "access/report", "--watch", "--interval", "200ms"];
    let watch = [&watch[..], &["-o", "jsonl"]].concat();
    let watching = Background::start(&broker, "lag", &watch);

    // Two members, one of them the command line, which is killed half-way.
    let arguments = ["sub", "access", "-g", "report", "-o", "jsonl"];
    let mut first = Background::start(&broker, "first", &arguments);
    let second = Member::default();
    let second_task = second.join(&client);
    shares(&client, &[3, 3]).await;
    let enough = first.lines().len() + 1000;
    until("the first has read more", || async {
        first.lines().len() > enough
    })
    .await;
    first.kill();
    let at_kill = positions(&client).await;
    // Until its session is over nobody reads its partitions.
    let address = broker.process.address();
    until("Prometheus sees what is left behind", || async {
        let [messages, seconds] = scraped(address);
        messages > 0.0 && seconds > 0.0
    })
    .await;
    shares(&client, &[6]).await;
    tokio::task::block_in_place(|| publish_and_pull(address));

    // A third joins: what the second keeps is not interrupted.
    until("the second knows its share", || async {
        held(&second.events.lock().unwrap()) == 6
    })
    .await;
    let before = second.events.lock().unwrap().len();
    let third = Member::default();
    let third_task = third.join(&client);
    shares(&client, &[3, 3]).await;
    let moved = second.events.lock().unwrap()[before..].to_vec();
    let moved = moved.iter().map(|event| match event {
        GroupEvent::Revoking { partitions, .. } => partitions.len(),
        GroupEvent::Lost { .. } | GroupEvent::Assigned { .. } => panic!("{moved:?}"),
        _ => 0,
    });
    assert_eq!(moved.sum::<usize>(), 3);

    // The broker is killed while they read.
    let together = || [second.seen(), third.seen()].concat();
    let enough = together().len() + 1000;
    until("both have read more", || async {
        together().len() > enough
    })
    .await;
    let at_restart = positions(&client).await;
    broker.process.restart();
    let published = tokio::task::spawn_blocking(move || publisher.finish().ok());
    let published = published.await.unwrap().last_json();
    assert_eq!(published["failed"], 0, "{published}");
    until("everything is committed", || async {
        let lag = client.groups().lag("access", "report").await;
        lag.is_ok_and(|lag| lag.messages == 0 && lag.seconds == 0.0)
    })
    .await;
    assert_eq!(scraped(address), [0.0, 0.0], "and Prometheus agrees");
    for member in [&second, &third] {
        member.stop.send_replace(true);
    }
    second_task.await.unwrap();
    third_task.await.unwrap();

    let printed = first.lines();
    let printed = printed.iter().map(|line| Stored::from_json_line(line));
    let printed: Vec<_> = printed.map(|it| (it.partition, it.offset)).collect();
    assert_eq!(repeats(&printed), [], "within one member's life");
    check_all_were_seen(&broker, &[printed.clone(), together()].concat());
    let of_first: BTreeSet<_> = printed.into_iter().collect();
    check_takeover(&of_first, &second.seen());
    let twice: Vec<_> = together()
        .into_iter()
        .filter(|it| of_first.contains(it))
        .collect();
    check_repeats("after the kill of a member", &twice, &at_kill);
    check_repeats(
        "after the kill of the broker",
        &repeats(&together()),
        &at_restart,
    );
    check_watch(&watching);
}

fn check_all_were_seen(broker: &Fixture, seen: &[(u32, u64)]) {
    let stored = broker.cli.read_all("access");
    assert!(
        stored.len() >= LINES,
        "{} lines were published",
        stored.len()
    );
    let seen: BTreeSet<_> = seen.iter().copied().collect();
    let stored: BTreeSet<_> = stored.iter().map(|it| (it.partition, it.offset)).collect();
    let missing: Vec<_> = stored.difference(&seen).take(10).collect();
    assert!(missing.is_empty(), "skipped: {missing:?} …");
    assert_eq!(stored.len(), seen.len(), "seen, but not stored");
}

/// `aqueduct lag --watch` went on through everything, and ends at nothing behind.
fn check_watch(watching: &Background) {
    let lines = watching.lines();
    let looks: Vec<Value> = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let behind = |look: &Value| look["lag_messages"].as_u64();
    let is_behind = |look: &Value| {
        let seconds = look["lag_seconds"].as_f64();
        behind(look) > Some(0) && seconds > Some(0.0)
    };
    assert!(looks.iter().any(is_behind), "{lines:?}");
    let last = looks.last().unwrap();
    assert_eq!(behind(last), Some(0), "{last}");
    assert_eq!(last["lag_seconds"].as_f64(), Some(0.0), "{last}");
}
