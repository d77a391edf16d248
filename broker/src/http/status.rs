//! Errors as an HTTP client sees them: `google.rpc.Status` as JSON, and the HTTP status beside it.
//!
//! What a service refused is passed on with all its details. What the door itself refuses gets
//! the same shape: a code, a message, and an `ErrorInfo` with a reason.

use std::{fmt::Write as _, time::Duration};

use aqueduct_proto::google::rpc;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Status, body::Body};

use super::{json::to_json, schema::Schema};
use crate::error::{Refusal, reason};

/// Who gives the reasons their meaning; the same as in gRPC.
const DOMAIN: &str = "aqueduct.dev";

/// An error on its way out.
#[derive(Debug)]
pub(super) struct Problem {
    http: StatusCode,
    /// A whole `google.rpc.Status`.
    body: Value,
    retry_after: Option<Duration>,
    allow: Option<String>,
}

/// The HTTP status of a gRPC code, as `google.api` maps them.
pub(super) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // No name in the standard: the client closed the request.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Problem {
    /// What the door refuses by itself.
    pub(super) fn new(
        http: StatusCode,
        code: Code,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Problem {
        let (message, code) = (message.into(), code as i32);
        let info = json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": DOMAIN,
            "metadata": {},
        });
        Problem {
            http,
            body: json!({ "code": code, "message": message, "details": [info] }),
            retry_after: None,
            allow: None,
        }
    }

    /// A field of the request that cannot be.
    pub(super) fn invalid(field: &str, why: &str) -> Problem {
        let refusal = Refusal::invalid(field, why);
        let (_, reason) = refusal.kind();
        let (http, code) = (StatusCode::BAD_REQUEST, Code::InvalidArgument);
        let mut problem =
            Problem::new(http, code, reason, refusal.to_string()).with("field", field);
        if let Some(details) = problem.body["details"].as_array_mut() {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{ "field": field, "description": why }],
            }));
        }
        problem
    }

    /// More than the door takes.
    pub(super) fn too_large(what: &str, bytes: u64, limit: u64) -> Problem {
        let message = format!("{what} has {bytes} bytes or more, the limit is {limit}");
        let (http, code) = (StatusCode::PAYLOAD_TOO_LARGE, Code::InvalidArgument);
        Problem::new(http, code, reason::REQUEST_TOO_LARGE, message)
            .with("field", what)
            .with("limit", limit)
    }

    /// The client's own time-out has passed.
    pub(super) fn deadline() -> Problem {
        let message = "the time-out of the request has passed; if it changes something, whether it did is not known";
        let (http, code) = (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded);
        Problem::new(http, code, reason::DEADLINE_EXCEEDED, message)
    }

    /// A fault of ours.
    pub(super) fn internal(why: impl Into<String>) -> Problem {
        Problem::of_status(&Status::internal(why.into()), None)
    }

    /// What a service answered, with every detail that can be shown.
    pub(super) fn of_status(status: &Status, schema: Option<&Schema>) -> Problem {
        let whole = rpc::Status::decode(status.details()).ok();
        let whole = whole.filter(|whole| !whole.details.is_empty());
        let whole = whole.unwrap_or_else(|| rpc::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: Vec::new(),
        });
        Problem::of_rpc(&whole, schema)
    }

    /// The same for a status that lay inside an answer.
    pub(super) fn of_rpc(status: &rpc::Status, schema: Option<&Schema>) -> Problem {
        let shown = schema.and_then(|schema| {
            let bytes = status.encode_to_vec();
            let json = to_json(&schema.status, &bytes[..]).ok()?;
            serde_json::from_slice(&json).ok()
        });
        let mut body = shown.unwrap_or_else(
            || json!({ "code": status.code, "message": status.message, "details": [] }),
        );
        if let Some(details) = body["details"].as_array_mut() {
            // The reason comes first, whatever else there is.
            let is_info = |any: &Value| {
                let kind = any["@type"].as_str().unwrap_or_default();
                kind.ends_with("google.rpc.ErrorInfo")
            };
            details.sort_by_key(|any| !is_info(any));
        }
        let delay = status.details.iter().find_map(|any| {
            let is_retry = any.type_url.ends_with("google.rpc.RetryInfo");
            let info = is_retry.then(|| tonic_types::pb::RetryInfo::decode(&any.value[..]).ok());
            Duration::try_from(info??.retry_delay?).ok()
        });
        Problem {
            http: http_status(Code::from_i32(status.code)),
            body,
            retry_after: delay,
            allow: None,
        }
    }

    /// Adds a fact to the `ErrorInfo`.
    pub(super) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Problem {
        self.body["details"][0]["metadata"][name] = Value::String(value.to_string());
        self
    }

    /// Says which methods there are.
    pub(super) fn allowing(mut self, methods: String) -> Problem {
        self.allow = Some(methods);
        self
    }

    /// Says when to try again.
    pub(super) fn retry_after(mut self, delay: Duration) -> Problem {
        self.retry_after = Some(delay);
        if let Some(details) = self.body["details"].as_array_mut() {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", delay.as_secs_f64()),
            }));
        }
        self
    }

    /// As the last line of a stream.
    pub(super) fn line(&self) -> String {
        format!("{}\n", json!({ "error": self.body }))
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut text = self.body.to_string();
        // Ends a terminal's line.
        let _ = writeln!(text);
        let mut response = Response::new(Body::new(Full::from(text)));
        *response.status_mut() = self.http;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(delay) = self.retry_after {
            // Whole seconds are all that HTTP knows.
            let seconds = delay.as_millis().div_ceil(1_000).max(1) as u64;
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self
            .allow
            .and_then(|allow| HeaderValue::try_from(allow).ok())
        {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Invalid { field, why } => Problem::invalid(&field, &why),
            Refusal::Draining => {
                let (code, reason) = (Code::Unavailable, Refusal::Draining.kind().1);
                let delay = Refusal::Draining.retry_after().unwrap_or_default();
                Problem::new(
                    http_status(code),
                    code,
                    reason,
                    Refusal::Draining.to_string(),
                )
                .retry_after(delay)
            }
            other => Problem::internal(other.to_string()),
        }
    }
}
