//! Places in a log, and where partitions begin and end.

use aqueduct_proto::v1::{self, position::Kind};

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first message kept.
    Start,
    /// Past the last acknowledged message as of now.
    End,
    /// This offset, in each partition.
    Offset(u64),
    /// The first message with this time stamp or a later one (milliseconds since the epoch).
    Time(i64),
    /// This many messages before the end, of each partition.
    Last(u64),
}

/// Where to stop reading; exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end as of now.
    Now,
    /// This offset, in each partition.
    Offset(u64),
    /// The first message with this time stamp or a later one (milliseconds since the epoch).
    Time(i64),
}

/// One partition's offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// Counted from 0.
    pub partition: u32,
    /// First readable offset.
    pub log_start_offset: u64,
    /// One past the last acknowledged message.
    pub high_watermark: u64,
    /// Where the position that was asked for is.
    pub offset: Option<u64>,
}

impl From {
    pub(crate) fn into_proto(self) -> v1::Position {
        let kind = match self {
            Self::Start => Kind::Start(true),
            Self::End => Kind::End(true),
            Self::Offset(offset) => Kind::Offset(offset),
            Self::Time(time_ms) => Kind::TimestampMs(time_ms),
            Self::Last(count) => Kind::Last(count),
        };
        v1::Position { kind: Some(kind) }
    }
}

impl Until {
    pub(crate) fn into_proto(self) -> v1::Position {
        let kind = match self {
            Self::Now => Kind::End(true),
            Self::Offset(offset) => Kind::Offset(offset),
            Self::Time(time_ms) => Kind::TimestampMs(time_ms),
        };
        v1::Position { kind: Some(kind) }
    }
}

impl PartitionOffsets {
    pub(crate) fn from_proto(offsets: v1::PartitionOffsets) -> Self {
        Self {
            partition: offsets.partition,
            log_start_offset: offsets.log_start_offset,
            high_watermark: offsets.high_watermark,
            offset: offsets.offset,
        }
    }
}
