//! Publish: unary and streamed, messages and raw batches, keys, headers, times,
//! dedup ids and expected offsets.

use aqueduct_proto::{
    batch::Batch,
    compression::Compression,
    record::BatchBuilder,
    v1::{
        GetMessageRequest, Header, Message, PublishBatch, PublishMessages, PublishOpen,
        PublishRequest, PublishStreamRequest, PublishStreamResponse, ReadRequest, Record,
        publish_stream_request::Kind, publish_stream_response, read_response,
    },
};
use aqueduct_tests::grpc::{Api, Refused, message};
use bytes::Bytes;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::fixture::Fixture;

pub(crate) fn request(topic: &str, messages: Vec<Message>) -> PublishRequest {
    PublishRequest {
        topic: topic.to_owned(),
        messages,
        expected_offset: None,
    }
}

pub(crate) fn open(topic: &str) -> PublishStreamRequest {
    PublishStreamRequest {
        kind: Some(Kind::Open(PublishOpen {
            topic: topic.to_owned(),
        })),
    }
}

pub(crate) fn batch(partition: u32, records: Bytes) -> PublishStreamRequest {
    let batch = PublishBatch {
        partition,
        records,
        ..PublishBatch::default()
    };
    PublishStreamRequest {
        kind: Some(Kind::Batch(batch)),
    }
}

pub(crate) fn messages(messages: Vec<Message>) -> PublishStreamRequest {
    let messages = PublishMessages {
        messages,
        ..PublishMessages::default()
    };
    PublishStreamRequest {
        kind: Some(Kind::Messages(messages)),
    }
}

/// A batch of values, without producer.
pub(crate) fn encoded(values: &[&str], compression: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for value in values {
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    }
    builder.finish().unwrap()
}

/// Sends all requests and collects all answers.
pub(crate) async fn stream(
    api: &mut Api,
    requests: Vec<PublishStreamRequest>,
) -> Vec<PublishStreamResponse> {
    let requests = tokio_stream::iter(requests);
    let answers = api
        .publisher
        .publish_stream(requests)
        .await
        .unwrap()
        .into_inner();
    answers.map(Result::unwrap).collect().await
}

/// The batch results of a stream: base offset and duplicate, or the refusal.
pub(crate) fn batch_results(
    answers: &[PublishStreamResponse],
) -> Vec<Result<(u64, bool), Refused>> {
    let each = answers.iter().enumerate().map(|(n, answer)| {
        assert_eq!(
            answer.request, n as u64,
            "answers come in the order of the requests"
        );
        let Some(publish_stream_response::Kind::Batch(result)) = &answer.kind else {
            panic!("not a batch result: {answer:?}")
        };
        match &result.error {
            Some(error) => Err(Refused::from_result(error)),
            None => Ok((result.base_offset, result.duplicate)),
        }
    });
    each.collect()
}

pub(crate) async fn get(api: &mut Api, partition: u32, offset: u64) -> Record {
    let request = GetMessageRequest {
        topic: "orders".to_owned(),
        partition,
        offset,
    };
    api.reader.get_message(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_given() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 3).await;
    let header = |name: &str, value: &'static [u8]| Header {
        name: name.to_owned(),
        value: Bytes::from_static(value),
    };
    let full = Message {
        key: Some(Bytes::from_static(b"k\xff")),
        value: Some(Bytes::from_static(b"v\x00")),
        headers: vec![header("b", b"1"), header("a", b"2"), header("b", b"\xfe")],
        timestamp_ms: Some(1_234_567_890_123),
        partition: Some(2),
        ..Message::default()
    };
    let empty = Message {
        key: Some(Bytes::new()),
        value: Some(Bytes::new()),
        ..full.clone()
    };
    let tombstone = Message {
        value: None,
        headers: vec![],
        ..full.clone()
    };
    let given = vec![full.clone(), empty.clone(), tombstone.clone()];
    let answer = api
        .publisher
        .publish(request("orders", given.clone()))
        .await
        .unwrap();
    let results = answer.into_inner().results;
    assert_eq!(results.len(), 3);
    for (n, (result, given)) in results.iter().zip(given).enumerate() {
        assert_eq!(result.error, None);
        assert_eq!((result.partition, result.offset), (2, n as u64));
        let record = get(&mut api, 2, n as u64).await;
        assert_eq!(record.key, given.key);
        assert_eq!(record.value, given.value);
        assert_eq!(record.headers, given.headers);
        assert_eq!(record.timestamp_ms, 1_234_567_890_123);
    }
}

#[tokio::test]
async fn keys_choose_partitions_as_kafka_does() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 6).await;
    let keys: Vec<Bytes> = (0..50).map(|n| Bytes::from(format!("key-{n}"))).collect();
    let keyed = |key: &Bytes| Message {
        key: Some(key.clone()),
        value: Some(Bytes::new()),
        ..Message::default()
    };
    let given = keys.iter().map(keyed).collect();
    let results = api
        .publisher
        .publish(request("orders", given))
        .await
        .unwrap()
        .into_inner();
    for (key, result) in keys.iter().zip(results.results) {
        assert_eq!(
            result.partition,
            aqueduct_proto::partitioner::for_key(key, 6),
            "{key:?}"
        );
    }
}

#[tokio::test]
async fn a_stream_answers_each_request_in_order() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 2).await;
    let mut requests = vec![open("orders")];
    for n in 0..500 {
        requests.push(if n % 2 == 0 {
            batch(0, encoded(&["x", "y", "z"], Compression::None))
        } else {
            messages(vec![message(1, "m"), message(1, "n")])
        });
    }
    let answers = stream(&mut api, requests).await;
    assert_eq!(answers.len(), 500);
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.request, n as u64);
        let round = n as u64 / 2;
        match answer.kind.as_ref().unwrap() {
            publish_stream_response::Kind::Batch(result) => {
                assert_eq!(
                    (result.error.clone(), result.base_offset),
                    (None, round * 3)
                );
            }
            publish_stream_response::Kind::Results(results) => {
                let offsets: Vec<u64> = results.results.iter().map(|r| r.offset).collect();
                assert_eq!(offsets, [round * 2, round * 2 + 1]);
            }
        }
    }
}

#[tokio::test]
async fn raw_batches_rest_byte_for_byte_in_every_compression() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let all = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];
    let batches = all.map(|compression| encoded(&["same", "same", "other"], compression));
    let mut requests = vec![open("orders")];
    requests.extend(batches.iter().map(|bytes| batch(0, bytes.clone())));
    let results = batch_results(&stream(&mut api, requests).await);
    assert_eq!(results, [0, 3, 6, 9, 12].map(|offset| Ok((offset, false))));

    let read = ReadRequest {
        topic: "orders".to_owned(),
        raw: true,
        ..ReadRequest::default()
    };
    let answers = api.reader.read(read).await.unwrap().into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.unwrap().kind.unwrap())
        .collect()
        .await;
    let stored: Vec<Bytes> = answers
        .into_iter()
        .filter_map(|kind| match kind {
            read_response::Kind::Batches(found) => Some(found.batches),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(stored.len(), batches.len());
    for (n, (stored, sent)) in stored.into_iter().zip(batches).enumerate() {
        // Base offset and leader epoch are the broker's, everything else is the client's.
        assert_eq!(stored[8..12], sent[8..12]);
        assert_eq!(stored[16..], sent[16..]);
        assert_eq!(
            Batch::check(stored).unwrap().header().base_offset,
            n as i64 * 3
        );
    }
    let texts: Vec<String> = broker
        .cli
        .read_all("orders")
        .into_iter()
        .flat_map(|r| r.value)
        .collect();
    assert_eq!(texts, ["same", "same", "other"].repeat(5));
}

#[tokio::test]
async fn a_dedup_id_is_stored_once_and_answers_the_first_offset() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let with_id = |id: &str| Message {
        dedup_id: id.to_owned(),
        ..message(0, "paid")
    };
    let publish = async |api: &mut Api, id: &str| {
        let answer = api
            .publisher
            .publish(request("orders", vec![with_id(id)]))
            .await
            .unwrap();
        let result = answer.into_inner().results.remove(0);
        assert_eq!(result.error, None);
        (result.offset, result.duplicate)
    };
    assert_eq!(publish(&mut api, "a").await, (0, false));
    assert_eq!(publish(&mut api, "b").await, (1, false));
    assert_eq!(publish(&mut api, "a").await, (0, true));
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(
        publish(&mut api, "b").await,
        (1, true),
        "ids survive a kill"
    );
    assert_eq!(publish(&mut api, "c").await, (2, false));
    let twice = request("orders", vec![with_id("d"), with_id("d")]);
    let results = api
        .publisher
        .publish(twice)
        .await
        .unwrap()
        .into_inner()
        .results;
    let seen: Vec<_> = results.iter().map(|r| (r.offset, r.duplicate)).collect();
    assert_eq!(seen, [(3, false), (3, true)], "also within one request");
}

#[tokio::test]
async fn a_dedup_header_is_the_id_and_nothing_hides_it() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let given = |field: &str, headers: &[&'static str]| {
        let header = |value: &&'static str| Header {
            name: "aq-dedup-id".to_owned(),
            value: Bytes::from_static(value.as_bytes()),
        };
        Message {
            dedup_id: field.to_owned(),
            headers: headers.iter().map(header).collect(),
            ..message(0, "paid")
        }
    };
    let sent = vec![
        given("", &["a"]),
        given("b", &[]),
        given("b", &["b"]),
        given("a", &[]),
        given("c", &["a"]),
        given("", &["c", "d"]),
        given("", &["c"]),
    ];
    let results = api.publisher.publish(request("orders", sent)).await;
    let results = results.unwrap().into_inner().results;
    let seen: Vec<_> = results
        .iter()
        .map(|r| r.error.is_none().then_some((r.offset, r.duplicate)))
        .collect();
    assert_eq!(
        seen,
        [
            Some((0, false)),
            Some((1, false)),
            Some((1, true)),
            Some((0, true)),
            None,
            None,
            Some((2, false))
        ]
    );
    let refusal = Refused::from_result(results[4].error.as_ref().unwrap());
    refusal.is(Code::InvalidArgument, "INVALID_ARGUMENT");
    // The machine's table agrees after it was applied, too.
    for (id, offset) in [("a", 0), ("b", 1), ("c", 2)] {
        let again = request("orders", vec![given(id, &[])]);
        let results = api.publisher.publish(again).await.unwrap().into_inner();
        assert_eq!(
            (results.results[0].offset, results.results[0].duplicate),
            (offset, true)
        );
        let stored = get(&mut api, 0, offset).await.headers;
        assert_eq!(stored.len(), 1, "{stored:?}");
    }
}

#[tokio::test]
async fn a_repeat_with_an_expected_offset_is_a_duplicate() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let at_zero = |id: &str| PublishRequest {
        expected_offset: Some(0),
        ..request(
            "orders",
            vec![Message {
                dedup_id: id.to_owned(),
                ..message(0, "paid")
            }],
        )
    };
    for duplicate in [false, true] {
        let answer = api.publisher.publish(at_zero("a")).await.unwrap();
        let result = &answer.get_ref().results[0];
        assert_eq!(result.error, None);
        assert_eq!((result.offset, result.duplicate), (0, duplicate));
    }
    let refusal = Refused::of_publish(api.publisher.publish(at_zero("b")).await);
    refusal.is(Code::Aborted, "OFFSET_MISMATCH");
}

#[tokio::test]
async fn an_expected_offset_is_a_precondition() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let at = |offset| PublishRequest {
        expected_offset: Some(offset),
        ..request("orders", vec![message(0, "a"), message(0, "b")])
    };
    let first = api.publisher.publish(at(0)).await.unwrap().into_inner();
    assert_eq!(first.results[1].offset, 1);
    let refusal = Refused::of_publish(api.publisher.publish(at(0)).await);
    refusal.is(Code::Aborted, "OFFSET_MISMATCH");
    assert_eq!(
        (refusal.number("expected"), refusal.number("actual")),
        (0, 2)
    );
    let second = api.publisher.publish(at(2)).await.unwrap().into_inner();
    assert_eq!(second.results[0].offset, 2);

    // Of two racing writers exactly one wins.
    let mut other = broker.api().await;
    let (one, two) = tokio::join!(api.publisher.publish(at(4)), other.publisher.publish(at(4)));
    let stored = |answer: Result<tonic::Response<_>, _>| {
        let answer: Option<aqueduct_proto::v1::PublishResponse> =
            answer.ok().map(tonic::Response::into_inner);
        answer.is_some_and(|answer| answer.results.iter().all(|r| r.error.is_none()))
    };
    assert_eq!(u8::from(stored(one)) + u8::from(stored(two)), 1);
    assert_eq!(broker.cli.read_all("orders").len(), 6);
}
