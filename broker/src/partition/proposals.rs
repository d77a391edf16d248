//! Proposals of a partition's owner on their way, and who waits for each.
//!
//! Knows whom to answer, not what: what a partition accepts is the owner's matter.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    Permit, RecordsAnswer, Stored,
    accumulator::Waiter,
    cutting::CutAnswer,
    moves::{MoveAnswer, refuse_moves},
    steps::{StepAnswer, refuse_steps},
};
use crate::{
    error::Refusal,
    raft::engine::{Pending, ProposeError, Reply},
};

/// Who waits for a proposal.
pub(super) enum Waiting {
    Nobody,
    Records(Vec<Waiter>),
    Batch {
        answer: oneshot::Sender<Result<Stored, Refusal>>,
        offset: u64,
        permit: Permit,
    },
    Trim {
        answer: oneshot::Sender<Result<u64, Refusal>>,
    },
    Cut {
        answer: CutAnswer,
        /// What it has reserved in the log.
        bytes: u64,
    },
    Moves(Vec<MoveAnswer>),
    Steps(Vec<StepAnswer>),
    Take {
        answer: oneshot::Sender<Result<u64, Refusal>>,
    },
}

impl Waiting {
    /// The proposal failed.
    pub(super) fn refuse(self, why: &Refusal) {
        match self {
            Waiting::Nobody => {}
            Waiting::Records(waiters) => answer_all(waiters, why),
            Waiting::Batch { answer, .. } => drop(answer.send(Err(why.clone()))),
            Waiting::Trim { answer } => drop(answer.send(Err(why.clone()))),
            Waiting::Cut { answer, .. } => drop(answer.send(Err(why.clone()))),
            Waiting::Moves(waiters) => refuse_moves(waiters, why),
            Waiting::Steps(waiters) => refuse_steps(waiters, why),
            Waiting::Take { answer } => drop(answer.send(Err(why.clone()))),
        }
    }
}

/// A proposal on its way.
pub(super) struct InFlight {
    pub(super) pending: Pending,
    pub(super) waiting: Waiting,
    pub(super) gathered: bool,
}

/// Tells everybody who waits for records of a batch.
pub(super) fn answer_all(waiters: Vec<Waiter>, why: &Refusal) {
    for waiter in waiters {
        let _ = waiter.answer.send(RecordsAnswer::Refused(why.clone()));
    }
}

/// The answer to the oldest proposal; never, if there is none.
pub(super) async fn first_answer(
    in_flight: &mut VecDeque<InFlight>,
) -> Result<Reply, ProposeError> {
    match in_flight.front_mut() {
        Some(first) => (&mut first.pending).await,
        None => std::future::pending().await,
    }
}
