//! Reading through one partition of a dead-letter topic, past what is gone, a piece at a time.

use super::letter::Letter;
use crate::{
    error::Refusal,
    lanes::decode_some,
    limits::READ_CHUNK_BYTES,
    partition::{Cursor, Partition},
};

/// From an offset to an offset.
pub(super) struct Browse {
    partition: Partition,
    cursor: Cursor,
    at: u64,
    end: u64,
}

/// Some dead letters.
#[derive(Default)]
pub(super) struct Piece {
    pub(super) letters: Vec<Letter>,
    /// Messages that the disk does not give back.
    pub(super) damaged: u64,
}

impl Browse {
    /// From `at` to the present end.
    pub(super) fn new(partition: &Partition, at: u64) -> Browse {
        Browse {
            cursor: partition.cursor(at),
            end: partition.shared().high_watermark(),
            partition: partition.clone(),
            at,
        }
    }

    /// What comes next is looked for from here on.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How many are left to be read.
    pub(super) fn left(&self) -> u64 {
        let shared = self.partition.shared();
        let from = self.at.max(shared.log_start_offset()).min(self.end);
        shared.with_taken(|taken| taken.left(from..self.end))
    }

    /// About [`READ_CHUNK_BYTES`] of them; `None` at the end.
    ///
    /// # Errors
    /// If the partition cannot be read just now.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, Refusal> {
        loop {
            let shared = self.partition.shared();
            let from = self.at.max(shared.log_start_offset());
            let gap = shared.with_taken(|taken| taken.next_left(from..self.end));
            let Some(gap) = gap.filter(|gap| !gap.is_empty()) else {
                self.at = self.end;
                return Ok(None);
            };
            self.cursor.go_to(gap.start);
            let read = match self.cursor.read(Some(self.end), READ_CHUNK_BYTES).await {
                Ok(Some(chunk)) => {
                    let to = chunk.next.min(self.end);
                    decode_some(chunk.batches, gap.start..to).map(|records| (records, to))
                }
                Ok(None) => return Ok(None),
                // Retention was quicker: its new start is looked at.
                Err(Refusal::OffsetOutOfRange { .. }) => continue,
                Err(Refusal::Damaged { why, .. }) => Err(why),
                Err(refusal) => return Err(refusal),
            };
            let Ok((records, to)) = read else {
                self.at = gap.start + 1;
                let damaged = 1;
                let letters = Vec::new();
                return Ok(Some(Piece { letters, damaged }));
            };
            // What is small compressed may be large: then only a part was unpacked.
            self.at = records.last().map_or(to, |last| last.offset + 1);
            let number = shared.number;
            let left = shared.with_taken(|taken| {
                let free = |record: &aqueduct_proto::record::Record| !taken.is_taken(record.offset);
                records.into_iter().filter(free).collect::<Vec<_>>()
            });
            let letters = left.into_iter().map(|record| Letter::read(number, record));
            return Ok(Some(Piece {
                letters: letters.collect(),
                damaged: 0,
            }));
        }
    }
}
