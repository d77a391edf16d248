//! Which dead letters are meant. Pure.

use std::collections::BTreeSet;

use aqueduct_proto::attributes;
use bytes::Bytes;

use super::letter::Letter;
use crate::{
    error::Refusal,
    limits::{MAX_DEAD_LETTER_IDS, MAX_FAILURE_BYTES},
    queue::{command::Reason, filter::Filter},
};

/// All that is set must hold; nothing is set: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Any of these.
    pub(crate) reasons: BTreeSet<Reason>,
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Filter,
    pub(crate) died_from_ms: Option<i64>,
    /// Exclusive.
    pub(crate) died_until_ms: Option<i64>,
    pub(crate) error_contains: String,
    pub(crate) source_partition: Option<u32>,
    /// Partition and offset of the copies; any of these.
    pub(crate) ids: BTreeSet<(u32, u64)>,
}

impl Selection {
    /// # Errors
    /// The first value that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.headers.check().map_err(|out| {
            let why = format!("it is {}, allowed is {}", out.value, out.limit);
            let field = out.field.replace("filter", "filter.headers");
            Refusal::invalid(field, why)
        })?;
        let (len, limit) = (self.error_contains.len(), MAX_FAILURE_BYTES);
        if len > limit {
            let why = format!("{len} bytes, more than the {limit} that are kept of a text");
            return Err(Refusal::invalid("filter.error_contains", why));
        }
        let (count, limit) = (self.ids.len(), MAX_DEAD_LETTER_IDS);
        if count > limit {
            let why = format!("{count} ids, the limit is {limit}");
            return Err(Refusal::invalid("filter.ids", why));
        }
        Ok(())
    }

    pub(crate) fn matches(&self, letter: &Letter) -> bool {
        let id = (letter.partition, letter.record.offset);
        let find = |name: &str| attributes::find(&letter.record.headers, name);
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && (self.ids.is_empty() || self.ids.contains(&id))
            && (self.key.is_none() || self.key == letter.record.key)
            && self.died_from_ms.is_none_or(|from| letter.died_ms >= from)
            && self
                .died_until_ms
                .is_none_or(|until| letter.died_ms < until)
            && self.source_partition.is_none_or(|p| letter.source.0 == p)
            && letter.error.contains(&self.error_contains)
            && self.headers.matches(find)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use aqueduct_proto::record::{Header, Record};

    use super::*;
    use crate::queue::filter::{Condition, Test};

    fn letter() -> Letter {
        let record = Record {
            offset: 5,
            key: Some(Bytes::from_static(b"k")),
            headers: vec![
                Header::new("type", "order.paid"),
                Header::new("aq-dead-reason", "REJECTED"),
                Header::new("aq-dead-time", "1000"),
                Header::new("__dlq.errors.partition", "3"),
                Header::new("__dlq.errors.message", "card refused"),
            ],
            ..Record::default()
        };
        Letter::read(2, record)
    }

    fn header(test: Test) -> Filter {
        let header = "type".to_owned();
        let conditions = vec![Condition { header, test }];
        Filter { conditions }
    }

    #[test]
    fn each_condition_selects_and_leaves_out() {
        type Change = fn(&mut Selection, bool);
        let changes: [Change; 8] = [
            |s, yes| s.reasons = [if yes { Reason::Rejected } else { Reason::Ttl }].into(),
            |s, yes| s.key = Some(if yes { "k" } else { "" }.into()),
            |s, yes| {
                s.headers = header(Test::Prefix(if yes { b"order." } else { b"mailed" }.into()))
            },
            |s, yes| s.died_from_ms = Some(if yes { 1_000 } else { 1_001 }),
            |s, yes| s.died_until_ms = Some(if yes { 1_001 } else { 1_000 }),
            |s, yes| s.error_contains = if yes { "refused" } else { "Refused" }.into(),
            |s, yes| s.source_partition = Some(if yes { 3 } else { 2 }),
            |s, yes| s.ids = [if yes { (2, 5) } else { (3, 5) }].into(),
        ];
        let mut all = Selection::default();
        assert!(all.matches(&letter()));
        for (number, change) in changes.into_iter().enumerate() {
            change(&mut all, true);
            let mut other = Selection::default();
            change(&mut other, false);
            assert!(!other.matches(&letter()), "{number}");
        }
        assert!(all.matches(&letter()));
        all.check().unwrap();
    }

    #[test]
    fn bounds_are_kept() {
        let long = Selection {
            error_contains: "x".repeat(MAX_FAILURE_BYTES + 1),
            ..Selection::default()
        };
        let many = Selection {
            ids: (0..=MAX_DEAD_LETTER_IDS as u64).map(|n| (0, n)).collect(),
            ..Selection::default()
        };
        let wide = Selection {
            headers: header(Test::Equals(vec![0; 2_000])),
            ..Selection::default()
        };
        for (selection, field) in [
            (long, "filter.error_contains"),
            (many, "filter.ids"),
            (wide, "filter.headers.value"),
        ] {
            let refusal = selection.check().unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }
}
