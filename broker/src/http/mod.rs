//! The HTTP door: every method of the API as JSON, raw publishing, and the pages that operators
//! and machines look at. Same port as gRPC.
//!
//! - [`schema`] reads methods and paths from the compiled descriptors; [`table`] finds them
//! - [`request`] makes a message of path, query and body; [`json`] is the one place that reads JSON
//! - [`call`] hands it to the gRPC services of this process and reads their frames
//! - [`raw`] and [`cloud_events`] take messages that are no JSON
//! - [`renders`] makes the pages that are large
//! - [`body`] bounds what arrives, [`status`] says what was refused
//!
//! Promises: a request means the same here and in gRPC; every error is a `google.rpc.Status`.
//! Holds no rules, and never knows Raft, storage or the gRPC door's code.

mod body;
mod call;
mod cloud_events;
mod json;
mod openapi;
mod raw;
mod renders;
mod request;
mod schema;
mod status;
mod table;
mod template;
mod timeout;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header, request::Parts,
};
use http_body_util::{Full, StreamBody};
use tokio::time::Instant;
use tonic::{Code, body::Body, service::Routes};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer as _, Service as _};

use self::{
    body::Budget,
    call::call,
    json::{frame, to_json},
    renders::Renders,
    schema::Schema,
    status::Problem,
    table::{Found, Page, Table, Target},
};
use crate::{error::reason, limits::MAX_REQUEST_BYTES, metrics, services::Services};

/// What an answer's body is, on both doors.
pub(crate) type AnswerBody = Body;

/// JSON above this size is read on a thread that may take its time, bytes.
const LARGE_JSON: usize = 256 << 10;

/// The door. Shared by all connections.
pub(crate) struct Door {
    api: OnceLock<Result<Arc<Api>, String>>,
    grpc: Routes,
    web: GrpcWebService<Routes>,
    services: Arc<Services>,
    budget: Budget,
    renders: Renders,
}

/// What JSON needs to know of the methods. It takes megabytes, so a node that is only spoken to in
/// gRPC, or only scraped, does without.
struct Api {
    schema: Arc<Schema>,
    table: Table,
    openapi: Bytes,
}

impl Api {
    /// # Errors
    /// If the compiled descriptors cannot be read, which the tests rule out.
    fn load() -> Result<Arc<Api>, String> {
        let schema = Schema::load()?;
        let table = Table::new(&schema)?;
        let openapi = openapi::document(&schema).to_string().into();
        let schema = Arc::new(schema);
        Ok(Arc::new(Api {
            schema,
            table,
            openapi,
        }))
    }
}

impl Door {
    pub(crate) fn new(grpc: Routes, services: Arc<Services>) -> Door {
        Door {
            api: OnceLock::new(),
            web: GrpcWebLayer::new().layer(grpc.clone()),
            grpc,
            services,
            budget: Budget::new(),
            renders: Renders::new(),
        }
    }

    /// Loaded by the first request that needs it.
    fn api(&self) -> Result<&Arc<Api>, Problem> {
        let api = self.api.get_or_init(Api::load).as_ref();
        api.map_err(|why| Problem::internal(why.clone()))
    }

    /// Answers whatever is not gRPC.
    pub(crate) async fn answer<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Verb::HEAD;
        let answer = match self.dispatch(parts, body).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        };
        self.services.stats.answered_http(answer.status().as_u16());
        if is_head {
            without_body(answer)
        } else {
            answer
        }
    }

    async fn dispatch<B>(&self, mut parts: Parts, body: B) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        check_origin(&parts)?;
        let kind = content_type(&parts.headers);
        if kind.starts_with("application/grpc-web") {
            return self.grpc_web(parts, body).await;
        }
        if kind.starts_with("application/grpc") {
            let message = "gRPC needs HTTP/2; over HTTP/1.1 there are gRPC-Web and JSON";
            return Err(unsupported(message));
        }
        let (target, captures) = match self.find(&parts)? {
            Found::Target(target, captures) => (target, captures),
            Found::OtherVerbs(allow) if parts.method == Verb::OPTIONS => {
                return Ok(options(&allow));
            }
            Found::OtherVerbs(allow) => {
                let message = format!("{} has {allow}, not {}", parts.uri.path(), parts.method);
                let (http, code) = (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented);
                let problem = Problem::new(http, code, reason::METHOD_NOT_ALLOWED, message);
                return Err(problem.allowing(allow));
            }
            Found::Nothing => return Err(nothing_there(parts.uri.path())),
        };
        let deadline = timeout::deadline(&parts.headers)?;
        let work = async {
            let whole = self.budget.read(body, MAX_REQUEST_BYTES).await?;
            match target {
                Target::Page(Page::RawPublish) => {
                    let topic = captures.first().map_or("", String::as_str);
                    self.publish_raw(topic, &mut parts, whole.bytes.clone())
                        .await
                }
                Target::Page(Page::Metrics) => self.metrics(&parts).await,
                Target::Page(Page::DetailedMetrics) => {
                    self.detailed_metrics(parts.uri.query()).await
                }
                Target::Page(page) => self.page(page, &parts),
                Target::Method { method, rule } => {
                    let at = (method, rule);
                    self.call_json(at, captures, &mut parts, &whole.bytes, deadline)
                        .await
                }
            }
        };
        match deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout_at(deadline, work)
                .await
                .unwrap_or_else(|_| Err(Problem::deadline())),
        }
    }

    fn find(&self, parts: &Parts) -> Result<Found, Problem> {
        let path = parts.uri.path();
        if let Some(page) = table::plain_page(&parts.method, path) {
            return Ok(Found::Target(Target::Page(page), Vec::new()));
        }
        Ok(self.api()?.table.find(&parts.method, path))
    }

    /// A method with a JSON request.
    async fn call_json(
        &self,
        (method, rule): (usize, usize),
        captures: Vec<String>,
        parts: &mut Parts,
        body: &Bytes,
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Problem> {
        let api = self.api()?;
        let of = &api.schema.methods[method];
        if of.descriptor.is_client_streaming() {
            return Err(streams_only(of.descriptor.full_name()));
        }
        if !body.is_empty() {
            check_json(&parts.headers)?;
        }
        let query = parts.uri.query();
        let framed = if body.len() < LARGE_JSON {
            let message = request::message(of, api.table.rule(rule), &captures, query, body)?;
            frame(&message)?
        } else {
            self.read_large(method, rule, captures, query, body).await?
        };
        let extensions = std::mem::take(&mut parts.extensions);
        let called = call(
            self.grpc.clone(),
            &of.uri,
            framed,
            (&parts.headers, extensions),
        )
        .await;
        let answer = called.map_err(|status| self.refused(&status))?;
        if of.descriptor.is_server_streaming() {
            let lines = answer.lines(api.schema.clone(), method, deadline);
            return Ok(respond(
                "application/x-ndjson",
                Body::new(StreamBody::new(lines)),
            ));
        }
        let message = answer
            .only()
            .await
            .map_err(|status| self.refused(&status))?;
        let json = to_json(&of.output, message).map_err(Problem::internal)?;
        Ok(respond_json(json))
    }

    /// Much JSON is read beside the connections that this thread serves.
    async fn read_large(
        &self,
        method: usize,
        rule: usize,
        captures: Vec<String>,
        query: Option<&str>,
        body: &Bytes,
    ) -> Result<Bytes, Problem> {
        let api = self.api()?.clone();
        let (query, body) = (query.map(str::to_owned), body.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let (of, rule) = (&api.schema.methods[method], api.table.rule(rule));
            let message = request::message(of, rule, &captures, query.as_deref(), &body)?;
            frame(&message)
        });
        reading
            .await
            .unwrap_or_else(|error| Err(Problem::internal(error.to_string())))
    }

    /// gRPC-Web: the frames of gRPC in a plain body. Browsers send one request and read on.
    async fn grpc_web<B>(&self, parts: Parts, body: B) -> Result<Response<Body>, Problem>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        // As base64 it is a third larger.
        let whole = self.budget.read(body, MAX_REQUEST_BYTES / 3 * 4).await?;
        let request = Request::from_parts(parts, Full::new(whole.bytes));
        let Ok(response) = self.web.clone().call(request).await;
        Ok(response)
    }

    fn page(&self, page: Page, parts: &Parts) -> Result<Response<Body>, Problem> {
        let query = parts.uri.query();
        request::no_parameters(query)?;
        match page {
            Page::Health => Ok(respond_json(b"{\"status\":\"alive\"}".to_vec())),
            Page::Ready => {
                self.services.check_draining()?;
                Ok(respond_json(b"{\"status\":\"ready\"}".to_vec()))
            }
            Page::OpenApi => {
                let document = self.api()?.openapi.clone();
                Ok(respond("application/json", Body::new(Full::new(document))))
            }
            // These are answered before.
            Page::Metrics | Page::DetailedMetrics | Page::RawPublish => {
                Err(nothing_there(parts.uri.path()))
            }
        }
    }

    async fn metrics(&self, parts: &Parts) -> Result<Response<Body>, Problem> {
        request::no_parameters(parts.uri.query())?;
        let lags = self.services.group_lags().await;
        let services = self.services.clone();
        self.render(move || metrics::render(&services, &lags)).await
    }

    async fn render(
        &self,
        render: impl FnOnce() -> String + Send + 'static,
    ) -> Result<Response<Body>, Problem> {
        let rendered = self.renders.run(render).await;
        let rendered = rendered.map_err(|error| Problem::internal(error.to_string()))?;
        Ok(respond(metrics::CONTENT_TYPE, text(rendered)))
    }

    async fn detailed_metrics(&self, query: Option<&str>) -> Result<Response<Body>, Problem> {
        let topic = request::only_parameter(query, "topic")?;
        let live = self.services.topics.get(&topic);
        let live = live.map_err(|refusal| self.refused(&raw::not_found(&refusal)))?;
        self.render(move || metrics::render_partitions(&live)).await
    }

    fn refused(&self, status: &tonic::Status) -> Problem {
        let api = self.api().ok();
        Problem::of_status(status, api.map(|api| api.schema.as_ref()))
    }
}

fn text(text: String) -> Body {
    Body::new(Full::from(text))
}

fn respond(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Browsers must not guess that an answer with somebody's data in it is a page.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn respond_json(mut json: Vec<u8>) -> Response<Body> {
    json.push(b'\n');
    respond("application/json", Body::new(Full::from(json)))
}

fn without_body(answer: Response<Body>) -> Response<Body> {
    let size = http_body::Body::size_hint(answer.body()).exact();
    let mut answer = answer.map(|_| Body::empty());
    if let Some(size) = size {
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    }
    answer
}

fn options(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(allow) = HeaderValue::try_from(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// The media type, without parameters.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// A page of another origin must not use the browser of somebody who can reach us: there are no
/// CORS answers, and requests that need none are refused.
fn check_origin(parts: &Parts) -> Result<(), Problem> {
    let Some(origin) = parts.headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let host = host.or(parts
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes()));
    let origin = origin.as_bytes();
    let own = origin
        .strip_prefix(b"http://")
        .or(origin.strip_prefix(b"https://"));
    if own.is_some() && own == host {
        return Ok(());
    }
    let message = "requests from web pages of other origins are not taken (no CORS)";
    let (http, code) = (StatusCode::FORBIDDEN, Code::PermissionDenied);
    Err(Problem::new(http, code, reason::ORIGIN_REFUSED, message))
}

fn check_json(headers: &HeaderMap) -> Result<(), Problem> {
    match content_type(headers) {
        "" | "application/json" => Ok(()),
        other => {
            let message = format!(
                "the body is {other:?}; this path takes application/json (curl: -H 'content-type: application/json')"
            );
            Err(unsupported(&message))
        }
    }
}

fn unsupported(message: &str) -> Problem {
    let (http, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument);
    Problem::new(http, code, reason::UNSUPPORTED_MEDIA_TYPE, message).with("field", "content-type")
}

fn nothing_there(path: &str) -> Problem {
    let message = format!("nothing is at {path}; /openapi.json lists what there is");
    let (http, code) = (StatusCode::NOT_FOUND, Code::NotFound);
    Problem::new(http, code, reason::PATH_NOT_FOUND, message)
}

/// Both directions at a time cannot be had with a JSON body; each such method has a plain sister.
fn streams_only(method: &str) -> Problem {
    let instead = match method.rsplit('.').next() {
        Some("PublishStream") => "Publish (POST /v1/topics/{topic}:publish)",
        Some("ReadStream") => "Read (POST /v1/topics/{topic}:read)",
        Some("Consume") => "Pull (POST /v1/topics/{topic}/groups/{group}:pull)",
        Some("Work") => "Lease (POST /v1/topics/{topic}/groups/{group}:lease)",
        _ => "gRPC",
    };
    let message =
        format!("{method} takes a stream, which JSON over HTTP cannot give; use {instead}");
    let (http, code) = (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented);
    Problem::new(http, code, reason::STREAM_ONLY, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_annotation_is_a_path() {
        let schema = Schema::load().unwrap();
        let table = Table::new(&schema).unwrap();
        for method in &schema.methods {
            assert!(matches!(
                table.find(&Verb::POST, method.uri.path()),
                Found::Target(Target::Method { .. }, _)
            ));
            let streams = method.descriptor.is_client_streaming();
            assert_eq!(
                method.rules.is_empty(),
                streams,
                "{}: a path, unless it takes a stream",
                method.uri
            );
        }
    }
}
