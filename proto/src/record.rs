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

mod builder;

use std::ops::Range;

use bytes::Bytes;

pub use builder::BatchBuilder;

use crate::batch::{BatchError, BatchHeader, Limits};

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
    let mut all_headers = 0;
    let (count, limit) = (header.count.cast_unsigned(), limits.max_records);
    if count > limit {
        return Err(BatchError::TooManyRecords { count, limit });
    }
    for index in 0..count {
        let (mut size, mut headers) = (0, 0);
        let on_header = |name: Range<usize>, value: Option<Range<usize>>| {
            headers += 1;
            size += name.len() + value.map_or(0, |range| range.len());
        };
        let raw = cursor
            .record(on_header)
            .map_err(|why| bad_record(index, cursor.position, why))?;
        all_headers += headers;
        check_headers(index, headers, all_headers, limits)?;
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

#[inline(always)]
fn check_headers(index: u32, count: u32, in_all: u32, limits: &Limits) -> Result<(), BatchError> {
    if count > limits.max_record_headers {
        let limit = limits.max_record_headers;
        return Err(BatchError::TooManyHeaders {
            index,
            count,
            limit,
        });
    }
    if in_all > limits.max_headers {
        let (count, limit) = (in_all, limits.max_headers);
        return Err(BatchError::TooManyHeadersInAll {
            index,
            count,
            limit,
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

#[cfg(test)]
mod tests;
