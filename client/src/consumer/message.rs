//! Messages as a group consumer hands them out: records that know how to be done.

use std::{fmt, ops::Deref, sync::Arc};

use super::shared::Shared;
use crate::{Error, Record};

/// One message of a group; reads like the [`Record`] it is.
#[derive(Clone)]
pub struct Received {
    record: Record,
    epoch: u64,
    shared: Arc<Shared>,
}

impl Received {
    pub(super) fn new(record: Record, epoch: u64, shared: Arc<Shared>) -> Self {
        Self {
            record,
            epoch,
            shared,
        }
    }

    /// This message is done ([`CommitMode::PerRecord`](crate::CommitMode::PerRecord)); messages
    /// may be done in any order. In the other modes it does nothing that they do not do anyway.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the partition is not this member's any more: the message is (or
    /// will be) handed out again elsewhere.
    pub fn done(&self) -> Result<(), Error> {
        let offset = self.record.offset;
        let until = offset.saturating_add(1);
        self.shared
            .finish(self.record.partition, self.epoch, offset, until)
    }

    /// Everything of this partition up to and including this message is done: commits that and
    /// waits until it is on stable storage. Answers with the group's position.
    ///
    /// # Errors
    /// [`Error::Fenced`] if the partition is not this member's any more, [`Error::Unknown`] if
    /// the connection broke before the answer, and what the broker refuses.
    pub async fn commit(&self) -> Result<u64, Error> {
        let next = self.record.offset.saturating_add(1);
        self.shared
            .commit(self.record.partition, Some(self.epoch), next)
            .await
    }

    /// The record alone.
    #[must_use]
    pub fn into_record(self) -> Record {
        self.record
    }
}

impl Deref for Received {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.record.fmt(formatter)
    }
}

/// Messages of one partition in order, never empty; reads like a slice of records.
#[derive(Clone)]
pub struct Chunk {
    records: Vec<Record>,
    epoch: u64,
    shared: Arc<Shared>,
}

impl Chunk {
    pub(super) fn new(records: Vec<Record>, epoch: u64, shared: Arc<Shared>) -> Self {
        Self {
            records,
            epoch,
            shared,
        }
    }

    /// Partition, first offset, one past the last offset.
    fn place(&self) -> Option<(u32, u64, u64)> {
        let (first, last) = (self.records.first()?, self.records.last()?);
        Some((first.partition, first.offset, last.offset.saturating_add(1)))
    }

    /// All of these are done; see [`Received::done`].
    ///
    /// # Errors
    /// Those of [`Received::done`].
    pub fn done(&self) -> Result<(), Error> {
        match self.place() {
            Some((partition, from, until)) => {
                self.shared.finish(partition, self.epoch, from, until)
            }
            None => Ok(()),
        }
    }

    /// Commits up to the last of these; see [`Received::commit`].
    ///
    /// # Errors
    /// Those of [`Received::commit`].
    pub async fn commit(&self) -> Result<u64, Error> {
        match self.place() {
            Some((partition, _, next)) => {
                self.shared.commit(partition, Some(self.epoch), next).await
            }
            None => Ok(0),
        }
    }

    /// Everything of this partition below `next` is done; see [`Received::commit`]. For a place
    /// within these.
    ///
    /// # Errors
    /// Those of [`Received::commit`]; [`Error::Invalid`] for what was not handed out.
    pub async fn commit_through(&self, next: u64) -> Result<u64, Error> {
        match self.place() {
            Some((partition, ..)) => self.shared.commit(partition, Some(self.epoch), next).await,
            None => Ok(0),
        }
    }

    /// The records alone.
    #[must_use]
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }
}

impl Deref for Chunk {
    type Target = [Record];

    fn deref(&self) -> &[Record] {
        &self.records
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.records.fmt(formatter)
    }
}
