//! Retention: which segments may go, as a plain function of facts, policy and time.
//!
//! What is promised: the answer is a segment boundary, so a trim never cuts a segment; the active
//! segment always stays. What lives here must never know: files, logs, clocks, who still needs what
//! (the caller takes the smaller of this and what its readers need).

use crate::log::SegmentFacts;

/// How long and how much a log is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Segments whose latest timestamp is older than this many milliseconds go.
    pub max_age_ms: Option<i64>,
    /// The oldest segments go while all others together hold at least this many bytes.
    pub max_bytes: Option<u64>,
}

/// The offset to trim to: the base offset of the first segment that stays. `None` if all stay.
pub fn boundary(segments: &[SegmentFacts], policy: Policy, now_ms: i64) -> Option<u64> {
    let mut held: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut goes = 0;
    for segment in segments.iter().take_while(|segment| !segment.active) {
        let without = held - segment.bytes;
        let too_much = policy.max_bytes.is_some_and(|max| without >= max);
        // A segment without any batch has no age: it goes with the one before it, or by size.
        let too_old = match (policy.max_age_ms, segment.max_timestamp_ms) {
            (Some(max), Some(latest)) => now_ms.saturating_sub(latest) > max,
            (Some(_), None) => goes > 0,
            (None, _) => false,
        };
        if !too_much && !too_old {
            break;
        }
        held = without;
        goes += 1;
    }
    let first_kept = segments.get(goes)?;
    (goes > 0).then_some(first_kept.base_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments() -> Vec<SegmentFacts> {
        let times = [Some(100), None, Some(300), Some(400)];
        let facts = times.iter().enumerate().map(|(at, time)| SegmentFacts {
            first_index: at as u64 * 10,
            base_offset: at as u64 * 1000,
            bytes: 100,
            max_timestamp_ms: *time,
            active: at == 3,
        });
        facts.collect()
    }

    fn check(max_age_ms: Option<i64>, max_bytes: Option<u64>, now_ms: i64) -> Option<u64> {
        boundary(
            &segments(),
            Policy {
                max_age_ms,
                max_bytes,
            },
            now_ms,
        )
    }

    #[test]
    fn age_and_size_cut_at_boundaries() {
        assert_eq!(check(None, None, i64::MAX), None);
        assert_eq!(check(Some(50), None, 150), None);
        assert_eq!(check(Some(50), None, 151), Some(2000));
        assert_eq!(check(Some(50), None, i64::MAX), Some(3000));
        assert_eq!(check(None, Some(400), 0), None);
        assert_eq!(check(None, Some(300), 0), Some(1000));
        assert_eq!(check(None, Some(250), 0), Some(1000));
        assert_eq!(check(None, Some(0), 0), Some(3000));
        assert_eq!(check(Some(50), Some(200), 0), Some(2000));
        assert_eq!(
            boundary(
                &[],
                Policy {
                    max_age_ms: Some(0),
                    max_bytes: Some(0)
                },
                5
            ),
            None
        );
    }
}
