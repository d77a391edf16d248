//! Clock steps: the real process under a clock that jumps by hours, back and forth.
//!
//! The process runs with a small library in front of the system's clock (`clock_shim.c`,
//! built here by `cc`), which adds what a file says to wall and to monotonic time.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use aqueduct_proto::v1::{
    CreateTopicRequest, GetOffsetsRequest, Message, PartitionOffsets, Position, PublishRequest,
    PublishResult, Topic, TopicConfig, position,
};
use aqueduct_tests::{Cli, Process, Stored, grpc::Api, process::PATIENCE};
use bytes::Bytes;
use tempfile::TempDir;

const HOUR_MS: i64 = 3_600_000;
/// A little longer than retention waits between two looks.
const PAST_ONE_LOOK: Duration = Duration::from_secs(31);

/// What the clocks of a process are beside the true time.
pub(crate) struct Shift(File);

impl Shift {
    /// Steps wall time to so many hours beside the true time.
    pub(crate) fn to_hours(&self, hours: i64) {
        self.to_ms(hours * HOUR_MS);
    }

    fn to_ms(&self, shift_ms: i64) {
        let nanoseconds = (shift_ms * 1_000_000).to_le_bytes();
        self.0.write_all_at(&nanoseconds, 0).unwrap();
    }
}

/// A broker under a clock that can be put.
pub(crate) fn stepped_broker() -> (Process, Shift, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("clock_shim.so");
    build_shim(&library);
    let path = directory.path().join("shift");
    let shift = File::create(&path).unwrap();
    shift.write_all_at(&[0; 16], 0).unwrap();
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("CLOCK_SHIFT", path.to_str().unwrap()),
    ];
    let broker = Process::start_in(&directory.path().join("data"), &environment);
    (broker, Shift(shift), directory)
}

/// A broker and its clock.
struct Stepped {
    broker: Process,
    cli: Cli,
    shift: Shift,
    advanced: Duration,
    _directory: TempDir,
}

impl Stepped {
    fn new() -> Stepped {
        let (broker, shift, directory) = stepped_broker();
        Stepped {
            cli: Cli::new(broker.address()),
            broker,
            shift,
            advanced: Duration::ZERO,
            _directory: directory,
        }
    }

    async fn api(&self) -> Api {
        Api::connect(self.broker.address()).await
    }

    /// Steps wall time to so many milliseconds beside the true time.
    fn step_to(&self, shift_ms: i64) {
        self.shift.to_ms(shift_ms);
    }

    /// Lets time pass, for what waits and measures; wall time is a matter of its own.
    fn advance(&mut self, by: Duration) {
        self.advanced += by;
        let nanoseconds = (self.advanced.as_nanos() as i64).to_le_bytes();
        self.shift.0.write_all_at(&nanoseconds, 8).unwrap();
    }

    /// Returns when retention has looked at every topic before "z-canary".
    async fn let_retention_look(&mut self, api: &mut Api) {
        publish(api, "z-canary", vec![plain("chirp")]).await;
        let start = Instant::now();
        loop {
            self.advance(PAST_ONE_LOOK);
            for _ in 0..50 {
                let canary = offsets(api, "z-canary", None).await;
                if canary.log_start_offset == canary.high_watermark {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(start.elapsed() < PATIENCE, "retention does not look");
        }
    }
}

fn build_shim(library: &Path) {
    let source = aqueduct_tests::input::workspace().join("tests/faults/clock_shim.c");
    let built = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .args([library, &source])
        .status()
        .expect("a C compiler runs");
    assert!(built.success(), "building the clock shim failed");
}

fn true_time_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

fn plain(value: impl Into<Bytes>) -> Message {
    Message {
        value: Some(value.into()),
        partition: Some(0),
        ..Message::default()
    }
}

fn with_id(value: String) -> Message {
    Message {
        dedup_id: format!("id of {value}"),
        ..plain(value)
    }
}

async fn publish(api: &mut Api, topic: &str, messages: Vec<Message>) -> Vec<PublishResult> {
    let request = PublishRequest {
        topic: topic.to_owned(),
        messages,
        expected_offset: None,
    };
    let answer = api.publisher.publish(request).await.unwrap();
    answer.into_inner().results
}

/// Offset and whether it was a duplicate.
async fn publish_one(api: &mut Api, message: Message) -> (u64, bool) {
    let result = publish(api, "orders", vec![message]).await.remove(0);
    assert_eq!(result.error, None);
    (result.offset, result.duplicate)
}

async fn create(api: &mut Api, name: &str, retention: Option<Duration>) {
    let config = TopicConfig {
        retention: retention.map(|retention| retention.try_into().unwrap()),
        ..TopicConfig::default()
    };
    let topic = Topic {
        name: name.to_owned(),
        partitions: 1,
        config: Some(config),
        ..Topic::default()
    };
    let request = CreateTopicRequest {
        topic: Some(topic),
        validate_only: false,
    };
    api.topics.create_topic(request).await.unwrap();
}

async fn offsets(api: &mut Api, topic: &str, time_ms: Option<i64>) -> PartitionOffsets {
    let position = |time_ms| Position {
        kind: Some(position::Kind::TimestampMs(time_ms)),
    };
    let request = GetOffsetsRequest {
        topic: topic.to_owned(),
        partitions: vec![0],
        position: time_ms.map(position),
    };
    let answer = api.reader.get_offsets(request).await.unwrap();
    answer.into_inner().partitions.remove(0)
}

/// Every time that is looked up leads to the first record that is not older.
async fn check_look_ups(api: &mut Api, stored: &[Stored]) {
    let stamps = stored.iter().map(|record| record.timestamp);
    let beside = stamps.flat_map(|stamp| [stamp - 1, stamp, stamp + 1]);
    for time in beside.step_by(7).chain([0, i64::MAX]) {
        let found = offsets(api, "orders", Some(time)).await.offset.unwrap();
        let first = stored.iter().find(|record| record.timestamp >= time);
        let expected = first.map_or(stored.len() as u64, |record| record.offset);
        assert_eq!(found, expected, "the first offset at or after {time}");
    }
}

/// What has been published so far, by offset.
#[derive(Default)]
struct Published {
    values: Vec<String>,
    ids: Vec<(String, u64)>,
}

impl Published {
    /// Publishes some more; they get the next offsets.
    async fn more(&mut self, api: &mut Api, step: usize) {
        for n in 0..20 {
            let (value, next) = (format!("{step}-{n}"), self.values.len() as u64);
            let message = if n % 2 == 0 {
                self.ids.push((value.clone(), next));
                with_id(value.clone())
            } else {
                plain(value.clone())
            };
            assert_eq!(publish_one(api, message).await, (next, false), "{value}");
            self.values.push(value);
        }
    }

    /// Every id is found again: none of them is ten minutes old.
    async fn check_ids(&self, api: &mut Api) {
        for (value, offset) in &self.ids {
            let again = publish_one(api, with_id(value.clone())).await;
            assert_eq!(again, (*offset, true), "{value}");
        }
    }

    fn check_stored(&self, cli: &Cli) -> Vec<Stored> {
        let stored = cli.read_all("orders");
        assert_eq!(stored.len(), self.values.len());
        for (n, (record, value)) in stored.iter().zip(&self.values).enumerate() {
            assert_eq!(record.offset, n as u64);
            assert_eq!(record.value.as_ref(), Some(value), "offset {n}");
        }
        stored
    }
}

#[tokio::test]
async fn steps_of_the_clock_lose_double_and_reorder_nothing() {
    let mut stepped = Stepped::new();
    let mut api = stepped.api().await;
    create(&mut api, "orders", None).await;
    let mut published = Published::default();
    for (step, hours) in [0, -5, 3, -48, 26, 1, 0].into_iter().enumerate() {
        stepped.step_to(hours * HOUR_MS);
        let first = published.values.len();
        published.more(&mut api, step).await;
        published.check_ids(&mut api).await;
        // Behind the time that was seen already, a start changes nothing either.
        if hours <= 0 {
            stepped.broker.restart();
            api = stepped.api().await;
            published.check_ids(&mut api).await;
        }
        let stored = published.check_stored(&stepped.cli);
        let expected = true_time_ms() + hours * HOUR_MS;
        for record in &stored[first..] {
            let off = (record.timestamp - expected).abs();
            assert!(off < HOUR_MS / 2, "stamped {off} ms beside the clock");
        }
        check_look_ups(&mut api, &stored).await;
    }
    // Time that passes ends the window, whatever the clock says.
    stepped.advance(Duration::from_secs(11 * 60));
    let end = published.values.len() as u64;
    let (value, _) = published.ids[0].clone();
    assert_eq!(publish_one(&mut api, with_id(value)).await, (end, false));
}

/// Across a start there is nothing but wall time to measure by.
#[tokio::test]
async fn a_start_behind_a_step_forward_ends_the_window() {
    let mut stepped = Stepped::new();
    let mut api = stepped.api().await;
    create(&mut api, "orders", None).await;
    let mut published = Published::default();
    published.more(&mut api, 0).await;
    stepped.step_to(2 * HOUR_MS);
    stepped.broker.restart();
    let mut api = stepped.api().await;
    published.ids.clear();
    published.more(&mut api, 0).await;
    stepped.step_to(0);
    stepped.broker.restart();
    let mut api = stepped.api().await;
    published.check_ids(&mut api).await;
    published.check_stored(&stepped.cli);
}

/// A named producer goes on where it was: sequences know no time.
#[test]
fn a_named_producer_resumes_under_any_clock() {
    let stepped = Stepped::new();
    stepped.cli.run(&["topic", "create", "orders"]).ok();
    let lines: Vec<String> = (0..70).map(|n| format!("line {n}")).collect();
    for (step, hours) in [0, -5, 3, -48, 26, 1, 0].into_iter().enumerate() {
        stepped.step_to(hours * HOUR_MS);
        let some = &lines[..(step + 1) * 10];
        let input = some.join("\n") + "\n";
        let arguments = ["pub", "orders", "--producer", "loader", "-o", "json"];
        let finished = stepped.cli.run_with_input(&arguments, input.as_bytes());
        assert_eq!(finished.ok().last_json()["acknowledged"], some.len());
        let stored = stepped.cli.read_all("orders");
        let values: Vec<String> = stored.into_iter().flat_map(|r| r.value).collect();
        assert_eq!(values, some);
    }
}

#[tokio::test]
async fn retention_deletes_by_the_clock_and_nothing_after_a_step_back() {
    let mut stepped = Stepped::new();
    let mut api = stepped.api().await;
    create(&mut api, "orders", Some(Duration::from_secs(3_600))).await;
    create(&mut api, "z-canary", Some(Duration::from_millis(1))).await;
    let ten = |name: &str| (0..10).map(|n| plain(format!("{name} {n}"))).collect();
    let mut end = 0;
    // Hours beside the true time (in quarters), and whether ten more are published then.
    for (quarters, more) in [(0, true), (-20, true), (0, false), (2, true), (-192, true)] {
        stepped.step_to(quarters * HOUR_MS / 4);
        if more {
            let results = publish(&mut api, "orders", ten("before")).await;
            assert_eq!(results[0].offset, end);
            end += 10;
        }
        stepped.let_retention_look(&mut api).await;
        let orders = offsets(&mut api, "orders", None).await;
        let (start, high) = (orders.log_start_offset, orders.high_watermark);
        assert_eq!((start, high), (0, end), "at {quarters} quarters of an hour");
    }
    assert_eq!(stepped.cli.read_all("orders").len() as u64, end);

    // By this clock all of them are older than an hour.
    stepped.step_to(3 * HOUR_MS);
    stepped.let_retention_look(&mut api).await;
    let orders = offsets(&mut api, "orders", None).await;
    assert_eq!((orders.log_start_offset, orders.high_watermark), (end, end));
    let results = publish(&mut api, "orders", ten("after")).await;
    assert_eq!(results[0].offset, end, "offsets go on");

    // Stamped three hours ahead, they are kept that much longer.
    for hours in [0, 3] {
        stepped.step_to(hours * HOUR_MS);
        stepped.let_retention_look(&mut api).await;
        assert_eq!(stepped.cli.read_all("orders").len(), 10);
    }
    stepped.broker.restart();
    assert_eq!(stepped.cli.read_all("orders").len(), 10);
}
