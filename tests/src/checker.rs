//! What must hold of a history, whatever happened while it was made.
//!
//! Given the input's lines, the acknowledgements and everything a reader found:
//! 1. offsets of a partition are dense from 0 and each is seen once, in order;
//! 2. every acknowledged line is stored at the place its acknowledgement named;
//! 3. no two acknowledgements name one place for different lines;
//! 4. every record has its line's key, and all records of a key lie in one partition;
//! 5. records of one key are in the order of the input, each line once.
//!
//! A line without an acknowledgement is *unknown*: it may be stored or not.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Acknowledged, Stored};

/// Checks a history of keyed lines that were published in order, possibly with retries.
/// `lines` is the input once; line n of the history is `lines[(n - 1) % lines.len()]`.
///
/// # Errors
/// The first rule that does not hold, in words.
pub fn check_publish_history(
    lines: &[String],
    key_of: impl Fn(&str) -> &str,
    acks: &[Acknowledged],
    stored: &[Stored],
) -> Result<(), String> {
    let text = |line: u64| lines[((line - 1) % lines.len() as u64) as usize].as_str();
    check_dense(stored)?;
    let places: HashMap<(u32, u64), &Stored> = stored
        .iter()
        .map(|record| ((record.partition, record.offset), record))
        .collect();
    let mut named: HashMap<(u32, u64), u64> = HashMap::new();
    let mut at: HashMap<u64, (u32, u64)> = HashMap::new();
    for ack in acks {
        let place = (ack.partition, ack.offset);
        let Some(record) = places.get(&place) else {
            return Err(format!("acknowledged and missing: {ack:?}"));
        };
        if record.value.as_deref() != Some(text(ack.line)) {
            return Err(format!("{ack:?} holds another value: {:?}", record.value));
        }
        if let Some(other) = named.insert(place, ack.line)
            && other != ack.line
        {
            return Err(format!(
                "lines {other} and {} share the place {place:?}",
                ack.line
            ));
        }
        if let Some(other) = at.insert(ack.line, place)
            && other != place
        {
            return Err(format!(
                "line {} was acknowledged at {other:?} and {place:?}",
                ack.line
            ));
        }
    }
    check_keys(lines, key_of, stored)
}

/// Every offset of every partition once, from 0, in order.
///
/// # Errors
/// The first gap, repeat or disorder.
pub fn check_dense(stored: &[Stored]) -> Result<(), String> {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for record in stored {
        let expected = next.entry(record.partition).or_default();
        if record.offset != *expected {
            return Err(format!(
                "partition {}: offset {} where {expected} was due",
                record.partition, record.offset
            ));
        }
        *expected += 1;
    }
    Ok(())
}

/// Each key in one partition, its records equal to the beginning of its lines of the
/// input, repeated for ever: so each line at most once, none left out, in order.
fn check_keys(
    lines: &[String],
    key_of: impl Fn(&str) -> &str,
    stored: &[Stored],
) -> Result<(), String> {
    let mut by_key: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in lines {
        by_key.entry(key_of(line)).or_default().push(line);
    }
    let mut seen: HashMap<&str, (u32, usize)> = HashMap::new();
    for record in stored {
        let (Some(key), Some(value)) = (record.key.as_deref(), record.value.as_deref()) else {
            return Err(format!("a record without key or value: {record:?}"));
        };
        let Some(expected) = by_key.get(key) else {
            return Err(format!("a key that was never published: {key:?}"));
        };
        let (partition, count) = seen.entry(key).or_insert((record.partition, 0));
        if *partition != record.partition {
            return Err(format!(
                "key {key:?} in partitions {partition} and {}",
                record.partition
            ));
        }
        let due = expected[*count % expected.len()];
        if value != due {
            return Err(format!(
                "key {key:?}, its record {count} (partition {}, offset {}): found {value:?}, due {due:?}",
                record.partition, record.offset
            ));
        }
        *count += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<String> {
        ["a 1", "b 1", "a 2"].map(str::to_owned).to_vec()
    }

    fn key(line: &str) -> &str {
        &line[..1]
    }

    fn stored(partition: u32, offset: u64, value: &str) -> Stored {
        Stored {
            partition,
            offset,
            timestamp: 0,
            key: Some(key(value).to_owned()),
            value: Some(value.to_owned()),
        }
    }

    fn ack(partition: u32, offset: u64, line: u64) -> Acknowledged {
        Acknowledged {
            partition,
            offset,
            line,
        }
    }

    /// The checker must be able to fail: each rule has a history that breaks only it.
    #[test]
    fn each_rule_is_noticed() {
        let whole = [
            stored(0, 0, "a 1"),
            stored(0, 1, "a 2"),
            stored(1, 0, "b 1"),
        ];
        let acks = [ack(0, 0, 1), ack(1, 0, 2), ack(0, 1, 3)];
        let check = |acks: &[Acknowledged], stored: &[Stored]| {
            check_publish_history(&lines(), key, acks, stored)
        };
        check(&acks, &whole).unwrap();
        check(&[], &whole).unwrap();
        check(&acks[..1], &whole[..1]).unwrap();
        let broken: [(&str, &[Acknowledged], &[Stored]); 7] = [
            ("acknowledged and missing", &acks, &whole[..2]),
            ("where 0 was due", &[], &[stored(0, 1, "a 1")]),
            (
                "where 1 was due",
                &[],
                &[stored(0, 0, "a 1"), stored(0, 0, "a 1")],
            ),
            ("holds another value", &[ack(0, 0, 3)], &whole),
            ("share the place", &[ack(0, 0, 1), ack(0, 0, 4)], &whole),
            (
                "in partitions",
                &[],
                &[stored(0, 0, "a 1"), stored(1, 0, "a 2")],
            ),
            (
                "found \"a 2\"",
                &[],
                &[stored(0, 0, "a 2"), stored(0, 1, "a 1")],
            ),
        ];
        for (words, acks, stored) in broken {
            let why = check(acks, stored).unwrap_err();
            assert!(why.contains(words), "{why} does not say {words:?}");
        }
    }
}
