//! The owner task of a partition: the one place where messages are accepted and get offsets.
//!
//! It keeps the log's end as it will be when everything accepted is applied: the next offset,
//! the producers, the dedup ids still in flight. So a repeated or late batch is judged against
//! what is on its way, not only against what is applied.
//!
//! Single messages are gathered into batches: a batch is proposed at once while fewer than two
//! are in flight, else when one of them returns or it is full. So an idle partition adds no
//! delay, and a busy one writes large batches.

use std::{collections::VecDeque, sync::Arc};

use aqueduct_proto::batch::{Batch, stamp_append_time};
use aqueduct_storage::{Kind, stored_len};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    Message, NewRecord, Permit, RecordsAnswer, Shared, Stored,
    accumulator::{Open, Waiter, stored_bound},
    cutting::is_made,
    flying::FlyingIds,
    moves::GatheredMoves,
    producers::{Origin, Producers},
    proposals::{InFlight, Waiting, answer_all, first_answer},
    state::{Change, Command, FLAG_DEDUP, Tick, origin_of},
    steps::GatheredSteps,
    taking::taken_count,
};
use crate::{
    clock::Steady,
    error::Refusal,
    limits::BATCH_BYTES,
    metadata::{self, no_room, refusal},
    raft::engine::{Data, ProposeError, ReplicaEngine, Reply},
};

/// Batches of gathered messages in flight before more are gathered.
const GATHER_FROM: usize = 2;
/// Messages taken from the inbox at a time.
const TAKE: usize = 64;
/// How old the machine's time may be when a dedup id is stored.
const DEDUP_TICK_MS: i64 = 1_000;
/// The same when only producers are stored.
const PRODUCER_TICK_MS: i64 = 60_000;

/// The owner's state.
pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    engine: Arc<dyn ReplicaEngine>,
    inbox: mpsc::Receiver<Message>,
    pub(super) view: metadata::View,
    /// The offset that the next accepted record gets.
    end: u64,
    pub(super) producers: Producers,
    flying: FlyingIds,
    open: Option<Open>,
    in_flight: VecDeque<InFlight>,
    /// Gathered batches among those in flight.
    gathered: usize,
    /// The time by which windows are measured.
    steady: Steady,
    ticked_ms: i64,
    pub(super) moves: GatheredMoves,
    pub(super) steps: GatheredSteps,
    closed: Option<Refusal>,
}

impl Owner {
    pub(super) fn new(
        shared: Arc<Shared>,
        engine: Arc<dyn ReplicaEngine>,
        inbox: mpsc::Receiver<Message>,
        view: metadata::View,
    ) -> Owner {
        let (end, producers, ticked_ms) = {
            let state = shared.state.lock();
            (state.next_offset, state.producers.clone(), state.now_ms)
        };
        let steady = shared.clock.steady_from(ticked_ms);
        Owner {
            shared,
            engine,
            inbox,
            view,
            end,
            producers,
            flying: FlyingIds::default(),
            open: None,
            in_flight: VecDeque::new(),
            gathered: 0,
            steady,
            ticked_ms,
            moves: GatheredMoves::default(),
            steps: GatheredSteps::default(),
            closed: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(TAKE);
        while self.closed.is_none() {
            tokio::select! {
                biased;
                answer = first_answer(&mut self.in_flight) => self.settle(answer),
                count = self.inbox.recv_many(&mut taken, TAKE) => {
                    if count == 0 {
                        break;
                    }
                    for message in taken.drain(..) {
                        self.handle(message).await;
                    }
                }
            }
            self.flush_if_due().await;
        }
        self.finish().await;
    }

    /// Answers what was accepted, then refuses the rest of the inbox.
    async fn finish(mut self) {
        let why = self.closed.clone().unwrap_or(Refusal::Draining);
        *self.shared.unavailable.lock() = Some(why.clone());
        self.inbox.close();
        self.flush().await;
        self.flush_moves().await;
        while !self.steps.is_empty() {
            self.flush_steps().await;
        }
        while !self.in_flight.is_empty() {
            let answer = first_answer(&mut self.in_flight).await;
            self.settle(answer);
        }
        self.shared.stop();
        while let Ok(message) = self.inbox.try_recv() {
            message.refuse(why.clone());
        }
    }

    async fn handle(&mut self, message: Message) {
        if let Some(why) = &self.closed {
            return message.refuse(why.clone());
        }
        match message {
            Message::Records {
                records,
                expected_offset,
                permit,
                answer,
            } => match self.accept_records(&records, expected_offset).await {
                Ok(answers) => self.wait_for_records(records.len(), answers, permit, answer),
                Err(refusal) => drop(answer.send(RecordsAnswer::Refused(refusal))),
            },
            Message::Batch {
                batch,
                expected_offset,
                permit,
                answer,
            } => {
                self.flush().await;
                self.take_batch(batch, expected_offset, permit, answer)
                    .await;
            }
            Message::Trim { before, answer } => {
                self.flush().await;
                self.trim(before, answer).await;
            }
            Message::Cut { cut, answer } => {
                self.flush().await;
                self.cut(cut, answer).await;
            }
            Message::Move { change, answer } => self.moves.add(change, answer),
            Message::Step { step, answer } => self.steps.add(step, answer),
            Message::Take { taking, answer } => self.take(taking, answer).await,
            Message::Producer { id, answer } => {
                self.flush().await;
                let position = self.producers.position(id);
                let (shared, end) = (self.shared.clone(), self.end);
                tokio::spawn(async move {
                    if shared.applied(end).await {
                        // Nobody may be waiting any more.
                        let _ = answer.send(position);
                    }
                });
            }
            Message::Close { why } => self.closed = Some(why),
        }
    }

    async fn trim(&mut self, before: u64, answer: oneshot::Sender<Result<u64, Refusal>>) {
        let before = before.min(self.shared.high_watermark());
        let start = self.shared.log_start_offset();
        let is_aside = self.shared.with_kept(|kept| kept.first_from(0).is_some());
        if before <= start && !(is_aside && before == start) {
            return drop(answer.send(Ok(start)));
        }
        let data = Command::data(Change::Trim(before));
        // An append that finds no room would stop the partition for good. Only asked, not kept: an
        // append takes batches off what is reserved, commands use the log's headroom.
        let bytes = stored_len(data.payload.len());
        if let Err(refusal) = self.reserve_to_free(bytes) {
            return drop(answer.send(Err(refusal)));
        }
        self.shared.log.unreserve(bytes);
        self.propose(data, Waiting::Trim { answer }).await;
    }

    fn check_expected(&self, expected: Option<u64>) -> Result<(), Refusal> {
        let actual = self.end + self.open.as_ref().map_or(0, |open| u64::from(open.count()));
        match expected {
            Some(expected) if expected != actual => {
                let partition = self.shared.number;
                Err(Refusal::ExpectedOffset {
                    partition,
                    expected,
                    actual,
                })
            }
            _ => Ok(()),
        }
    }

    /// For what frees space in the end.
    pub(super) fn reserve_to_free(&self, bytes: u64) -> Result<(), Refusal> {
        let reserved = self.shared.log.reserve_to_free(bytes);
        reserved.map_err(|error| no_room(&error))
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<(), Refusal> {
        let reserved = self.shared.log.reserve(bytes);
        reserved.map_err(|error| no_room(&error))
    }

    /// Puts records into the open batch; all of them or, with an error, none.
    async fn accept_records(
        &mut self,
        records: &[NewRecord],
        expected: Option<u64>,
    ) -> Result<RecordsAnswer, Refusal> {
        // A repeat is answered as such, though the log has gone on since.
        if expected.is_some()
            && let Some(answers) = self.all_known(records)
        {
            return Ok(answers);
        }
        self.check_expected(expected)?;
        let reserved = stored_bound(records);
        self.reserve(reserved)?;
        let append_time = self.shared.config.load().append_time;
        // What is gathered by now goes first if it is of another kind, or if both together would
        // make a batch that is larger than a client may have to take.
        if self.open.as_ref().is_some_and(|open| {
            open.is_append_time() != append_time
                || open.bytes() as u64 + reserved > BATCH_BYTES as u64
        }) {
            self.flush().await;
        }
        let now_ms = self.shared.clock.wall_ms();
        let open = self.open.get_or_insert_with(|| Open::new(append_time));
        open.reserved += reserved;
        let base_offset = self.end + u64::from(open.count());
        if records.iter().all(|record| record.dedup_id.is_none()) {
            records.iter().for_each(|record| open.push(record, now_ms));
            return Ok(RecordsAnswer::Run { base_offset });
        }
        let answers = records
            .iter()
            .map(|record| self.accept_one(record, now_ms))
            .collect();
        Ok(RecordsAnswer::Each(answers))
    }

    /// One record that may have a dedup id. There is an open batch.
    fn accept_one(&mut self, record: &NewRecord, now_ms: i64) -> Stored {
        let known = record.dedup_id.as_ref().and_then(|id| self.known(id));
        if let Some(offset) = known {
            return Stored {
                offset,
                duplicate: true,
            };
        }
        let open = self.open.as_mut().expect("accept_records opened it");
        let offset = self.end + u64::from(open.count());
        if let Some(id) = &record.dedup_id {
            self.flying.insert(id.clone(), offset);
        }
        open.push(record, now_ms);
        Stored {
            offset,
            duplicate: false,
        }
    }

    /// Where these records lie, if every one is stored or on its way by its dedup id.
    fn all_known(&self, records: &[NewRecord]) -> Option<RecordsAnswer> {
        let known = |record: &NewRecord| {
            let offset = self.known(record.dedup_id.as_ref()?)?;
            let duplicate = true;
            Some(Stored { offset, duplicate })
        };
        let known: Vec<Stored> = records.iter().map(known).collect::<Option<_>>()?;
        (!known.is_empty()).then_some(RecordsAnswer::Each(known))
    }

    /// The offset of what is stored, or on its way, under this id.
    fn known(&self, id: &Bytes) -> Option<u64> {
        self.flying.offset(id).or_else(|| {
            let since_ms = self.steady.now_ms() - self.dedup_ms();
            self.shared.state.lock().dedup.offset(id, since_ms)
        })
    }

    /// The answer leaves with the open batch, or when the duplicates it names are durable.
    fn wait_for_records(
        &mut self,
        count: usize,
        answers: RecordsAnswer,
        permit: Permit,
        answer: oneshot::Sender<RecordsAnswer>,
    ) {
        if let RecordsAnswer::Each(all) = &answers
            && all.iter().all(|stored| stored.duplicate)
        {
            let last = all
                .iter()
                .map(|stored| stored.offset + 1)
                .max()
                .unwrap_or(0);
            return self.answer_when_applied(last, permit, move || drop(answer.send(answers)));
        }
        match &mut self.open {
            Some(open) if count > 0 => open.waiters.push(Waiter {
                answer,
                answers,
                permit,
            }),
            _ => drop(answer.send(answers)),
        }
    }

    fn answer_when_applied(
        &self,
        offset: u64,
        permit: Permit,
        answer: impl FnOnce() + Send + 'static,
    ) {
        if self.shared.high_watermark() >= offset {
            return answer();
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            // A partition that has stopped never will be there: the answer's sender is dropped,
            // which says that nobody knows.
            if shared.applied(offset).await {
                answer();
            }
            drop(permit);
        });
    }

    async fn take_batch(
        &mut self,
        batch: Batch,
        expected: Option<u64>,
        permit: Permit,
        answer: oneshot::Sender<Result<Stored, Refusal>>,
    ) {
        let origin = origin_of(batch.header());
        let verdict = origin.map_or(Ok(None), |origin| self.judge(origin));
        match verdict.and_then(|duplicate| match duplicate {
            Some(_) => Ok(duplicate),
            None => self.check_expected(expected).map(|()| None),
        }) {
            Err(refusal) => drop(answer.send(Err(refusal))),
            Ok(Some(offset)) => {
                let stored = Stored {
                    offset,
                    duplicate: true,
                };
                let end = offset + u64::from(batch.count());
                self.answer_when_applied(end, permit, move || drop(answer.send(Ok(stored))));
            }
            Ok(None) => self.store_batch(batch, origin, permit, answer).await,
        }
    }

    async fn store_batch(
        &mut self,
        batch: Batch,
        origin: Option<Origin>,
        permit: Permit,
        answer: oneshot::Sender<Result<Stored, Refusal>>,
    ) {
        let count = batch.count();
        let mut payload = batch.into_bytes();
        if let Err(refusal) = self.reserve(stored_len(payload.len())) {
            return drop(answer.send(Err(refusal)));
        }
        if self.shared.config.load().append_time {
            payload = stamp_append_time(payload, self.shared.clock.wall_ms());
        }
        if origin.is_some() {
            self.tick_if_older_than(PRODUCER_TICK_MS).await;
        }
        let offset = self.end;
        self.end += u64::from(count);
        if let Some(origin) = origin {
            self.producers.record(origin, offset, self.ticked_ms);
        }
        let data = Data {
            kind: Kind::Batch,
            flags: 0,
            payload,
        };
        self.propose(
            data,
            Waiting::Batch {
                answer,
                offset,
                permit,
            },
        )
        .await;
    }

    /// How long ids are looked for: the window, and what their stamps may lag behind.
    fn dedup_ms(&self) -> i64 {
        let window = self.shared.config.load().dedup_window_ms;
        i64::try_from(window).unwrap_or(i64::MAX / 2) + DEDUP_TICK_MS
    }

    /// The machine's time moves by entries alone; this adds one if it is too far behind.
    async fn tick_if_older_than(&mut self, age_ms: i64) {
        let now_ms = self.steady.now_ms();
        if now_ms - self.ticked_ms < age_ms {
            return;
        }
        let dedup_window_ms = self.dedup_ms().unsigned_abs();
        let tick = Change::Tick(Tick {
            now_ms,
            dedup_window_ms,
        });
        let data = Command::data(tick);
        // Without room the machine's time stands still: ids that are known stay known for longer,
        // and what is stored meanwhile is stamped too early, so its window is shorter.
        let bytes = stored_len(data.payload.len());
        if self.reserve(bytes).is_ok() {
            self.shared.log.unreserve(bytes);
            self.ticked_ms = now_ms;
            self.propose(data, Waiting::Nobody).await;
        }
    }

    async fn flush_if_due(&mut self) {
        let due = self
            .open
            .as_ref()
            .is_some_and(|open| self.gathered < GATHER_FROM || open.bytes() >= BATCH_BYTES);
        if due {
            self.flush().await;
        }
        if self.moves.are_due() {
            self.flush_moves().await;
        }
        while self.steps.are_due() {
            self.flush_steps().await;
        }
    }

    async fn flush(&mut self) {
        let Some(open) = self.open.take() else { return };
        let count = open.count();
        if count == 0 {
            // All were duplicates, and their answers do not wait for a batch.
            return self.shared.log.unreserve(open.reserved);
        }
        let (batch, reserved, waiters, dedup) = open.finish();
        let payload = match batch {
            Ok(payload) => payload,
            Err(error) => {
                self.shared.log.unreserve(reserved);
                let why = Refusal::BadBatch {
                    why: error.to_string(),
                };
                return answer_all(waiters, &why);
            }
        };
        let unused = reserved.saturating_sub(stored_len(payload.len()));
        self.shared.log.unreserve(unused);
        if dedup {
            self.tick_if_older_than(DEDUP_TICK_MS).await;
        }
        self.end += u64::from(count);
        let flags = if dedup { FLAG_DEDUP } else { 0 };
        let data = Data {
            kind: Kind::Batch,
            flags,
            payload,
        };
        self.propose(data, Waiting::Records(waiters)).await;
    }

    pub(super) async fn propose(&mut self, data: Data, waiting: Waiting) {
        let gathered = matches!(waiting, Waiting::Records(_));
        match self.engine.propose(data).await {
            Ok(pending) => {
                self.gathered += usize::from(gathered);
                self.in_flight.push_back(InFlight {
                    pending,
                    waiting,
                    gathered,
                });
            }
            Err(error) => self.fail(error, waiting),
        }
    }

    /// The oldest proposal has its answer.
    fn settle(&mut self, answer: Result<Reply, ProposeError>) {
        let Some(first) = self.in_flight.pop_front() else {
            return;
        };
        self.gathered -= usize::from(first.gathered);
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return self.fail(error, first.waiting),
        };
        match first.waiting {
            Waiting::Nobody => {}
            Waiting::Records(waiters) => {
                self.flying.landed(self.shared.high_watermark());
                for waiter in waiters {
                    // Whoever hung up has given up the answer.
                    let _ = waiter.answer.send(waiter.answers);
                    drop(waiter.permit);
                }
            }
            Waiting::Batch {
                answer,
                offset,
                permit,
            } => {
                assert_eq!(
                    reply,
                    Reply::Stored {
                        base_offset: offset
                    },
                    "offsets are assigned here"
                );
                let _ = answer.send(Ok(Stored {
                    offset,
                    duplicate: false,
                }));
                drop(permit);
            }
            Waiting::Trim { answer } => {
                let _ = answer.send(Ok(self.shared.log_start_offset()));
            }
            Waiting::Cut { answer, bytes } => {
                self.shared.log.unreserve(bytes);
                drop(answer.send(is_made(&reply)));
            }
            Waiting::Moves(waiters) => self.moves.settle(waiters, &reply),
            Waiting::Steps(waiters) => self.steps.settle(waiters, &reply),
            Waiting::Take { answer } => drop(answer.send(taken_count(&reply))),
        }
    }

    /// A proposal failed: what the owner believes of the log's end is no longer true, so it
    /// stops taking messages.
    fn fail(&mut self, error: ProposeError, waiting: Waiting) {
        let why = refusal(error);
        tracing::error!(topic = %self.shared.topic, partition = self.shared.number, %why,
            "a proposal failed, the partition stops");
        waiting.refuse(&why);
        let stopped = Refusal::Unavailable {
            why: format!("the partition has stopped: {why}"),
        };
        self.closed.get_or_insert(stopped);
    }
}
