//! The codecs of record batches, each with a limit on what comes out.
//!
//! Promises: output beyond the limit ends the work with [`CompressionError::TooLarge`] while
//! inflating, so a bomb costs no more memory than the limit allows; malformed input is an error.
//! What is written is what Kafka clients read:
//!
//! | Code | Codec  | Written                                    | Read besides    |
//! |------|--------|--------------------------------------------|-----------------|
//! | 0    | none   | as it is                                   |                 |
//! | 1    | gzip   | one member                                 | several members |
//! | 2    | snappy | snappy-java framing, blocks of 32 KiB      | one raw block   |
//! | 3    | lz4    | LZ4 frame, independent blocks of 64 KiB    | larger blocks   |
//! | 4    | zstd   | one frame, level 3                         | several frames  |
//!
//! The snappy-java framing: 8 bytes of magic, version and lowest compatible version as i32, then
//! blocks, each a length as i32 and a raw snappy block. Integers are big-endian.

use std::io::{Read, Write};

use thiserror::Error;

const SNAPPY_JAVA_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const SNAPPY_JAVA_HEADER: [u8; 16] = [
    0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1,
];
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
const LZ4_INDEPENDENT: u8 = 0x20;
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
const ZSTD_LEVEL: i32 = 3;
/// Every zstd decoder should support windows of 8 MiB (RFC 8878); streaming encoders ask for a
/// window before they know how little they will write.
const ZSTD_WINDOW_LOG: std::ops::RangeInclusive<u32> = 23..=27;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Deflate in gzip members.
    Gzip,
    /// Snappy in the framing of snappy-java.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, Error)]
pub enum CompressionError {
    /// The output would be longer than the caller allows.
    #[error("decompressed data exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// The input is not what its codec writes.
    #[error("malformed {codec} data: {why}")]
    Malformed {
        /// The codec that was asked.
        codec: Compression,
        /// What it found.
        why: String,
    },
    /// The name of a codec is unknown.
    #[error("unknown compression {0:?}: use none, gzip, snappy, lz4 or zstd")]
    UnknownName(String),
}

impl Compression {
    /// Every codec, in order of its code.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The code in the attributes of a batch.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of a code, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Compresses `data`.
    ///
    /// # Errors
    /// [`CompressionError::Malformed`] if the codec refuses, which none does for input of a size
    /// that fits a batch.
    pub fn compress(self, data: &[u8]) -> Result<Vec<u8>, CompressionError> {
        match self {
            Self::None => Ok(data.to_vec()),
            Self::Gzip => gzip(data).map_err(|error| self.malformed(error)),
            Self::Snappy => snappy_java(data).map_err(|error| self.malformed(error)),
            Self::Lz4 => lz4(data).map_err(|error| self.malformed(error)),
            Self::Zstd => {
                zstd::bulk::compress(data, ZSTD_LEVEL).map_err(|error| self.malformed(error))
            }
        }
    }

    /// Decompresses `data` into at most `max_output` bytes.
    ///
    /// # Errors
    /// [`CompressionError::TooLarge`] as soon as the output passes the limit,
    /// [`CompressionError::Malformed`] if the input is broken.
    pub fn decompress(self, data: &[u8], max_output: usize) -> Result<Vec<u8>, CompressionError> {
        match self {
            Self::None if data.len() > max_output => {
                Err(CompressionError::TooLarge { limit: max_output })
            }
            Self::None => Ok(data.to_vec()),
            Self::Gzip => self.drain(flate2::bufread::MultiGzDecoder::new(data), max_output),
            Self::Snappy => self.unsnappy(data, max_output),
            Self::Lz4 => self.unlz4(data, max_output),
            Self::Zstd => self.unzstd(data, max_output),
        }
    }

    fn malformed(self, why: impl ToString) -> CompressionError {
        CompressionError::Malformed {
            codec: self,
            why: why.to_string(),
        }
    }

    /// Reads everything that `reader` inflates, but never more than one byte past the limit.
    fn drain(self, reader: impl Read, limit: usize) -> Result<Vec<u8>, CompressionError> {
        let mut output = Vec::new();
        reader
            .take(limit as u64 + 1)
            .read_to_end(&mut output)
            .map_err(|error| self.malformed(error))?;
        if output.len() > limit {
            return Err(CompressionError::TooLarge { limit });
        }
        Ok(output)
    }

    fn unzstd(self, data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(data)
            .map_err(|error| self.malformed(error))?;
        // A frame names the window that its decoder has to allocate: bounded like the output.
        let window = usize::BITS - limit.leading_zeros();
        decoder
            .window_log_max(window.clamp(*ZSTD_WINDOW_LOG.start(), *ZSTD_WINDOW_LOG.end()))
            .map_err(|error| self.malformed(error))?;
        self.drain(decoder, limit)
    }

    /// Reads one frame of independent blocks, from its magic to its end mark. Kafka's Java client
    /// reads no other, so nothing else may come to rest.
    fn unlz4(self, data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let independent = data
            .get(4)
            .is_some_and(|flags| flags & LZ4_INDEPENDENT != 0);
        if !data.starts_with(&LZ4_MAGIC) || !independent {
            return Err(self.malformed("not a frame of independent blocks"));
        }
        // The decoder takes the end of its input for the end of the frame. A frame that has its
        // end mark leaves the bytes behind it alone.
        let sentinel = [0xff; 4];
        let mut decoder = lz4_flex::frame::FrameDecoder::new(data.chain(&sentinel[..]));
        let output = self.drain(&mut decoder, limit)?;
        let (rest, untouched) = decoder.get_ref().get_ref();
        if !rest.is_empty() || untouched.len() != sentinel.len() {
            return Err(self.malformed("the frame does not end where its bytes do"));
        }
        Ok(output)
    }

    fn unsnappy(self, data: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let mut output = Vec::new();
        if !data.starts_with(&SNAPPY_JAVA_MAGIC) {
            self.unsnappy_block(data, limit, &mut output)?;
            return Ok(output);
        }
        let mut rest = data
            .get(SNAPPY_JAVA_HEADER.len()..)
            .ok_or_else(|| self.malformed("the framing's header is cut"))?;
        while !rest.is_empty() {
            let (length, after) = rest
                .split_first_chunk::<4>()
                .ok_or_else(|| self.malformed("a block's length is cut"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let block = after
                .get(..length)
                .ok_or_else(|| self.malformed("a block is cut"))?;
            self.unsnappy_block(block, limit, &mut output)?;
            rest = &after[length..];
        }
        Ok(output)
    }

    /// Appends one raw block to `output`, whose whole length stays within `limit`.
    fn unsnappy_block(
        self,
        block: &[u8],
        limit: usize,
        output: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let length = snap::raw::decompress_len(block).map_err(|error| self.malformed(error))?;
        if length > limit - output.len() {
            return Err(CompressionError::TooLarge { limit });
        }
        // Three bytes stand for at most 64, so a greater promise is a lie not worth memory.
        if length > block.len().saturating_mul(22) {
            return Err(self.malformed("the declared length cannot be reached"));
        }
        let start = output.len();
        output.resize(start + length, 0);
        snap::raw::Decoder::new()
            .decompress(block, &mut output[start..])
            .map_err(|error| self.malformed(error))?;
        Ok(())
    }
}

fn gzip(data: &[u8]) -> std::io::Result<Vec<u8>> {
    let output = Vec::with_capacity(data.len() / 2);
    let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::default());
    encoder.write_all(data)?;
    encoder.finish()
}

fn snappy_java(data: &[u8]) -> Result<Vec<u8>, snap::Error> {
    let mut output = SNAPPY_JAVA_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(SNAPPY_BLOCK_BYTES) {
        let start = output.len() + 4;
        output.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let length = encoder.compress(block, &mut output[start..])?;
        let prefix =
            u32::try_from(length).expect("a block of 32 KiB compresses to less than 4 GiB");
        output[start - 4..start].copy_from_slice(&prefix.to_be_bytes());
        output.truncate(start + length);
    }
    Ok(output)
}

fn lz4(data: &[u8]) -> Result<Vec<u8>, lz4_flex::frame::Error> {
    // Kafka's Java client reads independent blocks only.
    let info = lz4_flex::frame::FrameInfo::new()
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
        .block_mode(lz4_flex::frame::BlockMode::Independent);
    let output = Vec::with_capacity(data.len() / 2);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, output);
    encoder.write_all(data)?;
    encoder.finish()
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = CompressionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.to_string() == name)
            .ok_or_else(|| CompressionError::UnknownName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
