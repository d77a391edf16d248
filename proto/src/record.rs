//! The records inside a batch: reading, walking and building them.
//!
//! | Field           | Type    | Notes                                              |
//! |-----------------|---------|----------------------------------------------------|
//! | length          | varint  | bytes that follow                                  |
//! | attributes      | i8      | unused                                             |
//! | timestamp delta | varlong | milliseconds, added to the batch's base timestamp  |
//! | offset delta    | varint  | added to the batch's base offset                   |
//! | key             | varint length, bytes | −1 is null                            |
//! | value           | varint length, bytes | −1 is null                            |
//! | header count    | varint  |                                                    |
//! | header name     | varint length, UTF-8 | not null                              |
//! | header value    | varint length, bytes | −1 is null                            |
//!
//! Varints are zigzag, seven bits a byte, lowest first. Lengths and counts come from strangers:
//! none is believed before the bytes are there, and nothing is allocated by them.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    batch::{
        APPEND_TIME, BatchError, BatchHeader, CRC_START, HEADER_LEN, LENGTH_PREFIX, Limits, MAGIC,
    },
    compression::Compression,
    crc::crc32c,
};

/// A name and a value beside a record. Order and duplicates are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// UTF-8, checked when read.
    pub name: Bytes,
    /// The value, which may be null.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header of a name and a value.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            name: Bytes::from(name.into()),
            value: Some(value.into()),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn name_str(&self) -> &str {
        std::str::from_utf8(&self.name).unwrap_or_default()
    }
}

/// One record as it was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Place in the partition.
    pub offset: u64,
    /// Milliseconds since 1970: of its creation, or of the append if the batch says so.
    pub timestamp_ms: i64,
    /// Decides the partition; may be null.
    pub key: Option<Bytes>,
    /// The message itself; may be null.
    pub value: Option<Bytes>,
    /// In order, with duplicates.
    pub headers: Vec<Header>,
}

/// The records of a batch, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    data: Bytes,
    position: usize,
    index: u32,
    count: u32,
    base_offset: u64,
    base_timestamp: i64,
    append_time: Option<i64>,
}

impl Records {
    pub(crate) fn new(data: Bytes, header: &BatchHeader) -> Self {
        Self {
            data,
            position: 0,
            index: 0,
            count: header.count.cast_unsigned(),
            base_offset: header.base_offset.cast_unsigned(),
            base_timestamp: header.base_timestamp,
            append_time: header.is_append_time().then_some(header.max_timestamp),
        }
    }

    /// Records not yet returned, if the batch is whole.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.count - self.index
    }

    fn read(&mut self) -> Result<Record, BatchError> {
        let mut cursor = Cursor {
            data: &self.data,
            position: self.position,
        };
        let mut headers = Vec::new();
        let raw = cursor.record(|name, value| {
            let value = value.map(|range| self.data.slice(range));
            headers.push(Header {
                name: self.data.slice(name),
                value,
            });
        });
        let raw = raw.map_err(|why| bad_record(self.index, cursor.position, why))?;
        self.position = cursor.position;
        let timestamp_ms = self
            .append_time
            .or(self.base_timestamp.checked_add(raw.timestamp_delta));
        Ok(Record {
            offset: self
                .base_offset
                .wrapping_add_signed(i64::from(raw.offset_delta)),
            timestamp_ms: timestamp_ms
                .ok_or_else(|| bad_record(self.index, self.position, "the timestamp overflows"))?,
            key: raw.key.map(|range| self.data.slice(range)),
            value: raw.value.map(|range| self.data.slice(range)),
            headers,
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            let bytes = self.data.len() - self.position;
            self.position = self.data.len();
            return (bytes > 0).then_some(Err(BatchError::Trailing { bytes }));
        }
        let result = self.read();
        match &result {
            Ok(_) => self.index += 1,
            Err(_) => {
                self.index = self.count;
                self.position = self.data.len();
            }
        }
        Some(result)
    }
}

impl std::iter::FusedIterator for Records {}

/// Checks every record of a batch from a client without building one.
pub(crate) fn walk(data: &[u8], header: &BatchHeader, limits: &Limits) -> Result<(), BatchError> {
    let mut cursor = Cursor { data, position: 0 };
    let mut greatest = i64::MIN;
    for index in 0..header.count.cast_unsigned() {
        let mut size = 0;
        let raw = cursor
            .record(|name, value| size += name.len() + value.map_or(0, |range| range.len()))
            .map_err(|why| bad_record(index, cursor.position, why))?;
        if i64::from(raw.offset_delta) != i64::from(index) {
            return Err(BatchError::OffsetDelta {
                index,
                delta: raw.offset_delta,
            });
        }
        let timestamp = header
            .base_timestamp
            .checked_add(raw.timestamp_delta)
            .ok_or_else(|| bad_record(index, cursor.position, "the timestamp overflows"))?;
        greatest = greatest.max(timestamp);
        size += raw.key.map_or(0, |range| range.len()) + raw.value.map_or(0, |range| range.len());
        if size > limits.max_message_bytes {
            let limit = limits.max_message_bytes;
            return Err(BatchError::MessageTooLarge { index, size, limit });
        }
    }
    if cursor.position != data.len() {
        return Err(BatchError::Trailing {
            bytes: data.len() - cursor.position,
        });
    }
    if greatest != header.max_timestamp {
        return Err(BatchError::MaxTimestamp {
            declared: header.max_timestamp,
            actual: greatest,
        });
    }
    Ok(())
}

fn bad_record(index: u32, position: usize, why: &'static str) -> BatchError {
    BatchError::Record {
        index,
        position,
        why,
    }
}

/// One record's fields; byte strings as ranges of the data they lie in.
struct RawRecord {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

/// A place in the records of a batch.
struct Cursor<'a> {
    data: &'a [u8],
    position: usize,
}

impl Cursor<'_> {
    /// Reads one record; tells the ranges of each header's name and value in order.
    #[inline(always)]
    fn record(
        &mut self,
        mut on_header: impl FnMut(Range<usize>, Option<Range<usize>>),
    ) -> Result<RawRecord, &'static str> {
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| "the length is negative")?;
        let end = self.position + length;
        if end > self.data.len() {
            return Err("the record is cut");
        }
        self.byte()?;
        let timestamp_delta = self.varlong()?;
        let offset_delta = self.varint()?;
        let key = self.nullable()?;
        let value = self.nullable()?;
        let headers = self.varint()?;
        if headers < 0 {
            return Err("the header count is negative");
        }
        for _ in 0..headers {
            let name = self.nullable()?.ok_or("a header's name is null")?;
            if std::str::from_utf8(&self.data[name.clone()]).is_err() {
                return Err("a header's name is not UTF-8");
            }
            on_header(name, self.nullable()?);
        }
        if self.position != end {
            return Err("the fields do not fill the declared length");
        }
        Ok(RawRecord {
            timestamp_delta,
            offset_delta,
            key,
            value,
        })
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = *self.data.get(self.position).ok_or("a field is cut")?;
        self.position += 1;
        Ok(byte)
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<i32, &'static str> {
        let raw = u32::try_from(self.unsigned()?).map_err(|_| "a number has more than 32 bits")?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    #[inline(always)]
    fn varlong(&mut self) -> Result<i64, &'static str> {
        let raw = self.unsigned()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// Most numbers have one byte or two; only the longer ones are worth a call.
    #[inline(always)]
    fn unsigned(&mut self) -> Result<u64, &'static str> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let second = self.byte()?;
        let value = u64::from(first & 0x7f) | u64::from(second & 0x7f) << 7;
        if second < 0x80 {
            Ok(value)
        } else {
            self.long_number(value)
        }
    }

    /// The rest of a number whose first two bytes are known.
    #[inline(never)]
    fn long_number(&mut self, mut value: u64) -> Result<u64, &'static str> {
        for shift in (14..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if shift == 63 && byte > 1 {
                    Err(LONG_NUMBER)
                } else {
                    Ok(value)
                };
            }
        }
        Err(LONG_NUMBER)
    }

    /// A byte string behind its length; −1 is null.
    #[inline(always)]
    fn nullable(&mut self) -> Result<Option<Range<usize>>, &'static str> {
        let length = self.varint()?;
        if length < 0 {
            return if length == -1 {
                Ok(None)
            } else {
                Err("a length is negative")
            };
        }
        let start = self.position;
        let end = start + length.unsigned_abs() as usize;
        if end > self.data.len() {
            return Err("a field is cut");
        }
        self.position = end;
        Ok(Some(start..end))
    }
}

const LONG_NUMBER: &str = "a number has more than 64 bits";

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
struct Small {
    bytes: [u8; 48],
    length: usize,
}

impl Small {
    #[inline(always)]
    fn new() -> Self {
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
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.byte(value.to_le_bytes()[0]);
    }

    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The zigzag form: small magnitudes become small numbers.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Bytes that a zigzagged number takes as varint.
#[inline]
pub(crate) fn varint_len(value: u64) -> usize {
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

#[cfg(test)]
mod tests;
