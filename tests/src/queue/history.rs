//! The events of a run: deliveries, verdicts with their results, ends of sessions, dead letters.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// A point in time by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since the history began, by a clock that is never put.
    pub us: u64,
    /// Wall time, as the broker's deadlines are.
    pub wall_ms: i64,
}

/// A message, leased to a consumer.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The session that was given it; 0: a call, which has none.
    pub session: u64,
    /// How often the broker had been killed before the connection was made.
    pub run: u32,
    /// Where it lies.
    pub partition: u32,
    /// Where it lies.
    pub offset: u64,
    /// Empty: none.
    pub key: String,
    /// As the delivery says.
    pub attempt: u32,
    /// As the delivery says.
    pub hand_outs: u32,
    /// As the delivery says.
    pub lease: u64,
    /// As the delivery says, wall time.
    pub deadline_ms: i64,
    /// As the delivery says; 0: none.
    pub first_failure_ms: i64,
    /// As the delivery says.
    pub last_error: String,
    /// It was not granted before this time since the history began; 0: nobody knows.
    pub asked_us: u64,
    /// When it was received.
    pub at: Moment,
}

/// What a consumer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Done.
    Ack,
    /// Failed.
    Retry {
        /// Instead of the backoff.
        after_ms: Option<u64>,
        /// Why.
        error: String,
    },
    /// Given back.
    Release,
    /// Longer.
    Extend {
        /// By so much from then on.
        by_ms: u64,
    },
    /// Never again.
    Dead {
        /// Why.
        error: String,
    },
}

/// What came of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Done,
    /// `LEASE_LOST`.
    LeaseLost,
    /// Refused otherwise: not taken.
    Refused,
    /// No answer: taken or not.
    Unknown,
}

/// A verdict.
#[derive(Clone, Debug)]
pub struct Said {
    /// About which message.
    pub partition: u32,
    /// About which message.
    pub offset: u64,
    /// Under which lease.
    pub lease: u64,
    /// The verdict.
    pub word: Word,
    /// Before it was sent.
    pub sent: Moment,
    /// What came of it.
    pub outcome: Outcome,
    /// After the answer, or when there was none to be expected any more.
    pub answered: Moment,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The consumer closed its side: what it holds is given back.
    Closed,
    /// The connection was cut: what it holds counts as failed.
    Cut,
    /// The broker ended it, or went away: leases last until their deadlines.
    Left,
}

/// The end of a session.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Which one.
    pub session: u64,
    /// How.
    pub how: End,
    /// Before that was done.
    pub at: Moment,
}

/// A copy in the dead-letter topic.
#[derive(Clone, Debug, Default)]
pub struct Letter {
    /// Of the message.
    pub partition: u32,
    /// Of the message.
    pub offset: u64,
    /// The dead letter's number in its partition.
    pub number: u64,
    /// Failed attempts.
    pub attempts: u32,
    /// How often it was handed out.
    pub hand_outs: u32,
    /// `ATTEMPTS` and so on.
    pub reason: String,
    /// Text of the last failure.
    pub error: String,
    /// Of the message.
    pub key: String,
}

/// Order of a key's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyOrder {
    /// None.
    #[default]
    None,
    /// One at a time, the next go on while one waits for its retry.
    Skip,
    /// One at a time, the next wait.
    Block,
    /// As `Block`, and the next die with it.
    Park,
}

/// Waits after failed attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first.
    pub initial_ms: u64,
    /// Each next one, in percent of the one before.
    pub factor_percent: u64,
    /// The longest.
    pub max_ms: u64,
    /// So much shorter, in percent, at most.
    pub jitter_percent: u64,
}

impl Backoff {
    /// The shortest wait after so many failed attempts.
    #[must_use]
    pub fn least_ms(&self, failed: u32) -> u64 {
        let mut wait = self.initial_ms;
        for _ in 1..failed {
            wait = (wait * self.factor_percent / 100).min(self.max_ms);
        }
        // The broker rounds.
        (wait * (100 - self.jitter_percent) / 100).saturating_sub(2)
    }
}

/// The policy, and what else the checks go by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a lease lasts.
    pub lease_ms: i64,
    /// Failed attempts until a message is dead.
    pub max_attempts: u32,
    /// Leases until a message is dead.
    pub max_hand_outs: u32,
    /// Waits.
    pub backoff: Backoff,
    /// Order of keys.
    pub order: KeyOrder,
    /// What happened to the broker's clock.
    pub clock: Clock,
}

/// What happened to the broker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Nothing: its deadlines can be compared with wall time.
    True,
    /// It was put while the broker ran: leases and waits last as long as they should, but what
    /// deadlines say is nothing to go by.
    Stepped,
    /// It was put while the broker was dead: leases and waits may end early. No two are valid
    /// all the same.
    Wild,
}

/// Everything that was seen; several consumers write into it.
#[derive(Debug)]
pub struct History {
    began: Instant,
    sessions: AtomicU64,
    run: AtomicU32,
    /// Deliveries.
    pub given: Mutex<Vec<Given>>,
    /// Verdicts.
    pub said: Mutex<Vec<Said>>,
    /// Ends of sessions.
    pub ended: Mutex<Vec<Ended>>,
}

impl Default for History {
    fn default() -> History {
        History {
            began: Instant::now(),
            sessions: AtomicU64::new(0),
            run: AtomicU32::new(0),
            given: Mutex::default(),
            said: Mutex::default(),
            ended: Mutex::default(),
        }
    }
}

impl History {
    /// Now.
    ///
    /// # Panics
    /// If the clock stands before 1970.
    #[must_use]
    pub fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Moment {
            us: u64::try_from(self.began.elapsed().as_micros()).unwrap(),
            wall_ms: i64::try_from(wall.as_millis()).unwrap(),
        }
    }

    /// A session's number, never 0.
    pub fn new_session(&self) -> u64 {
        self.sessions.fetch_add(1, Relaxed) + 1
    }

    /// The broker's run: ask before connecting.
    pub fn run(&self) -> u32 {
        self.run.load(Relaxed)
    }

    /// The broker is dead now, and not started yet.
    pub fn killed(&self) {
        self.run.fetch_add(1, Relaxed);
    }

    /// Notes the end of a session; before it is carried out.
    ///
    /// # Panics
    /// After another panic.
    pub fn end(&self, session: u64, how: End) {
        let at = self.now();
        let ended = Ended { session, how, at };
        self.ended.lock().unwrap().push(ended);
    }
}
