//! Reserved record headers: what a message asks of the broker.
//!
//! They begin with `aq-` and are ordinary headers otherwise, so they pass through every door and
//! every client. The first header of a name counts.

use crate::record::{Header, Record};

/// The prefix that belongs to the broker.
pub const RESERVED_PREFIX: &str = "aq-";
/// Identity of a message: a second one within the topic's window is not stored again.
pub const DEDUP_ID: &str = "aq-dedup-id";
/// Not to be handed out before this time, in milliseconds since 1970 as decimal text.
pub const DELAY_UNTIL: &str = "aq-delay-until";
/// Priority 0 to 9 as decimal text.
pub const PRIORITY: &str = "aq-priority";
/// Time to live in milliseconds as decimal text.
pub const TTL: &str = "aq-ttl";

/// The dedup id of a record: the value of its first header of that name, if it is not empty.
#[must_use]
pub fn dedup_id(record: &Record) -> Option<&[u8]> {
    find(&record.headers, DEDUP_ID).filter(|id| !id.is_empty())
}

/// Not to be handed out before this time, milliseconds since 1970. What is no number asks for
/// nothing, here and below.
#[must_use]
pub fn delay_until_ms(headers: &[Header]) -> Option<i64> {
    number(headers, DELAY_UNTIL)
}

/// The priority, 0 to 9; more counts as 9.
#[must_use]
pub fn priority(headers: &[Header]) -> Option<u8> {
    let asked: u64 = number(headers, PRIORITY)?;
    u8::try_from(asked.min(9)).ok()
}

/// The time to live in milliseconds, from the message's time stamp on.
#[must_use]
pub fn ttl_ms(headers: &[Header]) -> Option<u64> {
    number(headers, TTL)
}

fn number<T: std::str::FromStr>(headers: &[Header], name: &str) -> Option<T> {
    std::str::from_utf8(find(headers, name)?).ok()?.parse().ok()
}

/// The value of the first header called `name`; a null value reads as empty.
#[must_use]
pub fn find<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    let header = headers
        .iter()
        .find(|header| header.name.as_ref() == name.as_bytes())?;
    Some(header.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_first_dedup_id_counts() {
        let header = |name: &'static str, value: &'static [u8]| Header {
            name: Bytes::from_static(name.as_bytes()),
            value: Some(Bytes::from_static(value)),
        };
        let mut record = Record {
            headers: vec![header("a", b"1")],
            ..Record::default()
        };
        assert_eq!(dedup_id(&record), None);
        record.headers.push(header(DEDUP_ID, b"x"));
        record.headers.push(header(DEDUP_ID, b"y"));
        assert_eq!(dedup_id(&record), Some(&b"x"[..]));
        record.headers = vec![Header {
            name: Bytes::from_static(b"aq-dedup-id"),
            value: None,
        }];
        assert_eq!(dedup_id(&record), None);
    }
}
