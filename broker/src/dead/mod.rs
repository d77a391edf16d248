//! Dead letters: looked at, redriven, discarded.
//!
//! Their copies lie in a topic like any other, which `work` writes. What was redriven or discarded
//! stays there until retention takes it; which of them that is, each partition of the topic keeps
//! in its own log (`partition::taken`).
//!
//! - [`attempts`]: the history of attempts as the text of a header; pure
//! - [`letter`]: what a copy says of the message's end, and what a redriven message says; pure
//! - [`selection`]: which of them are meant; pure
//! - [`browse`]: reading through a partition
//! - [`redrive`]: publishing again, each exactly once
//! - [`task`]: a redrive or discard from beginning to end
//!
//! Promised: nothing is leased or changed by looking; one redrive or discard at a time of a topic,
//! in bounded memory; whoever ends it loses nothing.

mod attempts;
pub(crate) mod letter;
pub(crate) mod selection;
pub(crate) mod task;

mod browse;
mod redrive;

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;

use self::{browse::Browse, letter::Letter, selection::Selection};
use crate::{
    error::Refusal,
    groups::admin::{dead_letter_topic, wrong_kind},
    lanes::record_bytes,
    limits,
    metadata::{
        internals::{InitInternal, Internal},
        state::{Change, Denied, Outcome},
    },
    partition::Partition,
    services::Services,
    topics::LiveTopic,
};

/// Pieces that one page may look at; then it ends, full or not.
const PIECES_PER_PAGE: usize = 64;

/// Topics in which something is redriven or discarded just now, by id.
#[derive(Default)]
pub(crate) struct Busy(Arc<Mutex<HashSet<u64>>>);

/// Nobody else redrives or discards in this topic meanwhile.
struct Turn {
    topics: Arc<Mutex<HashSet<u64>>>,
    topic_id: u64,
}

impl Busy {
    fn turn(&self, live: &LiveTopic) -> Result<Turn, Refusal> {
        let topic_id = live.topic.id;
        if !self.0.lock().insert(topic_id) {
            return Err(Refusal::DeadLettersBusy {
                topic: live.topic.name.clone(),
            });
        }
        let topics = self.0.clone();
        Ok(Turn { topics, topic_id })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.topics.lock().remove(&self.topic_id);
    }
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

impl Services {
    /// The dead-letter topic of a queue group, if there were dead letters yet. It may have
    /// outlived group and topic.
    ///
    /// # Errors
    /// If there is neither such a topic nor such a queue group.
    pub(crate) fn dead_letters_of(
        &self,
        topic: &str,
        group: &str,
    ) -> Result<Option<Arc<LiveTopic>>, Refusal> {
        let bare = topic.strip_prefix("topics/").unwrap_or(topic);
        let prefix = format!("topics/{bare}/groups/");
        let name = dead_letter_topic(bare, group.strip_prefix(&prefix).unwrap_or(group));
        if let Ok(live) = self.topics.get(&name) {
            return Ok(Some(live));
        }
        let group = self.group(topic, group)?;
        match group.queue {
            Some(_) => Ok(None),
            None => Err(wrong_kind(&group)),
        }
    }

    /// Some dead letters from a place on, and where the next page begins.
    ///
    /// # Errors
    /// If there is no such group, or its dead letters cannot be read.
    pub(crate) async fn list_dead_letters(
        &self,
        (topic, group): (&str, &str),
        selection: &Selection,
        mut from: From,
        limit: usize,
    ) -> Result<(Vec<Letter>, Option<From>), Refusal> {
        selection.check()?;
        let (mut page, mut bytes, mut pieces) = (Vec::new(), 0, 0);
        let Some(live) = self.dead_letters_of(topic, group)? else {
            return Ok((page, None));
        };
        self.conclude_if_free(&live).await;
        while let Some(partition) = live.partitions.get(from.partition as usize) {
            let mut browse = Browse::new(partition, from.offset);
            while let Some(piece) = browse.next().await? {
                for letter in piece.letters {
                    if !selection.matches(&letter) {
                        continue;
                    }
                    let size = size_of(&letter);
                    let full = page.len() >= limit || bytes + size > limits::DEAD_LETTER_PAGE_BYTES;
                    if full && !page.is_empty() {
                        from.offset = letter.record.offset;
                        return Ok((page, Some(from)));
                    }
                    bytes += size;
                    page.push(letter);
                }
                pieces += 1;
                if pieces >= PIECES_PER_PAGE {
                    from.offset = browse.at();
                    return Ok((page, Some(from)));
                }
            }
            from = From {
                partition: from.partition + 1,
                offset: 0,
            };
        }
        Ok((page, None))
    }

    /// One dead letter.
    ///
    /// # Errors
    /// If there is none at this place, or it was redriven or discarded.
    pub(crate) async fn dead_letter(
        &self,
        (topic, group): (&str, &str),
        partition: u32,
        offset: u64,
    ) -> Result<Letter, Refusal> {
        let missing = Refusal::MessageNotFound { partition, offset };
        let Some(live) = self.dead_letters_of(topic, group)? else {
            return Err(missing);
        };
        self.conclude_if_free(&live).await;
        let shared = live.partition(partition)?.shared();
        if shared.with_taken(|taken| taken.is_taken(offset)) {
            return Err(missing);
        }
        let record = self.message_at(&live.topic.name, partition, offset).await?;
        Ok(Letter::read(partition, record))
    }

    /// What a crash left half done is finished before somebody looks; if that cannot be just
    /// now, it is shown as on its way, which means not at all.
    async fn conclude_if_free(&self, live: &LiveTopic) {
        let unfinished = |partition: &Partition| {
            let shared = partition.shared();
            shared.with_taken(|taken| taken.plans().next().is_some())
        };
        if !live.partitions.iter().any(unfinished) {
            return;
        }
        let Ok(_turn) = self.busy.turn(live) else {
            return;
        };
        if let Err(refusal) = redrive::conclude_all(self, live).await {
            tracing::warn!(topic = live.topic.name, %refusal, "a redrive is not concluded yet");
        }
    }

    /// A producer of the broker's own; whoever had it is fenced.
    ///
    /// # Errors
    /// If what it goes with is deleted, or there are too many.
    pub(crate) async fn internal_producer(&self, init: InitInternal) -> Result<Internal, Refusal> {
        match self.metadata.propose(Change::InitInternal(init)).await? {
            Outcome::Internal(internal) => Ok(internal),
            Outcome::Denied(why) if why == Denied::TooMany as i32 => Err(Refusal::LimitReached {
                what: "producers of the broker's own".into(),
                limit: limits::MAX_INTERNAL_PRODUCERS as u64,
            }),
            Outcome::Denied(why) if why == Denied::NotFound as i32 => Err(Refusal::Unavailable {
                why: "the group or a topic was deleted meanwhile".into(),
            }),
            other => Err(Refusal::Unknown {
                why: format!("unexpected outcome {other:?}"),
            }),
        }
    }
}

/// Bytes of a letter, about.
fn size_of(letter: &Letter) -> u64 {
    record_bytes(&letter.record) + letter.error.len() as u64
}
