//! Inputs that several benches share: record batches as producers send them.
//!
//! The benches themselves are `../batch.rs` (encoding and checking record batches) and
//! `../log.rs` (a log on the real disk). `cargo bench -p aqueduct-benches -- --test` runs
//! each once; figures with their machine are in docs/performance.md.

use aqueduct_proto::{compression::Compression, record::BatchBuilder};
use bytes::Bytes;

/// A batch of `count` records with values of `size` bytes, no keys.
///
/// # Panics
/// If such a batch is too large for its format.
#[must_use]
pub fn batch(count: usize, size: usize, compression: Compression) -> Bytes {
    let value = value(size);
    let mut builder = BatchBuilder::new(compression);
    for n in 0..count {
        builder.push(1_700_000_000_000 + n as i64, None, Some(&value), &[]);
    }
    builder.finish().expect("benches ask for batches that fit")
}

/// Text that compresses about as well as log lines do.
#[must_use]
pub fn value(size: usize) -> Vec<u8> {
    let words = [
        "GET ",
        "/index.html ",
        "HTTP/1.1 ",
        "200 ",
        "83.149.9.216 ",
        "Mozilla/5.0 ",
    ];
    let mut state = 7_u64;
    let mut text = Vec::with_capacity(size + 16);
    while text.len() < size {
        // A few bits of a congruential generator: no crate, the same text every time.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let word = words[(state >> 33) as usize % words.len()];
        text.extend_from_slice(word.as_bytes());
        text.extend_from_slice(&(state >> 48).to_string().into_bytes()[..1]);
    }
    text.truncate(size);
    text
}
