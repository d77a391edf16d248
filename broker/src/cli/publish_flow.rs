//! The two ends of `pub`: messages into the producer, acknowledgements out of it.
//!
//! Both run as one task, so that they share their state without locks. The sender waits for room
//! in the producer; the collector awaits deliveries in the order of the input and writes down
//! what is acknowledged before it waits for the next one. The first failure stops the sender.

use std::{
    cell::Cell,
    fs::File,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use aqueduct_client::{Ack, Delivery, Error, Producer};
use indicatif::ProgressBar;
use tokio::sync::{Notify, mpsc};

use super::{
    output::{Failure, INTERRUPTED},
    publish_input::Numbered,
};

/// A message on its way, with its line.
pub(super) type Sent = (u64, Delivery);

/// Says that nothing more shall be sent: a message has failed, or the user wants it so.
#[derive(Debug, Default)]
pub(super) struct Stop {
    said: Cell<bool>,
    interrupted: Cell<bool>,
    heard: Notify,
}

impl Stop {
    fn say(&self) {
        self.said.set(true);
        self.heard.notify_one();
    }

    /// Waits for Ctrl-C: what is on its way is awaited then. A second one ends the process.
    pub(super) async fn at_interrupt(&self) -> std::convert::Infallible {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a handler, Ctrl-C ends the process as usual.
            std::future::pending::<()>().await;
        }
        self.interrupted.set(true);
        self.say();
        let _ = tokio::signal::ctrl_c().await;
        std::process::exit(i32::from(INTERRUPTED))
    }

    /// Whether the user said it.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.get()
    }
}

/// Hands messages to the producer.
pub(super) struct Sender<'a> {
    pub(super) producer: &'a Producer,
    pub(super) stop: &'a Stop,
    /// Messages per second at most.
    pub(super) rate: Option<f64>,
    /// With a named producer: the number of partitions that keyless messages are dealt to by
    /// their line, so that the same input always goes to the same places.
    pub(super) spread: Option<u32>,
}

type Chunks = mpsc::Receiver<anyhow::Result<Vec<Numbered>>>;

impl Sender<'_> {
    /// Sends until the input ends, a message is refused, or somebody says stop.
    pub(super) async fn run(
        &self,
        mut chunks: Chunks,
        sent: mpsc::Sender<Vec<Sent>>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut count = 0_u64;
        while !self.stop.said.get() {
            let chunk = tokio::select! {
                chunk = chunks.recv() => chunk,
                () = self.stop.heard.notified() => None,
            };
            let Some(chunk) = chunk else { break };
            let mut deliveries = Vec::new();
            let result = self
                .send_chunk(chunk?, &sent, &mut deliveries, (started, &mut count))
                .await;
            // Nobody takes them if the acks cannot be written, which says stop as well.
            let _ = sent.send(deliveries).await;
            result?;
        }
        Ok(())
    }

    async fn send_chunk(
        &self,
        chunk: Vec<Numbered>,
        sent: &mpsc::Sender<Vec<Sent>>,
        deliveries: &mut Vec<Sent>,
        (started, count): (Instant, &mut u64),
    ) -> Result<(), Error> {
        deliveries.reserve(chunk.len());
        for message in chunk {
            if self.stop.said.get() {
                return Ok(());
            }
            if let Some(rate) = self.rate {
                let due = Duration::from_secs_f64(*count as f64 / rate);
                if due > started.elapsed() {
                    let _ = sent.send(std::mem::take(deliveries)).await;
                    tokio::time::sleep_until((started + due).into()).await;
                }
            }
            deliveries.push(self.send(message).await?);
            *count += 1;
        }
        Ok(())
    }

    async fn send(&self, message: Numbered) -> Result<Sent, Error> {
        let Numbered {
            line,
            keyed,
            mut message,
        } = message;
        if let Some(partitions) = self.spread
            && !keyed
        {
            let place = u32::try_from((line - 1) % u64::from(partitions.max(1)));
            message = message.partition(place.expect("less than a u32"));
        }
        Ok((line, self.producer.send(message).await?))
    }
}

/// What has become of the messages.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Known to be stored, duplicates included.
    pub(super) acknowledged: u64,
    /// Those that were stored before.
    pub(super) duplicates: u64,
    /// Not stored, or unknown.
    pub(super) failed: u64,
    /// The first failure; it is the cause of the others.
    pub(super) error: Option<anyhow::Error>,
}

impl Tally {
    /// Counts a message that failed.
    pub(super) fn fail(&mut self, error: impl Into<anyhow::Error>) {
        self.failed += 1;
        self.error.get_or_insert(error.into());
    }
}

/// Awaits deliveries in the order they were sent, and keeps count.
pub(super) struct Collector<'a> {
    tally: Tally,
    stop: &'a Stop,
    acks: Option<AcksFile>,
    progress: Option<ProgressBar>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(
        stop: &'a Stop,
        acks: Option<AcksFile>,
        progress: Option<ProgressBar>,
    ) -> Self {
        Self {
            tally: Tally::default(),
            stop,
            acks,
            progress,
        }
    }

    /// Counts until everything that was sent is answered.
    pub(super) async fn run(mut self, mut sent: mpsc::Receiver<Vec<Sent>>) -> Tally {
        while let Some(deliveries) = sent.recv().await {
            for (line, delivery) in deliveries {
                let result = match delivery.try_ack() {
                    Some(result) => result,
                    None => {
                        self.flush();
                        delivery.await
                    }
                };
                self.count(line, result);
            }
            self.flush();
            if let Some(progress) = &self.progress {
                progress.set_position(self.tally.acknowledged);
            }
        }
        if let Some(progress) = &self.progress {
            progress.finish_and_clear();
        }
        self.tally
    }

    fn count(&mut self, line: u64, result: Result<Ack, Error>) {
        match result {
            Ok(ack) => {
                self.tally.acknowledged += 1;
                self.tally.duplicates += u64::from(ack.duplicate);
                if let Some(acks) = &mut self.acks
                    && ack.offset != Ack::UNKNOWN_OFFSET
                {
                    acks.add(line, &ack);
                }
            }
            Err(error) => {
                self.stop.say();
                self.tally.fail(error);
            }
        }
    }

    /// Acks that cannot be written down end the run: who asked for them relies on them.
    fn flush(&mut self) {
        let written = self.acks.as_mut().map_or(Ok(()), AcksFile::flush);
        if let Err(error) = written {
            self.acks = None;
            self.stop.say();
            self.tally.error.get_or_insert(error.into());
        }
    }
}

/// One line for each acknowledgement: `partition offset line-number`.
pub(super) struct AcksFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl AcksFile {
    /// Opens the file to append to it.
    pub(super) fn open(path: &PathBuf) -> Result<Self, Failure> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.clone(),
            file,
            buffer: Vec::new(),
        })
    }

    fn add(&mut self, line: u64, ack: &Ack) {
        // Writing into memory cannot fail.
        let _ = writeln!(self.buffer, "{} {} {line}", ack.partition, ack.offset);
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if !self.buffer.is_empty() {
            self.file
                .write_all(&self.buffer)
                .map_err(|error| unwritable(&self.path, &error))?;
            self.buffer.clear();
        }
        Ok(())
    }
}

fn unwritable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(1, format!("cannot write {}: {error}", path.display()))
}
