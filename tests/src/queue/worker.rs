//! Consumers of a queue group over raw gRPC, which note everything they see and say. Each has
//! a connection of its own, which can be cut as if its process had been killed.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use aqueduct_proto::v1::{
    Credit, DeadLetterVerdict, Delivery, ExtendVerdict, LeaseRequest, ReadRequest, Record,
    RetryVerdict, SettleRequest, SettleResult, Settlement, Settlements, WorkOpen, WorkRequest,
    WorkResponse, read_response, settlement::Verdict, work_request, work_response::Kind,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

use super::history::{End, Given, History, Letter, Moment, Outcome, Said, Word};
use crate::grpc::{Api, Refused};

/// Where to work.
#[derive(Clone, Debug)]
pub struct Place {
    /// Of the broker.
    pub address: SocketAddr,
    /// Topic.
    pub topic: String,
    /// Queue group.
    pub group: String,
}

/// A connection that can be cut.
pub struct Line {
    /// The services over it.
    pub api: Api,
    /// The broker's run.
    pub run: u32,
    socket: std::net::TcpStream,
}

impl Line {
    /// Connects; `None` if nobody is there.
    pub async fn connect(address: SocketAddr, history: &History) -> Option<Line> {
        let run = history.run();
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let stream = stream.into_std().ok()?;
        let socket = stream.try_clone().ok()?;
        let mut stream = Some(TcpStream::from_std(stream).ok()?);
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| std::io::Error::other("it was cut")) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint.connect_with_connector(connector).await.ok()?;
        let api = Api::over(channel);
        Some(Line { api, run, socket })
    }

    /// Ends it without a word, as the end of a process does.
    pub fn cut(&self) {
        // It may be gone already.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

/// A delivery as the history keeps it.
///
/// # Panics
/// If it is not complete.
#[must_use]
pub fn given(delivery: &Delivery, (session, run): (u64, u32), at: Moment) -> Given {
    let record = delivery.record.as_ref().unwrap();
    let deadline = delivery.lease_deadline.as_ref().unwrap();
    let ms =
        |time: &prost_types::Timestamp| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000;
    Given {
        session,
        run,
        partition: record.partition,
        offset: record.offset,
        key: text(record.key.as_deref()),
        attempt: delivery.attempt,
        hand_outs: delivery.hand_outs,
        lease: delivery.lease,
        deadline_ms: ms(deadline),
        first_failure_ms: delivery.first_failure.as_ref().map_or(0, ms),
        last_error: delivery.last_error.clone(),
        asked_us: 0,
        at,
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// A verdict for the wire.
///
/// # Panics
/// If a time is too long.
#[must_use]
pub fn settlement(given: &Given, word: &Word) -> Settlement {
    let ms = |ms: u64| Duration::from_millis(ms).try_into().unwrap();
    let verdict = match word.clone() {
        Word::Ack => Verdict::Ack(true),
        Word::Release => Verdict::Release(true),
        Word::Extend { by_ms } => Verdict::Extend(ExtendVerdict {
            by: Some(ms(by_ms)),
        }),
        Word::Dead { error } => Verdict::DeadLetter(DeadLetterVerdict { error }),
        Word::Retry { after_ms, error } => {
            let after = after_ms.map(ms);
            Verdict::Retry(RetryVerdict { after, error })
        }
    };
    Settlement {
        partition: given.partition,
        offset: given.offset,
        lease: given.lease,
        verdict: Some(verdict),
    }
}

fn said(given: &Given, word: &Word, sent: Moment) -> Said {
    Said {
        partition: given.partition,
        offset: given.offset,
        lease: given.lease,
        word: word.clone(),
        sent,
        outcome: Outcome::Unknown,
        answered: sent,
    }
}

fn outcome(result: &SettleResult) -> Outcome {
    match &result.error {
        None => Outcome::Done,
        Some(error) => match Refused::from_result(error).reason.as_str() {
            "LEASE_LOST" => Outcome::LeaseLost,
            "OUTCOME_UNKNOWN" | "UNAVAILABLE" => Outcome::Unknown,
            _ => Outcome::Refused,
        },
    }
}

/// Writes down verdicts with what came of them; no results: nobody knows.
fn note(history: &History, mut saids: Vec<Said>, results: Option<Vec<SettleResult>>) {
    let answered = history.now();
    for said in &mut saids {
        said.answered = answered;
    }
    if let Some(results) = results {
        assert_eq!(results.len(), saids.len(), "a result for each verdict");
        for (said, result) in saids.iter_mut().zip(&results) {
            let place = (result.partition, result.offset);
            assert_eq!(place, (said.partition, said.offset), "results in order");
            said.outcome = outcome(result);
        }
    }
    history.said.lock().unwrap().extend(saids);
}

/// A consumer on a stream.
pub struct Session {
    /// Its number in the history.
    pub number: u64,
    line: Line,
    history: Arc<History>,
    requests: Option<mpsc::Sender<WorkRequest>>,
    answers: Streaming<WorkResponse>,
    unanswered: VecDeque<Vec<Said>>,
    waiting: VecDeque<(Given, String)>,
}

impl Session {
    /// Opens a stream, without credit.
    ///
    /// # Errors
    /// The refusal; `None` if nobody is there.
    ///
    /// # Panics
    /// If the broker says anything else first.
    pub async fn open(place: &Place, history: &Arc<History>) -> Result<Session, Option<Status>> {
        let line = Line::connect(place.address, history).await.ok_or(None)?;
        let (requests, receiver) = mpsc::channel(64);
        let open = WorkOpen {
            topic: place.topic.clone(),
            group: place.group.clone(),
            ..WorkOpen::default()
        };
        let kind = Some(work_request::Kind::Open(open));
        requests.try_send(WorkRequest { kind }).unwrap();
        let mut queues = line.api.queues.clone();
        let answers = queues.work(ReceiverStream::new(receiver)).await?;
        let mut answers = answers.into_inner();
        let first = answers.message().await?.and_then(|answer| answer.kind);
        assert!(matches!(first, Some(Kind::Opened(_))), "{first:?}");
        Ok(Session {
            number: history.new_session(),
            line,
            history: history.clone(),
            requests: Some(requests),
            answers,
            unanswered: VecDeque::new(),
            waiting: VecDeque::new(),
        })
    }

    async fn send(&self, kind: work_request::Kind) {
        if let Some(requests) = &self.requests {
            // A stream that is over is noticed by its answers.
            let _ = requests.send(WorkRequest { kind: Some(kind) }).await;
        }
    }

    /// Grants more.
    pub async fn credit(&self, messages: u64, bytes: u64) {
        let credit = Credit { messages, bytes };
        self.send(work_request::Kind::Credit(credit)).await;
    }

    /// Verdicts; their results come by themselves.
    pub async fn say(&mut self, words: &[(Given, Word)]) {
        let sent = self.history.now();
        let saids = words.iter().map(|(given, word)| said(given, word, sent));
        self.unanswered.push_back(saids.collect());
        let settlements = words.iter().map(|(given, word)| settlement(given, word));
        let settlements = settlements.collect();
        self.send(work_request::Kind::Settle(Settlements { settlements }))
            .await;
    }

    /// The next delivery, with its value.
    ///
    /// # Errors
    /// If the stream is over.
    pub async fn next(&mut self) -> Result<(Given, String), ()> {
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Ok(next);
            }
            self.hear().await?;
        }
    }

    /// What was received with the last delivery.
    pub fn take_waiting(&mut self) -> Vec<(Given, String)> {
        self.waiting.drain(..).collect()
    }

    /// Until all verdicts are answered.
    ///
    /// # Errors
    /// If the stream is over.
    pub async fn answered(&mut self) -> Result<(), ()> {
        while !self.unanswered.is_empty() {
            self.hear().await?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<(), ()> {
        let answer = self.answers.message().await.map_err(drop)?.ok_or(())?;
        match answer.kind {
            Some(Kind::Deliveries(deliveries)) => {
                let (at, from) = (self.history.now(), (self.number, self.line.run));
                for delivery in &deliveries.deliveries {
                    let given = given(delivery, from, at);
                    self.history.given.lock().unwrap().push(given.clone());
                    let record = delivery.record.as_ref().unwrap();
                    self.waiting
                        .push_back((given, text(record.value.as_deref())));
                }
            }
            Some(Kind::Settled(settled)) => {
                let saids = self.unanswered.pop_front().expect("nothing was settled");
                note(&self.history, saids, Some(settled.results));
            }
            other => panic!("nobody asked for {other:?}"),
        }
        Ok(())
    }

    /// Cuts the connection without a word.
    pub fn cut(self) {
        self.history.end(self.number, End::Cut);
        self.line.cut();
    }

    /// Closes the request side and waits for the end of the answers.
    pub async fn close(mut self) {
        self.history.end(self.number, End::Closed);
        self.requests = None;
        while self.hear().await.is_ok() {}
    }

    /// The stream is over, and not by this side.
    pub fn left(self) {
        self.history.end(self.number, End::Left);
        self.line.cut();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for saids in self.unanswered.drain(..) {
            note(&self.history, saids, None);
        }
    }
}

/// A call that waits for messages; they come with their values.
///
/// # Errors
/// The refusal.
pub async fn lease(
    line: &Line,
    place: &Place,
    history: &History,
    (messages, wait): (u32, Duration),
) -> Result<Vec<(Given, String)>, Status> {
    let request = LeaseRequest {
        topic: place.topic.clone(),
        group: place.group.clone(),
        max_messages: messages,
        max_bytes: 0,
        wait: wait.try_into().ok(),
        ..LeaseRequest::default()
    };
    let asked = history.now();
    let answer = line.api.queues.clone().lease(request).await?.into_inner();
    let at = history.now();
    let with_value = |delivery: &Delivery| {
        let value = delivery.record.as_ref().and_then(|r| r.value.as_deref());
        let mut given = given(delivery, (0, line.run), at);
        given.asked_us = asked.us;
        (given, text(value))
    };
    let leased: Vec<_> = answer.deliveries.iter().map(with_value).collect();
    let all = leased.iter().map(|(given, _)| given.clone());
    history.given.lock().unwrap().extend(all);
    Ok(leased)
}

/// Verdicts by a call, and what came of them.
pub async fn settle(
    line: &Line,
    place: &Place,
    history: &History,
    words: &[(Given, Word)],
) -> Vec<Outcome> {
    let sent = history.now();
    let saids = words.iter().map(|(given, word)| said(given, word, sent));
    let saids: Vec<Said> = saids.collect();
    let request = SettleRequest {
        topic: place.topic.clone(),
        group: place.group.clone(),
        settlements: words.iter().map(|(g, word)| settlement(g, word)).collect(),
    };
    let answer = line.api.queues.clone().settle(request).await;
    let results = answer.ok().map(|answer| answer.into_inner().results);
    let outcomes = match &results {
        Some(results) => results.iter().map(outcome).collect(),
        None => vec![Outcome::Unknown; saids.len()],
    };
    note(history, saids, results);
    outcomes
}

/// Everything in the group's dead-letter topic.
pub async fn letters(api: &mut Api, place: &Place) -> Vec<Letter> {
    let request = ReadRequest {
        topic: format!("{}.{}.dlq", place.topic, place.group),
        ..ReadRequest::default()
    };
    let Ok(answers) = api.reader.read(request).await else {
        return Vec::new();
    };
    let mut answers = answers.into_inner();
    let mut letters = Vec::new();
    while let Ok(Some(answer)) = answers.message().await {
        if let Some(read_response::Kind::Records(records)) = answer.kind {
            letters.extend(records.records.iter().map(letter));
        }
    }
    letters
}

fn letter(record: &Record) -> Letter {
    let header = |name: &str| {
        let header = record
            .headers
            .iter()
            .rev()
            .find(|header| header.name == name);
        text(header.map(|header| header.value.as_ref()))
    };
    let number = |name: &str| header(name).parse::<u64>().unwrap_or(u64::MAX);
    let small = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
    Letter {
        partition: small("__dlq.errors.partition"),
        offset: number("__dlq.errors.offset"),
        number: number("aq-dead-number"),
        attempts: small("aq-dead-attempts"),
        hand_outs: small("__dlq.errors.delivery.count"),
        reason: header("aq-dead-reason"),
        error: header("__dlq.errors.message"),
        key: text(record.key.as_deref()),
    }
}
