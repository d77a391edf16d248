//! Reading a topic as a stream of records.
//!
//! The broker sends stored batches as they are; records are cut out of the received bytes here,
//! without a copy. Promises: records of one partition come in the order of their offsets, each
//! once, exactly from `from` to `until`, also across a broken connection, after which reading
//! goes on at the next offset of each partition by itself. A reader that follows all partitions
//! takes up those that are added, from their first message, within half a minute. Nothing runs in the background: a
//! reader that is not polled holds no more than the transport's window, on a connection of its
//! own.

mod builder;
mod cursor;
mod refresh;
mod source;

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{self, read_response::Kind};
use bytes::Bytes;
use futures::{Stream, stream::SelectAll};

pub use builder::ReaderBuilder;

use crate::{Client, Error, Record, backoff::Backoff, connection::Connection};
use cursor::Cursors;
use refresh::Looking;
use source::{Item, Source};

/// Something that a [`Reader`] has to tell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Records of one partition, in order; never empty.
    Records(Vec<Record>),
    /// Stored batches of one partition (only from a reader built with
    /// [`ReaderBuilder::raw`]).
    Batches(RawBatches),
    /// A partition was read up to its end as of now, or up to `until`.
    CaughtUp {
        /// Which one.
        partition: u32,
        /// The offset that comes next.
        next_offset: u64,
        /// Nothing more will come of it.
        done: bool,
    },
}

/// Whole record batches as they are stored. The first may begin below the wanted offset and
/// the last may end above it: `from..until` says which offsets are wanted.
#[derive(Clone, Debug)]
pub struct RawBatches {
    /// Partition of the topic.
    pub partition: u32,
    /// Each exactly one batch, its checksum verified, in order.
    pub batches: Vec<Bytes>,
    /// First wanted offset.
    pub from: u64,
    /// One past the last wanted offset that is in here.
    pub until: u64,
}

/// A stream of records; see [`Client::reader`](crate::Client::reader). Ends after an error.
///
/// ```no_run
/// # async fn example(client: aqueduct_client::Client) -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::From;
/// use futures::StreamExt as _;
/// let mut reader = client.reader("orders").from(From::Last(10)).follow(true).build().await?;
/// while let Some(record) = reader.next().await {
///     println!("{:?}", record?.value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    plan: Plan,
    client: Client,
    connection: Connection,
    cursors: Cursors,
    state: ReaderState,
    events: VecDeque<Event>,
    /// Rest of the records that the stream of single records is at.
    current: std::vec::IntoIter<Record>,
    /// Messages that may still be delivered.
    left: u64,
    backoff: Backoff,
    /// Since when nothing has arrived although it was tried.
    failing_since: Option<Instant>,
    /// Something has arrived on the present streams.
    progress: bool,
    /// The next look for partitions that were added.
    looking: Option<Looking>,
}

/// What was asked for, apart from where reading is.
#[derive(Clone, Debug)]
struct Plan {
    request: v1::ReadRequest,
    credit: Option<u64>,
    raw: bool,
    retry_timeout: Duration,
    max_decompressed: usize,
    /// Between looks for new partitions.
    partitions_interval: Duration,
}

type Opening = Pin<Box<dyn Future<Output = Result<Vec<Source>, Error>> + Send>>;

enum ReaderState {
    Opening(Opening),
    Live(SelectAll<Source>),
    Ended,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Reader");
        debug
            .field("plan", &self.plan)
            .field("cursors", &self.cursors)
            .finish_non_exhaustive()
    }
}

impl Reader {
    fn new(
        plan: Plan,
        client: Client,
        connection: Connection,
        max_messages: Option<u64>,
        first: Source,
    ) -> Self {
        Self {
            plan,
            client,
            connection,
            cursors: Cursors::default(),
            state: ReaderState::Live(SelectAll::from_iter([first])),
            events: VecDeque::new(),
            current: Vec::new().into_iter(),
            left: max_messages.unwrap_or(u64::MAX),
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(2)),
            failing_since: None,
            progress: false,
            looking: None,
        }
    }

    /// The next event, or `None` at the end. Much faster than record by record.
    pub async fn next_event(&mut self) -> Option<Result<Event, Error>> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    /// The next records of one partition, or `None` at the end.
    pub async fn next_chunk(&mut self) -> Option<Result<Vec<Record>, Error>> {
        loop {
            match self.next_event().await? {
                Ok(Event::Records(records)) => return Some(Ok(records)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next stored batches of one partition, or `None` at the end. For readers built with
    /// [`ReaderBuilder::raw`].
    pub async fn next_batches(&mut self) -> Option<Result<RawBatches, Error>> {
        loop {
            match self.next_event().await? {
                Ok(Event::Batches(batches)) => return Some(Ok(batches)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// True if every partition has been read up to its end, as far as the broker has said.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.cursors.all_caught_up()
    }

    /// Where reading is: partition and next offset of each.
    pub fn positions(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.cursors.positions()
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            self.poll_partitions(context);
            let step = match &mut self.state {
                ReaderState::Ended => return Poll::Ready(None),
                ReaderState::Opening(opening) => {
                    let Poll::Ready(opened) = opening.as_mut().poll(context) else {
                        return Poll::Pending;
                    };
                    opened.map(|sources| {
                        self.state = ReaderState::Live(SelectAll::from_iter(sources));
                    })
                }
                ReaderState::Live(sources) => {
                    let Poll::Ready(item) = Pin::new(sources).poll_next(context) else {
                        return Poll::Pending;
                    };
                    self.take(item)
                }
            };
            if let Err(error) = step
                && let Err(error) = self.recover(error)
            {
                self.state = ReaderState::Ended;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// Takes up partitions that were added, if all are followed.
    fn poll_partitions(&mut self, context: &mut Context<'_>) {
        let request = &self.plan.request;
        let all = request.follow && request.until.is_none() && request.partitions.is_empty();
        let ReaderState::Live(sources) = &mut self.state else {
            return;
        };
        if !all || !self.cursors.are_known() {
            return;
        }
        loop {
            let (pause, client) = (self.plan.partitions_interval, &self.client);
            let look = || Looking::after(pause, client.clone(), request.topic.clone());
            let next = match self.looking.get_or_insert_with(look) {
                Looking::Counting(counting) => {
                    let Poll::Ready(partitions) = counting.as_mut().poll(context) else {
                        return;
                    };
                    let missing = self.cursors.missing(partitions);
                    (!missing.is_empty()).then(|| {
                        let request = v1::ReadRequest {
                            max_messages: if self.left == u64::MAX { 0 } else { self.left },
                            ..request.clone()
                        };
                        let credit = self.plan.credit;
                        let share = credit.map(|it| (it / u64::from(partitions)).max(1));
                        Looking::open(missing, self.connection.clone(), request, share)
                    })
                }
                Looking::Opening(opening) => {
                    let Poll::Ready(found) = opening.as_mut().poll(context) else {
                        return;
                    };
                    for (partition, source) in found {
                        self.cursors.asked_for(partition);
                        sources.push(source);
                    }
                    None
                }
            };
            self.looking = next;
        }
    }

    /// Takes what arrived, or the end of all streams.
    fn take(&mut self, item: Option<Item>) -> Result<(), Error> {
        match item {
            Some(Item::Response(response, credit)) => {
                self.failing_since = None;
                self.backoff.reset();
                let bytes = self.receive(response)?;
                credit.consumed(bytes);
                if self.left == 0 || self.cursors.all_done() {
                    self.state = ReaderState::Ended;
                }
                Ok(())
            }
            Some(Item::Failed(status)) => Err(Error::from_status(&status)),
            None if self.plan.request.follow && self.plan.request.until.is_none() => {
                Err(Error::unavailable("the broker ended the stream"))
            }
            // A limit counts what is sent, and a batch may hold messages before the first one
            // that was asked for: then some are missing at the end, and are asked for again.
            None if self.progress && self.left != u64::MAX => self.reopen(Duration::ZERO),
            None => {
                self.state = ReaderState::Ended;
                Ok(())
            }
        }
    }

    /// Turns a response into events; returns its size for the credit.
    fn receive(&mut self, response: v1::ReadResponse) -> Result<u64, Error> {
        match response.kind {
            Some(Kind::Opened(opened)) => self.cursors.open(&opened.ranges),
            Some(Kind::CaughtUp(caught_up)) => {
                let next_offset = self.cursors.caught_up(&caught_up);
                let v1::CaughtUp {
                    partition, done, ..
                } = caught_up;
                self.events.push_back(Event::CaughtUp {
                    partition,
                    next_offset,
                    done,
                });
            }
            Some(Kind::Batches(batches)) => {
                self.progress = true;
                let bytes = batches.batches.iter().map(|batch| batch.len() as u64).sum();
                self.receive_batches(batches)?;
                return Ok(bytes);
            }
            Some(Kind::Records(records)) => {
                self.progress = true;
                let bytes = records.records.iter().map(record_bytes).sum();
                self.receive_records(records.records);
                return Ok(bytes);
            }
            None => {}
        }
        Ok(0)
    }

    fn receive_batches(&mut self, batches: v1::Batches) -> Result<(), Error> {
        let partition = batches.partition;
        if self.plan.raw {
            let raw = self.cursors.select(partition, batches.batches, self.left)?;
            self.left = self.left.saturating_sub(raw.until - raw.from);
            if raw.until > raw.from {
                self.events.push_back(Event::Batches(raw));
            }
            return Ok(());
        }
        let (left, limit) = (self.left, self.plan.max_decompressed);
        let records = self
            .cursors
            .decode(partition, batches.batches, left, limit)?;
        self.left -= records.len() as u64;
        if !records.is_empty() {
            self.events.push_back(Event::Records(records));
        }
        Ok(())
    }

    fn receive_records(&mut self, records: Vec<v1::Record>) {
        let mut chunk: Vec<Record> = Vec::with_capacity(records.len());
        for record in records {
            let wanted = self.cursors.pass(record.partition, record.offset);
            if wanted && self.left > 0 {
                self.left -= 1;
                chunk.push(Record::from_proto(record));
            }
        }
        if !chunk.is_empty() {
            self.events.push_back(Event::Records(chunk));
        }
    }

    /// Connects again after a failure that may heal; else gives the error back.
    fn recover(&mut self, error: Error) -> Result<(), Error> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !error.is_retryable() || since.elapsed() > self.plan.retry_timeout {
            return Err(error);
        }
        tracing::debug!(
            error = error.message(),
            topic = self.plan.request.topic,
            "read lost"
        );
        let delay = self.backoff.next();
        self.reopen(delay)
    }

    /// Asks again for what is missing: as at first if nothing is known of the partitions yet,
    /// else with a stream for each, since each is somewhere else.
    fn reopen(&mut self, delay: Duration) -> Result<(), Error> {
        self.progress = false;
        let requests = self.cursors.requests(&self.plan.request, self.left);
        let (connection, credit) = (self.connection.clone(), self.plan.credit);
        self.state = ReaderState::Opening(Box::pin(async move {
            tokio::time::sleep(delay).await;
            let mut sources = Vec::with_capacity(requests.len());
            let share = credit.map(|credit| (credit / requests.len().max(1) as u64).max(1));
            for request in requests {
                sources.push(Source::open(&connection, request, share).await?);
            }
            Ok(sources)
        }));
        Ok(())
    }
}

impl Stream for Reader {
    type Item = Result<Record, Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Record, Error>>> {
        loop {
            if let Some(record) = self.current.next() {
                return Poll::Ready(Some(Ok(record)));
            }
            match self.poll_event(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(Event::Records(records)))) => {
                    self.current = records.into_iter();
                }
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
    }
}

fn record_bytes(record: &v1::Record) -> u64 {
    let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.len());
    (part(&record.key) + part(&record.value) + headers.sum::<usize>()) as u64
}
