//! Queue commands on their way into the log.
//!
//! As with moves: what waits is proposed at once while fewer than two such entries are in
//! flight, else together when one of them returns; order is kept.

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
/// Steps of one entry at most.
const STEPS_PER_ENTRY: usize = 64;

/// Who waits for a step.
pub(super) type StepAnswer = oneshot::Sender<Result<Replies, Refusal>>;

/// Steps that wait to be proposed.
#[derive(Default)]
pub(super) struct GatheredSteps {
    steps: Vec<Step>,
    answers: Vec<StepAnswer>,
    in_flight: usize,
}

impl GatheredSteps {
    pub(super) fn add(&mut self, step: Step, answer: StepAnswer) {
        self.steps.push(step);
        self.answers.push(answer);
    }

    pub(super) fn are_due(&self) -> bool {
        let waiting = self.steps.len();
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
    /// Proposes what waits, in one entry.
    pub(super) async fn flush_steps(&mut self) {
        if self.steps.steps.is_empty() {
            return;
        }
        let steps = std::mem::take(&mut self.steps.steps);
        let answers = std::mem::take(&mut self.steps.answers);
        let data = Command::data(Change::Steps(Steps { steps }));
        // As for moves: a full disk must be an answer here and not a failed append.
        let bytes = stored_len(data.payload.len());
        if let Err(refusal) = self.reserve(bytes) {
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
