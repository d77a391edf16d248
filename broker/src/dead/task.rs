//! A redrive or discard from beginning to end: reads on, chooses, moves, says how far it is.
//!
//! It takes the dead letters that are there when it begins, so those that come while it runs (of
//! messages that were redriven in vain, perhaps) do not keep it going. It ends early when nobody
//! listens any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    Turn,
    browse::Browse,
    letter::{Edits, Letter},
    redrive::{Mover, conclude_all},
    selection::Selection,
};
use crate::{
    clock,
    error::Refusal,
    partition::taken::{Discarding, Kind},
    queue::{command::Reason, rate::Bucket},
    services::Services,
    topics::LiveTopic,
};

/// Messages that are moved at a time.
const AT_A_TIME: u64 = 500;
/// Reports that may wait for whoever listens.
const UNREAD: usize = 4;

/// What is to be done.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) selection: Selection,
    /// At most so many; 0 = all.
    pub(crate) most: u64,
    /// Count, change nothing.
    pub(crate) preview: bool,
    /// Nothing: they are discarded.
    pub(crate) redrive: Option<Redrive>,
}

/// Where dead letters go, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redrive {
    /// Empty: the topic that they come from.
    pub(crate) to: String,
    pub(crate) edits: Edits,
    /// 0 = as fast as it goes.
    pub(crate) rate_per_s: u64,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) total: u64,
    pub(crate) examined: u64,
    pub(crate) matched: u64,
    pub(crate) moved: u64,
    /// Damaged, or not for the target: they stay.
    pub(crate) failed: u64,
    pub(crate) done: bool,
    pub(crate) reasons: BTreeMap<Reason, u64>,
}

/// Reports until the last, which is done or an error.
pub(crate) type Reports = mpsc::Receiver<Result<Progress, Refusal>>;

/// A task that runs.
struct Running {
    services: Arc<Services>,
    live: Arc<LiveTopic>,
    task: Task,
    mover: Option<Mover>,
    progress: Progress,
    reports: mpsc::Sender<Result<Progress, Refusal>>,
    bucket: Bucket,
    /// Nobody else is at it.
    turn: Option<Turn>,
}

impl Services {
    /// Begins a redrive or discard. It ends when the receiver is dropped.
    ///
    /// # Errors
    /// If it cannot begin: no such group or target, or another one is at it.
    pub(crate) fn take_dead_letters(
        self: &Arc<Self>,
        (topic, group): (&str, &str),
        task: Task,
    ) -> Result<Reports, Refusal> {
        task.selection.check()?;
        self.check_draining()?;
        let from = self.dead_letters_of(topic, group)?;
        // A target that does not exist is said also if there is nothing for it.
        let to = match &task.redrive {
            None => None,
            Some(redrive) if redrive.to.is_empty() => Some(self.topics.get(topic)?),
            Some(redrive) => Some(self.topics.get(&redrive.to)?),
        };
        let (reports, receiver) = mpsc::channel(UNREAD);
        let Some(from) = from else {
            let progress = Progress {
                done: true,
                ..Progress::default()
            };
            // The channel is new and has room.
            let _ = reports.try_send(Ok(progress));
            return Ok(receiver);
        };
        if to.as_ref().is_some_and(|to| to.topic.id == from.topic.id) {
            let why = "dead letters cannot be redriven to their own topic";
            return Err(Refusal::invalid("to_topic", why));
        }
        let turn = match task.preview {
            true => None,
            false => Some(self.busy.turn(&from)?),
        };
        let edits = task.redrive.as_ref().map(|redrive| redrive.edits.clone());
        let mover = to
            .zip(edits)
            .map(|(to, edits)| Mover::new(self.clone(), from.clone(), to, edits));
        let running = Running {
            services: self.clone(),
            live: from,
            task,
            mover,
            progress: Progress::default(),
            reports,
            bucket: Bucket::default(),
            turn,
        };
        tokio::spawn(running.run());
        Ok(receiver)
    }
}

impl Running {
    async fn run(mut self) {
        let last = self.work().await.map(|()| {
            self.progress.done = true;
            self.progress.clone()
        });
        let Running { reports, turn, .. } = self;
        // Whoever reads the last report may begin the next task at once.
        drop(turn);
        // Whoever hung up does not want to know.
        let _ = reports.send(last).await;
    }

    async fn work(&mut self) -> Result<(), Refusal> {
        if !self.task.preview {
            conclude_all(&self.services, &self.live).await?;
        }
        let live = self.live.clone();
        let browse = |partition| Browse::new(partition, 0);
        let mut browses: Vec<Browse> = live.partitions.iter().map(browse).collect();
        self.progress.total = browses.iter().map(Browse::left).sum();
        self.report();
        for (number, browse) in (0..).zip(&mut browses) {
            while let Some(piece) = browse.next().await? {
                self.progress.examined += piece.letters.len() as u64 + piece.damaged;
                self.progress.failed += piece.damaged;
                let chosen = self.choose(piece.letters);
                if !self.move_all(number, chosen).await? || self.is_enough() {
                    return Ok(());
                }
                self.report();
            }
        }
        Ok(())
    }

    /// Says how far it is, to whoever has time to hear it.
    fn report(&self) {
        let _ = self.reports.try_send(Ok(self.progress.clone()));
    }

    fn is_enough(&self) -> bool {
        self.task.most > 0 && self.progress.matched >= self.task.most
    }

    /// Those that are meant and can be moved.
    fn choose(&mut self, letters: Vec<Letter>) -> Vec<Letter> {
        let mut chosen = Vec::new();
        for letter in letters {
            if self.is_enough() {
                break;
            }
            if !self.task.selection.matches(&letter) {
                continue;
            }
            self.progress.matched += 1;
            *self.progress.reasons.entry(letter.reason).or_default() += 1;
            if self
                .mover
                .as_ref()
                .is_some_and(|mover| !mover.fits(&letter))
            {
                self.progress.failed += 1;
            } else {
                chosen.push(letter);
            }
        }
        chosen
    }

    /// Moves them as fast as is allowed; `false` if nobody listens any more.
    async fn move_all(&mut self, number: u32, mut letters: Vec<Letter>) -> Result<bool, Refusal> {
        if self.task.preview {
            self.progress.moved += letters.len() as u64;
            return Ok(!self.reports.is_closed());
        }
        while !letters.is_empty() {
            self.services.check_draining()?;
            let allowed = self.allowed().await;
            if self.reports.is_closed() {
                return Ok(false);
            }
            let count = (letters.len() as u64).min(allowed).min(AT_A_TIME);
            let rest = letters.split_off(usize::try_from(count).unwrap_or(letters.len()));
            let some = std::mem::replace(&mut letters, rest);
            self.bucket.take(count);
            self.progress.moved += self.move_some(number, some).await?;
            self.report();
        }
        Ok(true)
    }

    async fn move_some(&mut self, number: u32, letters: Vec<Letter>) -> Result<u64, Refusal> {
        if let Some(mover) = &mut self.mover {
            return mover.redrive(number, letters).await;
        }
        let offsets = letters.iter().map(|letter| letter.record.offset).collect();
        let source = self.live.partition(number)?;
        source.take(Kind::Discard(Discarding { offsets })).await
    }

    /// How many may be moved now; waits for the first, or until nobody listens.
    async fn allowed(&mut self) -> u64 {
        let redrive = self.task.redrive.as_ref();
        let rate = redrive.map_or(0, |redrive| redrive.rate_per_s);
        loop {
            let now_ms = i64::try_from(clock::monotonic_ms()).unwrap_or(i64::MAX);
            let allowed = self.bucket.available(now_ms, rate);
            if allowed > 0 {
                return allowed;
            }
            let wait = self.bucket.next_ms(now_ms, rate).saturating_sub(now_ms);
            let wait = Duration::from_millis(wait.max(1).unsigned_abs());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.reports.closed() => return 1,
                () = self.services.drained() => return 1,
            }
        }
    }
}
