//! Settings of a producer, and how it introduces itself to the broker.

use std::{
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use aqueduct_proto::v1;
use rand::Rng as _;
use tokio::sync::Notify;

use super::{
    Handle, Producer, Shared, State, driver,
    window::{Identity, Settings, Stored, Window},
};
use crate::{Client, Compression, Error};

/// Delivery time-outs that make sense; beyond them times could not be added up.
const TIMEOUTS: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_secs(30 * 86_400));

/// Records that a broker takes in one batch, and messages in one request.
const MAX_BATCH_MESSAGES: u32 = 100_000;

/// Settings of a [`Producer`]; see [`Client::producer`].
#[derive(Clone, Debug)]
#[must_use = "a producer is made by build()"]
pub struct ProducerBuilder {
    pub(super) client: Client,
    pub(super) topic: String,
    pub(super) name: String,
    pub(super) delivery_timeout: Duration,
    settings: Settings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let settings = Settings {
            batch_bytes: 256 << 10,
            batch_messages: MAX_BATCH_MESSAGES,
            max_in_flight_bytes: 32 << 20,
            linger: Duration::ZERO,
            compression: Compression::None,
            plain: false,
            resume: false,
            named: false,
        };
        let delivery_timeout = Duration::from_secs(120);
        Self {
            client,
            topic,
            name: String::new(),
            delivery_timeout,
            settings,
        }
    }

    /// Gives the producer a name (by the rule of topic names). The broker remembers what it
    /// stored under that name across restarts of either side, and fences whoever held the name
    /// before.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self.settings.named = !self.name.is_empty();
        self
    }

    /// For a *named* producer whose caller sends the same keyed input again from its start:
    /// messages that an earlier run stored are not sent, but answered at once with
    /// `Ack { duplicate: true, .. }`. They are recognised by their count in their partition, so
    /// the input must be the same.
    pub fn resume(mut self, resume: bool) -> Self {
        self.settings.resume = resume;
        self
    }

    /// How long a batch may wait for more messages (an hour at most). Default 0: it waits only
    /// while enough of its partition is in flight.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger.min(Duration::from_secs(3600));
        self
    }

    /// Size at which a batch is sent, in bytes before compression. Default 256 KiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.clamp(1, 16 << 20);
        self
    }

    /// Number of messages at which a batch is sent. Default and most: 100,000, what a broker takes.
    pub fn batch_messages(mut self, messages: u32) -> Self {
        self.settings.batch_messages = messages.clamp(1, MAX_BATCH_MESSAGES);
        self
    }

    /// How many bytes may be unanswered; senders wait beyond that. Default 32 MiB.
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_in_flight_bytes = bytes.max(1);
        self
    }

    /// Compression of batches. Default none.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// How long a message may be on its way, with everything that is sent again. After that it
    /// fails, as [`Error::Unknown`] if it may be stored. Default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout.clamp(TIMEOUTS.0, TIMEOUTS.1);
        self
    }

    /// Sends messages as they are; the broker chooses partitions and builds batches. There is
    /// no sequence then: what was in flight when a connection broke is answered
    /// [`Error::Unknown`] instead of being sent again, unless it has a dedup id.
    pub fn plain_messages(mut self, plain: bool) -> Self {
        self.settings.plain = plain;
        self
    }

    /// Asks the broker for the topic and an identity, and starts.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the topic, [`Error::Invalid`] for a bad name or `resume` without
    /// one, and those of the connection.
    pub async fn build(self) -> Result<Producer, Error> {
        if self.settings.resume && (self.name.is_empty() || self.settings.plain) {
            return Err(Error::invalid(
                "only a producer with a name and sequences can resume",
            ));
        }
        let partitions = self.find_partitions().await?;
        let mut window = Window::new(self.settings, partitions, rand::rng().random());
        if !self.settings.plain {
            let (identity, stored) = self.introduce().await?;
            window.set_identity(Some(identity), &stored);
        }
        let state = State {
            window,
            body: None,
            stream: 0,
            closing: false,
            failed: None,
            since_yield: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            room: Notify::new(),
            waiting_for_room: AtomicUsize::new(0),
            driver: Notify::new(),
        });
        tokio::spawn(driver::run(shared.clone(), self));
        Ok(Producer {
            handle: Arc::new(Handle { shared }),
        })
    }

    /// The topic's partitions. A broker that creates topics on publish is asked to by a publish
    /// of nothing.
    pub(super) async fn find_partitions(&self) -> Result<u32, Error> {
        match self.client.get_topic(&self.topic).await {
            Ok(topic) => Ok(topic.partitions),
            Err(not_found @ Error::NotFound(_)) => {
                let request = v1::PublishRequest {
                    topic: self.topic.clone(),
                    ..Default::default()
                };
                let mut publisher = self.client.publisher();
                if self.client.call(publisher.publish(request)).await.is_err() {
                    return Err(not_found);
                }
                self.client
                    .get_topic(&self.topic)
                    .await
                    .map(|topic| topic.partitions)
            }
            Err(error) => Err(error),
        }
    }

    /// Gets an identity, then asks what is stored under it: in this order, because whoever had
    /// the name before can add nothing any more once it is ours.
    pub(super) async fn introduce(&self) -> Result<(Identity, Vec<(u32, Stored)>), Error> {
        let request = v1::InitProducerRequest {
            name: self.name.clone(),
        };
        let mut publisher = self.client.publisher();
        let given = self.client.call(publisher.init_producer(request)).await?;
        let epoch = i16::try_from(given.epoch);
        let epoch = epoch.map_err(|_| {
            Error::internal(format!("the broker gave producer epoch {}", given.epoch))
        })?;
        let identity = Identity {
            id: given.producer_id,
            epoch,
        };
        if self.name.is_empty() {
            return Ok((identity, Vec::new()));
        }
        let request = v1::GetProducerRequest {
            name: self.name.clone(),
            topic: self.topic.clone(),
        };
        let known = self.client.call(publisher.get_producer(request)).await?;
        let stored = known.partitions.into_iter().map(|position| {
            let stored = Stored {
                count: position.next_sequence.min(1 << 62),
                last_offset: position.last_offset,
            };
            (position.partition, stored)
        });
        Ok((identity, stored.collect()))
    }
}
