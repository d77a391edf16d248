//! Single rules of state and schedule, each by name. The model test covers their mixture.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one run is meant"
)]

mod histories;

use super::{
    command::{
        Action, Batch, Command, Death, Delay, DropReason, Dropping, Grant, Kind, Reason, Replies,
        Reply, Retry, Status, Verdict, Verdicts,
    },
    events::Event,
    known::Attributes,
    parcel::{Completion, Parcel},
    policy::{OnKeyFailure, Order},
    record::Phase,
    schedule::{Rules, Schedule, WINDOW},
    state::State,
    time::{Next, Now},
    view::{Standing, Tally},
};
use crate::limits::{MAX_FAILURE_BYTES, MAX_LEASES_PER_GRANT};

const END: u64 = 100;

fn apply(state: &mut State, now_ms: i64, kind: Kind) -> Reply {
    let batch = Batch {
        now_ms,
        discard_dead: false,
        commands: vec![Command::new(kind)],
    };
    state.apply(&batch, END).replies.replies.remove(0)
}

fn begun() -> State {
    let mut state = State::default();
    apply(&mut state, 0, Kind::Begin(0));
    state
}

fn grant(state: &State, run: std::ops::Range<u64>, deadline_ms: i64) -> Kind {
    Kind::Lease(Grant {
        consumer: 1,
        deadline_ms,
        runs: vec![run.into()],
        epoch: state.epoch(),
    })
}

fn verdict(first: u64, count: u64, lease: u64, action: Action) -> Verdicts {
    let action = Some(action);
    Verdicts {
        consumer: None,
        verdicts: vec![Verdict {
            first,
            count,
            lease,
            action,
        }],
    }
}

fn spans(reply: &Reply) -> Vec<(u64, u64, Status)> {
    let spans = reply.spans.iter();
    spans
        .map(|span| (span.first, span.count, span.status()))
        .collect()
}

fn retry(at_ms: i64, error: &str) -> Action {
    let error = error.to_owned();
    Action::Retry(Retry { at_ms, error })
}

fn death(reason: Reason) -> Action {
    Action::Dead(Death {
        reason: reason as i32,
        ..Death::default()
    })
}

#[test]
fn a_lease_ends_at_its_deadline_whether_or_not_the_expiry_was_logged() {
    let mut state = begun();
    let lease = grant(&state, 0..3, 1_000);
    assert_eq!(apply(&mut state, 0, lease).spans[0].lease, 1);
    let ack = |offset| Kind::Settle(verdict(offset, 1, offset + 1, Action::Ack(true)));
    assert_eq!(
        spans(&apply(&mut state, 999, ack(0))),
        [(0, 1, Status::Done)]
    );
    assert_eq!(
        spans(&apply(&mut state, 1_000, ack(1))),
        [(1, 1, Status::LeaseLost)]
    );
    let again = grant(&state, 1..2, 9_000);
    assert_eq!(
        spans(&apply(&mut state, 1_000, again)),
        [(1, 1, Status::Leased)]
    );
    let expire = Kind::Expire(verdict(1, 2, 2, retry(1_500, "")));
    assert_eq!(
        spans(&apply(&mut state, 1_000, expire)),
        [(1, 2, Status::Done)]
    );
    // A time that goes back does not make a lease valid again.
    let expire = Kind::Expire(verdict(1, 1, 2, retry(1_500, "")));
    assert_eq!(
        spans(&apply(&mut state, 0, expire)),
        [(1, 1, Status::LeaseLost)]
    );
    let early = grant(&state, 1..3, 9_000);
    assert_eq!(
        spans(&apply(&mut state, 1_499, early)),
        [(1, 2, Status::NotDue)]
    );
    let due = grant(&state, 1..3, 9_000);
    assert_eq!(apply(&mut state, 1_500, due).spans[0].lease, 4);
    let Standing::Open(record) = state.standing(1) else {
        panic!("open")
    };
    assert_eq!(
        (record.failed, record.hand_outs, record.first_failure_ms),
        (1, 2, 1_000)
    );
}

#[test]
fn an_extension_beats_the_expiry_that_was_decided_before_it() {
    let mut state = begun();
    let lease = grant(&state, 0..1, 1_000);
    apply(&mut state, 0, lease);
    let extend = |until| Kind::Settle(verdict(0, 1, 1, Action::Extend(until)));
    apply(&mut state, 10, extend(2_000));
    apply(&mut state, 10, extend(500));
    let expire = Kind::Expire(verdict(0, 1, 1, retry(0, "")));
    assert_eq!(
        spans(&apply(&mut state, 1_999, expire.clone())),
        [(0, 1, Status::NotDue)]
    );
    assert_eq!(
        spans(&apply(&mut state, 2_000, expire)),
        [(0, 1, Status::Done)]
    );
}

#[test]
fn a_seek_makes_fresh_and_fences_what_was_chosen_before() {
    let mut state = begun();
    let lease = grant(&state, 0..4, 1_000);
    apply(&mut state, 0, lease);
    apply(
        &mut state,
        1,
        Kind::Settle(verdict(0, 2, 1, Action::Ack(true))),
    );
    apply(
        &mut state,
        1,
        Kind::Settle(verdict(2, 1, 3, death(Reason::Rejected))),
    );
    let old = grant(&state, 50..60, 1_000);
    let dropping = Kind::Drop(Dropping {
        runs: vec![(50..60).into()],
        reason: DropReason::Parked as i32,
        discard: false,
        epoch: state.epoch(),
    });
    apply(&mut state, 2, Kind::Seek(1));
    assert_eq!(apply(&mut state, 2, old).status(), Status::Fenced);
    assert_eq!(apply(&mut state, 2, dropping).status(), Status::Fenced);
    assert_eq!((state.floor(), state.in_flight()), (1, 0));
    assert_eq!(state.standing(2), Standing::Fresh);
    let late = Kind::Settle(verdict(3, 1, 4, Action::Ack(true)));
    assert_eq!(
        spans(&apply(&mut state, 3, late)),
        [(3, 1, Status::LeaseLost)]
    );
    let lease = grant(&state, 1..3, 1_000);
    assert_eq!(apply(&mut state, 3, lease).spans[0].lease, 5);
    // The dead letter of before the seek keeps its number.
    assert_eq!(
        state
            .dead_letters(0)
            .map(|(n, d)| (n, d.offset))
            .collect::<Vec<_>>(),
        [(1, 2)]
    );
    assert_eq!(
        apply(&mut state, 3, Kind::Seek(END + 1)).status(),
        Status::BeyondEnd
    );
}

#[test]
fn a_trim_takes_leased_messages_and_leaves_dead_letters() {
    let mut state = begun();
    let lease = grant(&state, 0..10, 1_000);
    apply(&mut state, 0, lease);
    let error = "x".repeat(MAX_FAILURE_BYTES - 1) + "é";
    let dead = Action::Dead(Death {
        reason: Reason::Rejected as i32,
        error,
        ..Death::default()
    });
    apply(&mut state, 1, Kind::Settle(verdict(4, 1, 5, dead)));
    apply(&mut state, 1, Kind::Trim(8));
    assert_eq!(
        (state.floor(), state.in_flight(), state.counters().trimmed),
        (8, 2, 7)
    );
    assert_eq!(
        state.dead_error(1).map(str::len),
        Some(MAX_FAILURE_BYTES - 1)
    );
    assert_eq!(
        apply(&mut state, 1, Kind::DeadWritten(2)).status(),
        Status::BeyondEnd
    );
    apply(&mut state, 1, Kind::DeadWritten(1));
    assert_eq!(state.dead_written_to(), 1);
    let mut tally = Tally {
        now_ms: 1,
        ..Tally::default()
    };
    assert_eq!(state.tally(0, 1, &mut tally), Some(9));
    assert_eq!(state.tally(9, 9, &mut tally), None);
    let counts = state.counts(8..END, &tally);
    assert_eq!((counts.ready, counts.leased, counts.done), (90, 2, 0));
    apply(&mut state, 1, Kind::Seek(0));
    assert_eq!(state.floor(), 8);
}

#[test]
fn absurd_commands_are_refused_and_change_nothing() {
    let mut state = State::default();
    let lease = grant(&state, 0..1, 1_000);
    assert_eq!(apply(&mut state, 0, lease).status(), Status::NotBegun);
    assert_eq!(
        apply(&mut state, 0, Kind::Begin(END + 1)).status(),
        Status::BeyondEnd
    );
    apply(&mut state, 0, Kind::Begin(3));
    let before = state.save();
    let too_many = grant(&state, 0..MAX_LEASES_PER_GRANT + 1, 1_000);
    assert_eq!(apply(&mut state, 0, too_many).status(), Status::TooMany);
    let over = grant(&state, 0..1, 0);
    assert_eq!(apply(&mut state, 0, over).status(), Status::LeaseLost);
    let all = grant(&state, 0..5, 1_000);
    let expected = [(0, 3, Status::Settled), (3, 2, Status::Done)];
    assert_eq!(spans(&apply(&mut state.clone(), 0, all)), expected);
    let far = grant(&state, END..END + 5, 1_000);
    assert_eq!(
        spans(&apply(&mut state, 0, far)),
        [(END, 5, Status::BeyondEnd)]
    );
    let endless = Kind::Settle(verdict(u64::MAX - 1, u64::MAX, u64::MAX, Action::Ack(true)));
    assert_eq!(apply(&mut state, 0, endless).spans.len(), 1);
    let everything = Kind::Settle(verdict(0, u64::MAX, 0, death(Reason::Unknown)));
    assert_eq!(
        apply(&mut state, 0, everything).spans[0].status(),
        Status::Unreadable
    );
    let drops = |reason| {
        Kind::Drop(Dropping {
            runs: vec![(0..u64::MAX).into()],
            reason,
            discard: true,
            epoch: state.epoch(),
        })
    };
    let (unknown, cancelled) = (drops(77), drops(DropReason::Cancelled as i32));
    assert_eq!(apply(&mut state, 0, unknown).status(), Status::Unreadable);
    assert_eq!(state.save(), before);
    let expected = [
        (0, 3, Status::Settled),
        (3, 97, Status::Done),
        (END, u64::MAX - END, Status::BeyondEnd),
    ];
    assert_eq!(spans(&apply(&mut state, 0, cancelled)), expected);
    assert_eq!(state.floor(), END);
    let empty = Batch {
        commands: vec![Command::default()],
        ..Batch::default()
    };
    let Replies { replies } = state.apply(&empty, END).replies;
    assert_eq!(replies[0].status(), Status::Unreadable);
}

#[test]
fn damaged_saves_are_errors() {
    let mut state = begun();
    for (run, now_ms) in [(0..20, 10), (40..43, 20), (90..95, 30)] {
        let lease = grant(&state, run, 1_000 + now_ms);
        apply(&mut state, now_ms, lease);
    }
    apply(
        &mut state,
        40,
        Kind::Settle(verdict(3, 4, 4, retry(5_000, "late"))),
    );
    apply(
        &mut state,
        41,
        Kind::Settle(verdict(41, 1, 22, death(Reason::Attempts))),
    );
    apply(
        &mut state,
        42,
        Kind::Settle(verdict(90, 2, 24, Action::Release(true))),
    );
    let parcel = Parcel {
        topic_id: 7,
        partition: 1,
        key: Some("k".into()),
        value: Some("v".into()),
        ..Parcel::default()
    };
    let step = Completion {
        verdicts: verdict(92, 3, 26, Action::Ack(true)),
        results: vec![parcel.clone(), parcel],
    };
    let made = apply(&mut state, 43, Kind::Complete(step));
    assert_eq!((made.status(), made.numbers), (Status::Done, vec![1, 2]));
    let saved = state.save();
    for len in 0..saved.len() {
        assert!(State::load(&saved[..len]).is_err(), "{len}");
    }
    let mut loaded = 0;
    for at in 0..saved.len() {
        for bit in 0..8 {
            let mut damaged = saved.clone();
            damaged[at] ^= 1 << bit;
            // A checksum is the checkpoint's; here it must only not panic, nor load what
            // saves differently.
            if let Ok(state) = State::load(&damaged) {
                loaded += 1;
                let again = state.save();
                assert_eq!(State::load(&again).map(|state| state.save()), Ok(again));
            }
        }
    }
    println!("{loaded} of {} damaged ones load", saved.len() * 8);
}

/// A schedule of `state`, scanned with the attributes that `of` gives.
fn scheduled(rules: Rules, state: &State, of: impl Fn(u64) -> Attributes) -> Schedule {
    let mut schedule = Schedule::new(rules, state);
    for offset in state.floor()..END {
        schedule.scanned(offset, &of(offset), state.standing(offset));
    }
    schedule
}

#[test]
fn delays_are_never_early_and_late_ones_come_at_once() {
    let state = begun();
    let mut schedule = scheduled(Rules::default(), &state, |offset| Attributes {
        delay_until_ms: (offset < 50).then_some(1_000 + offset as i64),
        expires_at_ms: (offset == 7).then_some(1_005),
        is_wanted: offset != 60,
        ..Attributes::default()
    });
    assert_eq!(schedule.next(Now::both(999), 1_000), [50..60, 61..100]);
    let due = Next {
        steady_ms: None,
        wall_ms: Some(1_000),
    };
    assert_eq!(schedule.next_due(), due);
    assert_eq!(schedule.next(Now::both(1_001), 1_000), [0..2]);
    assert_eq!(schedule.expired(1_006, 10), [7]);
    assert_eq!(schedule.next(Now::both(9_999), 1_000), [2..7, 8..50]);
    assert_eq!(schedule.unmatched(10), [60..61]);
    assert_eq!((schedule.in_flight(), schedule.ready()), (98, 0));
}

#[test]
fn a_failing_key_stops_nobody_however_far_its_messages_lie() {
    let state = begun();
    let rules = Rules {
        order: Order::PerKey,
        on_key_failure: OnKeyFailure::BlockKey,
        ..Rules::default()
    };
    let key = |offset| if offset < 90 { 7 } else { offset };
    let mut schedule = scheduled(rules, &state, |offset| Attributes {
        key_hash: Some(key(offset)),
        ..Attributes::default()
    });
    assert_eq!(schedule.next(Now::both(0), 1_000), [0..1, 90..100]);
    schedule.follow(&Event::Retry {
        run: 0..1,
        at_ms: 500,
    });
    assert_eq!(schedule.next(Now::both(499), 1_000), []);
    assert_eq!(schedule.next(Now::both(500), 1_000), [0..1]);
    schedule.follow(&Event::Acked { run: 0..1 });
    assert_eq!(schedule.next(Now::both(500), 1_000), [1..2]);
}

#[test]
fn a_dead_letter_parks_its_key_until_it_is_unparked() {
    let mut state = begun();
    let rules = Rules {
        order: Order::PerKey,
        on_key_failure: OnKeyFailure::ParkKey,
        ..Rules::default()
    };
    let of = |offset| Attributes {
        key_hash: Some(offset % 2),
        ..Attributes::default()
    };
    let mut schedule = scheduled(rules, &state, of);
    assert_eq!(schedule.next(Now::both(0), 1_000), [0..2]);
    let lease = grant(&state, 0..2, 1_000);
    apply(&mut state, 0, lease);
    let dead = Action::Dead(Death {
        reason: Reason::Attempts as i32,
        park_key: Some(0),
        ..Death::default()
    });
    let batch = Batch {
        now_ms: 1,
        discard_dead: false,
        commands: vec![Command::new(Kind::Settle(verdict(0, 1, 1, dead)))],
    };
    for event in state.apply(&batch, END).events {
        schedule.follow(&event);
    }
    assert_eq!(schedule.next(Now::both(1), 1_000), []);
    assert_eq!(schedule.parked(2), [2..3, 4..5]);
    // The same from the state alone, after a change of leaders.
    let mut rebuilt = scheduled(rules, &state, of);
    assert_eq!(rebuilt.next(Now::both(1), 1_000), []);
    assert_eq!(rebuilt.parked(1), [2..3]);
    apply(&mut state, 2, Kind::Unpark(0));
    rebuilt.follow(&Event::Unparked { key: 0 });
    rebuilt.give_back_leaving(2..3, DropReason::Parked);
    assert_eq!(rebuilt.next(Now::both(2), 1_000), [2..3]);
}

#[test]
fn a_window_is_enough_without_priorities() {
    let mut state = begun();
    let mut schedule = Schedule::new(Rules::default(), &state);
    assert_eq!(schedule.scan_wanted(10 * WINDOW), 0..WINDOW);
    schedule.scanned_plain(0..WINDOW);
    assert_eq!(schedule.scan_wanted(10 * WINDOW), WINDOW..WINDOW);
    schedule.next(Now::both(0), 10);
    assert_eq!(schedule.scan_wanted(10 * WINDOW), WINDOW..WINDOW + 10);
    let rules = Rules {
        priorities: super::policy::Priorities::Strict,
        ..Rules::default()
    };
    let all = Schedule::new(rules, &state);
    assert_eq!(all.scan_wanted(10 * WINDOW), 0..10 * WINDOW);
    // A leased message far away holds its key: it must be known first.
    let lease = grant(&state, 80..81, 1_000);
    apply(&mut state, 0, lease);
    let rules = Rules {
        order: Order::PerKey,
        ..Rules::default()
    };
    let mut keyed = Schedule::new(rules, &state);
    keyed.scanned_plain(0..80);
    assert_eq!(keyed.next(Now::both(0), 1), []);
    let attributes = Attributes::default();
    keyed.scanned(80, &attributes, state.standing(80));
    assert_eq!(keyed.next(Now::both(0), 1), [0..1]);
    let is_leased =
        |standing| matches!(standing, Standing::Open(r) if matches!(r.phase, Phase::Leased(_)));
    assert!(is_leased(state.standing(80)));
}

/// Delays go by the wall clock and retries by the steady one, whatever the other shows.
#[test]
fn a_step_of_the_wall_clock_moves_delays_and_no_retry() {
    let mut state = begun();
    let mut schedule = Schedule::new(Rules::default(), &state);
    let delayed = Attributes {
        delay_until_ms: Some(1_000),
        ..Attributes::default()
    };
    let expiring = Attributes {
        expires_at_ms: Some(5_000),
        ..Attributes::default()
    };
    schedule.scanned(0, &delayed, Standing::Fresh);
    schedule.scanned(1, &delayed, Standing::Fresh);
    schedule.scanned(2, &expiring, Standing::Fresh);
    schedule.scanned_plain(3..4);
    let at = |steady_ms, wall_ms| Now { steady_ms, wall_ms };
    assert_eq!(schedule.next(at(9_000, 999), 1), [2..3]);
    assert_eq!(schedule.next(at(9_000, 999), 9), [3..4]);
    let lease = grant(&state, 3..4, 20_000);
    apply(&mut state, 9_000, lease);
    let retry = Action::Retry(Retry {
        at_ms: 9_500,
        error: String::new(),
    });
    let verdict = verdict(3, 1, 1, retry);
    let batch = Batch {
        now_ms: 9_100,
        commands: vec![Command::new(Kind::Settle(verdict))],
        ..Batch::default()
    };
    for event in state.apply(&batch, END).events {
        schedule.follow(&event);
    }
    // An hour ahead: the delays are over, the retry waits.
    assert_eq!(schedule.next(at(9_499, 3_600_000), 9), [0..2]);
    assert_eq!(schedule.next(at(9_499, 3_600_000), 9), []);
    // An hour back: the retry comes all the same.
    assert_eq!(schedule.next(at(9_500, -3_600_000), 9), [3..4]);
}

#[test]
fn another_delay_replaces_the_first_until_the_message_is_handed_out() {
    let mut state = begun();
    let mut schedule = Schedule::new(Rules::default(), &state);
    let delayed = Attributes {
        delay_until_ms: Some(1_000),
        ..Attributes::default()
    };
    schedule.scanned(0, &delayed, Standing::Fresh);
    schedule.scanned_plain(1..2);
    let change = |state: &mut State, schedule: &mut Schedule, offset, until_ms| {
        let delay = Delay {
            offset,
            until_ms,
            epoch: state.epoch(),
        };
        let batch = Batch {
            commands: vec![Command::new(Kind::Delay(delay))],
            ..Batch::default()
        };
        let applied = state.apply(&batch, END);
        applied
            .events
            .iter()
            .for_each(|event| schedule.follow(event));
        applied.replies.replies[0].status()
    };
    assert_eq!(change(&mut state, &mut schedule, 0, 3_000), Status::Done);
    assert_eq!(change(&mut state, &mut schedule, 1, 500), Status::Done);
    assert_eq!(
        schedule.delays((0, 0)).collect::<Vec<_>>(),
        [(500, 1), (3_000, 0)]
    );
    assert_eq!(schedule.next(Now::both(2_999), 9), [1..2]);
    // A new leader knows it from the state, not from the log.
    let state = &mut State::load(&state.save()).unwrap();
    let mut rebuilt = Schedule::new(Rules::default(), state);
    for offset in 0..2 {
        rebuilt.scanned(offset, &delayed, state.standing(offset));
    }
    assert_eq!(rebuilt.next(Now::both(2_999), 9), [1..2]);
    assert_eq!(rebuilt.next(Now::both(3_000), 9), [0..1]);
    let lease = grant(state, 0..1, 9_000);
    apply(state, 3_000, lease);
    assert_eq!(change(state, &mut rebuilt, 0, 1), Status::Leased);
    let release = verdict(0, 1, 1, Action::Release(true));
    apply(state, 3_000, Kind::Settle(release));
    assert_eq!(change(state, &mut rebuilt, 0, 1), Status::HandedOut);
    assert_eq!(change(state, &mut rebuilt, END, 1), Status::BeyondEnd);
}
