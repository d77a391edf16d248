//! Requests on their way in: what clients have begun to send and not finished is bounded over all
//! connections, so that many large requests that never end cannot take the node's memory.
//!
//! A message above a small size takes its announced length off a common budget when its first
//! byte comes, and gives it back when its last one has come (what it costs from then on is
//! bounded elsewhere), or when its stream is gone. Whoever finds no room is refused at once: waiting
//! with half a message in hand could wait for another that does the same. A message that has begun
//! has to keep up a least rate, so that it cannot be held for ever. Never looks into a message.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::status::status;
use crate::{
    error::Refusal,
    limits::{BODY_BYTES_PER_SECOND, BODY_GRACE, MAX_ARRIVING_BYTES, MAX_REQUEST_BYTES},
};

/// Messages up to this size are free of the budget, bytes.
const SMALL: usize = 16 << 10;
/// Compression flag and length before each message.
const PREFIX: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How often a message that does not come is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Bytes that all messages on their way in have taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(Arc<AtomicUsize>);

impl Arrivals {
    fn take(&self, bytes: usize) -> Result<(), Refusal> {
        let before = self.0.fetch_add(bytes, Relaxed);
        if before + bytes <= MAX_ARRIVING_BYTES {
            return Ok(());
        }
        self.0.fetch_sub(bytes, Relaxed);
        Err(Refusal::LimitReached {
            what: "bytes of large requests that have begun to arrive, of all clients".into(),
            limit: MAX_ARRIVING_BYTES as u64,
        })
    }
}

/// The body of a gRPC request.
pub(crate) struct Arriving<B> {
    body: B,
    arrivals: Arrivals,
    progress: Progress,
    pace: Pace,
    /// Wakes the reader of a message that does not come; made when there is one.
    tick: Option<Pin<Box<Sleep>>>,
}

/// How long the present message was waited for.
///
/// Only time counts in which somebody waited: a reader that is held up elsewhere looks away, and
/// then one tick at most is counted against the client.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    /// Nothing of the message has come. True: for too long.
    fn wait(&mut self, now: Instant, come: usize) -> bool {
        self.arrive(now);
        self.since = Some(now);
        let earned = Duration::from_secs((come / BODY_BYTES_PER_SECOND) as u64);
        self.waited > BODY_GRACE + earned
    }

    /// Something has come.
    fn arrive(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += (now - since).min(TICK);
        }
    }
}

/// Where in its messages a body stands.
#[derive(Debug, Default)]
struct Progress {
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes of the present message that have not come.
    left: usize,
    /// What the present message took off the budget.
    taken: usize,
    /// Bytes of the present message that have come.
    come: usize,
    /// Messages that have come whole.
    whole: u64,
}

impl<B> Arriving<B> {
    pub(crate) fn new(body: B, arrivals: Arrivals) -> Self {
        Self {
            body,
            arrivals,
            progress: Progress::default(),
            pace: Pace::default(),
            tick: None,
        }
    }

    /// Nothing has come: looks at how long a message that has begun was waited for.
    fn wait(&mut self, context: &mut Context<'_>) -> Result<(), Refusal> {
        if !self.progress.has_begun() {
            return Ok(());
        }
        let now = Instant::now();
        if self.pace.wait(now, self.progress.come) {
            return Err(Refusal::TooSlow {
                bytes: self.progress.come as u64,
                seconds: self.pace.waited.as_secs(),
            });
        }
        let tick = self
            .tick
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(now + TICK)));
        tick.as_mut().reset(now + TICK);
        // It has just been set and is not over; what counts is that it wakes us.
        let _ = tick.as_mut().poll(context);
        Ok(())
    }
}

impl Progress {
    /// Is a message under way?
    fn has_begun(&self) -> bool {
        self.left > 0 || self.have > 0
    }

    fn advance(&mut self, mut data: &[u8], arrivals: &Arrivals) -> Result<(), Refusal> {
        while !data.is_empty() {
            if self.left > 0 {
                let now = self.left.min(data.len());
                self.left -= now;
                self.come += now;
                data.advance(now);
            } else {
                let now = (PREFIX - self.have).min(data.len());
                self.prefix[self.have..self.have + now].copy_from_slice(&data[..now]);
                self.have += now;
                data.advance(now);
                if self.have == PREFIX {
                    self.begin(arrivals)?;
                }
            }
            if !self.has_begun() {
                self.give_back(arrivals);
                self.come = 0;
                self.whole += 1;
            }
        }
        Ok(())
    }

    fn begin(&mut self, arrivals: &Arrivals) -> Result<(), Refusal> {
        self.have = 0;
        let [_, a, b, c, d] = self.prefix;
        self.left = u32::from_be_bytes([a, b, c, d]) as usize;
        // A longer one is refused by its length, before any of it is kept.
        let bytes = self.left.min(MAX_REQUEST_BYTES);
        if bytes > SMALL {
            arrivals.take(bytes)?;
            self.taken = bytes;
        }
        Ok(())
    }

    fn give_back(&mut self, arrivals: &Arrivals) {
        // Most took nothing, and all threads share the counter.
        if self.taken > 0 {
            arrivals.0.fetch_sub(self.taken, Relaxed);
            self.taken = 0;
        }
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        self.progress.give_back(&self.arrivals);
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => {
                return match this.wait(context) {
                    Ok(()) => Poll::Pending,
                    Err(refusal) => refuse(&refusal),
                };
            }
            other => return other.map_err(Into::into),
        };
        let Some(data) = frame.data_ref() else {
            return Poll::Ready(Some(Ok(frame)));
        };
        let whole = this.progress.whole;
        if let Err(refusal) = this.progress.advance(data, &this.arrivals) {
            return refuse(&refusal);
        }
        if this.progress.whole > whole {
            this.pace = Pace::default();
        } else if this.pace.since.is_some() {
            this.pace.arrive(Instant::now());
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn refuse(refusal: &Refusal) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    Poll::Ready(Some(Err(status(refusal).into())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((len as u32).to_be_bytes());
        bytes.resize(PREFIX + len, 7);
        bytes
    }

    #[test]
    fn what_is_on_its_way_is_counted_however_it_is_cut() {
        let lengths = [0, 1, SMALL, SMALL + 1, 100_000, 3];
        let bytes: Vec<u8> = lengths.iter().flat_map(|len| message(*len)).collect();
        for step in [1, 2, 3, 5, 4_096, 16_389, 70_000, bytes.len()] {
            let (arrivals, mut progress) = (Arrivals::default(), Progress::default());
            let mut most = 0;
            for piece in bytes.chunks(step) {
                progress.advance(piece, &arrivals).unwrap();
                most = most.max(arrivals.0.load(Relaxed));
            }
            assert_eq!(arrivals.0.load(Relaxed), 0, "all have come, by {step}");
            assert!(step == bytes.len() || most == 100_000, "{most} by {step}");
        }
    }

    #[test]
    fn the_budget_is_refused_beyond_and_given_back() {
        let arrivals = Arrivals::default();
        let begun = |arrivals: &Arrivals| {
            let mut body = Arriving::new((), arrivals.clone());
            let begin = &message(MAX_REQUEST_BYTES)[..PREFIX + 1];
            body.progress.advance(begin, arrivals).map(|()| body)
        };
        let room = MAX_ARRIVING_BYTES / MAX_REQUEST_BYTES;
        let mut bodies: Vec<_> = (0..room)
            .map(|_| begun(&arrivals).unwrap_or_else(|r| panic!("{r}")))
            .collect();
        assert!(matches!(
            begun(&arrivals),
            Err(Refusal::LimitReached { .. })
        ));
        drop(bodies.pop());
        assert!(begun(&arrivals).is_ok(), "there is room again");
        drop(bodies);
        assert_eq!(arrivals.0.load(Relaxed), 0);
    }

    #[test]
    fn a_message_has_to_keep_up_a_least_rate() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let grace_ms = BODY_GRACE.as_millis() as u64;
        // A byte now and then.
        let mut pace = Pace::default();
        let ended = (0..1_000_u64).find(|n| pace.wait(at(n * 200), *n as usize));
        let ended_ms = ended.unwrap() * 200;
        assert!(
            (grace_ms..grace_ms + 1_000).contains(&ended_ms),
            "{ended_ms}"
        );
        // Twice the least rate.
        let mut pace = Pace::default();
        let fast = |n: u64| n as usize * 2 * BODY_BYTES_PER_SECOND;
        assert!((0..1_000).all(|n| !pace.wait(at(n * 1_000), fast(n))));
        // Nobody looked for an hour, though the client had sent what it may.
        let mut pace = Pace::default();
        assert!(!pace.wait(at(0), 1));
        pace.arrive(at(3_600_000));
        assert!(!pace.wait(at(3_600_000), 2), "a tick at most");
    }

    /// A body that has begun a message and brings nothing more.
    struct Stuck(Option<Bytes>);

    impl Body for Stuck {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.take() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn what_stops_in_the_middle_gives_its_room_back() {
        use http_body_util::BodyExt as _;
        let arrivals = Arrivals::default();
        let begun = Bytes::from(message(100_000)).slice(..5_000);
        let mut body = Arriving::new(Stuck(Some(begun)), arrivals.clone());
        body.frame().await.unwrap().unwrap();
        assert_eq!(arrivals.0.load(Relaxed), 100_000);
        // As if it had been waited for already; the next tick ends it.
        body.pace.waited = BODY_GRACE;
        let refused = body.frame().await.unwrap().unwrap_err();
        let refused = refused.downcast::<tonic::Status>().unwrap();
        assert!(refused.message().contains("4995 bytes"), "{refused}");
        drop(body);
        assert_eq!(arrivals.0.load(Relaxed), 0);
        // Between messages a stream may be silent for as long as it likes.
        let mut body = Arriving::new(Stuck(Some(message(3).into())), arrivals);
        body.frame().await.unwrap().unwrap();
        body.pace.waited = BODY_GRACE * 2;
        let silent = std::future::poll_fn(|context| {
            let polled = Pin::new(&mut body).poll_frame(context);
            Poll::Ready(polled.is_pending())
        });
        assert!(silent.await);
        assert!(body.tick.is_none(), "nothing is waited for");
    }
}
