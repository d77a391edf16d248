//! The checks find what is planted, and let pass what may happen.

use super::{
    check::{Facts, check},
    history::{
        Backoff, Clock, End, Ended, Given, KeyOrder, Letter, Moment, Outcome, Rules, Said, Word,
    },
};

const RULES: Rules = Rules {
    lease_ms: 1_000,
    max_attempts: 3,
    max_hand_outs: 5,
    backoff: Backoff {
        initial_ms: 100,
        factor_percent: 200,
        max_ms: 1_000,
        jitter_percent: 0,
    },
    order: KeyOrder::None,
    clock: Clock::True,
};

fn at(ms: u64) -> Moment {
    Moment {
        us: ms * 1_000,
        wall_ms: i64::try_from(ms).unwrap(),
    }
}

/// One message's run, event by event.
#[derive(Clone, Default)]
struct Run {
    given: Vec<Given>,
    said: Vec<Said>,
    ended: Vec<Ended>,
    letters: Vec<Letter>,
    order: KeyOrder,
    clock: Option<Clock>,
    ends: Option<Vec<u64>>,
}

impl Run {
    /// A lease granted and received at this time.
    fn give(mut self, ms: u64, offset: u64, (lease, attempt, hand_outs): (u64, u32, u32)) -> Run {
        self.given.push(Given {
            session: 1,
            offset,
            attempt,
            hand_outs,
            lease,
            deadline_ms: i64::try_from(ms).unwrap() + RULES.lease_ms,
            first_failure_ms: i64::from(attempt > 1),
            at: at(ms),
            key: "k".to_owned(),
            ..Given::default()
        });
        self
    }

    /// A verdict under a lease that was given, answered 1 ms later.
    fn say(mut self, ms: u64, lease: u64, word: Word, outcome: Outcome) -> Run {
        let offset = self.given.iter().find(|given| given.lease == lease);
        self.said.push(Said {
            partition: 0,
            offset: offset.map_or(0, |given| given.offset),
            lease,
            word,
            sent: at(ms),
            outcome,
            answered: at(ms + 1),
        });
        self
    }

    fn end(mut self, ms: u64, how: End) -> Run {
        let (session, at) = (1, at(ms));
        self.ended.push(Ended { session, how, at });
        self
    }

    fn letter(mut self, offset: u64, reason: &str, (attempts, hand_outs): (u32, u32)) -> Run {
        self.letters.push(Letter {
            offset,
            number: self.letters.len() as u64 + 1,
            attempts,
            hand_outs,
            reason: reason.to_owned(),
            key: "k".to_owned(),
            ..Letter::default()
        });
        self
    }

    fn drained(mut self, end: u64) -> Run {
        self.ends = Some(vec![end]);
        self
    }

    fn by_key(mut self, order: KeyOrder) -> Run {
        self.order = order;
        self
    }

    fn check(&self) -> Result<(), String> {
        let order = self.order;
        let facts = Facts {
            rules: Rules {
                order,
                clock: self.clock.unwrap_or(RULES.clock),
                ..RULES
            },
            given: &self.given,
            said: &self.said,
            ended: &self.ended,
            letters: &self.letters,
            ends: self.ends.as_deref(),
        };
        check(&facts).map(drop)
    }

    #[track_caller]
    fn is_fine(&self) {
        assert_eq!(self.check(), Ok(()));
    }

    #[track_caller]
    fn is_found(&self, what: &str) {
        let found = self.check().expect_err("not found");
        assert!(found.contains(what), "found something else: {found}");
    }
}

fn run() -> Run {
    Run::default()
}

fn retry() -> Word {
    Word::Retry {
        after_ms: None,
        error: String::new(),
    }
}

fn dead() -> Word {
    Word::Dead {
        error: String::new(),
    }
}

use Outcome::{Done, LeaseLost, Unknown};

#[test]
fn a_good_life_passes() {
    let life = run()
        .give(10, 0, (1, 1, 1))
        .say(20, 1, retry(), Done)
        .give(125, 0, (2, 2, 2))
        .say(130, 2, Word::Release, Done)
        .give(131, 0, (3, 2, 3))
        // The lease ends at 1131, the wait is 200.
        .give(1_340, 0, (4, 3, 4))
        .say(1_350, 4, Word::Ack, Done)
        .say(1_360, 3, Word::Ack, LeaseLost);
    life.clone().drained(1).is_fine();
    life.give(9_000, 0, (5, 3, 5))
        .is_found("finished comes back");
}

#[test]
fn leases_that_overlap_are_found() {
    let first = run().give(10, 0, (1, 1, 1));
    first
        .clone()
        .give(500, 0, (2, 2, 2))
        .is_found("valid at a time");
    first
        .clone()
        .give(500, 0, (2, 1, 2))
        .is_found("valid at a time");
    let extend = Word::Extend { by_ms: 5_000 };
    let longer = first.clone().say(20, 1, extend, Done);
    longer
        .clone()
        .give(2_000, 0, (2, 2, 2))
        .is_found("valid at a time");
    longer.give(5_200, 0, (2, 2, 2)).is_fine();
    // Given back only after it was handed out again.
    let late = first.clone().give(500, 0, (2, 1, 2));
    late.say(600, 1, Word::Release, Done)
        .is_found("valid at a time");
    let twice = first.clone().give(20, 1, (1, 1, 1));
    twice.is_found("given twice");
    first.give(20, 1, (0, 1, 1)).is_found("do not grow");
}

#[test]
fn wrong_attempts_are_found() {
    let failed = run().give(10, 0, (1, 1, 1)).say(20, 1, retry(), Done);
    failed
        .clone()
        .give(200, 0, (2, 1, 2))
        .is_found("the attempt");
    failed.clone().give(200, 0, (2, 3, 3)).is_fine();
    failed.clone().give(200, 0, (2, 4, 4)).is_found("cannot be");
    let two = Run::default()
        .give(10, 0, (1, 2, 2))
        .say(20, 1, Word::Release, Done);
    two.give(200, 0, (2, 3, 3)).is_found("the attempt");
    failed
        .clone()
        .give(200, 0, (2, 2, 1))
        .is_found("hand-outs do not grow");
    let released = run().give(10, 0, (1, 1, 1)).say(20, 1, Word::Release, Done);
    released
        .clone()
        .give(30, 0, (2, 2, 2))
        .is_found("the attempt");
    released.give(30, 0, (2, 1, 2)).is_fine();
    let second = run().give(10, 0, (1, 2, 2));
    second.is_fine();
    second
        .give(3_000, 0, (2, 1, 3))
        .is_found("attempts decrease");
    run().give(10, 0, (1, 2, 1)).is_found("cannot be");
    run().give(10, 0, (1, 0, 1)).is_found("cannot be");
}

#[test]
fn early_retries_are_found() {
    let after = |ms| Word::Retry {
        after_ms: Some(ms),
        error: String::new(),
    };
    let failed = run().give(10, 0, (1, 1, 1));
    let slow = failed.clone().say(20, 1, after(700), Done);
    slow.clone()
        .give(600, 0, (2, 2, 2))
        .is_found("before its time");
    slow.give(721, 0, (2, 2, 2)).is_fine();
    let usual = failed.clone().say(20, 1, retry(), Done);
    usual.give(80, 0, (2, 2, 2)).is_found("before its time");
    // An expiry waits too.
    failed
        .clone()
        .give(1_050, 0, (2, 2, 2))
        .is_found("before its time");
    failed.clone().give(1_111, 0, (2, 2, 2)).is_fine();
    let cut = failed.clone().end(50, End::Cut);
    cut.clone()
        .give(80, 0, (2, 2, 2))
        .is_found("before its time");
    cut.clone().give(160, 0, (2, 2, 2)).is_fine();
    cut.give(160, 0, (2, 1, 2)).is_found("the attempt");
    let closed = failed.clone().end(50, End::Closed);
    closed.clone().give(60, 0, (2, 1, 2)).is_fine();
    closed.give(160, 0, (2, 2, 2)).is_found("the attempt");
    let left = failed.end(50, End::Left);
    left.give(160, 0, (2, 2, 2)).is_found("valid at a time");
}

#[test]
fn the_unknown_may_have_been_or_not() {
    let unknown = run().give(10, 0, (1, 1, 1)).say(20, 1, Word::Ack, Unknown);
    unknown.clone().drained(1).is_fine();
    unknown.clone().give(1_111, 0, (2, 2, 2)).is_fine();
    unknown
        .clone()
        .give(100, 0, (2, 1, 2))
        .is_found("valid at a time");
    // Lost when it was valid: then it had been taken.
    let taken = unknown.say(50, 1, Word::Ack, LeaseLost);
    taken
        .give(1_111, 0, (2, 2, 2))
        .is_found("finished comes back");
    let released = run()
        .give(10, 0, (1, 1, 1))
        .say(20, 1, Word::Release, Unknown);
    released.clone().give(25, 0, (2, 1, 2)).is_fine();
    released.give(1_111, 0, (2, 2, 2)).is_fine();
}

#[test]
fn verdicts_taken_or_refused_wrongly_are_found() {
    let first = run().give(10, 0, (1, 1, 1));
    let old = first.clone().give(1_200, 0, (2, 2, 2));
    old.clone().say(1_300, 1, Word::Ack, LeaseLost).is_fine();
    old.say(1_300, 1, Word::Ack, Done).is_found("back");
    let old = first.clone().give(1_200, 0, (2, 2, 2));
    old.say(1_300, 1, retry(), Done).is_found("valid at a time");
    let late = first.clone().say(1_200, 1, Word::Ack, Done);
    late.is_found("when it was over");
    first
        .clone()
        .say(500, 1, Word::Ack, LeaseLost)
        .is_found("said to be lost");
    let cut = first.clone().end(400, End::Cut);
    cut.say(500, 1, Word::Ack, LeaseLost).is_fine();
    let twice = first.clone().say(20, 1, Word::Ack, Done);
    twice.say(30, 1, Word::Ack, Done).is_found("taken twice");
    first.say(20, 7, Word::Ack, Done).is_found("nobody has");
}

#[test]
fn wrong_dead_letters_are_found() {
    let third = run().give(10, 0, (1, 3, 3)).say(20, 1, retry(), Done);
    third.clone().drained(1).is_found("dead without a letter");
    let died = third.clone().letter(0, "ATTEMPTS", (3, 3));
    died.clone().drained(1).is_fine();
    died.clone().letter(0, "ATTEMPTS", (3, 3)).is_found("twice");
    died.give(2_000, 0, (2, 3, 4)).is_found("comes back");
    third
        .clone()
        .letter(0, "ATTEMPTS", (2, 3))
        .is_found("cannot be");
    third
        .clone()
        .letter(0, "REJECTED", (3, 3))
        .is_found("cannot be");
    third.letter(0, "ATTEMPTS", (3, 2)).is_found("lower counts");
    let first = run().give(10, 0, (1, 1, 1));
    first
        .clone()
        .letter(0, "ATTEMPTS", (3, 1))
        .is_found("cannot be");
    first.clone().letter(0, "ATTEMPTS", (3, 3)).is_fine();
    let acked = first.clone().say(20, 1, Word::Ack, Done);
    acked
        .letter(0, "ATTEMPTS", (3, 3))
        .is_found("acknowledged and dead");
    let rejected = first.say(20, 1, dead(), Done);
    rejected
        .clone()
        .drained(1)
        .is_found("dead without a letter");
    rejected.letter(0, "REJECTED", (1, 1)).drained(1).is_fine();
    let mut gap = run().letter(0, "HAND_OUTS", (0, 5));
    gap.letters[0].number = 2;
    gap.is_found("number 1 is due");
}

#[test]
fn what_is_lost_is_found() {
    let acked = run().give(10, 0, (1, 1, 1)).say(20, 1, Word::Ack, Done);
    acked.clone().drained(1).is_fine();
    acked.drained(2).is_found("neither acknowledged nor dead");
    let given = run().give(10, 0, (1, 1, 1));
    given.drained(1).is_found("neither acknowledged nor dead");
}

#[test]
fn leases_that_do_not_grow_over_a_restart_are_found() {
    let mut both = run().give(10, 0, (5, 1, 1)).give(20, 1, (4, 1, 1));
    both.given[1].run = 1;
    both.given[1].session = 2;
    both.is_found("over a restart");
    both.given[1].lease = 6;
    both.is_fine();
}

#[test]
fn a_key_twice_in_flight_or_out_of_order_is_found() {
    let first = run().by_key(KeyOrder::Skip).give(10, 0, (1, 1, 1));
    first.clone().give(20, 1, (2, 1, 1)).is_found("in flight");
    first.clone().give(1_011, 1, (2, 1, 1)).is_fine();
    let acked = first.clone().say(15, 1, Word::Ack, Done);
    acked.clone().give(20, 1, (2, 1, 1)).is_fine();
    let failed = first.say(15, 1, retry(), Done);
    let skipped = failed.give(20, 1, (2, 1, 1)).say(30, 2, Word::Ack, Done);
    let back = skipped.give(200, 0, (3, 2, 2));
    back.is_fine();
    back.by_key(KeyOrder::Block).is_found("out of order");
    let turned = run().by_key(KeyOrder::Skip).give(10, 1, (1, 1, 1));
    let turned = turned.say(15, 1, Word::Ack, Done);
    turned.give(20, 0, (2, 1, 1)).is_found("out of order");
}

#[test]
fn what_is_handed_out_behind_a_parked_key_is_found() {
    let died = run().by_key(KeyOrder::Park).give(10, 0, (1, 1, 1));
    let died = died.say(20, 1, dead(), Done).letter(0, "REJECTED", (1, 1));
    let parked = died.clone().letter(1, "PARKED", (0, 0));
    parked.drained(2).is_fine();
    let on = died.give(30, 1, (2, 1, 1)).say(40, 2, Word::Ack, Done);
    on.drained(2).is_found("behind the dead");
}

#[test]
fn a_clock_that_steps_makes_no_lease_shorter() {
    let mut first = run().give(10, 0, (1, 1, 1));
    // What deadlines say is nothing to go by; the lease was not granted before 10 ms.
    (first.given[0].asked_us, first.given[0].deadline_ms) = (10_000, -3_600_000);
    let with = |clock, run: Run| Run {
        clock: Some(clock),
        ..run
    };
    let early = first.clone().give(500, 0, (2, 2, 2));
    with(Clock::Stepped, early.clone()).is_found("valid at a time");
    with(Clock::Wild, early).is_fine();
    let in_time = first.clone().give(1_200, 0, (2, 2, 2));
    with(Clock::Stepped, in_time).is_fine();
    let lost = first.clone().say(500, 1, Word::Ack, LeaseLost);
    with(Clock::Stepped, lost).is_found("said to be lost");
    let late = first.clone().give(500, 0, (2, 2, 2));
    let late = late.say(600, 1, retry(), Done);
    with(Clock::Wild, late).is_found("valid at a time");
}
