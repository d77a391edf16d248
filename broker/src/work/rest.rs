//! How long what failed is left alone before it is tried again, and whether it changed anything.
//! Pure.

use crate::error::Refusal;

/// How long copies are left alone after an error: longer each time, and nothing else of the
/// partition waits meanwhile.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    wait_ms: u64,
    until_ms: u64,
}

/// The first rest, and the longest.
const REST_MS: (u64, u64) = (200, 5_000);

impl Rest {
    pub(super) fn begin(&mut self, now_ms: u64) {
        let (first, longest) = REST_MS;
        self.wait_ms = (self.wait_ms * 2).clamp(first, longest);
        self.until_ms = now_ms + self.wait_ms;
    }

    pub(super) fn left_ms(&self, now_ms: u64) -> Option<u64> {
        let left = self.until_ms.saturating_sub(now_ms);
        (left > 0).then_some(left)
    }
}

/// After this refusal of a batch its producer and the partition are as they were: the same producer
/// goes on. A new one would be an entry in the metadata, and that for each try on a full disk.
pub(super) fn changed_nothing(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::DiskFull { .. }
            | Refusal::PartitionDamaged { .. }
            | Refusal::LimitReached { .. }
            | Refusal::TooLarge { .. }
            | Refusal::BadBatch { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_stay_bounded() {
        let mut rest = Rest::default();
        assert_eq!(rest.left_ms(0), None);
        let mut now_ms = 1_000;
        let mut rests = Vec::new();
        for _ in 0..7 {
            rest.begin(now_ms);
            let left = rest.left_ms(now_ms).unwrap();
            rests.push(left);
            now_ms += left;
            assert_eq!(rest.left_ms(now_ms), None);
        }
        assert_eq!(rests, [200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }
}
