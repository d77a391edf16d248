//! Changes of group positions on their way into the log.
//!
//! Many small commits make few entries: what waits is proposed at once while fewer than two such
//! entries are in flight, else together when one of them returns. Order is kept, so a claim
//! that was asked for after a commit lies after it in the log.

use aqueduct_storage::stored_len;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    owner::Owner,
    positions::{Move, MoveResult, Moved, Moves},
    proposals::Waiting,
    state::{Change, Command},
};
use crate::{clock, error::Refusal, raft::engine::Reply};

/// Entries of moves in flight before more are gathered.
const GATHER_FROM: usize = 2;
/// Moves of one entry at most.
const MOVES_PER_ENTRY: usize = 1_024;

/// Who waits for a move.
pub(super) type MoveAnswer = oneshot::Sender<Result<MoveResult, Refusal>>;

/// Moves that wait to be proposed.
#[derive(Default)]
pub(super) struct GatheredMoves {
    moves: Vec<Move>,
    answers: Vec<MoveAnswer>,
    in_flight: usize,
}

impl GatheredMoves {
    pub(super) fn add(&mut self, change: Move, answer: MoveAnswer) {
        self.moves.push(change);
        self.answers.push(answer);
    }

    pub(super) fn are_due(&self) -> bool {
        let waiting = self.moves.len();
        waiting > 0 && (self.in_flight < GATHER_FROM || waiting >= MOVES_PER_ENTRY)
    }

    /// An entry of moves was applied.
    pub(super) fn settle(&mut self, answers: Vec<MoveAnswer>, reply: &Reply) {
        self.in_flight -= 1;
        let moved = match reply {
            Reply::Answer(bytes) => Moved::decode(bytes.as_ref()).ok(),
            _ => None,
        };
        let results = moved.map(|moved| moved.results).unwrap_or_default();
        if results.len() != answers.len() {
            let why = "the partition answered for other moves".into();
            return refuse_moves(answers, &Refusal::Unknown { why });
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever hung up has given up the answer.
            let _ = answer.send(Ok(result));
        }
    }
}

impl Owner {
    /// Proposes what waits, in one entry.
    pub(super) async fn flush_moves(&mut self) {
        if self.moves.moves.is_empty() {
            return;
        }
        let moves = std::mem::take(&mut self.moves.moves);
        let answers = std::mem::take(&mut self.moves.answers);
        let now_ms = clock::now_ms();
        let data = Command::data(Change::Moves(Moves { now_ms, moves }));
        // Only asked, not kept: commands use the log's headroom, and a full disk must be an answer
        // here and not a failed append.
        let bytes = stored_len(data.payload.len());
        if let Err(refusal) = self.reserve(bytes) {
            return refuse_moves(answers, &refusal);
        }
        self.shared.log.unreserve(bytes);
        self.moves.in_flight += 1;
        self.propose(data, Waiting::Moves(answers)).await;
    }
}

/// Answers all with the same refusal.
pub(super) fn refuse_moves(answers: Vec<MoveAnswer>, why: &Refusal) {
    for answer in answers {
        let _ = answer.send(Err(why.clone()));
    }
}
