//! What must hold of a queue group, whatever happened to it:
//! 1. a lease number is given once, and grows: per session, per message, and over restarts;
//! 2. no two leases of a message are valid at a time: the one before was settled, its holder
//!    gone, or its deadline over when the next was granted;
//! 3. attempts are exactly one more than the failures before, and hand-outs one more than the
//!    leases before; what nobody received may have failed or not, but is counted as handed out;
//! 4. a retry, also after an expiry or a loss, is not handed out before its time;
//! 5. what was acknowledged or is dead never comes back;
//! 6. a verdict under an old lease is refused, one under a valid lease is taken, once;
//! 7. in the end every message is acknowledged or a dead letter, never both (`letters`);
//! 8. with order per key: one at a time, first hand-outs by offset (`keys`).

use std::collections::BTreeMap;

use super::{
    fates::{Fate, Lease, Leases, ROUNDED_MS, SLACK_MS, SLACK_US, leases},
    history::{Clock, Ended, Given, Letter, Outcome, Rules, Said, Word},
    keys::check_keys,
    letters::check_letters,
};

/// A run to be checked.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The policy.
    pub rules: Rules,
    /// Deliveries; those of a session in the order in which it got them.
    pub given: &'a [Given],
    /// Verdicts.
    pub said: &'a [Said],
    /// Ends of sessions.
    pub ended: &'a [Ended],
    /// What the dead-letter topic holds, in its order.
    pub letters: &'a [Letter],
    /// The end of each partition, if everything was worked off.
    pub ends: Option<&'a [u64]>,
}

/// How much was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Deliveries.
    pub given: usize,
    /// Of them second and later ones.
    pub again: usize,
    /// Verdicts that were taken.
    pub taken: usize,
    /// `LEASE_LOST`.
    pub lost: usize,
    /// Verdicts without an answer.
    pub unknown: usize,
    /// Dead letters.
    pub letters: usize,
}

/// Checks a run.
///
/// # Errors
/// The first rule that does not hold, in words.
pub fn check(facts: &Facts<'_>) -> Result<Summary, String> {
    let leases = leases(facts.given, facts.said, (facts.ended, &facts.rules))?;
    check_growth(facts.given)?;
    let mut messages: BTreeMap<(u32, u64), Vec<&Lease<'_>>> = BTreeMap::new();
    for lease in leases.values() {
        let place = (lease.given.partition, lease.given.offset);
        messages.entry(place).or_default().push(lease);
    }
    for lives in messages.values() {
        check_counts(lives[0].given, &facts.rules)?;
        for pair in lives.windows(2) {
            check_pair(pair[0], pair[1], &facts.rules)?;
        }
        check_old_leases(lives)?;
    }
    for lease in leases.values() {
        check_verdicts(lease, &facts.rules)?;
    }
    check_letters(facts, &messages)?;
    check_keys(facts, &leases)?;
    Ok(summary(facts, &leases, messages.len()))
}

fn summary(facts: &Facts<'_>, leases: &Leases<'_>, messages: usize) -> Summary {
    let count = |outcome| facts.said.iter().filter(|s| s.outcome == outcome).count();
    Summary {
        given: leases.len(),
        again: leases.len() - messages,
        taken: count(Outcome::Done),
        lost: count(Outcome::LeaseLost),
        unknown: count(Outcome::Unknown),
        letters: facts.letters.len(),
    }
}

/// Numbers grow within a session, and from one run of the broker to the next.
fn check_growth(given: &[Given]) -> Result<(), String> {
    let mut last: BTreeMap<(u64, u32), &Given> = BTreeMap::new();
    let mut runs: BTreeMap<(u32, u32), (&Given, &Given)> = BTreeMap::new();
    for given in given {
        if given.session > 0
            && let Some(before) = last.insert((given.session, given.partition), given)
            && before.lease >= given.lease
        {
            return Err(format!("leases do not grow: {before:?}, then {given:?}"));
        }
        let run = runs.entry((given.partition, given.run));
        let (least, most) = run.or_insert((given, given));
        if given.lease < least.lease {
            *least = given;
        }
        if given.lease > most.lease {
            *most = given;
        }
    }
    for (before, after) in runs.iter().zip(runs.iter().skip(1)) {
        let ((partition, _), (_, most)) = before;
        let ((same, _), (least, _)) = after;
        if partition == same && most.lease >= least.lease {
            return Err(format!(
                "leases do not grow over a restart: {most:?}, then {least:?}"
            ));
        }
    }
    Ok(())
}

/// Every lease but the present one may have failed, and there is an end to both.
fn check_counts(given: &Given, rules: &Rules) -> Result<(), String> {
    let (attempt, hand_outs) = (given.attempt, given.hand_outs);
    let within = (1..=rules.max_attempts).contains(&attempt)
        && (attempt..=rules.max_hand_outs).contains(&hand_outs);
    if !within || (attempt > 1) != (given.first_failure_ms > 0) {
        return Err(format!("counts that cannot be: {given:?}"));
    }
    Ok(())
}

/// Two leases of one message, none seen between.
fn check_pair(before: &Lease<'_>, after: &Lease<'_>, rules: &Rules) -> Result<(), String> {
    let (first, next) = (before.given, after.given);
    let tell = |what: &str| Err(format!("{what}: {before:?}, then {next:?}"));
    if next.attempt < first.attempt || next.hand_outs <= first.hand_outs {
        return tell("attempts decrease, or hand-outs do not grow");
    }
    check_counts(next, rules)?;
    // Told in wall time, so it is rounded anew, and moves with the clock.
    let moved_ms = (next.first_failure_ms - first.first_failure_ms).abs();
    if rules.clock == Clock::True && first.first_failure_ms > 0 && moved_ms > SLACK_MS {
        return tell("the first failure is another one");
    }
    let unseen = next.hand_outs - first.hand_outs - 1;
    let fates = before.fates(rules);
    let ways: Vec<&Fate> = fates.iter().filter(|fate| !fate.is_final).collect();
    if ways.is_empty() {
        return tell("what was finished comes back");
    }
    let granted_ms = after.granted_ms(rules);
    let over =
        |fate: &&&Fate| next.at.us >= fate.over_us && granted_ms + ROUNDED_MS >= fate.over_ms;
    let over: Vec<&&Fate> = ways.iter().filter(over).collect();
    if over.is_empty() {
        return tell("two leases are valid at a time");
    }
    let failures = next.attempt - first.attempt;
    let counted = |fate: &&&&Fate| (fate.failures..=fate.failures + unseen).contains(&failures);
    let counted: Vec<&&&Fate> = over.iter().filter(counted).collect();
    if counted.is_empty() {
        return tell("the attempt is not what the failures make it");
    }
    let in_time = |fate: &&&&Fate| {
        next.at.us + SLACK_US >= fate.again_us && granted_ms + ROUNDED_MS >= fate.again_ms
    };
    if !counted.iter().any(in_time) {
        return tell("handed out again before its time");
    }
    let error = match before.done.map(|said| &said.word) {
        Some(Word::Retry { error, .. }) if unseen == 0 && !error.is_empty() => error,
        _ => return Ok(()),
    };
    if next.last_error != *error {
        return tell("the last error is another one");
    }
    Ok(())
}

/// Nothing is taken under a lease when a later one was seen already.
fn check_old_leases(lives: &[&Lease<'_>]) -> Result<(), String> {
    for (n, lease) in lives.iter().enumerate() {
        let Some(next) = lives[n + 1..].iter().map(|l| l.given.at.us).min() else {
            continue;
        };
        let old = |said: &&&Said| said.outcome == Outcome::Done && said.sent.us > next;
        if let Some(said) = lease.said.iter().find(old) {
            return Err(format!("taken under an old lease: {said:?} of {lease:?}"));
        }
    }
    Ok(())
}

/// One verdict ends a lease; none is taken after it is over; a valid one is not refused.
fn check_verdicts(lease: &Lease<'_>, rules: &Rules) -> Result<(), String> {
    let mut finished: Option<&Said> = None;
    for said in &lease.said {
        let is_verdict = !matches!(said.word, Word::Extend { .. });
        match said.outcome {
            Outcome::Done => {
                if let Some(first) = finished.filter(|f| f.answered.us < said.sent.us || is_verdict)
                {
                    return Err(format!("taken twice: {first:?} and {said:?}"));
                }
                if rules.clock == Clock::True && said.sent.wall_ms > lease.over_by_ms + SLACK_MS {
                    return Err(format!("taken when it was over: {said:?} of {lease:?}"));
                }
                if is_verdict {
                    finished = Some(said);
                }
            }
            Outcome::LeaseLost => check_lost(lease, said, rules)?,
            Outcome::Refused | Outcome::Unknown => {}
        }
    }
    Ok(())
}

fn check_lost(lease: &Lease<'_>, lost: &Said, rules: &Rules) -> Result<(), String> {
    let valid = lease.is_valid_at(lost.answered, rules);
    let gone = lease.ended.is_some_and(|end| end.at.us <= lost.answered.us);
    let settled = lease.said.iter().any(|said| {
        !matches!(said.word, Word::Extend { .. })
            && matches!(said.outcome, Outcome::Done | Outcome::Unknown)
            && said.sent.us <= lost.answered.us
    });
    if valid && !gone && !settled {
        return Err(format!(
            "a valid lease is said to be lost: {lost:?} of {lease:?}"
        ));
    }
    Ok(())
}
