//! `trait ReplicaEngine`: everything the rest of the broker sees of replication.
//!
//! Promises: proposals of one caller are logged in call order; an answer means committed and
//! applied; an error says whether the proposal may still happen.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

pub(crate) use super::types::{Data, Reply};
use super::types::{WriteReceiver, into_answer};
use aqueduct_storage::EntryId;
use futures::future::BoxFuture;

/// Why a proposal has no answer.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ProposeError {
    /// This replica does not lead: nothing was logged.
    #[error("this replica does not lead its partition")]
    NotLeader,
    /// The replica stopped; what was proposed may or may not have been stored.
    #[error("the replica stopped before the outcome was known: {0}")]
    Unknown(String),
}

/// The answer to a proposal, to come.
pub(crate) struct Pending(pub(super) WriteReceiver);

impl Future for Pending {
    type Output = Result<Reply, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| match answer {
            Ok(answer) => into_answer(answer),
            Err(_) => Err(ProposeError::Unknown("no answer was given".into())),
        })
    }
}

/// One replica of one Raft group.
pub(crate) trait ReplicaEngine: Send + Sync {
    /// Hands a proposal to the log. The future ends when it is queued, the [`Pending`] when it
    /// is committed and applied.
    fn propose(&self, data: Data) -> BoxFuture<'_, Result<Pending, ProposeError>>;

    /// Makes the checkpoint that ends at `last` the current snapshot and drops the log up to it.
    fn trim(&self, last: EntryId) -> BoxFuture<'_, Result<(), String>>;

    /// Stops the replica's tasks. What was acknowledged stays.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}
