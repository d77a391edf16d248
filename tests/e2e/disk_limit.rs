//! A full disk: publishers are told to wait, readers go on, and writing resumes by itself.

use std::time::Duration;

use aqueduct_proto::v1::{CreateTopicRequest, Topic, TrimTopicRequest, trim_topic_request::Before};
use aqueduct_tests::grpc::{Api, Refused, message};
use bytes::Bytes;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{fixture::Fixture, publishing::request};

/// Publishes until the disk is full, and says how many messages fitted.
async fn fill(api: &mut Api, value: &Bytes) -> u64 {
    let mut stored = 0_u64;
    let refusal = loop {
        let answer = api
            .publisher
            .publish(request("orders", vec![message(0, value.clone())]))
            .await;
        match &answer {
            Err(status) => {
                assert!(
                    status.get_error_details().retry_info().is_some(),
                    "{status:?}"
                );
                break Refused::from_status(status);
            }
            Ok(response) if response.get_ref().results[0].error.is_some() => {
                break Refused::of_publish(answer);
            }
            Ok(_) => stored += 1,
        }
        assert!(stored < 1_000, "250 MiB fit into a limit of 64 MiB");
    };
    refusal.is(Code::ResourceExhausted, "DISK_FULL");
    assert!(stored > 50, "only {stored} messages fit into 64 MiB");
    stored
}

/// Publishes until a message is stored.
async fn until_stored(api: &mut Api, value: &Bytes) {
    for _ in 0..300 {
        let answer = api
            .publisher
            .publish(request("orders", vec![message(0, value.clone())]))
            .await;
        if answer.is_ok_and(|answer| answer.get_ref().results[0].error.is_none()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("writing does not resume");
}

#[tokio::test]
async fn full_is_an_answer_and_room_is_noticed() {
    let mut broker = Fixture::with(&["--disk-limit", "64MiB"]);
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let value = Bytes::from(vec![b'x'; 256 << 10]);
    let stored = fill(&mut api, &value).await;

    // Nor are there new partitions: they would come up and serve nothing.
    let create = CreateTopicRequest {
        topic: Some(Topic {
            name: "later".to_owned(),
            partitions: 16,
            ..Topic::default()
        }),
        validate_only: false,
    };
    let refused = api.topics.create_topic(create.clone()).await.unwrap_err();
    Refused::from_status(&refused).is(Code::ResourceExhausted, "DISK_FULL");
    let missing = broker.cli.run(&["topic", "describe", "later"]);
    assert_eq!(missing.code, 3, "it was not agreed on: {missing:?}");

    let all = broker.cli.read_all("orders");
    assert_eq!(
        all.len() as u64,
        stored,
        "everything acknowledged can be read, and no more"
    );
    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(
        broker.cli.read_all("orders").len() as u64,
        stored,
        "also after a kill"
    );

    // Trimming needs no room that is not there, and makes room.
    let trim = TrimTopicRequest {
        name: "orders".to_owned(),
        partition: None,
        before: Some(Before::All(true)),
        validate_only: false,
    };
    api.topics.trim_topic(trim).await.unwrap();
    until_stored(&mut api, &value).await;
    api.topics.create_topic(create).await.unwrap();
    let answer = api
        .publisher
        .publish(request("later", vec![message(0, value.clone())]))
        .await
        .unwrap();
    assert!(answer.get_ref().results[0].error.is_none(), "{answer:?}");
    let next = broker.cli.read_all("orders");
    assert_eq!(
        next.last().unwrap().offset,
        stored,
        "offsets go on where they were"
    );
}
