//! The topics of the node: the rules of creating, changing and deleting them, and which
//! partitions run for them.
//!
//! A change is first agreed on (metadata), then carried out here: logs are made, partitions
//! started, and only then does the caller get an answer. A change runs in a task of its own, so
//! that a caller who hangs up leaves nothing half done. What an error leaves undone is done
//! before the topic's next change or use, what a crash leaves undone at the next start: the
//! running partitions are brought in line with the metadata.

mod logs;
mod outcome;
pub(crate) mod rules;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use aqueduct_proto::names;
use aqueduct_storage::{Log, Store};
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    config::Config,
    error::Refusal,
    metadata::{
        METADATA_GROUP, Metadata,
        state::{Change, CreateTopic, Topic, TopicConfig, UpdateTopic},
    },
    partition::{Partition, Place},
    shards::Shards,
    slips::closest,
    stats::Traffic,
};

use self::{
    logs::{Room, check_room, open_or_make},
    outcome::{etag_mismatch, not_carried_out, topic_of},
    rules::{changed_topic, check_config, check_labels, check_partitions},
};

/// Partitions that are started at a time.
const STARTS_AT_A_TIME: usize = 64;

/// A topic with its running partitions.
pub(crate) struct LiveTopic {
    pub(crate) topic: Topic,
    pub(crate) partitions: Vec<Partition>,
    /// What went in and out, since the node started.
    pub(crate) traffic: Arc<Traffic>,
    turn: AtomicU32,
}

impl LiveTopic {
    /// The partition of this number.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn partition(&self, number: u32) -> Result<&Partition, Refusal> {
        self.partitions
            .get(number as usize)
            .ok_or_else(|| Refusal::PartitionNotFound {
                topic: self.topic.name.clone(),
                partition: number,
                partitions: self.partitions.len() as u32,
            })
    }

    /// The partition whose turn it is for messages without a key.
    pub(crate) fn next_partition(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.partitions.len() as u32
    }
}

/// What a topic is created with.
#[derive(Debug, Clone)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) config: TopicConfig,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What of a topic is to change; `None` stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicChange {
    pub(crate) partitions: Option<u32>,
    pub(crate) retention_ms: Option<u64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) max_message_bytes: Option<u64>,
    pub(crate) append_time: Option<bool>,
    pub(crate) dedup_window_ms: Option<u64>,
    pub(crate) until_done: Option<bool>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// Only if the topic still is at this version.
    pub(crate) version: Option<u64>,
}

/// Up to where a topic is to be trimmed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TrimTo {
    Place(Place),
    All,
}

/// All topics of the node.
pub(crate) struct Topics {
    metadata: Metadata,
    store: Store,
    shards: Arc<Shards>,
    live: RwLock<BTreeMap<String, Arc<LiveTopic>>>,
    /// One change at a time, from proposal to running partitions.
    changing: Arc<tokio::sync::Mutex<()>>,
    auto_create: Option<u32>,
    /// Counts changes of what is live.
    changes: watch::Sender<u64>,
}

impl Topics {
    /// Starts every partition that the metadata knows, and removes logs of topics that were
    /// deleted while it could not be carried out.
    ///
    /// # Errors
    /// If a log cannot be opened or a partition does not come up.
    pub(crate) async fn start(
        metadata: Metadata,
        store: Store,
        shards: Arc<Shards>,
        config: &Config,
    ) -> io::Result<Topics> {
        let auto_create = config
            .auto_create_topics
            .then_some(config.auto_create_partitions);
        let topics = Topics {
            metadata,
            store,
            shards,
            live: RwLock::default(),
            changing: Arc::default(),
            auto_create,
            changes: watch::Sender::new(0),
        };
        let known: Vec<Topic> = topics
            .metadata
            .view()
            .read()
            .topics
            .values()
            .cloned()
            .collect();
        let wanted: BTreeSet<u64> = known
            .iter()
            .flat_map(|topic| topic.groups.clone())
            .collect();
        for id in topics.store.logs() {
            if id != METADATA_GROUP && !wanted.contains(&id) {
                tracing::info!(log = id, "removing the log of a deleted topic");
                topics.store.remove_log(id).map_err(io::Error::other)?;
            }
        }
        for topic in known {
            topics.run(topic, Vec::new(), Room::NotAsked).await?;
        }
        Ok(topics)
    }

    /// Starts the partitions of `topic` beyond those that run already, and makes it visible.
    async fn run(
        &self,
        topic: Topic,
        running: Vec<Partition>,
        room: Room,
    ) -> io::Result<Arc<LiveTopic>> {
        for partition in &running {
            partition.shared().config.store(Arc::new(topic.config));
        }
        let new = topic.groups[running.len()..].to_vec();
        let logs = self.logs(new, room).await?;
        let name: Arc<str> = topic.name.as_str().into();
        let starts = logs
            .into_iter()
            .zip(running.len() as u32..)
            .map(|(log, number)| {
                let (name, metadata) = (name.clone(), self.metadata.clone());
                let id = log.id();
                let start = Partition::start(name, number, topic.config, log, metadata);
                async move { self.shards.run(id, start).await }
            });
        let started: Vec<Partition> = futures::stream::iter(starts)
            .buffered(STARTS_AT_A_TIME)
            .try_collect()
            .await?;
        let partitions = running.into_iter().chain(started).collect();
        // A change of the topic does not begin to count anew.
        let traffic = self
            .live
            .read()
            .get(&topic.name)
            .map(|live| live.traffic.clone());
        let live = Arc::new(LiveTopic {
            topic,
            partitions,
            traffic: traffic.unwrap_or_default(),
            turn: AtomicU32::new(0),
        });
        self.live
            .write()
            .insert(live.topic.name.clone(), live.clone());
        self.changes.send_modify(|count| *count += 1);
        Ok(live)
    }

    async fn logs(&self, groups: Vec<u64>, room: Room) -> io::Result<Vec<Log>> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || open_or_make(&store, &groups, room)).await?
    }

    /// The topic of this name ("orders" or "topics/orders").
    ///
    /// # Errors
    /// If the name cannot be or there is no such topic; `Unavailable` if it does not run yet.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<LiveTopic>, Refusal> {
        let name = parse_name(name)?;
        if let Some(live) = self.live.read().get(name) {
            return Ok(live.clone());
        }
        if self.agreed(name).is_some() {
            return Err(Refusal::Unavailable {
                why: format!("topic \"{name}\" is being started"),
            });
        }
        Err(Refusal::TopicNotFound {
            topic: name.to_owned(),
            did_you_mean: closest(name, self.live.read().keys()),
        })
    }

    /// The topic of this name as the metadata has it.
    fn agreed(&self, name: &str) -> Option<Topic> {
        self.metadata.view().read().topics.get(name).cloned()
    }

    /// The topic to publish to: created on the way if the node does that.
    ///
    /// # Errors
    /// As [`Topics::get`].
    pub(crate) async fn get_or_create(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Arc<LiveTopic>, Refusal> {
        let missing = match self.get(name) {
            Err(missing @ Refusal::TopicNotFound { .. }) => missing,
            Err(Refusal::Unavailable { .. }) => {
                self.catch_up(parse_name(name)?).await?;
                return self.get(name);
            }
            other => return other,
        };
        let Some(partitions) = self.auto_create else {
            return Err(missing);
        };
        let name = parse_name(name)?.to_owned();
        let config = TopicConfig::standard();
        let new = NewTopic {
            name: name.clone(),
            partitions,
            config,
            labels: BTreeMap::new(),
        };
        match self.create(new, false).await {
            Ok(_) | Err(Refusal::TopicExists { .. }) => self.get(&name),
            Err(refusal) => Err(refusal),
        }
    }

    /// Up to `limit` topics whose names begin with `prefix` and come after `after`.
    pub(crate) fn list(&self, prefix: &str, after: &str, limit: usize) -> Vec<Topic> {
        let live = self.live.read();
        let from = if after > prefix { after } else { prefix };
        live.range(from.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .filter(|(name, _)| name.as_str() > after)
            .take(limit)
            .map(|(_, live)| live.topic.clone())
            .collect()
    }

    /// Wakes whenever a topic was made, changed or removed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Every running topic.
    pub(crate) fn all(&self) -> Vec<Arc<LiveTopic>> {
        self.live.read().values().cloned().collect()
    }

    /// Creates a topic; with `validate_only` just says what it would be.
    ///
    /// # Errors
    /// If it exists, a field cannot be, or a limit is reached.
    pub(crate) async fn create(
        self: &Arc<Self>,
        new: NewTopic,
        validate_only: bool,
    ) -> Result<Topic, Refusal> {
        let name = parse_name(&new.name)?.to_owned();
        check_partitions(new.partitions)?;
        check_config(&new.config)?;
        check_labels(&new.labels)?;
        let create = CreateTopic {
            name: name.clone(),
            partitions: new.partitions,
            config: new.config,
            labels: new.labels,
        };
        if validate_only {
            self.check_room_for(&create)?;
            let mut state = self.metadata.view().read().clone();
            let now_ms = crate::clock::now_ms();
            let change = Some(Change::CreateTopic(create));
            let outcome = state.apply(crate::metadata::state::Command { now_ms, change });
            return topic_of(outcome, &name, None);
        }
        self.change(async move |topics: Arc<Topics>| topics.carry_out_create(create).await)
            .await
    }

    /// Refuses new partitions that cannot be, before they are agreed on.
    fn check_room(&self, new: u32) -> Result<(), Refusal> {
        let now = {
            let view = self.metadata.view().read();
            view.topics.values().map(|topic| topic.groups.len()).sum()
        };
        check_room(&self.store, now, new)
    }

    /// One that exists already is refused for that.
    fn check_room_for(&self, create: &CreateTopic) -> Result<(), Refusal> {
        match self.agreed(&create.name) {
            Some(_) => Ok(()),
            None => self.check_room(create.partitions),
        }
    }

    async fn carry_out_create(&self, create: CreateTopic) -> Result<Topic, Refusal> {
        let name = create.name.clone();
        self.settle(&name).await?;
        self.check_room_for(&create)?;
        let outcome = self.metadata.propose(Change::CreateTopic(create)).await?;
        let topic = topic_of(outcome, &name, None)?;
        self.run(topic.clone(), Vec::new(), Room::Needed)
            .await
            .map_err(not_carried_out)?;
        Ok(topic)
    }

    /// Changes a topic; with `validate_only` just says what it would become.
    ///
    /// # Errors
    /// As [`Topics::create`], and if it has changed since the caller looked.
    pub(crate) async fn update(
        self: &Arc<Self>,
        name: &str,
        change: TopicChange,
        validate_only: bool,
    ) -> Result<Topic, Refusal> {
        let name = parse_name(name)?.to_owned();
        self.change(async move |topics: Arc<Topics>| {
            topics.carry_out_update(&name, change, validate_only).await
        })
        .await
    }

    async fn carry_out_update(
        &self,
        name: &str,
        change: TopicChange,
        validate_only: bool,
    ) -> Result<Topic, Refusal> {
        self.settle(name).await?;
        let live = self.get(name)?;
        let expected = change.version;
        let changed = changed_topic(&live.topic, change)?;
        if let Some(expected) = expected.filter(|version| *version != live.topic.version) {
            return Err(etag_mismatch(&live.topic, expected));
        }
        let (topic, partitions) = changed;
        let running = live.partitions.len() as u32;
        self.check_room(partitions.saturating_sub(running))?;
        if validate_only {
            return Ok(topic);
        }
        let update = UpdateTopic {
            name: topic.name,
            partitions,
            config: topic.config,
            labels: topic.labels,
            from_version: live.topic.version,
        };
        let outcome = self.metadata.propose(Change::UpdateTopic(update)).await?;
        let topic = topic_of(outcome, name, Some(&live.topic))?;
        self.run(topic.clone(), live.partitions.clone(), Room::Needed)
            .await
            .map_err(not_carried_out)?;
        Ok(topic)
    }

    /// Deletes a topic and everything in it.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        name: &str,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let name = parse_name(name)?.to_owned();
        if validate_only {
            return self.get(&name).map(drop);
        }
        self.change(async move |topics: Arc<Topics>| topics.carry_out_delete(&name).await)
            .await
    }

    async fn carry_out_delete(&self, name: &str) -> Result<(), Refusal> {
        // A topic that could not be started can be deleted all the same.
        if self.agreed(name).is_none() {
            self.settle(name).await?;
            return self.get(name).map(drop);
        }
        let delete = Change::DeleteTopic(name.to_owned());
        let topic = topic_of(self.metadata.propose(delete).await?, name, None)?;
        let live = self.live.write().remove(name);
        self.changes.send_modify(|count| *count += 1);
        self.remove(topic, live).await.map_err(not_carried_out)
    }

    /// Stops what runs of a deleted topic and removes its logs.
    async fn remove(&self, topic: Topic, live: Option<Arc<LiveTopic>>) -> io::Result<()> {
        let gone = Refusal::TopicNotFound {
            topic: topic.name,
            did_you_mean: None,
        };
        let partitions = live.iter().flat_map(|live| &live.partitions);
        futures::future::join_all(partitions.map(|p| p.close(gone.clone()))).await;
        let store = self.store.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let logs: BTreeSet<u64> = store.logs().into_iter().collect();
            let mut groups = topic.groups.into_iter().filter(|id| logs.contains(id));
            groups.try_for_each(|id| store.remove_log(id))
        });
        removed.await?.map_err(|error| {
            // The topic is gone for every user; its files go at the next start.
            tracing::warn!(%error, "the log of a deleted topic was not removed");
            io::Error::other(error)
        })
    }

    /// Carries out one change at a time, to its end even if its caller is gone by then:
    /// otherwise what was agreed on and what runs would differ.
    async fn change<T, F>(
        self: &Arc<Self>,
        change: impl FnOnce(Arc<Topics>) -> F,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let changing = self.changing.clone().lock_owned().await;
        let change = change(self.clone());
        let carried_out = tokio::spawn(async move {
            let result = change.await;
            drop(changing);
            result
        });
        carried_out
            .await
            .unwrap_or_else(|error| Err(not_carried_out(io::Error::other(error))))
    }

    /// Brings what runs of a topic in line with what was agreed on, where an earlier change
    /// failed half way. To be called by changes alone.
    async fn settle(&self, name: &str) -> Result<(), Refusal> {
        let running = self.live.read().get(name).cloned();
        let settled = match (self.agreed(name), running) {
            (Some(agreed), Some(live)) if agreed.id == live.topic.id => {
                if agreed.version == live.topic.version {
                    return Ok(());
                }
                self.run(agreed, live.partitions.clone(), Room::Needed)
                    .await
                    .map(drop)
            }
            (agreed, Some(live)) => {
                self.live.write().remove(name);
                self.changes.send_modify(|count| *count += 1);
                // Its logs, if they stay, go at the next start.
                let _ = self.remove(live.topic.clone(), Some(live)).await;
                match agreed {
                    Some(agreed) => self.run(agreed, Vec::new(), Room::Needed).await.map(drop),
                    None => Ok(()),
                }
            }
            (Some(agreed), None) => self.run(agreed, Vec::new(), Room::Needed).await.map(drop),
            (None, None) => Ok(()),
        };
        settled.map_err(|error| Refusal::Unavailable {
            why: format!("an earlier change of the topic is not carried out yet: {error}"),
        })
    }

    /// Waits for the change of this topic that is under way, and completes one that failed.
    async fn catch_up(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        let name = name.to_owned();
        self.change(async move |topics: Arc<Topics>| topics.settle(&name).await)
            .await
    }

    /// Completes every change that failed half way.
    pub(crate) async fn catch_up_all(self: &Arc<Self>) {
        let versions = |topic: &Topic| (topic.name.clone(), (topic.id, topic.version));
        let running: BTreeMap<_, _> = self.all().iter().map(|l| versions(&l.topic)).collect();
        let agreed: BTreeMap<_, _> = {
            let view = self.metadata.view().read();
            view.topics.values().map(versions).collect()
        };
        let names: BTreeSet<&String> = running.keys().chain(agreed.keys()).collect();
        for name in names {
            if running.get(name) == agreed.get(name) {
                continue;
            }
            if let Err(refusal) = self.catch_up(name).await {
                tracing::warn!(topic = %name, %refusal, "a topic does not run as agreed");
            }
        }
    }

    /// Forgets messages of one partition or all; answers the first offset left of each.
    ///
    /// # Errors
    /// If the place cannot be found or a partition takes no commands.
    pub(crate) async fn trim(
        &self,
        name: &str,
        partition: Option<u32>,
        to: TrimTo,
        validate_only: bool,
    ) -> Result<Vec<(u32, u64)>, Refusal> {
        let live = self.get(name)?;
        let partitions = match partition {
            Some(number) => vec![(number, live.partition(number)?)],
            None => (0..).zip(&live.partitions).collect(),
        };
        let mut trimmed = Vec::new();
        for (number, partition) in partitions {
            let before = match to {
                TrimTo::All => partition.offset_of(Place::End).await?,
                TrimTo::Place(place) => partition.offset_of(place).await?,
            };
            // A time that lies before the log takes nothing that is kept aside of it.
            let is_time = matches!(to, TrimTo::Place(Place::Time(_)));
            let is_before = is_time && before <= partition.shared().log_start_offset();
            let start = if validate_only || is_before {
                before
            } else {
                partition.trim(before).await?
            };
            if !validate_only {
                partition.drop_trimmed_segments().await;
            }
            trimmed.push((number, start));
        }
        Ok(trimmed)
    }

    /// Closes every partition, answering what was accepted.
    pub(crate) async fn close(&self) {
        // A change under way would start partitions behind our back.
        let _changing = self.changing.lock().await;
        for live in self.all() {
            let closing = live.partitions.iter().map(|p| p.close(Refusal::Draining));
            futures::future::join_all(closing).await;
        }
    }
}

fn parse_name(name: &str) -> Result<&str, Refusal> {
    names::parse_topic(name).map_err(|error| Refusal::invalid("topic", error.to_string()))
}
