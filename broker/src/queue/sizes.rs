//! What the core takes: bytes, checked; and time, printed by tests that are asked for by name
//! (`--ignored`).

use std::time::Instant;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    command::{Action, Batch, Command, Grant, Kind, Retry, Verdict, Verdicts},
    known::Attributes,
    policy::{Order, Priorities},
    schedule::{Rules, Schedule},
    state::State,
    time::Now,
    view::Standing,
};
use crate::limits::MAX_HISTORY_BYTES;

fn begun(end: u64) -> State {
    let mut state = State::default();
    apply(&mut state, 0, end, vec![Kind::Begin(0)]);
    state
}

fn apply(state: &mut State, now_ms: i64, end: u64, kinds: Vec<Kind>) -> super::state::Applied {
    let batch = Batch {
        now_ms,
        discard_dead: false,
        commands: kinds.into_iter().map(Command::new).collect(),
    };
    state.apply(&batch, end)
}

fn lease(state: &State, run: std::ops::Range<u64>, deadline_ms: i64) -> Kind {
    Kind::Lease(Grant {
        consumer: 9,
        deadline_ms,
        runs: vec![run.into()],
        epoch: state.epoch(),
    })
}

fn settle(verdicts: Vec<Verdict>) -> Kind {
    let consumer = None;
    Kind::Settle(Verdicts { consumer, verdicts })
}

#[test]
fn a_million_open_messages_take_forty_megabytes_and_ten_bytes_each_when_saved() {
    const END: u64 = 1_000_000;
    let mut state = begun(END);
    let start_ms = 1_800_000_000_000;
    let mut random = StdRng::seed_from_u64(3);
    for first in (0..END).step_by(1_000) {
        let now_ms = start_ms + first as i64 / 100;
        let grant = lease(&state, first..first + 1_000, now_ms + 30_000);
        apply(&mut state, now_ms, END, vec![grant]);
    }
    println!(
        "leased: {} MB, saved {} MB",
        state.bytes() / 1_000_000,
        state.save().len() / 1_000_000
    );
    assert!(state.bytes() <= 40_000_000 && state.save().len() <= 10_000_000);
    for first in (0..END).step_by(1_000) {
        let now_ms = start_ms + 10_000 + first as i64 / 100;
        let verdict = |offset: u64| Verdict {
            first: offset,
            count: 1,
            lease: offset + 1,
            action: Some(Action::Retry(Retry {
                at_ms: now_ms + random.random_range(480_000..600_000),
                error: String::new(),
            })),
        };
        let verdicts = (first..first + 1_000).map(verdict).collect();
        apply(&mut state, now_ms, END, vec![settle(verdicts)]);
    }
    let saved = state.save();
    println!(
        "retrying: {} MB, saved {} MB",
        state.bytes() / 1_000_000,
        saved.len() / 1_000_000
    );
    assert_eq!(state.open(0).count() as u64, END);
    // Histories of attempts have their own room, and do not fill it with one more byte.
    let histories = state.histories.bytes();
    println!("of that histories of attempts: {histories} bytes");
    assert!(histories <= MAX_HISTORY_BYTES && histories + 200 > MAX_HISTORY_BYTES);
    assert!(state.bytes() - histories <= 40_000_000 && saved.len() <= 10_000_000);
    assert_eq!(State::load(&saved).unwrap().save(), saved);
}

/// A fifth of the ten million for which 50 MB and a snapshot of 10 MB are promised.
#[test]
fn what_is_left_open_when_nine_in_ten_are_settled_at_random_keeps_no_room_of_the_others() {
    const END: u64 = 2_000_000;
    let mut state = begun(END);
    let mut random = StdRng::seed_from_u64(5);
    for first in (0..END).step_by(10_000) {
        let now_ms = 1_800_000_000_000 + first as i64 / 100;
        let grant = lease(&state, first..first + 10_000, now_ms + 30_000);
        apply(&mut state, now_ms, END, vec![grant]);
        let verdict = |offset: u64| Verdict {
            first: offset,
            count: 1,
            lease: offset + 1,
            action: Some(match random.random_bool(0.9) {
                true => Action::Ack(true),
                false => Action::Retry(Retry {
                    at_ms: now_ms + 86_400_000,
                    error: String::new(),
                }),
            }),
        };
        let verdicts = (first..first + 10_000).map(verdict).collect();
        apply(&mut state, now_ms, END, vec![settle(verdicts)]);
    }
    let saved = state.save().len();
    println!(
        "2 M, 1 in 10 open: {} kB, saved {} kB",
        state.bytes() / 1_000,
        saved / 1_000
    );
    // Histories of attempts have their own room.
    let histories = state.histories.bytes();
    assert!(state.bytes() - histories <= 10_000_000 && histories <= MAX_HISTORY_BYTES);
    assert!(saved <= 2_000_000);
}

#[test]
fn ten_million_ready_messages_in_order_take_a_window() {
    let state = begun(10_000_000);
    let mut schedule = Schedule::new(Rules::default(), &state);
    schedule.scanned_plain(schedule.scan_wanted(10_000_000));
    println!("a window: {} kB", schedule.bytes() / 1_000);
    assert!(schedule.bytes() <= 1_000_000);
    let rules = Rules {
        priorities: Priorities::Strict,
        ..Rules::default()
    };
    let mut all = Schedule::new(rules, &state);
    all.scanned_plain(0..10_000_000);
    println!("10 M, priorities on: {} kB", all.bytes() / 1_000);
    assert!(all.bytes() <= 2_000_000);
}

#[test]
fn delays_and_blocked_keys_stay_small() {
    let state = begun(10_000_000);
    let mut schedule = Schedule::new(Rules::default(), &state);
    for offset in 0..1_000_000 {
        let attributes = Attributes {
            delay_until_ms: Some(1_000_000 + (offset * 7_919 % 86_400_000) as i64),
            ..Attributes::default()
        };
        schedule.scanned(offset, &attributes, Standing::Fresh);
    }
    println!("1 M delayed: {} MB", schedule.bytes() / 1_000_000);
    assert!(schedule.bytes() <= 45_000_000);
    let rules = Rules {
        order: Order::PerKey,
        ..Rules::default()
    };
    let mut schedule = Schedule::new(rules, &state);
    for offset in 0..2_000_000 {
        let attributes = Attributes {
            key_hash: Some(offset % 2),
            ..Attributes::default()
        };
        schedule.scanned(offset, &attributes, Standing::Fresh);
        if offset % 100_000 == 0 {
            schedule.next(Now::both(0), 1_000_000);
        }
    }
    schedule.next(Now::both(0), 1_000_000);
    println!(
        "2 M waiting behind two keys: {} kB",
        schedule.bytes() / 1_000
    );
    assert!(schedule.bytes() <= 1_000_000);
}

/// Hands out what can be and leases it, until nothing more comes; the offsets.
fn take_all(schedule: &mut Schedule, state: &mut State, end: u64, keys: u64) -> Vec<u64> {
    let mut taken = Vec::new();
    loop {
        let wanted = schedule.scan_wanted(end);
        for offset in wanted.start..wanted.end.min(wanted.start + 50_000) {
            let attributes = Attributes {
                key_hash: Some(offset % keys),
                ..Attributes::default()
            };
            schedule.scanned(offset, &attributes, state.standing(offset));
        }
        let runs = schedule.next(Now::both(1), 50_000);
        if runs.is_empty() && wanted.is_empty() {
            return taken;
        }
        taken.extend(runs.iter().cloned().flatten());
        let grants = runs.into_iter().map(|run| lease(state, run, 30_000));
        let grants = grants.collect();
        let applied = apply(state, 1, end, grants);
        let events = applied.events.iter();
        events.for_each(|event| schedule.follow(event));
    }
}

#[test]
fn a_million_keys_have_an_order_each_at_a_bounded_price() {
    const KEYS: u64 = 1_000_000;
    const END: u64 = KEYS + 100_000;
    let mut state = begun(END);
    let rules = Rules {
        order: Order::PerKey,
        ..Rules::default()
    };
    let mut schedule = Schedule::new(rules, &state);
    let taken = take_all(&mut schedule, &mut state, END, KEYS);
    assert!(taken.iter().copied().eq(0..KEYS), "the first of each key");
    let (of_schedule, of_state) = (schedule.bytes(), state.bytes());
    println!(
        "1 M keys in flight: schedule {} MB, state {} MB",
        of_schedule / 1_000_000,
        of_state / 1_000_000
    );
    assert!(of_schedule <= 220_000_000 && of_state <= 45_000_000);
    // The next of a key comes after the verdict on the one before, and no other does.
    let mut next = KEYS;
    for first in (0..KEYS).step_by(50_000) {
        let verdict = Verdict {
            first,
            count: 50_000,
            lease: first + 1,
            action: Some(Action::Ack(true)),
        };
        let applied = apply(&mut state, 2, END, vec![settle(vec![verdict])]);
        let events = applied.events.iter();
        events.for_each(|event| schedule.follow(event));
        let taken = take_all(&mut schedule, &mut state, END, KEYS);
        let expected = next..END.min(next + 50_000);
        assert!(taken.iter().copied().eq(expected.clone()), "{first}");
        next = expected.end;
    }
    let left: Vec<u64> = state.held(0).map(|held| held.offset).collect();
    assert!(left.iter().copied().eq(KEYS..END));
    // Keys of which nothing is left cost nothing.
    println!("100,000 in flight: {} MB", schedule.bytes() / 1_000_000);
    assert!(schedule.bytes() <= of_schedule / 4);
}

/// Leases and settles everything in runs of 100; nanoseconds a message.
fn work(rules: Rules, of: impl Fn(u64) -> Attributes) -> f64 {
    const COUNT: u64 = 1_000_000;
    let mut state = begun(COUNT);
    let mut schedule = Schedule::new(rules, &state);
    let begin = Instant::now();
    let (mut done, mut now_ms) = (0, 0);
    while done < COUNT {
        let wanted = schedule.scan_wanted(COUNT);
        for offset in wanted.start..wanted.end.min(wanted.start + 1_000) {
            let (attributes, standing) = (of(offset), state.standing(offset));
            schedule.scanned(offset, &attributes, standing);
        }
        now_ms += 1;
        let mut verdicts = Vec::new();
        let runs = schedule.next(Now::both(now_ms), 100);
        let kinds = runs
            .into_iter()
            .map(|run| lease(&state, run, now_ms + 30_000))
            .collect();
        let applied = apply(&mut state, now_ms, COUNT, kinds);
        applied
            .events
            .iter()
            .for_each(|event| schedule.follow(event));
        for span in applied
            .replies
            .replies
            .iter()
            .flat_map(|reply| &reply.spans)
        {
            done += span.count;
            verdicts.push(Verdict {
                first: span.first,
                count: span.count,
                lease: span.lease,
                action: Some(Action::Ack(true)),
            });
        }
        let applied = apply(&mut state, now_ms, COUNT, vec![settle(verdicts)]);
        applied
            .events
            .iter()
            .for_each(|event| schedule.follow(event));
    }
    assert_eq!(state.floor(), COUNT);
    begin.elapsed().as_nanos() as f64 / COUNT as f64
}

#[test]
fn a_message_from_scan_to_ack() {
    let plain = work(Rules::default(), |_| Attributes::default());
    let keyed = Rules {
        order: Order::PerKey,
        ..Rules::default()
    };
    let key = |offset: u64| offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 10_000;
    let keyed = work(keyed, |offset| Attributes {
        key_hash: Some(key(offset)),
        ..Attributes::default()
    });
    let weighted = Rules {
        priorities: Priorities::Weighted,
        ..Rules::default()
    };
    let weighted = work(weighted, |offset| Attributes {
        priority: (key(offset) % 10) as u8,
        ..Attributes::default()
    });
    println!("ns a message: plain {plain:.0}, 10,000 keys {keyed:.0}, weighted {weighted:.0}");
}

/// A million messages, leased to a thousand consumers by turns, and prolonged at random times: the
/// leases of a consumer, and those that end together, lie as far apart as they can.
#[test]
fn a_million_leases_far_apart_stay_small_and_are_found_at_once() {
    const COUNT: u64 = 1_000_000;
    let mut state = begun(COUNT);
    let mut random = StdRng::seed_from_u64(5);
    let mut now_ms = 1_800_000_000_000;
    for turn in 0..1_000 {
        let grants = (0..COUNT / 1_000).map(|nth| {
            let offset = nth * 1_000 + turn;
            Kind::Lease(Grant {
                consumer: 1 + turn * 7_919 % 1_000,
                deadline_ms: now_ms + random.random_range(20_000..50_000),
                runs: vec![(offset..offset + 1).into()],
                epoch: state.epoch(),
            })
        });
        let grants = grants.collect();
        now_ms += 1;
        apply(&mut state, now_ms, COUNT, grants);
    }
    assert_eq!(state.in_flight(), COUNT);
    println!("leased far apart: {} MB", state.bytes() / 1_000_000);
    assert!(state.bytes() <= 65_000_000);
    let micros = |begin: Instant| begin.elapsed().as_micros();
    let begin = Instant::now();
    let all = state
        .held(0)
        .filter(|held| held.lease.consumer == 7)
        .count() as u64;
    let (by_look, begin) = (micros(begin), Instant::now());
    assert_eq!(
        (state.held_by(7).count() as u64, all),
        (state.held_count(7), 1_000)
    );
    let (by_index, begin) = (micros(begin), Instant::now());
    let first = state.held(0).map(|held| held.lease.deadline_ms).min();
    let (least_by_look, begin) = (micros(begin), Instant::now());
    let (overdue, next) = state.overdue(now_ms, 10_000);
    println!(
        "of one consumer: {by_look} µs by looking at all, {by_index} µs; the next end: {least_by_look} µs, {} µs",
        micros(begin)
    );
    assert_eq!((overdue.len(), next), (0, first));
}
