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

use super::{Delivery, Settled, Wanted, Wish, face::Holder};
use crate::{
    config::Config,
    error::Refusal,
    groups::admin::NewGroup,
    metadata::state::TopicConfig,
    node::Node,
    partition::{Message, NewRecord, Permit},
    queue::policy::Policy,
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

    async fn publish(&self, partition: u32, count: usize) {
        let live = self.services.topics.get(TOPIC).unwrap();
        let record = NewRecord {
            value: Some("v".into()),
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

    async fn lease(&self, messages: u64) -> Vec<Delivery> {
        let until = Instant::now() + PATIENCE;
        let leasing = self.services.lease(
            (TOPIC, GROUP),
            (messages, 1 << 20),
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
