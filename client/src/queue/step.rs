//! Verdicts and what is published with them, in one call.

use std::time::Duration;

use aqueduct_proto::v1;
use tokio::time::{Instant, sleep};

use super::{Job, Queue, Settlement, Verdict};
use crate::{Error, Message, backoff::Backoff};

/// How long the same step is sent again before its outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(60);

/// Verdicts on jobs of one partition and messages to be published with them, to any topics: all
/// verdicts are made and each message is published exactly once, or nothing happens at all.
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::{Message, Step, Verdict};
/// use std::time::Duration;
/// let queue = client.queue("orders", "packing");
/// for job in queue.lease(1, Duration::from_secs(5)).await? {
///     let parcel = Message::new("parcel 7").key("customer-7");
///     let step = Step::new().settle(&job, Verdict::Ack).publish("parcels", parcel);
///     queue.complete(&step).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a step is made by Queue::complete"]
pub struct Step {
    settlements: Vec<Settlement>,
    results: Vec<(String, Message)>,
}

/// A step that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// Where its messages are, in their order; empty if it is a duplicate.
    pub published: Vec<Published>,
    /// It was made before: an answer was lost. Nothing was published by this call.
    pub duplicate: bool,
}

/// Where a message of a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The topic.
    pub topic: String,
    /// The partition of the topic.
    pub partition: u32,
    /// `None`: it is on its way, and comes for certain, unless its topic is deleted before.
    pub offset: Option<u64>,
}

impl Step {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A verdict that ends a lease (no extension); all jobs of a step are of one partition, at
    /// most 10,000. An acknowledgement takes along what [`Job::publish`] has gathered.
    pub fn settle(mut self, job: &Job, verdict: Verdict) -> Self {
        if verdict == Verdict::Ack {
            self.results.append(&mut job.take_results());
        }
        self.settlements.push(Settlement::of(job, verdict));
        self
    }

    /// A message to be published; at most 1,000 and 8 MiB, without dedup ids: the leases of the
    /// step are its identity.
    pub fn publish(mut self, topic: impl Into<String>, message: Message) -> Self {
        self.results.push((topic.into(), message));
        self
    }

    fn to_proto(&self, queue: &Queue) -> v1::CompleteRequest {
        let result = |(topic, message): &(String, Message)| v1::StepResult {
            topic: topic.clone(),
            message: Some(message.clone().into_proto()),
        };
        v1::CompleteRequest {
            topic: queue.topic.clone(),
            group: queue.group.clone(),
            settlements: self.settlements.iter().map(Settlement::to_proto).collect(),
            results: self.results.iter().map(result).collect(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        for settlement in &self.settlements {
            settlement.verdict.check()?;
        }
        self.results.iter().try_for_each(|(_, it)| it.check())
    }
}

impl Queue {
    /// Makes a step. If the answer is lost or the broker cannot do it just now, the same step is
    /// sent again for up to a minute: under the same leases it is made once, whatever arrives how
    /// often.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the reason `LEASE_LOST`: a lease was over; nothing was changed,
    /// and the other jobs of the step are still held. [`Error::Invalid`], [`Error::NotFound`],
    /// [`Error::TooLarge`] for what cannot be; [`Error::Exhausted`]: for all that time there was no
    /// room for the results, and the step was not made. Unavailable brokers, time-outs and
    /// [`Error::Unknown`]: nobody knows; so it is with every refusal of a step that may have been
    /// made by a call before.
    pub async fn complete(&self, step: &Step) -> Result<Stepped, Error> {
        step.check()?;
        let since = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut is_unknown = false;
        loop {
            match self.complete_once(step).await {
                Err(error) if error.is_retryable() && since.elapsed() < PATIENCE => {
                    is_unknown |= error.is_unknown();
                    sleep(backoff.next()).await;
                }
                // What is refused now may have been made before, unheard.
                Err(error) if is_unknown => return Err(Error::unknown(error.message())),
                other => return other,
            }
        }
    }

    async fn complete_once(&self, step: &Step) -> Result<Stepped, Error> {
        let mut queues = self.queues();
        let request = step.to_proto(self);
        let answer = self.client.call(queues.complete(request)).await?;
        let errors = answer.results.into_iter().filter_map(|it| it.error);
        let mut errors: Vec<Error> = errors.map(Error::from_rpc).collect();
        // Those that only say that another one stood in the way say least.
        errors.sort_by_key(|error| error.reason() == "STEP_REFUSED");
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let published = |it: v1::PublishedResult| Published {
            topic: it.topic,
            partition: it.partition,
            offset: it.offset,
        };
        Ok(Stepped {
            published: answer.published.into_iter().map(published).collect(),
            duplicate: answer.duplicate,
        })
    }
}
