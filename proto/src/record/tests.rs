//! Records: round trips through every codec, varints, and the builder's own promises.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::{
    builder::{Small, varint_len, zigzag},
    *,
};
use crate::{
    batch::{Batch, HEADER_LEN},
    compression::Compression,
};
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    max_batch_bytes: 1 << 24,
    max_message_bytes: 1 << 20,
    max_decompressed_bytes: 1 << 24,
    max_records: 100_000,
    max_record_headers: 1_000,
    max_headers: 1_000_000,
};

fn build(records: &[Record], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for (n, record) in records.iter().enumerate() {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = builder.push(record.timestamp_ms, key, value, &record.headers);
        assert_eq!(index as usize, n);
    }
    assert_eq!(builder.count() as usize, records.len());
    builder.finish().unwrap()
}

fn bytes(longest: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..longest).prop_map(Bytes::from)
}

fn header() -> impl Strategy<Value = Header> {
    let name = prop_oneof!["[a-c]", "\\PC{0,20}"].prop_map(Bytes::from);
    (name, prop::option::of(bytes(100))).prop_map(|(name, value)| Header { name, value })
}

fn record() -> impl Strategy<Value = Record> {
    let time = prop_oneof![
        1_700_000_000_000_i64..1_700_000_100_000,
        -1_i64..2,
        Just(1 << 61),
    ];
    (
        time,
        prop::option::of(bytes(70)),
        prop::option::of(bytes(300)),
        prop::collection::vec(header(), 0..4),
    )
        .prop_map(|(timestamp_ms, key, value, headers)| Record {
            offset: 0,
            timestamp_ms,
            key,
            value,
            headers,
        })
}

proptest! {
    #[test]
    fn what_was_pushed_is_read(mut records in prop::collection::vec(record(), 1..40)) {
        for (place, record) in records.iter_mut().enumerate() {
            record.offset = place as u64;
        }
        for codec in Compression::ALL {
            let batch = Batch::validate(build(&records, codec), &LIMITS).unwrap();
            prop_assert_eq!(batch.header().compression().unwrap(), codec);
            let iterator = batch.records(1 << 24).unwrap();
            prop_assert_eq!(iterator.remaining() as usize, records.len());
            let read: Vec<_> = iterator.map(Result::unwrap).collect();
            prop_assert_eq!(&read, &records);
        }
    }

    #[test]
    fn varints_round_trip(value in any::<i64>(), shift in 0_u32..64) {
        let value = value >> shift;
        let mut small = Small::new();
        small.varint(zigzag(value));
        prop_assert_eq!(small.length, varint_len(zigzag(value)));
        let mut cursor = Cursor { data: small.bytes(), position: 0 };
        prop_assert_eq!(cursor.varlong(), Ok(value));
        prop_assert_eq!(cursor.position, small.length);
        let narrow = Cursor { data: small.bytes(), position: 0 }.varint().ok();
        prop_assert_eq!(narrow, i32::try_from(value).ok());
    }
}

#[test]
fn overlong_varints_are_refused() {
    let read = |data: &[u8]| Cursor { data, position: 0 }.varlong();
    let ten = |last: u8| [&[0xff; 9][..], &[last]].concat();
    assert_eq!(read(&ten(1)), Ok(i64::MIN));
    assert_eq!(read(&ten(2)), Err(LONG_NUMBER));
    assert_eq!(read(&ten(0x80)), Err(LONG_NUMBER));
    assert_eq!(read(&[0x80]), Err("a field is cut"));
    assert_eq!(read(&[]), Err("a field is cut"));
    assert_eq!(read(&[0x80, 0x80, 0x00]), Ok(0), "a long form is legal");
}

#[test]
fn header_names_are_text() {
    let mut builder = BatchBuilder::new(Compression::None);
    let name = Bytes::from_static(&[0xff, 0xfe]);
    builder.push(0, None, None, &[Header { name, value: None }]);
    let bytes = builder.finish().unwrap();
    let error = Batch::validate(bytes.clone(), &LIMITS).unwrap_err();
    assert!(error.to_string().contains("UTF-8"), "{error}");
    assert!(
        Batch::check(bytes)
            .unwrap()
            .records(0)
            .unwrap()
            .next()
            .unwrap()
            .is_err()
    );
}

#[test]
fn an_empty_batch_is_refused() {
    let mut builder = BatchBuilder::new(Compression::Gzip);
    assert!(builder.is_empty());
    assert!(matches!(
        builder.take(),
        Err(BatchError::Count { count: 0, .. })
    ));
    assert!(matches!(
        builder.finish(),
        Err(BatchError::Count { count: 0, .. })
    ));
}

#[test]
fn a_builder_is_used_again() {
    let mut builder = BatchBuilder::new(Compression::Snappy);
    let mut batches = Vec::new();
    for round in 0..3_i64 {
        builder.set_producer(9, 1, 10);
        builder.push(round, Some(b"k"), Some(b"v"), &[]);
        assert!(builder.len_bytes() > HEADER_LEN);
        batches.push(Batch::validate(builder.take().unwrap(), &LIMITS).unwrap());
        assert_eq!((builder.count(), builder.len_bytes()), (0, HEADER_LEN));
    }
    assert_eq!(batches[2].header().base_timestamp, 2);
    builder.push(0, None, None, &[]);
    let anonymous = Batch::check(builder.take().unwrap()).unwrap();
    assert_eq!(anonymous.header().producer_id, -1);
    builder.push(5, None, None, &[]);
    builder.set_append_time(true);
    let stamped = Batch::check(builder.finish().unwrap()).unwrap();
    assert!(stamped.header().is_append_time());
}

#[test]
fn times_may_go_backwards() {
    let mut builder = BatchBuilder::new(Compression::None);
    for time in [100, 50, 200, -1] {
        builder.push(time, None, Some(b"x"), &[]);
    }
    let batch = Batch::validate(builder.finish().unwrap(), &LIMITS).unwrap();
    assert_eq!(
        (batch.header().base_timestamp, batch.header().max_timestamp),
        (100, 200)
    );
    let times: Vec<_> = batch
        .records(0)
        .unwrap()
        .map(|r| r.unwrap().timestamp_ms)
        .collect();
    assert_eq!(times, [100, 50, 200, -1]);
}
