//! A span of OpenTelemetry for each request, for `--otlp-endpoint`.
//!
//! It begins when the request's headers are there and ends with the last byte of the answer, so that of
//! a stream it is the stream's whole life. It continues the client's `traceparent`; what the
//! client did not sample is not recorded. Ending a span puts it into a queue or drops it, and never
//! waits. What it keeps of a request is bounded. Never knows where spans go.

use std::{
    pin::Pin,
    str::FromStr as _,
    sync::Arc,
    task::{Context as Poller, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::{
    Context, KeyValue,
    global::{BoxedSpan, BoxedTracer},
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
        TraceId, TraceState, Tracer as _,
    },
};

use super::parent;
use crate::{http::AnswerBody, services::Peer};

/// Bytes of a path that a span keeps.
const MAX_PATH: usize = 256;
/// Bytes of `tracestate` that are continued: what the standard asks for. Longer is left out.
const MAX_STATE: usize = 512;

/// Makes spans, if requests are exported.
#[derive(Clone, Default)]
pub(crate) struct Tracing(Option<Arc<BoxedTracer>>);

impl Tracing {
    /// For requests that are exported by whatever the process has installed.
    pub(crate) fn installed() -> Tracing {
        Tracing(Some(Arc::new(opentelemetry::global::tracer("aqueduct"))))
    }

    /// Begins a request's span, if requests are exported.
    pub(crate) fn begin<B>(&self, is_grpc: bool, request: &Request<B>) -> Option<Recording> {
        let tracer = self.0.as_ref()?;
        let (name, mut attributes) = if is_grpc {
            call(request.uri().path())
        } else {
            visit(request)
        };
        if let Some(Peer(peer)) = request.extensions().get() {
            attributes.push(KeyValue::new("client.address", peer.ip().to_string()));
            attributes.push(KeyValue::new("client.port", i64::from(peer.port())));
        }
        let builder = tracer.span_builder(name);
        let builder = builder
            .with_kind(SpanKind::Server)
            .with_attributes(attributes);
        let context = match remote(request.headers()) {
            Some(remote) => Context::new().with_remote_span_context(remote),
            None => Context::new(),
        };
        let span = tracer.build_with_context(builder, &context);
        Some(Recording { span, is_grpc })
    }
}

/// Name and attributes of a gRPC call.
fn call(path: &str) -> (String, Vec<KeyValue>) {
    let path = cut(path.trim_start_matches('/'));
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let attributes = vec![
        KeyValue::new("rpc.system", "grpc"),
        KeyValue::new("rpc.service", service.to_owned()),
        KeyValue::new("rpc.method", method.to_owned()),
    ];
    (path.to_owned(), attributes)
}

/// Name and attributes of any other request. The name has no path, because paths name topics.
fn visit<B>(request: &Request<B>) -> (String, Vec<KeyValue>) {
    let method = cut(request.method().as_str()).to_owned();
    let path = cut(request.uri().path()).to_owned();
    let attributes = vec![
        KeyValue::new("http.request.method", method.clone()),
        KeyValue::new("url.path", path),
    ];
    (method, attributes)
}

fn cut(text: &str) -> &str {
    let end = (0..=MAX_PATH.min(text.len())).rfind(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The span of the client that this request is part of.
fn remote(headers: &HeaderMap) -> Option<SpanContext> {
    let parent = parent(headers)?;
    let flags = u8::from_str_radix(parent.flags, 16).ok()?;
    let state = headers.get("tracestate").and_then(|it| it.to_str().ok());
    let state = state.filter(|text| text.len() <= MAX_STATE);
    let state = state.and_then(|text| TraceState::from_str(text).ok());
    Some(SpanContext::new(
        TraceId::from_hex(parent.trace_id).ok()?,
        SpanId::from_hex(parent.span_id).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
        true,
        state.unwrap_or_default(),
    ))
}

/// The span of a request under way. Ends when dropped.
pub(crate) struct Recording {
    span: BoxedSpan,
    is_grpc: bool,
}

impl Recording {
    /// Notes how the answer begins, and goes on with its body.
    pub(crate) fn follow(mut self, answer: Response<AnswerBody>) -> Response<AnswerBody> {
        let status = answer.status();
        if self.is_grpc {
            self.note_grpc_status(answer.headers());
        } else {
            let code = i64::from(status.as_u16());
            self.note("http.response.status_code", code);
        }
        if status.is_server_error() {
            self.span.set_status(Status::error(""));
        }
        if answer.body().is_end_stream() {
            return answer;
        }
        answer.map(|body| {
            AnswerBody::new(Followed {
                body,
                recording: Some(self),
            })
        })
    }

    fn note(&mut self, name: &'static str, value: i64) {
        self.span.set_attribute(KeyValue::new(name, value));
    }

    fn note_grpc_status(&mut self, headers: &HeaderMap) {
        let text = headers.get("grpc-status").and_then(|it| it.to_str().ok());
        let Some(code) = text.and_then(|text| text.parse::<i64>().ok()) else {
            return;
        };
        self.note("rpc.grpc.status_code", code);
        // Those that are the server's own: unknown, deadline exceeded, unimplemented, internal,
        // unavailable, data loss.
        if matches!(code, 2 | 4 | 12 | 13 | 14 | 15) {
            self.span.set_status(Status::error(""));
        }
    }
}

/// The body of an answer, with the span that ends when it ends.
struct Followed {
    body: AnswerBody,
    recording: Option<Recording>,
}

impl Body for Followed {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Poller<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(recording)) =
                    (frame.trailers_ref(), this.recording.as_mut())
                {
                    recording.note_grpc_status(trailers);
                }
            }
            Poll::Ready(Some(Err(_)) | None) => this.recording = None,
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http::HeaderValue;

    use super::*;

    fn headers(state: &str) -> HeaderMap {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        HeaderMap::from_iter([
            (
                "traceparent".parse().unwrap(),
                HeaderValue::from_static(parent),
            ),
            (
                "tracestate".parse().unwrap(),
                HeaderValue::try_from(state).unwrap(),
            ),
        ])
    }

    #[test]
    fn the_client_s_span_is_continued() {
        let found = remote(&headers("vendor=1")).unwrap();
        assert_eq!(
            found.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(found.span_id().to_string(), "b7ad6b7169203331");
        assert!(found.is_sampled() && found.is_remote());
        assert_eq!(found.trace_state().header(), "vendor=1");
        // What cannot be continued is left out, and the parent stays.
        for state in [
            "no equals sign".to_owned(),
            format!("a={}", "x".repeat(MAX_STATE)),
        ] {
            let found = remote(&headers(&state)).unwrap();
            assert_eq!(found.trace_state().header(), "", "{state}");
        }
        assert_eq!(remote(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_kept_of_a_path_is_bounded() {
        let (name, attributes) = call("/aqueduct.v1.Publisher/Publish");
        assert_eq!(name, "aqueduct.v1.Publisher/Publish");
        assert_eq!(attributes[1].value.as_str(), "aqueduct.v1.Publisher");
        assert_eq!(attributes[2].value.as_str(), "Publish");
        let long = "/é".repeat(10_000);
        assert!(call(&long).0.len() <= MAX_PATH);
        assert!(call("/").0.is_empty());
    }
}
