//! A consumer of a queue group: leased jobs as a stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aqueduct_proto::v1;
use futures::Stream;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    Lease,
    desk::{Desk, Terms},
    driver::{Driver, Listener},
    lease::Command,
    wire::Dialer,
};
use crate::{Client, Error};

/// What happens to a [`QueueConsumer`] besides jobs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum QueueEvent {
    /// It is connected.
    Connected {
        /// How long a lease lasts.
        lease: Duration,
    },
    /// The connection broke; it is made again by itself.
    Disconnected {
        /// Why.
        error: Error,
    },
    /// A lease was lost before there was a verdict.
    LeaseLost {
        /// Of the message.
        partition: u32,
        /// Of the message.
        offset: u64,
        /// The lease.
        lease: u64,
    },
}

/// Settings of a [`QueueConsumer`]; see [`Queue::consumer`](super::Queue::consumer).
#[derive(Clone)]
#[must_use = "a consumer is made by build()"]
pub struct QueueConsumerBuilder {
    client: Client,
    open: v1::WorkOpen,
    terms: Terms,
    retry_timeout: Duration,
    listener: Option<Listener>,
}

impl QueueConsumerBuilder {
    pub(crate) fn new(client: Client, topic: String, group: String) -> Self {
        Self {
            client,
            open: v1::WorkOpen {
                topic,
                group,
                client_id: String::new(),
            },
            terms: Terms {
                messages: 100,
                bytes: 8 << 20,
                batch: 1_000,
                renew: false,
            },
            retry_timeout: Duration::from_secs(60),
            listener: None,
        }
    }

    /// What people see of this consumer beside what it holds; at most 249 bytes.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.open.client_id = id.into();
        self
    }

    /// Messages that may be held without a verdict, those included that wait to be taken.
    /// Default 100.
    pub fn max_in_flight(mut self, messages: u64) -> Self {
        self.terms.messages = messages.clamp(1, 1 << 40);
        self
    }

    /// Bytes of messages that may be held without a verdict; one message may go beyond. Default
    /// 8 MiB.
    pub fn max_in_flight_bytes(mut self, bytes: u64) -> Self {
        self.terms.bytes = bytes.clamp(1, 1 << 40);
        self
    }

    /// Most verdicts in one request (1 to 10,000). Default 1,000.
    pub fn max_batch(mut self, verdicts: usize) -> Self {
        self.terms.batch = verdicts.clamp(1, 10_000);
        self
    }

    /// Whether leases are renewed until there is a verdict: at a third of their time, each time
    /// for a whole one. Default: no; then [`Lease::extend`] is the caller's.
    pub fn renew(mut self, renew: bool) -> Self {
        self.terms.renew = renew;
        self
    }

    /// How long to try to connect again before the consumer ends with the error. Default 60 s.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = timeout;
        self
    }

    /// Calls this with each [`QueueEvent`], from the consumer's own task: it must not block.
    pub fn on_event(mut self, listener: impl Fn(&QueueEvent) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::NotFound`] for topic and group, [`Error::Conflict`] (`WRONG_GROUP_KIND`) if it
    /// is no queue group, and those of the connection.
    pub async fn build(self) -> Result<QueueConsumer, Error> {
        let dialer = Dialer {
            connection: self.client.connection().sibling(),
            open: self.open,
            patience: self.client.request_timeout(),
        };
        let wire = dialer.dial().await?;
        let (commander, commands) = mpsc::unbounded_channel();
        let (sender, leases) = mpsc::unbounded_channel();
        let driver = Driver {
            dialer,
            retry_timeout: self.retry_timeout,
            desk: Desk::new(self.terms),
            commands,
            commander: commander.clone(),
            leases: sender,
            listener: self.listener,
            start: Instant::now(),
            leave_by: None,
        };
        Ok(QueueConsumer {
            leases,
            commander,
            driver: Some(tokio::spawn(driver.run(wire))),
        })
    }
}

impl std::fmt::Debug for QueueConsumerBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("QueueConsumerBuilder");
        debug
            .field("open", &self.open)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// A stream of leased jobs; see [`Queue::consumer`](super::Queue::consumer). Ends after an
/// error. Broken connections are made again by themselves; what was held meanwhile is still held
/// if the broker says so, else its jobs are told ([`Job::lost`](super::Job::lost)).
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// # async fn pack(_: &aqueduct_client::Job) -> Result<(), String> { Ok(()) }
/// let mut jobs = client.queue("orders", "packing").consumer().build().await?;
/// while let Some(lease) = jobs.next().await {
///     let lease = lease?;
///     let settled = match pack(lease.job()).await {
///         Ok(()) => lease.ack().await,
///         Err(why) => lease.retry(why).await,
///     };
///     match settled {
///         // Somebody else has it now, or it is done.
///         Err(error) if error.is_lease_lost() || error.is_unknown() => {}
///         settled => settled?,
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QueueConsumer {
    leases: mpsc::UnboundedReceiver<Result<Lease, Error>>,
    commander: mpsc::UnboundedSender<Command>,
    driver: Option<JoinHandle<Result<(), Error>>>,
}

impl QueueConsumer {
    /// The next job; `None` after an error or [`QueueConsumer::drain`]. May be cancelled.
    ///
    /// # Errors
    /// What does not heal; then it has ended.
    pub async fn next(&mut self) -> Option<Result<Lease, Error>> {
        futures::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Asks for no more jobs and gives back those that were not taken. Those that were are held
    /// as before.
    pub fn drain(&mut self) {
        // If it has ended, it asks for nothing.
        let _ = self.commander.send(Command::Drain);
        self.leases.close();
        while let Ok(lease) = self.leases.try_recv() {
            drop(lease);
        }
    }

    /// Sends the verdicts that were given, gives back all that is held without one, and leaves.
    ///
    /// # Errors
    /// If that could not be done within 10 s: what was not settled stays leased until its
    /// leases end.
    pub async fn close(mut self) -> Result<(), Error> {
        let _ = self.commander.send(Command::Close);
        match self.driver.take() {
            Some(driver) => driver
                .await
                .unwrap_or_else(|_| Err(Error::internal("the consumer's task ended"))),
            None => Ok(()),
        }
    }
}

impl Stream for QueueConsumer {
    type Item = Result<Lease, Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Lease, Error>>> {
        loop {
            return match self.leases.poll_recv(context) {
                // Lost while it waited to be taken.
                Poll::Ready(Some(Ok(lease))) if lease.is_lost() => continue,
                next => next,
            };
        }
    }
}

impl Drop for QueueConsumer {
    fn drop(&mut self) {
        // The task lives on until everything is given back.
        let _ = self.commander.send(Command::Close);
    }
}
