//! Changes whose caller hangs up, and changes that fail half way.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use aqueduct_storage::{StoreOptions, disk::RealDisk};

use super::*;
use crate::clock::Clock;

struct Fixture {
    topics: Arc<Topics>,
    _dir: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.topics.store.close();
        self.topics.shards.stop();
    }
}

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path()).unwrap();
    let store = Store::open(Arc::new(disk), StoreOptions::default()).unwrap();
    let log = store.create_logs(&[METADATA_GROUP]).unwrap().pop().unwrap();
    let metadata = Metadata::start(log, Clock::default()).await.unwrap();
    let shards = Arc::new(Shards::start(1).unwrap());
    let mut config = Config::new(dir.path());
    config.auto_create_topics = true;
    let topics = Topics::start(metadata, store, shards, &config);
    Fixture {
        topics: Arc::new(topics.await.unwrap()),
        _dir: dir,
    }
}

fn orders() -> NewTopic {
    NewTopic {
        name: "orders".into(),
        partitions: 8,
        config: TopicConfig::standard(),
        labels: BTreeMap::new(),
    }
}

/// Runs a change until the metadata says `agreed`, and gives it up there.
async fn hang_up<T>(
    topics: &Arc<Topics>,
    change: impl Future<Output = Result<T, Refusal>>,
    agreed: impl Fn(Option<&Topic>) -> bool,
) {
    let is_agreed = async {
        while !agreed(topics.metadata.view().read().topics.get("orders")) {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
    };
    tokio::select! {
        biased;
        () = is_agreed => {}
        _ = change => {}
    }
}

#[tokio::test]
async fn a_change_whose_caller_hangs_up_is_carried_out() {
    let fixture = fixture().await;
    let topics = &fixture.topics;
    hang_up(topics, topics.create(orders(), false), |t| t.is_some()).await;
    // The next change waits for the one before.
    let again = topics.create(orders(), false).await;
    assert!(
        matches!(again, Err(Refusal::TopicExists { .. })),
        "{again:?}"
    );
    assert_eq!(topics.get("orders").unwrap().partitions.len(), 8);

    let more = TopicChange {
        partitions: Some(16),
        ..TopicChange::default()
    };
    let update = topics.update("orders", more.clone(), false);
    hang_up(topics, update, |t| t.is_some_and(|t| t.version == 2)).await;
    let next = TopicChange {
        version: Some(2),
        ..more
    };
    topics.update("orders", next, false).await.unwrap();
    assert_eq!(topics.get("orders").unwrap().partitions.len(), 16);

    hang_up(topics, topics.delete("orders", false), |t| t.is_none()).await;
    let again = topics.delete("orders", false).await;
    assert!(
        matches!(again, Err(Refusal::TopicNotFound { .. })),
        "{again:?}"
    );
    assert!(topics.get("orders").is_err());
    assert_eq!(topics.store.logs(), [METADATA_GROUP]);
}

#[tokio::test]
async fn a_change_that_failed_half_way_is_completed() {
    let fixture = fixture().await;
    let topics = &fixture.topics;
    // As an error leaves it: agreed on, but nothing runs.
    let create = CreateTopic {
        name: "orders".into(),
        partitions: 2,
        config: TopicConfig::standard(),
        labels: BTreeMap::new(),
    };
    let create = Change::CreateTopic(create);
    topics.metadata.propose(create.clone()).await.unwrap();
    let unavailable = topics.get("orders").map(drop);
    assert!(
        matches!(unavailable, Err(Refusal::Unavailable { .. })),
        "{unavailable:?}"
    );
    assert_eq!(
        topics
            .get_or_create("orders")
            .await
            .unwrap()
            .partitions
            .len(),
        2
    );

    // A topic that runs and is deleted, and one of the same name that does not run yet.
    let delete = Change::DeleteTopic("orders".into());
    topics.metadata.propose(delete.clone()).await.unwrap();
    topics.metadata.propose(create.clone()).await.unwrap();
    topics.catch_up_all().await;
    let live = topics.get("orders").unwrap();
    assert_eq!(Some(live.topic.clone()), topics.agreed("orders"));

    topics.metadata.propose(delete.clone()).await.unwrap();
    topics.catch_up_all().await;
    assert!(topics.get("orders").is_err());
    assert_eq!(topics.store.logs(), [METADATA_GROUP]);

    // What does not run can be deleted.
    topics.metadata.propose(create).await.unwrap();
    topics.delete("orders", false).await.unwrap();
    assert!(topics.create(orders(), true).await.is_ok());
}
