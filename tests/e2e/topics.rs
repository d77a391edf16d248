//! Topics: create, get, list, update, trim, delete; what is checked and what survives.

use std::collections::HashMap;

use aqueduct_proto::v1::{
    CreateTopicRequest, DeleteTopicRequest, GetOffsetsRequest, GetTopicRequest,
    ListPartitionsRequest, ListTopicsRequest, Topic, TopicConfig, TrimTopicRequest,
    UpdateTopicRequest, trim_topic_request::Before,
};
use aqueduct_tests::{
    cli::exit,
    grpc::{Api, refused},
};
use serde_json::json;
use tonic::Code;

use crate::fixture::Fixture;

async fn get(api: &mut Api, name: &str) -> Topic {
    let request = GetTopicRequest {
        name: name.to_owned(),
    };
    api.topics.get_topic(request).await.unwrap().into_inner()
}

fn named(name: &str) -> Topic {
    Topic {
        name: name.to_owned(),
        ..Topic::default()
    }
}

#[tokio::test]
async fn a_topic_lives_from_create_to_delete_and_survives_a_kill() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    let config = TopicConfig {
        retention_bytes: Some(1 << 30),
        ..TopicConfig::default()
    };
    let labels = HashMap::from([("team".to_owned(), "billing".to_owned())]);
    let wanted = Topic {
        partitions: 3,
        config: Some(config),
        labels,
        ..named("orders")
    };
    let create = |validate_only| CreateTopicRequest {
        topic: Some(wanted.clone()),
        validate_only,
    };

    let checked = api
        .topics
        .create_topic(create(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (checked.name.as_str(), checked.partitions),
        ("topics/orders", 3)
    );
    let request = GetTopicRequest {
        name: "orders".to_owned(),
    };
    refused(
        api.topics.get_topic(request).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );

    let made = api
        .topics
        .create_topic(create(false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((made.name.as_str(), made.partitions), ("topics/orders", 3));
    assert_eq!(made.labels["team"], "billing");
    assert_eq!(made.config.as_ref().unwrap().retention_bytes, Some(1 << 30));
    assert!(made.id > 0 && !made.etag.is_empty() && made.create_time.is_some());
    refused(
        api.topics.create_topic(create(false)).await,
        Code::AlreadyExists,
        "TOPIC_EXISTS",
    );

    broker.process.restart();
    let mut api = broker.api().await;
    assert_eq!(
        get(&mut api, "topics/orders").await,
        made,
        "a kill changes nothing"
    );
    assert_eq!(
        get(&mut api, "orders").await,
        made,
        "a bare name is accepted"
    );
}

#[tokio::test]
async fn a_deleted_topic_stays_deleted_and_its_id_is_never_reused() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    let made = api.create("orders", 3).await;
    let request = DeleteTopicRequest {
        name: "orders".to_owned(),
        validate_only: false,
    };
    api.topics.delete_topic(request.clone()).await.unwrap();
    refused(
        api.topics.delete_topic(request).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    broker.process.restart();
    let mut api = broker.api().await;
    let request = GetTopicRequest {
        name: "orders".to_owned(),
    };
    refused(
        api.topics.get_topic(request).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    let again = api.create("orders", 3).await;
    assert_ne!(again.id, made.id, "ids are never reused");
}

#[tokio::test]
async fn partitions_grow_only_and_updates_can_be_conditional() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    let first = api.create("orders", 2).await;
    let update = |topic: Topic| UpdateTopicRequest {
        topic: Some(topic),
        ..Default::default()
    };
    let shrink = Topic {
        partitions: 1,
        ..named("orders")
    };
    let answer = api.topics.update_topic(update(shrink)).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);

    let grow = Topic {
        partitions: 5,
        ..named("orders")
    };
    let grown = api
        .topics
        .update_topic(update(grow))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(grown.partitions, 5);
    assert_ne!(grown.etag, first.etag);
    let request = ListPartitionsRequest {
        name: "orders".to_owned(),
    };
    let listed = api
        .topics
        .list_partitions(request)
        .await
        .unwrap()
        .into_inner()
        .partitions;
    assert_eq!(
        listed.iter().map(|info| info.partition).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert!(
        listed.iter().all(|info| info.unavailable.is_empty()),
        "{listed:?}"
    );

    let stale = Topic {
        partitions: 6,
        etag: first.etag,
        ..named("orders")
    };
    refused(
        api.topics.update_topic(update(stale)).await,
        Code::Aborted,
        "ETAG_MISMATCH",
    );
    let fresh = Topic {
        partitions: 6,
        etag: grown.etag,
        ..named("orders")
    };
    assert_eq!(
        api.topics
            .update_topic(update(fresh))
            .await
            .unwrap()
            .into_inner()
            .partitions,
        6
    );
}

#[tokio::test]
async fn lists_come_in_pages_and_by_prefix() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    for n in 0..7 {
        api.create(&format!("a-{n}"), 1).await;
    }
    api.create("b-0", 1).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListTopicsRequest {
            page_size: 3,
            page_token,
            prefix: "a-".to_owned(),
        };
        let page = api.topics.list_topics(request).await.unwrap().into_inner();
        assert!(page.topics.len() <= 3);
        names.extend(page.topics.into_iter().map(|topic| topic.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let expected: Vec<String> = (0..7).map(|n| format!("topics/a-{n}")).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_trim_forgets_what_lies_below_and_survives_a_kill() {
    let mut broker = Fixture::new();
    broker.create("orders", 1);
    let input = (0..100).map(|n| format!("value {n}\n")).collect::<String>();
    broker
        .cli
        .run_with_input(&["pub", "orders"], input.as_bytes())
        .ok();
    let mut api = broker.api().await;
    let request = TrimTopicRequest {
        name: "orders".to_owned(),
        partition: Some(0),
        before: Some(Before::Offset(40)),
        validate_only: false,
    };
    let trimmed = api
        .topics
        .trim_topic(request)
        .await
        .unwrap()
        .into_inner()
        .partitions;
    assert_eq!(trimmed[0].log_start_offset, 40);
    broker.process.restart();
    let mut api = broker.api().await;
    let request = GetOffsetsRequest {
        topic: "orders".to_owned(),
        ..Default::default()
    };
    let offsets = api
        .reader
        .get_offsets(request)
        .await
        .unwrap()
        .into_inner()
        .partitions;
    assert_eq!(
        (offsets[0].log_start_offset, offsets[0].high_watermark),
        (40, 100)
    );
    let left = broker.cli.read_all("orders");
    assert_eq!(left.len(), 60);
    assert_eq!(left[0].offset, 40);
    assert_eq!(left[0].value.as_deref(), Some("value 40"));
}

#[test]
fn the_command_line_covers_a_topics_life() {
    let broker = Fixture::new();
    let cli = &broker.cli;
    cli.run(&["topic", "create", "orders", "--partitions", "2"])
        .ok();
    let _ = cli
        .run(&["topic", "create", "orders"])
        .with_code(exit::CONFLICT);
    cli.run(&["topic", "create", "orders", "--if-not-exists"])
        .ok();
    let described = cli
        .run(&["topic", "describe", "orders", "-o", "json"])
        .ok()
        .json();
    assert_eq!(
        described["partitions"].as_array().map_or(2, Vec::len),
        2,
        "{described}"
    );
    cli.run(&["topic", "alter", "orders", "--partitions", "4"])
        .ok();
    let listed = cli.run(&["topic", "ls", "-o", "jsonl"]).ok();
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
    let _ = cli.run(&["topic", "rm", "orders"]).with_code(exit::USAGE);
    cli.run(&["topic", "rm", "orders", "--dry-run"]).ok();
    cli.run(&["topic", "describe", "orders"]).ok();
    cli.run(&["topic", "rm", "orders", "--yes"]).ok();
    let gone = cli
        .run(&["topic", "describe", "orders"])
        .with_code(exit::NOT_FOUND);
    assert!(gone.stderr.starts_with("error: "), "{}", gone.stderr);
    let summary = cli
        .run(&["pub", "nowhere", "x", "-o", "json"])
        .with_code(exit::NOT_FOUND);
    assert_eq!(summary.last_json()["acknowledged"], json!(0));
}

#[test]
fn publishing_creates_topics_in_dev_only() {
    let broker = Fixture::new();
    let _ = broker
        .cli
        .run(&["pub", "fresh", "x"])
        .with_code(exit::NOT_FOUND);
    assert!(
        broker
            .cli
            .run(&["topic", "ls", "-o", "jsonl"])
            .ok()
            .stdout
            .is_empty()
    );
}
