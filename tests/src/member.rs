//! A member of a consumer group over raw gRPC: says exactly what a test tells it to.
//!
//! It notes what it is told (assignments with their epochs, records by partition) and asserts
//! what every member may rely on: records come only for partitions that it has, in order and
//! without a gap from the assigned position on.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_proto::v1::{
    Assignment, CommitResult, Commits, ConsumeOpen, ConsumeRequest, ConsumeResponse, Credit,
    Heartbeat, PartitionCommit, Released, consume_request, consume_response::Kind,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use crate::{grpc::Api, process::PATIENCE};

/// A member on a stream.
pub struct Member {
    /// What the broker calls it.
    pub id: String,
    /// The group was created by this member.
    pub created: bool,
    /// Partitions it has now.
    pub assigned: BTreeMap<u32, Assignment>,
    /// Partitions that were asked back and are not released.
    pub revoking: Vec<u32>,
    /// Next offset of each partition that it has.
    pub next: BTreeMap<u32, u64>,
    /// Everything that was delivered, in order.
    pub seen: Vec<(u32, u64)>,
    /// Why partitions were lost.
    pub lost: Vec<(u32, String)>,
    /// Answers to commits.
    pub results: Vec<Vec<CommitResult>>,
    /// Partitions said to have caught up.
    pub caught_up: Vec<u32>,
    /// Release at once what is asked back.
    pub obedient: bool,
    requests: Option<mpsc::Sender<ConsumeRequest>>,
    answers: Streaming<ConsumeResponse>,
}

/// To open a stream with decoded records.
#[must_use]
pub fn open(topic: &str, group: &str) -> ConsumeOpen {
    ConsumeOpen {
        topic: topic.to_owned(),
        group: group.to_owned(),
        ..ConsumeOpen::default()
    }
}

impl Member {
    /// Joins, with credit for everything.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn join(api: &Api, opening: ConsumeOpen) -> Member {
        let member = Member::try_join(api, opening).await.unwrap();
        member.credit(1 << 40, 1 << 50).await;
        member
    }

    /// Joins, without any credit.
    ///
    /// # Errors
    /// The refusal.
    ///
    /// # Panics
    /// If the broker does not say first that the stream is open.
    pub async fn try_join(api: &Api, opening: ConsumeOpen) -> Result<Member, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let kind = Some(consume_request::Kind::Open(opening));
        sender.send(ConsumeRequest { kind }).await.unwrap();
        let requests = ReceiverStream::new(receiver);
        let answers = api.consumer.clone().consume(requests).await?;
        let mut answers = answers.into_inner();
        let first = answers.next().await.expect("an answer")?;
        let Some(Kind::Opened(opened)) = first.kind else {
            panic!("opened comes first, not {first:?}")
        };
        assert!(opened.session_timeout.is_some() && opened.heartbeat_interval.is_some());
        Ok(Member {
            id: opened.member_id,
            created: opened.created,
            assigned: BTreeMap::new(),
            revoking: Vec::new(),
            next: BTreeMap::new(),
            seen: Vec::new(),
            lost: Vec::new(),
            results: Vec::new(),
            caught_up: Vec::new(),
            obedient: true,
            requests: Some(sender),
            answers,
        })
    }

    /// Sends a request; nobody may be there to take it.
    pub async fn send(&self, kind: consume_request::Kind) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(ConsumeRequest { kind: Some(kind) }).await;
        }
    }

    /// Grants more.
    pub async fn credit(&self, messages: u64, bytes: u64) {
        self.send(consume_request::Kind::Credit(Credit { messages, bytes }))
            .await;
    }

    /// Says that it lives.
    pub async fn heartbeat(&self) {
        self.send(consume_request::Kind::Heartbeat(Heartbeat {}))
            .await;
    }

    /// Gives partitions back.
    pub async fn release(&mut self, partitions: Vec<u32>) {
        for partition in &partitions {
            self.assigned.remove(partition);
            self.next.remove(partition);
        }
        self.revoking.retain(|p| !partitions.contains(p));
        self.send(consume_request::Kind::Released(Released { partitions }))
            .await;
    }

    /// Commits and waits for the answer.
    ///
    /// # Panics
    /// If the stream ends before.
    pub async fn commit(&mut self, commits: Vec<(u32, u64, u64)>) -> Vec<CommitResult> {
        let commits = commits
            .into_iter()
            .map(|(partition, epoch, offset)| PartitionCommit {
                partition,
                epoch,
                offset,
            });
        let commits = Commits {
            commits: commits.collect(),
        };
        self.send(consume_request::Kind::Commit(commits)).await;
        let before = self.results.len();
        self.until("commit results", |m| m.results.len() > before)
            .await;
        self.results[before].clone()
    }

    /// Commits everything it was delivered of what it has; all must be taken.
    ///
    /// # Panics
    /// If one is refused.
    pub async fn commit_all(&mut self) {
        let commits = self
            .next
            .iter()
            .filter_map(|(partition, next)| {
                let epoch = self.assigned.get(partition)?.epoch;
                Some((*partition, epoch, *next))
            })
            .collect();
        for result in self.commit(commits).await {
            assert_eq!(result.error, None, "{result:?}");
        }
    }

    /// The epoch of a partition that it has.
    #[must_use]
    pub fn epoch(&self, partition: u32) -> u64 {
        self.assigned[&partition].epoch
    }

    /// The partitions that it has.
    #[must_use]
    pub fn partitions(&self) -> Vec<u32> {
        self.assigned.keys().copied().collect()
    }

    /// Offsets that were delivered of a partition.
    #[must_use]
    pub fn offsets(&self, partition: u32) -> Vec<u64> {
        let of = |(p, offset): &(u32, u64)| (*p == partition).then_some(*offset);
        self.seen.iter().filter_map(of).collect()
    }

    /// Takes one answer.
    ///
    /// # Errors
    /// The status the stream ended with; `None` for a clean end.
    ///
    /// # Panics
    /// If nothing comes for a long time, or the broker breaks a promise.
    pub async fn step(&mut self) -> Result<(), Option<Status>> {
        let next = tokio::time::timeout(PATIENCE, self.answers.next()).await;
        let answer = match next.unwrap_or_else(|_| panic!("{}: nothing comes", self.id)) {
            None => return Err(None),
            Some(Err(status)) => return Err(Some(status)),
            Some(Ok(answer)) => answer,
        };
        self.take(answer.kind.expect("a kind")).await;
        Ok(())
    }

    async fn take(&mut self, kind: Kind) {
        match kind {
            Kind::Assigned(assigned) => {
                for assignment in assigned.assignments {
                    let partition = assignment.partition;
                    self.next.insert(partition, assignment.position);
                    let before = self.assigned.insert(partition, assignment);
                    assert_eq!(before, None, "{}: assigned twice", self.id);
                }
            }
            Kind::Revoking(revoking) => {
                for partition in &revoking.partitions {
                    assert!(self.assigned.contains_key(partition), "not ours");
                }
                self.revoking.extend(&revoking.partitions);
                if self.obedient {
                    self.release(revoking.partitions).await;
                }
            }
            Kind::Lost(lost) => {
                for partition in lost.partitions {
                    self.assigned.remove(&partition);
                    self.next.remove(&partition);
                    self.revoking.retain(|p| *p != partition);
                    self.lost.push((partition, lost.reason.clone()));
                }
            }
            Kind::Records(records) => {
                for record in records.records {
                    let (partition, offset) = (record.partition, record.offset);
                    assert!(!self.revoking.contains(&partition), "after revoking");
                    let next = self.next.get_mut(&partition);
                    let next = next.unwrap_or_else(|| panic!("{partition} is not ours"));
                    assert_eq!(offset, *next, "partition {partition}: a gap or a repeat");
                    *next += 1;
                    self.seen.push((partition, offset));
                }
            }
            Kind::CommitResults(results) => self.results.push(results.results),
            Kind::CaughtUp(caught_up) => self.caught_up.push(caught_up.partition),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Takes answers until that is so.
    ///
    /// # Panics
    /// If the stream ends before.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Member) -> bool) {
        while !is_so(self) {
            if let Err(status) = self.step().await {
                panic!("{}: ended before {what}: {status:?}", self.id);
            }
        }
    }

    /// Takes what comes until nothing has come for a while.
    ///
    /// # Errors
    /// As [`Member::step`].
    pub async fn quiet(&mut self, pause: Duration) -> Result<(), Option<Status>> {
        loop {
            match tokio::time::timeout(pause, self.step()).await {
                Err(_) => return Ok(()),
                Ok(ended) => ended?,
            }
        }
    }

    /// The status the stream ends with.
    ///
    /// # Panics
    /// If it ends in order.
    pub async fn ended(&mut self) -> Status {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(status) => return status.expect("a status"),
            }
        }
    }

    /// Closes its side, and waits for the end of the other.
    ///
    /// # Panics
    /// If that does not end in order.
    pub async fn leave(mut self) {
        self.requests = None;
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(status) => {
                    assert!(status.is_none(), "{status:?}");
                    return;
                }
            }
        }
    }
}
