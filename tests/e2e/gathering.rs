//! Messages that are gathered: large ones of many clients, dedup ids over many partitions,
//! streams that break behind good requests, and requests in a coding we do not take.

use std::collections::BTreeMap;

use aqueduct_proto::{
    attributes,
    compression::Compression,
    record::{BatchBuilder, Header},
    v1::{Message, PublishResponse, PublishStreamRequest, publish_stream_response},
};
use aqueduct_tests::grpc::{Api, Refused, message};
use bytes::Bytes;
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    fixture::Fixture,
    publishing::{batch, batch_results, messages, open, request, stream},
};

/// Two of these do not fit one batch, and all of them together no entry of a log.
const LARGE: usize = (8 << 20) - 1_000;

/// A value whose every byte says whose it is.
fn large(client: u8) -> Bytes {
    Bytes::from(vec![client; LARGE])
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_of_many_clients_are_all_stored() {
    const CLIENTS: u8 = 12;
    let mut broker = Fixture::new();
    broker.api().await.create("orders", 1).await;
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let mut api = broker.api().await;
        clients.spawn(async move {
            let messages = vec![message(0, large(client))];
            let answer = api.publisher.publish(request("orders", messages)).await;
            let result = answer.unwrap().into_inner().results.remove(0);
            assert_eq!(result.error, None);
            (result.offset, large(client))
        });
    }
    let stored: BTreeMap<u64, Bytes> = clients.join_all().await.into_iter().collect();
    let offsets: Vec<u64> = stored.keys().copied().collect();
    let expected: Vec<u64> = (0..u64::from(CLIENTS)).collect();
    assert_eq!(offsets, expected, "each has an offset of its own");

    let mut api = broker.api().await;
    for (offset, value) in &stored {
        let found = crate::publishing::get(&mut api, 0, *offset).await;
        assert!(found.value.as_ref() == Some(value), "offset {offset}");
    }
    broker.process.restart();
    let mut api = broker.api().await;
    let after = request("orders", vec![message(0, "after")]);
    let answer = api.publisher.publish(after).await.unwrap().into_inner();
    assert_eq!(answer.results[0].offset, u64::from(CLIENTS));
    broker.assert_serves();
}

/// What became of a message: partition, offset, whether it was there.
type Place = (u32, u64, bool);

fn with_id(id: u32) -> Message {
    Message {
        value: Some(Bytes::from(id.to_string())),
        dedup_id: format!("id-{id}"),
        ..Message::default()
    }
}

fn places(response: PublishResponse) -> Vec<Place> {
    let place = |result: aqueduct_proto::v1::PublishResult| {
        assert_eq!(result.error, None);
        (result.partition, result.offset, result.duplicate)
    };
    response.results.into_iter().map(place).collect()
}

/// Publishes in requests of `size` messages.
async fn publish_ids(api: &mut Api, ids: &[u32], size: usize) -> Vec<Place> {
    let mut all = Vec::new();
    for some in ids.chunks(size) {
        let messages = some.iter().map(|id| with_id(*id)).collect();
        let answer = api.publisher.publish(request("orders", messages)).await;
        all.extend(places(answer.unwrap().into_inner()));
    }
    all
}

/// The same through a publish stream.
async fn stream_ids(api: &mut Api, ids: &[u32], size: usize) -> Vec<Place> {
    let requests = ids
        .chunks(size)
        .map(|some| messages(some.iter().map(|id| with_id(*id)).collect()));
    let requests = std::iter::once(open("orders")).chain(requests).collect();
    let answers = stream(api, requests).await.into_iter();
    let place = |answer: aqueduct_proto::v1::PublishStreamResponse| match answer.kind {
        Some(publish_stream_response::Kind::Results(results)) => places(results),
        other => panic!("not results: {other:?}"),
    };
    answers.flat_map(place).collect()
}

/// A message without a key is found again under its id on whichever partition it went to.
#[tokio::test]
async fn dedup_ids_without_a_key_meet_themselves_on_every_partition() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 7).await;
    let ids: Vec<u32> = (0..300).collect();
    let first = publish_ids(&mut api, &ids, 7).await;
    let used: std::collections::BTreeSet<u32> = first.iter().map(|place| place.0).collect();
    assert_eq!(used.len(), 7, "the ids spread over all partitions");
    assert!(first.iter().all(|place| !place.2), "all are new");
    let again: Vec<Place> = first.iter().map(|(p, o, _)| (*p, *o, true)).collect();

    // Keyless messages without an id in between, so that whose turn it is differs.
    let plain = Message {
        value: Some(Bytes::from_static(b"plain")),
        ..Message::default()
    };
    for _ in 0..3 {
        let plain = request("orders", vec![plain.clone()]);
        api.publisher.publish(plain).await.unwrap();
    }
    let mut other = broker.api().await;
    assert_eq!(publish_ids(&mut other, &ids, 1).await, again);
    assert_eq!(publish_ids(&mut other, &ids, 300).await, again);
    assert_eq!(stream_ids(&mut other, &ids, 5).await, again);
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(stream_ids(&mut api, &ids, 11).await, again, "after a kill");
    assert!(broker.process.terminate().success());
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(publish_ids(&mut api, &ids, 13).await, again, "after a stop");
    assert_eq!(broker.cli.read_all("orders").len(), 303);
}

/// Nobody looks for ids in batches that a client encoded: their producer's sequence is what counts.
#[tokio::test]
async fn dedup_ids_inside_encoded_batches_are_only_headers() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let id = Header::new(attributes::DEDUP_ID, Bytes::from_static(b"twice"));
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(1_700_000_000_000, None, Some(b"encoded"), &[id]);
    let encoded = builder.finish().unwrap();
    let requests = vec![open("orders"), batch(0, encoded.clone()), batch(0, encoded)];
    let results = batch_results(&stream(&mut api, requests).await);
    assert_eq!(results, [Ok((0, false)), Ok((1, false))]);
    let message = Message {
        dedup_id: "twice".to_owned(),
        ..message(0, "a message")
    };
    for duplicate in [false, true] {
        let answer = api
            .publisher
            .publish(request("orders", vec![message.clone()]));
        let places = places(answer.await.unwrap().into_inner());
        assert_eq!(places, [(0, 2, duplicate)]);
    }
}

/// What breaks a stream is said even if it arrived together with requests that are good.
#[tokio::test]
async fn a_stream_that_breaks_behind_good_requests_says_why() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    for good in [1_u64, 2, 50, 500] {
        let mut requests = vec![open("orders")];
        requests.extend((0..good).map(|_| messages(vec![message(0, "x")])));
        requests.push(PublishStreamRequest { kind: None });
        let answers = api.publisher.publish_stream(tokio_stream::iter(requests));
        let answers: Vec<_> = answers.await.unwrap().into_inner().collect().await;
        assert_eq!(answers.len() as u64, good + 1, "each is answered");
        for (n, answer) in answers.iter().take(good as usize).enumerate() {
            assert_eq!(answer.as_ref().unwrap().request, n as u64);
        }
        let end = answers.last().unwrap().as_ref().unwrap_err();
        Refused::from_status(end).is(Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    assert_eq!(broker.cli.read_all("orders").len(), 553);
    broker.assert_serves();
}

/// A client that does not read its results has only so many stored; once it reads, it gets all.
#[tokio::test]
async fn results_that_nobody_reads_stop_the_stream() {
    const REQUESTS: u64 = 60;
    const EACH: u64 = 25_000;
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let mut requests = vec![open("orders")];
    requests.extend((0..REQUESTS).map(|_| messages(vec![message(0, ""); EACH as usize])));
    let answers = api.publisher.publish_stream(tokio_stream::iter(requests));
    let mut answers = answers.await.unwrap().into_inner();
    // Until the broker stops, or clearly does not.
    let (mut end, mut still) = (0, 0);
    while still < 8 {
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        let now = broker
            .cli
            .run(&["topic", "describe", "orders", "-o", "json"])
            .json();
        let now = now["partition_list"][0]["high_watermark"].as_u64().unwrap();
        still = if now == end && now > 0 { still + 1 } else { 0 };
        end = now;
    }
    assert!(end < REQUESTS * EACH, "{end} are stored");
    let mut results = 0;
    while let Some(answer) = answers.next().await {
        match answer.unwrap().kind {
            Some(publish_stream_response::Kind::Results(some)) => results += some.results.len(),
            other => panic!("not results: {other:?}"),
        }
    }
    assert_eq!(results as u64, REQUESTS * EACH);
    broker.assert_serves();
}

/// A request of ten million empty messages is small on the wire and gigabytes in memory.
#[tokio::test]
async fn a_request_of_countless_messages_is_refused_before_it_is_built() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    // Field 2, length 0, over and over; and headers without end in one message.
    let countless = [0x12, 0].repeat(10_000_000);
    let mut headers = vec![0x12];
    let inside = [0x1a, 0].repeat(9_000_000);
    prost::encoding::encode_varint(inside.len() as u64, &mut headers);
    headers.extend(inside);
    for (request, what) in [
        (countless, "messages: more than"),
        (headers, "headers: more than"),
    ] {
        let mut frame = vec![0];
        frame.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
        frame.extend(request);
        let refused = raw_call(&mut api, None, frame).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().starts_with(what), "{refused:?}");
    }
    let cost = broker.cli.run(&["status", "-o", "json"]).json();
    let peak = cost["rss_peak_bytes"].as_u64().unwrap();
    assert!(peak < 400 << 20, "{peak} bytes at the peak");
    broker.assert_serves();
}

/// Compression belongs into batches; a compressed gRPC message is refused, and says so.
#[tokio::test]
async fn compressed_grpc_messages_are_refused_clearly() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let plain = request("orders", vec![message(0, "x".repeat(1_000))]).encode_to_vec();
    let body = Compression::Gzip.compress(&plain).unwrap();
    let mut frame = vec![1_u8];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    for coding in ["gzip", "zstd", "snappy"] {
        let status = raw_call(&mut api, Some(coding), frame.clone()).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
        assert!(status.message().contains(coding), "{status:?}");
    }
    // The flag without the header, and rubbish behind the flag.
    let status = raw_call(&mut api, None, frame).await;
    assert_ne!(status.code(), Code::Ok, "{status:?}");
    let status = raw_call(&mut api, Some("gzip"), vec![1, 0, 0, 0, 3, 1, 2, 3]).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(
        broker.cli.read_all("orders").is_empty(),
        "nothing is stored"
    );
    broker.assert_serves();
}

/// Calls `Publish` with these bytes as the body; the status it ends with.
async fn raw_call(api: &mut Api, coding: Option<&str>, frame: Vec<u8>) -> tonic::Status {
    use tower::{Service as _, ServiceExt as _};
    let mut call = tonic::codegen::http::Request::builder()
        .method("POST")
        .uri("/aqueduct.v1.Publisher/Publish")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(coding) = coding {
        call = call.header("grpc-encoding", coding);
    }
    let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::from(frame)));
    let channel = api.channel.ready().await.unwrap();
    let answer = channel.call(call.body(body).unwrap()).await.unwrap();
    tonic::Status::from_header_map(answer.headers()).expect("refused before any body")
}
