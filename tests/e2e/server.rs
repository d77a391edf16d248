//! The server's own manners: ready line, health, reflection, drain, refusing to listen
//! to the world, one process per directory.

use std::time::Duration;

use aqueduct_proto::v1::publish_stream_response;
use aqueduct_tests::{Cli, Process, cli::exit, grpc::message, process::binary};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{v1, v1alpha};

use crate::{
    fixture::Fixture,
    publishing::{messages, open, request},
};

#[test]
fn the_ready_line_is_one_line_and_names_the_port() {
    let broker = Fixture::new();
    let said = broker.process.stderr();
    let ready: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("ready api="))
        .collect();
    assert_eq!(ready, [format!("ready api={}", broker.process.address())]);
    assert_ne!(broker.process.address().port(), 0);
}

#[tokio::test]
async fn health_is_served() {
    let broker = Fixture::new();
    let api = broker.api().await;
    let mut health = HealthClient::new(api.channel.clone());
    for service in ["", "aqueduct.v1"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

#[tokio::test]
async fn reflection_lists_every_service_in_both_versions() {
    let broker = Fixture::new();
    let api = broker.api().await;
    let expected =
        ["Publisher", "Reader", "Topics", "Ops"].map(|name| format!("aqueduct.v1.{name}"));

    let request = v1::ServerReflectionRequest {
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
        ..Default::default()
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(api.channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer
    else {
        panic!("no list of services: {answer:?}")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "v1: {names:?}"
    );

    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
        ..Default::default()
    };
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(api.channel.clone());
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer
    else {
        panic!("no list of services: {answer:?}")
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    assert!(
        expected.iter().all(|name| names.contains(name)),
        "v1alpha: {names:?}"
    );
}

/// What was taken before SIGTERM is answered, and exactly what was answered is there afterwards.
#[tokio::test]
async fn a_drain_answers_what_is_in_flight() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let (sender, receiver) = mpsc::channel(1_000);
    sender.send(open("orders")).await.unwrap();
    let answers = api
        .publisher
        .publish_stream(ReceiverStream::new(receiver))
        .await;
    let mut answers = answers.unwrap().into_inner();
    for _ in 0..500 {
        sender
            .send(messages(vec![message(0, "x"), message(0, "y")]))
            .await
            .unwrap();
    }
    // The first answer proves that the requests are on their way.
    let first = answers.next().await.unwrap().unwrap();
    assert_eq!(first.request, 0);
    broker.process.ask_to_end();
    drop(sender);
    let mut acknowledged = 2;
    while let Some(answer) = answers.next().await {
        let answer = match answer {
            Ok(answer) => answer.kind,
            Err(status) => {
                // What was not taken any more is refused in words, once, at the end.
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                break;
            }
        };
        let Some(publish_stream_response::Kind::Results(results)) = answer else {
            panic!("not results: {answer:?}")
        };
        acknowledged += results
            .results
            .iter()
            .filter(|result| result.error.is_none())
            .count();
    }
    assert!(broker.process.wait().success());
    broker.process.restart();
    // Not one more: nothing was taken without being answered.
    assert_eq!(broker.cli.read_all("orders").len(), acknowledged);
}

#[tokio::test]
async fn after_a_drain_nothing_is_replayed_or_lost() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    for _ in 0..20 {
        api.publisher
            .publish(request("orders", vec![message(0, "x")]))
            .await
            .unwrap();
    }
    assert!(
        broker.process.terminate().success(),
        "SIGTERM is a clean end"
    );
    broker.process.restart();
    assert_eq!(broker.cli.read_all("orders").len(), 20);
}

/// A follower does not keep the broker from ending.
#[tokio::test]
async fn followers_do_not_hold_up_the_end() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let follow = aqueduct_proto::v1::ReadRequest {
        topic: "orders".to_owned(),
        follow: true,
        ..Default::default()
    };
    let mut answers = api.reader.read(follow).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { while let Some(Ok(_)) = answers.next().await {} });
    assert!(broker.process.terminate().success());
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap()
        .unwrap();
}

#[test]
fn the_world_is_not_served_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Process::try_start(&directory.path().join("a"), "0.0.0.0:0", &[]);
    let why = refused.err().expect("refuses to listen beyond loopback");
    assert!(why.contains("--insecure"), "{why}");
    assert!(why.contains("exit status: 2"), "{why}");
}

#[test]
fn a_directory_has_one_broker() {
    let broker = Fixture::new();
    let second = Process::try_start(broker.process.data(), "127.0.0.1:0", &[]);
    let why = second.err().expect("the directory is locked");
    assert!(why.contains("lock") || why.contains("use"), "{why}");
}

#[test]
fn without_a_server_commands_say_so() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let cli = Cli::new(nobody);
    let failed = cli
        .run(&["topic", "ls", "--timeout", "2s"])
        .with_code(exit::UNAVAILABLE);
    assert!(failed.stderr.contains("error: "), "{}", failed.stderr);
    assert!(failed.stderr.contains("hint: "), "{}", failed.stderr);
}

/// `dev` needs no configuration, creates topics by publishing, and cleans up behind itself.
#[test]
fn dev_starts_with_nothing_and_creates_topics() {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };
    let mut child = Command::new(binary())
        .args(["dev", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.find_map(|line| {
        let line = line.unwrap();
        line.strip_prefix("ready api=")
            .map(|rest| rest.trim().parse().unwrap())
    });
    let rest = std::thread::spawn(move || lines.count());
    let cli = Cli::new(ready.expect("a ready line"));
    let published = cli.run(&["pub", "fresh", "hello"]);
    let read = cli.read_all("fresh");
    child.kill().unwrap();
    child.wait().unwrap();
    rest.join().unwrap();
    published.ok();
    assert_eq!(read[0].value.as_deref(), Some("hello"));
}
