//! What is wanted of batches that are cut anywhere.

#![allow(clippy::unwrap_used, reason = "tests")]

use aqueduct_proto::{batch, compression::Compression, record::BatchBuilder};

use super::*;

fn encoded(base_offset: u64, count: u64, compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for offset in base_offset..base_offset + count {
        builder.push(0, None, Some(offset.to_string().as_bytes()), &[]);
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    batch::patch(&mut bytes, base_offset, 1);
    bytes.into()
}

fn range(from: u64, until: Option<u64>) -> Cursors {
    let mut cursors = Cursors::default();
    cursors.open(&[v1::ReadRange {
        partition: 3,
        from,
        until,
    }]);
    cursors
}

fn offsets(records: &[Record]) -> Vec<u64> {
    for record in records {
        assert_eq!(
            record.value.as_deref(),
            Some(record.offset.to_string().as_bytes())
        );
        assert_eq!(record.partition, 3);
    }
    records.iter().map(|record| record.offset).collect()
}

#[test]
fn batches_are_trimmed_at_both_ends() {
    for compression in [Compression::None, Compression::Zstd] {
        let mut cursors = range(12, Some(21));
        let batches = vec![encoded(10, 5, compression), encoded(15, 10, compression)];
        let records = cursors.decode(3, batches, u64::MAX, 1 << 20).unwrap();
        assert_eq!(offsets(&records), (12..21).collect::<Vec<_>>());
        assert!(cursors.all_done());
    }
}

#[test]
fn a_batch_that_comes_again_is_skipped() {
    let mut cursors = range(0, None);
    let batch = encoded(0, 5, Compression::None);
    assert_eq!(
        cursors
            .decode(3, vec![batch.clone()], u64::MAX, 1 << 20)
            .unwrap()
            .len(),
        5
    );
    assert!(
        cursors
            .decode(3, vec![batch], u64::MAX, 1 << 20)
            .unwrap()
            .is_empty()
    );
    assert_eq!(cursors.positions().collect::<Vec<_>>(), [(3, 5)]);
}

#[test]
fn a_limit_stops_within_a_batch_and_the_rest_is_asked_for() {
    let mut cursors = range(2, Some(9));
    let records = cursors
        .decode(3, vec![encoded(0, 10, Compression::None)], 3, 1 << 20)
        .unwrap();
    assert_eq!(offsets(&records), [2, 3, 4]);
    let first = v1::ReadRequest {
        topic: "t".into(),
        max_messages: 99,
        ..Default::default()
    };
    let requests = cursors.requests(&first, 4);
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].partitions.clone(), requests[0].max_messages),
        (vec![3], 4)
    );
    assert_eq!(requests[0].from, Some(From::Offset(5).into_proto()));
    assert_eq!(requests[0].until, Some(Until::Offset(9).into_proto()));
}

#[test]
fn raw_batches_say_what_is_wanted_of_them() {
    let mut cursors = range(12, Some(21));
    let batches = [0, 10, 15, 25].map(|base| encoded(base, 10, Compression::Lz4));
    let raw = cursors.select(3, batches.to_vec(), u64::MAX).unwrap();
    assert_eq!((raw.from, raw.until, raw.batches.len()), (12, 21, 2));
    assert!(cursors.all_done());
}

#[test]
fn damage_is_an_error() {
    let mut bytes = encoded(0, 3, Compression::None).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let error = range(0, None)
        .decode(3, vec![bytes.into()], u64::MAX, 1 << 20)
        .unwrap_err();
    assert!(matches!(error, Error::DataLoss(_)), "{error:?}");
}

#[test]
fn an_empty_range_is_done_at_once() {
    assert!(range(5, Some(5)).all_done());
    let mut open = range(5, None);
    assert!(!open.all_done() && !open.all_caught_up());
    let told = v1::CaughtUp {
        partition: 3,
        next_offset: 5,
        done: false,
    };
    assert_eq!(open.caught_up(&told), 5);
    assert!(open.all_caught_up() && !open.all_done());
}

#[test]
fn partitions_that_are_not_read_are_missing_wherever_they_are() {
    let opened = |partition| v1::ReadRange {
        partition,
        from: 0,
        until: None,
    };
    let mut cursors = Cursors::default();
    assert!(!cursors.are_known());
    cursors.open(&[opened(0)]);
    assert_eq!(cursors.missing(1), [0_u32; 0]);
    assert_eq!(cursors.missing(4), [1, 2, 3]);
    for partition in 1..4 {
        cursors.asked_for(partition);
    }
    assert_eq!(cursors.missing(4), [0_u32; 0], "not asked for twice");
    // The connection breaks when only the range of one of them has arrived.
    cursors.open(&[opened(2)]);
    let requests = cursors.requests(&v1::ReadRequest::default(), u64::MAX);
    let partitions: Vec<_> = requests.iter().map(|it| it.partitions[0]).collect();
    assert_eq!(partitions, [0, 2]);
    assert_eq!(cursors.missing(4), [1, 3]);
}
