//! The two halves of a publish stream: the intake, and the answers in flight.

use std::sync::Arc;

use aqueduct_proto::v1::{
    PublishBatch, PublishMessages, PublishStreamRequest, PublishStreamResponse,
    publish_stream_request::Kind,
};
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::wire::{batch, decode_message, decode_messages, encode_batch, encode_result, results};
use crate::{
    error::Refusal,
    grpc::status::status,
    limits::{
        BATCH_BYTES, MAX_MESSAGES_PER_REQUEST, MAX_STREAM_IN_FLIGHT, MAX_STREAM_UNREAD_RESULTS,
    },
    publish::{Incoming, PendingBatch, PendingMessages},
    services::Services,
};

/// The answers to requests that were handed over together.
type Answers = Vec<Result<PublishStreamResponse, Status>>;

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

impl InFlight {
    /// How many results it will have.
    fn results(&self) -> usize {
        match self {
            InFlight::Messages { counts, .. } | InFlight::RefusedMessages { counts, .. } => {
                counts.iter().sum()
            }
            InFlight::Batch { .. } | InFlight::RefusedBatch { .. } | InFlight::End(_) => 1,
        }
    }

    /// Waits for the partitions and says what they said.
    async fn answers(self) -> Answers {
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
                    let count = count.clamp(1, MAX_MESSAGES_PER_REQUEST);
                    Ok(results(request, vec![refused.clone(); count]))
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

/// What a look at the stream gives: a request, its end, or why it broke.
type Read = Result<Option<PublishStreamRequest>, Status>;

/// The half of a publish stream that reads.
pub(super) struct Intake {
    services: Arc<Services>,
    requests: Streaming<PublishStreamRequest>,
    /// Read, but not looked at yet.
    ahead: Option<Read>,
    topic: String,
    /// Number of the next request.
    number: u64,
    in_flight: mpsc::Sender<(InFlight, OwnedSemaphorePermit)>,
    /// Results that may wait for a client that does not read them.
    unread: Arc<Semaphore>,
}

impl Intake {
    /// Begins to read; the answers come request by request.
    pub(super) fn start(
        services: Arc<Services>,
        requests: Streaming<PublishStreamRequest>,
    ) -> impl Stream<Item = Result<PublishStreamResponse, Status>> {
        let (in_flight, handed_over) = mpsc::channel(MAX_STREAM_IN_FLIGHT);
        let intake = Intake {
            services,
            requests,
            ahead: None,
            topic: String::new(),
            number: 0,
            in_flight,
            unread: Arc::new(Semaphore::new(MAX_STREAM_UNREAD_RESULTS)),
        };
        tokio::spawn(intake.run());
        let answers = ReceiverStream::new(handed_over)
            .then(|(in_flight, permit)| async { (in_flight.answers().await, permit) });
        answers.flat_map(|(answers, permit)| {
            // The permit is given back when the last of them is taken.
            stream::iter(answers.into_iter().inspect(move |_| {
                let _ = &permit;
            }))
        })
    }

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
            if !self.hand_over(handed_over).await {
                return;
            }
        };
        self.hand_over(InFlight::End(end)).await;
    }

    /// Queues what will be answered, once there is room for its results; false if the client is
    /// gone.
    async fn hand_over(&self, in_flight: InFlight) -> bool {
        let results = in_flight.results().clamp(1, MAX_STREAM_UNREAD_RESULTS);
        let results = u32::try_from(results).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            permit = self.unread.clone().acquire_many_owned(results) => permit,
            () = self.in_flight.closed() => return false,
        };
        match permit {
            Ok(permit) => self.in_flight.send((in_flight, permit)).await.is_ok(),
            // It is never closed.
            Err(_) => false,
        }
    }

    /// The next request; `None` when the client has closed its side or is gone.
    async fn next(&mut self) -> Result<Option<Kind>, Status> {
        let request = match self.ahead.take() {
            Some(ahead) => ahead?,
            None => tokio::select! {
                request = self.requests.message() => request?,
                () = self.services.drained() => return Err(status(&Refusal::Draining)),
                () = self.in_flight.closed() => return Ok(None),
            },
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
            .map(|incoming| incoming.record.bound())
            .sum();
        while bytes < BATCH_BYTES && counts.len() < MAX_STREAM_IN_FLIGHT {
            let Some(read) = self.requests.message().now_or_never() else {
                return;
            };
            let more = match read {
                Ok(Some(PublishStreamRequest {
                    kind: Some(Kind::Messages(more)),
                })) if self.joins(&more, topic, messages.len()) => more,
                other => {
                    self.ahead = Some(other);
                    return;
                }
            };
            counts.push(more.messages.len());
            for message in more.messages {
                let incoming = decode_message(message);
                bytes += incoming.record.bound();
                messages.push(incoming);
            }
        }
    }

    /// Whether messages may be handed over together with so many others for this topic.
    fn joins(&self, more: &PublishMessages, topic: &str, others: usize) -> bool {
        more.expected_offset.is_none()
            && self.topic_of(&more.topic) == topic
            && others + more.messages.len() <= MAX_MESSAGES_PER_REQUEST
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use aqueduct_proto::v1::publish_stream_response;

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
