//! Messages as they are published, and records as they are read.

use std::time::Duration;

use aqueduct_proto::{attributes, record, v1};
use bytes::Bytes;

use crate::{
    Error,
    times::{duration_to_proto, time_to_proto},
};

/// Longest delay and time to live that a broker takes.
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

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
    options: Option<Box<Options>>,
}

/// What a message asks of queue groups. Few do, so it is kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Options {
    delay: Option<Duration>,
    deliver_at_ms: Option<i64>,
    ttl: Option<Duration>,
    priority: Option<u8>,
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

    /// Queue groups hand it out no sooner than so long after it was stored, by the broker's clock;
    /// at most ten years. Streams and readers without a group see it at once.
    ///
    /// Only the broker can tell when it was stored, so such a message does not travel in a
    /// batch with a sequence: if the connection breaks and it has no [`Message::dedup_id`], it
    /// ends as [`Error::Unknown`] instead of being sent again. [`Message::deliver_at_ms`] has no such limit.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options_mut().delay = Some(delay);
        self
    }

    /// Queue groups hand it out no sooner than at this time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn deliver_at_ms(mut self, time_ms: i64) -> Self {
        self.options_mut().deliver_at_ms = Some(time_ms);
        self
    }

    /// Queue groups do not hand it out any more so long after its time stamp: 1 ms to ten years.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options_mut().ttl = Some(ttl);
        self
    }

    /// 0 to 9, the greater first, where a queue group regards priorities. Without: 4.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.options_mut().priority = Some(priority);
        self
    }

    fn options_mut(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    /// The broker has to count from the moment when it is stored.
    pub(crate) fn is_delayed(&self) -> bool {
        self.options.as_ref().is_some_and(|it| it.delay.is_some())
    }

    /// Options that no broker takes: an encoded batch passes it unread.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Some(options) = &self.options else {
            return Ok(());
        };
        let refused = |why: &str| Err(Error::invalid(why));
        if options.delay.is_some() && options.deliver_at_ms.is_some() {
            return refused("delay and deliver_at: a message has one of them");
        }
        if options.delay.is_some_and(|delay| delay > LONGEST) {
            return refused("the delay is longer than ten years");
        }
        if options.deliver_at_ms.is_some_and(|time_ms| time_ms < 0) {
            return refused("deliver_at lies before 1970");
        }
        if options
            .ttl
            .is_some_and(|ttl| ttl < Duration::from_millis(1) || ttl > LONGEST)
        {
            return refused("the time to live is not between 1 ms and ten years");
        }
        if options.priority.is_some_and(|priority| priority > 9) {
            return refused("the priority is not between 0 and 9");
        }
        Ok(())
    }

    /// Headers as they are stored: options are reserved headers. None where they are the
    /// message's own.
    pub(crate) fn stored_headers(&self) -> Option<Vec<Header>> {
        let options = self.options.as_ref()?;
        let ttl = options.ttl.map(|ttl| ttl.as_micros().div_ceil(1_000));
        let all = [
            (
                attributes::DELAY_UNTIL,
                options.deliver_at_ms.map(|ms| ms.to_string()),
            ),
            (attributes::TTL, ttl.map(|ms| ms.to_string())),
            (
                attributes::PRIORITY,
                options.priority.map(|priority| priority.to_string()),
            ),
        ];
        let given = all.into_iter();
        let given = given.filter_map(|(name, value)| Some(Header::new(name, value?)));
        Some(self.headers.iter().cloned().chain(given).collect())
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
        let options = self.options.as_deref().copied().unwrap_or_default();
        let duration = |duration| Box::new(duration_to_proto(duration));
        v1::Message {
            delay: options.delay.map(duration),
            deliver_at: options.deliver_at_ms.map(|ms| Box::new(time_to_proto(ms))),
            ttl: options.ttl.map(duration),
            priority: options.priority.map(u32::from),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn options_are_fields_of_a_message_and_headers_of_a_record() {
        let message = Message::new("v")
            .header("a", "b")
            .deliver_at_ms(1_500)
            .ttl(Duration::from_micros(1_200))
            .priority(7);
        message.check().unwrap();
        let stored = message.stored_headers().unwrap();
        assert_eq!(attributes::delay_until_ms(&stored), Some(1_500));
        assert_eq!(attributes::ttl_ms(&stored), Some(2));
        assert_eq!(attributes::priority(&stored), Some(7));
        assert_eq!(stored.len(), 4);
        let sent = message.into_proto();
        assert_eq!(sent.headers.len(), 1);
        assert_eq!((sent.priority, sent.delay), (Some(7), None));
        let at = sent.deliver_at.unwrap();
        assert_eq!((at.seconds, at.nanos), (1, 500_000_000));
        assert_eq!(Message::new("v").stored_headers(), None);
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let hour = Duration::from_secs(3_600);
        for bad in [
            Message::new("v").delay(hour).deliver_at_ms(1),
            Message::new("v").delay(LONGEST + hour),
            Message::new("v").deliver_at_ms(-1),
            Message::new("v").ttl(Duration::ZERO),
            Message::new("v").ttl(LONGEST + hour),
            Message::new("v").priority(10),
        ] {
            assert!(matches!(bad.check(), Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
