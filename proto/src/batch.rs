//! Kafka's record batch, version 2: the unit that is published, stored, replicated and read.
//!
//! | Byte | Field                | Type | Notes                                                |
//! |------|----------------------|------|------------------------------------------------------|
//! | 0    | base offset          | i64  | of the first record; set by the broker, outside CRC  |
//! | 8    | batch length         | i32  | bytes that follow this field                         |
//! | 12   | leader epoch         | i32  | Raft's term; set by the broker, outside CRC          |
//! | 16   | magic                | i8   | 2                                                    |
//! | 17   | crc                  | u32  | CRC-32C from byte 21 to the end                      |
//! | 21   | attributes           | i16  | bits 0–2 codec, 3 append time, 4 transactional, 5 control, 6 delete horizon |
//! | 23   | last offset delta    | i32  | of the last record, count − 1 unless compacted       |
//! | 27   | base timestamp       | i64  | of the first record, milliseconds since 1970         |
//! | 35   | max timestamp        | i64  | the greatest, or the append time of all              |
//! | 43   | producer id          | i64  | −1 without                                           |
//! | 51   | producer epoch       | i16  | −1 without                                           |
//! | 53   | base sequence        | i32  | −1 without                                           |
//! | 57   | count                | i32  | number of records                                    |
//! | 61   | records              |      | see [`crate::record`], compressed as one block       |
//!
//! Integers are big-endian. A [`Batch`] is bytes whose frame and checksum have been verified; its
//! bytes are never re-encoded. Offset and epoch are patched because they lie outside the checksum.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::{
    compression::{Compression, CompressionError},
    crc::crc32c,
    record::{Records, walk},
};

/// Bytes before the records.
pub const HEADER_LEN: usize = 61;
/// Bytes before what the batch length counts.
pub const LENGTH_PREFIX: usize = 12;

pub(crate) const MAGIC: i8 = 2;
pub(crate) const CRC_START: usize = 21;
const MIN_BATCH_LENGTH: i32 = 49;
const CODEC_MASK: i16 = 0x07;
pub(crate) const APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Why bytes are not an acceptable batch.
#[derive(Debug, Error)]
pub enum BatchError {
    /// Fewer bytes than a header has.
    #[error("a batch has at least {HEADER_LEN} bytes, not {length}")]
    Short {
        /// Bytes there are.
        length: usize,
    },
    /// Another format than version 2.
    #[error("the batch has magic {magic}, only 2 is known")]
    Magic {
        /// Value of the field.
        magic: i8,
    },
    /// The declared length is impossible or not that of the bytes.
    #[error("the batch declares {declared} bytes in all, there are {actual}")]
    Length {
        /// Declared length including the first 12 bytes.
        declared: i64,
        /// Bytes there are.
        actual: usize,
    },
    /// The checksum does not match.
    #[error("the batch has CRC {stored:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// Value of the field.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
    /// The batch is longer than allowed.
    #[error("the batch has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Length of the batch in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The number of records and the last offset do not agree, or there is no record.
    #[error("the batch has count {count} and last offset delta {last_offset_delta}")]
    Count {
        /// Value of the field.
        count: i32,
        /// Value of the field.
        last_offset_delta: i32,
    },
    /// An attribute is set that a client may not set.
    #[error("the batch has attributes {attributes:#06x}: only the codec may be set by a client")]
    Attributes {
        /// Value of the field.
        attributes: i16,
    },
    /// The codec is unknown.
    #[error("the batch has compression code {code}, known are 0 to 4")]
    Codec {
        /// Lower three bits of the attributes.
        code: u8,
    },
    /// Producer id, epoch and sequence do not fit together.
    #[error("the batch has producer id {producer_id}, epoch {epoch} and sequence {sequence}")]
    Producer {
        /// Value of the field.
        producer_id: i64,
        /// Value of the field.
        epoch: i16,
        /// Value of the field.
        sequence: i32,
    },
    /// The records could not be decompressed, or not within the limit.
    #[error("the batch's records: {0}")]
    Compression(#[from] CompressionError),
    /// A record is cut or broken.
    #[error("record {index} of the batch, at byte {position} of the records: {why}")]
    Record {
        /// Which record, from 0.
        index: u32,
        /// Byte within the decompressed records.
        position: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A record is not where its place in the batch says.
    #[error("record {index} of the batch has offset delta {delta}")]
    OffsetDelta {
        /// Which record, from 0.
        index: u32,
        /// Value of the field.
        delta: i32,
    },
    /// Bytes follow the last record.
    #[error("{bytes} bytes follow the last record of the batch")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// The greatest timestamp is not the declared one.
    #[error("the batch declares max timestamp {declared}, its records have {actual}")]
    MaxTimestamp {
        /// Value of the field.
        declared: i64,
        /// Greatest timestamp of a record.
        actual: i64,
    },
    /// The batch has more records than allowed.
    #[error("the batch has {count} records, the limit is {limit}")]
    TooManyRecords {
        /// Records of the batch.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// A record has more headers than allowed.
    #[error("record {index} of the batch has {count} headers, the limit is {limit}")]
    TooManyHeaders {
        /// Which record, from 0.
        index: u32,
        /// Its headers.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// All records together have more headers than allowed.
    #[error("the batch has {count} headers by record {index}, the limit is {limit}")]
    TooManyHeadersInAll {
        /// The record that is over the limit, from 0.
        index: u32,
        /// Headers up to and with it.
        count: u32,
        /// The limit.
        limit: u32,
    },
    /// A message is longer than allowed.
    #[error("record {index} of the batch has {size} bytes, the limit is {limit}")]
    MessageTooLarge {
        /// Which record, from 0.
        index: u32,
        /// Key, value and headers in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The fields before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes that follow the length field.
    pub batch_length: i32,
    /// Raft's term in which the batch was appended.
    pub leader_epoch: i32,
    /// Version of the format, always 2.
    pub magic: i8,
    /// CRC-32C of all bytes from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Milliseconds since 1970 that the records' deltas add to.
    pub base_timestamp: i64,
    /// Greatest timestamp, or the append time of all records.
    pub max_timestamp: i64,
    /// Who produced the batch, −1 if not idempotent.
    pub producer_id: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// Sequence of the first record.
    pub base_sequence: i32,
    /// Number of records.
    pub count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; looks neither at the records nor at the CRC.
    ///
    /// # Errors
    /// [`BatchError::Short`], [`BatchError::Magic`], or [`BatchError::Length`] if the declared
    /// length is below that of a header.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(b) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Short {
                length: bytes.len(),
            });
        };
        let header = Self {
            base_offset: i64::from_be_bytes(field(b, 0)),
            batch_length: i32::from_be_bytes(field(b, 8)),
            leader_epoch: i32::from_be_bytes(field(b, 12)),
            magic: i8::from_be_bytes(field(b, 16)),
            crc: u32::from_be_bytes(field(b, 17)),
            attributes: i16::from_be_bytes(field(b, 21)),
            last_offset_delta: i32::from_be_bytes(field(b, 23)),
            base_timestamp: i64::from_be_bytes(field(b, 27)),
            max_timestamp: i64::from_be_bytes(field(b, 35)),
            producer_id: i64::from_be_bytes(field(b, 43)),
            producer_epoch: i16::from_be_bytes(field(b, 51)),
            base_sequence: i32::from_be_bytes(field(b, 53)),
            count: i32::from_be_bytes(field(b, 57)),
        };
        if header.magic != MAGIC {
            return Err(BatchError::Magic {
                magic: header.magic,
            });
        }
        if header.batch_length < MIN_BATCH_LENGTH {
            let declared = i64::from(header.batch_length) + LENGTH_PREFIX as i64;
            return Err(BatchError::Length {
                declared,
                actual: bytes.len(),
            });
        }
        Ok(header)
    }

    /// Writes the header; the inverse of [`BatchHeader::read`].
    pub(crate) fn write(&self, b: &mut [u8; HEADER_LEN]) {
        b[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        b[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        b[12..16].copy_from_slice(&self.leader_epoch.to_be_bytes());
        b[16..17].copy_from_slice(&self.magic.to_be_bytes());
        b[17..21].copy_from_slice(&self.crc.to_be_bytes());
        b[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        b[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        b[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        b[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        b[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        b[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        b[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        b[57..61].copy_from_slice(&self.count.to_be_bytes());
    }

    /// Length of the whole batch in bytes.
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::try_from(self.batch_length).map_or(0, |length| length + LENGTH_PREFIX)
    }

    /// The codec of the records.
    ///
    /// # Errors
    /// [`BatchError::Codec`] if the code is unknown.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let code = (self.attributes & CODEC_MASK).to_be_bytes()[1];
        Compression::from_code(code).ok_or(BatchError::Codec { code })
    }

    /// Whether all records carry the time of the append, in `max_timestamp`.
    #[must_use]
    pub fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch is a transaction's end marker.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The rules for what a client may ask, as far as the header shows.
    fn check_from_client(&self) -> Result<(), BatchError> {
        if self.count <= 0 || self.last_offset_delta != self.count - 1 {
            return Err(self.bad_count());
        }
        if self.attributes & !CODEC_MASK != 0 {
            return Err(BatchError::Attributes {
                attributes: self.attributes,
            });
        }
        let anonymous = self.producer_id == -1;
        let complete = self.producer_id >= 0 && self.producer_epoch >= 0 && self.base_sequence >= 0;
        if !anonymous && !complete {
            return Err(BatchError::Producer {
                producer_id: self.producer_id,
                epoch: self.producer_epoch,
                sequence: self.base_sequence,
            });
        }
        Ok(())
    }

    fn bad_count(&self) -> BatchError {
        BatchError::Count {
            count: self.count,
            last_offset_delta: self.last_offset_delta,
        }
    }
}

/// The `N` bytes from `start`; every caller names a place inside the header.
fn field<const N: usize>(bytes: &[u8; HEADER_LEN], start: usize) -> [u8; N] {
    *bytes[start..]
        .first_chunk()
        .expect("the field lies inside the header")
}

/// What a batch from a client may cost. Counts are limited beside bytes because whoever decodes
/// a record or a header spends more on it than the one or two bytes that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole batch as it arrives.
    pub max_batch_bytes: usize,
    /// Bytes of key, value and headers of one record.
    pub max_message_bytes: usize,
    /// Bytes of all records when decompressed.
    pub max_decompressed_bytes: usize,
    /// Records.
    pub max_records: u32,
    /// Headers of one record.
    pub max_record_headers: u32,
    /// Headers of all records.
    pub max_headers: u32,
}

/// One whole batch: its frame and its checksum have been verified.
#[derive(Clone)]
pub struct Batch {
    bytes: Bytes,
    header: BatchHeader,
}

impl Batch {
    /// Takes bytes at rest: exactly one batch, with the right magic, length and CRC.
    ///
    /// # Errors
    /// What is wrong with the frame; the records are not looked at.
    pub fn check(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::read(&bytes)?;
        if header.total_len() != bytes.len() {
            let declared = i64::from(header.batch_length) + LENGTH_PREFIX as i64;
            return Err(BatchError::Length {
                declared,
                actual: bytes.len(),
            });
        }
        let computed = crc32c(&bytes[CRC_START..]);
        if computed != header.crc {
            return Err(BatchError::Crc {
                stored: header.crc,
                computed,
            });
        }
        if header.count < 0 || header.last_offset_delta < 0 {
            return Err(header.bad_count());
        }
        Ok(Self { bytes, header })
    }

    /// Takes bytes from a client: [`Batch::check`] and Kafka's rules for producers.
    ///
    /// At least one record; offset deltas 0, 1, 2 …; no attribute but the codec; producer id,
    /// epoch and sequence all or none; every record decodes, within the limits; `max_timestamp` is
    /// the records' greatest. Records are walked in place and decompressed only if compressed.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(bytes: Bytes, limits: &Limits) -> Result<Self, BatchError> {
        if bytes.len() > limits.max_batch_bytes {
            let (size, limit) = (bytes.len(), limits.max_batch_bytes);
            return Err(BatchError::TooLarge { size, limit });
        }
        let batch = Self::check(bytes)?;
        batch.header.check_from_client()?;
        match batch.header.compression()? {
            Compression::None => walk(&batch.bytes[HEADER_LEN..], &batch.header, limits)?,
            codec => {
                let packed = &batch.bytes[HEADER_LEN..];
                let records = codec.decompress(packed, limits.max_decompressed_bytes)?;
                walk(&records, &batch.header, limits)?;
            }
        }
        Ok(batch)
    }

    /// The fields before the records.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it travels and rests.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch as it travels and rests.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Number of records.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.header.count.cast_unsigned()
    }

    /// The records in order. Uncompressed ones are slices of the batch's own bytes.
    ///
    /// # Errors
    /// [`BatchError::Codec`] or [`BatchError::Compression`]; a broken record is an error of the
    /// iterator.
    pub fn records(&self, max_decompressed: usize) -> Result<Records, BatchError> {
        let packed = self.bytes.slice(HEADER_LEN..);
        let data = match self.header.compression()? {
            Compression::None => packed,
            codec => codec.decompress(&packed, max_decompressed)?.into(),
        };
        Ok(Records::new(data, &self.header))
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// The first 16 bytes of `batch` with offset and epoch set; the rest of the batch stays as it is,
/// its CRC too.
///
/// # Panics
/// If the batch is shorter than 16 bytes, or a value does not fit its signed field.
#[must_use]
pub fn patched_prefix(batch: &[u8], base_offset: u64, leader_epoch: u32) -> [u8; 16] {
    let mut prefix = *batch.first_chunk::<16>().expect("a batch has been checked");
    let offset = i64::try_from(base_offset).expect("offsets stay below 2^63");
    let epoch = i32::try_from(leader_epoch).expect("terms stay below 2^31");
    prefix[..8].copy_from_slice(&offset.to_be_bytes());
    prefix[12..].copy_from_slice(&epoch.to_be_bytes());
    prefix
}

/// Sets offset and epoch in place.
///
/// # Panics
/// As [`patched_prefix`].
pub fn patch(batch: &mut [u8], base_offset: u64, leader_epoch: u32) {
    let prefix = patched_prefix(batch, base_offset, leader_epoch);
    batch[..16].copy_from_slice(&prefix);
}

/// The batch with the time of its append in place of its records' own: sets the attribute and
/// `max_timestamp`, and computes the CRC anew. Copies the batch only if others hold its bytes.
///
/// # Panics
/// If the batch is shorter than a header.
#[must_use]
pub fn stamp_append_time(batch: Bytes, now_ms: i64) -> Bytes {
    assert!(batch.len() >= HEADER_LEN, "a batch has been checked");
    let mut batch = batch
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let attributes = i16::from_be_bytes([batch[21], batch[22]]) | APPEND_TIME;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now_ms.to_be_bytes());
    let crc = crc32c(&batch[CRC_START..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

#[cfg(test)]
mod tests;
