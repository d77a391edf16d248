//! A broker in memory, just enough for the client: batches, sequences, reads; and faults on
//! demand: streams that break before or after what they carried was stored.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use aqueduct_proto::{
    batch::{Batch, patch},
    compression::Compression,
    record::BatchBuilder,
    v1::{self, publisher_server::Publisher, reader_server::Reader, topics_server::Topics},
};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
pub(crate) struct Partition {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) next_offset: u64,
    producers: HashMap<i64, Sequences>,
    dedup: HashMap<String, u64>,
}

#[derive(Default)]
struct Sequences {
    next: u64,
    last_offset: u64,
    offsets: HashMap<u64, u64>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, Vec<Partition>>,
    /// Name to id and epoch.
    names: HashMap<String, (i64, i32)>,
    next_id: i64,
}

/// Each counts down with every request or response of a stream; at zero the stream breaks.
/// Negative: off.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) break_before_storing: AtomicI64,
    pub(crate) break_after_storing: AtomicI64,
    pub(crate) break_read: AtomicI64,
    /// So many requests are refused for lack of disk.
    pub(crate) full: AtomicI64,
    pub(crate) streams: AtomicU64,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) faults: Arc<Faults>,
    published: Arc<Notify>,
}

fn fires(counter: &AtomicI64) -> bool {
    counter.fetch_sub(1, Ordering::SeqCst) == 1
}

fn refusal(code: Code, reason: &str, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "aqueduct", HashMap::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, reason, details)
}

fn to_rpc(status: &Status) -> aqueduct_proto::google::rpc::Status {
    let decoded: tonic_types::Status = prost::Message::decode(status.details()).unwrap();
    aqueduct_proto::google::rpc::Status {
        code: decoded.code,
        message: decoded.message,
        details: decoded.details,
    }
}

impl Fake {
    pub(crate) fn topic(self, name: &str, partitions: usize) -> Self {
        let made = (0..partitions).map(|_| Partition::default()).collect();
        self.lock().topics.insert(name.to_owned(), made);
        self
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves until the sender is dropped or sent to.
    pub(crate) async fn serve(&self, address: SocketAddr) -> (SocketAddr, Server) {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        let serving = tonic::transport::Server::builder()
            .add_service(v1::publisher_server::PublisherServer::new(fake.clone()))
            .add_service(v1::reader_server::ReaderServer::new(fake.clone()))
            .add_service(v1::topics_server::TopicsServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener));
        // A runtime of its own: dropping it cuts every connection, like a killed process.
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    result = serving => result.unwrap(),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        (
            address,
            Server {
                stop: Some(stop),
                thread: Some(thread),
            },
        )
    }

    fn store(&self, request: &v1::PublishBatch, topic: &str) -> Result<(u64, bool), Status> {
        let mut state = self.lock();
        let batch = Batch::check(request.records.clone())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let header = *batch.header();
        let epoch = state
            .names
            .values()
            .find(|(id, _)| *id == header.producer_id);
        if epoch.is_some_and(|(_, epoch)| *epoch > i32::from(header.producer_epoch)) {
            return Err(refusal(Code::FailedPrecondition, "PRODUCER_FENCED", None));
        }
        let partitions = state.topics.get_mut(topic);
        let partitions =
            partitions.ok_or_else(|| refusal(Code::NotFound, "TOPIC_NOT_FOUND", None))?;
        let partition = &mut partitions[request.partition as usize];
        if self.faults.full.fetch_sub(1, Ordering::SeqCst) > 0 {
            let retry = Some(Duration::from_millis(5));
            return Err(refusal(Code::ResourceExhausted, "DISK_FULL", retry));
        }
        let sequences = partition.producers.entry(header.producer_id).or_default();
        let sequence = u64::try_from(header.base_sequence).unwrap();
        if let Some(offset) = sequences.offsets.get(&sequence) {
            return Ok((*offset, true));
        }
        if sequence != sequences.next {
            return Err(refusal(Code::FailedPrecondition, "SEQUENCE_GAP", None));
        }
        let base_offset = partition.next_offset;
        sequences.offsets.insert(sequence, base_offset);
        sequences.next += u64::from(batch.count());
        partition.next_offset += u64::from(batch.count());
        sequences.last_offset = partition.next_offset - 1;
        let mut bytes = batch.bytes().to_vec();
        patch(&mut bytes, base_offset, 1);
        partition.batches.push(bytes.into());
        self.published.notify_waiters();
        Ok((base_offset, false))
    }

    fn store_messages(&self, messages: Vec<v1::Message>, topic: &str) -> Vec<v1::PublishResult> {
        let mut state = self.lock();
        let partitions = state.topics.get_mut(topic).unwrap();
        let store = |message: v1::Message| {
            let place = message.partition.unwrap_or(0);
            let partition = &mut partitions[place as usize];
            let known = partition.dedup.get(&message.dedup_id).copied();
            let (offset, duplicate) = (known.unwrap_or(partition.next_offset), known.is_some());
            if !duplicate {
                let mut builder = BatchBuilder::new(Compression::None);
                builder.push(0, message.key.as_deref(), message.value.as_deref(), &[]);
                let mut bytes = builder.finish().unwrap().to_vec();
                patch(&mut bytes, offset, 1);
                partition.batches.push(bytes.into());
                partition.next_offset += 1;
            }
            if !message.dedup_id.is_empty() {
                partition.dedup.insert(message.dedup_id, offset);
            }
            v1::PublishResult {
                partition: place,
                offset,
                duplicate,
                error: None,
            }
        };
        let results = messages.into_iter().map(store).collect();
        self.published.notify_waiters();
        results
    }

    async fn publish_loop(
        self,
        mut requests: Streaming<v1::PublishStreamRequest>,
        answers: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
    ) {
        use v1::publish_stream_request::Kind as Asked;
        use v1::publish_stream_response::Kind;
        let (mut topic, mut request) = (String::new(), 0);
        self.faults.streams.fetch_add(1, Ordering::SeqCst);
        while let Ok(Some(asked)) = requests.message().await {
            let kind = match asked.kind.unwrap() {
                Asked::Open(open) => {
                    topic = open.topic;
                    continue;
                }
                _ if fires(&self.faults.break_before_storing) => {
                    let _ = answers.send(Err(Status::unavailable("broken"))).await;
                    return;
                }
                Asked::Batch(batch) => {
                    let mut result = v1::BatchResult {
                        partition: batch.partition,
                        ..Default::default()
                    };
                    match self.store(&batch, &topic) {
                        Ok((offset, twice)) => {
                            (result.base_offset, result.duplicate) = (offset, twice);
                        }
                        Err(status) => result.error = Some(to_rpc(&status)),
                    }
                    Kind::Batch(result)
                }
                Asked::Messages(messages) => {
                    let results = self.store_messages(messages.messages, &topic);
                    Kind::Results(v1::PublishResponse { results })
                }
            };
            if fires(&self.faults.break_after_storing) {
                let _ = answers.send(Err(Status::unavailable("broken"))).await;
                return;
            }
            let answer = v1::PublishStreamResponse {
                request,
                kind: Some(kind),
            };
            request += 1;
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }

    fn ranges(&self, request: &v1::ReadRequest) -> Vec<v1::ReadRange> {
        use v1::position::Kind as At;
        let mut ranges = Vec::new();
        for (number, partition) in (0..).zip(&self.lock().topics[&request.topic]) {
            let at = |position: &Option<v1::Position>, default: u64| {
                let kind = position
                    .as_ref()
                    .and_then(|position| position.kind.as_ref());
                match kind {
                    Some(At::Offset(offset)) => *offset,
                    Some(At::End(_)) => partition.next_offset,
                    Some(At::Start(_)) => 0,
                    _ => default,
                }
            };
            let until = at(&request.until, partition.next_offset);
            let endless = request.follow && request.until.is_none();
            let from = at(&request.from, 0);
            if request.partitions.is_empty() || request.partitions.contains(&number) {
                let until = (!endless).then_some(until);
                ranges.push(v1::ReadRange {
                    partition: number,
                    from,
                    until,
                });
            }
        }
        ranges
    }

    async fn read_loop(
        self,
        request: v1::ReadRequest,
        answers: mpsc::Sender<Result<v1::ReadResponse, Status>>,
    ) -> Option<()> {
        use v1::read_response::Kind;
        let mut ranges = self.ranges(&request);
        let opened = v1::ReadOpened {
            ranges: ranges.clone(),
        };
        let mut queue = vec![Kind::Opened(opened)];
        loop {
            let published = self.published.notified();
            let mut open = false;
            for range in &mut ranges {
                let state = self.lock();
                let partition = &state.topics[&request.topic][range.partition as usize];
                let end = partition.next_offset.min(range.until.unwrap_or(u64::MAX));
                for bytes in &partition.batches {
                    let batch = Batch::check(bytes.clone()).unwrap();
                    let first = u64::try_from(batch.header().base_offset).unwrap();
                    let last = first + u64::from(batch.count()) - 1;
                    if last >= range.from && first < end {
                        range.from = last + 1;
                        let batches = vec![bytes.clone()];
                        let high_watermark = partition.next_offset;
                        let partition = range.partition;
                        queue.push(Kind::Batches(v1::Batches {
                            partition,
                            batches,
                            high_watermark,
                        }));
                    }
                }
                let done = range.until.is_some_and(|until| range.from >= until);
                open |= !done;
                let next_offset = range.from.min(range.until.unwrap_or(u64::MAX));
                let partition = range.partition;
                queue.push(Kind::CaughtUp(v1::CaughtUp {
                    partition,
                    next_offset,
                    done,
                }));
            }
            for kind in queue.drain(..) {
                let broken = fires(&self.faults.break_read);
                let answer = if broken {
                    Err(Status::unavailable("broken"))
                } else {
                    Ok(v1::ReadResponse { kind: Some(kind) })
                };
                answers.send(answer).await.ok()?;
                if broken {
                    return None;
                }
            }
            if !open {
                return None;
            }
            published.await;
        }
    }
}

pub(crate) struct Server {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[tonic::async_trait]
impl Publisher for Fake {
    type PublishStreamStream = Answers<v1::PublishStreamResponse>;

    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        let request = request.into_inner();
        if !self.lock().topics.contains_key(&request.topic) {
            return Err(refusal(Code::NotFound, "TOPIC_NOT_FOUND", None));
        }
        let results = self.store_messages(request.messages, &request.topic);
        Ok(Response::new(v1::PublishResponse { results }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (answers, stream) = mpsc::channel(1024);
        tokio::spawn(self.clone().publish_loop(request.into_inner(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut state = self.lock();
        let name = request.into_inner().name;
        let fresh = (state.next_id, -1);
        let (producer_id, epoch) = state.names.get(&name).copied().unwrap_or(fresh);
        state.next_id += i64::from(epoch == -1);
        if !name.is_empty() {
            state.names.insert(name, (producer_id, epoch + 1));
        }
        Ok(Response::new(v1::InitProducerResponse {
            producer_id,
            epoch: epoch + 1,
        }))
    }

    async fn get_producer(
        &self,
        request: Request<v1::GetProducerRequest>,
    ) -> Result<Response<v1::GetProducerResponse>, Status> {
        let state = self.lock();
        let request = request.into_inner();
        let (producer_id, epoch) = state.names[&request.name];
        let mut partitions = Vec::new();
        for (partition, stored) in (0..).zip(&state.topics[&request.topic]) {
            if let Some(sequences) = stored.producers.get(&producer_id) {
                let (next_sequence, last_offset) = (sequences.next, sequences.last_offset);
                partitions.push(v1::ProducerPosition {
                    partition,
                    next_sequence,
                    last_offset,
                });
            }
        }
        Ok(Response::new(v1::GetProducerResponse {
            producer_id,
            epoch,
            partitions,
        }))
    }
}

#[tonic::async_trait]
impl Reader for Fake {
    type ReadStream = Answers<v1::ReadResponse>;
    type ReadStreamStream = Answers<v1::ReadResponse>;

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (answers, stream) = mpsc::channel(4);
        let reading = self.clone().read_loop(request.into_inner(), answers);
        tokio::spawn(reading);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn read_stream(
        &self,
        request: Request<Streaming<v1::ReadStreamRequest>>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        use v1::read_stream_request::Kind;
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.kind);
        let Some(Kind::Open(open)) = first else {
            return Err(Status::invalid_argument("open first"));
        };
        let (answers, stream) = mpsc::channel(4);
        tokio::spawn(async move { while let Ok(Some(_)) = requests.message().await {} });
        tokio::spawn(self.clone().read_loop(open, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_offsets(
        &self,
        _: Request<v1::GetOffsetsRequest>,
    ) -> Result<Response<v1::GetOffsetsResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn get_message(
        &self,
        _: Request<v1::GetMessageRequest>,
    ) -> Result<Response<v1::Record>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}

#[tonic::async_trait]
impl Topics for Fake {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let topic = request.into_inner().topic.unwrap();
        let partitions = (0..topic.partitions)
            .map(|_| Partition::default())
            .collect();
        self.lock().topics.insert(topic.name.clone(), partitions);
        Ok(Response::new(topic))
    }

    async fn get_topic(
        &self,
        request: Request<v1::GetTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        let name = request.into_inner().name;
        let state = self.lock();
        let topic = state.topics.get(&name);
        let topic = topic.ok_or_else(|| refusal(Code::NotFound, "TOPIC_NOT_FOUND", None))?;
        let partitions = u32::try_from(topic.len()).unwrap();
        Ok(Response::new(v1::Topic {
            name,
            partitions,
            ..Default::default()
        }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        // One topic a page, so that following pages is tried.
        let token = request.into_inner().page_token;
        let state = self.lock();
        let mut names = state.topics.keys().filter(|name| **name > token);
        let topics = names.next().map(|name| v1::Topic {
            name: name.clone(),
            ..Default::default()
        });
        let more = names.next().is_some();
        let last = topics.as_ref().map(|topic| topic.name.clone());
        let next_page_token = last.filter(|_| more).unwrap_or_default();
        let topics = topics.into_iter().collect();
        Ok(Response::new(v1::ListTopicsResponse {
            topics,
            next_page_token,
        }))
    }

    async fn update_topic(
        &self,
        _: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::Topic>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn trim_topic(
        &self,
        _: Request<v1::TrimTopicRequest>,
    ) -> Result<Response<v1::TrimTopicResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn list_partitions(
        &self,
        _: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<v1::ListPartitionsResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}
