//! Request bodies: bounded in bytes, in time, and in what all of them hold together.
//!
//! A body that is announced as too large is refused before a byte of it is read. A slow one has to
//! keep up a least rate, so it cannot hold its memory for ever. Bodies beyond a small size share
//! one budget, so that many large ones at a time cannot take the node's memory.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tonic::Code;

use super::status::Problem;
use crate::{
    error::reason,
    limits::{BODY_BYTES_PER_SECOND, BODY_GRACE, MAX_BODIES_BYTES},
};

/// Bodies up to this size are free of the common budget, bytes.
const SMALL: usize = 64 << 10;
/// Bytes that one permit of the budget stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// The budget that all bodies share.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

/// A body that has arrived, with its share of the budget.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(Arc::new(Semaphore::new(MAX_BODIES_BYTES / PERMIT_BYTES)))
    }

    /// A share for so many bytes, at once or not at all: whoever waited here with half a body in
    /// hand could wait for another that does the same.
    fn share(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(permits).map_err(|_| {
            let message = format!(
                "the bodies of other requests take all of {MAX_BODIES_BYTES} bytes that they may"
            );
            let (http, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable);
            Problem::new(http, code, reason::TOO_MANY_BODIES, message)
                .with("limit", MAX_BODIES_BYTES)
                .retry_after(Duration::from_secs(1))
        })
    }

    /// Reads a whole body.
    ///
    /// # Errors
    /// If it is too large, too slow, breaks off, or there is no room.
    pub(super) async fn read<B>(&self, mut body: B, limit: usize) -> Result<Whole, Problem>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let announced = body.size_hint().lower();
        if announced > limit as u64 {
            return Err(Problem::too_large("body", announced, limit as u64));
        }
        // What is not announced may become as large as the limit.
        let expected = body.size_hint().upper().unwrap_or(limit as u64) as usize;
        let mut share = None;
        if body.size_hint().exact().is_some() && expected > SMALL {
            share = Some(self.share(expected)?);
        }
        let start = Instant::now();
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let received = first.len() + rest.len();
            let Some(data) = next(&mut body, start, received).await? else {
                break;
            };
            if received + data.len() > limit {
                let bytes = (received + data.len()) as u64;
                return Err(Problem::too_large("body", bytes, limit as u64));
            }
            if share.is_none() && received + data.len() > SMALL {
                share = Some(self.share(expected.min(limit))?);
            }
            if first.is_empty() {
                first = data;
            } else {
                if rest.is_empty() {
                    rest.reserve(expected.min(SMALL).max(data.len()));
                }
                rest.extend_from_slice(&data);
            }
        }
        if !rest.is_empty() {
            let mut all = BytesMut::with_capacity(first.len() + rest.len());
            all.extend_from_slice(&first);
            all.extend_from_slice(&rest);
            first = all.freeze();
        }
        Ok(Whole {
            bytes: first,
            _share: share,
        })
    }
}

/// The next piece; waits no longer than what has arrived so far allows.
async fn next<B>(body: &mut B, start: Instant, received: usize) -> Result<Option<Bytes>, Problem>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    loop {
        let mut pinned = Pin::new(&mut *body);
        let mut frame = pinned.frame();
        // Mostly it is there already, and no timer is needed.
        let frame = match (&mut frame).now_or_never() {
            Some(frame) => frame,
            None => {
                let earned = Duration::from_secs((received / BODY_BYTES_PER_SECOND) as u64);
                let deadline = start + BODY_GRACE + earned;
                tokio::time::timeout_at(deadline, frame)
                    .await
                    .map_err(|_| too_slow(received))?
            }
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                let why = format!("it broke off after {received} bytes: {error}");
                return Err(Problem::invalid("body", &why));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn too_slow(received: usize) -> Problem {
    let message = format!(
        "the body is too slow: {received} bytes came in {} s and more; at least {BODY_BYTES_PER_SECOND} bytes a second are needed",
        BODY_GRACE.as_secs()
    );
    let (http, code) = (StatusCode::REQUEST_TIMEOUT, Code::Cancelled);
    Problem::new(http, code, reason::BODY_TOO_SLOW, message)
}
