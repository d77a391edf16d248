//! Queue commands on their way into the log.
//!
//! As with moves: what waits is proposed at once while fewer than two such entries are in
//! flight, else together when one of them returns; order is kept.

use std::collections::VecDeque;

use aqueduct_storage::stored_len;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    owner::Owner,
    proposals::Waiting,
    queues::{Step, Stepped, Steps},
    state::{Change, Command},
};
use crate::{error::Refusal, queue::command::Replies, raft::engine::Reply};

/// Entries of steps in flight before more are gathered.
const GATHER_FROM: usize = 2;
/// Waiting steps from which on they are proposed at once.
const STEPS_PER_ENTRY: usize = 64;
/// Bytes of one entry after which no further step goes with it. One step alone is bounded by
/// those who make it, far below the largest entry.
const BYTES_PER_ENTRY: usize = 8 << 20;

/// Who waits for a step.
pub(super) type StepAnswer = oneshot::Sender<Result<Replies, Refusal>>;

/// Steps that wait to be proposed.
#[derive(Default)]
pub(super) struct GatheredSteps {
    waiting: VecDeque<(Step, StepAnswer)>,
    in_flight: usize,
}

impl GatheredSteps {
    pub(super) fn add(&mut self, step: Step, answer: StepAnswer) {
        self.waiting.push_back((step, answer));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// As many as go into one entry.
    fn take(&mut self) -> (Vec<Step>, Vec<StepAnswer>) {
        let (mut steps, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((step, _)) = self.waiting.front() {
            bytes += step.encoded_len();
            if bytes > BYTES_PER_ENTRY && !steps.is_empty() {
                break;
            }
            if let Some((step, answer)) = self.waiting.pop_front() {
                steps.push(step);
                answers.push(answer);
            }
        }
        (steps, answers)
    }

    pub(super) fn are_due(&self) -> bool {
        let waiting = self.waiting.len();
        waiting > 0 && (self.in_flight < GATHER_FROM || waiting >= STEPS_PER_ENTRY)
    }

    /// An entry of steps was applied.
    pub(super) fn settle(&mut self, answers: Vec<StepAnswer>, reply: &Reply) {
        self.in_flight -= 1;
        let stepped = match reply {
            Reply::Answer(bytes) => Stepped::decode(bytes.as_ref()).ok(),
            _ => None,
        };
        let replies = stepped.map(|stepped| stepped.replies).unwrap_or_default();
        if replies.len() != answers.len() {
            let why = "the partition answered for other steps".into();
            return refuse_steps(answers, &Refusal::Unknown { why });
        }
        for (answer, reply) in answers.into_iter().zip(replies) {
            // Whoever hung up has given up the answer.
            let _ = answer.send(Ok(reply));
        }
    }
}

impl Owner {
    /// Proposes what waits, as far as it goes into one entry.
    pub(super) async fn flush_steps(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let (steps, answers) = self.steps.take();
        let frees = !steps.iter().any(Step::takes_room);
        let data = Command::data(Change::Steps(Steps { steps }));
        // As for moves: a full disk must be an answer here and not a failed append. What ends
        // leases lets retention free space, and has room when nothing else has.
        let bytes = stored_len(data.payload.len());
        let reserved = match frees {
            true => self.reserve_to_free(bytes),
            false => self.reserve(bytes),
        };
        if let Err(refusal) = reserved {
            return refuse_steps(answers, &refusal);
        }
        self.shared.log.unreserve(bytes);
        self.steps.in_flight += 1;
        self.propose(data, Waiting::Steps(answers)).await;
    }
}

/// Answers all with the same refusal.
pub(super) fn refuse_steps(answers: Vec<StepAnswer>, why: &Refusal) {
    for answer in answers {
        let _ = answer.send(Err(why.clone()));
    }
}
