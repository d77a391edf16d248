//! Changes of what was taken out of a dead-letter topic, on their way into the log.

use aqueduct_storage::stored_len;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Message, Partition, Shared,
    owner::Owner,
    proposals::Waiting,
    state::{Change, Command},
    taken::{Kind, Taken, Taking, TakingReply},
};
use crate::{error::Refusal, raft::engine::Reply};

/// What a change answers.
pub(super) type TakeAnswer = oneshot::Sender<Result<u64, Refusal>>;

impl Owner {
    pub(super) async fn take(&mut self, taking: Taking, answer: TakeAnswer) {
        let data = Command::data(Change::Take(taking));
        // As for steps: a full disk must be an answer here and not a failed append.
        let bytes = stored_len(data.payload.len());
        if let Err(refusal) = self.reserve(bytes) {
            return drop(answer.send(Err(refusal)));
        }
        self.shared.log.unreserve(bytes);
        self.propose(data, Waiting::Take { answer }).await;
    }
}

pub(super) fn taken_count(reply: &Reply) -> Result<u64, Refusal> {
    let decoded = match reply {
        Reply::Answer(bytes) => TakingReply::decode(bytes.as_ref()).ok(),
        _ => None,
    };
    decoded.map(|reply| reply.count).ok_or(Refusal::Unknown {
        why: "the partition answered something else".into(),
    })
}

impl Shared {
    /// Looks at which dead letters are gone. Short: nothing is applied meanwhile.
    pub(crate) fn with_taken<T>(&self, look: impl FnOnce(&Taken) -> T) -> T {
        look(&self.state.lock().taken)
    }
}

impl Partition {
    /// Changes which dead letters are gone; answers how many it was about.
    ///
    /// # Errors
    /// If the partition takes no commands, or the outcome is not known.
    pub(crate) async fn take(&self, kind: Kind) -> Result<u64, Refusal> {
        let (answer, answered) = oneshot::channel();
        let taking = Taking { kind: Some(kind) };
        self.send(Message::Take { taking, answer }).await?;
        answered.await.map_err(|_| Refusal::Unknown {
            why: "the partition closed".into(),
        })?
    }
}
