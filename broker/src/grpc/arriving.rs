//! Requests on their way in: what clients have begun to send and not finished is bounded over all
//! connections, so that many large requests that never end cannot take the node's memory.
//!
//! A message above a small size takes its announced length off a common budget when its first
//! byte comes, and gives it back when its last one has come (what it costs from then on is
//! bounded elsewhere), or when its stream is gone. Whoever finds no room is refused at once: waiting
//! with half a message in hand could wait for another that does the same. Never looks into a
//! message.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::status::status;
use crate::{
    error::Refusal,
    limits::{MAX_ARRIVING_BYTES, MAX_REQUEST_BYTES},
};

/// Messages up to this size are free of the budget, bytes.
const SMALL: usize = 16 << 10;
/// Compression flag and length before each message.
const PREFIX: usize = 5;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
}

impl<B> Arriving<B> {
    pub(crate) fn new(body: B, arrivals: Arrivals) -> Self {
        Self {
            body,
            arrivals,
            progress: Progress::default(),
        }
    }
}

impl Progress {
    fn advance(&mut self, mut data: &[u8], arrivals: &Arrivals) -> Result<(), Refusal> {
        while !data.is_empty() {
            if self.left > 0 {
                let now = self.left.min(data.len());
                self.left -= now;
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
            if self.left == 0 {
                self.give_back(arrivals);
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
        arrivals.0.fetch_sub(self.taken, Relaxed);
        self.taken = 0;
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
            other => return other.map_err(Into::into),
        };
        if let Some(data) = frame.data_ref()
            && let Err(refusal) = this.progress.advance(data, &this.arrivals)
        {
            return Poll::Ready(Some(Err(status(&refusal).into())));
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
}
