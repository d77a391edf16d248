//! Settings of a group consumer.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1;

use super::{
    GroupConsumer,
    core::Policy,
    driver::Driver,
    event::{CommitMode, GroupEvent},
    flow::Amount,
    shared::{Listener, Shared},
};
use crate::{Client, Error, StartPolicy};

/// Messages sent ahead, unless told otherwise: bytes are the limit then.
const UNLIMITED_MESSAGES: u64 = 1 << 48;

/// Settings of a [`GroupConsumer`]; see [`Client::consumer`].
#[derive(Clone)]
#[must_use = "a consumer is made by build()"]
pub struct GroupConsumerBuilder {
    client: Client,
    open: v1::ConsumeOpen,
    policy: Policy,
    retry_timeout: Duration,
    max_decompressed: usize,
    listener: Option<Listener>,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        Self {
            client,
            open: v1::ConsumeOpen {
                topic,
                raw: true,
                ..v1::ConsumeOpen::default()
            },
            policy: Policy {
                mode: CommitMode::Automatic,
                commit_interval: Duration::from_secs(1),
                prefetch: Amount {
                    messages: UNLIMITED_MESSAGES,
                    bytes: 8 << 20,
                },
                max_unfinished: 100_000,
            },
            retry_timeout: Duration::from_secs(60),
            max_decompressed: 64 << 20,
            listener: None,
        }
    }

    /// The group to join; created if it is not there, unless
    /// [`must_exist`](Self::must_exist) is set.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.open.group = group.into();
        self
    }

    /// By this name the broker knows the member. Default: the broker gives one. Another
    /// consumer with the same name takes this one's place.
    pub fn member_id(mut self, id: impl Into<String>) -> Self {
        self.open.member_id = id.into();
        self
    }

    /// Makes the member a static one: a restart under the same instance id within the session
    /// time-out moves no partition, and a second consumer with it fences the first.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.open.instance_id = id.into();
        self
    }

    /// For people to recognise the member.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.open.client_id = id.into();
        self
    }

    /// Where the group begins if this creates it. Default: the earliest message.
    pub fn start(mut self, policy: StartPolicy) -> Self {
        self.open.start = StartPolicy::to_proto(Some(policy)).into();
        self
    }

    /// Do not create the group: [`Error::NotFound`] if it is not there.
    pub fn must_exist(mut self, must_exist: bool) -> Self {
        self.open.must_exist = must_exist;
        self
    }

    /// When messages count as done and are committed. Default [`CommitMode::Automatic`].
    pub fn commit_mode(mut self, mode: CommitMode) -> Self {
        self.policy.mode = mode;
        self
    }

    /// How often what is done is committed (10 ms at least). Default 1 s. What is done and not
    /// committed is delivered again after a crash.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        let shortest = Duration::from_millis(10);
        self.policy.commit_interval = interval.clamp(shortest, Duration::from_secs(3600));
        self
    }

    /// Bytes that the broker may send ahead of what was taken. Default 8 MiB.
    pub fn prefetch_bytes(mut self, bytes: u64) -> Self {
        self.policy.prefetch.bytes = bytes.clamp(1, 1 << 40);
        self
    }

    /// Messages that the broker may send ahead of what was taken; whole batches are sent, so
    /// it may be up to one batch more. Default: no limit but that in bytes.
    pub fn prefetch_messages(mut self, messages: u64) -> Self {
        self.policy.prefetch.messages = messages.clamp(1, UNLIMITED_MESSAGES);
        self
    }

    /// So many messages of a partition may be handed out beyond the first one that is not done
    /// (or not committed, with [`CommitMode::Manual`]); then the partition waits. Default
    /// 100,000.
    pub fn max_unfinished(mut self, messages: u64) -> Self {
        self.policy.max_unfinished = messages.max(1);
        self
    }

    /// How long to try to connect again before the consumer ends with the error. Default 60 s.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = timeout;
        self
    }

    /// Largest batch after decompression, in bytes. Default 64 MiB.
    pub fn max_decompressed_bytes(mut self, bytes: usize) -> Self {
        self.max_decompressed = bytes;
        self
    }

    /// Calls this with each [`GroupEvent`], from the consumer's own task: it must not block,
    /// and heartbeats wait for it. To act on events elsewhere, send them through a channel.
    pub fn on_event(mut self, listener: impl Fn(&GroupEvent) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Connects and joins the group. Which partitions the member gets comes later, as events.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the topic (or group), [`Error::Invalid`], and those of the
    /// connection.
    pub async fn build(self) -> Result<GroupConsumer, Error> {
        if self.open.group.is_empty() {
            return Err(Error::invalid("a consumer needs a group: group(\"name\")"));
        }
        let shared = Arc::new(Shared::new(self.policy, self.listener));
        let mut driver = Driver {
            shared: shared.clone(),
            connection: self.client.connection().sibling(),
            open: self.open,
            patience: self.client.request_timeout(),
            retry_timeout: self.retry_timeout,
        };
        let wire = driver.join().await?;
        let driver = tokio::spawn(driver.run(wire));
        Ok(GroupConsumer::new(shared, driver, self.max_decompressed))
    }
}

impl std::fmt::Debug for GroupConsumerBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("GroupConsumerBuilder");
        debug
            .field("open", &self.open)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
