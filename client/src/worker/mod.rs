//! A worker: a function that is called with each job of a queue group, many at a time.
//!
//! What it does around the function: renews leases, drops the call when a lease is lost, turns
//! errors and panics into verdicts, sends verdicts together, connects again, and ends in order.
//! Which message comes next is the broker's matter, order per key included: it hands out the
//! next one of a key after the verdict on the one before, so concurrency never disturbs it.

mod builder;
mod failure;
mod run;
mod stats;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

pub use builder::WorkerBuilder;
pub use failure::Failure;
pub use stats::WorkerStats;

use crate::{Client, Error};
use stats::Counters;

/// Works through a queue group; see [`Client::worker`].
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// # async fn write(_: &[u8], _fence: u64) -> std::io::Result<()> { Ok(()) }
/// use aqueduct_client::{Failure, Job};
/// use std::time::Duration;
///
/// async fn pack(job: Job) -> Result<(), Failure> {
///     let Some(order) = &job.value else {
///         return Err(Failure::dead_letter("there is no order in it"));
///     };
///     write(order, job.lease).await?; // any error: again, as the policy says
///     Ok(())
/// }
///
/// let worker = client
///     .worker("orders", "packing")
///     .concurrency(8)
///     .handler(pack)
///     .start()
///     .await?;
/// let interrupt = async { drop(tokio::signal::ctrl_c().await) };
/// worker.run_until(interrupt, Duration::from_secs(30)).await
/// # }
/// ```
///
/// | The handler | The job |
/// |---|---|
/// | `Ok(())` | is done |
/// | any error by `?`, [`Failure::retry`] | failed this attempt; comes back by the policy, with the error's text |
/// | [`Failure::retry_after`] | the same, after this time |
/// | [`Failure::dead_letter`] | is a dead letter |
/// | [`Failure::release`] | is given back, not counted |
/// | panics | failed this attempt (with `panic = "abort"` the process ends, and so does the attempt) |
///
/// **Results.** What a handler gives to [`Job::publish`](crate::Job::publish) is published together
/// with its `Ok(())`: the job is done and each message is in its topic exactly once, or neither.
///
/// ```
/// use aqueduct_client::{Failure, Job, Message};
///
/// async fn pack(job: Job) -> Result<(), Failure> {
///     let parcel = Message::new("parcel 7").key(job.key.clone().unwrap_or_default());
///     job.publish("parcels", parcel);
///     Ok(()) // an error here, and nothing is published
/// }
/// ```
///
/// **Leases.** While a handler runs, its lease is renewed at a third of its time. When it is lost
/// all the same (this process stood still, the broker was away for longer than the lease, the
/// connection broke), the handler's future is **dropped** at its next `.await`, and nothing more is
/// said about the job: it comes back as a failed attempt. Blocking code inside cannot be dropped; it
/// can look at [`Job::is_lost`](crate::Job::is_lost). Between the end of a lease and the moment
/// this side knows of it, another worker may have the job: whatever the handler writes elsewhere
/// should carry [`Job::lease`](crate::Job::lease) and be refused there if a greater number was seen.
///
/// **The end.** [`Worker::shutdown`] takes no new jobs, gives back those that wait, lets running
/// handlers go on for some time, then drops them and gives back their jobs. Dropping the worker
/// does the same without time for the handlers, and without waiting for the broker.
#[derive(Debug)]
#[must_use = "a worker ends when it is dropped"]
pub struct Worker {
    stop: watch::Sender<Option<Instant>>,
    counters: Arc<Counters>,
    /// Until its end was told.
    task: Option<JoinHandle<Result<(), Error>>>,
}

impl Client {
    /// A worker for a queue group of a topic.
    pub fn worker(&self, topic: impl Into<String>, group: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder::new(self, topic.into(), group.into())
    }
}

impl Worker {
    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        self.counters.now()
    }

    /// Waits for its end, which only an error brings that does not heal; told once. May be
    /// cancelled.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group was deleted, [`Error::Unavailable`] if no broker was
    /// there for too long.
    pub async fn ended(&mut self) -> Result<(), Error> {
        let Some(task) = &mut self.task else {
            return Ok(());
        };
        let ended = task.await;
        self.task = None;
        ended.unwrap_or_else(|_| Err(Error::internal("the worker's task ended")))
    }

    /// Ends in order: takes no new jobs, lets running handlers go on for at most `grace`, gives
    /// back the rest, and waits for the last verdicts (at most 10 s).
    ///
    /// # Errors
    /// If verdicts could not be sent: their outcome is unknown, and what is still leased comes
    /// back when its lease ends.
    pub async fn shutdown(mut self, grace: Duration) -> Result<(), Error> {
        self.stop.send_replace(Some(Instant::now() + grace));
        self.ended().await
    }

    /// Works until `signal` is ready, then shuts down; or until an error ends it.
    ///
    /// # Errors
    /// Those of [`Worker::ended`] and [`Worker::shutdown`].
    pub async fn run_until(
        mut self,
        signal: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), Error> {
        tokio::select! {
            ended = self.ended() => return ended,
            () = signal => {}
        }
        self.shutdown(grace).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.send_replace(Some(Instant::now()));
    }
}
