//! Queue groups from outside: messages by state, who holds which, where one message stands.

use std::collections::BTreeMap;

use aqueduct_proto::v1;
use bytes::Bytes;

use super::Groups;
use crate::{Error, FailedAttempt, times::time_from_proto};

/// Where a message stands with a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageState {
    /// Not said, or a word this library does not know.
    #[default]
    Unknown,
    /// Waits for a time: its own delay, or its retry.
    Delayed,
    /// Can be handed out.
    Ready,
    /// Somebody holds it.
    Leased,
    /// Finished; with a stream group: consumed.
    Done,
    /// A dead letter whose copy is not written yet.
    Dead,
}

/// Messages by state, of those that the log keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Wait for a time.
    pub delayed: u64,
    /// Can be handed out.
    pub ready: u64,
    /// Are held.
    pub leased: u64,
    /// Finished.
    pub done: u64,
    /// Dead letters whose copies are not written yet.
    pub dead: u64,
}

/// A queue group as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueDescription {
    /// Messages by state.
    pub counts: MessageCounts,
    /// What happened since the group began, by the names of `QueueTotals` in the API.
    pub totals: BTreeMap<&'static str, u64>,
    /// Age of the oldest unfinished message; 0 if there is none.
    pub oldest_seconds: f64,
    /// Keys whose later messages become dead letters until they are unparked.
    pub parked_keys: u64,
    /// Unfinished messages that failed, by how often; 15 stands for 15 and more.
    pub failed: BTreeMap<u32, u64>,
    /// By number.
    pub partitions: Vec<QueuePartition>,
}

/// One partition of a queue group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueuePartition {
    /// Counted from 0.
    pub partition: u32,
    /// Messages by state.
    pub counts: MessageCounts,
    /// The oldest unfinished message.
    pub oldest_offset: Option<u64>,
    /// Its age; 0 if there is none.
    pub oldest_seconds: f64,
    /// As for the group.
    pub parked_keys: u64,
    /// Results of steps on their way to their topics.
    pub results_waiting: u64,
    /// Their bytes, with 128 for each.
    pub result_bytes_waiting: u64,
}

/// A message that somebody holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Counted from 0.
    pub partition: u32,
    /// Its place.
    pub offset: u64,
    /// The lease's number.
    pub lease: u64,
    /// 1 for the first.
    pub attempt: u32,
    /// How often it was handed out, this time included.
    pub hand_outs: u32,
    /// When the lease ends, in milliseconds since the Unix epoch.
    pub deadline_ms: i64,
    /// The holder's id; 0: nobody, because the message cannot be read.
    pub consumer: u64,
    /// What the holder said of itself; empty if the broker was restarted since.
    pub client_id: String,
    /// Where it comes from; as above.
    pub address: String,
    /// Of the attempt before.
    pub last_error: String,
}

/// Where a message stands with one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The group's bare name.
    pub group: String,
    /// Its kind.
    pub is_queue: bool,
    /// What it waits for.
    pub state: MessageState,
    /// Of a queue group, while the message is not finished.
    pub failed_attempts: u32,
    /// The same.
    pub hand_outs: u32,
    /// Milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// Of the last failed attempt.
    pub last_error: String,
    /// Of a delayed one: when it is ready, in milliseconds since the Unix epoch.
    pub ready_ms: Option<i64>,
    /// Of a leased one.
    pub lease: Option<InFlight>,
    /// The latest failed attempts while the message is not finished, the oldest first: those that
    /// are kept.
    pub history: Vec<FailedAttempt>,
}

impl Groups {
    /// A queue group: its messages by state, how often they failed, what was done so far.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] for a stream group.
    pub async fn describe_queue(
        &self,
        topic: &str,
        group: &str,
    ) -> Result<QueueDescription, Error> {
        let request = v1::DescribeQueueRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.describe_queue(request)).await;
        answer.map(description)
    }

    /// Messages of a queue group that somebody holds, by partition and offset, at most `limit`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] for a stream group.
    pub async fn in_flight(
        &self,
        topic: &str,
        group: &str,
        limit: usize,
    ) -> Result<Vec<InFlight>, Error> {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        while found.len() < limit {
            let left = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
            let request = v1::ListInFlightRequest {
                topic: topic.to_owned(),
                group: group.to_owned(),
                page_size: left.min(1_000),
                page_token,
            };
            let mut groups = self.client.grouping();
            let page = self.client.call(groups.list_in_flight(request)).await?;
            found.extend(page.messages.into_iter().map(in_flight));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Lets a parked key go on, or (`None`) all of them. Answers how many there were, counted in
    /// each partition; with `dry_run` how many there are.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`] for a stream group.
    pub async fn unpark(
        &self,
        topic: &str,
        group: &str,
        key: Option<Bytes>,
        dry_run: bool,
    ) -> Result<u64, Error> {
        use v1::unpark_keys_request::Which;
        let request = v1::UnparkKeysRequest {
            topic: topic.to_owned(),
            group: group.to_owned(),
            which: Some(key.map_or(Which::All(true), Which::Key)),
            validate_only: dry_run,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.unpark_keys(request)).await;
        answer.map(|answer| answer.unparked)
    }

    /// Where a message stands with each group of its topic, by name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`].
    pub async fn standings(
        &self,
        topic: &str,
        partition: u32,
        offset: u64,
    ) -> Result<Vec<Standing>, Error> {
        let request = v1::GetStandingsRequest {
            topic: topic.to_owned(),
            partition,
            offset,
        };
        let mut groups = self.client.grouping();
        let answer = self.client.call(groups.get_standings(request)).await;
        answer.map(|answer| answer.standings.into_iter().map(standing).collect())
    }
}

fn counts(counts: Option<v1::MessageCounts>) -> MessageCounts {
    let counts = counts.unwrap_or_default();
    MessageCounts {
        delayed: counts.delayed,
        ready: counts.ready,
        leased: counts.leased,
        done: counts.done,
        dead: counts.dead,
    }
}

fn totals(totals: &v1::QueueTotals) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("acked", totals.acked),
        ("retried", totals.retried),
        ("released", totals.released),
        ("expired", totals.expired),
        ("lost", totals.lost),
        ("dead_attempts", totals.dead_attempts),
        ("dead_hand_outs", totals.dead_hand_outs),
        ("dead_rejected", totals.dead_rejected),
        ("dead_expired", totals.dead_expired),
        ("dead_parked", totals.dead_parked),
        ("discarded", totals.discarded),
        ("cancelled", totals.cancelled),
        ("unmatched", totals.unmatched),
        ("trimmed", totals.trimmed),
        ("unparkable", totals.unparkable),
        ("results_published", totals.results_published),
        ("results_dropped", totals.results_dropped),
    ])
}

fn description(answer: v1::DescribeQueueResponse) -> QueueDescription {
    let partition = |it: v1::QueuePartition| QueuePartition {
        partition: it.partition,
        counts: counts(it.counts),
        oldest_offset: it.oldest_offset,
        oldest_seconds: it.oldest_seconds,
        parked_keys: it.parked_keys,
        results_waiting: it.results_waiting,
        result_bytes_waiting: it.result_bytes_waiting,
    };
    let failed = answer.failed.iter();
    QueueDescription {
        counts: counts(answer.counts),
        totals: totals(&answer.totals.unwrap_or_default()),
        oldest_seconds: answer.oldest_seconds,
        parked_keys: answer.parked_keys,
        failed: failed.map(|it| (it.failed_attempts, it.messages)).collect(),
        partitions: answer.partitions.into_iter().map(partition).collect(),
    }
}

fn in_flight(message: v1::InFlight) -> InFlight {
    InFlight {
        partition: message.partition,
        offset: message.offset,
        lease: message.lease,
        attempt: message.attempt,
        hand_outs: message.hand_outs,
        deadline_ms: message.lease_deadline.map_or(0, time_from_proto),
        consumer: message.consumer,
        client_id: message.client_id,
        address: message.address,
        last_error: message.last_error,
    }
}

fn standing(standing: v1::MessageStanding) -> Standing {
    let state = match standing.state() {
        v1::MessageState::Unspecified => MessageState::Unknown,
        v1::MessageState::Delayed => MessageState::Delayed,
        v1::MessageState::Ready => MessageState::Ready,
        v1::MessageState::Leased => MessageState::Leased,
        v1::MessageState::Done => MessageState::Done,
        v1::MessageState::Dead => MessageState::Dead,
    };
    let history = standing.history.into_iter();
    Standing {
        group: standing.group,
        is_queue: standing.is_queue,
        state,
        failed_attempts: standing.failed_attempts,
        hand_outs: standing.hand_outs,
        first_failure_ms: standing.first_failure.map(time_from_proto),
        last_error: standing.last_error,
        ready_ms: standing.ready_time.map(time_from_proto),
        lease: standing.lease.map(in_flight),
        history: history.map(FailedAttempt::from_proto).collect(),
    }
}
