//! The lag of every group, for whoever watches the node.
//!
//! With many groups on many partitions that is much to look up. So one round at a time looks, in
//! small steps between which other work goes on; whoever asks meanwhile waits for its end, but not
//! for long: then the figures of the round before are given, with their age. Rounds that are
//! costly are not repeated at once. Nothing is kept between rounds but the sums of each group.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::lag::partition_lag;
use crate::{
    metadata::groups::Group,
    queue::{state::Counters, view::Counts},
    services::Services,
    work::seeing,
};

/// Partitions that are looked at in one step.
const STEP: usize = 64;
/// How long anybody waits for a round.
const PATIENCE: Duration = Duration::from_secs(2);
/// A round that took longer than this is costly.
const CHEAP: Duration = Duration::from_millis(100);
/// Costly rounds take at most one part in so many of a processor.
const SHARE: u32 = 10;

/// A group as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupLag {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) messages: u64,
    /// The greatest of the partitions.
    pub(crate) seconds: f64,
    pub(crate) members: u32,
    /// Of a queue group.
    pub(crate) queue: Option<QueueNumbers>,
}

/// A queue group as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct QueueNumbers {
    pub(crate) counts: Counts,
    pub(crate) counters: Counters,
    pub(crate) parked_keys: u64,
    /// Results of steps that wait, that were published, and that were dropped with their topic.
    pub(crate) results: [u64; 3],
}

impl QueueNumbers {
    pub(crate) fn add(&mut self, other: &QueueNumbers) {
        self.counts.add(&other.counts);
        self.counters.add(&other.counters);
        self.parked_keys += other.parked_keys;
        for (sum, more) in self.results.iter_mut().zip(other.results) {
            *sum += more;
        }
    }
}

/// What a round found.
#[derive(Debug, Clone)]
struct Round {
    lags: Arc<Vec<GroupLag>>,
    began: Instant,
    took: Duration,
}

impl Round {
    /// Does it still do, or is it time to look again?
    fn is_fresh(&self, now: Instant) -> bool {
        self.took > CHEAP && now < self.began + self.took * SHARE
    }
}

/// Lags by topic and name, and how old they are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lags {
    pub(crate) groups: Arc<Vec<GroupLag>>,
    /// While no round has ended, since the first one began; none before that.
    pub(crate) age: Option<Duration>,
}

/// The last round, and the one under way.
#[derive(Default)]
pub(super) struct Board(Mutex<State>);

#[derive(Default)]
struct State {
    /// When the first round began.
    first: Option<Instant>,
    last: Option<Round>,
    /// Closes when the round under way ends.
    running: Option<watch::Receiver<()>>,
}

impl Board {
    fn lags(&self) -> Lags {
        let state = self.0.lock();
        let last = state.last.as_ref();
        let since = last.map(|round| round.began).or(state.first);
        Lags {
            groups: last.map(|round| round.lags.clone()).unwrap_or_default(),
            age: since.map(|since| since.elapsed()),
        }
    }
}

impl Services {
    /// Lag and members of every group. A group whose lag cannot be told now is left out.
    pub(crate) async fn group_lags(self: &Arc<Self>) -> Lags {
        let Some(mut running) = self.join_round() else {
            return self.groups.board.lags();
        };
        // An error is what is waited for: the round has ended. Nothing is ever sent.
        let ended = running.changed();
        let _ = tokio::time::timeout(PATIENCE, ended).await;
        self.groups.board.lags()
    }

    /// The round under way, begun now if need be; none if the last one still does.
    fn join_round(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut state = self.groups.board.0.lock();
        let now = Instant::now();
        // One whose task was ended counts as ended.
        let running = state.running.take();
        if let Some(running) = running.filter(|it| it.has_changed().is_ok()) {
            return Some(state.running.insert(running).clone());
        }
        if state.last.as_ref().is_some_and(|last| last.is_fresh(now)) {
            return None;
        }
        state.first.get_or_insert(now);
        let (under_way, running) = watch::channel(());
        let services = self.clone();
        tokio::spawn(async move {
            let lags = Arc::new(services.look_at_groups().await);
            let took = now.elapsed();
            let round = Round {
                lags,
                began: now,
                took,
            };
            services.groups.board.0.lock().last = Some(round);
            drop(under_way);
        });
        Some(state.running.insert(running).clone())
    }

    async fn look_at_groups(&self) -> Vec<GroupLag> {
        // Names only: a group's record may have a place for each of ten thousand partitions.
        let names: Vec<(String, String)> = {
            let view = self.metadata.view().read();
            let groups = view.groups.values();
            groups
                .map(|it| (it.topic.clone(), it.name.clone()))
                .collect()
        };
        let mut lags = Vec::with_capacity(names.len());
        for (topic, name) in names {
            let group = self.metadata.view().read().group(&topic, &name).cloned();
            if let Some(group) = group {
                lags.extend(self.look_at(group).await);
            }
        }
        lags
    }

    async fn look_at(&self, group: Group) -> Option<GroupLag> {
        let live = self.topics.get(&group.topic).ok()?;
        let (mut messages, mut seconds) = (0, 0.0_f64);
        let mut queue = group.queue.as_ref().map(|_| QueueNumbers::default());
        let delayed = self.count_delayed(&group).await.unwrap_or_default();
        for partitions in live.partitions.chunks(STEP) {
            for partition in partitions {
                if let Ok(lag) = partition_lag(&group, partition).await {
                    messages += lag.messages;
                    seconds = seconds.max(lag.seconds);
                }
                if let Some(queue) = &mut queue {
                    let number = partition.shared().number as usize;
                    let delayed = delayed.get(number).copied().unwrap_or(0);
                    let view = seeing::look(&group, partition, delayed).await;
                    queue.add(&QueueNumbers {
                        counts: view.counts,
                        counters: view.counters,
                        parked_keys: view.parked_keys,
                        results: [
                            view.results.results,
                            view.results_done.0,
                            view.results_done.1,
                        ],
                    });
                }
            }
            tokio::task::yield_now().await;
        }
        let status = self.group_status(group);
        Some(GroupLag {
            topic: status.group.topic,
            group: status.group.name,
            messages,
            seconds,
            members: status.members,
            queue,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first look that hangs can be noticed.
    #[test]
    fn lags_age_also_before_there_are_any() {
        let board = Board::default();
        assert_eq!(board.lags().age, None);
        let now = Instant::now();
        let long = Duration::from_secs(60);
        board.0.lock().first = now.checked_sub(long);
        assert!(board.lags().age.is_some_and(|age| age >= long));
        board.0.lock().last = Some(Round {
            lags: Arc::default(),
            began: now,
            took: Duration::ZERO,
        });
        assert!(board.lags().age.is_some_and(|age| age < long));
    }

    #[test]
    fn only_costly_rounds_are_used_again() {
        let began = Instant::now();
        let round = |took_ms: u64| Round {
            lags: Arc::default(),
            began,
            took: Duration::from_millis(took_ms),
        };
        let fresh = |took_ms, after_ms| {
            let now = began + Duration::from_millis(after_ms);
            round(took_ms).is_fresh(now)
        };
        assert!(!fresh(100, 100), "cheap: always anew");
        assert!(fresh(101, 102) && fresh(101, 1_009) && !fresh(101, 1_010));
        assert!(fresh(20_000, 199_999) && !fresh(20_000, 200_000));
    }
}
