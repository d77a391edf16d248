//! Partitions that are added while a reader follows all of a topic.
//!
//! Looks from time to time how many there are, and opens a call for each new one, from its first
//! message: whatever is in it was published after reading began. Where nothing can be learnt the
//! next look will.

use std::{future::Future, pin::Pin, time::Duration};

use aqueduct_proto::v1;

use super::source::Source;
use crate::{Client, From, connection::Connection};

/// Ends with the calls for what is new, if anything is.
pub(super) type Looking = Pin<Box<dyn Future<Output = Vec<Source>> + Send>>;

/// What a look needs to know.
pub(super) struct Look {
    pub(super) client: Client,
    pub(super) connection: Connection,
    /// As the reader's, for all partitions.
    pub(super) request: v1::ReadRequest,
    /// Partitions that are read already.
    pub(super) known: u32,
    pub(super) credit: Option<u64>,
}

impl Look {
    pub(super) fn after(self, pause: Duration) -> Looking {
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            let found = self.client.get_topic(&self.request.topic).await;
            let partitions = found.map_or(0, |topic| topic.partitions);
            let mut sources = Vec::new();
            for partition in self.known..partitions {
                let request = v1::ReadRequest {
                    partitions: vec![partition],
                    from: Some(From::Start.into_proto()),
                    ..self.request.clone()
                };
                match Source::open(&self.connection, request, self.credit).await {
                    Ok(source) => sources.push(source),
                    // Never one without those before it: the next look counts on from here.
                    Err(_) => break,
                }
            }
            sources
        })
    }
}
