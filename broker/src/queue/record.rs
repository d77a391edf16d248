//! What a queue remembers of one message that was touched and is not settled, and of a dead
//! letter that waits for its copy; and their packed forms. Pure.
//!
//! A million messages that wait for a retry are an ordinary bad day, so a record takes 37 bytes
//! and not the 72 of the plain struct. Times are kept in 48 bits of milliseconds since 1970
//! (until the year 10889; a time before 1970 becomes 0).

use super::command::Reason;

/// The present lease of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Greater than every lease number given before in this queue.
    pub(crate) number: u64,
    pub(crate) deadline_ms: i64,
    pub(crate) consumer: u64,
}

/// Where a message stands that is neither settled nor untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Given back; can be handed out.
    Ready,
    /// Can be handed out from this time on.
    Retry {
        at_ms: i64,
    },
    Leased(Lease),
    /// Never handed out, and can be from this time of the wall clock on: not the time that it was
    /// published with.
    Delayed {
        until_ms: i64,
    },
}

/// A message with a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Attempts that failed.
    pub(crate) failed: u32,
    /// Leases given, the present one included.
    pub(crate) hand_outs: u32,
    /// When the first attempt failed; 0 before that.
    pub(crate) first_failure_ms: i64,
    pub(crate) phase: Phase,
}

impl Record {
    /// Before anything happened.
    pub(crate) const FRESH: Record = Record {
        failed: 0,
        hand_outs: 0,
        first_failure_ms: 0,
        phase: Phase::Ready,
    };

    /// Counts a failed attempt.
    pub(crate) fn fail(&mut self, now_ms: i64) {
        self.failed = self.failed.saturating_add(1);
        if self.first_failure_ms == 0 {
            self.first_failure_ms = now_ms.max(1);
        }
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        match self.phase {
            Phase::Leased(lease) => Some(lease),
            _ => None,
        }
    }
}

/// A dead letter whose copy is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) offset: u64,
    pub(crate) reason: Reason,
    pub(crate) failed: u32,
    pub(crate) hand_outs: u32,
    /// 0 if no attempt failed.
    pub(crate) first_failure_ms: i64,
    pub(crate) died_ms: i64,
}

/// A [`Record`] in 37 bytes: phase, failed, hand-outs, first failure, time (deadline or retry),
/// lease number, consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedRecord([u8; 37]);

/// A [`Dead`] in 29 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedDead([u8; 29]);

const READY: u8 = 0;
const RETRY: u8 = 1;
const LEASED: u8 = 2;
const DELAYED: u8 = 3;

/// The greatest time that is kept.
pub(crate) const MAX_TIME_MS: i64 = (1 << 48) - 1;

fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn get(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut value = [0; 8];
    value[..width].copy_from_slice(&bytes[at..at + width]);
    u64::from_le_bytes(value)
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    get(bytes, at, 4) as u32
}

fn put_time(bytes: &mut [u8], at: usize, time_ms: i64) {
    put(bytes, at, 6, time_ms.clamp(0, MAX_TIME_MS) as u64);
}

fn get_time(bytes: &[u8], at: usize) -> i64 {
    get(bytes, at, 6) as i64
}

impl From<Record> for PackedRecord {
    fn from(record: Record) -> PackedRecord {
        let mut bytes = [0; 37];
        put(&mut bytes, 1, 4, record.failed.into());
        put(&mut bytes, 5, 4, record.hand_outs.into());
        put_time(&mut bytes, 9, record.first_failure_ms);
        match record.phase {
            Phase::Ready => bytes[0] = READY,
            Phase::Retry { at_ms } => {
                bytes[0] = RETRY;
                put_time(&mut bytes, 15, at_ms);
            }
            Phase::Delayed { until_ms } => {
                bytes[0] = DELAYED;
                put_time(&mut bytes, 15, until_ms);
            }
            Phase::Leased(lease) => {
                bytes[0] = LEASED;
                put_time(&mut bytes, 15, lease.deadline_ms);
                put(&mut bytes, 21, 8, lease.number);
                put(&mut bytes, 29, 8, lease.consumer);
            }
        }
        PackedRecord(bytes)
    }
}

impl From<PackedRecord> for Record {
    fn from(PackedRecord(bytes): PackedRecord) -> Record {
        let phase = match bytes[0] {
            READY => Phase::Ready,
            RETRY => Phase::Retry {
                at_ms: get_time(&bytes, 15),
            },
            DELAYED => Phase::Delayed {
                until_ms: get_time(&bytes, 15),
            },
            _ => Phase::Leased(Lease {
                number: get(&bytes, 21, 8),
                deadline_ms: get_time(&bytes, 15),
                consumer: get(&bytes, 29, 8),
            }),
        };
        Record {
            failed: get_u32(&bytes, 1),
            hand_outs: get_u32(&bytes, 5),
            first_failure_ms: get_time(&bytes, 9),
            phase,
        }
    }
}

impl From<Dead> for PackedDead {
    fn from(dead: Dead) -> PackedDead {
        let mut bytes = [0; 29];
        bytes[0] = dead.reason as u8;
        put(&mut bytes, 1, 8, dead.offset);
        put(&mut bytes, 9, 4, dead.failed.into());
        put(&mut bytes, 13, 4, dead.hand_outs.into());
        put_time(&mut bytes, 17, dead.first_failure_ms);
        put_time(&mut bytes, 23, dead.died_ms);
        PackedDead(bytes)
    }
}

impl From<PackedDead> for Dead {
    fn from(PackedDead(bytes): PackedDead) -> Dead {
        Dead {
            offset: get(&bytes, 1, 8),
            reason: Reason::try_from(i32::from(bytes[0])).unwrap_or_default(),
            failed: get_u32(&bytes, 9),
            hand_outs: get_u32(&bytes, 13),
            first_failure_ms: get_time(&bytes, 17),
            died_ms: get_time(&bytes, 23),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let lease = Lease {
            number: u64::MAX,
            deadline_ms: MAX_TIME_MS,
            consumer: u64::MAX - 1,
        };
        for phase in [
            Phase::Ready,
            Phase::Retry { at_ms: 1 << 47 },
            Phase::Delayed { until_ms: 1 << 46 },
            Phase::Leased(lease),
        ] {
            let record = Record {
                failed: u32::MAX,
                hand_outs: u32::MAX - 1,
                first_failure_ms: 1_800_000_000_000,
                phase,
            };
            assert_eq!(Record::from(PackedRecord::from(record)), record);
        }
        let dead = Dead {
            offset: u64::MAX,
            reason: Reason::Parked,
            failed: 3,
            hand_outs: 4,
            first_failure_ms: 5,
            died_ms: 6,
        };
        assert_eq!(Dead::from(PackedDead::from(dead)), dead);
        let early = Record {
            phase: Phase::Retry { at_ms: -5 },
            ..Record::FRESH
        };
        let packed = Record::from(PackedRecord::from(early));
        assert_eq!(packed.phase, Phase::Retry { at_ms: 0 });
    }
}
