//! Topics: create, look at, change, trim, delete.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_proto::v1;

use crate::{
    Client, Error,
    times::{duration_from_proto, duration_to_proto, time_from_proto},
};

/// Whose clock stamps the messages of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampKind {
    /// The publisher's time stamp is kept.
    #[default]
    Create,
    /// The broker's time of arrival replaces it.
    Append,
}

/// What makes messages of a topic go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain {
    /// Their age, and the size of the log.
    #[default]
    Time,
    /// Every group of the topic is done with them; age and size are not regarded.
    UntilDone,
}

/// What is set on a topic. Fields that are `None` were not reported (when reading) or stay at
/// the broker's default (when creating).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// How long messages are kept; zero = for ever.
    pub retention: Option<Duration>,
    /// Bytes kept per partition; 0 = unlimited.
    pub retention_bytes: Option<u64>,
    /// Largest message (key, value and headers) in bytes.
    pub max_message_bytes: Option<u64>,
    /// Whose clock stamps messages.
    pub timestamp_kind: Option<TimestampKind>,
    /// How long dedup ids are remembered; zero = off.
    pub dedup_window: Option<Duration>,
    /// What makes messages go.
    pub retain: Option<Retain>,
}

/// A topic as the broker describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// The bare name, without `topics/`.
    pub name: String,
    /// Given by the broker, never used again for another topic.
    pub id: u64,
    /// Number of partitions; they are counted from 0.
    pub partitions: u32,
    /// What is set on it.
    pub config: TopicConfig,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub create_time_ms: i64,
    /// Milliseconds since the Unix epoch.
    pub update_time_ms: i64,
    /// Changes with every update.
    pub etag: String,
}

/// A topic to create.
///
/// ```
/// # use std::time::Duration;
/// use aqueduct_client::NewTopic;
/// let topic = NewTopic::new("orders").partitions(6).retention(Duration::from_secs(86_400));
/// ```
#[derive(Clone, Debug, Default)]
pub struct NewTopic {
    topic: Topic,
    dry_run: bool,
}

/// A change of a topic. Only what is set here changes.
#[derive(Clone, Debug, Default)]
pub struct TopicUpdate {
    topic: Topic,
    mask: Vec<String>,
    dry_run: bool,
}

macro_rules! config_setters {
    () => {
        /// Keeps messages at least this long; zero = for ever.
        #[must_use]
        pub fn retention(mut self, retention: Duration) -> Self {
            self.topic.config.retention = Some(retention);
            self.touch("config.retention")
        }

        /// Keeps at most about so many bytes per partition; 0 = unlimited.
        #[must_use]
        pub fn retention_bytes(mut self, bytes: u64) -> Self {
            self.topic.config.retention_bytes = Some(bytes);
            self.touch("config.retention_bytes")
        }

        /// Largest message (key, value and headers) in bytes.
        #[must_use]
        pub fn max_message_bytes(mut self, bytes: u64) -> Self {
            self.topic.config.max_message_bytes = Some(bytes);
            self.touch("config.max_message_bytes")
        }

        /// Whose clock stamps messages.
        #[must_use]
        pub fn timestamp_kind(mut self, kind: TimestampKind) -> Self {
            self.topic.config.timestamp_kind = Some(kind);
            self.touch("config.timestamp_kind")
        }

        /// How long dedup ids are remembered; zero = off.
        #[must_use]
        pub fn dedup_window(mut self, window: Duration) -> Self {
            self.topic.config.dedup_window = Some(window);
            self.touch("config.dedup_window")
        }

        /// What makes messages go.
        #[must_use]
        pub fn retain(mut self, retain: Retain) -> Self {
            self.topic.config.retain = Some(retain);
            self.touch("config.retain")
        }

        /// Number of partitions. It can only grow.
        #[must_use]
        pub fn partitions(mut self, partitions: u32) -> Self {
            self.topic.partitions = partitions;
            self.touch("partitions")
        }

        /// Adds a label. An update replaces all labels by those given.
        #[must_use]
        pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.topic.labels.insert(name.into(), value.into());
            self.touch("labels")
        }

        /// Checks and answers as if done, but changes nothing.
        #[must_use]
        pub fn dry_run(mut self, dry_run: bool) -> Self {
            self.dry_run = dry_run;
            self
        }
    };
}

impl NewTopic {
    /// A topic with the broker's defaults and one partition.
    pub fn new(name: impl Into<String>) -> Self {
        let topic = Topic {
            name: name.into(),
            ..Topic::default()
        };
        Self {
            topic,
            dry_run: false,
        }
    }

    config_setters!();

    fn touch(self, _field: &str) -> Self {
        self
    }
}

impl TopicUpdate {
    /// A change of the topic of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let topic = Topic {
            name: name.into(),
            ..Topic::default()
        };
        Self {
            topic,
            ..Self::default()
        }
    }

    config_setters!();

    /// Removes all labels (then [`TopicUpdate::label`] may add some).
    #[must_use]
    pub fn clear_labels(mut self) -> Self {
        self.topic.labels.clear();
        self.touch("labels")
    }

    /// Change only if the topic's etag is still this one; else [`Error::Conflict`].
    #[must_use]
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.topic.etag = etag.into();
        self
    }

    fn touch(mut self, field: &str) -> Self {
        if !self.mask.iter().any(|known| known == field) {
            self.mask.push(field.to_owned());
        }
        self
    }
}

/// What [`Client::trim_topic`] forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trim {
    /// Messages of one partition with a smaller offset.
    Offset {
        /// The partition.
        partition: u32,
        /// First offset that stays.
        offset: u64,
    },
    /// Messages older than this (milliseconds since the Unix epoch).
    Time(i64),
    /// All there are now.
    All,
}

/// One partition as the broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Counted from 0.
    pub partition: u32,
    /// First readable offset.
    pub log_start_offset: u64,
    /// One past the last acknowledged message.
    pub high_watermark: u64,
    /// Bytes of log on disk.
    pub size_bytes: u64,
    /// Why it takes no messages now; empty if it does.
    pub unavailable: String,
    /// Messages below `log_start_offset` that queue groups still need, kept aside
    /// ([`Retain::UntilDone`]).
    pub kept_messages: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// With [`Retain::UntilDone`]: the group for which the log begins where it does, and the oldest
    /// message there that it needs.
    pub held_by: Option<(String, u64)>,
}

/// Where a partition begins after a trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimmedPartition {
    /// Counted from 0.
    pub partition: u32,
    /// First readable offset.
    pub log_start_offset: u64,
}

impl Client {
    /// Creates a topic and answers with it as created.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::Invalid`] for a bad name or value.
    pub async fn create_topic(&self, new: NewTopic) -> Result<Topic, Error> {
        let request = v1::CreateTopicRequest {
            topic: Some(topic_to_proto(new.topic)),
            validate_only: new.dry_run,
        };
        let mut topics = self.topics();
        self.call(topics.create_topic(request))
            .await
            .map(topic_from_proto)
    }

    /// Looks at one topic.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get_topic(&self, name: &str) -> Result<Topic, Error> {
        let request = v1::GetTopicRequest {
            name: name.to_owned(),
        };
        let mut topics = self.topics();
        self.call(topics.get_topic(request))
            .await
            .map(topic_from_proto)
    }

    /// All topics, or those whose name begins with `prefix`, by name.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_topics(&self, prefix: Option<&str>) -> Result<Vec<Topic>, Error> {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListTopicsRequest {
                page_size: 1000,
                page_token,
                prefix: prefix.unwrap_or_default().to_owned(),
            };
            let mut topics = self.topics();
            let page = self.call(topics.list_topics(request)).await?;
            found.extend(page.topics.into_iter().map(topic_from_proto));
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            page_token = page.next_page_token;
        }
    }

    /// Changes what the update names and answers with the topic as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Conflict`] if the etag does not match.
    pub async fn update_topic(&self, update: TopicUpdate) -> Result<Topic, Error> {
        let request = v1::UpdateTopicRequest {
            topic: Some(topic_to_proto(update.topic)),
            update_mask: Some(prost_types::FieldMask { paths: update.mask }),
            validate_only: update.dry_run,
        };
        let mut topics = self.topics();
        self.call(topics.update_topic(request))
            .await
            .map(topic_from_proto)
    }

    /// Deletes a topic with all its messages.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.delete_topic_if(name, false).await
    }

    /// [`Client::delete_topic`]; with `dry_run` it only checks.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_topic_if(&self, name: &str, dry_run: bool) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
            validate_only: dry_run,
        };
        let mut topics = self.topics();
        self.call(topics.delete_topic(request)).await.map(drop)
    }

    /// Forgets messages; answers with the new beginning of each partition it looked at.
    /// `partition` narrows [`Trim::Time`] and [`Trim::All`] to one partition.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`].
    pub async fn trim_topic(
        &self,
        name: &str,
        trim: Trim,
        partition: Option<u32>,
    ) -> Result<Vec<TrimmedPartition>, Error> {
        self.trim_topic_if(name, trim, partition, false).await
    }

    /// [`Client::trim_topic`]; with `dry_run` it only answers what it would do.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`].
    pub async fn trim_topic_if(
        &self,
        name: &str,
        trim: Trim,
        partition: Option<u32>,
        dry_run: bool,
    ) -> Result<Vec<TrimmedPartition>, Error> {
        use v1::trim_topic_request::Before;
        let (partition, before) = match trim {
            Trim::Offset { partition, offset } => (Some(partition), Before::Offset(offset)),
            Trim::Time(time_ms) => (partition, Before::TimestampMs(time_ms)),
            Trim::All => (partition, Before::All(true)),
        };
        let request = v1::TrimTopicRequest {
            name: name.to_owned(),
            partition,
            before: Some(before),
            validate_only: dry_run,
        };
        let mut topics = self.topics();
        let answer = self.call(topics.trim_topic(request)).await?;
        let trimmed = answer
            .partitions
            .into_iter()
            .map(|trimmed| TrimmedPartition {
                partition: trimmed.partition,
                log_start_offset: trimmed.log_start_offset,
            });
        Ok(trimmed.collect())
    }

    /// Offsets, sizes and state of each partition.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn list_partitions(&self, name: &str) -> Result<Vec<PartitionInfo>, Error> {
        let request = v1::ListPartitionsRequest {
            name: name.to_owned(),
        };
        let mut topics = self.topics();
        let answer = self.call(topics.list_partitions(request)).await?;
        let partitions = answer.partitions.into_iter().map(|info| PartitionInfo {
            partition: info.partition,
            log_start_offset: info.log_start_offset,
            high_watermark: info.high_watermark,
            size_bytes: info.size_bytes,
            unavailable: info.unavailable,
            kept_messages: info.kept_messages,
            kept_bytes: info.kept_bytes,
            held_by: (!info.held_by.is_empty()).then_some((info.held_by, info.held_offset)),
        });
        Ok(partitions.collect())
    }
}

fn topic_to_proto(topic: Topic) -> v1::Topic {
    let config = topic.config;
    let kind = match config.timestamp_kind {
        None => v1::TimestampKind::Unspecified,
        Some(TimestampKind::Create) => v1::TimestampKind::Create,
        Some(TimestampKind::Append) => v1::TimestampKind::Append,
    };
    let retain = match config.retain {
        None => v1::Retain::Unspecified,
        Some(Retain::Time) => v1::Retain::Time,
        Some(Retain::UntilDone) => v1::Retain::UntilDone,
    };
    v1::Topic {
        name: topic.name,
        partitions: topic.partitions,
        config: Some(v1::TopicConfig {
            retention: config.retention.map(duration_to_proto),
            retention_bytes: config.retention_bytes,
            max_message_bytes: config.max_message_bytes,
            timestamp_kind: kind.into(),
            dedup_window: config.dedup_window.map(duration_to_proto),
            retain: retain.into(),
        }),
        labels: topic.labels.into_iter().collect(),
        etag: topic.etag,
        ..v1::Topic::default()
    }
}

fn topic_from_proto(topic: v1::Topic) -> Topic {
    let config = topic.config.unwrap_or_default();
    let retain = match config.retain() {
        v1::Retain::Unspecified => None,
        v1::Retain::Time => Some(Retain::Time),
        v1::Retain::UntilDone => Some(Retain::UntilDone),
    };
    let timestamp_kind = match config.timestamp_kind() {
        v1::TimestampKind::Unspecified => None,
        v1::TimestampKind::Create => Some(TimestampKind::Create),
        v1::TimestampKind::Append => Some(TimestampKind::Append),
    };
    let name = topic
        .name
        .strip_prefix("topics/")
        .unwrap_or(&topic.name)
        .to_owned();
    Topic {
        name,
        id: topic.id,
        partitions: topic.partitions,
        config: TopicConfig {
            retention: config.retention.map(duration_from_proto),
            retention_bytes: config.retention_bytes,
            max_message_bytes: config.max_message_bytes,
            timestamp_kind,
            dedup_window: config.dedup_window.map(duration_from_proto),
            retain,
        },
        labels: topic.labels.into_iter().collect(),
        create_time_ms: topic.create_time.map_or(0, time_from_proto),
        update_time_ms: topic.update_time.map_or(0, time_from_proto),
        etag: topic.etag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_its_settings_on_the_wire() {
        let new = NewTopic::new("orders")
            .partitions(6)
            .retention(Duration::from_millis(1500))
            .retention_bytes(1 << 30)
            .timestamp_kind(TimestampKind::Append)
            .label("team", "shop");
        let back = topic_from_proto(topic_to_proto(new.topic.clone()));
        assert_eq!(back, new.topic);
    }

    #[test]
    fn an_update_names_each_field_once() {
        let update = TopicUpdate::new("orders")
            .label("a", "1")
            .label("b", "2")
            .partitions(3);
        assert_eq!(update.mask, ["labels", "partitions"]);
    }

    #[test]
    fn the_prefix_of_names_is_dropped() {
        let topic = v1::Topic {
            name: "topics/orders".into(),
            ..v1::Topic::default()
        };
        assert_eq!(topic_from_proto(topic).name, "orders");
    }
}
