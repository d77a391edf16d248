//! Clients that go on through kills, and remember what they were told.
//!
//! A writer publishes numbered values `w<writer> <n>` in order and retries whatever has
//! no answer. Two kinds: `Sequenced` sends raw batches with producer sequences, pipelined;
//! `Deduplicated` sends single messages with a dedup id, one at a time. Both must end with
//! each value stored exactly once and in order.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aqueduct_proto::{
    compression::Compression,
    record::BatchBuilder,
    v1::{
        InitProducerRequest, Message, PublishBatch, PublishOpen, PublishRequest,
        PublishStreamRequest, publish_stream_request::Kind, publish_stream_response,
    },
};
use aqueduct_tests::grpc::{Api, message};
use bytes::Bytes;
use rand::{Rng as _, rngs::StdRng};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

/// The topic all writers write to.
pub(crate) const TOPIC: &str = "history";

/// How writers are told to come to an end.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    /// The broker was killed: leave at once, with whatever is unanswered.
    pub(crate) now: Arc<AtomicBool>,
    /// Send nothing new, but see everything answered.
    pub(crate) drain: bool,
}

impl Stop {
    fn is_now(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }
}

/// Connects, or gives up when told to stop.
async fn connect(address: SocketAddr, stop: &Stop) -> Option<Api> {
    while !stop.is_now() {
        if let Ok(api) = Api::try_connect(address).await {
            return Some(api);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

struct Unanswered {
    first: usize,
    count: usize,
    bytes: Bytes,
}

/// Raw batches with sequences, up to 16 in flight.
pub(crate) struct Sequenced {
    pub(crate) number: usize,
    pub(crate) partition: u32,
    producer: i64,
    epoch: i16,
    sent: usize,
    unanswered: VecDeque<Unanswered>,
    /// Offset of each value that was acknowledged, by number.
    pub(crate) acknowledged: Vec<u64>,
    rng: StdRng,
}

impl Sequenced {
    pub(crate) async fn new(api: &mut Api, number: usize, partition: u32, rng: StdRng) -> Self {
        let request = InitProducerRequest {
            name: format!("writer-{number}"),
        };
        let given = api
            .publisher
            .init_producer(request)
            .await
            .unwrap()
            .into_inner();
        Sequenced {
            number,
            partition,
            producer: given.producer_id,
            epoch: i16::try_from(given.epoch).unwrap(),
            sent: 0,
            unanswered: VecDeque::new(),
            acknowledged: Vec::new(),
            rng,
        }
    }

    /// Publishes until stopped.
    pub(crate) async fn run(mut self, address: SocketAddr, stop: Stop) -> Self {
        let done = |writer: &Self| stop.drain && writer.unanswered.is_empty();
        while !stop.is_now() && !done(&self) {
            if let Some(api) = connect(address, &stop).await {
                self.one_stream(api, &stop).await;
            }
        }
        self
    }

    /// One stream until it breaks.
    async fn one_stream(&mut self, mut api: Api, stop: &Stop) {
        let (sender, receiver) = mpsc::channel(64);
        let open = Kind::Open(PublishOpen {
            topic: TOPIC.to_owned(),
        });
        sender
            .try_send(PublishStreamRequest { kind: Some(open) })
            .unwrap();
        for batch in &self.unanswered {
            sender.try_send(self.request(batch.bytes.clone())).unwrap();
        }
        let Ok(answers) = api
            .publisher
            .publish_stream(ReceiverStream::new(receiver))
            .await
        else {
            return;
        };
        let mut answers = answers.into_inner();
        loop {
            while !stop.drain && self.unanswered.len() < 16 {
                let bytes = self.next_batch();
                if sender.try_send(self.request(bytes)).is_err() {
                    return;
                }
            }
            if self.unanswered.is_empty() {
                return;
            }
            let next = tokio::time::timeout(Duration::from_millis(50), answers.next()).await;
            match next {
                Err(_) if stop.is_now() => return,
                Err(_) => {}
                Ok(Some(Ok(answer))) if self.note(answer.kind.as_ref().unwrap()) => {}
                Ok(_) => return,
            }
        }
    }

    fn request(&self, records: Bytes) -> PublishStreamRequest {
        let batch = PublishBatch {
            partition: self.partition,
            records,
            ..Default::default()
        };
        PublishStreamRequest {
            kind: Some(Kind::Batch(batch)),
        }
    }

    fn next_batch(&mut self) -> Bytes {
        let count = self.rng.random_range(1..20);
        let padding = "p".repeat(self.rng.random_range(0..400));
        let mut builder = BatchBuilder::new(Compression::None);
        let sequence = i32::try_from(self.sent).unwrap();
        builder.set_producer(self.producer, self.epoch, sequence);
        for n in self.sent..self.sent + count {
            let value = format!("w{} {n} {padding}", self.number);
            builder.push(0, None, Some(value.as_bytes()), &[]);
        }
        let bytes = builder.finish().unwrap();
        let first = self.sent;
        self.sent += count;
        self.unanswered.push_back(Unanswered {
            first,
            count,
            bytes: bytes.clone(),
        });
        bytes
    }

    /// Notes an answer. False: the broker is going away, and everything unanswered is to be
    /// sent again on another stream.
    fn note(&mut self, answer: &publish_stream_response::Kind) -> bool {
        let publish_stream_response::Kind::Batch(result) = answer else {
            panic!("not a batch result: {answer:?}")
        };
        if let Some(error) = &result.error {
            let unknown = [tonic::Code::Unavailable, tonic::Code::Internal];
            assert!(
                unknown.contains(&tonic::Code::from(error.code)),
                "{error:?}"
            );
            return false;
        }
        let batch = self
            .unanswered
            .pop_front()
            .expect("an answer has a request");
        assert_eq!(
            batch.first,
            self.acknowledged.len(),
            "answers come in order"
        );
        let offsets = (0..batch.count as u64).map(|n| result.base_offset + n);
        self.acknowledged.extend(offsets);
        true
    }
}

/// Single messages with dedup ids.
pub(crate) struct Deduplicated {
    pub(crate) number: usize,
    pub(crate) partition: u32,
    /// Offset of each value that was acknowledged, by number.
    pub(crate) acknowledged: Vec<u64>,
    /// The next value may have been stored already.
    in_doubt: bool,
}

impl Deduplicated {
    pub(crate) fn new(number: usize, partition: u32) -> Self {
        Deduplicated {
            number,
            partition,
            acknowledged: Vec::new(),
            in_doubt: false,
        }
    }

    /// Publishes until stopped.
    pub(crate) async fn run(mut self, address: SocketAddr, stop: Stop) -> Self {
        while !stop.is_now() && (self.in_doubt || !stop.drain) {
            let Some(mut api) = connect(address, &stop).await else {
                break;
            };
            while self.in_doubt || !stop.drain {
                self.in_doubt = true;
                let request = PublishRequest {
                    topic: TOPIC.to_owned(),
                    messages: vec![self.next()],
                    expected_offset: None,
                };
                let Ok(answer) = api.publisher.publish(request).await else {
                    break;
                };
                let result = answer.into_inner().results.remove(0);
                if result.error.is_some() {
                    break;
                }
                self.acknowledged.push(result.offset);
                self.in_doubt = false;
            }
        }
        self
    }

    fn next(&self) -> Message {
        let n = self.acknowledged.len();
        let id = format!("w{} {n}", self.number);
        Message {
            dedup_id: id.clone(),
            ..message(self.partition, format!("{id} "))
        }
    }
}
