//! What must hold with order per key: never two messages of a key in flight, first hand-outs by
//! offset; and where failures block the key, a message is through before the next begins.

use std::collections::HashMap;

use super::{
    check::Facts,
    fates::{Fate, Lease, Leases, ROUNDED_MS},
    history::{KeyOrder, Rules},
};

pub(super) fn check_keys(facts: &Facts<'_>, leases: &Leases<'_>) -> Result<(), String> {
    let rules = &facts.rules;
    if rules.order == KeyOrder::None {
        return Ok(());
    }
    // In order of lease numbers, as they were granted.
    let mut keys: HashMap<(u32, &str), Vec<&Lease<'_>>> = HashMap::new();
    for lease in leases.values() {
        let key = lease.given.key.as_str();
        if !key.is_empty() {
            let key = (lease.given.partition, key);
            keys.entry(key).or_default().push(lease);
        }
    }
    for lives in keys.values() {
        for pair in lives.windows(2) {
            if pair[0].given.offset != pair[1].given.offset {
                check_apart(pair[0], pair[1], rules)?;
            }
        }
        let is_first = |lease: &&&Lease<'_>| lease.given.hand_outs == 1;
        let firsts: Vec<_> = lives.iter().filter(is_first).collect();
        let all: Vec<_> = lives.iter().collect();
        let ordered = if rules.order == KeyOrder::Skip {
            firsts
        } else {
            all
        };
        for pair in ordered.windows(2) {
            if pair[0].given.offset > pair[1].given.offset {
                let (before, after) = (pair[0].given, pair[1].given);
                return Err(format!("a key out of order: {before:?}, then {after:?}"));
            }
        }
    }
    Ok(())
}

/// The one lease was over when the other was granted.
fn check_apart(before: &Lease<'_>, after: &Lease<'_>, rules: &Rules) -> Result<(), String> {
    let granted_ms = after.granted_ms(rules);
    let over =
        |fate: &Fate| after.given.at.us >= fate.over_us && granted_ms + ROUNDED_MS >= fate.over_ms;
    if before.fates(rules).iter().any(over) {
        return Ok(());
    }
    let after = after.given;
    Err(format!("two of a key in flight: {before:?} and {after:?}"))
}
