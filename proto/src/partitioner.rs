//! Which partition a record goes to.
//!
//! Keyed records go where every Kafka client would send them: murmur2 of the key, without its sign
//! bit, modulo the number of partitions. Keyless ones stay with one partition for a whole batch and
//! then move on, so that batches fill.

/// Kafka's murmur2 (seed `0x9747b28c`, little-endian words).
#[must_use]
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    // The hash mixes the length in 32 bits, as Java does.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "keys are far shorter than 4 GiB"
    )]
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    hash.cast_signed()
}

/// The partition of a key among `partitions`.
///
/// # Panics
/// If `partitions` is zero: no topic has none.
#[must_use]
pub fn for_key(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (murmur2(key).cast_unsigned() & 0x7fff_ffff) % partitions
}

/// The partition of keyless records: one for a whole batch, then the next.
#[derive(Clone, Debug)]
pub struct Sticky {
    partitions: u32,
    current: u32,
}

impl Sticky {
    /// Starts at a partition drawn from `seed`, so that many producers do not all start with the
    /// same one.
    ///
    /// # Panics
    /// If `partitions` is zero.
    #[must_use]
    pub fn new(partitions: u32, seed: u64) -> Self {
        assert!(partitions > 0, "a topic has at least one partition");
        let current = u32::try_from(seed % u64::from(partitions)).expect("less than a u32");
        Self {
            partitions,
            current,
        }
    }

    /// The partition of the open batch.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Says that the open batch is closed; returns the partition of the next one.
    pub fn next_batch(&mut self) -> u32 {
        self.current = (self.current + 1) % self.partitions;
        self.current
    }

    /// Takes note of partitions that were added.
    ///
    /// # Panics
    /// If `partitions` is zero.
    pub fn set_partitions(&mut self, partitions: u32) {
        assert!(partitions > 0, "a topic has at least one partition");
        self.partitions = partitions;
        self.current %= partitions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest`.
    #[test]
    fn murmur2_agrees_with_kafka() {
        let cases: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key), expected, "{key:?}");
        }
    }

    #[test]
    fn keys_spread_and_stay() {
        let mut seen = [0; 6];
        for n in 0..6000 {
            let key = format!("key-{n}");
            let partition = for_key(key.as_bytes(), 6);
            assert_eq!(partition, for_key(key.as_bytes(), 6));
            seen[partition as usize] += 1;
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!(for_key(b"", 1), 0);
    }

    #[test]
    fn sticky_moves_batch_by_batch() {
        let mut sticky = Sticky::new(3, 7);
        assert_eq!(sticky.current(), 1);
        assert_eq!(
            [
                sticky.next_batch(),
                sticky.next_batch(),
                sticky.next_batch()
            ],
            [2, 0, 1]
        );
        sticky.set_partitions(1);
        assert_eq!((sticky.current(), sticky.next_batch()), (0, 0));
    }
}
