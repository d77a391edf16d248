//! What a stored message asks of a queue: its key, delay, priority, time to live. Pure.

use aqueduct_proto::{attributes, record::Record};

use crate::queue::{filter::Filter, known::Attributes, levels::DEFAULT_PRIORITY};

/// What a schedule has to know of a record.
pub(super) fn attributes_of(record: &Record, filter: &Filter) -> Attributes {
    let headers = &record.headers;
    let expires_at_ms = attributes::ttl_ms(headers).map(|ttl_ms| {
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        record.timestamp_ms.saturating_add(ttl_ms)
    });
    Attributes {
        key_hash: record.key.as_deref().map(hash),
        delay_until_ms: attributes::delay_until_ms(headers),
        priority: attributes::priority(headers).unwrap_or(DEFAULT_PRIORITY),
        expires_at_ms,
        is_wanted: filter.matches(|name| attributes::find(headers, name)),
    }
}

/// A key's hash. Hashes of parked keys are in the replicated state, so this never changes:
/// FNV-1a with the finaliser of MurmurHash3 behind it.
pub(crate) fn hash(key: &[u8]) -> u64 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use aqueduct_proto::record::Header;

    use super::*;

    #[test]
    fn headers_are_read_and_nonsense_is_nothing() {
        let mut record = Record {
            timestamp_ms: 1_000,
            headers: vec![
                Header::new(attributes::DELAY_UNTIL, "5000"),
                Header::new(attributes::PRIORITY, "12"),
                Header::new(attributes::TTL, "250"),
            ],
            ..Record::default()
        };
        let seen = attributes_of(&record, &Filter::default());
        assert_eq!(seen.delay_until_ms, Some(5_000));
        assert_eq!((seen.priority, seen.expires_at_ms), (9, Some(1_250)));
        assert_eq!((seen.key_hash, seen.is_wanted), (None, true));
        for header in &mut record.headers {
            header.value = Some("soon".into());
        }
        let seen = attributes_of(&record, &Filter::default());
        assert_eq!(seen, Attributes::default());
    }

    #[test]
    fn the_hash_of_a_key_stays_what_it_is() {
        assert_ne!(hash(b"a"), hash(b"b"));
        assert_eq!(hash(b"customer-1"), 0xadf9_2b53_7b08_cdda);
    }
}
