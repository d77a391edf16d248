//! Messages of a queue group that wait for their delay, by their place.

use aqueduct_proto::v1;

use super::Queue;
use crate::{
    Error, Record,
    times::{time_from_proto, time_to_proto},
};

/// A message that waits for its delay. Partition and offset are its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// Partition of the topic.
    pub partition: u32,
    /// Place in the partition.
    pub offset: u64,
    /// Milliseconds since the Unix epoch.
    pub deliver_at_ms: i64,
    /// The message itself; not in lists.
    pub record: Option<Record>,
}

/// Some of the messages that wait, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayedPage {
    /// The messages, without their records.
    pub messages: Vec<Delayed>,
    /// What to ask for next; empty if there is no more.
    pub next_page: String,
    /// The broker has scanned the log to its end.
    pub complete: bool,
}

impl Delayed {
    fn from_proto(message: v1::DelayedMessage) -> Self {
        Self {
            partition: message.partition,
            offset: message.offset,
            deliver_at_ms: message.deliver_at.map_or(0, time_from_proto),
            record: message.record.map(Record::from_proto),
        }
    }
}

impl Queue {
    /// Messages that wait for their delay, at most so many (0 = 100, at most 1,000), from the
    /// beginning (an empty `page`) or where an earlier answer ended.
    ///
    /// # Errors
    /// [`Error::NotFound`] for topic and group, and those of the connection.
    pub async fn delayed(&self, max: u32, page: &str) -> Result<DelayedPage, Error> {
        let request = v1::ListDelayedRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            page_size: max,
            page_token: page.to_owned(),
        };
        let mut queues = self.queues();
        let answer = self.client.call(queues.list_delayed(request)).await?;
        Ok(DelayedPage {
            messages: answer
                .messages
                .into_iter()
                .map(Delayed::from_proto)
                .collect(),
            next_page: answer.next_page_token,
            complete: answer.complete,
        })
    }

    /// One message that waits for its delay.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the reason `NOT_DELAYED` if it does not wait (any more).
    pub async fn get_delayed(&self, partition: u32, offset: u64) -> Result<Delayed, Error> {
        let request = v1::GetDelayedRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            partition,
            offset,
        };
        let mut queues = self.queues();
        let found = self.client.call(queues.get_delayed(request)).await?;
        Ok(Delayed::from_proto(found))
    }

    /// This group never hands the message out.
    ///
    /// # Errors
    /// As [`Queue::get_delayed`].
    pub async fn cancel_delayed(&self, partition: u32, offset: u64) -> Result<(), Error> {
        let request = v1::CancelDelayedRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            partition,
            offset,
        };
        let mut queues = self.queues();
        self.client.call(queues.cancel_delayed(request)).await?;
        Ok(())
    }

    /// Gives the message another time, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`Queue::get_delayed`]; [`Error::Invalid`] for a time more than ten years ahead.
    pub async fn reschedule_delayed(
        &self,
        partition: u32,
        offset: u64,
        deliver_at_ms: i64,
    ) -> Result<Delayed, Error> {
        let request = v1::RescheduleDelayedRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            partition,
            offset,
            deliver_at: Some(time_to_proto(deliver_at_ms)),
        };
        let mut queues = self.queues();
        let changed = self.client.call(queues.reschedule_delayed(request)).await?;
        Ok(Delayed::from_proto(changed))
    }
}
