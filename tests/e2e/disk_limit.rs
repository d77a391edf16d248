//! A full disk: publishers are told to wait, readers go on, and writing resumes by itself.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateTopicRequest, GetOffsetsRequest, Topic, TrimTopicRequest, trim_topic_request::Before,
};
use aqueduct_tests::grpc::{Api, Refused, message};
use bytes::Bytes;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{fixture::Fixture, publishing::request};

/// Publishes until the disk is full, and says how many messages fitted.
async fn fill(api: &mut Api, value: &Bytes) -> u64 {
    let stored = fill_to(api, value, 1_000).await;
    assert!(stored > 50, "only {stored} messages fit into 64 MiB");
    stored
}

/// Publishes until there is no room for more; it must come before so many messages.
async fn fill_to(api: &mut Api, value: &Bytes, most: u64) -> u64 {
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
        assert!(stored < most, "{stored} messages fit");
    };
    refusal.is(Code::ResourceExhausted, "DISK_FULL");
    stored
}

/// Publishes until a message is stored.
async fn until_stored(api: &mut Api, value: &Bytes) {
    let mut last = None;
    for _ in 0..300 {
        let answer = api
            .publisher
            .publish(request("orders", vec![message(0, value.clone())]))
            .await;
        if (answer.as_ref()).is_ok_and(|answer| answer.get_ref().results[0].error.is_none()) {
            return;
        }
        last = Some(answer);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("writing does not resume: {last:?}");
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
    let exists = ["topic", "create", "orders", "--partitions", "16"];
    let exists = broker.cli.run(&exists);
    assert_eq!(
        exists.code, 7,
        "what exists is no matter of room: {exists:?}"
    );
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

/// A process that may open no more files cannot begin segments: that is like a full disk and ends
/// nothing.
#[tokio::test]
async fn no_more_files_is_no_room() {
    let mut broker = Fixture::with(&["--max-segment", "1MiB"]);
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let id = i32::try_from(broker.process.id()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64;
    // The broker may have what this process might have.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(open + 30);
    let few = Rlimit { current, maximum };
    let before = prlimit(Pid::from_raw(id), Resource::Nofile, few).unwrap();
    let value = Bytes::from(vec![b'x'; 256 << 10]);
    let stored = fill_to(&mut api, &value, 1_000).await;
    assert!(stored > 30, "only {stored} messages fit");
    let read = api.reader.get_offsets(GetOffsetsRequest {
        topic: "orders".to_owned(),
        ..GetOffsetsRequest::default()
    });
    let end = read.await.unwrap().into_inner().partitions[0].high_watermark;
    assert_eq!(end, stored, "who is connected is served");

    prlimit(Pid::from_raw(id), Resource::Nofile, before).unwrap();
    until_stored(&mut api, &value).await;
    broker.process.restart();
    let all = broker.cli.read_all("orders").len() as u64;
    assert!(all > stored, "{all} of {stored} and more");
}
