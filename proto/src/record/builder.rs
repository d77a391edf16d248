//! Building batches: records are encoded as they come, behind room for the header.
//!
//! Encoding is hot in every producer: numbers go through a few bytes on the stack, lengths are
//! computed before they are written, and nothing is moved afterwards unless it is compressed.

use bytes::Bytes;

use super::Header;
use crate::{
    batch::{APPEND_TIME, BatchError, BatchHeader, CRC_START, HEADER_LEN, LENGTH_PREFIX, MAGIC},
    compression::Compression,
    crc::crc32c,
};

/// Builds one batch, record by record.
///
/// Records are encoded as they come, behind room for the header. Compression and checksum follow
/// when the batch is taken.
///
/// ```
/// use aqueduct_proto::{batch::Batch, compression::Compression, record::BatchBuilder};
/// let mut builder = BatchBuilder::new(Compression::None);
/// builder.push(1_700_000_000_000, Some(b"key"), Some(b"value"), &[]);
/// let batch = Batch::check(builder.finish()?)?;
/// assert_eq!(batch.count(), 1);
/// # Ok::<(), aqueduct_proto::batch::BatchError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the encoded records.
    buffer: Vec<u8>,
    compression: Compression,
    append_time: bool,
    producer: (i64, i16, i32),
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 0)
    }

    /// An empty batch with room for `bytes` of encoded records.
    #[must_use]
    pub fn with_capacity(compression: Compression, bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER_LEN + bytes);
        buffer.resize(HEADER_LEN, 0);
        Self {
            buffer,
            compression,
            append_time: false,
            producer: (-1, -1, -1),
            count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
        }
    }

    /// Appends a record; returns its place in the batch, from 0.
    ///
    /// Timestamps are milliseconds since 1970. Any length is taken here; a batch that has become
    /// too long for its format is refused by [`BatchBuilder::finish`].
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> u32 {
        let index = self.count;
        if index == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        let timestamp = zigzag(timestamp_ms.wrapping_sub(self.base_timestamp));
        let offset = u64::from(index) << 1;
        let key_length = length_code(key);
        let value_length = length_code(value);
        let body = 1
            + varint_len(timestamp)
            + varint_len(offset)
            + varint_len(key_length)
            + key.map_or(0, <[u8]>::len)
            + varint_len(value_length)
            + value.map_or(0, <[u8]>::len)
            + headers_len(headers);

        let mut front = Small::new();
        front.varint((body as u64) << 1);
        front.byte(0);
        front.varint(timestamp);
        front.varint(offset);
        front.varint(key_length);
        self.buffer.reserve(front.length + body);
        self.buffer.extend_from_slice(front.bytes());
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.varint(value_length);
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self.push_headers(headers);
        self.count += 1;
        index
    }

    fn push_headers(&mut self, headers: &[Header]) {
        self.varint((headers.len() as u64) << 1);
        for header in headers {
            self.varint((header.name.len() as u64) << 1);
            self.buffer.extend_from_slice(&header.name);
            self.varint(length_code(header.value.as_deref()));
            self.buffer
                .extend_from_slice(header.value.as_deref().unwrap_or_default());
        }
    }

    #[inline(always)]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.buffer.push(value.to_le_bytes()[0]);
    }

    /// Bytes encoded so far, header included, before compression.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no record has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names the producer, its epoch and the sequence of the first record.
    pub fn set_producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.producer = (id, epoch, base_sequence);
    }

    /// Says whether the greatest timestamp is the append time of all records. This is the broker's
    /// to say: [`crate::batch::Batch::validate`] refuses it from a client.
    pub fn set_append_time(&mut self, append_time: bool) {
        self.append_time = append_time;
    }

    /// The whole batch, with base offset 0 and leader epoch −1 until the broker sets them.
    ///
    /// # Errors
    /// [`BatchError::Count`] without any record, [`BatchError::TooLarge`] from 2 GiB on.
    pub fn finish(mut self) -> Result<Bytes, BatchError> {
        self.seal().map(Bytes::from)
    }

    /// As [`BatchBuilder::finish`], leaving the builder empty for the next batch, with the same
    /// codec and flags, room for as many bytes again, and no producer.
    ///
    /// # Errors
    /// As [`BatchBuilder::finish`]; the records are gone then too.
    pub fn take(&mut self) -> Result<Bytes, BatchError> {
        let room = self.buffer.len() - HEADER_LEN;
        let mut next = Self::with_capacity(self.compression, room);
        next.append_time = self.append_time;
        std::mem::replace(self, next).finish()
    }

    /// Compresses, fills in the header and returns the batch's bytes.
    fn seal(&mut self) -> Result<Vec<u8>, BatchError> {
        let last_offset_delta = i32::try_from(self.count).unwrap_or(0) - 1;
        if last_offset_delta < 0 {
            return Err(BatchError::Count {
                count: 0,
                last_offset_delta,
            });
        }
        let mut batch = std::mem::take(&mut self.buffer);
        if self.compression != Compression::None {
            let packed = self.compression.compress(&batch[HEADER_LEN..])?;
            batch.truncate(HEADER_LEN);
            batch.extend_from_slice(&packed);
        }
        let (size, limit) = (batch.len(), i32::MAX as usize);
        let batch_length = i32::try_from(size - LENGTH_PREFIX)
            .map_err(|_| BatchError::TooLarge { size, limit })?;
        let flags = if self.append_time { APPEND_TIME } else { 0 };
        let mut header = BatchHeader {
            base_offset: 0,
            batch_length,
            leader_epoch: -1,
            magic: MAGIC,
            crc: 0,
            attributes: i16::from(self.compression.code()) | flags,
            last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer.0,
            producer_epoch: self.producer.1,
            base_sequence: self.producer.2,
            count: last_offset_delta + 1,
        };
        let room = |batch: &mut Vec<u8>, header: &BatchHeader| {
            header.write(
                batch
                    .first_chunk_mut()
                    .expect("the buffer begins with room for it"),
            );
        };
        room(&mut batch, &header);
        header.crc = crc32c(&batch[CRC_START..]);
        room(&mut batch, &header);
        Ok(batch)
    }
}

/// A few bytes on the stack, so that the buffer grows once for several numbers.
pub(super) struct Small {
    bytes: [u8; 48],
    pub(super) length: usize,
}

impl Small {
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; 48],
            length: 0,
        }
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    #[inline(always)]
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.byte(value.to_le_bytes()[0]);
    }

    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The zigzag form: small magnitudes become small numbers.
#[inline]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Bytes that a zigzagged number takes as varint.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// The zigzagged length of a byte string, 1 (that is −1) for null.
#[inline]
fn length_code(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(1, |bytes| (bytes.len() as u64) << 1)
}

fn headers_len(headers: &[Header]) -> usize {
    let mut length = varint_len((headers.len() as u64) << 1);
    for header in headers {
        let value = header.value.as_deref();
        length += varint_len((header.name.len() as u64) << 1) + header.name.len();
        length += varint_len(length_code(value)) + value.map_or(0, <[u8]>::len);
    }
    length
}
