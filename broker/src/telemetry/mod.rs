//! A span and a line for each request, for whoever turns them on: `--log info,aqueduct::request=info`.
//!
//! Off by default, and then a request costs one look at a flag. A `traceparent` that the client sent
//! is continued: the span has its trace id and the parent's span id. One that is malformed is
//! ignored, as the standard wants. Never knows what a request means.
//!
//! The same requests as spans of OpenTelemetry, with `--otlp-endpoint`: [`export`].

mod export;

use std::{future::Future, time::Instant};

use http::{HeaderMap, Request, Response};
use tracing::{Instrument as _, Level, Span, field::Empty};

pub(crate) use export::Tracing;

/// The target of spans and lines; [`DEFAULT_LOG`](crate::DEFAULT_LOG) has it off.
macro_rules! target {
    () => {
        "aqueduct::request"
    };
}

/// Does anybody want to see requests?
pub(crate) fn enabled() -> bool {
    tracing::enabled!(target: target!(), Level::INFO)
}

/// A span for a request.
pub(crate) fn span<B>(door: &'static str, request: &Request<B>) -> Span {
    let span = tracing::info_span!(
        target: target!(),
        "request",
        door,
        method = %request.method(),
        path = request.uri().path(),
        trace_id = Empty,
        parent_id = Empty,
    );
    if let Some(parent) = parent(request.headers()) {
        span.record("trace_id", parent.trace_id);
        span.record("parent_id", parent.span_id);
    }
    span
}

/// Runs a request within its span and says how it was answered. A stream's line comes when its
/// answer begins.
pub(crate) async fn within<B, E>(
    span: Span,
    answering: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<B>, E> {
    let work = async {
        let start = Instant::now();
        let answer = answering.await;
        let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Ok(answer) = &answer {
            let status = answer.status().as_u16();
            // Only a refusal that comes before any message is in the headers.
            let grpc = answer.headers().get("grpc-status");
            let grpc_status = grpc.and_then(|code| code.to_str().ok());
            tracing::info!(target: target!(), status, grpc_status, us, "answered");
        }
        answer
    };
    work.instrument(span).await
}

/// Whose work a request is part of.
#[derive(Debug, PartialEq, Eq)]
struct Parent<'a> {
    trace_id: &'a str,
    span_id: &'a str,
    /// Bit 0: whoever began the trace records it.
    flags: &'a str,
}

/// `traceparent` of W3C Trace Context: `00-<32 hex>-<16 hex>-<2 hex>`, none of them all zero.
fn parent(headers: &HeaderMap) -> Option<Parent<'_>> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace_id, span_id, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    let whole = hex(trace_id, 32) && hex(span_id, 16) && hex(flags, 2);
    (known && whole && !zero(trace_id) && !zero(span_id)).then_some(Parent {
        trace_id,
        span_id,
        flags,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http::HeaderValue;

    use super::*;

    fn read(text: &str) -> Option<(String, String)> {
        let value = HeaderValue::try_from(text).unwrap();
        let headers = HeaderMap::from_iter([("traceparent".parse().unwrap(), value)]);
        let found = parent(&headers)?;
        Some((found.trace_id.to_owned(), found.span_id.to_owned()))
    }

    #[test]
    fn parents_are_read_or_ignored() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let found = read(&format!("00-{trace}-{span}-01"));
        assert_eq!(found, Some((trace.to_owned(), span.to_owned())));
        assert!(read(&format!("01-{trace}-{span}-01-later")).is_some());
        let (zeros, few) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{zeros}-{span}-01"),
            format!("00-{trace}-{few}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}é-{span}-01"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
    }
}
