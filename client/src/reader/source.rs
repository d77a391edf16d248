//! One read call on the wire, with its credit.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use aqueduct_proto::v1::{self, read_stream_request::Kind, reader_client::ReaderClient};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{Error, client::MAX_TRANSPORT_MESSAGE, connection::Connection};

/// No credit in messages is ever the limit here: bytes are.
const UNLIMITED_MESSAGES: u64 = 1 << 48;

/// What a source delivers.
pub(super) enum Item {
    Response(v1::ReadResponse, Arc<Credit>),
    Failed(tonic::Status),
}

/// Gives the broker leave to send more as received bytes are taken.
#[derive(Debug)]
pub(super) struct Credit {
    /// At most one grant per half of the credit waits here, so it needs no bound.
    grants: Option<mpsc::UnboundedSender<v1::ReadStreamRequest>>,
    half: u64,
    consumed: AtomicU64,
}

impl Credit {
    fn new(grants: Option<mpsc::UnboundedSender<v1::ReadStreamRequest>>, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            grants,
            half: bytes / 2,
            consumed: AtomicU64::new(0),
        })
    }

    pub(super) fn consumed(&self, bytes: u64) {
        let Some(grants) = &self.grants else { return };
        let consumed = self.consumed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > 0 && consumed > self.half {
            self.consumed.fetch_sub(consumed, Ordering::Relaxed);
            let credit = v1::Credit {
                messages: 0,
                bytes: consumed,
            };
            // If the call has ended, its end is what the reader sees next.
            let _ = grants.send(v1::ReadStreamRequest {
                kind: Some(Kind::Credit(credit)),
            });
        }
    }
}

/// A stream of one call's responses. Ends after a failure, or when the broker ends it.
pub(super) struct Source {
    responses: tonic::Streaming<v1::ReadResponse>,
    credit: Arc<Credit>,
    ended: bool,
}

impl Source {
    pub(super) async fn open(
        connection: &Connection,
        request: v1::ReadRequest,
        credit: Option<u64>,
    ) -> Result<Self, Error> {
        let mut client = ReaderClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE);
        let Some(bytes) = credit else {
            let responses = client.read(request).await;
            let responses = responses
                .map_err(|status| Error::from_status(&status))?
                .into_inner();
            return Ok(Self {
                responses,
                credit: Credit::new(None, 0),
                ended: false,
            });
        };
        let (grants, granted) = mpsc::unbounded_channel();
        let first = v1::Credit {
            messages: UNLIMITED_MESSAGES,
            bytes,
        };
        for kind in [Kind::Open(request), Kind::Credit(first)] {
            let sent = grants.send(v1::ReadStreamRequest { kind: Some(kind) });
            sent.map_err(|_| Error::internal("the receiver is held below"))?;
        }
        let responses = client
            .read_stream(UnboundedReceiverStream::new(granted))
            .await;
        let responses = responses
            .map_err(|status| Error::from_status(&status))?
            .into_inner();
        Ok(Self {
            responses,
            credit: Credit::new(Some(grants), bytes),
            ended: false,
        })
    }
}

impl Stream for Source {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(response) = Pin::new(&mut self.responses).poll_next(context) else {
            return Poll::Pending;
        };
        Poll::Ready(match response {
            Some(Ok(response)) => Some(Item::Response(response, self.credit.clone())),
            Some(Err(status)) => {
                self.ended = true;
                Some(Item::Failed(status))
            }
            None => None,
        })
    }
}
