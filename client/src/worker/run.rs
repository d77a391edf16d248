//! The task of a worker: takes jobs, runs handlers, gives verdicts.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::Instrument as _;

use super::{
    Failure,
    builder::{Handler, MakeSpan},
    stats::{Counters, Kind},
};
use crate::{Error, Job, Lease, Queue, QueueConsumer, Step, Verdict};

/// How long steps may take at the end.
const LEAVING: Duration = Duration::from_secs(10);

/// How a handler ended; `None`: its lease was lost before.
type Outcome = Option<Result<(), Failure>>;
/// What a verdict was and what came of it.
type Settling = Pin<Box<dyn Future<Output = (Kind, Result<(), Error>)> + Send>>;

pub(super) struct Run {
    queue: Queue,
    jobs: QueueConsumer,
    handler: Handler,
    make_span: MakeSpan,
    counters: Arc<Counters>,
    concurrency: usize,
    timeout: Option<Duration>,
    running: JoinSet<Outcome>,
    held: HashMap<Id, Lease>,
    settling: FuturesUnordered<Settling>,
    /// Jobs with results, which are settled by calls of their own.
    completing: FuturesUnordered<Settling>,
    /// Set when it shall end: until then handlers may go on.
    stop: watch::Receiver<Option<Instant>>,
}

impl Run {
    pub(super) fn new(
        (queue, jobs): (Queue, QueueConsumer),
        handler: Handler,
        counters: Arc<Counters>,
        stop: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self {
            queue,
            jobs,
            handler,
            make_span: Arc::new(|_| tracing::Span::none()),
            counters,
            concurrency: 1,
            timeout: None,
            running: JoinSet::new(),
            held: HashMap::new(),
            settling: FuturesUnordered::new(),
            completing: FuturesUnordered::new(),
            stop,
        }
    }

    pub(super) fn limits(mut self, concurrency: usize, timeout: Option<Duration>) -> Self {
        self.concurrency = concurrency;
        self.timeout = timeout;
        self
    }

    pub(super) fn spans(mut self, make: MakeSpan) -> Self {
        self.make_span = make;
        self
    }

    /// Works until it is told to stop or the consumer ends; then lets handlers finish, gives
    /// back the rest, and waits for the last verdicts.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let ended = self.work().await;
        // Handlers that are not done are dropped here, and then their jobs given back.
        self.running.shutdown().await;
        self.held.clear();
        self.counters.running(0);
        // While it is open, their leases are renewed.
        let completing = self.completing.for_each(|settled| {
            count(&self.counters, settled);
            futures::future::ready(())
        });
        // What is not done then is made or not, and comes back or not.
        let _ = timeout(LEAVING, completing).await;
        let (counters, settling) = (self.counters, self.settling);
        let counting = settling.for_each(|settled| {
            count(&counters, settled);
            futures::future::ready(())
        });
        let (closed, ()) = futures::join!(self.jobs.close(), counting);
        ended.and(closed)
    }

    async fn work(&mut self) -> Result<(), Error> {
        let mut until = None;
        loop {
            let has_room = self.held.len() < self.concurrency && until.is_none();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                Some(settled) = self.settling.next() => count(&self.counters, settled),
                Some(settled) = self.completing.next() => count(&self.counters, settled),
                lease = self.jobs.next(), if has_room => match lease {
                    Some(Ok(lease)) => self.begin(lease),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                Ok(()) = self.stop.changed() => {
                    until = *self.stop.borrow_and_update();
                    self.jobs.drain();
                }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return Ok(());
                }
            }
            if until.is_some() && self.held.is_empty() {
                return Ok(());
            }
        }
    }

    fn begin(&mut self, lease: Lease) {
        let job = lease.job().clone();
        let span = (self.make_span)(&job);
        let (handler, limit) = (self.handler.clone(), self.timeout);
        let task = async move { handle(handler, job, limit).await }.instrument(span);
        let task = self.running.spawn(task);
        self.held.insert(task.id(), lease);
        self.counters.running(self.held.len());
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let id = error.id();
                let payload = error.try_into_panic();
                (id, payload.ok().map(|it| Err(Failure::panicked(&*it))))
            }
        };
        let Some(lease) = self.held.remove(&id) else {
            return;
        };
        self.counters.running(self.held.len());
        let verdict = match outcome {
            Some(Ok(())) => Verdict::Ack,
            Some(Err(failure)) => failure.into_verdict(),
            None => {
                self.counters.lost();
                return;
            }
        };
        if verdict != Verdict::Ack {
            tracing::debug!(?verdict, job = ?lease.job(), "a job was not done");
        }
        if verdict == Verdict::Ack && lease.job().has_results() {
            let completing = complete(self.queue.clone(), lease);
            self.completing.push(Box::pin(completing));
            return;
        }
        let kind = Kind::of(&verdict);
        let settled = lease.settle_later(verdict);
        self.settling.push(Box::pin(async move {
            let gone = || Err(Error::closed("the worker ended"));
            (kind, settled.await.unwrap_or_else(|_| gone()))
        }));
    }
}

/// Settles a job and publishes its results in one step. It is held meanwhile.
async fn complete(queue: Queue, lease: Lease) -> (Kind, Result<(), Error>) {
    let step = Step::new().settle(lease.job(), Verdict::Ack);
    match queue.complete(&step).await {
        Ok(_) => {
            lease.forget();
            (Kind::Done, Ok(()))
        }
        Err(error) => match instead(&error) {
            None => {
                lease.forget();
                (Kind::Done, Err(error))
            }
            Some(verdict) => {
                tracing::warn!(error = error.message(), "the results of a job are refused");
                let kind = Kind::of(&verdict);
                let gone = |_| Err(Error::closed("the worker ended"));
                let settled = lease.settle_later(verdict).await;
                (kind, settled.unwrap_or_else(gone))
            }
        },
    }
}

/// What becomes of a job whose step was not made; `None`: the lease is over, or nobody knows, and
/// if the step was not made, the job comes back by itself.
fn instead(error: &Error) -> Option<Verdict> {
    if error.is_lease_lost() || error.is_unknown() {
        return None;
    }
    // For certain not made, and the job has not failed: the broker has no room just now.
    if error.is_retryable() {
        return Some(Verdict::Release);
    }
    let why = format!("the results are refused: {}", error.message());
    Some(Verdict::retry(why))
}

/// Runs the handler until it is done, late, or for nothing.
async fn handle(handler: Handler, job: Job, limit: Option<Duration>) -> Outcome {
    let handling = handler(job.clone());
    let handling = async move {
        match limit {
            Some(limit) => timeout(limit, handling)
                .await
                .unwrap_or_else(|_| Err(Failure::timed_out(limit))),
            None => handling.await,
        }
    };
    tokio::select! {
        biased;
        result = handling => Some(result),
        () = job.lost() => None,
    }
}

fn count(counters: &Counters, (kind, result): (Kind, Result<(), Error>)) {
    match result {
        Ok(()) => counters.settled(kind),
        Err(error) => {
            tracing::warn!(error = error.message(), "a verdict had no effect");
            counters.lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Detail;

    #[test]
    fn a_job_whose_results_have_no_room_is_given_back_and_has_not_failed() {
        let detail = || Arc::new(Detail::default());
        let full = Error::Exhausted {
            retry_after: None,
            detail: detail(),
        };
        assert_eq!(instead(&full), Some(Verdict::Release));
        for nobody_knows in [
            Error::Unknown(detail()),
            Error::Unavailable(detail()),
            Error::Timeout(detail()),
            Error::lease_lost((0, 1)),
        ] {
            assert_eq!(instead(&nobody_knows), None);
        }
        let refused = instead(&Error::invalid("no such topic"));
        let why = "the results are refused: no such topic";
        assert_eq!(refused, Some(Verdict::retry(why)));
    }
}
