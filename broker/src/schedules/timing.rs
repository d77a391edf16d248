//! When a schedule fires, and what of the missed is made up for. Pure; time is given.
//!
//! Times of a cron expression are those of the wall clocks in its zone. Where such a clock leaves
//! an hour out, a fixed time in it fires at the first moment after; where it shows an hour twice,
//! a fixed time fires once, and a repeated one (`*`) in both.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    limits::{MAX_CATCH_UP, MAX_CRON_BYTES, MIN_SCHEDULE_INTERVAL},
    metadata::schedules::{CatchUp, Schedule, When},
};

/// Times that are looked at in one step; the others come in the next.
const LOOKED_AT: usize = 2 * MAX_CATCH_UP as usize;
/// A firing is missed if it is late by more than this.
const MISSED_MS: i64 = 60_000;

/// When a schedule fires, read.
#[derive(Debug, Clone)]
pub(crate) enum Timing {
    Cron(Box<Cron>, TimeZone),
    Every { every_ms: i64, anchor_ms: i64 },
    Once(i64),
}

/// What is to be done for a schedule now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until this time; absent: never again.
    Wait(Option<i64>),
    /// It fires, for this time.
    Fire(i64),
    /// So many times up to this one are left out.
    Skip { to_ms: i64, count: u64 },
}

/// A field and what is wrong with it.
pub(crate) type Wrong = (&'static str, String);

impl Timing {
    /// Reads the times of a schedule.
    ///
    /// # Errors
    /// The field that cannot be, and why.
    pub(crate) fn read(when: Option<&When>, anchor_ms: i64) -> Result<Timing, Wrong> {
        match when {
            None => Err(("when", "say when: cron, every or once".into())),
            Some(When::Cron(cron)) => {
                let parser = CronParser::builder()
                    .seconds(Seconds::Disallowed)
                    .year(Year::Disallowed)
                    .build();
                let wrong = |why: String| ("cron.expression", why);
                check_cron(&cron.expression, &cron.zone)?;
                let expression = parser
                    .parse(&cron.expression)
                    .map_err(|error| wrong(error.to_string()))?;
                let zone = if cron.zone.is_empty() {
                    "UTC"
                } else {
                    &cron.zone
                };
                let zone =
                    TimeZone::get(zone).map_err(|error| ("cron.time_zone", error.to_string()))?;
                let timing = Timing::Cron(Box::new(expression), zone);
                match timing.next_after(anchor_ms) {
                    Some(_) => Ok(timing),
                    None => Err(wrong("there is no such time".into())),
                }
            }
            Some(When::EveryMs(every_ms)) => {
                let least_ms = MIN_SCHEDULE_INTERVAL.as_millis() as u64;
                match i64::try_from(*every_ms) {
                    Ok(every_ms) if every_ms.unsigned_abs() >= least_ms => Ok(Timing::Every {
                        every_ms,
                        anchor_ms,
                    }),
                    _ => Err(("every", format!("{every_ms} ms; at least {least_ms} ms"))),
                }
            }
            Some(When::OnceMs(at_ms)) if *at_ms > 0 => Ok(Timing::Once(*at_ms)),
            Some(When::OnceMs(_)) => Err(("once", "it lies before 1970".into())),
        }
    }

    /// The first time after this one.
    pub(crate) fn next_after(&self, after_ms: i64) -> Option<i64> {
        match self {
            Timing::Cron(cron, zone) => {
                let after = Timestamp::from_millisecond(after_ms).ok()?;
                let after = after.to_zoned(zone.clone());
                let next = cron.find_next_occurrence(&after, false).ok()?;
                let next_ms = next.timestamp().as_millisecond();
                // A promise of the crate that everything here rests upon.
                (next_ms > after_ms).then_some(next_ms)
            }
            Timing::Every {
                every_ms,
                anchor_ms,
            } => {
                let passed = after_ms.saturating_sub(*anchor_ms).max(0) / every_ms;
                anchor_ms.checked_add(every_ms.checked_mul(passed.checked_add(1)?)?)
            }
            Timing::Once(at_ms) => (*at_ms > after_ms).then_some(*at_ms),
        }
    }
}

/// Bounds, and what the parser takes without it meaning anything: a list with nothing in it
/// would be looked for through all times.
fn check_cron(expression: &str, zone: &str) -> Result<(), Wrong> {
    for (field, text) in [("cron.expression", expression), ("cron.time_zone", zone)] {
        if text.len() > MAX_CRON_BYTES {
            let why = format!("{} bytes, the limit is {MAX_CRON_BYTES}", text.len());
            return Err((field, why));
        }
    }
    let mut fields = expression.split_whitespace();
    if fields.any(|field| field.split(',').any(str::is_empty)) {
        let why = "a list has an empty part".to_owned();
        return Err(("cron.expression", why));
    }
    Ok(())
}

/// Very many times of an interval that are past, but for those that may be made up for.
fn far_behind(schedule: &Schedule, timing: &Timing, now_ms: i64) -> Option<Step> {
    let Timing::Every { every_ms, .. } = timing else {
        return None;
    };
    let first_ms = timing.next_after(schedule.after_ms)?;
    let past = now_ms.checked_sub(first_ms)? / every_ms + 1;
    let count = past - i64::from(MAX_CATCH_UP);
    (past > LOOKED_AT as i64).then_some(Step::Skip {
        to_ms: first_ms + (count - 1) * every_ms,
        count: count.unsigned_abs(),
    })
}

/// What is to be done for a schedule at this time of the wall clock.
pub(crate) fn step(schedule: &Schedule, timing: &Timing, now_ms: i64) -> Step {
    if let Some(skip) = far_behind(schedule, timing, now_ms) {
        return skip;
    }
    let (mut times, mut at_ms) = (Vec::new(), schedule.after_ms);
    while times.len() < LOOKED_AT {
        match timing.next_after(at_ms) {
            Some(next_ms) if next_ms <= now_ms => {
                times.push(next_ms);
                at_ms = next_ms;
            }
            next if times.is_empty() => return Step::Wait(next),
            _ => break,
        }
    }
    let is_missed = now_ms.saturating_sub(at_ms) > MISSED_MS;
    // What was past already when it was given is meant for now.
    let was_past = matches!(timing, Timing::Once(at_ms) if *at_ms <= schedule.anchor_ms);
    let keep = match schedule.catch_up() {
        CatchUp::Skip if is_missed && !was_past => 0,
        CatchUp::Skip | CatchUp::Once => 1,
        CatchUp::All => schedule.catch_up_limit.clamp(1, MAX_CATCH_UP) as usize,
    };
    // There may be more of them than were looked at, so fewer are left out than would be.
    let keep = if times.len() == LOOKED_AT {
        MAX_CATCH_UP as usize
    } else {
        keep
    };
    match times.len().saturating_sub(keep) {
        0 => Step::Fire(times[0]),
        count => Step::Skip {
            to_ms: times[count - 1],
            count: count as u64,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::schedules::Cron as SavedCron;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn cron(expression: &str, zone: &str) -> Result<Timing, Wrong> {
        let cron = SavedCron {
            expression: expression.into(),
            zone: zone.into(),
        };
        Timing::read(Some(&When::Cron(cron)), ms("2026-01-01T00:00:00Z"))
    }

    /// The next times after one, as text in UTC.
    fn times(timing: &Timing, after: &str, count: usize) -> Vec<String> {
        let next = |at: &i64| timing.next_after(*at);
        let times = std::iter::successors(Some(ms(after)), next).skip(1);
        let text = |at| Timestamp::from_millisecond(at).unwrap().to_string();
        times.take(count).map(text).collect()
    }

    #[test]
    fn times_follow_the_clocks_of_the_zone_over_both_changes() {
        let daily = cron("30 2 * * *", "Europe/Berlin").unwrap();
        // On 29 March 2026 the clocks there go from 2:00 to 3:00, on 25 October from 3:00 to 2:00.
        let spring = times(&daily, "2026-03-27T12:00:00Z", 4);
        assert_eq!(
            spring,
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z",
                "2026-03-31T00:30:00Z"
            ]
        );
        let autumn = times(&daily, "2026-10-23T12:00:00Z", 4);
        assert_eq!(
            autumn,
            [
                "2026-10-24T00:30:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-26T01:30:00Z",
                "2026-10-27T01:30:00Z"
            ],
            "once on the day with two of them"
        );
        let hourly = cron("0 * * * *", "Europe/Berlin").unwrap();
        let autumn = times(&hourly, "2026-10-24T23:30:00Z", 4);
        assert_eq!(
            autumn,
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T03:00:00Z"
            ],
            "every hour that passes"
        );
        let spring = times(&hourly, "2026-03-29T00:30:00Z", 2);
        assert_eq!(spring, ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]);
        let utc = cron("0 8 * * MON-FRI", "").unwrap();
        let friday = times(&utc, "2026-11-27T08:00:00Z", 2);
        assert_eq!(friday, ["2026-11-30T08:00:00Z", "2026-12-01T08:00:00Z"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (expression, zone, field) in [
            ("", "", "cron.expression"),
            ("* * * *", "", "cron.expression"),
            ("61 * * * *", "", "cron.expression"),
            ("* * * * * *", "", "cron.expression"),
            ("0 0 31 2 *", "", "cron.expression"),
            (", * * * *", "", "cron.expression"),
            ("0 1,,2 * * *", "", "cron.expression"),
            (&"0,".repeat(200), "", "cron.expression"),
            ("0 0 * * *", &"x".repeat(300), "cron.time_zone"),
            ("0 0 * * *", "Europe/Nowhere", "cron.time_zone"),
        ] {
            let (named, why) = cron(expression, zone).expect_err(expression);
            assert_eq!(named, field, "{why}");
        }
        let read = |when| Timing::read(when, 0).map(drop).map_err(|(field, _)| field);
        assert_eq!(read(None), Err("when"));
        assert_eq!(read(Some(&When::EveryMs(999))), Err("every"));
        assert_eq!(read(Some(&When::EveryMs(u64::MAX))), Err("every"));
        assert_eq!(read(Some(&When::EveryMs(1_000))), Ok(()));
        assert_eq!(read(Some(&When::OnceMs(-1))), Err("once"));
    }

    #[test]
    fn a_time_that_was_past_when_it_was_given_is_now_and_a_missed_one_is_not() {
        let when = Some(When::OnceMs(1_000));
        let timing = Timing::read(when.as_ref(), 0).unwrap();
        let given = |anchor_ms| Schedule {
            when: when.clone(),
            anchor_ms,
            after_ms: 999,
            ..Schedule::default()
        };
        assert_eq!(
            step(&given(10_000_000), &timing, 10_000_001),
            Step::Fire(1_000)
        );
        let missed = step(&given(500), &timing, 10_000_001);
        assert!(matches!(missed, Step::Skip { count: 1, .. }), "{missed:?}");
    }

    #[test]
    fn an_interval_that_is_far_behind_is_caught_up_in_one_step() {
        let (schedule, timing) = minutely(CatchUp::Skip, 0);
        let now_ms = 60_000 * 1_000_000_000;
        let Step::Skip { to_ms, count } = step(&schedule, &timing, now_ms) else {
            panic!("nothing is left out");
        };
        assert_eq!(count, 1_000_000_000 - u64::from(MAX_CATCH_UP));
        assert_eq!(to_ms, i64::try_from(count).unwrap() * 60_000);
    }

    fn minutely(catch_up: CatchUp, limit: u32) -> (Schedule, Timing) {
        let when = Some(When::EveryMs(60_000));
        let timing = Timing::read(when.as_ref(), 0).unwrap();
        let schedule = Schedule {
            when,
            catch_up: catch_up as i32,
            catch_up_limit: limit,
            ..Schedule::default()
        };
        (schedule, timing)
    }

    /// All steps at one time; firings by minute.
    fn all(mut schedule: Schedule, timing: &Timing, now_ms: i64) -> (Vec<i64>, u64) {
        let (mut fired, mut skipped) = (Vec::new(), 0);
        loop {
            match step(&schedule, timing, now_ms) {
                Step::Wait(next) => {
                    assert!(next.is_none_or(|next| next > now_ms));
                    return (fired, skipped);
                }
                Step::Fire(at_ms) => {
                    fired.push(at_ms / 60_000);
                    schedule.after_ms = at_ms;
                }
                Step::Skip { to_ms, count } => {
                    skipped += count;
                    schedule.after_ms = to_ms;
                }
            }
        }
    }

    #[test]
    fn what_was_missed_is_made_up_for_as_the_policy_says() {
        const MINUTE: i64 = 60_000;
        let (schedule, timing) = minutely(CatchUp::Skip, 0);
        assert_eq!(
            step(&schedule, &timing, MINUTE - 1),
            Step::Wait(Some(MINUTE))
        );
        assert_eq!(all(schedule.clone(), &timing, MINUTE), (vec![1], 0));
        // The last one is late and not missed; with 61 seconds, it would be.
        assert_eq!(all(schedule, &timing, 10 * MINUTE + 5), (vec![10], 9));
        let (mut schedule, hourly) = minutely(CatchUp::Skip, 0);
        schedule.when = Some(When::EveryMs(3_600_000));
        let hourly = match hourly {
            Timing::Every { anchor_ms, .. } => Timing::Every {
                every_ms: 3_600_000,
                anchor_ms,
            },
            other => other,
        };
        assert_eq!(all(schedule, &hourly, 125 * MINUTE), (vec![], 2));
        let (schedule, timing) = minutely(CatchUp::Once, 0);
        assert_eq!(all(schedule, &timing, 10 * MINUTE), (vec![10], 9));
        let (schedule, timing) = minutely(CatchUp::All, 3);
        assert_eq!(
            all(schedule.clone(), &timing, 10 * MINUTE),
            (vec![8, 9, 10], 7)
        );
        assert_eq!(all(schedule.clone(), &timing, 2 * MINUTE), (vec![1, 2], 0));
        // Far more than are looked at in one step.
        let last = 3 * LOOKED_AT as i64 + 17;
        let late = all(schedule, &timing, last * MINUTE);
        assert_eq!(late, (vec![last - 2, last - 1, last], last as u64 - 3));
    }

    #[test]
    fn once_is_once() {
        let when = Some(When::OnceMs(5_000));
        let timing = Timing::read(when.as_ref(), 0).unwrap();
        let mut schedule = Schedule {
            when,
            ..Schedule::default()
        };
        assert_eq!(step(&schedule, &timing, 4_999), Step::Wait(Some(5_000)));
        assert_eq!(step(&schedule, &timing, 5_000), Step::Fire(5_000));
        let late = Step::Skip {
            to_ms: 5_000,
            count: 1,
        };
        assert_eq!(step(&schedule, &timing, 5_000 + MISSED_MS + 1), late);
        schedule.catch_up = CatchUp::Once as i32;
        assert_eq!(step(&schedule, &timing, i64::MAX / 2), Step::Fire(5_000));
        schedule.after_ms = 5_000;
        assert_eq!(step(&schedule, &timing, i64::MAX / 2), Step::Wait(None));
    }
}
