//! Which messages a queue group wants, by their headers. Pure.
//!
//! All conditions must hold. Of several headers with one name the first counts, as everywhere.

use super::policy::OutOfBounds;
use crate::limits::{MAX_FILTER_CONDITIONS, MAX_FILTER_NAME_BYTES, MAX_FILTER_VALUE_BYTES};

/// Conditions on headers; none = every message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) header: String,
    pub(crate) test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Test {
    Exists,
    Equals(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Filter {
    /// Whether a message is wanted; `find` gives the value of its first header of a name.
    pub(crate) fn matches<'a>(&self, find: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        self.conditions.iter().all(|condition| {
            let value = find(&condition.header);
            value.is_some_and(|value| match &condition.test {
                Test::Exists => true,
                Test::Equals(expected) => value == expected,
                Test::Prefix(prefix) => value.starts_with(prefix),
            })
        })
    }

    /// # Errors
    /// The first value that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), OutOfBounds> {
        let bound = |field, len: usize, min: usize, max: usize| {
            if (min..=max).contains(&len) {
                return Ok(());
            }
            Err(OutOfBounds {
                field,
                value: format!("{len} long"),
                limit: format!("{min} to {max} long"),
            })
        };
        bound("filter", self.conditions.len(), 0, MAX_FILTER_CONDITIONS)?;
        for Condition { header, test } in &self.conditions {
            bound("filter.header", header.len(), 1, MAX_FILTER_NAME_BYTES)?;
            if let Test::Equals(value) | Test::Prefix(value) = test {
                bound("filter.value", value.len(), 0, MAX_FILTER_VALUE_BYTES)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(header: &str, test: Test) -> Condition {
        let header = header.to_owned();
        Condition { header, test }
    }

    #[test]
    fn all_conditions_must_hold() {
        let find = |name: &str| match name {
            "type" => Some(&b"order.created"[..]),
            "empty" => Some(&b""[..]),
            _ => None,
        };
        let matches = |conditions: Vec<Condition>| Filter { conditions }.matches(find);
        let prefix = || condition("type", Test::Prefix(b"order.".into()));
        assert!(matches(vec![]));
        assert!(matches(vec![prefix(), condition("empty", Test::Exists)]));
        assert!(!matches(vec![prefix(), condition("none", Test::Exists)]));
        assert!(matches(vec![condition("empty", Test::Equals(vec![]))]));
        assert!(!matches(vec![condition("none", Test::Prefix(vec![]))]));
        assert!(!matches(vec![condition(
            "type",
            Test::Equals(b"order.".into())
        )]));
    }

    #[test]
    fn bounds_are_kept() {
        let field = |conditions| Filter { conditions }.check().unwrap_err().field;
        let plain = condition("a", Test::Exists);
        assert_eq!(field(vec![plain; 17]), "filter");
        assert_eq!(field(vec![condition("", Test::Exists)]), "filter.header");
        let long = Test::Equals(vec![0; 1_025]);
        assert_eq!(field(vec![condition("a", long)]), "filter.value");
    }
}
