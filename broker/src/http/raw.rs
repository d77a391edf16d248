//! `POST /v1/topics/{topic}/messages`: a message as it is, of any kind, and CloudEvents.
//!
//! The body is the value. Headers give the rest: `aq-key`, `aq-partition`, `aq-dedup-id`,
//! `aq-timestamp-ms`, `aq-delay` and `aq-ttl` (such as 5m), `aq-deliver-at` (RFC 3339), `aq-priority`, and `aq-header-NAME` for a header NAME of the message. `traceparent` and
//! `tracestate` become headers of the message, so that a trace goes on behind the broker.

use aqueduct_proto::v1::{Header, Message, PublishRequest, PublishResponse};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, request::Parts};
use prost::Message as _;
use prost_types::{Duration, Timestamp};
use tonic::{Code, Status, body::Body};

use super::{
    Door, call::call, cloud_events, content_type, json::frame, json::to_json, request,
    respond_json, status::Problem,
};
use crate::{error::Refusal, limits::MAX_MESSAGES_PER_REQUEST};

/// Prefix of headers that are the broker's.
const OWN: &str = "aq-";
/// Prefix of headers that become headers of the message.
const HEADER: &str = "aq-header-";
const TRACE: [&str; 2] = ["traceparent", "tracestate"];

impl Door {
    /// Publishes the body.
    ///
    /// # Errors
    /// What of the request cannot be, or why the message was not stored.
    pub(super) async fn publish_raw(
        &self,
        topic: &str,
        parts: &mut Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Problem> {
        request::no_parameters(parts.uri.query())?;
        let kind = content_type(&parts.headers);
        let is_batch = kind == "application/cloudevents-batch+json";
        let mut messages = if is_batch {
            cloud_events::batch(&body).map_err(named)?
        } else if kind == "application/cloudevents+json" {
            vec![cloud_events::structured(&body).map_err(named)?]
        } else if kind.starts_with("application/cloudevents") {
            let why = format!("{kind:?}: of CloudEvents only JSON is known");
            return Err(Problem::invalid("content-type", &why));
        } else if cloud_events::is_binary(&parts.headers) {
            let whole = parts.headers.get(http::header::CONTENT_TYPE);
            let whole = whole
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            vec![cloud_events::binary(&parts.headers, whole, body).map_err(named)?]
        } else {
            vec![Message {
                value: Some(body),
                ..Message::default()
            }]
        };
        if messages.len() > MAX_MESSAGES_PER_REQUEST {
            let why = format!(
                "{} events, the limit is {MAX_MESSAGES_PER_REQUEST}",
                messages.len()
            );
            return Err(Problem::invalid("body", &why));
        }
        let given = own_headers(&parts.headers)?;
        if is_batch && !given.dedup_id.is_empty() {
            return Err(Problem::invalid(
                "aq-dedup-id",
                "a batch cannot have one id for all",
            ));
        }
        for message in &mut messages {
            given.clone().merge_into(message);
        }
        let request = PublishRequest {
            topic: topic.to_owned(),
            messages,
            expected_offset: None,
        };
        self.publish(request, is_batch, parts).await
    }

    async fn publish(
        &self,
        request: PublishRequest,
        is_batch: bool,
        parts: &mut Parts,
    ) -> Result<Response<Body>, Problem> {
        let schema = &self.api()?.schema;
        let method = &schema.methods[schema.publish];
        let extensions = std::mem::take(&mut parts.extensions);
        let from = (&parts.headers, extensions);
        let refused = |status: Status| Problem::of_status(&status, Some(schema));
        let called = call(self.grpc.clone(), &method.uri, frame(&request)?, from).await;
        let answer = called.map_err(refused)?.only().await.map_err(refused)?;
        if is_batch {
            let json = to_json(&method.output, answer).map_err(Problem::internal)?;
            return Ok(respond_json(json));
        }
        let response = PublishResponse::decode(answer);
        let response = response.map_err(|error| Problem::internal(error.to_string()))?;
        let [result] = &response.results[..] else {
            return Err(Problem::internal("one message had not one result"));
        };
        if let Some(error) = &result.error {
            return Err(Problem::of_rpc(error, Some(schema)));
        }
        let json = to_json(&schema.publish_result, &result.encode_to_vec()[..]);
        Ok(respond_json(json.map_err(Problem::internal)?))
    }
}

fn named(fault: cloud_events::Fault) -> Problem {
    Problem::invalid(&fault.attribute, &fault.why)
}

/// What a page of ours says of a topic that is not there.
pub(super) fn not_found(refusal: &Refusal) -> Status {
    let code = match refusal.kind().0 {
        crate::error::Code::NotFound => Code::NotFound,
        _ => Code::InvalidArgument,
    };
    Status::new(code, refusal.to_string())
}

/// What the headers say of a message; what an event said itself stays, except the key.
#[derive(Clone, Default)]
struct Own {
    key: Option<Bytes>,
    partition: Option<u32>,
    dedup_id: String,
    timestamp_ms: Option<i64>,
    delay: Option<Duration>,
    deliver_at: Option<Timestamp>,
    ttl: Option<Duration>,
    priority: Option<u32>,
    headers: Vec<Header>,
}

impl Own {
    fn merge_into(self, message: &mut Message) {
        message.key = self.key.or(message.key.take());
        message.partition = self.partition;
        message.dedup_id = self.dedup_id;
        message.timestamp_ms = self.timestamp_ms;
        message.delay = self.delay.map(Box::new);
        message.deliver_at = self.deliver_at.map(Box::new);
        message.ttl = self.ttl.map(Box::new);
        message.priority = self.priority;
        message.headers.extend(self.headers);
    }
}

fn own_headers(headers: &HeaderMap) -> Result<Own, Problem> {
    let mut own = Own::default();
    for (name, value) in headers {
        let name = name.as_str();
        if let Some(header) = name.strip_prefix(HEADER) {
            own.headers.push(header_of(header, value));
        } else if TRACE.contains(&name) {
            own.headers.push(header_of(name, value));
        } else if name.starts_with(OWN) {
            own.take(name, value)?;
        }
    }
    Ok(own)
}

impl Own {
    fn take(&mut self, name: &str, value: &HeaderValue) -> Result<(), Problem> {
        match name {
            "aq-key" => self.key = Some(Bytes::copy_from_slice(value.as_bytes())),
            "aq-partition" => self.partition = Some(number(name, value)?),
            "aq-timestamp-ms" => self.timestamp_ms = Some(number(name, value)?),
            "aq-delay" => self.delay = Some(duration(name, value)?),
            "aq-ttl" => self.ttl = Some(duration(name, value)?),
            "aq-priority" => self.priority = Some(number(name, value)?),
            "aq-deliver-at" => {
                let time = value.to_str().ok().and_then(|text| text.parse().ok());
                let wrong = || Problem::invalid(name, &format!("{value:?} is no RFC 3339 time"));
                self.deliver_at = Some(time.ok_or_else(wrong)?);
            }
            "aq-dedup-id" => {
                let text = std::str::from_utf8(value.as_bytes());
                let text = text.map_err(|_| Problem::invalid(name, "it is not UTF-8"))?;
                self.dedup_id = text.to_owned();
            }
            _ => {
                let why = "there is no such header; headers of the message are aq-header-NAME";
                return Err(Problem::invalid(name, why));
            }
        }
        Ok(())
    }
}

fn header_of(name: &str, value: &HeaderValue) -> Header {
    Header {
        name: name.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn duration(name: &str, value: &HeaderValue) -> Result<Duration, Problem> {
    let text = value.to_str().unwrap_or_default();
    let read = crate::config::duration(text).map_err(|why| Problem::invalid(name, &why))?;
    let wrong = |_| Problem::invalid(name, "it is out of range");
    read.try_into().map_err(wrong)
}

fn number<T: std::str::FromStr>(name: &str, value: &HeaderValue) -> Result<T, Problem> {
    let text = value.to_str().ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::invalid(name, &format!("{value:?} is no such number")))
}
