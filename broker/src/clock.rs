//! Time. Wall time stamps messages and commands; nothing is ever decided by comparing wall times
//! of two machines, and a step of the clock moves stamps, never offsets or order. Windows and
//! leases are measured in [`Steady`] time and time-outs in [`monotonic_ms`], which no step of
//! the clock reaches.
//!
//! A node has one [`Clock`], the system's. In tests a program can give a node that it runs in
//! itself a clock with a hand on it ([`Hand`]); no setting, flag or call reaches that.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

/// Milliseconds since the Unix epoch; 0 if the clock stands before it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What a node takes time from.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Source>);

#[derive(Debug)]
struct Source {
    began_ms: i64,
    began: Instant,
    hand: Option<Hand>,
}

/// Moves the clock of a node in a test: what it adds to the system's clock.
#[derive(Debug, Clone)]
pub struct Hand(Arc<Moved>);

#[derive(Debug)]
struct Moved {
    wall_ms: AtomicI64,
    steady_ms: AtomicI64,
    count: watch::Sender<u64>,
}

impl Default for Clock {
    /// The system's, from now on.
    fn default() -> Clock {
        Clock::new(None)
    }
}

impl Clock {
    fn new(hand: Option<Hand>) -> Clock {
        Clock(Arc::new(Source {
            began_ms: now_ms(),
            began: Instant::now(),
            hand,
        }))
    }

    /// A clock that can be moved, and what moves it.
    pub(crate) fn by_hand() -> (Clock, Hand) {
        let hand = Hand(Arc::new(Moved {
            wall_ms: AtomicI64::new(0),
            steady_ms: AtomicI64::new(0),
            count: watch::Sender::new(0),
        }));
        (Clock::new(Some(hand.clone())), hand)
    }

    /// Wall time in milliseconds since the Unix epoch; it may step.
    pub(crate) fn wall_ms(&self) -> i64 {
        match &self.0.hand {
            None => now_ms(),
            Some(hand) => now_ms().saturating_add(hand.0.wall_ms.load(SeqCst)),
        }
    }

    /// Wall time as it was when this clock began, going on at the pace of the monotonic clock:
    /// the same line for everybody in the process, whatever wall time does.
    fn steady_ms(&self) -> i64 {
        let Source {
            began_ms,
            began,
            hand,
        } = &*self.0;
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let added = hand.as_ref().map(|hand| hand.0.steady_ms.load(SeqCst));
        began_ms
            .saturating_add(elapsed)
            .saturating_add(added.unwrap_or(0))
    }

    /// Steady time that is not before `seen_ms`: what an earlier run has seen lies in the past.
    pub(crate) fn steady_from(&self, seen_ms: i64) -> Steady {
        Steady {
            ahead_ms: seen_ms.saturating_sub(self.steady_ms()).max(0),
            clock: self.clone(),
        }
    }

    /// Tells of moves by hand; with the system's clock there are none.
    pub(crate) fn moves(&self) -> Moves {
        Moves(self.0.hand.as_ref().map(|hand| hand.0.count.subscribe()))
    }
}

impl Hand {
    /// Lets time pass: everything that waits for wall or steady time sees it at once. Time-outs
    /// of calls and connections are not moved.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.wall_ms.fetch_add(by_ms, SeqCst);
        self.0.steady_ms.fetch_add(by_ms, SeqCst);
        self.0.count.send_modify(|count| *count += 1);
    }

    /// Steps the wall clock, as somebody does who sets it; no time passes.
    pub fn step_wall(&self, by_ms: i64) {
        self.0.wall_ms.fetch_add(by_ms, SeqCst);
        self.0.count.send_modify(|count| *count += 1);
    }
}

/// Waits for moves of a clock by hand.
pub(crate) struct Moves(Option<watch::Receiver<u64>>);

impl Moves {
    /// Ends when the clock was moved since this was asked last.
    pub(crate) async fn next(&mut self) {
        if let Some(moves) = &mut self.0
            && moves.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// Time that never steps: the process's, or as far ahead of it as an earlier run was.
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    ahead_ms: i64,
    clock: Clock,
}

impl Steady {
    /// Milliseconds since the Unix epoch, if the clock was right when the process began.
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.steady_ms().saturating_add(self.ahead_ms)
    }

    /// The same line, moved so that it is not before `seen_ms`.
    pub(crate) fn not_before(&self, seen_ms: i64) -> Steady {
        let missing_ms = seen_ms.saturating_sub(self.now_ms()).max(0);
        Steady {
            ahead_ms: self.ahead_ms.saturating_add(missing_ms),
            clock: self.clock.clone(),
        }
    }
}

/// Milliseconds since this process first asked.
pub(crate) fn monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_time_never_lies_before_what_was_seen() {
        let ahead = now_ms() + 3_600_000;
        let clock = Clock::default();
        let steady = clock.steady_from(ahead);
        assert!((ahead - 1..ahead + 3_600_000).contains(&steady.now_ms()));
        assert!(clock.steady_from(0).now_ms() > 0);
        assert_eq!(clock.steady_from(i64::MAX).now_ms(), i64::MAX);
    }

    #[test]
    fn a_hand_moves_both_clocks_and_a_step_the_wall_alone() {
        const HOUR_MS: i64 = 3_600_000;
        let (clock, hand) = Clock::by_hand();
        let steady = clock.steady_from(0);
        let near = |time: i64, hours: i64| (time - now_ms() - hours * HOUR_MS).abs() < HOUR_MS / 2;
        hand.advance(Duration::from_secs(3_600));
        assert!(near(clock.wall_ms(), 1) && near(steady.now_ms(), 1));
        hand.step_wall(-3 * HOUR_MS);
        assert!(near(clock.wall_ms(), -2) && near(steady.now_ms(), 1));
        // What begins now is on the same line, or ahead of it.
        assert!(near(clock.steady_from(0).now_ms(), 1));
        let ahead = now_ms() + 5 * HOUR_MS;
        assert!(near(steady.not_before(ahead).now_ms(), 5));
        assert!(near(steady.not_before(0).now_ms(), 1));
    }
}
