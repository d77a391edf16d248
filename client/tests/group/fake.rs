//! A broker whose part the test itself plays: every `Consume` call is handed to it.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use aqueduct_proto::{
    batch::patch,
    compression::Compression,
    record::BatchBuilder,
    v1::{
        self, consume_request::Kind as Asked, consume_response::Kind, consumer_server::Consumer,
        consumer_server::ConsumerServer,
    },
};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ConsumeResponse, Status>> + Send>>;

/// One call of the client, as the broker sees it.
pub(crate) struct Call {
    pub(crate) open: v1::ConsumeOpen,
    requests: Streaming<v1::ConsumeRequest>,
    answers: mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
}

impl Call {
    pub(crate) async fn say(&self, kind: Kind) {
        let answer = v1::ConsumeResponse { kind: Some(kind) };
        self.answers.send(Ok(answer)).await.unwrap();
    }

    pub(crate) async fn greet(&self, member_id: &str, heartbeat: Duration) {
        let heartbeat = prost_types::Duration::try_from(heartbeat).unwrap();
        self.say(Kind::Opened(v1::ConsumeOpened {
            member_id: member_id.to_owned(),
            created: true,
            heartbeat_interval: Some(heartbeat),
            session_timeout: None,
        }))
        .await;
    }

    pub(crate) async fn assign(&self, partition: u32, epoch: u64, position: u64) {
        let assignment = v1::Assignment {
            partition,
            epoch,
            position,
            skipped: None,
        };
        let assignments = vec![assignment];
        self.say(Kind::Assigned(v1::Assigned { assignments })).await;
    }

    /// A batch whose values are its offsets.
    pub(crate) async fn deliver(&self, partition: u32, offsets: std::ops::Range<u64>) {
        let batches = vec![batch(offsets)];
        self.say(Kind::Batches(v1::Batches {
            partition,
            batches,
            high_watermark: 0,
        }))
        .await;
    }

    pub(crate) async fn revoke(&self, partition: u32, deadline_seconds: i64) {
        let deadline = prost_types::Duration {
            seconds: deadline_seconds,
            nanos: 0,
        };
        self.say(Kind::Revoking(v1::Revoking {
            partitions: vec![partition],
            deadline: Some(deadline),
        }))
        .await;
    }

    /// The next request that is neither credit nor heartbeat; `None` when the client has left.
    pub(crate) async fn asked(&mut self) -> Option<Asked> {
        loop {
            match self.any().await? {
                Asked::Credit(_) | Asked::Heartbeat(_) => {}
                kind => return Some(kind),
            }
        }
    }

    /// The next request of any kind.
    pub(crate) async fn any(&mut self) -> Option<Asked> {
        let asked = tokio::time::timeout(PATIENCE, self.requests.message()).await;
        match asked.expect("the client says something") {
            Ok(asked) => asked.map(|request| request.kind.unwrap()),
            Err(_) => None,
        }
    }

    /// Expects commits; partition, epoch and offset of each.
    pub(crate) async fn commits(&mut self) -> Vec<(u32, u64, u64)> {
        match self.asked().await {
            Some(Asked::Commit(commits)) => commits
                .commits
                .iter()
                .map(|commit| (commit.partition, commit.epoch, commit.offset))
                .collect(),
            other => panic!("expected commits: {other:?}"),
        }
    }

    /// Expects commits and grants them.
    pub(crate) async fn grant(&mut self) -> Vec<(u32, u64, u64)> {
        let commits = self.commits().await;
        let results = commits
            .iter()
            .map(|(partition, _, offset)| v1::CommitResult {
                partition: *partition,
                position: *offset,
                error: None,
            });
        let results = results.collect();
        self.say(Kind::CommitResults(v1::CommitResults { results }))
            .await;
        commits
    }

    pub(crate) async fn fail(self, status: Status) {
        self.answers.send(Err(status)).await.unwrap();
    }
}

fn batch(offsets: std::ops::Range<u64>) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for offset in offsets.clone() {
        builder.push(0, None, Some(offset.to_string().as_bytes()), &[]);
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    patch(&mut bytes, offsets.start, 1);
    bytes.into()
}

/// Where calls arrive.
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, calls) = mpsc::unbounded_channel();
        let serving = tonic::transport::Server::builder()
            .add_service(ConsumerServer::new(Door { arrived }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { address, calls }
    }

    /// The next call, with its first request read.
    pub(crate) async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        call.expect("the client calls").unwrap()
    }
}

struct Door {
    arrived: mpsc::UnboundedSender<Call>,
}

#[tonic::async_trait]
impl Consumer for Door {
    type ConsumeStream = Answers;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.kind);
        let Some(Asked::Open(open)) = first else {
            return Err(Status::invalid_argument("open first"));
        };
        let (answers, stream) = mpsc::channel(64);
        let call = Call {
            open,
            requests,
            answers,
        };
        self.arrived.send(call).ok();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn pull(
        &self,
        _: Request<v1::PullRequest>,
    ) -> Result<Response<v1::PullResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn commit(
        &self,
        _: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveResponse>, Status> {
        Err(Status::unimplemented("not faked"))
    }
}
