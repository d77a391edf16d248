//! Settings of a worker.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::Span;

use super::{Failure, Worker, run::Run, stats::Counters};
use crate::{Client, Error, Job, Queue, QueueConsumerBuilder, QueueEvent};

type Handling = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
pub(super) type Handler = Arc<dyn Fn(Job) -> Handling + Send + Sync>;
pub(super) type MakeSpan = Arc<dyn Fn(&Job) -> Span + Send + Sync>;

/// Settings of a [`Worker`]; see [`Client::worker`].
#[derive(Clone)]
#[must_use = "a worker begins with start()"]
pub struct WorkerBuilder {
    queue: Queue,
    consumer: QueueConsumerBuilder,
    concurrency: usize,
    prefetch: usize,
    timeout: Option<Duration>,
    span: MakeSpan,
    handler: Option<Handler>,
}

impl WorkerBuilder {
    pub(super) fn new(client: &Client, topic: String, group: String) -> Self {
        let names = (topic.clone(), group.clone());
        let span = move |job: &Job| job_span((&names.0, &names.1), job);
        let queue = client.queue(topic, group);
        Self {
            consumer: queue.consumer().renew(true),
            queue,
            concurrency: 10,
            prefetch: 0,
            timeout: None,
            span: Arc::new(span),
            handler: None,
        }
    }

    /// For people to recognise the worker (at most 249 bytes).
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.consumer = self.consumer.client_id(id);
        self
    }

    /// Jobs that are handled at a time. Default 10.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.clamp(1, 1 << 20);
        self
    }

    /// Jobs that may wait here beyond those that are handled, so that short ones follow each
    /// other without a way to the broker. They are leased, so no other worker gets them. Default
    /// 0.
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = jobs.min(1 << 20);
        self
    }

    /// A handler that takes longer is dropped, and the attempt failed. Default: none, its lease
    /// is renewed as long as it takes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long to try to connect again before the worker ends with the error. Default 60 s.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.consumer = self.consumer.retry_timeout(timeout);
        self
    }

    /// Calls this with each [`QueueEvent`], from the worker's own task: it must not block.
    pub fn on_event(mut self, listener: impl Fn(&QueueEvent) + Send + Sync + 'static) -> Self {
        self.consumer = self.consumer.on_event(listener);
        self
    }

    /// The span that the handler runs in. Default: `job` at level info, with topic, group,
    /// partition, offset, attempt, lease, and the `trace_id` and `parent_id` of the message's
    /// `traceparent`. With OpenTelemetry, set the span's parent from [`Job::trace_parent`] here.
    pub fn span(mut self, make: impl Fn(&Job) -> Span + Send + Sync + 'static) -> Self {
        self.span = Arc::new(make);
        self
    }

    /// Called with each job; see [`Worker`].
    pub fn handler<F>(mut self, handler: impl Fn(Job) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.handler = Some(Arc::new(move |job| Box::pin(handler(job))));
        self
    }

    /// Connects and begins to work, on the runtime that this is called on.
    ///
    /// # Errors
    /// [`Error::NotFound`] for topic and group, [`Error::Conflict`] (`WRONG_GROUP_KIND`) if it
    /// is no queue group, [`Error::Invalid`] without a handler, and those of the connection.
    pub async fn start(self) -> Result<Worker, Error> {
        let handler = self.handler.ok_or_else(|| {
            Error::invalid("a worker needs a handler: handler(|job| async { Ok(()) })")
        })?;
        let held = self.concurrency.saturating_add(self.prefetch) as u64;
        let jobs = self.consumer.max_in_flight(held).build().await?;
        let (stop, stopping) = watch::channel(None);
        let counters = Arc::<Counters>::default();
        let run = Run::new((self.queue, jobs), handler, counters.clone(), stopping)
            .limits(self.concurrency, self.timeout)
            .spans(self.span);
        Ok(Worker {
            stop,
            counters,
            task: Some(tokio::spawn(run.run())),
        })
    }
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("WorkerBuilder");
        debug
            .field("consumer", &self.consumer)
            .field("concurrency", &self.concurrency)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}

fn job_span((topic, group): (&str, &str), job: &Job) -> Span {
    let parent = job.trace_parent();
    tracing::info_span!(
        "job",
        topic,
        group,
        partition = job.partition,
        offset = job.offset,
        attempt = job.attempt,
        lease = job.lease,
        trace_id = parent.as_ref().map(|parent| parent.trace_id.as_str()),
        parent_id = parent.as_ref().map(|parent| parent.parent_id.as_str()),
    )
}
