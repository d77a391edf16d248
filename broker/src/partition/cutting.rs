//! Moves of the log's start that keep messages aside, on their way into the log; and reading
//! what is kept.

use aqueduct_storage::stored_len;
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Message, Partition, Place, Shared,
    kept::{Cut, CutReply, Kept},
    owner::Owner,
    proposals::Waiting,
    state::{Change, Command},
};
use crate::{error::Refusal, raft::engine::Reply};

/// What a cut answers: whether the log begins where it should.
pub(super) type CutAnswer = oneshot::Sender<Result<bool, Refusal>>;

impl Owner {
    pub(super) async fn cut(&mut self, cut: Cut, answer: CutAnswer) {
        let data = Command::data(Change::Cut(cut));
        // As for a trim: it frees space in the end, and a full disk must be an answer. But it is
        // too large for the room that commands have of their own, so what is asked for is kept
        // until the entry is there.
        let bytes = stored_len(data.payload.len());
        if let Err(refusal) = self.reserve_to_free(bytes) {
            return drop(answer.send(Err(refusal)));
        }
        self.propose(data, Waiting::Cut { answer, bytes }).await;
    }
}

pub(super) fn is_made(reply: &Reply) -> Result<bool, Refusal> {
    let decoded = match reply {
        Reply::Answer(bytes) => CutReply::decode(bytes.as_ref()).ok(),
        _ => None,
    };
    decoded.map(|reply| reply.is_made).ok_or(Refusal::Unknown {
        why: "the partition answered something else".into(),
    })
}

impl Shared {
    /// Looks at what is kept aside. Short: nothing is applied meanwhile.
    pub(crate) fn with_kept<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        look(&self.state.lock().kept)
    }

    /// What is kept of the messages from an offset on, as batches; nothing if that one is not kept.
    pub(super) fn kept_from(&self, offset: u64, max_bytes: usize) -> Vec<Bytes> {
        self.with_kept(|kept| kept.run_from(offset, max_bytes))
    }
}

impl Partition {
    /// The first offset that a queue can be sought to and still has a message: kept aside, or in
    /// the log.
    pub(crate) fn queue_start(&self) -> u64 {
        let start = self.shared.log_start_offset();
        let aside = self.shared.with_kept(|kept| kept.first_from(0));
        aside.unwrap_or(start).min(start)
    }

    /// As [`Partition::offset_of`], for a queue: what is kept aside is there.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn queue_offset_of(&self, place: Place) -> Result<u64, Refusal> {
        let (lowest, start) = (self.queue_start(), self.shared.log_start_offset());
        let aside = match place {
            Place::Start => Some(lowest),
            Place::Offset(offset) => Some(offset).filter(|at| (lowest..start).contains(at)),
            Place::Time(stamp_ms) => self.shared.with_kept(|kept| kept.first_stamped(stamp_ms)),
            Place::End | Place::Last(_) => None,
        };
        match aside {
            Some(offset) => Ok(offset),
            None => self.offset_of(place).await,
        }
    }

    /// Moves the log's start and keeps aside what is still needed; whether it was moved.
    ///
    /// # Errors
    /// If the partition takes no commands, or the outcome is not known.
    pub(crate) async fn cut(&self, cut: Cut) -> Result<bool, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.send(Message::Cut { cut, answer }).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }
}
