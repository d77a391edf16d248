//! What must hold of dead letters: each message at most once, numbers without gaps and in order,
//! reason and counts that follow from what was seen; and at the end nothing is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    check::Facts,
    fates::Lease,
    history::{KeyOrder, Letter, Outcome, Rules, Said, Word},
};

type Messages<'a> = BTreeMap<(u32, u64), Vec<&'a Lease<'a>>>;

pub(super) fn check_letters(facts: &Facts<'_>, messages: &Messages<'_>) -> Result<(), String> {
    let mut dead: HashMap<(u32, u64), &Letter> = HashMap::new();
    let mut numbers: BTreeMap<u32, u64> = BTreeMap::new();
    for letter in facts.letters {
        if let Some(other) = dead.insert((letter.partition, letter.offset), letter) {
            return Err(format!("a dead letter twice: {other:?} and {letter:?}"));
        }
        let number = numbers.entry(letter.partition).or_default();
        *number += 1;
        if letter.number != *number {
            return Err(format!("number {number} is due, not {letter:?}"));
        }
        let lives = messages.get(&(letter.partition, letter.offset));
        check_letter(letter, lives.map_or(&[], Vec::as_slice), &facts.rules)?;
    }
    let Some(ends) = facts.ends else {
        return Ok(());
    };
    let acked = |said: &&Said| {
        said.word == Word::Ack && matches!(said.outcome, Outcome::Done | Outcome::Unknown)
    };
    let acked = facts.said.iter().filter(acked);
    let acked: BTreeSet<(u32, u64)> = acked.map(|said| (said.partition, said.offset)).collect();
    for (partition, end) in (0..).zip(ends) {
        for offset in 0..*end {
            let place = (partition, offset);
            let lives = messages.get(&place).map_or(&[][..], Vec::as_slice);
            let died = lives.iter().find(|lease| must_be_dead(lease, &facts.rules));
            if let Some(lease) = died.filter(|_| !dead.contains_key(&place)) {
                return Err(format!("dead without a letter: {lease:?}"));
            }
            if !dead.contains_key(&place) && !acked.contains(&place) {
                return Err(format!(
                    "neither acknowledged nor dead: {partition}:{offset}, seen {lives:?}"
                ));
            }
        }
    }
    check_parked(facts, &dead, messages)
}

fn must_be_dead(lease: &Lease<'_>, rules: &Rules) -> bool {
    match lease.done.map(|said| &said.word) {
        Some(Word::Dead { .. }) => true,
        Some(Word::Retry { .. }) => lease.given.attempt >= rules.max_attempts,
        _ => false,
    }
}

/// A letter beside the leases of its message.
fn check_letter(letter: &Letter, lives: &[&Lease<'_>], rules: &Rules) -> Result<(), String> {
    let last = lives.last();
    let tell = |what: &str| Err(format!("{what}: {letter:?}, last seen {last:?}"));
    let is_acked = |said: &&Said| said.word == Word::Ack;
    if lives.iter().any(|l| l.done.as_ref().is_some_and(is_acked)) {
        return tell("acknowledged and dead");
    }
    let seen = last.map_or((0, 0), |l| (l.given.attempt, l.given.hand_outs));
    if letter.hand_outs < seen.1 || letter.attempts + 1 < seen.0 {
        return tell("a dead letter with lower counts");
    }
    let unseen = letter.hand_outs - seen.1;
    let is_possible = match letter.reason.as_str() {
        "ATTEMPTS" => {
            letter.attempts == rules.max_attempts && (unseen > 0 || seen.0 == letter.attempts)
        }
        "REJECTED" => {
            let says_so = |said: &&Said| {
                matches!(said.word, Word::Dead { .. })
                    && matches!(said.outcome, Outcome::Done | Outcome::Unknown)
            };
            let last = last.is_some_and(|lease| lease.said.iter().copied().any(|s| says_so(&s)));
            last && unseen == 0 && letter.attempts == seen.0
        }
        "HAND_OUTS" => {
            letter.hand_outs >= rules.max_hand_outs && letter.attempts < rules.max_attempts
        }
        "PARKED" => rules.order == KeyOrder::Park,
        "EXPIRED" => true,
        _ => false,
    };
    if !is_possible {
        return tell("a dead letter whose reason or counts cannot be");
    }
    let Some(done) = last.and_then(|lease| lease.done).filter(|_| unseen == 0) else {
        return Ok(());
    };
    let error = match &done.word {
        Word::Retry { error, .. } | Word::Dead { error } => error,
        Word::Release if letter.reason == "ATTEMPTS" => {
            return tell("dead of attempts, and given back");
        }
        Word::Release | Word::Ack | Word::Extend { .. } => return Ok(()),
    };
    let ended_so = letter.reason != "PARKED" && letter.reason != "EXPIRED";
    if ended_so && !error.is_empty() && letter.error != *error {
        return tell("a dead letter with another error");
    }
    Ok(())
}

/// All later messages of a parked key are dead letters too, and were not handed out after.
fn check_parked(
    facts: &Facts<'_>,
    dead: &HashMap<(u32, u64), &Letter>,
    messages: &Messages<'_>,
) -> Result<(), String> {
    if facts.rules.order != KeyOrder::Park {
        return Ok(());
    }
    let mut parked: HashMap<(u32, &str), &Letter> = HashMap::new();
    let failed = facts.letters.iter().filter(|l| l.reason != "EXPIRED");
    for letter in failed.filter(|letter| !letter.key.is_empty()) {
        let first = parked.entry((letter.partition, &letter.key));
        let first = first.or_insert(letter);
        if letter.offset < first.offset {
            *first = letter;
        }
    }
    for ((partition, offset), lives) in messages {
        let key = (*partition, lives[0].given.key.as_str());
        let Some(first) = parked.get(&key).filter(|first| first.offset < *offset) else {
            continue;
        };
        if !dead.contains_key(&(*partition, *offset)) || !lives.is_empty() {
            return Err(format!(
                "behind the dead {first:?}, but handed out: {lives:?}"
            ));
        }
    }
    Ok(())
}
