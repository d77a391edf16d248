//! Working through a queue group: every message is leased, and every lease comes to an end.
//!
//! - [`Queue`]: single calls, for those who cannot hold a stream
//! - [`QueueConsumer`]: a stream of [`Lease`]s with credit; verdicts that come together leave
//!   together; connects again by itself
//! - `Worker` (beside this): a function that is called with each job
//!
//! What is promised: a verdict is answered once, and `Ok` means on stable storage. At most one
//! valid lease per message, by the broker's clock; the number of the lease only grows, so that a
//! database can refuse the writes of a worker that stood still for too long. A message may be
//! handed out again after any failure: at least once, never left out.

mod consumer;
mod delayed;
mod desk;
mod driver;
mod job;
mod lease;
mod step;
mod verdict;
mod wire;

use std::time::Duration;

use aqueduct_proto::v1::{self, queues_client::QueuesClient};

pub use consumer::{QueueConsumer, QueueConsumerBuilder, QueueEvent};
pub use delayed::{Delayed, DelayedPage};
pub use job::{Job, TraceParent};
pub use lease::Lease;
pub use step::{Published, Step, Stepped};
pub use verdict::{Settlement, Verdict};

use crate::{Client, Error, client::MAX_TRANSPORT_MESSAGE, times::duration_to_proto};

/// Longest wait that a broker accepts.
const MAX_WAIT: Duration = Duration::from_secs(60);

impl Client {
    /// A queue group of a topic, to lease its messages. It is made by
    /// [`Groups::create`](crate::Groups::create) with a [`QueuePolicy`](crate::QueuePolicy).
    #[must_use]
    pub fn queue(&self, topic: impl Into<String>, group: impl Into<String>) -> Queue {
        Queue {
            client: self.clone(),
            topic: topic.into(),
            group: group.into(),
        }
    }
}

/// A queue group, by single calls.
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::{Settlement, Verdict};
/// use std::time::Duration;
/// let queue = client.queue("orders", "packing");
/// let jobs = queue.lease(10, Duration::from_secs(5)).await?;
/// let acks: Vec<_> = jobs.iter().map(|job| Settlement::of(job, Verdict::Ack)).collect();
/// for result in queue.settle(&acks).await? {
///     result?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    client: Client,
    topic: String,
    group: String,
}

impl Queue {
    /// Leases up to so many messages; waits so long for the first (60 s at most). Nobody renews
    /// these leases.
    ///
    /// # Errors
    /// [`Error::NotFound`] for topic and group, [`Error::Conflict`] (`WRONG_GROUP_KIND`) if it
    /// is no queue group. After [`Error::Timeout`] and the like messages may be leased that
    /// nobody knows of; their leases end by themselves, as failed attempts.
    pub async fn lease(&self, max_messages: u32, wait: Duration) -> Result<Vec<Job>, Error> {
        let wait = wait.min(MAX_WAIT);
        let request = v1::LeaseRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            max_messages,
            max_bytes: 0,
            wait: Some(duration_to_proto(wait)),
            client_id: String::new(),
        };
        let mut queues = self.queues();
        let patience = self.client.request_timeout() + wait;
        let answer = tokio::time::timeout(patience, queues.lease(request)).await;
        match answer {
            Ok(Ok(answer)) => {
                let deliveries = answer.into_inner().deliveries;
                Ok(deliveries.into_iter().map(Job::from_proto).collect())
            }
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => {
                let limit = patience.as_millis();
                Err(Error::timeout(format!("no answer within {limit} ms")))
            }
        }
    }

    /// Verdicts on leased messages (at most 10,000), however they were leased: a result for
    /// each, in order. An `Ok` is on stable storage.
    ///
    /// # Errors
    /// Those of the connection (then all outcomes are unknown), [`Error::Invalid`] for bounds.
    /// In the results: [`Error::Conflict`] with the reason `LEASE_LOST`.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
    ) -> Result<Vec<Result<(), Error>>, Error> {
        for settlement in settlements {
            settlement.verdict.check()?;
        }
        let request = v1::SettleRequest {
            topic: self.topic.clone(),
            group: self.group.clone(),
            settlements: settlements.iter().map(Settlement::to_proto).collect(),
        };
        let mut queues = self.queues();
        let answer = self.client.call(queues.settle(request)).await?;
        if answer.results.len() != settlements.len() {
            return Err(Error::internal("not one result for each verdict"));
        }
        let results = answer.results.into_iter().map(|result| match result.error {
            Some(error) => Err(Error::from_rpc(error)),
            None => Ok(()),
        });
        Ok(results.collect())
    }

    /// A stream of leased jobs.
    pub fn consumer(&self) -> QueueConsumerBuilder {
        QueueConsumerBuilder::new(self.client.clone(), self.topic.clone(), self.group.clone())
    }

    fn queues(&self) -> QueuesClient<crate::connection::Connection> {
        let connection = self.client.connection();
        QueuesClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }
}
