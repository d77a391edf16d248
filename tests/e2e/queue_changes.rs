//! Queue groups that change under their consumers: the group deleted, its policy altered, its
//! topic deleted, partitions added.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aqueduct_proto::v1::{
    DeleteGroupRequest, DeleteTopicRequest, Group, LeaseRequest, QueueOrder, QueuePolicy,
    SettleRequest, UpdateGroupRequest, UpdateTopicRequest,
};
use aqueduct_tests::{
    grpc::{Refused, message, refused},
    process::PATIENCE,
    queue::{
        KeyOrder, Outcome, Rules, Word,
        worker::{Session, settlement},
    },
};
use tonic::Code;

use crate::{
    fixture::Fixture,
    queue_scene::{RULES, Scene, create_group, ms, publish},
};

fn delete_group() -> DeleteGroupRequest {
    DeleteGroupRequest {
        topic: "jobs".to_owned(),
        group: "work".to_owned(),
        validate_only: false,
    }
}

#[tokio::test]
async fn a_group_is_deleted_when_nobody_works_and_begins_anew() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    scene.publish_some(10).await;
    let held = scene.some(5).await;
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(3, 1 << 20).await;
    session.next().await.unwrap();
    let answer = scene.api.groups.delete_group(delete_group()).await;
    refused(answer, Code::FailedPrecondition, "GROUP_NOT_EMPTY");
    // It goes on as if nothing had been.
    scene.ack(&held[..1]).await;
    session.close().await;
    scene.api.groups.delete_group(delete_group()).await.unwrap();
    let settle = scene.settle(vec![settlement(&held[1], &Word::Ack)]).await;
    refused(settle, Code::NotFound, "GROUP_NOT_FOUND");
    let line = scene.line.api.queues.clone();
    let request = LeaseRequest {
        topic: "jobs".to_owned(),
        group: "work".to_owned(),
        ..LeaseRequest::default()
    };
    let leased = line.clone().lease(request).await;
    refused(leased, Code::NotFound, "GROUP_NOT_FOUND");

    // Of the same name, but another one: nothing is done, and old leases are foreign.
    create_group(&mut scene.api, "work", QueuePolicy::default())
        .await
        .unwrap();
    let old = scene.settle(vec![settlement(&held[1], &Word::Ack)]).await;
    let error = old.unwrap()[0].error.clone().unwrap();
    Refused::from_result(&error).is(Code::FailedPrecondition, "LEASE_LOST");
    scene.history.given.lock().unwrap().clear();
    scene.history.said.lock().unwrap().clear();
    scene.history.ended.lock().unwrap().clear();
    let again = scene.some(10).await;
    assert_eq!(again.len(), 10);
    scene.ack(&again).await;
    scene.broker.process.restart();
    scene.check_alive(&[10]).await;
}

impl Scene {
    /// After a restart the end of it still holds.
    async fn check_alive(&mut self, ends: &[u64]) {
        self.api = self.broker.api().await;
        let (address, history) = (self.place.address, self.history.clone());
        let line = aqueduct_tests::queue::worker::Line::connect(address, &history);
        self.line = line.await.unwrap();
        assert!(self.take(10).await.is_empty());
        self.check(RULES, Some(ends)).await;
    }
}

/// A consumer by calls that acknowledges everything until it is told to stop; the last refusal.
async fn work(address: std::net::SocketAddr, stop: Arc<AtomicBool>) -> (usize, Option<String>) {
    let mut queues = aqueduct_tests::grpc::Api::connect(address).await.queues;
    let mut done = 0;
    while !stop.load(Relaxed) {
        let request = LeaseRequest {
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
            max_messages: 50,
            wait: ms(100),
            ..LeaseRequest::default()
        };
        let leased = match queues.lease(request).await {
            Ok(leased) => leased.into_inner().deliveries,
            Err(status) => return (done, Some(Refused::from_status(&status).reason)),
        };
        let settlements = leased.iter().map(|delivery| {
            let given = aqueduct_tests::queue::worker::given(delivery, (0, 0), Default::default());
            settlement(&given, &Word::Ack)
        });
        let request = SettleRequest {
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
            settlements: settlements.collect(),
        };
        match queues.settle(request).await {
            Err(status) => return (done, Some(Refused::from_status(&status).reason)),
            Ok(answer) => {
                let results = answer.into_inner().results;
                if let Some(error) = results.iter().find_map(|result| result.error.as_ref()) {
                    return (done, Some(Refused::from_result(error).reason));
                }
                done += results.len();
            }
        }
    }
    (done, None)
}

#[tokio::test]
async fn a_topic_that_is_deleted_under_load_takes_its_queue_along() {
    let mut scene = Scene::on(Fixture::new(), 2, QueuePolicy::default()).await;
    let address = scene.place.address;
    let stop = Arc::<AtomicBool>::default();
    let workers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(work(address, stop.clone())))
        .collect();
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(1 << 40, 1 << 50).await;
    for _ in 0..20 {
        let messages = (0..100).map(|n| message(n % 2, "x"));
        scene.publish(messages.collect()).await;
    }
    session.next().await.unwrap();
    let request = DeleteTopicRequest {
        name: "jobs".to_owned(),
        ..DeleteTopicRequest::default()
    };
    scene.api.topics.delete_topic(request).await.unwrap();
    for worker in workers {
        let (_, why) = tokio::time::timeout(PATIENCE, worker)
            .await
            .unwrap()
            .unwrap();
        let why = why.expect("nothing can be leased any more");
        let gone = [
            "TOPIC_NOT_FOUND",
            "GROUP_NOT_FOUND",
            "PARTITION_NOT_FOUND",
            "UNAVAILABLE",
            "OUTCOME_UNKNOWN",
        ];
        assert!(gone.contains(&why.as_str()), "{why}");
    }
    // The stream ends by itself.
    let end = async { while session.next().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
    session.left();
    scene.broker.assert_serves();
    // Again, and nothing of the old one is left.
    scene.api.create("jobs", 1).await;
    create_group(&mut scene.api, "work", QueuePolicy::default())
        .await
        .unwrap();
    scene.history = Arc::default();
    publish(&mut scene.api, vec![message(0, "new")]).await;
    let new = scene.some(10).await;
    assert_eq!((new.len(), new[0].offset, new[0].lease), (1, 0, 1));
    scene.ack(&new).await;
    scene.check(RULES, Some(&[1])).await;
}

/// Policies that come and go while consumers work; what is leased keeps its deadline.
#[tokio::test]
async fn a_policy_is_altered_under_load() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let address = scene.place.address;
    let stop = Arc::<AtomicBool>::default();
    let workers: Vec<_> = (0..2)
        .map(|_| tokio::spawn(work(address, stop.clone())))
        .collect();
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(1 << 40, 1 << 50).await;
    let mut mine = 0;
    for round in 0..30 {
        scene.publish_some(50).await;
        let policy = QueuePolicy {
            order: match round % 2 {
                0 => QueueOrder::PerKey as i32,
                _ => QueueOrder::Unspecified as i32,
            },
            max_in_flight: [0, 1, 1_000][round % 3],
            messages_per_second: [0, 100_000][round % 2],
            max_in_flight_per_consumer: [0, 7][round / 2 % 2],
            ..QueuePolicy::default()
        };
        let update = UpdateGroupRequest {
            topic: "jobs".to_owned(),
            group: Some(Group {
                name: "work".to_owned(),
                queue: Some(policy),
                ..Group::default()
            }),
            ..UpdateGroupRequest::default()
        };
        scene.api.groups.update_group(update).await.unwrap();
        let wait = Duration::from_millis(20);
        while let Ok(Ok((given, _))) = tokio::time::timeout(wait, session.next()).await {
            session.say(&[(given, Word::Ack)]).await;
            session.answered().await.unwrap();
            mine += 1;
        }
    }
    let start = std::time::Instant::now();
    let mut quiet = 0;
    while quiet < 10 {
        assert!(start.elapsed() < PATIENCE, "it does not come to an end");
        let wait = Duration::from_millis(100);
        match tokio::time::timeout(wait, session.next()).await {
            Err(_) => quiet += 1,
            Ok(next) => {
                session.say(&[(next.unwrap().0, Word::Ack)]).await;
                session.answered().await.unwrap();
                (mine, quiet) = (mine + 1, 0);
            }
        }
    }
    stop.store(true, Relaxed);
    let mut all = mine;
    for worker in workers {
        let (done, why) = worker.await.unwrap();
        assert_eq!(why, None);
        all += done;
    }
    session.close().await;
    assert_eq!(all, 1_500, "each is acknowledged once");
    scene.check(RULES, None).await;
}

#[tokio::test]
async fn partitions_that_are_added_under_load_are_worked_too() {
    let policy = QueuePolicy {
        order: QueueOrder::PerKey as i32,
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(1 << 40, 1 << 50).await;
    let mut ends = vec![0_u64; 5];
    for partitions in 1..=5_u32 {
        if partitions > 1 {
            let topic = aqueduct_proto::v1::Topic {
                name: "jobs".to_owned(),
                partitions,
                ..Default::default()
            };
            let update = UpdateTopicRequest {
                topic: Some(topic),
                ..UpdateTopicRequest::default()
            };
            scene.api.topics.update_topic(update).await.unwrap();
        }
        let messages = (0..100).map(|n| message(n % partitions, "x"));
        scene.publish(messages.collect()).await;
        for n in 0..100 {
            ends[(n % partitions) as usize] += 1;
        }
    }
    let mut done = 0;
    while done < 500 {
        let next = tokio::time::timeout(PATIENCE, session.next()).await;
        let (given, _) = next.expect("something comes").unwrap();
        session.say(&[(given, Word::Ack)]).await;
        done += 1;
    }
    session.answered().await.unwrap();
    session.close().await;
    let outcomes = scene.history.said.lock().unwrap().clone();
    let taken = outcomes.iter().filter(|said| said.outcome == Outcome::Done);
    assert_eq!(taken.count(), 500);
    let order = KeyOrder::Skip;
    scene.check(Rules { order, ..RULES }, Some(&ends)).await;
}

/// Under a load that never pauses nobody is forgotten: a call that finds nothing is answered when
/// its time is over, and a partition that is added is worked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "one load under which several things happen"
)]
async fn steady_load_hides_neither_new_partitions_nor_calls_that_wait() {
    let policy = QueuePolicy {
        order: QueueOrder::PerKey as i32,
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let address = scene.place.address;
    let stop = Arc::<AtomicBool>::default();
    // One key: so many workers, and something for one of them at a time.
    let publisher = {
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut api = aqueduct_tests::grpc::Api::connect(address).await;
            while !stop.load(Relaxed) {
                let keyed = |_| aqueduct_proto::v1::Message {
                    key: Some("one".into()),
                    ..message(0, "x")
                };
                publish(&mut api, (0..20).map(keyed).collect()).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let is_worked = Arc::<AtomicBool>::default();
    let mut workers = Vec::new();
    for _ in 0..4 {
        let (place, history) = (scene.place.clone(), Arc::default());
        let (stop, is_worked) = (stop.clone(), is_worked.clone());
        workers.push(tokio::spawn(async move {
            let mut session = Session::open(&place, &history).await.unwrap();
            session.credit(1 << 40, 1 << 50).await;
            while !stop.load(Relaxed) {
                let wait = Duration::from_millis(100);
                if let Ok(Ok((given, _))) = tokio::time::timeout(wait, session.next()).await {
                    is_worked.fetch_or(given.partition == 1, Relaxed);
                    session.say(&[(given, Word::Ack)]).await;
                }
            }
            session.close().await;
        }));
    }
    let topic = aqueduct_proto::v1::Topic {
        name: "jobs".to_owned(),
        partitions: 2,
        ..Default::default()
    };
    let update = UpdateTopicRequest {
        topic: Some(topic),
        ..UpdateTopicRequest::default()
    };
    scene.api.topics.update_topic(update).await.unwrap();
    publish(&mut scene.api, vec![message(1, "new")]).await;
    for _ in 0..20 {
        let short = scene.wait(1, Duration::from_millis(10));
        let given = tokio::time::timeout(PATIENCE, short)
            .await
            .expect("an answer");
        is_worked.fetch_or(given.iter().any(|given| given.partition == 1), Relaxed);
        scene.ack(&given).await;
    }
    let start = std::time::Instant::now();
    while !is_worked.load(Relaxed) {
        assert!(
            start.elapsed() < PATIENCE,
            "the new partition is not worked"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Relaxed);
    publisher.await.unwrap();
    for worker in workers {
        worker.await.unwrap();
    }
}
