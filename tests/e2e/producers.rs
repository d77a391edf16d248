//! Idempotent producers: sequences, replays, gaps, epochs and names, also through a kill.

use aqueduct_proto::{
    compression::Compression,
    record::BatchBuilder,
    v1::{GetProducerRequest, InitProducerRequest, ProducerPosition},
};
use aqueduct_tests::grpc::{Api, Refused, refused};
use bytes::Bytes;
use tonic::Code;

use crate::{
    fixture::Fixture,
    publishing::{batch, batch_results, open, stream},
};

/// A producer as it was given out.
#[derive(Clone, Copy)]
struct Held {
    id: i64,
    epoch: i16,
}

async fn init(api: &mut Api, name: &str) -> Held {
    let request = InitProducerRequest {
        name: name.to_owned(),
    };
    let answer = api
        .publisher
        .init_producer(request)
        .await
        .unwrap()
        .into_inner();
    Held {
        id: answer.producer_id,
        epoch: i16::try_from(answer.epoch).unwrap(),
    }
}

fn sequenced(held: Held, sequence: i32, count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(held.id, held.epoch, sequence);
    for n in 0..count {
        let value = format!("sequence {}", sequence as usize + n);
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    }
    builder.finish().unwrap()
}

async fn send(api: &mut Api, batches: &[Bytes]) -> Vec<Result<(u64, bool), Refused>> {
    let requests = batches.iter().map(|bytes| batch(0, bytes.clone()));
    let requests = std::iter::once(open("orders")).chain(requests).collect();
    batch_results(&stream(api, requests).await)
}

async fn positions(api: &mut Api, name: &str) -> Vec<ProducerPosition> {
    let request = GetProducerRequest {
        name: name.to_owned(),
        topic: "orders".to_owned(),
    };
    api.publisher
        .get_producer(request)
        .await
        .unwrap()
        .into_inner()
        .partitions
}

#[tokio::test]
async fn a_replay_answers_the_first_offset_and_stores_nothing() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let held = init(&mut api, "").await;
    let batches: Vec<Bytes> = (0..5).map(|n| sequenced(held, n * 10, 10)).collect();
    let first = send(&mut api, &batches).await;
    assert_eq!(first, [0, 10, 20, 30, 40].map(|offset| Ok((offset, false))));
    assert_eq!(
        send(&mut api, &batches).await,
        [0, 10, 20, 30, 40].map(|o| Ok((o, true)))
    );
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(
        send(&mut api, &batches).await,
        [0, 10, 20, 30, 40].map(|o| Ok((o, true)))
    );
    assert_eq!(broker.cli.read_all("orders").len(), 50);
}

#[tokio::test]
async fn a_gap_is_refused_and_says_what_is_due() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let held = init(&mut api, "").await;
    let batches = [
        sequenced(held, 0, 3),
        sequenced(held, 4, 1),
        sequenced(held, 3, 1),
    ];
    let mut results = send(&mut api, &batches).await;
    assert_eq!(results.remove(0), Ok((0, false)));
    let gap = results.remove(0).unwrap_err();
    gap.is(Code::FailedPrecondition, "SEQUENCE_GAP");
    assert_eq!((gap.number("expected"), gap.number("got")), (3, 4));
    assert_eq!(
        broker.cli.read_all("orders")[0].value.as_deref(),
        Some("sequence 0")
    );
    let values: Vec<_> = broker
        .cli
        .read_all("orders")
        .into_iter()
        .flat_map(|r| r.value)
        .collect();
    assert!(!values.contains(&"sequence 4".to_owned()), "{values:?}");
}

#[tokio::test]
async fn a_new_holder_of_a_name_fences_the_old_one() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let old = init(&mut api, "shop").await;
    assert_eq!(
        send(&mut api, &[sequenced(old, 0, 4)]).await,
        [Ok((0, false))]
    );
    let new = init(&mut api, "shop").await;
    assert_eq!(new.id, old.id, "a name keeps its id");
    assert!(new.epoch > old.epoch);
    let fenced = send(&mut api, &[sequenced(old, 4, 1)])
        .await
        .remove(0)
        .unwrap_err();
    fenced.is(Code::FailedPrecondition, "PRODUCER_FENCED");
    assert_eq!(
        send(&mut api, &[sequenced(new, 4, 2)]).await,
        [Ok((4, false))]
    );

    broker.process.restart();
    let mut api = broker.api().await;
    let known = positions(&mut api, "shop").await;
    assert_eq!(known.len(), 1);
    assert_eq!(
        (
            known[0].partition,
            known[0].next_sequence,
            known[0].last_offset
        ),
        (0, 6, 5)
    );
    let fenced = send(&mut api, &[sequenced(old, 6, 1)])
        .await
        .remove(0)
        .unwrap_err();
    fenced.is(Code::FailedPrecondition, "PRODUCER_FENCED");
    let third = init(&mut api, "shop").await;
    assert_eq!(third.id, old.id);
    assert!(
        third.epoch > new.epoch,
        "epochs only grow, also through a kill"
    );
}

#[tokio::test]
async fn names_are_checked_and_unknown_names_are_not_found() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    for name in ["../shop", "a b", "\0", &"x".repeat(250)] {
        let request = InitProducerRequest {
            name: name.to_owned(),
        };
        let answer = api.publisher.init_producer(request).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let request = GetProducerRequest {
        name: "nobody".to_owned(),
        topic: "orders".to_owned(),
    };
    let answer = api.publisher.get_producer(request).await;
    refused(answer, Code::NotFound, "PRODUCER_NOT_FOUND");
}

#[tokio::test]
async fn an_id_that_was_not_given_out_is_refused() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let given = init(&mut api, "").await;
    for forged in [0, given.id + 1, given.id + 2, i64::MAX] {
        let held = Held {
            id: forged,
            epoch: 0,
        };
        let answer = send(&mut api, &[sequenced(held, 0, 1)]).await.remove(0);
        let refusal = answer.expect_err("the id is nobody's");
        refusal.is(Code::FailedPrecondition, "PRODUCER_UNKNOWN");
        assert_eq!(refusal.number("producer_id"), forged);
    }
    // Whoever gets the next id has not been spoken for.
    let next = init(&mut api, "").await;
    let answers = send(&mut api, &[sequenced(next, 0, 1)]).await;
    assert_eq!(answers, [Ok((0, false))]);
}
