//! Steps whose results cannot be published just now, or ever.

use futures::future::join_all;

use super::*;
use crate::{
    limits::MAX_NODE_RESULT_BYTES_WAITING,
    metadata::groups::Group,
    publish::{Incoming, NewResult},
    work::complete::Completed,
};

const TARGET: &str = "done";

impl Scene {
    /// A topic for results; `closed`: one that takes nothing.
    async fn target(&self, is_closed: bool) {
        let new = NewTopic {
            name: TARGET.into(),
            partitions: 1,
            config: TopicConfig::standard(),
            labels: BTreeMap::new(),
        };
        self.services.topics.create(new, false).await.unwrap();
        let live = self.services.topics.get(TARGET).unwrap();
        if is_closed {
            let why = Refusal::Unavailable {
                why: "closed".into(),
            };
            let target = live.partition(0).unwrap();
            target.send(Message::Close { why }).await.unwrap();
        }
    }

    /// Acknowledges, and publishes so many messages.
    async fn complete(&self, job: &Delivery, results: usize) -> Result<Completed, Refusal> {
        let wish = Wish {
            partition: job.partition,
            offset: job.record.offset,
            lease: job.lease,
            wanted: Wanted::Ack,
        };
        let result = |_| NewResult {
            topic: TARGET.into(),
            incoming: Incoming {
                record: NewRecord {
                    value: Some("result".into()),
                    ..NewRecord::default()
                },
                partition: None,
                options: None,
            },
        };
        let results = (0..results).map(result).collect();
        within(self.services.complete((TOPIC, GROUP), vec![wish], results)).await
    }

    fn group(&self) -> Group {
        self.services.group(TOPIC, GROUP).unwrap()
    }

    /// Results that wait, were published, were dropped.
    async fn results(&self) -> (u64, (u64, u64)) {
        let group = self.group();
        let views = self.services.queue_views(&group).await.unwrap();
        (views[0].results.results, views[0].results_done)
    }

    async fn wait_for_results(&self, expected: (u64, (u64, u64))) {
        let until = Instant::now() + PATIENCE;
        while self.results().await != expected {
            let found = self.results().await;
            assert!(Instant::now() < until, "{found:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn is_made(completed: &Completed) -> bool {
    all_done(&completed.settled) && !completed.is_repeated
}

#[tokio::test]
async fn results_that_cannot_be_published_hold_nothing_up_and_go_with_their_topic() {
    let scene = Scene::new(1, Policy::default()).await;
    scene.target(true).await;
    scene.publish(0, 20).await;
    let jobs = scene.lease(10).await;
    let answer = scene.complete(&jobs[0], 3).await.unwrap();
    assert!(is_made(&answer));
    assert!(answer.published.iter().all(|it| it.offset.is_none()));
    assert_eq!(scene.results().await, (3, (0, 0)));
    // All else goes on.
    assert!(all_done(&scene.settle(&jobs[1..], &Wanted::Ack).await));
    let jobs = scene.lease(10).await;
    assert!(is_made(&scene.complete(&jobs[0], 0).await.unwrap()));
    let refused = scene.services.delete_group(TOPIC, GROUP, false).await;
    assert!(matches!(
        refused,
        Err(Refusal::ResultsWaiting { results: 3, .. })
    ));
    scene.services.topics.delete(TARGET, false).await.unwrap();
    scene.wait_for_results((0, (0, 3))).await;
    let refused = scene.complete(&jobs[1], 1).await.err();
    assert!(matches!(refused, Some(Refusal::TopicNotFound { .. })));
    // Another topic of the same name begins anew.
    scene.target(false).await;
    let answer = scene.complete(&jobs[1], 2).await.unwrap();
    let offsets: Vec<_> = answer.published.iter().map(|it| it.offset).collect();
    assert_eq!(offsets, [Some(0), Some(1)]);
    scene.wait_for_results((0, (2, 3))).await;
    scene
        .services
        .delete_group(TOPIC, GROUP, false)
        .await
        .unwrap();
}

#[tokio::test]
async fn results_that_wait_are_bounded() {
    let scene = Scene::new(1, Policy::default()).await;
    scene.target(true).await;
    scene.publish(0, 12).await;
    let jobs = scene.lease(12).await;
    let steps = jobs[..10].iter().map(|job| scene.complete(job, 1_000));
    for made in join_all(steps).await {
        assert!(is_made(&made.unwrap()));
    }
    let refused = scene.complete(&jobs[10], 1).await.unwrap();
    let full = Refusal::ResultsFull {
        what: "results".into(),
        value: 10_001,
        limit: 10_000,
    };
    assert_eq!(refused.settled, [Err(full)]);
    // One that was made is known all the same, and what needs no room is made.
    assert!(scene.complete(&jobs[3], 1_000).await.unwrap().is_repeated);
    assert!(is_made(&scene.complete(&jobs[10], 0).await.unwrap()));
    assert_eq!(scene.results().await.0, 10_000);
}

#[tokio::test]
async fn a_step_that_was_made_is_known_also_when_its_topic_is_gone() {
    let scene = Scene::new(1, Policy::default()).await;
    scene.target(false).await;
    scene.publish(0, 2).await;
    let jobs = scene.lease(2).await;
    assert!(is_made(&scene.complete(&jobs[0], 2).await.unwrap()));
    scene.services.topics.delete(TARGET, false).await.unwrap();
    let again = scene.complete(&jobs[0], 2).await.unwrap();
    assert!(again.is_repeated && all_done(&again.settled) && again.published.is_empty());
    let refused = scene.complete(&jobs[1], 1).await.err();
    assert!(matches!(refused, Some(Refusal::TopicNotFound { .. })));
}

#[tokio::test]
async fn results_of_all_groups_together_are_bounded() {
    let scene = Scene::new(1, Policy::default()).await;
    scene.target(true).await;
    scene.publish(0, 3).await;
    let jobs = scene.lease(3).await;
    let work = &scene.services.work;
    assert!(is_made(&scene.complete(&jobs[0], 3).await.unwrap()));
    let until = Instant::now() + PATIENCE;
    while work.result_bytes() == 0 {
        assert!(Instant::now() < until, "nothing was noted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (other, limit) = (u64::MAX, MAX_NODE_RESULT_BYTES_WAITING);
    work.note_results(other, limit);
    let refused = scene.complete(&jobs[1], 1).await.err();
    let Some(Refusal::ResultsFull { what, value, .. }) = refused else {
        panic!("it was taken");
    };
    assert!(what == "bytes of the node" && value > limit);
    // One that was made is known all the same, and what needs no room is made.
    assert!(scene.complete(&jobs[0], 3).await.unwrap().is_repeated);
    assert!(is_made(&scene.complete(&jobs[1], 0).await.unwrap()));
    work.note_results(other, 0);
    assert!(is_made(&scene.complete(&jobs[2], 1).await.unwrap()));
}

#[tokio::test]
async fn a_step_with_results_is_refused_or_made_while_the_log_is_read_for_its_keys() {
    let policy = Policy {
        order: Order::PerKey,
        on_key_failure: OnKeyFailure::ParkKey,
        ..Policy::default()
    };
    let scene = Scene::new(1, policy.clone()).await;
    scene.target(false).await;
    scene.publish(0, 3_000).await;
    let job = scene.lease(1_000).await.pop().unwrap();
    // Another schedule, which has to be told of the whole log before it judges.
    let priorities = Priorities::Strict;
    scene
        .change_policy(Policy {
            priorities,
            ..policy
        })
        .await;
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = scene.complete(&job, 1).await.unwrap();
        match &answer.settled[0] {
            Ok(()) => break assert!(is_made(&answer)),
            Err(Refusal::Unavailable { .. }) => assert!(Instant::now() < until),
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(scene.complete(&job, 1).await.unwrap().is_repeated);
}
