//! Bad input: each is answered with a clear refusal, nothing of it is stored, and the
//! broker goes on.

use aqueduct_proto::{
    compression::Compression,
    crc::crc32c,
    record::BatchBuilder,
    v1::{
        CreateTopicRequest, DeleteTopicRequest, GetMessageRequest, GetOffsetsRequest,
        GetTopicRequest, PublishRequest, PublishStreamRequest, ReadRequest, Topic,
        TrimTopicRequest, publish_stream_response,
    },
};
use aqueduct_tests::{
    Seed,
    grpc::{Api, Refused, message, refused},
};
use bytes::Bytes;
use rand::Rng as _;
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::{
    fixture::Fixture,
    publishing::{batch, batch_results, encoded, messages, open, request, stream},
};

/// Names that no topic may have.
fn bad_names() -> Vec<String> {
    let names = [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "topics/../x",
        "a b",
        "a\0b",
        "é",
        "a\nb",
        "%2e%2e",
    ];
    let mut names: Vec<String> = names.map(str::to_owned).to_vec();
    names.push("x".repeat(250));
    names.push("x".repeat(100_000));
    names
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_everywhere() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    for name in bad_names() {
        let topic = Topic {
            name: name.clone(),
            ..Topic::default()
        };
        let create = CreateTopicRequest {
            topic: Some(topic),
            validate_only: false,
        };
        let answer = api.topics.create_topic(create).await;
        refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        let delete = DeleteTopicRequest {
            name: name.clone(),
            validate_only: false,
        };
        let codes = [
            api.topics
                .get_topic(GetTopicRequest { name: name.clone() })
                .await
                .unwrap_err()
                .code(),
            api.topics.delete_topic(delete).await.unwrap_err().code(),
            Refused::of_publish(
                api.publisher
                    .publish(request(&name, vec![message(0, "x")]))
                    .await,
            )
            .code,
            read_code(
                &mut api,
                ReadRequest {
                    topic: name.clone(),
                    ..Default::default()
                },
            )
            .await,
        ];
        let clear = |code: &Code| matches!(code, Code::InvalidArgument | Code::NotFound);
        assert!(codes.iter().all(clear), "{name:?}: {codes:?}");
    }
    let longest = "x".repeat(249);
    api.create(&longest, 1).await;
    broker.assert_serves();
}

async fn read_code(api: &mut Api, request: ReadRequest) -> Code {
    match api.reader.read(request).await {
        Err(status) => status.code(),
        Ok(answers) => {
            let answers: Vec<_> = answers.into_inner().collect().await;
            answers
                .into_iter()
                .find_map(Result::err)
                .map_or(Code::Ok, |status| status.code())
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 2).await;
    let nowhere = "nowhere".to_owned();
    let answer = api
        .publisher
        .publish(request(&nowhere, vec![message(0, "x")]))
        .await;
    Refused::of_publish(answer).is(Code::NotFound, "TOPIC_NOT_FOUND");
    let answer = api
        .publisher
        .publish(request("order", vec![message(0, "x")]))
        .await;
    let refusal = Refused::of_publish(answer);
    assert_eq!(
        refusal.facts.get("did_you_mean").map(String::as_str),
        Some("orders")
    );
    let answer = api
        .publisher
        .publish(request("orders", vec![message(2, "x")]))
        .await;
    Refused::of_publish(answer).is(Code::NotFound, "PARTITION_NOT_FOUND");
    broker.assert_serves();
}

#[tokio::test]
async fn reading_what_does_not_exist_is_not_found() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 2).await;
    let nowhere = "nowhere".to_owned();
    let offsets = GetOffsetsRequest {
        topic: nowhere.clone(),
        ..Default::default()
    };
    refused(
        api.reader.get_offsets(offsets).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    let offsets = GetOffsetsRequest {
        topic: "orders".to_owned(),
        partitions: vec![u32::MAX],
        position: None,
    };
    refused(
        api.reader.get_offsets(offsets).await,
        Code::NotFound,
        "PARTITION_NOT_FOUND",
    );
    let get = GetMessageRequest {
        topic: nowhere.clone(),
        partition: 0,
        offset: 0,
    };
    refused(
        api.reader.get_message(get).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    let get = GetMessageRequest {
        topic: "orders".to_owned(),
        partition: 9,
        offset: 0,
    };
    refused(
        api.reader.get_message(get).await,
        Code::NotFound,
        "PARTITION_NOT_FOUND",
    );
    let read = |topic: &str, partition| ReadRequest {
        topic: topic.to_owned(),
        partitions: vec![partition],
        ..ReadRequest::default()
    };
    assert_eq!(
        read_code(&mut api, read("nowhere", 0)).await,
        Code::NotFound
    );
    assert_eq!(read_code(&mut api, read("orders", 2)).await, Code::NotFound);
    broker.assert_serves();
}

#[tokio::test]
async fn requests_without_their_parts_are_refused() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 2).await;
    let answer = api.topics.create_topic(CreateTopicRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    let many = Topic {
        name: "many".to_owned(),
        partitions: u32::MAX,
        ..Topic::default()
    };
    let answer = api
        .topics
        .create_topic(CreateTopicRequest {
            topic: Some(many),
            validate_only: false,
        })
        .await;
    let code = answer.unwrap_err().code();
    assert!(
        matches!(code, Code::InvalidArgument | Code::ResourceExhausted),
        "{code:?}"
    );
    let trim = TrimTopicRequest {
        name: "orders".to_owned(),
        ..TrimTopicRequest::default()
    };
    assert_eq!(
        api.topics.trim_topic(trim).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    // A stream that names no topic, one with an empty request, one without any.
    let answers = stream(&mut api, vec![messages(vec![message(0, "x")])]).await;
    let Some(publish_stream_response::Kind::Results(results)) = &answers[0].kind else {
        panic!("not results: {answers:?}")
    };
    let refusal = Refused::from_result(results.results[0].error.as_ref().unwrap());
    refusal.is(Code::InvalidArgument, "INVALID_ARGUMENT");
    let nothing = vec![open("orders"), PublishStreamRequest { kind: None }];
    assert_eq!(stream_code(&mut api, nothing).await, Code::InvalidArgument);
    assert_eq!(stream_code(&mut api, vec![]).await, Code::Ok);

    let across = PublishRequest {
        expected_offset: Some(0),
        ..request("orders", vec![message(0, "x"), message(1, "y")])
    };
    let refusal = Refused::of_publish(api.publisher.publish(across).await);
    assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
    broker.assert_serves();
    assert!(broker.cli.read_all("orders").is_empty());
}

/// The status a publish stream ends with.
async fn stream_code(api: &mut Api, requests: Vec<PublishStreamRequest>) -> Code {
    let answer = api
        .publisher
        .publish_stream(tokio_stream::iter(requests))
        .await;
    match answer {
        Err(status) => status.code(),
        Ok(answers) => {
            let answers: Vec<_> = answers.into_inner().collect().await;
            answers
                .into_iter()
                .find_map(Result::err)
                .map_or(Code::Ok, |status| status.code())
        }
    }
}

/// Replaces bytes of a good batch and makes its checksum right again.
fn altered(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = encoded(&["one", "two", "three"], Compression::None).to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(batch)
}

#[tokio::test]
async fn each_bad_batch_is_refused_and_the_stream_goes_on() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let good = encoded(&["one", "two", "three"], Compression::None);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut wrong_crc = good.to_vec();
    wrong_crc[17] ^= 0x80;
    let cases: Vec<(&str, Bytes)> = vec![
        ("empty", Bytes::new()),
        ("garbage", Bytes::from_static(&[0xAB; 300])),
        ("a header and no more", good.slice(..61)),
        ("cut in the header", good.slice(..40)),
        ("cut in the last record", good.slice(..good.len() - 1)),
        ("a byte too many", [&good[..], &[0]].concat().into()),
        ("two batches", [&good[..], &good[..]].concat().into()),
        ("a flipped bit", flipped.into()),
        ("a wrong checksum", wrong_crc.into()),
        ("magic 1", altered(16, &[1])),
        ("unknown codec", altered(21, &[0, 7])),
        ("says it is compressed", altered(21, &[0, 1])),
        ("control batch", altered(21, &[0, 0x20])),
        ("transactional batch", altered(21, &[0, 0x10])),
        (
            "last offset delta too high",
            altered(23, &7_i32.to_be_bytes()),
        ),
        ("count too high", altered(57, &1_000_000_i32.to_be_bytes())),
        ("count of 2^31-1", altered(57, &i32::MAX.to_be_bytes())),
        ("count negative", altered(57, &(-1_i32).to_be_bytes())),
        ("count zero", altered(57, &0_i32.to_be_bytes())),
        (
            "producer without sequence",
            altered(43, &5_i64.to_be_bytes()),
        ),
        ("wrong max timestamp", altered(35, &5_i64.to_be_bytes())),
    ];
    for (what, bytes) in cases {
        let requests = vec![open("orders"), batch(0, bytes), batch(0, good.clone())];
        let mut results = batch_results(&stream(&mut api, requests).await);
        let refusal = results.remove(0).expect_err(what);
        assert_eq!(refusal.code, Code::InvalidArgument, "{what}: {refusal:?}");
        results
            .remove(0)
            .unwrap_or_else(|refusal| panic!("after {what}: {refusal:?}"));
    }
    let requests = vec![open("orders"), batch(7, good)];
    let refusal = batch_results(&stream(&mut api, requests).await)
        .remove(0)
        .unwrap_err();
    refusal.is(Code::NotFound, "PARTITION_NOT_FOUND");
    broker.assert_serves();
    assert_eq!(
        broker.cli.read_all("orders").len(),
        21 * 3,
        "only the good ones"
    );
}

#[tokio::test]
async fn bombs_are_refused_in_every_compression() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let zeros = vec![0_u8; 4 << 20];
    for compression in [
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let mut builder = BatchBuilder::new(compression);
        for _ in 0..64 {
            builder.push(0, None, Some(&zeros), &[]);
        }
        let bomb = builder.finish().unwrap();
        println!("{compression}: 256 MiB in {} bytes", bomb.len());
        let results = batch_results(&stream(&mut api, vec![open("orders"), batch(0, bomb)]).await);
        let refusal = results[0].as_ref().expect_err("a bomb");
        assert_eq!(
            refusal.code,
            Code::InvalidArgument,
            "{compression}: {refusal:?}"
        );
    }
    let stats = api
        .ops
        .get_stats(aqueduct_proto::v1::GetStatsRequest {})
        .await
        .unwrap();
    let peak = stats.into_inner().rss_peak_bytes;
    assert!(peak < 600 << 20, "inflated to {} MiB", peak >> 20);
    broker.assert_serves();
    assert!(broker.cli.read_all("orders").is_empty());
}

#[tokio::test]
async fn oversized_messages_are_refused_and_say_the_limit() {
    let mut broker = Fixture::new();
    broker
        .cli
        .run(&["topic", "create", "orders", "--max-message", "1000"])
        .ok();
    let mut api = broker.api().await;
    let sized = |bytes: usize| vec![message(0, vec![b'x'; bytes])];
    let answer = api.publisher.publish(request("orders", sized(5_000))).await;
    let refusal = Refused::of_publish(answer);
    refusal.is(Code::InvalidArgument, "MESSAGE_TOO_LARGE");
    assert_eq!(refusal.number("limit"), 1_000);
    let big = "x".repeat(5_000);
    let raw = encoded(&["ok", &big], Compression::Zstd);
    let results = batch_results(&stream(&mut api, vec![open("orders"), batch(0, raw)]).await);
    let refusal = results[0].as_ref().unwrap_err();
    assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
    api.publisher
        .publish(request("orders", sized(900)))
        .await
        .unwrap();

    // Larger than any request may be.
    let answer = api
        .publisher
        .publish(request("orders", sized(64 << 20)))
        .await;
    let code = answer.unwrap_err().code();
    let clear = [
        Code::OutOfRange,
        Code::InvalidArgument,
        Code::ResourceExhausted,
    ];
    assert!(clear.contains(&code), "{code:?}");
    let mut again = broker.api().await;
    again
        .publisher
        .publish(request("orders", sized(900)))
        .await
        .unwrap();
    broker.assert_serves();
    assert_eq!(broker.cli.read_all("orders").len(), 2);
}

#[tokio::test]
async fn one_bad_message_does_not_spoil_the_others_of_its_request() {
    let broker = Fixture::new();
    broker
        .cli
        .run(&["topic", "create", "orders", "--max-message", "1000"])
        .ok();
    let mut api = broker.api().await;
    let three = vec![
        message(0, "a"),
        message(0, vec![b'x'; 2_000]),
        message(0, "c"),
    ];
    let results = api
        .publisher
        .publish(request("orders", three))
        .await
        .unwrap()
        .into_inner();
    let refused: Vec<bool> = results.results.iter().map(|r| r.error.is_some()).collect();
    assert_eq!(refused, [false, true, false]);
    assert_eq!(broker.cli.read_all("orders").len(), 2);
}

/// Sends bytes as the message of a method, whatever they are.
async fn send_bytes(api: &Api, path: &'static str, bytes: Bytes) -> Code {
    let mut grpc = tonic::client::Grpc::new(api.channel.clone());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let request = tonic::Request::new(tokio_stream::once(bytes));
    let answer = grpc
        .streaming(request, path, crate::connections::BytesCodec)
        .await;
    match answer {
        Err(status) => status.code(),
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                let next = tokio::time::timeout(std::time::Duration::from_secs(5), answers.next());
                match next.await {
                    Err(_) | Ok(None) => return Code::Ok,
                    Ok(Some(Err(status))) => return status.code(),
                    Ok(Some(Ok(_))) => {}
                }
            }
        }
    }
}

const METHODS: [&str; 17] = [
    "/aqueduct.v1.Publisher/Publish",
    "/aqueduct.v1.Publisher/PublishStream",
    "/aqueduct.v1.Publisher/InitProducer",
    "/aqueduct.v1.Publisher/GetProducer",
    "/aqueduct.v1.Reader/Read",
    "/aqueduct.v1.Reader/ReadStream",
    "/aqueduct.v1.Reader/GetOffsets",
    "/aqueduct.v1.Reader/GetMessage",
    "/aqueduct.v1.Topics/CreateTopic",
    "/aqueduct.v1.Topics/GetTopic",
    "/aqueduct.v1.Topics/ListTopics",
    "/aqueduct.v1.Topics/UpdateTopic",
    "/aqueduct.v1.Topics/DeleteTopic",
    "/aqueduct.v1.Topics/TrimTopic",
    "/aqueduct.v1.Topics/ListPartitions",
    "/aqueduct.v1.Ops/GetStats",
    "/aqueduct.v1.Nothing/Nowhere",
];

#[tokio::test]
async fn garbage_on_every_method_is_an_answer() {
    let mut broker = Fixture::new();
    let api = broker.api().await;
    let seed = Seed::from_env();
    let mut rng = seed.rng();
    for method in METHODS {
        for round in 0..6 {
            let bytes: Vec<u8> = match round {
                // A length that promises 4 GiB, a deep nest, an overlong varint.
                0 => vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
                1 => vec![0x0a; 10_000],
                2 => vec![0xff; 64],
                _ => (0..rng.random_range(1..200))
                    .map(|_| rng.random())
                    .collect(),
            };
            let code = send_bytes(&api, method, Bytes::from(bytes)).await;
            // tonic answers INTERNAL for a message that does not decode.
            assert_ne!(
                code,
                Code::Unknown,
                "{method}, round {round}, seed {}",
                seed.0
            );
        }
    }
    let nowhere = send_bytes(&api, "/aqueduct.v1.Nothing/Nowhere", Bytes::new()).await;
    assert_eq!(nowhere, Code::Unimplemented);
    broker.assert_serves();
}
