//! One `Consume` call on the wire.

use std::time::Duration;

use aqueduct_proto::v1::{
    self, consume_request, consume_response::Kind, consumer_client::ConsumerClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    Error, client::MAX_TRANSPORT_MESSAGE, connection::Connection, times::duration_from_proto,
};

/// Heartbeats go out at least this often, whatever the broker says.
const SLOWEST_HEARTBEAT: Duration = Duration::from_secs(60);

/// An open call: joined, with an id.
pub(super) struct Wire {
    /// What waits here is bounded by the core: one request with commits, two grants, and
    /// heartbeats until the connection is found to be dead. `None` after the clean end.
    requests: Option<mpsc::UnboundedSender<v1::ConsumeRequest>>,
    responses: tonic::Streaming<v1::ConsumeResponse>,
    pub(super) member_id: String,
    pub(super) heartbeat: Duration,
}

impl Wire {
    /// Joins, and waits at most `patience` for the broker's word.
    pub(super) async fn open(
        connection: &Connection,
        open: v1::ConsumeOpen,
        patience: Duration,
    ) -> Result<Self, Error> {
        let joined = tokio::time::timeout(patience, Self::join(connection, open)).await;
        joined.unwrap_or_else(|_| {
            let limit = patience.as_millis();
            Err(Error::timeout(format!("not joined within {limit} ms")))
        })
    }

    async fn join(connection: &Connection, open: v1::ConsumeOpen) -> Result<Self, Error> {
        let mut client = ConsumerClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE);
        let (requests, asked) = mpsc::unbounded_channel();
        let first = v1::ConsumeRequest {
            kind: Some(consume_request::Kind::Open(open)),
        };
        let sent = requests.send(first);
        sent.map_err(|_| Error::internal("the receiver is held below"))?;
        let responses = client.consume(UnboundedReceiverStream::new(asked)).await;
        let responses = responses.map_err(|status| Error::from_status(&status))?;
        let mut wire = Self {
            requests: Some(requests),
            responses: responses.into_inner(),
            member_id: String::new(),
            heartbeat: SLOWEST_HEARTBEAT,
        };
        match wire.next().await? {
            Some(Kind::Opened(opened)) => {
                wire.member_id = opened.member_id;
                let interval = opened.heartbeat_interval.map(duration_from_proto);
                let shortest = Duration::from_millis(10);
                wire.heartbeat = interval
                    .unwrap_or(SLOWEST_HEARTBEAT)
                    .clamp(shortest, SLOWEST_HEARTBEAT);
                Ok(wire)
            }
            Some(_) => Err(Error::internal(
                "the broker did not begin with its greeting",
            )),
            None => Err(Error::unavailable("the broker ended the stream")),
        }
    }

    /// The next response; `None` at the end. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<Kind>, Error> {
        loop {
            match self.responses.message().await {
                Ok(Some(v1::ConsumeResponse { kind: Some(kind) })) => return Ok(Some(kind)),
                // From a newer broker.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(status) => return Err(Error::from_status(&status)),
            }
        }
    }

    /// If the call has ended, its end is what [`Wire::next`] says next.
    pub(super) fn send(&self, kind: consume_request::Kind) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(v1::ConsumeRequest { kind: Some(kind) });
        }
    }

    /// Leaves: nothing more is sent.
    pub(super) fn finish(&mut self) {
        self.requests = None;
    }

    pub(super) fn is_finished(&self) -> bool {
        self.requests.is_none()
    }
}
