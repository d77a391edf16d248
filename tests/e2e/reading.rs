//! Reads without a group: from and until, following, raw and decoded, credits.

use std::time::Duration;

use aqueduct_proto::v1::{
    Credit, GetMessageRequest, GetOffsetsRequest, Message, Position, ReadRequest, ReadResponse,
    ReadStreamRequest, Record, position, read_response, read_stream_request,
};
use aqueduct_tests::grpc::{Api, message, refused};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Streaming};

use crate::{fixture::Fixture, publishing::request};

fn at(kind: position::Kind) -> Option<Position> {
    Some(Position { kind: Some(kind) })
}

fn read(partitions: &[u32]) -> ReadRequest {
    ReadRequest {
        topic: "orders".to_owned(),
        partitions: partitions.to_vec(),
        ..ReadRequest::default()
    }
}

/// A topic with two partitions of 100 messages; message n has the time 1,000 n.
async fn filled(broker: &Fixture) -> Api {
    let mut api = broker.api().await;
    api.create("orders", 2).await;
    for start in (0..100).step_by(10) {
        for partition in 0..2 {
            let each = (start..start + 10).map(|n: i64| Message {
                timestamp_ms: Some(n * 1_000),
                ..message(partition, n.to_string())
            });
            api.publisher
                .publish(request("orders", each.collect()))
                .await
                .unwrap();
        }
    }
    api
}

/// All records of a read that ends by itself.
async fn collect(api: &mut Api, request: ReadRequest) -> Vec<Record> {
    let answers = api.reader.read(request).await.unwrap().into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.unwrap().kind.unwrap())
        .collect()
        .await;
    let records = answers.into_iter().filter_map(|kind| match kind {
        read_response::Kind::Records(records) => Some(records.records),
        _ => None,
    });
    records.flatten().collect()
}

fn offsets(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}

#[tokio::test]
async fn a_read_begins_and_ends_where_it_is_told() {
    use position::Kind::{End, Last, Offset, Start, TimestampMs};
    let broker = Fixture::new();
    let mut api = filled(&broker).await;
    let cases: [(
        Option<position::Kind>,
        Option<position::Kind>,
        std::ops::Range<u64>,
    ); 10] = [
        (None, None, 0..100),
        (Some(Start(true)), Some(End(true)), 0..100),
        (Some(Offset(42)), None, 42..100),
        (Some(Offset(42)), Some(Offset(44)), 42..44),
        (Some(Offset(100)), None, 100..100),
        (Some(Last(7)), None, 93..100),
        (Some(Last(1_000)), None, 0..100),
        (Some(TimestampMs(50_000)), None, 50..100),
        (Some(TimestampMs(49_001)), Some(TimestampMs(60_000)), 50..60),
        (Some(TimestampMs(1_000_000)), None, 100..100),
    ];
    for (from, until, expected) in cases {
        let asked = ReadRequest {
            from: from.and_then(at),
            until: until.and_then(at),
            ..read(&[1])
        };
        let found = collect(&mut api, asked.clone()).await;
        assert_eq!(offsets(&found), expected.collect::<Vec<_>>(), "{asked:?}");
        assert!(found.iter().all(|record| record.partition == 1));
    }
    let everything = collect(&mut api, read(&[])).await;
    assert_eq!(everything.len(), 200);
    for partition in 0..2 {
        let of = everything
            .iter()
            .filter(|record| record.partition == partition);
        assert!(
            of.map(|record| record.offset).eq(0..100),
            "order within partition {partition}"
        );
    }
    let limited = collect(
        &mut api,
        ReadRequest {
            max_messages: 15,
            ..read(&[0])
        },
    )
    .await;
    assert_eq!(offsets(&limited), (0..15).collect::<Vec<_>>());
}

#[tokio::test]
async fn out_of_range_names_what_there_is() {
    let broker = Fixture::new();
    let mut api = filled(&broker).await;
    let beyond = ReadRequest {
        from: at(position::Kind::Offset(101)),
        ..read(&[0])
    };
    let status = match api.reader.read(beyond).await {
        Err(status) => status,
        Ok(answers) => {
            let answers: Vec<_> = answers.into_inner().collect().await;
            answers
                .into_iter()
                .find_map(Result::err)
                .expect("must be refused")
        }
    };
    let refusal = refused(
        Err::<(), _>(status),
        Code::OutOfRange,
        "OFFSET_OUT_OF_RANGE",
    );
    assert_eq!(
        (refusal.number("earliest"), refusal.number("latest")),
        (0, 100)
    );
    let request = GetMessageRequest {
        topic: "orders".to_owned(),
        partition: 0,
        offset: 100,
    };
    let status = api.reader.get_message(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::NotFound | Code::OutOfRange),
        "{status:?}"
    );
}

#[tokio::test]
async fn offsets_are_answered_for_positions() {
    let broker = Fixture::new();
    let mut api = filled(&broker).await;
    let cases = [
        (position::Kind::Start(true), 0),
        (position::Kind::End(true), 100),
        (position::Kind::TimestampMs(33_500), 34),
        (position::Kind::Last(1), 99),
    ];
    for (kind, expected) in cases {
        let request = GetOffsetsRequest {
            topic: "orders".to_owned(),
            partitions: vec![],
            position: at(kind),
        };
        let answer = api.reader.get_offsets(request).await.unwrap().into_inner();
        assert_eq!(answer.partitions.len(), 2);
        for found in answer.partitions {
            assert_eq!((found.log_start_offset, found.high_watermark), (0, 100));
            assert_eq!(found.offset, Some(expected), "{kind:?}");
        }
    }
}

/// The next records of a followed read.
async fn next_records(answers: &mut Streaming<ReadResponse>) -> Vec<Record> {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), answers.next()).await;
        let answer = next.expect("woken by a publish").unwrap().unwrap();
        if let Some(read_response::Kind::Records(records)) = answer.kind {
            return records.records;
        }
    }
}

#[tokio::test]
async fn following_is_woken_by_publishes() {
    let broker = Fixture::new();
    let mut api = filled(&broker).await;
    let follow = ReadRequest {
        follow: true,
        ..read(&[0])
    };
    let mut answers = api.reader.read(follow).await.unwrap().into_inner();
    let opened = answers.next().await.unwrap().unwrap();
    let Some(read_response::Kind::Opened(opened)) = opened.kind else {
        panic!("first of all: what will be read: {opened:?}")
    };
    assert_eq!((opened.ranges[0].from, opened.ranges[0].until), (100, None));
    for n in 100..110 {
        api.publisher
            .publish(request("orders", vec![message(0, "new")]))
            .await
            .unwrap();
        assert_eq!(offsets(&next_records(&mut answers).await), [n]);
    }
}

#[tokio::test]
async fn credit_bounds_what_is_sent() {
    let broker = Fixture::new();
    let mut api = filled(&broker).await;
    let (sender, receiver) = mpsc::channel(8);
    let send = async |kind| {
        sender
            .send(ReadStreamRequest { kind: Some(kind) })
            .await
            .unwrap();
    };
    send(read_stream_request::Kind::Open(read(&[0]))).await;
    let receiver = ReceiverStream::new(receiver);
    let mut answers = api.reader.read_stream(receiver).await.unwrap().into_inner();
    let opened = answers.next().await.unwrap().unwrap();
    assert!(
        matches!(opened.kind, Some(read_response::Kind::Opened(_))),
        "{opened:?}"
    );
    let silence = tokio::time::timeout(Duration::from_millis(300), answers.next()).await;
    assert!(
        silence.is_err(),
        "nothing is sent without credit: {silence:?}"
    );
    let mut seen = Vec::new();
    for _ in 0..5 {
        let credit = Credit {
            messages: 10,
            bytes: 1 << 20,
        };
        send(read_stream_request::Kind::Credit(credit)).await;
        let due = seen.len() as u64 + 10;
        while (seen.len() as u64) < due {
            seen.extend(offsets(&next_records(&mut answers).await));
        }
        assert_eq!(seen, (0..due).collect::<Vec<_>>());
    }
    let silence = tokio::time::timeout(Duration::from_millis(300), answers.next()).await;
    assert!(
        silence.is_err(),
        "nothing is sent when the credit is used up: {silence:?}"
    );
    let credit = Credit {
        messages: 1_000,
        bytes: 1 << 20,
    };
    send(read_stream_request::Kind::Credit(credit)).await;
    while seen.len() < 100 {
        seen.extend(offsets(&next_records(&mut answers).await));
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_that_never_reads_disturbs_nobody() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let big = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        let value = bytes::Bytes::from(big.clone());
        api.publisher
            .publish(request("orders", vec![message(0, value)]))
            .await
            .unwrap();
    }
    // 20 readers, 64 MiB each, of which nobody takes anything.
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut other = broker.api().await;
        let raw = ReadRequest {
            raw: true,
            follow: true,
            ..read(&[0])
        };
        let raw = ReadRequest {
            from: at(position::Kind::Start(true)),
            ..raw
        };
        let answers = other.reader.read(raw).await.unwrap();
        idle.push((other, answers));
    }
    let answer = api
        .publisher
        .publish(request("orders", vec![message(0, "after")]))
        .await;
    assert_eq!(answer.unwrap().into_inner().results[0].offset, 64);
    let last = ReadRequest {
        from: at(position::Kind::Last(1)),
        ..read(&[0])
    };
    assert_eq!(offsets(&collect(&mut api, last).await), [64]);
    let stats = api
        .ops
        .get_stats(aqueduct_proto::v1::GetStatsRequest {})
        .await
        .unwrap();
    let peak = stats.into_inner().rss_peak_bytes;
    assert!(peak < 700 << 20, "20 stuck readers hold {} MiB", peak >> 20);
    drop(idle);
}
