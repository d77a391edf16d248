//! The task behind a group consumer: the wire, the timers, connecting again.
//!
//! Decides nothing that the core can decide. Lives until the consumer is closed or dropped, or
//! until an error that does not heal.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, consume_request};
use tokio::time::{Instant, sleep_until, timeout};

use super::{event::GroupEvent, shared::Shared, wire::Wire};
use crate::{Error, backoff::Backoff, connection::Connection};

/// How long a clean leave may take, commits included.
const LEAVING: Duration = Duration::from_secs(10);

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) open: v1::ConsumeOpen,
    /// How long one attempt to join may take.
    pub(super) patience: Duration,
    /// How long to try to connect again.
    pub(super) retry_timeout: Duration,
}

/// Whether to join again after this. A member that was not heard of for too long (the process
/// or the machine stood still) has lost its place and nothing else. One that was removed has not.
fn heals(error: &Error) -> bool {
    error.is_retryable() || error.reason() == "MEMBER_UNKNOWN"
}

/// How a connection ended.
enum End {
    Left,
    Broken(Error),
}

impl Driver {
    /// Joins for the first time; failures are the caller's.
    pub(super) async fn join(&mut self) -> Result<Wire, Error> {
        let wire = Wire::open(&self.connection, self.open.clone(), self.patience).await?;
        self.joined(&wire);
        Ok(wire)
    }

    fn joined(&mut self, wire: &Wire) {
        // Under the same id again, so that the broker knows whose partitions they were.
        self.open.member_id.clone_from(&wire.member_id);
        // Whoever deletes the group meanwhile does not want it back with all messages to come again.
        self.open.must_exist = true;
        let member_id = wire.member_id.clone();
        self.shared.drive(|inner| {
            inner.member_id.clone_from(&member_id);
            inner.core.event(GroupEvent::Connected { member_id });
        });
    }

    /// Runs to the end; answers if everything that was done is committed and the group left.
    pub(super) async fn run(mut self, mut wire: Wire) -> Result<(), Error> {
        loop {
            let End::Broken(error) = self.session(&mut wire).await else {
                self.shared.end(None);
                return Ok(());
            };
            drop(wire);
            tracing::debug!(
                error = error.message(),
                group = self.open.group,
                "consumer lost its connection"
            );
            self.shared.drive(|inner| inner.core.disconnected(&error));
            wire = match self.rejoin(error).await {
                Ok(wire) => wire,
                Err(error) => {
                    self.shared.end(Some(error.clone()));
                    return Err(error);
                }
            };
        }
    }

    /// Tries again and again, unless it is hopeless, too late, or not wanted any more.
    async fn rejoin(&mut self, mut error: Error) -> Result<Wire, Error> {
        let since = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        loop {
            let closing = self.shared.lock().core.is_closing();
            if closing || !heals(&error) || since.elapsed() > self.retry_timeout {
                return Err(error);
            }
            let again = Instant::now() + backoff.next();
            while Instant::now() < again && !self.shared.lock().core.is_closing() {
                let _ = timeout(again - Instant::now(), self.shared.woken()).await;
            }
            match Wire::open(&self.connection, self.open.clone(), self.patience).await {
                Ok(wire) => {
                    self.joined(&wire);
                    return Ok(wire);
                }
                Err(next) => error = next,
            }
        }
    }

    /// One connection, from joined to its end.
    async fn session(&self, wire: &mut Wire) -> End {
        let mut sent_at = Instant::now();
        let mut leave_by = None;
        loop {
            let (requests, wake_at, leave) = self.look();
            if !requests.is_empty() {
                sent_at = Instant::now();
                requests.into_iter().for_each(|request| wire.send(request));
            }
            if leave {
                wire.finish();
            }
            let beat_at = sent_at + wire.heartbeat;
            let mut wake_at = wake_at.map_or(beat_at, |at| beat_at.min(at));
            if self.shared.lock().core.is_closing() {
                let by = *leave_by.get_or_insert_with(|| Instant::now() + LEAVING);
                wake_at = if leave { by } else { wake_at.min(by) };
                if Instant::now() >= by {
                    return End::Broken(Error::timeout("the broker did not let go in time"));
                }
            }
            tokio::select! {
                response = wire.next() => match response {
                    Ok(Some(kind)) => {
                        let now = self.shared.now();
                        let taken = self.shared.drive(|inner| inner.core.receive(kind, now));
                        if let Err(error) = taken {
                            return End::Broken(error);
                        }
                    }
                    Ok(None) if wire.is_finished() => return End::Left,
                    Ok(None) => return End::Broken(Error::unavailable("the broker ended the stream")),
                    Err(error) => return End::Broken(error),
                },
                () = self.shared.woken() => {}
                () = sleep_until(wake_at) => {
                    if Instant::now() >= beat_at && !wire.is_finished() {
                        let beat = consume_request::Kind::Heartbeat(v1::Heartbeat {});
                        wire.send(beat);
                        sent_at = Instant::now();
                    }
                }
            }
        }
    }

    /// What to send, when to look again, and whether to leave.
    fn look(&self) -> (Vec<consume_request::Kind>, Option<Instant>, bool) {
        let now = self.shared.now();
        let (requests, wake_at, leave) = self.shared.drive(|inner| {
            let requests = inner.core.requests(now);
            (requests, inner.core.wake_at(), inner.core.may_leave())
        });
        let wake_at = self.shared.at(wake_at).map(Instant::from_std);
        (requests, wake_at, leave)
    }
}
