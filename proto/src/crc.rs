//! CRC-32C (Castagnoli), the checksum of record batches and of everything on disk.
//!
//! One address for the algorithm, so that its implementation can be replaced. The crate `crc32c`
//! is the oracle in the tests.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `data`.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    narrow(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, data))
}

/// A CRC-32C that is computed piece by piece.
///
/// ```
/// use aqueduct_proto::crc::{Crc32c, crc32c};
/// let mut crc = Crc32c::new();
/// crc.update(b"1234");
/// crc.update(b"56789");
/// assert_eq!(crc.finish(), crc32c(b"123456789"));
/// ```
#[derive(Clone)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// The checksum of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Appends `data` to what is covered.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The checksum of all that was appended.
    #[must_use]
    pub fn finish(&self) -> u32 {
        narrow(self.0.finalize())
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crc32c({:#010x})", self.finish())
    }
}

/// The crate computes every width in 64 bits; a 32-bit checksum fills the lower half.
fn narrow(wide: u64) -> u32 {
    u32::try_from(wide).expect("a 32-bit checksum has no upper half")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(data in prop::collection::vec(any::<u8>(), 0..5000), cut in 0usize..5000) {
            let (head, tail) = data.split_at(cut.min(data.len()));
            let mut pieces = Crc32c::new();
            pieces.update(head);
            pieces.update(tail);
            prop_assert_eq!(crc32c(&data), crc32c::crc32c(&data));
            prop_assert_eq!(pieces.finish(), crc32c::crc32c(&data));
        }
    }
}
