//! A queue group of a real node, seen from behind the doors: what a test cannot bring about from
//! outside.

mod steps;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Change, Delivery, Settled, Wanted, Wish, face::Holder};
use crate::{
    config::Config,
    error::Refusal,
    groups::admin::{GroupChange, NewGroup},
    metadata::state::TopicConfig,
    node::Node,
    partition::{Message, NewRecord, Permit},
    queue::{
        fields::PolicyChange,
        policy::{OnKeyFailure, Order, Policy, Priorities},
    },
    services::Services,
    topics::NewTopic,
};

const TOPIC: &str = "jobs";
const GROUP: &str = "work";
const DEAD: &str = "jobs.work.dlq";
/// For what comes in its own time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with a topic and a queue group.
struct Scene {
    node: Option<Node>,
    services: Arc<Services>,
    _dir: TempDir,
}

impl Scene {
    async fn new(partitions: u32, policy: Policy) -> Scene {
        let dir = TempDir::with_prefix("aqueduct-").unwrap();
        let mut config = Config::new(dir.path());
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::start(config).unwrap();
        let services = node.services().clone();
        let scene = Scene {
            node: Some(node),
            services,
            _dir: dir,
        };
        let new = NewTopic {
            name: TOPIC.into(),
            partitions,
            config: TopicConfig::standard(),
            labels: BTreeMap::new(),
        };
        scene.services.topics.create(new, false).await.unwrap();
        let new = NewGroup {
            topic: TOPIC.into(),
            name: GROUP.into(),
            queue: Some(policy),
            ..NewGroup::default()
        };
        scene.services.create_group(new, false).await.unwrap();
        scene
    }

    async fn change_policy(&self, policy: Policy) {
        let fields = None;
        let change = GroupChange {
            queue: Some(PolicyChange { policy, fields }),
            ..GroupChange::default()
        };
        let place = (TOPIC, GROUP);
        let changed = self.services.update_group(place, change, false);
        within(changed).await.unwrap();
    }

    async fn publish(&self, partition: u32, count: usize) {
        self.publish_each(partition, count, None).await;
    }

    async fn publish_each(&self, partition: u32, count: usize, delay_ms: Option<i64>) {
        let live = self.services.topics.get(TOPIC).unwrap();
        let record = NewRecord {
            value: Some(vec![b'v'; 2_000].into()),
            delay_ms,
            ..NewRecord::default()
        };
        let (answer, answered) = oneshot::channel();
        let message = Message::Records {
            records: vec![record; count],
            expected_offset: None,
            permit: self.services.admit(1).await.unwrap(),
            answer,
        };
        let target = live.partition(partition).unwrap();
        target.send(message).await.unwrap();
        answered.await.unwrap().get(0).unwrap();
    }

    async fn publish_delayed(&self, count: usize) {
        self.publish_each(0, count, Some(3_600_000)).await;
    }

    async fn lease(&self, messages: u64) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        let leasing = self.services.lease(
            (TOPIC, GROUP),
            (messages, 16 << 20),
            until,
            Holder::default(),
        );
        within(leasing).await.unwrap()
    }

    async fn settle(&self, deliveries: &[Delivery], wanted: &Wanted) -> Settled {
        let wishes = deliveries.iter().map(|one| Wish {
            partition: one.partition,
            offset: one.record.offset,
            lease: one.lease,
            wanted: wanted.clone(),
        });
        let settling = self.services.settle((TOPIC, GROUP), wishes.collect());
        within(settling).await.unwrap()
    }

    /// All memory for messages on their way is taken: nothing is published meanwhile.
    async fn take_all_memory(&self) -> Permit {
        self.services.admit(usize::MAX).await.unwrap()
    }

    /// Copies in the dead-letter topic.
    fn copies(&self) -> u64 {
        match self.services.topics.get(DEAD) {
            Ok(live) => live.partition(0).unwrap().shared().high_watermark(),
            Err(_) => 0,
        }
    }

    async fn wait_for_copies(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        while self.copies() < count {
            assert!(Instant::now() < until, "{} copies", self.copies());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.copies(), count);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown(Duration::from_secs(1));
        }
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

fn dead() -> Wanted {
    Wanted::Dead { error: "no".into() }
}

fn all_done(settled: &[Result<(), Refusal>]) -> bool {
    settled.iter().all(Result::is_ok)
}

#[tokio::test]
async fn copies_that_cannot_be_written_hold_nothing_up() {
    let scene = Scene::new(2, Policy::default()).await;
    scene.publish(0, 600).await;
    scene.publish(1, 600).await;
    let memory = scene.take_all_memory().await;
    for _ in 0..10 {
        let leased = scene.lease(100).await;
        assert!(!leased.is_empty());
        let (bad, good) = leased.split_at(leased.len() / 2);
        assert!(all_done(&scene.settle(bad, &dead()).await));
        assert!(all_done(&scene.settle(good, &Wanted::Ack).await));
    }
    assert_eq!(scene.copies(), 0);
    drop(memory);
    scene.wait_for_copies(500).await;
}

#[tokio::test]
async fn a_group_is_not_deleted_before_its_dead_letters_are_copied() {
    let scene = Scene::new(2, Policy::default()).await;
    scene.publish(0, 150).await;
    scene.publish(1, 150).await;
    let memory = scene.take_all_memory().await;
    let mut left = 300;
    while left > 0 {
        let leased = scene.lease(1_000).await;
        left -= leased.len();
        assert!(all_done(&scene.settle(&leased, &dead()).await));
    }
    let delete = || within(scene.services.delete_group(TOPIC, GROUP, false));
    let refused = delete().await.unwrap_err();
    assert!(
        matches!(refused, Refusal::DeadLettersWaiting { count: 300, .. }),
        "{refused}"
    );
    assert_eq!(scene.copies(), 0);
    drop(memory);
    delete().await.unwrap();
    assert_eq!(scene.copies(), 300);
}

#[tokio::test]
async fn a_group_that_keeps_no_dead_letters_any_more_goes_without_them() {
    let scene = Scene::new(1, Policy::default()).await;
    scene.publish(0, 10).await;
    let memory = scene.take_all_memory().await;
    let leased = scene.lease(10).await;
    assert!(all_done(&scene.settle(&leased, &dead()).await));
    let policy = Policy {
        dead_letters: false,
        ..Policy::default()
    };
    scene.change_policy(policy).await;
    within(scene.services.delete_group(TOPIC, GROUP, false))
        .await
        .unwrap();
    drop(memory);
    assert_eq!(scene.copies(), 0);
}

#[tokio::test]
async fn many_changes_of_delayed_messages_are_few_entries_and_each_is_answered() {
    const COUNT: u64 = 800;
    let scene = Scene::new(1, Policy::default()).await;
    scene.publish_delayed(COUNT as usize).await;
    let live = scene.services.topics.get(TOPIC).unwrap();
    let shared = live.partition(0).unwrap().shared().clone();
    let far_ms = scene.services.clock.wall_ms() + 86_400_000;
    let changes = (0..COUNT).map(|offset| {
        let change = match offset % 2 {
            0 => Change::Cancel,
            _ => Change::Until(far_ms),
        };
        let place = (0, offset);
        scene.services.change_delayed((TOPIC, GROUP), place, change)
    });
    let again = (0..100).map(|offset| {
        let change = Change::Cancel;
        let place = (0, offset);
        scene.services.change_delayed((TOPIC, GROUP), place, change)
    });
    let entries = || shared.log.synced_index().unwrap_or(0);
    let before = entries();
    let done = within(futures::future::join_all(changes.chain(again))).await;
    let refused = done.iter().filter(|result| result.is_err()).count();
    assert_eq!(refused, 50, "those that were cancelled twice");
    let left = scene
        .services
        .list_delayed((TOPIC, GROUP), (0, 0, 0), 10_000);
    let left = within(left).await.unwrap().messages;
    let is_moved = |one: &super::Delayed| one.until_ms == far_ms && one.offset % 2 == 1;
    assert!(left.iter().all(is_moved));
    assert_eq!(left.len() as u64, COUNT / 2 - 50);
    println!("{} entries", entries() - before);
    assert!(entries() - before < 200);
}

#[tokio::test]
async fn verdicts_that_have_to_wait_keep_their_places_in_the_answer() {
    let policy = Policy {
        order: Order::PerKey,
        on_key_failure: OnKeyFailure::ParkKey,
        ..Policy::default()
    };
    let scene = Scene::new(2, policy.clone()).await;
    scene.publish(0, 10).await;
    scene.publish(1, 3_000).await;
    let mut leased = Vec::new();
    while leased.len() < 3_010 {
        leased.extend(scene.lease(1_000).await);
    }
    // Another schedule, which has to be told of the whole log before it judges.
    let priorities = Priorities::Strict;
    scene
        .change_policy(Policy {
            priorities,
            ..policy
        })
        .await;
    for (nth, one) in leased.iter_mut().enumerate() {
        // Every third is not the lease.
        one.lease += u64::from(nth % 3 == 0) * 1_000_000;
    }
    leased.sort_by_key(|one| (one.record.offset, one.partition));
    let settled = scene.settle(&leased, &Wanted::Ack).await;
    assert_eq!(settled.len(), leased.len());
    for (one, result) in leased.iter().zip(settled) {
        assert_eq!(result.is_ok(), one.lease < 1_000_000, "{one:?}");
    }
}
