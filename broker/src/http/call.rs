//! Hands a request to the gRPC services of this process, without a socket, and reads the answer.
//!
//! The services see an ordinary gRPC request, so both doors have the same rules by construction.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::Stream;
use http::{Extensions, HeaderMap, HeaderValue, Request, Version, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service as _;

use super::{json::to_json, schema::Schema, status::Problem};

/// Headers that are handed on.
const PASSED: [&str; 3] = ["traceparent", "tracestate", "authorization"];
/// Flags and length before each message.
const PREFIX: usize = 5;

/// An answer whose messages are still to come.
pub(super) struct Answer {
    body: Body,
    buffer: BytesMut,
}

/// Calls a method with a framed message.
///
/// # Errors
/// The refusal, if it comes before any message.
pub(super) async fn call(
    mut grpc: Routes,
    uri: &http::Uri,
    frame: Bytes,
    from: (&HeaderMap, Extensions),
) -> Result<Answer, Status> {
    let mut request = Request::new(Body::new(Full::new(frame)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri.clone();
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    for name in PASSED {
        if let Some(value) = from.0.get(name) {
            headers.insert(name, value.clone());
        }
    }
    *request.extensions_mut() = from.1;
    let Ok(response) = grpc.call(request).await;
    refused(response.headers())?;
    Ok(Answer {
        body: response.into_body(),
        buffer: BytesMut::new(),
    })
}

fn refused(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

impl Answer {
    /// The next message, still encoded; `None` at a good end.
    ///
    /// # Errors
    /// What the service said at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            match frame?.into_data() {
                Ok(data) if self.buffer.is_empty() && is_whole(&data) => {
                    return Ok(Some(data.slice(PREFIX..)));
                }
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => {
                        refused(&trailers)?;
                        return Ok(None);
                    }
                    Err(_) => continue,
                },
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let length = length(&self.buffer)?;
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        self.buffer.advance(PREFIX);
        Some(self.buffer.split_to(length).freeze())
    }

    /// The one message of a unary method.
    ///
    /// # Errors
    /// What the service said instead of it.
    pub(super) async fn only(mut self) -> Result<Bytes, Status> {
        let Some(message) = self.next().await? else {
            return Err(Status::internal("the service gave no answer"));
        };
        // The end may still say that it failed.
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(Status::internal("the service gave two answers")),
        }
    }

    /// A line of JSON for each message. What ends the stream badly is its last line.
    pub(super) fn lines(
        self,
        schema: std::sync::Arc<Schema>,
        method: usize,
        deadline: Option<Instant>,
    ) -> impl Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send + 'static {
        futures::stream::unfold(Some(self), move |answer| {
            let schema = schema.clone();
            async move {
                let mut answer = answer?;
                let next = match deadline {
                    None => answer.next().await,
                    Some(deadline) => {
                        let timed = tokio::time::timeout_at(deadline, answer.next()).await;
                        match timed {
                            Ok(next) => next,
                            Err(_) => return Some((line(Problem::deadline().line()), None)),
                        }
                    }
                };
                let output = &schema.methods[method].output;
                match next.map(|message| message.map(|message| to_json(output, message))) {
                    Ok(None) => None,
                    Ok(Some(Ok(mut json))) => {
                        json.push(b'\n');
                        Some((Ok(Frame::data(json.into())), Some(answer)))
                    }
                    Ok(Some(Err(why))) => Some((line(Problem::internal(why).line()), None)),
                    Err(status) => {
                        let problem = Problem::of_status(&status, Some(&schema));
                        Some((line(problem.line()), None))
                    }
                }
            }
        })
    }
}

fn line(text: String) -> Result<Frame<Bytes>, std::convert::Infallible> {
    Ok(Frame::data(text.into()))
}

fn length(buffer: &[u8]) -> Option<usize> {
    let prefix = buffer.get(1..PREFIX)?;
    Some(
        prefix
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)),
    )
}

fn is_whole(data: &[u8]) -> bool {
    length(data).is_some_and(|length| data.len() == PREFIX + length)
}
