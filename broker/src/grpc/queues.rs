//! `aqueduct.v1.Queues`.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{
    self, LeaseRequest, LeaseResponse, SettleRequest, SettleResponse, SettleResult, Settlement,
    WorkOpened, WorkRequest, WorkResponse, settlement::Verdict, work_request, work_response::Kind,
};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{
    consumer::address_of,
    delayed,
    reader::encode_record,
    status::{duration_ms, embedded, status},
    steps,
    topics::{encode_duration, encode_time},
};
use crate::{
    error::Refusal,
    limits::{
        DEFAULT_PULL_BYTES, DEFAULT_PULL_MESSAGES, MAX_FAILURE_BYTES, MAX_PULL_BYTES,
        MAX_PULL_MESSAGES, MAX_PULL_WAIT,
    },
    queue,
    services::Services,
    work::{Delivery, Link, Settled, Wanted, Wish, Worker, face::Holder},
};

/// Longest wait and extension that a consumer may ask for.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// After the request side has ended: how long the other side may take to show that the whole
/// stream was cut off and not closed.
const CUT_OFF: Duration = Duration::from_millis(10);

pub(super) struct Queues(Arc<Services>);

impl Queues {
    pub(super) fn new(services: Arc<Services>) -> Queues {
        Queues(services)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>>;

/// What goes to a worker.
struct Outgoing {
    worker: Worker,
    settled: mpsc::Receiver<Result<Kind, Refusal>>,
    /// Gone when the client hung up.
    _alive: Arc<()>,
}

impl Outgoing {
    async fn next(&mut self, services: &Services) -> Option<Result<Kind, Refusal>> {
        tokio::select! {
            biased;
            settled = self.settled.recv() => settled,
            deliveries = self.worker.deliveries.recv() => match deliveries {
                Some(deliveries) => {
                    self.worker.link.taken();
                    let deliveries = deliveries.into_iter().map(encode).collect();
                    Some(Ok(Kind::Deliveries(v1::Deliveries { deliveries })))
                }
                None => Some(Err(Refusal::Unavailable {
                    why: "the group is gone, or its task stopped".into(),
                })),
            },
            () = services.drained() => Some(Err(Refusal::Draining)),
        }
    }
}

/// Carries a worker's requests out until it closes its side or is gone.
async fn take_requests(
    mut stream: Streaming<WorkRequest>,
    link: Arc<Link>,
    settled: mpsc::Sender<Result<Kind, Refusal>>,
    alive: Weak<()>,
) {
    loop {
        let request = match stream.message().await {
            Ok(Some(request)) => request,
            Ok(None) => {
                tokio::time::sleep(CUT_OFF).await;
                if alive.upgrade().is_some() {
                    link.close().await;
                }
                return;
            }
            // The stream broke; the end of the answers says so.
            Err(_) => return,
        };
        match request.kind {
            Some(work_request::Kind::Credit(more)) => link.add_credit(more.messages, more.bytes),
            Some(work_request::Kind::Settle(settle)) => {
                let answer = match decode_wishes(settle.settlements) {
                    Ok((places, wishes)) => {
                        let settled = link.settle(wishes).await;
                        settled.map(|settled| {
                            Kind::Settled(v1::Settled {
                                results: encode_settled(places, settled),
                            })
                        })
                    }
                    Err(refusal) => Err(refusal),
                };
                let is_over = answer.is_err();
                if settled.send(answer).await.is_err() || is_over {
                    return;
                }
            }
            // A second open changes nothing.
            Some(work_request::Kind::Open(_)) | None => {}
        }
    }
}

fn encode(delivery: Delivery) -> v1::Delivery {
    let failed = delivery.first_failure_ms > 0;
    v1::Delivery {
        attempt: delivery.attempt,
        hand_outs: delivery.hand_outs,
        lease: delivery.lease,
        lease_deadline: Some(encode_time(delivery.deadline_ms)),
        first_failure: failed.then(|| encode_time(delivery.first_failure_ms)),
        last_error: delivery.last_error,
        record: Some(encode_record(delivery.partition, delivery.record)),
    }
}

/// Partition and offset of each verdict, for its result.
pub(super) type Places = Vec<(u32, u64)>;

pub(super) fn decode_wishes(settlements: Vec<Settlement>) -> Result<(Places, Vec<Wish>), Refusal> {
    let places = settlements
        .iter()
        .map(|s| (s.partition, s.offset))
        .collect();
    let wishes: Result<_, _> = settlements.into_iter().map(decode_wish).collect();
    Ok((places, wishes?))
}

fn decode_wish(settlement: Settlement) -> Result<Wish, Refusal> {
    let wanted = match settlement.verdict {
        Some(Verdict::Ack(true)) => Wanted::Ack,
        Some(Verdict::Release(true)) => Wanted::Release,
        Some(Verdict::Retry(retry)) => Wanted::Retry {
            after_ms: retry
                .after
                .map(|after| bounded("after", after))
                .transpose()?,
            error: kept(retry.error),
        },
        Some(Verdict::Extend(extend)) => {
            let missing = || Refusal::invalid("settlements.extend.by", "say for how long");
            let by_ms = bounded("extend.by", extend.by.ok_or_else(missing)?)?;
            if !(1..=86_400_000).contains(&by_ms) {
                let why = format!("{by_ms} ms is not between 1 ms and 1 day");
                return Err(Refusal::invalid("settlements.extend.by", why));
            }
            Wanted::Extend { by_ms }
        }
        Some(Verdict::DeadLetter(dead)) => Wanted::Dead {
            error: kept(dead.error),
        },
        Some(Verdict::Ack(false) | Verdict::Release(false)) | None => {
            let why = "say what becomes of it: ack, retry, release, extend or dead_letter";
            return Err(Refusal::invalid("settlements.verdict", why));
        }
    };
    Ok(Wish {
        partition: settlement.partition,
        offset: settlement.offset,
        lease: settlement.lease,
        wanted,
    })
}

/// As much of a failure's text as is kept: the rest must not reach the log.
fn kept(text: String) -> String {
    match text.len() {
        0..=MAX_FAILURE_BYTES => text,
        _ => queue::verdicts::bounded(&text)
            .map(String::from)
            .unwrap_or_default(),
    }
}

fn bounded(field: &str, duration: prost_types::Duration) -> Result<u64, Refusal> {
    let field = format!("settlements.{field}");
    let ms = duration_ms(&field, duration)?;
    if Duration::from_millis(ms) > LONGEST {
        let why = format!("{ms} ms is above the limit of 30 days");
        return Err(Refusal::invalid(field, why));
    }
    Ok(ms)
}

pub(super) fn encode_settled(places: Places, settled: Settled) -> Vec<SettleResult> {
    let result = |((partition, offset), result): ((u32, u64), Result<(), Refusal>)| SettleResult {
        partition,
        offset,
        error: result.err().as_ref().map(embedded),
    };
    places.into_iter().zip(settled).map(result).collect()
}

/// Messages, bytes and the end of the wait.
fn decode_lease(request: &LeaseRequest) -> Result<((u64, u64), Instant), Refusal> {
    let messages = match request.max_messages {
        0 => DEFAULT_PULL_MESSAGES,
        count if count <= MAX_PULL_MESSAGES => count,
        count => {
            let why = format!("{count} is above the limit of {MAX_PULL_MESSAGES}");
            return Err(Refusal::invalid("max_messages", why));
        }
    };
    let bytes = match request.max_bytes {
        0 => DEFAULT_PULL_BYTES,
        bytes if bytes <= MAX_PULL_BYTES => bytes,
        bytes => {
            let why = format!("{bytes} is above the limit of {MAX_PULL_BYTES}");
            return Err(Refusal::invalid("max_bytes", why));
        }
    };
    let wait = request
        .wait
        .map_or(Ok(0), |wait| duration_ms("wait", wait))?;
    let wait = Duration::from_millis(wait);
    if wait > MAX_PULL_WAIT {
        let why = format!("{wait:?} is above the limit of {MAX_PULL_WAIT:?}");
        return Err(Refusal::invalid("wait", why));
    }
    Ok(((u64::from(messages), bytes), Instant::now() + wait))
}

#[tonic::async_trait]
impl v1::queues_server::Queues for Queues {
    type WorkStream = Answers;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let address = address_of(&request);
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|request| request.kind);
        let Some(work_request::Kind::Open(open)) = first else {
            let why = "the first message of the stream must be open";
            return Err(status(&Refusal::invalid("open", why)));
        };
        let holder = Holder::new(open.client_id, address).map_err(|r| status(&r))?;
        let worker = self.0.work((&open.topic, &open.group), holder).await;
        let worker = worker.map_err(|r| status(&r))?;
        let opened = WorkOpened {
            lease: Some(encode_duration(worker.lease_ms)),
        };
        let (sender, settled) = mpsc::channel(1);
        let alive = Arc::new(());
        let link = worker.link.clone();
        let outgoing = Outgoing {
            worker,
            settled,
            _alive: alive.clone(),
        };
        let weak = Arc::downgrade(&alive);
        drop(alive);
        tokio::spawn(take_requests(stream, link, sender, weak));
        let first = stream::iter([Ok(answer(Kind::Opened(opened)))]);
        let services = self.0.clone();
        let rest = stream::unfold(Some(outgoing), move |outgoing| {
            let services = services.clone();
            async move {
                let mut outgoing = outgoing?;
                match outgoing.next(&services).await? {
                    Ok(kind) => Some((Ok(answer(kind)), Some(outgoing))),
                    Err(refusal) => Some((Err(status(&refusal)), None)),
                }
            }
        });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn lease(
        &self,
        request: Request<LeaseRequest>,
    ) -> Result<Response<LeaseResponse>, Status> {
        let address = address_of(&request);
        let mut request = request.into_inner();
        let (most, until) = decode_lease(&request).map_err(|r| status(&r))?;
        let holder = Holder::new(std::mem::take(&mut request.client_id), address);
        let holder = holder.map_err(|r| status(&r))?;
        let names = (request.topic.as_str(), request.group.as_str());
        let leased = self.0.lease(names, most, until, holder).await;
        let leased = leased.map_err(|r| status(&r))?;
        Ok(Response::new(LeaseResponse {
            deliveries: leased.into_iter().map(encode).collect(),
        }))
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        steps::complete(&self.0, request.into_inner()).await
    }

    async fn list_delayed(
        &self,
        request: Request<v1::ListDelayedRequest>,
    ) -> Result<Response<v1::ListDelayedResponse>, Status> {
        delayed::list(&self.0, request.into_inner()).await
    }

    async fn get_delayed(
        &self,
        request: Request<v1::GetDelayedRequest>,
    ) -> Result<Response<v1::DelayedMessage>, Status> {
        delayed::get(&self.0, request.into_inner()).await
    }

    async fn cancel_delayed(
        &self,
        request: Request<v1::CancelDelayedRequest>,
    ) -> Result<Response<v1::CancelDelayedResponse>, Status> {
        delayed::cancel(&self.0, request.into_inner()).await
    }

    async fn reschedule_delayed(
        &self,
        request: Request<v1::RescheduleDelayedRequest>,
    ) -> Result<Response<v1::DelayedMessage>, Status> {
        delayed::reschedule(&self.0, request.into_inner()).await
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        let request = request.into_inner();
        let (places, wishes) = decode_wishes(request.settlements).map_err(|r| status(&r))?;
        let names = (request.topic.as_str(), request.group.as_str());
        let settled = self.0.settle(names, wishes).await;
        let settled = settled.map_err(|r| status(&r))?;
        Ok(Response::new(SettleResponse {
            results: encode_settled(places, settled),
        }))
    }
}

fn answer(kind: Kind) -> WorkResponse {
    WorkResponse { kind: Some(kind) }
}
