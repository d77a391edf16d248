//! The request body of a publish stream: parcels as gRPC frames.
//!
//! A frame is a zero byte, four bytes of length (big-endian) and the message. The bytes of a
//! large record batch are handed on as they are, behind a few bytes of frame and field tags:
//!
//! ```text
//! 0 | length u32 | 1a varint(len) | 08 partition | 12 varint(len) | records ...
//!                  field 3: batch   field 1        field 2
//! ```
//! Small messages are gathered, so that a frame of HTTP/2 carries many.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use aqueduct_proto::v1;
use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::body::Frame;
use prost::Message as _;
use tokio::time::Sleep;

use super::{
    Shared,
    window::{Body, Next},
};

/// From here on a batch's bytes are handed on instead of copied.
const COPY_BELOW: usize = 4 << 10;
/// How much is gathered into one piece.
const GATHER: usize = 64 << 10;

/// Pulls what is to be sent from the window. At most one body of a producer is live.
pub(super) struct Outgoing {
    shared: Arc<Shared>,
    stream: u64,
    gathered: BytesMut,
    /// Follows what was gathered.
    whole: Option<Bytes>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    pub(super) fn new(shared: Arc<Shared>, stream: u64, topic: &str) -> Self {
        let open = v1::PublishOpen {
            topic: topic.to_owned(),
        };
        let kind = v1::publish_stream_request::Kind::Open(open);
        let mut gathered = BytesMut::new();
        put_message(
            &mut gathered,
            &v1::PublishStreamRequest { kind: Some(kind) },
        );
        Self {
            shared,
            stream,
            gathered,
            whole: None,
            timer: None,
        }
    }

    /// Gathers until there is enough or nothing left; true at the end of the stream.
    fn gather(&mut self, context: &mut Context<'_>) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if state.stream != self.stream {
            return true;
        }
        let mut now = Instant::now();
        while self.whole.is_none() && self.gathered.len() < GATHER {
            let next_at = match state.window.next(now) {
                Next::Send(parcel) => {
                    self.put(&parcel.body);
                    continue;
                }
                Next::Wait(at) => at,
            };
            if state.closing && state.window.is_empty() {
                return true;
            }
            state.set_body(context.waker());
            match next_at {
                Some(at) if self.sleep_until(at, context) => now = Instant::now(),
                _ => return false,
            }
        }
        false
    }

    /// Arms the timer; true if its time has come already.
    fn sleep_until(&mut self, at: Instant, context: &mut Context<'_>) -> bool {
        let at = tokio::time::Instant::from_std(at);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context).is_ready()
    }

    fn put(&mut self, body: &Body) {
        match body {
            Body::Messages { request, .. } => put_message(&mut self.gathered, request),
            Body::Batch { partition, records } => {
                put_batch_head(&mut self.gathered, *partition, records.len());
                if records.len() < COPY_BELOW {
                    self.gathered.put_slice(records);
                } else {
                    self.whole = Some(records.clone());
                }
            }
        }
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let ended = this.whole.is_none() && this.gather(context);
        if !this.gathered.is_empty() {
            let piece = this.gathered.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match this.whole.take() {
            Some(records) => Poll::Ready(Some(Ok(Frame::data(records)))),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // The transport gave up on this stream; the answers' end tells the driver why.
        self.shared.driver.notify_one();
    }
}

/// A message in its frame.
fn put_message(target: &mut BytesMut, message: &v1::PublishStreamRequest) {
    let length = message.encoded_len();
    target.reserve(5 + length);
    target.put_u8(0);
    target.put_u32(u32::try_from(length).expect("messages are bounded far below 4 GiB"));
    message.encode_raw(target);
}

/// Everything of a batch's frame that comes before its records.
fn put_batch_head(target: &mut BytesMut, partition: u32, records: usize) {
    const BATCH: u8 = 3 << 3 | 2;
    const PARTITION: u8 = 1 << 3;
    const RECORDS: u8 = 2 << 3 | 2;
    let mut fields = BytesMut::with_capacity(16);
    if partition != 0 {
        fields.put_u8(PARTITION);
        prost::encoding::encode_varint(partition.into(), &mut fields);
    }
    fields.put_u8(RECORDS);
    prost::encoding::encode_varint(records as u64, &mut fields);
    let inner = fields.len() + records;
    let length = 1 + prost::length_delimiter_len(inner) + inner;
    target.put_u8(0);
    target.put_u32(u32::try_from(length).expect("batches are bounded far below 4 GiB"));
    target.put_u8(BATCH);
    prost::encoding::encode_varint(inner as u64, target);
    target.put_slice(&fields);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_batch_frame_decodes_as_the_message_it_stands_for() {
        for (partition, length) in [(0, 1), (1, 61), (300, 5000), (u32::MAX, 70_000)] {
            let records = Bytes::from(vec![7; length]);
            let mut frame = BytesMut::new();
            put_batch_head(&mut frame, partition, length);
            frame.put_slice(&records);
            assert_eq!(frame[0], 0);
            let declared = u32::from_be_bytes(frame[1..5].try_into().unwrap());
            assert_eq!(declared as usize, frame.len() - 5);
            let decoded = v1::PublishStreamRequest::decode(&frame[5..]).unwrap();
            let batch = v1::PublishBatch {
                partition,
                records,
                ..Default::default()
            };
            let kind = Some(v1::publish_stream_request::Kind::Batch(batch));
            assert_eq!(decoded, v1::PublishStreamRequest { kind });
        }
    }
}
