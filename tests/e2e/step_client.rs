//! Steps with the Rust client and from the shell: what a handler publishes is there with its
//! `Ok(())` and never otherwise, also when the broker is killed in between.

use std::time::Duration;

use aqueduct_client::{
    Client, Failure, From, Job, Message, NewTopic, QueuePolicy, Step, Verdict, Worker,
};
use aqueduct_tests::process::PATIENCE;
use futures::StreamExt as _;

use crate::{
    fixture::Fixture,
    group_client::until,
    queue_client::{GROUP, TOPIC, lease_one, publish, queue, text},
};

async fn scene(broker: &Fixture, lease: Duration) -> Client {
    let soon = Duration::from_millis(2);
    let policy = QueuePolicy::new().backoff(soon, 100, soon).lease(lease);
    let client = queue(broker, policy).await;
    let topic = NewTopic::new("done").partitions(2);
    client.create_topic(topic).await.unwrap();
    client
}

/// All of a topic, sorted.
async fn all(client: &Client, topic: &str) -> Vec<String> {
    let reader = client.reader(topic).from(From::Start).build().await;
    let records = reader.unwrap().map(|record| text(&record.unwrap()));
    let mut values: Vec<String> = records.collect().await;
    values.sort();
    values
}

async fn until_done(worker: &Worker, count: u64) {
    until("the jobs are done", || async {
        worker.stats().done >= count
    })
    .await;
}

#[tokio::test]
async fn a_step_by_hand_and_again() {
    let broker = Fixture::new();
    let client = scene(&broker, Duration::from_secs(30)).await;
    publish(&client, &["a", "b"]).await;
    let queue = client.queue(TOPIC, GROUP);
    let job = lease_one(&client).await;
    let result = Message::new("A").partition(1);
    let step = Step::new()
        .settle(&job, Verdict::Ack)
        .publish("done", result);
    let made = queue.complete(&step).await.unwrap();
    let place = &made.published[0];
    let place = (place.topic.as_str(), place.partition, place.offset);
    assert_eq!((place, made.duplicate), (("done", 1, Some(0)), false));
    let again = queue.complete(&step).await.unwrap();
    assert!(again.duplicate && again.published.is_empty());
    // Over by another way.
    let job = lease_one(&client).await;
    let ack = aqueduct_client::Settlement::of(&job, Verdict::Ack);
    queue.settle(&[ack]).await.unwrap().remove(0).unwrap();
    let late = Step::new().settle(&job, Verdict::Ack);
    let late = late.publish("done", Message::new("B"));
    assert!(queue.complete(&late).await.unwrap_err().is_lease_lost());
    assert_eq!(all(&client, "done").await, ["A"]);
}

/// "fine" is done with two results; "fails" fails once after it has published one; "wrong" names
/// a topic that is not there the first time.
async fn handle(job: Job) -> Result<(), Failure> {
    let name = text(&job);
    match (name.as_str(), job.attempt) {
        ("wrong", 1) => job.publish("nowhere", Message::new("x")),
        _ => job.publish("done", Message::new(format!("{name} {}", job.attempt))),
    }
    if name == "fine" {
        job.publish("done", Message::new("fine too"));
    }
    match (name.as_str(), job.attempt) {
        ("fails", 1) => Err(Failure::retry("no")),
        ("panics", 1) => panic!("boom"),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn what_a_handler_publishes_is_there_with_its_ok_alone() {
    let broker = Fixture::new();
    let client = scene(&broker, Duration::from_secs(30)).await;
    publish(&client, &["fine", "fails", "panics", "wrong"]).await;
    let worker = client.worker(TOPIC, GROUP).concurrency(2).handler(handle);
    let worker = worker.start().await.unwrap();
    until_done(&worker, 4).await;
    let stats = worker.stats();
    assert_eq!(
        (stats.done, stats.failed, stats.lost),
        (4, 3, 0),
        "{stats:?}"
    );
    worker.shutdown(PATIENCE).await.unwrap();
    let expected = ["fails 2", "fine 1", "fine too", "panics 2", "wrong 2"];
    assert_eq!(all(&client, "done").await, expected);
}

#[tokio::test]
async fn results_of_handlers_are_there_once_while_the_broker_is_killed() {
    let mut broker = Fixture::new();
    let client = scene(&broker, Duration::from_secs(5)).await;
    let values: Vec<String> = (0..120).map(|n| format!("{n:03}")).collect();
    let names: Vec<&str> = values.iter().map(String::as_str).collect();
    publish(&client, &names).await;
    let handler = |job: Job| async move {
        job.publish("done", Message::new(text(&job)));
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    };
    let worker = client.worker(TOPIC, GROUP).concurrency(3).handler(handler);
    let worker = worker.start().await.unwrap();
    for done in [20, 60] {
        until_done(&worker, done).await;
        broker.process.kill();
        broker.process.restart();
    }
    // A job whose worker does not know what came of it is not counted as done here.
    until("everything is done", || async {
        let queue = client.groups().describe_queue(TOPIC, GROUP).await;
        queue.is_ok_and(|queue| queue.counts.done == 120)
    })
    .await;
    until("the results are there", || async {
        all(&client, "done").await.len() >= 120
    })
    .await;
    drop(worker);
    assert_eq!(all(&client, "done").await, values);
}

#[test]
fn the_output_of_a_command_is_a_result() {
    let broker = Fixture::new();
    for topic in ["jobs", "done"] {
        broker.create(topic, 1);
    }
    for value in ["one", "two", "none", "bad"] {
        broker.cli.run(&["pub", "jobs", value, "-k", "k"]).ok();
    }
    let script = r#"read -r job; case $job in
        none) ;;
        bad) echo half; exit 65 ;;
        *) echo "done $job" ;;
    esac"#;
    let head = ["sub", "jobs", "-g", "work", "--exec", script];
    let tail = ["--results", "done", "--idle", "1500ms"];
    let done = broker.cli.run(&[&head[..], &tail[..]].concat()).ok();
    assert_eq!(done.stdout, "");
    let read = [
        "sub", "done", "--from", "start", "--until", "now", "-o", "jsonl",
    ];
    let read = broker.cli.run(&read).ok();
    let values: Vec<serde_json::Value> = read
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut values: Vec<_> = values.iter().map(|it| (&it["key"], &it["value"])).collect();
    values.sort_by_key(|it| it.1.to_string());
    let found = format!("{values:?}");
    assert_eq!(values.len(), 2, "{found}");
    assert!(
        found.contains("done one") && found.contains("done two"),
        "{found}"
    );
    let _ = broker
        .cli
        .run(&["sub", "jobs", "-g", "work", "--results", "done"])
        .with_code(aqueduct_tests::cli::exit::USAGE);
}
