//! `aqueduct.v1.Consumer`.

use std::{pin::Pin, sync::Arc, time::Duration};

use aqueduct_proto::v1::{
    self, Assigned, CommitRequest, CommitResponse, CommitResult, CommitResults, ConsumeOpen,
    ConsumeOpened, ConsumeRequest, ConsumeResponse, LeaveRequest, LeaveResponse, Lost,
    PartitionCommit, PullRequest, PullResponse, Revoking, SkippedRange, consume_request,
    consume_response::Kind,
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    groups::decode_policy,
    reader::{encode_event, encode_record},
    status::{duration_ms, embedded, status},
    topics::encode_duration,
};
use crate::{
    error::Refusal,
    groups::{
        commit::{CommitWish, Committed},
        member::{Deliveries, JoinSpec, Opened, Requests},
        pull::PullSpec,
        session::Happening,
        terms::{Assignment, Joining},
    },
    limits::{
        DEFAULT_PULL_BYTES, DEFAULT_PULL_MESSAGES, MAX_PULL_BYTES, MAX_PULL_MESSAGES, MAX_PULL_WAIT,
    },
    metadata::groups::StartAt,
    services::{Peer, Services},
};

pub(super) struct Consumer(Arc<Services>);

impl Consumer {
    pub(super) fn new(services: Arc<Services>) -> Consumer {
        Consumer(services)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ConsumeResponse, Status>> + Send>>;

/// The next answer, and the deliveries if they go on.
async fn next_answer(
    mut deliveries: Deliveries,
    services: &Services,
) -> Option<(Result<ConsumeResponse, Status>, Option<Deliveries>)> {
    let happening = tokio::select! {
        biased;
        happening = deliveries.next() => happening,
        () = services.drained() => Err(Refusal::Draining),
    };
    match happening {
        Ok(Some(happening)) => Some((Ok(answer(encode(happening))), Some(deliveries))),
        Ok(None) => None,
        Err(refusal) => Some((Err(status(&refusal)), None)),
    }
}

fn answer(kind: Kind) -> ConsumeResponse {
    ConsumeResponse { kind: Some(kind) }
}

fn encode(happening: Happening) -> Kind {
    match happening {
        Happening::Assigned(assignments) => Kind::Assigned(Assigned {
            assignments: assignments.into_iter().map(encode_assignment).collect(),
        }),
        Happening::Revoking {
            partitions,
            deadline_ms,
        } => Kind::Revoking(Revoking {
            partitions,
            deadline: Some(encode_duration(deadline_ms)),
        }),
        Happening::Lost { partitions, reason } => Kind::Lost(Lost {
            partitions,
            reason: reason.name().to_owned(),
        }),
        Happening::Delivered(event) => match encode_event(event) {
            v1::read_response::Kind::Records(records) => Kind::Records(records),
            v1::read_response::Kind::Batches(batches) => Kind::Batches(batches),
            v1::read_response::Kind::CaughtUp(caught_up) => Kind::CaughtUp(caught_up),
            v1::read_response::Kind::Opened(_) => Kind::Records(v1::Records::default()),
        },
        Happening::Committed(committed) => Kind::CommitResults(CommitResults {
            results: committed.into_iter().map(encode_committed).collect(),
        }),
    }
}

fn encode_assignment(assignment: Assignment) -> v1::Assignment {
    let skipped = assignment.skipped;
    v1::Assignment {
        partition: assignment.partition,
        epoch: assignment.epoch,
        position: assignment.position,
        skipped: skipped.map(|(from, to)| SkippedRange { from, to }),
    }
}

fn encode_committed(committed: Committed) -> CommitResult {
    CommitResult {
        partition: committed.partition,
        position: committed.position,
        error: committed.refusal.as_ref().map(embedded),
    }
}

fn encode_opened(opened: Opened) -> ConsumeOpened {
    ConsumeOpened {
        member_id: opened.member_id,
        created: opened.created,
        heartbeat_interval: Some(encode_duration(opened.session_ms / 3)),
        session_timeout: Some(encode_duration(opened.session_ms)),
    }
}

fn decode_commits(commits: Vec<PartitionCommit>) -> Vec<CommitWish> {
    let wish = |commit: PartitionCommit| CommitWish {
        partition: commit.partition,
        epoch: commit.epoch,
        offset: commit.offset,
    };
    commits.into_iter().map(wish).collect()
}

/// Where the caller comes from, if the accept loop says so.
pub(super) fn address_of<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<Peer>();
    peer.map_or_else(String::new, |Peer(address)| address.to_string())
}

fn decode_open(open: ConsumeOpen, address: String) -> Result<(JoinSpec, bool), Refusal> {
    let start = decode_policy("open.start", open.start)?;
    let joining = Joining {
        member_id: open.member_id,
        is_new: false,
        instance_id: open.instance_id,
        client_id: open.client_id,
        address,
        pulls: false,
    };
    let spec = JoinSpec {
        topic: open.topic,
        group: open.group,
        joining,
        start: start.unwrap_or(StartAt::Earliest),
        must_exist: open.must_exist,
    };
    Ok((spec, open.raw))
}

fn decode_pull(request: &PullRequest) -> Result<PullSpec, Refusal> {
    let max_messages = match request.max_messages {
        0 => DEFAULT_PULL_MESSAGES,
        count if count <= MAX_PULL_MESSAGES => count,
        count => {
            let why = format!("{count} is above the limit of {MAX_PULL_MESSAGES}");
            return Err(Refusal::invalid("max_messages", why));
        }
    };
    let max_bytes = match request.max_bytes {
        0 => DEFAULT_PULL_BYTES,
        bytes if bytes <= MAX_PULL_BYTES => bytes,
        bytes => {
            let why = format!("{bytes} is above the limit of {MAX_PULL_BYTES}");
            return Err(Refusal::invalid("max_bytes", why));
        }
    };
    let wait_ms = request
        .wait
        .map_or(Ok(0), |wait| duration_ms("wait", wait))?;
    let wait = Duration::from_millis(wait_ms);
    if wait > MAX_PULL_WAIT {
        let why = format!("{wait:?} is above the limit of {MAX_PULL_WAIT:?}");
        return Err(Refusal::invalid("wait", why));
    }
    Ok(PullSpec {
        max_messages: u64::from(max_messages),
        max_bytes,
        wait,
        received: request.received,
    })
}

/// Carries a member's requests out until it closes its side or is gone.
async fn take_requests(mut stream: Streaming<ConsumeRequest>, requests: Requests) {
    loop {
        match stream.message().await {
            Ok(Some(request)) => {
                requests.touch();
                take_request(request, &requests).await;
            }
            Ok(None) => return requests.close().await,
            // The stream broke; the end of the deliveries says so.
            Err(_) => return,
        }
    }
}

async fn take_request(request: ConsumeRequest, requests: &Requests) {
    match request.kind {
        Some(consume_request::Kind::Credit(more)) => {
            requests.add_credit(more.messages, more.bytes);
        }
        Some(consume_request::Kind::Commit(commits)) => {
            requests.commit(decode_commits(commits.commits)).await;
        }
        Some(consume_request::Kind::Released(released)) => {
            requests.release(released.partitions).await;
        }
        // A second open changes nothing.
        Some(consume_request::Kind::Heartbeat(_) | consume_request::Kind::Open(_)) | None => {}
    }
}

#[tonic::async_trait]
impl v1::consumer_server::Consumer for Consumer {
    type ConsumeStream = Answers;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let address = address_of(&request);
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|request| request.kind);
        let Some(consume_request::Kind::Open(open)) = first else {
            let why = "the first message of the stream must be open";
            return Err(status(&Refusal::invalid("open", why)));
        };
        let (spec, raw) = decode_open(open, address).map_err(|r| status(&r))?;
        let joined = self.0.join(spec, raw).await;
        let (opened, deliveries, requests) = joined.map_err(|r| status(&r))?;
        tokio::spawn(take_requests(stream, requests));
        let first = stream::iter([Ok(answer(Kind::Opened(encode_opened(opened))))]);
        let services = self.0.clone();
        let rest = stream::unfold(Some(deliveries), move |deliveries| {
            let services = services.clone();
            async move { next_answer(deliveries?, &services).await }
        });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<PullResponse>, Status> {
        let address = address_of(&request);
        let request = request.into_inner();
        let pull = decode_pull(&request).map_err(|r| status(&r))?;
        let start = decode_policy("start", request.start).map_err(|r| status(&r))?;
        let joining = Joining {
            member_id: request.member_id,
            is_new: false,
            instance_id: request.instance_id,
            client_id: request.client_id,
            address,
            pulls: true,
        };
        let spec = JoinSpec {
            topic: request.topic,
            group: request.group,
            joining,
            start: start.unwrap_or(StartAt::Earliest),
            must_exist: request.must_exist,
        };
        let commits = decode_commits(request.commits);
        let pulled = self.0.pull(spec, commits, pull).await;
        let (member_id, committed, pulled) = pulled.map_err(|r| status(&r))?;
        let records = pulled.records.into_iter().flat_map(|(partition, records)| {
            let encode = move |record| encode_record(partition, record);
            records.into_iter().map(encode)
        });
        Ok(Response::new(PullResponse {
            member_id,
            records: records.collect(),
            assignments: pulled
                .assignments
                .into_iter()
                .map(encode_assignment)
                .collect(),
            commit_results: committed.into_iter().map(encode_committed).collect(),
            answer: pulled.answer,
        }))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        let request = request.into_inner();
        let wishes = decode_commits(request.commits);
        let names = (request.topic.as_str(), request.group.as_str());
        let committed = self.0.commit(names, request.member_id, wishes).await;
        let committed = committed.map_err(|r| status(&r))?;
        Ok(Response::new(CommitResponse {
            results: committed.into_iter().map(encode_committed).collect(),
        }))
    }

    async fn leave(
        &self,
        request: Request<LeaveRequest>,
    ) -> Result<Response<LeaveResponse>, Status> {
        let LeaveRequest {
            topic,
            group,
            member_id,
        } = request.into_inner();
        let left = self.0.leave(&topic, &group, member_id).await;
        left.map_err(|r| status(&r))?;
        Ok(Response::new(LeaveResponse {}))
    }
}
