//! One `Work` call on the wire.

use std::time::Duration;

use aqueduct_proto::v1::{self, queues_client::QueuesClient, work_request, work_response::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    Error, client::MAX_TRANSPORT_MESSAGE, connection::Connection, times::duration_from_proto,
};

/// If the broker did not say.
const USUAL_LEASE: Duration = Duration::from_secs(30);

/// How to open calls.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) connection: Connection,
    pub(super) open: v1::WorkOpen,
    /// How long one attempt may take.
    pub(super) patience: Duration,
}

/// An open call.
pub(super) struct Wire {
    /// What waits here is bounded by the desk: two requests with verdicts, and a credit for
    /// each of them. `None` after the clean end.
    requests: Option<mpsc::UnboundedSender<v1::WorkRequest>>,
    responses: tonic::Streaming<v1::WorkResponse>,
    /// How long a lease lasts.
    pub(super) lease: Duration,
}

impl Dialer {
    pub(super) async fn dial(&self) -> Result<Wire, Error> {
        let opened = tokio::time::timeout(self.patience, self.open()).await;
        opened.unwrap_or_else(|_| {
            let limit = self.patience.as_millis();
            Err(Error::timeout(format!("no stream within {limit} ms")))
        })
    }

    async fn open(&self) -> Result<Wire, Error> {
        let connection = &self.connection;
        let mut client = QueuesClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE);
        let (requests, asked) = mpsc::unbounded_channel();
        let kind = Some(work_request::Kind::Open(self.open.clone()));
        let sent = requests.send(v1::WorkRequest { kind });
        sent.map_err(|_| Error::internal("the receiver is held below"))?;
        let responses = client.work(UnboundedReceiverStream::new(asked)).await;
        let responses = responses.map_err(|status| Error::from_status(&status))?;
        let mut wire = Wire {
            requests: Some(requests),
            responses: responses.into_inner(),
            lease: USUAL_LEASE,
        };
        match wire.next().await? {
            Some(Kind::Opened(opened)) => {
                let lease = opened.lease.map_or(USUAL_LEASE, duration_from_proto);
                wire.lease = lease.max(Duration::from_millis(100));
                Ok(wire)
            }
            Some(_) => Err(Error::internal(
                "the broker did not begin with its greeting",
            )),
            None => Err(Error::unavailable("the broker ended the stream")),
        }
    }
}

impl Wire {
    /// The next response; `None` at the end. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Option<Kind>, Error> {
        loop {
            match self.responses.message().await {
                Ok(Some(v1::WorkResponse { kind: Some(kind) })) => return Ok(Some(kind)),
                // From a newer broker.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(status) => return Err(Error::from_status(&status)),
            }
        }
    }

    /// If the call has ended, its end is what [`Wire::next`] says next.
    pub(super) fn send(&self, kind: work_request::Kind) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(v1::WorkRequest { kind: Some(kind) });
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
