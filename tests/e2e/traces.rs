//! Spans of requests at a collector of OpenTelemetry: who gets them, and that a collector which is
//! away disturbs nobody.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use aqueduct_tests::{grpc::message, http::Http, process::PATIENCE};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server};

use crate::{fixture::Fixture, publishing};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves until the test ends.
    async fn listen(&self, address: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(self.clone());
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        address
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let of_resources = requests.iter().flat_map(|it| &it.resource_spans);
        let of_scopes = of_resources.flat_map(|it| &it.scope_spans);
        of_scopes.flat_map(|it| it.spans.clone()).collect()
    }

    fn services(&self) -> Vec<String> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|it| &it.resource_spans);
        let attributes = resources.flat_map(|it| &it.resource.as_ref().unwrap().attributes);
        let names = attributes.filter(|it| it.key == "service.name");
        names
            .map(|it| text(it.value.as_ref().unwrap().value.clone().unwrap()))
            .collect()
    }
}

fn text(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == name)?;
    Some(text(found.value.clone()?.value?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// With the client's span as parent.
fn traced<T>(body: T, flags: &str) -> Request<T> {
    let mut request = Request::new(body);
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("tracestate", "vendor=7".parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_a_span_of_each_request_in_its_trace() {
    let collector = Collector::default();
    let address = collector.listen("127.0.0.1:0").await;
    let mut broker = Fixture::with(&["--otlp-endpoint", &format!("http://{address}")]);
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let publish = |topic: &str| publishing::request(topic, vec![message(0, "x")]);
    let sent = api.publisher.publish(traced(publish("orders"), "01")).await;
    assert_eq!(sent.unwrap().into_inner().results.len(), 1);
    // Not sampled by its client, so not exported: the batch would name another trace.
    let unsampled = traced(aqueduct_proto::v1::GetStatsRequest {}, "00");
    api.ops.get_stats(unsampled).await.unwrap();
    api.topics
        .delete_topic(aqueduct_proto::v1::DeleteTopicRequest {
            name: "nowhere".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let mut http = Http::connect(broker.process.address());
    let answer = http.send("GET", "/v1/topics", &[("traceparent", &parent)], b"");
    assert_eq!(answer.status, 200);
    http.send("PUT", "/v1/topics", &[("traceparent", "nonsense")], b"");
    // A stream that is under way when the node ends has its span too.
    let mut reading = api.reader.clone();
    let request = aqueduct_proto::v1::ReadRequest {
        topic: "orders".into(),
        ..Default::default()
    };
    let answers = reading.read(traced(request, "01")).await.unwrap();
    drop((http, answers, api, reading));
    assert!(broker.process.terminate().success());

    assert!(collector.services().iter().all(|name| name == "aqueduct"));
    let spans = collector.spans();
    let published = only(&spans, "aqueduct.v1.Publisher/Publish");
    assert_eq!(hex(&published.trace_id), TRACE);
    assert_eq!(hex(&published.parent_span_id), PARENT);
    assert_eq!(published.trace_state, "vendor=7");
    assert_eq!(published.kind, SpanKind::Server as i32);
    assert!(published.end_time_unix_nano > published.start_time_unix_nano);
    let code = |span: &Span| attribute(span, "rpc.grpc.status_code");
    assert_eq!(code(published).as_deref(), Some("0"));
    let method = attribute(published, "rpc.method");
    assert_eq!(method.as_deref(), Some("Publish"));
    let refused = only(&spans, "aqueduct.v1.Topics/DeleteTopic");
    assert_eq!(code(refused).as_deref(), Some("5"));
    assert_eq!(refused.parent_span_id, Vec::<u8>::new(), "no parent");
    let unset = refused.status.clone().unwrap_or_default().code;
    assert_eq!(unset, StatusCode::Unset as i32, "not found is no fault");
    let listed = only(&spans, "GET");
    assert_eq!(hex(&listed.parent_span_id), PARENT);
    let status = |span: &Span| attribute(span, "http.response.status_code");
    assert_eq!(status(listed).as_deref(), Some("200"));
    let path = attribute(listed, "url.path");
    assert_eq!(path.as_deref(), Some("/v1/topics"));
    let denied = only(&spans, "PUT");
    assert_eq!(status(denied).as_deref(), Some("405"));
    assert_eq!(denied.parent_span_id, Vec::<u8>::new(), "nonsense");
    let stream = only(&spans, "aqueduct.v1.Reader/Read");
    assert_eq!(hex(&stream.trace_id), TRACE);
    let stats = spans.iter().filter(|span| span.name.ends_with("GetStats"));
    assert_eq!(stats.count(), 0, "not sampled");
}

/// More than the queue holds.
const MANY: usize = 5_000;

fn many(http: &mut Http) {
    for _ in 0..MANY {
        assert_eq!(http.get("/health").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_disturbs_nobody_and_may_come_back() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut broker = Fixture::with(&["--otlp-endpoint", &format!("http://{address}")]);
    let mut http = Http::connect(broker.process.address());
    many(&mut http);
    let collector = Collector::default();
    let start = std::time::Instant::now();
    let warned = |broker: &Fixture| {
        broker
            .process
            .stderr()
            .matches("spans cannot be sent")
            .count()
    };
    while warned(&broker) == 0 {
        assert!(start.elapsed() < PATIENCE, "{}", broker.process.stderr());
        many(&mut http);
    }
    collector.listen(&address.to_string()).await;
    while collector.spans().is_empty() {
        assert!(start.elapsed() < PATIENCE, "{}", broker.process.stderr());
        assert_eq!(http.get("/health").status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    broker.assert_serves();
    drop(http);
    assert!(broker.process.terminate().success());
    let log = broker.process.stderr();
    assert_eq!(warned(&broker), 1, "once, not for each batch: {log}");
    assert!(log.contains("spans are sent again"), "{log}");
}

#[test]
fn a_collector_that_takes_and_never_answers_costs_a_bounded_queue() {
    // Connections are taken by the kernel, and nobody reads them.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let mut broker = Fixture::with(&["--otlp-endpoint", &endpoint]);
    let mut http = Http::connect(broker.process.address());
    let memory = |http: &mut Http| -> u64 {
        let stats = http.get("/v1/stats").ok();
        stats["rssBytes"].as_str().unwrap().parse().unwrap()
    };
    // As large as a span may be: all of these together would be 20 MB.
    let path = format!("/v1/topics/{}", "x".repeat(250));
    let state = format!("a={}", "y".repeat(500));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent", parent), ("tracestate", state.as_str())];
    let large = |http: &mut Http, count| {
        (0..count).for_each(|_| drop(http.send("GET", &path, &headers, b"")));
    };
    large(&mut http, MANY);
    let before = memory(&mut http);
    large(&mut http, 2 * MANY);
    let grown = memory(&mut http).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    broker.assert_serves();
    drop(http);
    // The end does not wait for it for ever.
    assert!(broker.process.terminate().success());
    drop(deaf);
}

#[test]
fn an_endpoint_that_cannot_be_used_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    for bad in [
        "https://127.0.0.1:4317",
        "127.0.0.1:4317",
        "http://127.0.0.1:4317/v1/traces",
    ] {
        let started = aqueduct_tests::Process::try_start(
            &directory.path().join("data"),
            "127.0.0.1:0",
            &["--otlp-endpoint", bad],
        );
        let why = started.err().unwrap();
        assert!(
            why.contains("http://127.0.0.1:4317 (gRPC, no TLS)"),
            "{why}"
        );
    }
}
