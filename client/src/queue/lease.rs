//! A job that is held until somebody gives a verdict.

use std::{fmt, ops::Deref, thread, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{Job, Verdict, desk::Place};
use crate::Error;

pub(super) type Ticket = oneshot::Sender<Result<(), Error>>;

/// What the application asks of the task behind a consumer.
pub(super) enum Command {
    Settle {
        place: Place,
        verdict: Verdict,
        ticket: Option<Ticket>,
    },
    /// It was settled by another way.
    Forget(Place),
    /// No more jobs.
    Drain,
    Close,
}

/// A job that this consumer holds; reads like the [`Job`] it is.
///
/// Dropped without a verdict it is given back ([`Verdict::Release`]); dropped by a panic, the
/// attempt failed.
#[must_use = "a job without a verdict is given back"]
pub struct Lease {
    job: Job,
    commands: mpsc::UnboundedSender<Command>,
    is_judged: bool,
}

impl Lease {
    pub(super) fn new(job: Job, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            job,
            commands,
            is_judged: false,
        }
    }

    /// The job, also for after the verdict.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Done. Waits until that is on stable storage.
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn ack(self) -> Result<(), Error> {
        self.settle(Verdict::Ack).await
    }

    /// The attempt failed; it comes back as the policy says.
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn retry(self, error: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::retry(error)).await
    }

    /// The attempt failed; it comes back after this (at most 30 days).
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn retry_after(self, after: Duration, error: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::retry_after(after, error)).await
    }

    /// Given back: not a failed attempt, and ready at once.
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn release(self) -> Result<(), Error> {
        self.settle(Verdict::Release).await
    }

    /// It can never succeed: a dead letter.
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn dead_letter(self, error: impl Into<String>) -> Result<(), Error> {
        self.settle(Verdict::dead_letter(error)).await
    }

    /// The lease lasts so long from now (1 ms to 1 day); it is never made shorter.
    ///
    /// # Errors
    /// Those of [`Lease::settle`].
    pub async fn extend(&self, by: Duration) -> Result<(), Error> {
        self.send(Verdict::Extend(by))?
            .await
            .unwrap_or_else(|_| Err(closed()))
    }

    /// Gives the verdict and waits until it is on stable storage. Verdicts of one consumer that
    /// come together leave together. Dropping the future does not take the verdict back.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the reason `LEASE_LOST`: the lease was over, and nothing was
    /// changed. [`Error::Unknown`]: the connection broke, and when it was back the lease was
    /// over; the verdict may have taken effect before. [`Error::Invalid`] for its bounds.
    pub async fn settle(mut self, verdict: Verdict) -> Result<(), Error> {
        if verdict.extends() {
            return Err(Error::invalid(
                "an extension is no end: extend() is its call",
            ));
        }
        let answer = self.send(verdict)?;
        self.is_judged = true;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Gives the verdict without waiting for what comes of it.
    pub(crate) fn settle_later(mut self, verdict: Verdict) -> oneshot::Receiver<Result<(), Error>> {
        self.is_judged = true;
        let (ticket, answer) = oneshot::channel();
        let _ = self.commands.send(self.command(verdict, Some(ticket)));
        answer
    }

    /// It is settled already, or not held any more: this consumer has nothing to say about it.
    pub(crate) fn forget(mut self) {
        self.is_judged = true;
        let place = (self.job.partition, self.job.lease);
        let _ = self.commands.send(Command::Forget(place));
    }

    fn send(&self, verdict: Verdict) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        verdict.check()?;
        let (ticket, answer) = oneshot::channel();
        let sent = self.commands.send(self.command(verdict, Some(ticket)));
        sent.map_err(|_| closed())?;
        Ok(answer)
    }

    fn command(&self, verdict: Verdict, ticket: Option<Ticket>) -> Command {
        Command::Settle {
            place: (self.job.partition, self.job.lease),
            verdict,
            ticket,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_judged {
            return;
        }
        let verdict = match thread::panicking() {
            true => Verdict::retry("the worker panicked"),
            false => Verdict::Release,
        };
        // Where nobody listens, the consumer is closed and has given everything back.
        let _ = self.commands.send(self.command(verdict, None));
    }
}

impl Deref for Lease {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Lease").field(&self.job).finish()
    }
}

fn closed() -> Error {
    Error::closed("the queue consumer was closed")
}
