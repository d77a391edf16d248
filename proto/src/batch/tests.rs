//! Batches: the golden bytes, the rules for clients, and damage of every kind.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::record::{BatchBuilder, Header};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    max_batch_bytes: 1 << 20,
    max_message_bytes: 1 << 16,
    max_decompressed_bytes: 1 << 20,
    max_records: 100_000,
    max_record_headers: 1_000,
    max_headers: 1_000_000,
};

/// Two records of producer 4242, worked out by hand from Kafka's description of the format.
const GOLDEN: &str = concat!(
    "0000000000000000",
    "0000004d",
    "ffffffff",
    "02",
    "e7650fff",
    "0000",
    "00000001",
    "0000018bcfe56800",
    "0000018bcfe5692c",
    "0000000000001092",
    "0003",
    "00000011",
    "00000002",
    "26000000026b0a68656c6c6f0402610231026101",
    "0e00d80402010000",
);

fn golden() -> Bytes {
    let pair = |place: usize| u8::from_str_radix(&GOLDEN[place..place + 2], 16).unwrap();
    (0..GOLDEN.len()).step_by(2).map(pair).collect()
}

fn builder(compression: Compression) -> BatchBuilder {
    let mut builder = BatchBuilder::new(compression);
    for n in 0..5_u8 {
        let value = vec![n; 40];
        let headers = [Header::new("h", vec![n]), Header::new("h", vec![])];
        builder.push(1000 + i64::from(n), Some(b"key"), Some(&value), &headers);
    }
    builder
}

fn sample(compression: Compression) -> Bytes {
    builder(compression).finish().unwrap()
}

/// Changes bytes and makes the checksum right again, as an adversary would.
fn forged(batch: &Bytes, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = batch.to_vec();
    change(&mut bytes);
    let length = i32::try_from(bytes.len() - LENGTH_PREFIX).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[CRC_START..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn refusal(bytes: Bytes) -> BatchError {
    Batch::validate(bytes, &LIMITS).expect_err("the batch must be refused")
}

#[test]
fn golden_bytes() {
    let mut builder = BatchBuilder::new(Compression::None);
    let a = Bytes::from_static(b"a");
    let headers = [
        Header::new("a", &b"1"[..]),
        Header {
            name: a.clone(),
            value: None,
        },
    ];
    assert_eq!(
        builder.push(1_700_000_000_000, Some(b"k"), Some(b"hello"), &headers),
        0
    );
    assert_eq!(builder.push(1_700_000_000_300, None, Some(b""), &[]), 1);
    builder.set_producer(4242, 3, 17);
    assert_eq!(builder.finish().unwrap(), golden());

    let batch = Batch::validate(golden(), &LIMITS).unwrap();
    assert_eq!(batch.count(), 2);
    assert_eq!(batch.header().total_len(), golden().len());
    let records: Vec<_> = batch.records(0).unwrap().map(Result::unwrap).collect();
    assert_eq!(records[0].headers, headers);
    assert_eq!(records[0].value.as_deref(), Some(&b"hello"[..]));
    assert_eq!(
        (records[1].offset, records[1].timestamp_ms),
        (1, 1_700_000_000_300)
    );
    assert_eq!(
        (&records[1].key, records[1].value.as_deref()),
        (&None, Some(&b""[..]))
    );
}

#[test]
fn header_round_trip() {
    let header = BatchHeader::read(&golden()).unwrap();
    let mut bytes = [0; HEADER_LEN];
    header.write(&mut bytes);
    assert_eq!(bytes[..], golden()[..HEADER_LEN]);
    assert_eq!(
        (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence
        ),
        (4242, 3, 17)
    );
}

#[test]
fn patching_keeps_the_checksum() {
    let original = sample(Compression::Lz4);
    let mut patched = original.to_vec();
    patch(&mut patched, 77, 5);
    assert_eq!(patched[..16], patched_prefix(&original, 77, 5));
    let batch = Batch::check(patched.into()).unwrap();
    assert_eq!(
        (batch.header().base_offset, batch.header().leader_epoch),
        (77, 5)
    );
    let offsets: Vec<_> = batch
        .records(1 << 20)
        .unwrap()
        .map(|r| r.unwrap().offset)
        .collect();
    assert_eq!(offsets, [77, 78, 79, 80, 81]);
}

#[test]
fn append_time_is_stamped() {
    let original = sample(Compression::Zstd);
    for bytes in [original.clone(), Bytes::from(original.to_vec())] {
        let batch = Batch::check(stamp_append_time(bytes, 9999)).unwrap();
        assert!(batch.header().is_append_time());
        assert_eq!(batch.header().compression().unwrap(), Compression::Zstd);
        assert!(
            batch
                .records(1 << 20)
                .unwrap()
                .all(|record| record.unwrap().timestamp_ms == 9999)
        );
    }
    Batch::validate(original, &LIMITS).unwrap();
}

#[test]
fn clients_cannot_set_what_is_the_brokers() {
    let good = sample(Compression::None);
    for bit in 3..16 {
        let bytes = forged(&good, |b| {
            let attributes = u16::from_be_bytes([b[21], b[22]]) | (1 << bit);
            b[21..23].copy_from_slice(&attributes.to_be_bytes());
        });
        assert!(
            matches!(refusal(bytes), BatchError::Attributes { .. }),
            "bit {bit}"
        );
    }
}

#[test]
fn broken_rules_are_named() {
    let good = sample(Compression::None);
    let set =
        |at: usize, value: &[u8]| forged(&good, |b| b[at..at + value.len()].copy_from_slice(value));
    assert!(matches!(
        refusal(set(16, &[1])),
        BatchError::Magic { magic: 1 }
    ));
    assert!(matches!(
        refusal(set(22, &[5])),
        BatchError::Codec { code: 5 }
    ));
    let five = |n: i32| n.to_be_bytes();
    assert!(matches!(
        refusal(set(57, &five(0))),
        BatchError::Count { count: 0, .. }
    ));
    assert!(matches!(
        refusal(set(57, &five(-1))),
        BatchError::Count { .. }
    ));
    assert!(matches!(
        refusal(set(57, &five(4))),
        BatchError::Count { .. }
    ));
    assert!(matches!(
        refusal(set(57, &five(i32::MIN))),
        BatchError::Count { .. }
    ));
    assert!(matches!(
        refusal(set(23, &five(-9))),
        BatchError::Count { .. }
    ));
    assert!(matches!(
        refusal(set(43, &1_i64.to_be_bytes())),
        BatchError::Producer { .. }
    ));
    assert!(matches!(
        refusal(set(43, &(-2_i64).to_be_bytes())),
        BatchError::Producer { .. }
    ));
    let late = refusal(set(35, &5000_i64.to_be_bytes()));
    assert!(
        matches!(
            late,
            BatchError::MaxTimestamp {
                declared: 5000,
                actual: 1004
            }
        ),
        "{late}"
    );
    let trailing = refusal(forged(&good, |b| b.extend_from_slice(b"xyz")));
    assert!(
        matches!(trailing, BatchError::Trailing { bytes: 3 }),
        "{trailing}"
    );
    // The second record's offset delta: each record here takes 58 bytes, its own length first.
    let first = usize::from(good[HEADER_LEN] / 2) + 1;
    let skewed = forged(&good, |b| b[HEADER_LEN + first + 3] = 8);
    assert!(matches!(
        refusal(skewed),
        BatchError::OffsetDelta { index: 1, delta: 4 }
    ));
    let overflow = set(27, &i64::MAX.to_be_bytes());
    assert!(matches!(
        refusal(overflow),
        BatchError::Record { index: 1, .. }
    ));
}

#[test]
fn limits_are_kept() {
    let tight = |change: fn(&mut Limits)| {
        let mut limits = LIMITS;
        change(&mut limits);
        limits
    };
    for codec in Compression::ALL {
        let good = sample(codec);
        Batch::validate(good.clone(), &LIMITS).unwrap();
        let error = Batch::validate(good.clone(), &tight(|l| l.max_batch_bytes = 60)).unwrap_err();
        assert!(
            matches!(error, BatchError::TooLarge { limit: 60, .. }),
            "{codec}: {error}"
        );
        let error =
            Batch::validate(good.clone(), &tight(|l| l.max_message_bytes = 45)).unwrap_err();
        let expected = BatchError::MessageTooLarge {
            index: 0,
            size: 46,
            limit: 45,
        };
        assert_eq!(error.to_string(), expected.to_string(), "{codec}");
        if codec != Compression::None {
            let limits = tight(|l| l.max_decompressed_bytes = 100);
            let error = Batch::validate(good, &limits).unwrap_err();
            assert!(
                matches!(error, BatchError::Compression(_)),
                "{codec}: {error}"
            );
        }
    }
}

#[test]
fn counts_of_strangers_allocate_nothing() {
    let good = sample(Compression::None);
    let greedy = forged(&good, |b| {
        b[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        b[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    });
    assert!(matches!(
        refusal(greedy.clone()),
        BatchError::TooManyRecords { .. }
    ));
    let bold = forged(&good, |b| {
        b[23..27].copy_from_slice(&99_999_i32.to_be_bytes());
        b[57..61].copy_from_slice(&100_000_i32.to_be_bytes());
    });
    assert!(matches!(refusal(bold), BatchError::Record { index: 5, .. }));
    let records = Batch::check(greedy).unwrap().records(0).unwrap();
    assert_eq!(records.filter(Result::is_ok).count(), 5);
    // One record that claims 2^31 - 1 headers, and one that claims a key of that length.
    let maximum = [0xfe, 0xff, 0xff, 0xff, 0x0f];
    let headers = [&[20, 0, 0, 0, 1, 1][..], &maximum].concat();
    let key = [&[20, 0, 0, 0][..], &maximum, &[0, 0]].concat();
    for record in [headers, key] {
        let bytes = forged(&good, |b| {
            b.truncate(HEADER_LEN);
            b.extend_from_slice(&record);
            b[23..27].copy_from_slice(&[0; 4]);
            b[57..61].copy_from_slice(&1_i32.to_be_bytes());
        });
        assert!(matches!(
            refusal(bytes.clone()),
            BatchError::Record { index: 0, .. }
        ));
        let mut records = Batch::check(bytes).unwrap().records(0).unwrap();
        assert!(records.next().unwrap().is_err());
        assert!(records.next().is_none());
    }
}

#[test]
fn truncated_at_every_length() {
    for codec in Compression::ALL {
        let good = sample(codec);
        for length in 0..good.len() {
            assert!(Batch::check(good.slice(..length)).is_err());
            if length >= HEADER_LEN {
                // Cut by someone who also repairs length and checksum.
                let bytes = forged(&good, |b| b.truncate(length));
                assert!(
                    Batch::validate(bytes.clone(), &LIMITS).is_err(),
                    "{codec} at {length}"
                );
                if let Ok(records) = Batch::check(bytes).unwrap().records(1 << 20) {
                    assert!(records.last().is_none_or(|last| last.is_err()));
                }
            }
        }
        let longer = [&good[..], b"x"].concat();
        assert!(matches!(
            Batch::check(longer.into()),
            Err(BatchError::Length { .. })
        ));
    }
}

#[test]
fn every_flipped_bit_is_found() {
    for codec in Compression::ALL {
        let good = sample(codec).to_vec();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outside = bit / 8 < 8 || (12..16).contains(&(bit / 8));
            assert_eq!(
                Batch::check(bytes.into()).is_ok(),
                outside,
                "{codec} bit {bit}"
            );
        }
    }
}

#[test]
fn forged_bits_never_panic() {
    for codec in Compression::ALL {
        let good = sample(codec);
        for bit in CRC_START * 8..good.len() * 8 {
            let bytes = forged(&good, |b| b[bit / 8] ^= 1 << (bit % 8));
            let valid = Batch::validate(bytes.clone(), &LIMITS).is_ok();
            let Ok(batch) = Batch::check(bytes) else {
                continue;
            };
            let Ok(records) = batch.records(1 << 20) else {
                continue;
            };
            let walked: Result<Vec<_>, _> = records.collect();
            assert!(
                !valid || walked.is_ok(),
                "{codec} bit {bit}: valid, but unreadable"
            );
        }
    }
}

#[test]
fn slices_are_not_copies() {
    let batch = Batch::check(sample(Compression::None)).unwrap();
    let whole = batch.bytes().as_ptr_range();
    for record in batch.records(0).unwrap() {
        assert!(whole.contains(&record.unwrap().value.unwrap().as_ptr()));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Batch::validate(bytes.clone().into(), &LIMITS);
        let _ = BatchHeader::read(&bytes);
        for codec in 0..5_u8 {
            let forged = forged(&sample(Compression::None), |b| {
                b.truncate(HEADER_LEN);
                b.extend_from_slice(&bytes);
                b[22] = codec;
            });
            let _ = Batch::validate(forged.clone(), &LIMITS);
            if let Ok(records) = Batch::check(forged).unwrap().records(1 << 16) {
                let _ = records.count();
            }
        }
    }
}

#[test]
fn records_and_headers_are_counted_whatever_their_bytes() {
    let empty = |count: usize| vec![Header::new("", ""); count];
    let batch = |records: usize, headers: usize| {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        for _ in 0..records {
            builder.push(0, None, None, &empty(headers));
        }
        Batch::validate(builder.finish().unwrap(), &LIMITS)
    };
    assert!(batch(2, 1_000).is_ok());
    assert!(matches!(
        batch(2, 1_001),
        Err(BatchError::TooManyHeaders {
            index: 0,
            count: 1_001,
            limit: 1_000
        })
    ));
    let limits = Limits {
        max_records: 3,
        max_headers: 5,
        ..LIMITS
    };
    let check = |records: usize, headers: usize| {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..records {
            builder.push(0, None, None, &empty(headers));
        }
        Batch::validate(builder.finish().unwrap(), &limits)
    };
    assert!(check(3, 1).is_ok());
    assert!(matches!(
        check(4, 0),
        Err(BatchError::TooManyRecords { count: 4, limit: 3 })
    ));
    assert!(matches!(
        check(3, 2),
        Err(BatchError::TooManyHeadersInAll {
            index: 2,
            count: 6,
            limit: 5
        })
    ));
}
