//! `aqueduct.v1.Publisher`.
//!
//! A publish stream has two halves. The *intake* reads requests, hands them to the partitions
//! and waits only for room; requests with messages that have arrived together are handed over
//! together. The *answers* wait for the partitions, in the order of the requests. So any number
//! of requests is in flight, and acknowledgements leave in order.

use std::{pin::Pin, sync::Arc};

use aqueduct_proto::{
    record::Header,
    v1::{
        self, BatchResult, GetProducerRequest, GetProducerResponse, InitProducerRequest,
        InitProducerResponse, PublishBatch, PublishMessages, PublishRequest, PublishResponse,
        PublishResult, PublishStreamRequest, PublishStreamResponse, publish_stream_request::Kind,
        publish_stream_response,
    },
};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::status::{embedded, status};
use crate::{
    error::Refusal,
    limits::{BATCH_BYTES, MAX_MESSAGES_PER_REQUEST, MAX_STREAM_IN_FLIGHT},
    partition::{NewRecord, Stored},
    publish::{Incoming, PendingBatch, PendingMessages},
    services::Services,
};

pub(super) struct Publisher(Arc<Services>);

impl Publisher {
    pub(super) fn new(services: Arc<Services>) -> Publisher {
        Publisher(services)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

/// Requests that were handed over, and the answers they wait for.
enum InFlight {
    /// Requests with so many messages each.
    Messages {
        first: u64,
        counts: Vec<usize>,
        pending: PendingMessages,
    },
    Batch {
        request: u64,
        pending: PendingBatch,
    },
    /// The same, refused before they were handed over.
    RefusedMessages {
        first: u64,
        counts: Vec<usize>,
        refusal: Refusal,
    },
    RefusedBatch {
        request: u64,
        partition: u32,
        refusal: Refusal,
    },
    /// The stream ends with this.
    End(Status),
}

fn decode_message(message: v1::Message) -> Incoming {
    let header = |header: v1::Header| Header {
        name: Bytes::from(header.name),
        value: Some(header.value),
    };
    let dedup_id = (!message.dedup_id.is_empty()).then(|| Bytes::from(message.dedup_id));
    let record = NewRecord {
        timestamp_ms: message.timestamp_ms,
        key: message.key,
        value: message.value,
        headers: message.headers.into_iter().map(header).collect(),
        dedup_id,
    };
    Incoming {
        record,
        partition: message.partition,
    }
}

fn decode_messages(messages: Vec<v1::Message>) -> Result<Vec<Incoming>, Refusal> {
    if messages.len() > MAX_MESSAGES_PER_REQUEST {
        let (count, limit) = (messages.len(), MAX_MESSAGES_PER_REQUEST);
        return Err(Refusal::invalid(
            "messages",
            format!("{count}, the limit is {limit}"),
        ));
    }
    Ok(messages.into_iter().map(decode_message).collect())
}

fn encode_result((partition, result): (u32, Result<Stored, Refusal>)) -> PublishResult {
    match result {
        Ok(Stored { offset, duplicate }) => PublishResult {
            partition,
            offset,
            duplicate,
            error: None,
        },
        Err(refusal) => PublishResult {
            partition,
            offset: 0,
            duplicate: false,
            error: Some(embedded(&refusal)),
        },
    }
}

fn encode_batch(partition: u32, result: Result<Stored, Refusal>) -> BatchResult {
    match result {
        Ok(Stored { offset, duplicate }) => BatchResult {
            partition,
            base_offset: offset,
            duplicate,
            error: None,
        },
        Err(refusal) => BatchResult {
            partition,
            base_offset: 0,
            duplicate: false,
            error: Some(embedded(&refusal)),
        },
    }
}

fn results(request: u64, results: Vec<PublishResult>) -> PublishStreamResponse {
    let kind = publish_stream_response::Kind::Results(PublishResponse { results });
    PublishStreamResponse {
        request,
        kind: Some(kind),
    }
}

fn batch(request: u64, result: BatchResult) -> PublishStreamResponse {
    let kind = publish_stream_response::Kind::Batch(result);
    PublishStreamResponse {
        request,
        kind: Some(kind),
    }
}

impl InFlight {
    /// Waits for the partitions and says what they said.
    async fn answers(self) -> Vec<Result<PublishStreamResponse, Status>> {
        match self {
            InFlight::Messages {
                first,
                counts,
                pending,
            } => {
                let mut all = pending.wait().await.into_iter().map(encode_result);
                let answer = |(count, request): (usize, u64)| {
                    Ok(results(request, all.by_ref().take(count).collect()))
                };
                counts.into_iter().zip(first..).map(answer).collect()
            }
            InFlight::Batch { request, pending } => {
                let partition = pending.partition;
                vec![Ok(batch(
                    request,
                    encode_batch(partition, pending.wait().await),
                ))]
            }
            InFlight::RefusedMessages {
                first,
                counts,
                refusal,
            } => {
                let refused = encode_result((0, Err(refusal)));
                let answer = |(count, request): (usize, u64)| {
                    Ok(results(request, vec![refused.clone(); count.max(1)]))
                };
                counts.into_iter().zip(first..).map(answer).collect()
            }
            InFlight::RefusedBatch {
                request,
                partition,
                refusal,
            } => {
                vec![Ok(batch(request, encode_batch(partition, Err(refusal))))]
            }
            InFlight::End(status) => vec![Err(status)],
        }
    }
}

/// The half of a publish stream that reads.
struct Intake {
    services: Arc<Services>,
    requests: Streaming<PublishStreamRequest>,
    /// Read, but not handed over yet.
    ahead: Option<Kind>,
    topic: String,
    /// Number of the next request.
    number: u64,
    in_flight: mpsc::Sender<InFlight>,
}

impl Intake {
    async fn run(mut self) {
        let end = loop {
            let kind = match self.next().await {
                Ok(Some(kind)) => kind,
                Ok(None) => return,
                Err(status) => break status,
            };
            let handed_over = match kind {
                Kind::Open(open) => {
                    if let Err(refusal) = self.services.topics.get_or_create(&open.topic).await {
                        break status(&refusal);
                    }
                    self.topic = open.topic;
                    continue;
                }
                Kind::Messages(messages) => self.take_messages(messages).await,
                Kind::Batch(batch) => self.take_batch(batch).await,
            };
            if self.in_flight.send(handed_over).await.is_err() {
                return;
            }
        };
        // If the client is gone, nobody asks how it ended.
        let _ = self.in_flight.send(InFlight::End(end)).await;
    }

    /// The next request; `None` when the client has closed its side or is gone.
    async fn next(&mut self) -> Result<Option<Kind>, Status> {
        if let Some(kind) = self.ahead.take() {
            return Ok(Some(kind));
        }
        let request = tokio::select! {
            request = self.requests.message() => request?,
            () = self.services.drained() => return Err(status(&Refusal::Draining)),
            () = self.in_flight.closed() => return Ok(None),
        };
        let Some(request) = request else {
            return Ok(None);
        };
        match request.kind {
            Some(kind) => Ok(Some(kind)),
            None => Err(status(&Refusal::invalid(
                "kind",
                "a request is open, messages or batch",
            ))),
        }
    }

    fn topic_of<'a>(&'a self, named: &'a str) -> &'a str {
        if named.is_empty() { &self.topic } else { named }
    }

    /// Hands over this request's messages and those of requests that are there already.
    async fn take_messages(&mut self, first: PublishMessages) -> InFlight {
        let request = self.number;
        let topic = self.topic_of(&first.topic).to_owned();
        let (expected, mut counts) = (first.expected_offset, vec![first.messages.len()]);
        let mut messages = match decode_messages(first.messages) {
            Ok(messages) => messages,
            Err(refusal) => {
                self.number += 1;
                return InFlight::RefusedMessages {
                    first: request,
                    counts,
                    refusal,
                };
            }
        };
        if expected.is_none() {
            self.take_more(&topic, &mut messages, &mut counts);
        }
        self.number += counts.len() as u64;
        let published = match self.services.topics.get_or_create(&topic).await {
            Ok(live) => self.services.publish(&live, messages, expected).await,
            Err(refusal) => Err(refusal),
        };
        match published {
            Ok(pending) => InFlight::Messages {
                first: request,
                counts,
                pending,
            },
            Err(refusal) => InFlight::RefusedMessages {
                first: request,
                counts,
                refusal,
            },
        }
    }

    /// Adds requests with messages for the same topic that have arrived already.
    fn take_more(&mut self, topic: &str, messages: &mut Vec<Incoming>, counts: &mut Vec<usize>) {
        let mut bytes: usize = messages
            .iter()
            .map(|incoming| incoming.record.bytes())
            .sum();
        while bytes < BATCH_BYTES && counts.len() < MAX_STREAM_IN_FLIGHT {
            let Some(Ok(Some(request))) = self.requests.message().now_or_never() else {
                return;
            };
            match request.kind {
                Some(Kind::Messages(more))
                    if more.expected_offset.is_none()
                        && self.topic_of(&more.topic) == topic
                        && more.messages.len() <= MAX_MESSAGES_PER_REQUEST =>
                {
                    counts.push(more.messages.len());
                    for message in more.messages {
                        let incoming = decode_message(message);
                        bytes += incoming.record.bytes();
                        messages.push(incoming);
                    }
                }
                other => {
                    self.ahead = other;
                    return;
                }
            }
        }
    }

    async fn take_batch(&mut self, batch: PublishBatch) -> InFlight {
        let request = self.number;
        self.number += 1;
        let partition = batch.partition;
        let topic = self.topic_of(&batch.topic);
        let published = match self.services.topics.get_or_create(topic).await {
            Ok(live) => {
                let expected = batch.expected_offset;
                self.services
                    .publish_batch(&live, partition, batch.records, expected)
                    .await
            }
            Err(refusal) => Err(refusal),
        };
        match published {
            Ok(pending) => InFlight::Batch { request, pending },
            Err(refusal) => InFlight::RefusedBatch {
                request,
                partition,
                refusal,
            },
        }
    }
}

#[tonic::async_trait]
impl v1::publisher_server::Publisher for Publisher {
    type PublishStreamStream = Answers;

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let request = request.into_inner();
        let live = self
            .0
            .topics
            .get_or_create(&request.topic)
            .await
            .map_err(|r| status(&r))?;
        let messages = decode_messages(request.messages).map_err(|r| status(&r))?;
        let pending = self
            .0
            .publish(&live, messages, request.expected_offset)
            .await;
        let results = pending.map_err(|r| status(&r))?.wait().await;
        let results = results.into_iter().map(encode_result).collect();
        Ok(Response::new(PublishResponse { results }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (in_flight, handed_over) = mpsc::channel(MAX_STREAM_IN_FLIGHT);
        let intake = Intake {
            services: self.0.clone(),
            requests: request.into_inner(),
            ahead: None,
            topic: String::new(),
            number: 0,
            in_flight,
        };
        tokio::spawn(intake.run());
        let answers = ReceiverStream::new(handed_over).then(InFlight::answers);
        Ok(Response::new(Box::pin(answers.flat_map(stream::iter))))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let producer = self.0.init_producer(&request.get_ref().name).await;
        let producer = producer.map_err(|r| status(&r))?;
        let (producer_id, epoch) = (producer.id, producer.epoch);
        Ok(Response::new(InitProducerResponse { producer_id, epoch }))
    }

    async fn get_producer(
        &self,
        request: Request<GetProducerRequest>,
    ) -> Result<Response<GetProducerResponse>, Status> {
        let request = request.into_inner();
        let found = self
            .0
            .producer_positions(&request.name, &request.topic)
            .await;
        let (producer, positions) = found.map_err(|r| status(&r))?;
        let position = |position: crate::services::ProducerPosition| v1::ProducerPosition {
            partition: position.partition,
            next_sequence: position.next_number,
            last_offset: position.last_offset,
        };
        Ok(Response::new(GetProducerResponse {
            producer_id: producer.id,
            epoch: producer.epoch,
            partitions: positions.into_iter().map(position).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn requests_taken_together_are_refused_one_by_one() {
        let refused = InFlight::RefusedMessages {
            first: 7,
            counts: vec![2, 0, 3],
            refusal: Refusal::Draining,
        };
        let answers = refused.answers().await;
        let shape: Vec<(u64, usize)> = answers
            .into_iter()
            .map(|answer| match answer.unwrap() {
                PublishStreamResponse {
                    request,
                    kind: Some(publish_stream_response::Kind::Results(results)),
                } => (request, results.results.len()),
                other => panic!("not results: {other:?}"),
            })
            .collect();
        assert_eq!(shape, [(7, 2), (8, 1), (9, 3)]);
    }
}
