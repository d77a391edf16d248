//! Messages as they are published, and records as they are read.

use aqueduct_proto::{record, v1};
use bytes::Bytes;

/// One header: a name (UTF-8) and a value (`None` is Kafka's null). Headers keep their order and
/// may repeat a name.
pub use aqueduct_proto::record::Header;

/// A message to publish.
///
/// ```
/// use aqueduct_client::Message;
/// let message = Message::new("42 EUR").key("customer-7").header("currency", "EUR");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) dedup_id: Option<String>,
    pub(crate) partition: Option<u32>,
}

impl Message {
    /// A message with this value and no key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A message without a value (Kafka's null value), usually to say that its key is gone.
    #[must_use]
    pub fn tombstone() -> Self {
        Self::default()
    }

    /// Sets the key. Messages with the same key go to the same partition, in order.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header behind those there are.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            name: name.into().into(),
            value: Some(value.into()),
        });
        self
    }

    /// Sets the time stamp, in milliseconds since the Unix epoch. Default: now.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Within the topic's dedup window a message with the same id is stored once only; later
    /// ones are answered with the first one's offset.
    #[must_use]
    pub fn dedup_id(mut self, id: impl Into<String>) -> Self {
        self.dedup_id = Some(id.into());
        self
    }

    /// Chooses the partition, against the rule by key.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self
            .headers
            .iter()
            .map(|header| header.name.len() + part(&header.value));
        part(&self.key) + part(&self.value) + headers.sum::<usize>()
    }

    pub(crate) fn into_proto(self) -> v1::Message {
        v1::Message {
            key: self.key,
            value: self.value,
            headers: self.headers.iter().map(header_to_proto).collect(),
            timestamp_ms: self.timestamp_ms,
            dedup_id: self.dedup_id.unwrap_or_default(),
            partition: self.partition,
        }
    }
}

fn header_to_proto(header: &Header) -> v1::Header {
    v1::Header {
        name: header.name_str().to_owned(),
        value: header.value.clone().unwrap_or_default(),
    }
}

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Partition of the topic.
    pub partition: u32,
    /// Place in the partition; dense.
    pub offset: u64,
    /// Milliseconds since the Unix epoch; whose clock is the topic's choice.
    pub timestamp_ms: i64,
    /// The key, if the message has one.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in the publisher's order.
    pub headers: Vec<Header>,
}

impl Record {
    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        let header = self
            .headers
            .iter()
            .find(|header| header.name == name.as_bytes())?;
        header.value.as_ref()
    }

    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self
            .headers
            .iter()
            .map(|header| header.name.len() + part(&header.value));
        part(&self.key) + part(&self.value) + headers.sum::<usize>()
    }

    pub(crate) fn from_stored(partition: u32, stored: record::Record) -> Self {
        Self {
            partition,
            offset: stored.offset,
            timestamp_ms: stored.timestamp_ms,
            key: stored.key,
            value: stored.value,
            headers: stored.headers,
        }
    }

    pub(crate) fn from_proto(record: v1::Record) -> Self {
        let header = |header: v1::Header| Header {
            name: header.name.into(),
            value: Some(header.value),
        };
        Self {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(header).collect(),
        }
    }
}
