//! The task behind a queue consumer: the wire, the timers, connecting again.
//!
//! Decides nothing that the desk can decide. Lives until the consumer is closed or dropped, or
//! until an error that does not heal.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1::{self, work_request, work_response::Kind};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Job, Lease,
    consumer::QueueEvent,
    desk::{Desk, Judged},
    lease::{Command, Ticket},
    wire::{Dialer, Wire},
};
use crate::{Error, backoff::Backoff};

/// How long a clean end may take, verdicts included.
const LEAVING: Duration = Duration::from_secs(10);
/// Longest sleep.
const LONG: Duration = Duration::from_secs(3600);

/// Called with each event.
pub(super) type Listener = Arc<dyn Fn(&QueueEvent) + Send + Sync>;

pub(super) struct Driver {
    pub(super) dialer: Dialer,
    /// How long to try to connect again.
    pub(super) retry_timeout: Duration,
    pub(super) desk: Desk<Ticket>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    /// For the leases that are handed out.
    pub(super) commander: mpsc::UnboundedSender<Command>,
    /// What waits here is bounded by the credit given.
    pub(super) leases: mpsc::UnboundedSender<Result<Lease, Error>>,
    pub(super) listener: Option<Listener>,
    pub(super) start: Instant,
    /// Set once it is closed.
    pub(super) leave_by: Option<Instant>,
}

/// How a connection ended.
enum End {
    Left,
    Broken(Error),
}

impl Driver {
    /// Runs to the end; answers if everything was settled or given back.
    pub(super) async fn run(mut self, mut wire: Wire) -> Result<(), Error> {
        loop {
            let End::Broken(error) = self.session(&mut wire).await else {
                self.desk
                    .fail(&Error::closed("the queue consumer was closed"));
                self.tell();
                return Ok(());
            };
            drop(wire);
            let group = self.dialer.open.group.as_str();
            tracing::debug!(error = error.message(), group, "worker lost its connection");
            self.desk.disconnected();
            self.event(&QueueEvent::Disconnected {
                error: error.clone(),
            });
            wire = match self.reconnect(error).await {
                Ok(wire) => wire,
                Err(error) => {
                    self.desk.fail(&error);
                    self.tell();
                    // Nobody may be left to hear it.
                    let _ = self.leases.send(Err(error.clone()));
                    return Err(error);
                }
            };
        }
    }

    /// Tries again and again, unless it is hopeless, too late, or not wanted any more.
    async fn reconnect(&mut self, mut error: Error) -> Result<Wire, Error> {
        let since = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        loop {
            let is_late = self.leave_by.is_some_and(|by| Instant::now() >= by);
            if is_late || !error.is_retryable() || since.elapsed() > self.retry_timeout {
                return Err(error);
            }
            let (pause, dialer) = (backoff.next(), self.dialer.clone());
            let dialing = async move {
                sleep(pause).await;
                dialer.dial().await
            };
            tokio::pin!(dialing);
            let answer = loop {
                self.desk.tick(self.now());
                self.tell();
                let wake_at = self.wake_at();
                tokio::select! {
                    answer = &mut dialing => break answer,
                    command = self.commands.recv() => self.obey(command),
                    () = sleep_until(wake_at) => {}
                }
            };
            match answer {
                Ok(wire) => return Ok(wire),
                Err(next) => error = next,
            }
        }
    }

    /// One connection to its end.
    async fn session(&mut self, wire: &mut Wire) -> End {
        self.desk.opened(wire.lease, self.now());
        self.event(&QueueEvent::Connected { lease: wire.lease });
        loop {
            self.send(wire);
            self.tell();
            if self.leave_by.is_some() && self.desk.is_idle() {
                wire.finish();
            }
            let wake_at = self.wake_at();
            tokio::select! {
                response = wire.next() => {
                    let ended = matches!(response, Ok(None) | Err(_));
                    match response {
                        _ if ended && wire.is_finished() => return End::Left,
                        Ok(Some(kind)) => if let Err(error) = self.receive(kind) {
                            return End::Broken(error);
                        },
                        Ok(None) => return End::Broken(Error::unavailable("the broker ended the stream")),
                        Err(error) => return End::Broken(error),
                    }
                }
                command = self.commands.recv() => {
                    self.obey(command);
                    // What came together leaves together.
                    while let Ok(command) = self.commands.try_recv() {
                        self.obey(Some(command));
                    }
                }
                () = sleep_until(wake_at) => {
                    if self.leave_by.is_some_and(|by| Instant::now() >= by) {
                        return End::Broken(Error::timeout("the broker did not answer in time"));
                    }
                }
            }
        }
    }

    fn receive(&mut self, kind: Kind) -> Result<(), Error> {
        let now = self.now();
        match kind {
            Kind::Deliveries(deliveries) => {
                for delivery in deliveries.deliveries {
                    let job = Job::from_proto(delivery);
                    let place = (job.partition, job.lease);
                    let (offset, flag) = (job.offset, job.flag().clone());
                    let size = (offset, job.record.size());
                    if self.desk.delivered(place, size, flag, now) {
                        let lease = Lease::new(job, self.commander.clone());
                        // Dropped where nobody takes it, it goes back.
                        let _ = self.leases.send(Ok(lease));
                    }
                }
                Ok(())
            }
            Kind::Settled(settled) => {
                let results = settled
                    .results
                    .into_iter()
                    .map(|result| match result.error {
                        Some(error) => Err(Error::from_rpc(error)),
                        None => Ok(()),
                    });
                self.desk.settled(results.collect(), now)
            }
            Kind::Opened(_) => Ok(()),
        }
    }

    /// Sends what may leave now.
    fn send(&mut self, wire: &Wire) {
        let now = self.now();
        self.desk.tick(now);
        while let Some(request) = self.desk.request(now) {
            let settlements = request.into_iter().map(encode).collect();
            wire.send(work_request::Kind::Settle(v1::Settlements { settlements }));
        }
        if let Some((messages, bytes)) = self.desk.credit() {
            wire.send(work_request::Kind::Credit(v1::Credit { messages, bytes }));
        }
    }

    fn obey(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Settle {
                place,
                verdict,
                ticket,
            }) => self.desk.judge(place, verdict, ticket),
            Some(Command::Forget(place)) => self.desk.forget(place),
            Some(Command::Drain) => self.desk.drain(),
            Some(Command::Close) => {
                self.desk.release_all();
                self.leave_by
                    .get_or_insert_with(|| Instant::now() + LEAVING);
            }
            // There is always a sender: this driver's own.
            None => {}
        }
    }

    /// Lets those outside know what came of it.
    fn tell(&mut self) {
        for (ticket, answer) in self.desk.answers() {
            // Whoever gave up waiting does not want to know.
            let _ = ticket.send(answer);
        }
        for lost in self.desk.lost() {
            self.event(&QueueEvent::LeaseLost {
                partition: lost.partition,
                offset: lost.offset,
                lease: lost.lease,
            });
        }
    }

    fn event(&self, event: &QueueEvent) {
        if let Some(listener) = &self.listener {
            listener(event);
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wake_at(&self) -> Instant {
        let desk = self.desk.wake_at().map(|at| self.start + at);
        let long = Instant::now() + LONG;
        let wake_at = [desk, self.leave_by].into_iter().flatten().min();
        wake_at.unwrap_or(long).min(long)
    }
}

fn encode(judged: Judged) -> v1::Settlement {
    v1::Settlement {
        partition: judged.partition,
        offset: judged.offset,
        lease: judged.lease,
        verdict: Some(judged.verdict.to_proto()),
    }
}
