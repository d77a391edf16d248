//! The worker runtime of the Rust client against the real broker: verdicts from errors and
//! panics, lost leases, shutdown in the middle, and a broker that is killed under it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_client::{
    Client, Failure, Job, Message, OnKeyFailure, QueueOrder, QueuePolicy, Settlement, Verdict,
    Worker,
};
use tokio::sync::{Notify, mpsc};

use crate::{
    fixture::Fixture,
    group_client::until,
    queue_client::{GROUP, TOPIC, dead_letters, header, lease_one, publish, queue, text},
};

/// Retries come almost at once.
fn quick() -> QueuePolicy {
    let soon = Duration::from_millis(2);
    QueuePolicy::new().backoff(soon, 100, soon)
}

fn short_leases() -> QueuePolicy {
    quick().lease(Duration::from_secs(1))
}

async fn until_done(worker: &Worker, count: u64) {
    until("the jobs are done", || async {
        worker.stats().done >= count
    })
    .await;
}

async fn assert_empty(client: &Client) {
    let queue = client.queue(TOPIC, GROUP);
    let left = queue.lease(10, Duration::ZERO).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

async fn fail_by_name(job: Job) -> Result<(), Failure> {
    let name = text(&job);
    match (name.as_str(), job.attempt) {
        ("fine", _) | (_, 3..) => Ok(()),
        ("error", _) => "x".parse::<u32>().map(|_| ()).map_err(Failure::from),
        ("panic", _) => panic!("boom"),
        ("slow", _) => {
            std::future::pending::<()>().await;
            Ok(())
        }
        ("later", _) => Err(Failure::retry_after(Duration::from_millis(5), "later")),
        ("release", _) if job.hand_outs < 3 => Err(Failure::release()),
        ("release", _) => Ok(()),
        (name, _) => Err(Failure::dead_letter(format!("what is {name}?"))),
    }
}

#[tokio::test]
async fn errors_and_panics_become_verdicts() {
    let broker = Fixture::new();
    let client = queue(&broker, quick()).await;
    let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    let noted = seen.clone();
    let worker = client.worker(TOPIC, GROUP).concurrency(4).prefetch(2);
    let worker = worker.timeout(Duration::from_millis(100));
    let worker = worker.handler(move |job: Job| {
        let last = job.last_error.clone();
        noted
            .lock()
            .unwrap()
            .entry(text(&job))
            .or_default()
            .push(last);
        fail_by_name(job)
    });
    let worker = worker.start().await.unwrap();
    let names = ["fine", "error", "panic", "slow", "later", "release", "odd"];
    publish(&client, &names).await;
    until_done(&worker, 6).await;
    let dead = dead_letters(&client, 1).await;
    assert_eq!(text(&dead[0]), "odd");
    assert_eq!(header(&dead[0], "__dlq.errors.message"), "what is odd?");
    let stats = worker.stats();
    assert_eq!(
        (stats.done, stats.failed, stats.dead),
        (6, 8, 1),
        "{stats:?}"
    );
    assert_eq!((stats.released, stats.lost), (2, 0), "{stats:?}");
    worker.shutdown(Duration::from_secs(10)).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let digit = "invalid digit found in string";
    assert_eq!(seen["error"], ["", digit, digit]);
    assert_eq!(seen["panic"][1], "the handler panicked: boom");
    assert_eq!(seen["slow"][2], "the handler was not done within 100ms");
    assert_eq!(seen["later"], ["", "later", "later"]);
    assert_eq!(seen["release"], ["", "", ""]);
    assert_empty(&client).await;
}

#[tokio::test]
async fn spans_go_on_where_the_publisher_was() {
    let broker = Fixture::new();
    let client = queue(&broker, quick()).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let message = Message::new("traced").header("traceparent", traceparent);
    for result in client.publish(TOPIC, vec![message], None).await {
        result.unwrap();
    }
    let (told, mut parents) = mpsc::unbounded_channel();
    let worker = client.worker(TOPIC, GROUP).span(move |job| {
        let _ = told.send(job.trace_parent());
        tracing::Span::none()
    });
    let worker = worker.handler(|_| async { Ok(()) }).start().await.unwrap();
    let parent = parents.recv().await.unwrap().unwrap();
    assert_eq!(parent.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(parent.parent_id, "00f067aa0ba902b7");
    until_done(&worker, 1).await;
}

/// Tells when it is dropped.
struct Guard(mpsc::UnboundedSender<u32>, u32);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

#[tokio::test]
async fn a_handler_whose_lease_is_lost_is_dropped_and_others_are_renewed() {
    let broker = Fixture::new();
    let client = queue(&broker, short_leases()).await;
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let (told, mut jobs) = mpsc::unbounded_channel();
    let finish = Arc::new(Notify::new());
    let end = finish.clone();
    let worker = client.worker(TOPIC, GROUP).concurrency(2);
    let worker = worker.handler(move |job: Job| {
        let guard = Guard(dropped.clone(), job.attempt);
        let (told, end) = (told.clone(), end.clone());
        async move {
            let (name, attempt) = (text(&job), job.attempt);
            let _ = told.send(job);
            if name == "renewed" || attempt == 1 {
                end.notified().await;
            }
            drop(guard);
            Ok(())
        }
    });
    let worker = worker.start().await.unwrap();
    publish(&client, &["lost", "renewed"]).await;
    let (one, two) = (jobs.recv().await.unwrap(), jobs.recv().await.unwrap());
    let lost = if text(&one) == "lost" { one } else { two };
    // Somebody else ends the lease, as a broken connection or a pause would.
    let failed = Settlement::of(&lost, Verdict::retry("taken away"));
    let queue = client.queue(TOPIC, GROUP);
    queue.settle(&[failed]).await.unwrap()[0].as_ref().unwrap();
    assert_eq!(drops.recv().await, Some(1), "by the next renewal");
    assert!(lost.is_lost());
    let again = jobs.recv().await.unwrap();
    assert_eq!((text(&again).as_str(), again.attempt), ("lost", 2));
    until_done(&worker, 1).await;
    // The other one has been renewed beyond its first lease by now, or will be.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    finish.notify_waiters();
    until_done(&worker, 2).await;
    assert_eq!(worker.stats().lost, 1);
    worker.shutdown(Duration::ZERO).await.unwrap();
    assert!(jobs.try_recv().is_err(), "nothing was handed out again");
}

#[tokio::test]
async fn a_broker_that_is_away_for_longer_than_the_lease_costs_an_attempt() {
    let mut broker = Fixture::new();
    let client = queue(&broker, short_leases()).await;
    publish(&client, &["one"]).await;
    let (dropped, mut drops) = mpsc::unbounded_channel();
    let (told, mut attempts) = mpsc::unbounded_channel();
    let worker = client.worker(TOPIC, GROUP).handler(move |job: Job| {
        let guard = Guard(dropped.clone(), job.attempt);
        let told = told.clone();
        async move {
            let attempt = job.attempt;
            let _ = told.send(attempt);
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            drop(guard);
            Ok(())
        }
    });
    let worker = worker.start().await.unwrap();
    assert_eq!(attempts.recv().await, Some(1));
    broker.process.kill();
    assert_eq!(drops.recv().await, Some(1), "without word from the broker");
    broker.process.restart();
    assert_eq!(attempts.recv().await, Some(2));
    until_done(&worker, 1).await;
    worker.shutdown(Duration::ZERO).await.unwrap();
    assert_empty(&client).await;
}

#[tokio::test]
async fn a_shutdown_lets_some_finish_and_gives_back_the_rest() {
    let broker = Fixture::new();
    let client = queue(&broker, QueuePolicy::new()).await;
    publish(&client, &["quick", "stuck", "quick", "waits", "waits"]).await;
    let begun = Arc::new(AtomicU64::new(0));
    let may_end = Arc::new(Notify::new());
    let (count, end) = (begun.clone(), may_end.clone());
    let worker = client.worker(TOPIC, GROUP).concurrency(3).prefetch(1);
    let worker = worker.handler(move |job: Job| {
        count.fetch_add(1, Ordering::Relaxed);
        let end = end.clone();
        async move {
            match text(&job).as_str() {
                "quick" => end.notified().await,
                _ => std::future::pending().await,
            }
            Ok(())
        }
    });
    let worker = worker.start().await.unwrap();
    until("three are handled", || async {
        begun.load(Ordering::Relaxed) == 3
    })
    .await;
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let ending = tokio::spawn(async move {
        let ended = worker.shutdown(Duration::from_secs(2)).await;
        over.store(true, Ordering::Relaxed);
        ended
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!is_over.load(Ordering::Relaxed), "handlers have their time");
    may_end.notify_waiters();
    ending.await.unwrap().unwrap();
    assert_eq!(begun.load(Ordering::Relaxed), 3, "nothing new began");
    let mut left = BTreeMap::new();
    for _ in 0..3 {
        let job = lease_one(&client).await;
        assert_eq!(job.attempt, 1, "given back is not failed");
        left.insert(job.offset, text(&job));
    }
    let left: Vec<String> = left.into_values().collect();
    assert_eq!(left, ["stuck", "waits", "waits"]);
    assert_empty(&client).await;
}

/// What a customer's orders were done in, and under which leases.
#[derive(Default)]
struct Ledger {
    done: BTreeMap<String, Vec<(u64, u64)>>,
}

#[tokio::test]
async fn keys_keep_their_order_and_nothing_is_left_out_while_the_broker_is_killed() {
    let mut broker = Fixture::new();
    let policy = quick().lease(Duration::from_secs(5));
    let policy = policy.order(QueueOrder::PerKey);
    let client = queue(&broker, policy.on_key_failure(OnKeyFailure::Block)).await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let book = ledger.clone();
    let worker = client.worker(TOPIC, GROUP).concurrency(8).prefetch(8);
    let worker = worker.handler(move |job: Job| {
        let book = book.clone();
        async move {
            let key = String::from_utf8(job.key.clone().unwrap().to_vec()).unwrap();
            tokio::time::sleep(Duration::from_millis(job.offset % 5)).await;
            if job.offset % 10 == 3 && job.attempt == 1 {
                return Err(Failure::retry("the first time always"));
            }
            book.lock()
                .unwrap()
                .done
                .entry(key)
                .or_default()
                .push((job.offset, job.lease));
            Ok(())
        }
    });
    let worker = worker.start().await.unwrap();
    let count = 400;
    let messages = (0..count).map(|n: u64| Message::new(n.to_string()).key(format!("k{}", n % 20)));
    for result in client.publish(TOPIC, messages.collect(), None).await {
        result.unwrap();
    }
    for part in 1..4 {
        let enough = part * count / 5;
        until("some are done", || async {
            let book = ledger.lock().unwrap();
            book.done.values().map(Vec::len).sum::<usize>() as u64 >= enough
        })
        .await;
        broker.process.restart();
    }
    until("all are done", || async {
        let book = ledger.lock().unwrap();
        let mut offsets: Vec<u64> = book.done.values().flatten().map(|(o, _)| *o).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len() as u64 == count
    })
    .await;
    worker.shutdown(Duration::from_secs(30)).await.unwrap();
    for (key, done) in &ledger.lock().unwrap().done {
        // One may be done again, if its verdict was lost with the broker; none out of turn.
        let offsets: Vec<u64> = done.iter().map(|(offset, _)| *offset).collect();
        assert!(offsets.is_sorted(), "{key}: {offsets:?}");
        let leases: Vec<u64> = done.iter().map(|(_, lease)| *lease).collect();
        assert!(leases.is_sorted(), "{key}: {leases:?}");
    }
    assert_empty(&client).await;
}
