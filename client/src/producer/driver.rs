//! Keeps a publish stream open and takes its answers to the window.
//!
//! One task per producer. It ends when the producer is closed and everything is answered, or
//! for good after a refusal that cannot heal (fenced, topic gone, not allowed).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{self, publish_stream_response::Kind};

use super::{
    Ack, ProducerBuilder, Shared, Wall,
    window::{Answer, Verdict},
    wire::Outgoing,
};
use crate::{Error, backoff::Backoff, connection::Connection, stream};

const PATH: &str = "/aqueduct.v1.Publisher/PublishStream";
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How a stream ended.
enum End {
    /// Closed and everything answered.
    Done,
    /// Connect again and go on.
    Lost(Error),
    /// Nothing more can be sent.
    Final(Error),
}

pub(super) async fn run(shared: Arc<Shared>, settings: ProducerBuilder) {
    let connection = settings.client.connection().sibling();
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    let mut first = true;
    loop {
        let end = session(&shared, &settings, &connection, &mut backoff, first).await;
        first = false;
        let error = match end {
            End::Done => return,
            End::Final(error) => return fail(&shared, error),
            End::Lost(error) => error,
        };
        tracing::debug!(
            error = error.message(),
            topic = settings.topic,
            "publish stream lost"
        );
        {
            let mut state = shared.lock();
            state.stream += 1;
            state.body = None;
            state.window.lost(&error);
        }
        shared.room_freed();
        if let Err(error) = expire(&shared, &settings, &error) {
            return fail(&shared, error);
        }
        if is_over(&shared) {
            return;
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// One stream from its opening to its end.
async fn session(
    shared: &Arc<Shared>,
    settings: &ProducerBuilder,
    connection: &Connection,
    backoff: &mut Backoff,
    first: bool,
) -> End {
    let opening = open(shared, settings, connection, first);
    let mut answers = match tokio::time::timeout(settings.delivery_timeout, opening).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => return ended(error),
        Err(_) => return End::Lost(Error::timeout("the publish stream did not open")),
    };
    let mut tick = tokio::time::interval((settings.delivery_timeout / 8).min(TICK));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut request = 0;
    let refresh = refresh_partitions(shared, settings);
    tokio::pin!(refresh);
    loop {
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) if answer.request == request => {
                    request += 1;
                    backoff.reset();
                    if let Some(end) = take(shared, settings, answer) {
                        return end;
                    }
                }
                Ok(Some(_)) => return End::Lost(Error::internal("answers out of order")),
                Ok(None) if is_over(shared) => return End::Done,
                Ok(None) => return End::Lost(Error::unavailable("the broker ended the stream")),
                Err(status) => return ended(Error::from_status(&status)),
            },
            _ = tick.tick() => {
                if expired(shared, settings) {
                    return End::Lost(Error::timeout("no answer in time"));
                }
            }
            () = &mut refresh => {}
            () = shared.driver.notified() => {}
        }
        if is_over(shared) {
            return End::Done;
        }
        if shared.lock().window.has_unsafe_numbers() {
            return End::Final(renumbered());
        }
    }
}

const TICK: Duration = Duration::from_millis(500);
/// How often the number of partitions is asked for: producers that disagree about it would put
/// the same key into different partitions.
const PARTITIONS_AGE: Duration = Duration::from_secs(30);

/// Keeps the number of partitions fresh; never ends.
async fn refresh_partitions(shared: &Shared, settings: &ProducerBuilder) {
    loop {
        tokio::time::sleep(PARTITIONS_AGE).await;
        // Without an answer the old number stays; what is wrong shows with the next publish.
        if let Ok(topic) = settings.client.get_topic(&settings.topic).await {
            shared.lock().window.set_partitions(topic.partitions);
        }
    }
}

async fn open(
    shared: &Arc<Shared>,
    settings: &ProducerBuilder,
    connection: &Connection,
    first: bool,
) -> Result<tonic::Streaming<v1::PublishStreamResponse>, Error> {
    if !shared.lock().window.has_identity() {
        let (identity, stored) = settings.introduce().await?;
        shared.lock().window.set_identity(Some(identity), &stored);
    }
    if !first {
        let partitions = settings.find_partitions().await?;
        shared.lock().window.set_partitions(partitions);
    }
    let stream = shared.lock().stream;
    let body = Outgoing::new(shared.clone(), stream, &settings.topic);
    stream::open(connection, PATH, tonic::body::Body::new(body)).await
}

/// Takes one answer; says if it ends the stream.
fn take(
    shared: &Shared,
    settings: &ProducerBuilder,
    response: v1::PublishStreamResponse,
) -> Option<End> {
    let answer = match response.kind {
        Some(Kind::Batch(batch)) => match batch.error {
            None => Answer::Stored {
                partition: batch.partition,
                base_offset: batch.base_offset,
                duplicate: batch.duplicate,
            },
            Some(status) => Answer::Refused(Error::from_rpc(status)),
        },
        Some(Kind::Results(answer)) => {
            Answer::Each(answer.results.into_iter().map(Ack::from_result).collect())
        }
        None => return Some(End::Lost(Error::internal("an answer without content"))),
    };
    let verdict = {
        let mut state = shared.lock();
        let verdict = state.window.answer(answer, &Wall);
        if state.window.has_something_to_send() {
            state.wake_body();
        }
        verdict
    };
    shared.room_freed();
    match verdict {
        Verdict::GoOn => None,
        Verdict::Confused(why) => Some(End::Lost(Error::internal(why))),
        Verdict::Fenced => {
            let message = format!(
                "another producer has taken over the name {:?}",
                settings.name
            );
            Some(End::Final(Error::fenced(message)))
        }
        Verdict::UnknownHere => Some(End::Lost(Error::unavailable(
            "the broker does not know this producer's id",
        ))),
        Verdict::LostCount if settings.name.is_empty() => {
            shared.lock().window.forget_identity();
            Some(End::Lost(Error::internal(
                "the broker counts this producer differently",
            )))
        }
        Verdict::LostCount => {
            let message = "the broker has another sequence for this producer: build it again";
            Some(End::Final(Error::conflict(message)))
        }
    }
}

fn renumbered() -> Error {
    Error::conflict(
        "a batch was refused while later ones were in flight on a connection that broke: what is \
         stored of them is known to the broker alone; build this named producer again",
    )
}

/// Whether what ended a stream can heal.
fn ended(error: Error) -> End {
    match error {
        Error::NotFound(_)
        | Error::Invalid(_)
        | Error::Denied(_)
        | Error::Fenced(_)
        | Error::TooLarge(_)
        | Error::AlreadyExists(_)
        | Error::OutOfRange { .. } => End::Final(error),
        _ => End::Lost(error),
    }
}

fn is_over(shared: &Shared) -> bool {
    let state = shared.lock();
    state.closing && state.window.is_empty()
}

fn expired(shared: &Shared, settings: &ProducerBuilder) -> bool {
    shared
        .lock()
        .window
        .expired(Instant::now(), settings.delivery_timeout)
}

/// Ends what has been on its way for too long. An unnamed producer goes on under a new
/// identity; a named one cannot, because its next sequence depends on what is unknown.
fn expire(shared: &Shared, settings: &ProducerBuilder, last: &Error) -> Result<(), Error> {
    if !expired(shared, settings) {
        return Ok(());
    }
    let limit = settings.delivery_timeout.as_millis();
    let message = format!("not delivered within {limit} ms; last: {}", last.message());
    let error = Error::timeout(message);
    {
        let mut state = shared.lock();
        state.window.fail_all(&error);
        state.window.forget_identity();
    }
    shared.room_freed();
    if settings.name.is_empty() {
        Ok(())
    } else {
        Err(error)
    }
}

/// Ends the producer for good.
fn fail(shared: &Shared, error: Error) {
    {
        let mut state = shared.lock();
        state.stream += 1;
        state.window.lost(&error);
        state.window.fail_all(&error);
        state.failed = Some(error);
    }
    shared.room_freed();
}
