//! gRPC messages that are begun and not finished: they hold room, and not for long.

use std::{convert::Infallible, time::Duration};

use aqueduct_tests::grpc::{Api, Refused, message};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::task::JoinSet;
use tonic::{
    Code, Status,
    codegen::http::{HeaderMap, Request},
};
use tower::{Service as _, ServiceExt as _};

use crate::{fixture::Fixture, publishing::request};

/// What each of them announces, bytes.
const ANNOUNCED: u32 = 20 << 20;
/// As many as have room.
const ROOM: usize = (1 << 30) / ANNOUNCED as usize;

/// The same until there is room for it.
async fn trickle_in(broker: &Fixture, path: &'static str) -> impl Future<Output = Refused> + use<> {
    // Connections of their own: what is sent ahead is bounded for each connection too.
    let api = broker.api().await;
    async move {
        loop {
            let ended = Refused::from_status(&trickle(api.clone(), path).await);
            if ended.reason != "LIMIT_REACHED" {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Begins a publish, sends a byte now and then for as long as it may, and tells how it ended.
async fn trickle(mut api: Api, path: &str) -> Status {
    let begin = [&[0][..], &ANNOUNCED.to_be_bytes()].concat();
    let first = futures::stream::iter([Bytes::from(begin)]);
    let rest = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Some((Bytes::from_static(b"x"), ()))
    });
    let pieces = futures::StreamExt::chain(first, rest);
    let frames = futures::StreamExt::map(pieces, |piece| Ok::<_, Infallible>(Frame::data(piece)));
    let call = Request::builder()
        .method("POST")
        .uri(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(frames)))
        .unwrap();
    let channel = api.channel.ready().await.unwrap();
    let mut answer = channel.call(call).await.unwrap();
    let status = |headers: &HeaderMap| Status::from_header_map(headers);
    if let Some(status) = status(answer.headers()) {
        return status;
    }
    // A stream's status comes behind its answers.
    while let Some(frame) = answer.body_mut().frame().await {
        if let Some(status) = frame.unwrap().trailers_ref().and_then(status) {
            return status;
        }
    }
    panic!("no status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_trickle_in_give_their_room_back() {
    const UNARY: &str = "/aqueduct.v1.Publisher/Publish";
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let mut slow = JoinSet::new();
    for n in 0..ROOM {
        let path = match n % 3 {
            0 => "/aqueduct.v1.Publisher/PublishStream",
            _ => UNARY,
        };
        slow.spawn(trickle_in(&broker, path).await);
    }
    // All room is taken: another large one is refused at once, small ones go on.
    let refusal = loop {
        let large = message(0, vec![b'x'; 8 << 20]);
        match api.publisher.publish(request("orders", vec![large])).await {
            Ok(_) => assert!(slow.try_join_next().is_none(), "ended before all had begun"),
            Err(status) => break Refused::from_status(&status),
        }
    };
    refusal.is(Code::ResourceExhausted, "LIMIT_REACHED");
    let small = request("orders", vec![message(0, "small")]);
    api.publisher.publish(small).await.unwrap();
    while let Some(ended) = slow.join_next().await {
        ended.unwrap().is(Code::Unavailable, "BODY_TOO_SLOW");
    }
    let large = request("orders", vec![message(0, vec![b'x'; 8 << 20])]);
    let stored = api.publisher.publish(large).await.unwrap().into_inner();
    assert_eq!(stored.results[0].error, None, "there is room again");
    broker.assert_serves();
}

#[tokio::test]
async fn a_grpc_message_of_100_mb_is_refused_by_its_length() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let before = memory(&mut api).await;
    let large = request("orders", vec![message(0, vec![b'x'; 100 << 20])]);
    let refused = api.publisher.publish(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    let used = memory(&mut api).await.saturating_sub(before);
    assert!(used < 100 << 20, "{used} bytes more");
    broker.assert_serves();
}

async fn memory(api: &mut Api) -> u64 {
    let request = aqueduct_proto::v1::GetStatsRequest {};
    let stats = api.ops.get_stats(request).await.unwrap();
    stats.into_inner().rss_bytes
}

/// Header blocks that are too large or too many end the request or its connection.
#[tokio::test]
async fn header_bombs_over_grpc_are_refused() {
    let mut broker = Fixture::new();
    for (count, length) in [(1, 60_000), (3_000, 10), (2, 12_000)] {
        let mut api = broker.api().await;
        let mut call = tonic::Request::new(aqueduct_proto::v1::GetStatsRequest {});
        for n in 0..count {
            let name = format!("x-{n}")
                .parse::<tonic::metadata::MetadataKey<_>>()
                .unwrap();
            let value = "y".repeat(length).parse().unwrap();
            call.metadata_mut().insert(name, value);
        }
        let refused = api.ops.get_stats(call).await.unwrap_err();
        println!("{count} headers of {length} bytes: {refused}");
    }
    let mut api = broker.api().await;
    assert!(memory(&mut api).await < 200 << 20);
    broker.assert_serves();
}
