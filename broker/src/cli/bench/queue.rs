//! Working a queue off: publish, lease, acknowledge, with everything synced.
//!
//! Consumers acknowledge each delivery as a whole as soon as it is there, and give back as much
//! credit. The time runs until everything that was published is acknowledged. With `--unary` one
//! job goes at a time: the next is published when the one before is acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aqueduct_client::Message;
use aqueduct_proto::v1::{
    self, WorkRequest, queues_client::QueuesClient, settlement::Verdict, work_request,
    work_response,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::{
    Clients, Measured, Plan,
    latency::{Latency, Values, stamp},
    publish,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// Messages that a consumer may hold.
const CREDIT: u64 = 10_000;
const CREDIT_BYTES: u64 = 64 << 20;
/// The largest answer that is taken.
const ANSWER_BYTES: usize = 64 << 20;

/// What only this workload tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extra {
    consumers: u32,
    keys: u32,
    settles: u64,
}

impl Extra {
    pub(super) fn json(&self) -> Value {
        json!({ "consumers": self.consumers, "keys": self.keys, "settles": self.settles })
    }

    pub(super) fn text(&self) -> String {
        let order = match self.keys {
            0 => "no order".to_owned(),
            keys => format!("order per key, {keys} keys"),
        };
        let (consumers, settles) = (self.consumers, self.settles);
        format!("{consumers} consumers, {order}, acknowledged in {settles} requests")
    }
}

/// Runs the workload.
pub(super) async fn run(plan: &Plan, clients: &Clients) -> anyhow::Result<(Measured, Extra)> {
    let team = Team::open(plan, clients).await?;
    let mut measured = if plan.unary {
        team.one_at_a_time(clients).await?
    } else {
        let start = Instant::now();
        let mut measured = publish::run(plan, clients).await?;
        team.wait_for(measured.messages).await?;
        measured.elapsed = start.elapsed();
        measured
    };
    let (latency, settles) = team.close(clients).await?;
    measured.end_to_end = plan.stamped.then_some(latency);
    let extra = Extra {
        consumers: plan.members,
        keys: plan.keys,
        settles,
    };
    Ok((measured, extra))
}

/// What all consumers add to.
#[derive(Default)]
struct Done {
    acknowledged: AtomicU64,
    more: Notify,
}

struct Team {
    plan: Plan,
    done: Arc<Done>,
    tasks: Vec<JoinHandle<anyhow::Result<(Latency, u64)>>>,
    /// Dropped at the end: then consumers close their side.
    running: Vec<mpsc::Sender<()>>,
}

impl Team {
    async fn open(plan: &Plan, clients: &Clients) -> anyhow::Result<Team> {
        let mut groups = v1::groups_client::GroupsClient::new(clients.channel().await?);
        let order = match plan.keys {
            0 => v1::QueueOrder::Unspecified,
            _ => v1::QueueOrder::PerKey,
        };
        let policy = v1::QueuePolicy {
            order: order.into(),
            ..v1::QueuePolicy::default()
        };
        let group = v1::Group {
            name: plan.group.clone(),
            queue: Some(policy),
            ..v1::Group::default()
        };
        let request = v1::CreateGroupRequest {
            topic: plan.topic.clone(),
            group: Some(group),
            validate_only: false,
        };
        groups.create_group(request).await?;
        let mut team = Team {
            plan: plan.clone(),
            done: Arc::default(),
            tasks: Vec::new(),
            running: Vec::new(),
        };
        for _ in 0..plan.members {
            let worker = Worker::open(plan, clients, team.done.clone()).await?;
            let (running, over) = mpsc::channel(1);
            team.running.push(running);
            team.tasks.push(tokio::spawn(worker.run(over)));
        }
        Ok(team)
    }

    async fn wait_for(&self, messages: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let acknowledged = self.done.acknowledged.load(Ordering::Relaxed);
            if acknowledged >= messages {
                return Ok(());
            }
            if acknowledged > last {
                (last, since) = (acknowledged, Instant::now());
            }
            ensure!(
                since.elapsed() < PATIENCE,
                "{acknowledged} of {messages} messages were acknowledged, then none"
            );
            ensure!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "a consumer ended early"
            );
            // Not every wait is woken: a consumer may have ended.
            let _ =
                tokio::time::timeout(Duration::from_millis(100), self.done.more.notified()).await;
        }
    }

    async fn one_at_a_time(&self, clients: &Clients) -> anyhow::Result<Measured> {
        let plan = &self.plan;
        let client = clients.one().await?;
        let mut values = Values::new(plan.size);
        let (start, mut latency, mut sent) = (Instant::now(), Latency::new(), 0);
        while sent < plan.count && plan.duration.is_none_or(|most| start.elapsed() < most) {
            let since = Instant::now();
            let nanos = u64::try_from((since - plan.epoch).as_nanos()).unwrap_or(u64::MAX);
            let message = Message::new(values.stamped(nanos.max(1))).partition(0);
            for result in client.publish(&plan.topic, vec![message], None).await {
                result?;
            }
            latency.record(since.elapsed(), 1);
            sent += 1;
            self.wait_for(sent).await?;
        }
        Ok(Measured {
            messages: sent,
            elapsed: start.elapsed(),
            latency: Some(latency),
            end_to_end: None,
        })
    }

    /// Ends everybody and forgets the group.
    async fn close(mut self, clients: &Clients) -> anyhow::Result<(Latency, u64)> {
        self.running.clear();
        let (mut latency, mut settles) = (Latency::new(), 0);
        for task in self.tasks {
            let (its, count) = task.await??;
            latency.merge(&its);
            settles += count;
        }
        let groups = clients.one().await?.groups();
        groups.delete(&self.plan.topic, &self.plan.group).await?;
        Ok((latency, settles))
    }
}

/// A consumer with a connection of its own.
struct Worker {
    requests: mpsc::Sender<WorkRequest>,
    answers: Streaming<v1::WorkResponse>,
    done: Arc<Done>,
    epoch: Instant,
    latency: Latency,
    settles: u64,
}

impl Worker {
    async fn open(plan: &Plan, clients: &Clients, done: Arc<Done>) -> anyhow::Result<Worker> {
        let mut queues = QueuesClient::new(clients.channel().await?)
            .max_decoding_message_size(ANSWER_BYTES)
            .max_encoding_message_size(ANSWER_BYTES);
        let (requests, sent) = mpsc::channel(64);
        let open = v1::WorkOpen {
            topic: plan.topic.clone(),
            group: plan.group.clone(),
            ..v1::WorkOpen::default()
        };
        requests
            .send(request(work_request::Kind::Open(open)))
            .await?;
        let credit = v1::Credit {
            messages: CREDIT,
            bytes: CREDIT_BYTES,
        };
        requests
            .send(request(work_request::Kind::Credit(credit)))
            .await?;
        let mut answers = queues.work(ReceiverStream::new(sent)).await?.into_inner();
        let first = answers.message().await?.and_then(|answer| answer.kind);
        ensure!(
            matches!(first, Some(work_response::Kind::Opened(_))),
            "the stream did not open: {first:?}"
        );
        Ok(Worker {
            requests,
            answers,
            done,
            epoch: plan.epoch,
            latency: Latency::new(),
            settles: 0,
        })
    }

    async fn run(mut self, mut over: mpsc::Receiver<()>) -> anyhow::Result<(Latency, u64)> {
        loop {
            let answer = tokio::select! {
                answer = self.answers.message() => answer?.context("the stream ended")?,
                _ = over.recv() => break,
            };
            match answer.kind {
                Some(work_response::Kind::Deliveries(more)) => self.acknowledge(more).await?,
                Some(work_response::Kind::Settled(settled)) => self.settled(&settled)?,
                Some(work_response::Kind::Opened(_)) | None => bail!("the stream opened twice"),
            }
        }
        // A closed side gives back what is held; the end of the answers says that it is done.
        drop(self.requests);
        while let Ok(Some(_)) = self.answers.message().await {}
        Ok((self.latency, self.settles))
    }

    async fn acknowledge(&mut self, more: v1::Deliveries) -> anyhow::Result<()> {
        let now = self.epoch.elapsed();
        let (mut settlements, mut bytes) = (Vec::with_capacity(more.deliveries.len()), 0);
        for delivery in &more.deliveries {
            let record = delivery
                .record
                .as_ref()
                .context("a delivery has a record")?;
            let value = record.value.as_deref().unwrap_or_default();
            if let Some(nanos) = stamp(value) {
                let way = now.saturating_sub(Duration::from_nanos(nanos));
                self.latency.record(way, 1);
            }
            bytes += (value.len() + record.key.as_ref().map_or(0, |key| key.len())) as u64;
            settlements.push(v1::Settlement {
                partition: record.partition,
                offset: record.offset,
                lease: delivery.lease,
                verdict: Some(Verdict::Ack(true)),
            });
        }
        self.settles += 1;
        let credit = v1::Credit {
            messages: settlements.len() as u64,
            bytes,
        };
        let settle = work_request::Kind::Settle(v1::Settlements { settlements });
        self.requests.send(request(settle)).await?;
        let credit = work_request::Kind::Credit(credit);
        Ok(self.requests.send(request(credit)).await?)
    }

    fn settled(&self, settled: &v1::Settled) -> anyhow::Result<()> {
        for result in &settled.results {
            ensure!(result.error.is_none(), "not acknowledged: {result:?}");
        }
        let count = settled.results.len() as u64;
        self.done.acknowledged.fetch_add(count, Ordering::Relaxed);
        self.done.more.notify_one();
        Ok(())
    }
}

fn request(kind: work_request::Kind) -> WorkRequest {
    WorkRequest { kind: Some(kind) }
}

impl Clients {
    async fn channel(&self) -> anyhow::Result<tonic::transport::Channel> {
        let address = &self.address;
        let bare = address.trim_start_matches("http://");
        let bare = bare.trim_start_matches("aqueduct://");
        let endpoint = Endpoint::from_shared(format!("http://{bare}"))?;
        let endpoint = endpoint
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20);
        Ok(endpoint.connect().await?)
    }
}
