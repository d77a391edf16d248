//! Settings of a reader.

use std::time::Duration;

use aqueduct_proto::v1;

use super::{Plan, Reader, source::Source};
use crate::{Client, Error, From, Until};

/// Settings of a [`Reader`]; see [`Client::reader`].
#[derive(Clone, Debug)]
#[must_use = "a reader is made by build()"]
pub struct ReaderBuilder {
    client: Client,
    plan: Plan,
    max_messages: Option<u64>,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let request = v1::ReadRequest {
            topic,
            raw: true,
            ..Default::default()
        };
        let plan = Plan {
            request,
            credit: None,
            raw: false,
            retry_timeout: Duration::from_secs(60),
            max_decompressed: 64 << 20,
            partitions_interval: Duration::from_secs(30),
        };
        Self {
            client,
            plan,
            max_messages: None,
        }
    }

    /// Only these partitions. Default: all.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.plan.request.partitions = partitions.into_iter().collect();
        self
    }

    /// Where to begin. Default: the end if following, else the start.
    pub fn from(mut self, from: From) -> Self {
        self.plan.request.from = Some(from.into_proto());
        self
    }

    /// Where to stop. Default: never if following, else the end as of now.
    pub fn until(mut self, until: Until) -> Self {
        self.plan.request.until = Some(until.into_proto());
        self
    }

    /// Stay and deliver what is published later.
    pub fn follow(mut self, follow: bool) -> Self {
        self.plan.request.follow = follow;
        self
    }

    /// Stop after so many messages in all.
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.max_messages = Some(messages);
        self.plan.request.max_messages = messages;
        self
    }

    /// Bytes that the broker may send ahead of what was taken from the reader. Default: what
    /// the transport's window holds (8 MiB).
    pub fn credit(mut self, bytes: u64) -> Self {
        self.plan.credit = Some(bytes.max(1));
        self
    }

    /// Deliver stored batches ([`Reader::next_batches`]) instead of records.
    pub fn raw(mut self) -> Self {
        self.plan.raw = true;
        self
    }

    /// How long to try to connect again before the reader ends with the error. Default 60 s.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.plan.retry_timeout = timeout;
        self
    }

    /// How often a reader that follows all partitions looks for those that were added (10 ms at
    /// least). They are read from their first message. Default 30 s.
    pub fn partitions_interval(mut self, interval: Duration) -> Self {
        self.plan.partitions_interval = interval.max(Duration::from_millis(10));
        self
    }

    /// Largest batch after decompression, in bytes. Default 64 MiB.
    pub fn max_decompressed_bytes(mut self, bytes: usize) -> Self {
        self.plan.max_decompressed = bytes;
        self
    }

    /// Connects and begins to read.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`] (also as the stream's first item),
    /// [`Error::Invalid`], and those of the connection.
    pub async fn build(self) -> Result<Reader, Error> {
        let connection = self.client.connection().sibling();
        let request = self.plan.request.clone();
        let first = Source::open(&connection, request, self.plan.credit).await?;
        let (plan, client) = (self.plan, self.client);
        Ok(Reader::new(
            plan,
            client,
            connection,
            self.max_messages,
            first,
        ))
    }
}
