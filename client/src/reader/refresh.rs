//! Partitions that are added while a reader follows all of a topic.
//!
//! Asks from time to time how many there are, and opens a call for each that is not read, from
//! its first message: whatever is in it was published after reading began. Which ones those are
//! is decided when the answer is there. Where nothing can be learnt the next look will.

use std::{future::Future, pin::Pin, time::Duration};

use aqueduct_proto::v1;

use super::source::Source;
use crate::{Client, From, connection::Connection};

type Eventually<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One look.
pub(super) enum Looking {
    /// How many partitions there are.
    Counting(Eventually<u32>),
    /// A call for each that is not read.
    Opening(Eventually<Vec<(u32, Source)>>),
}

impl Looking {
    pub(super) fn after(pause: Duration, client: Client, topic: String) -> Looking {
        Looking::Counting(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let found = client.get_topic(&topic).await;
            found.map_or(0, |topic| topic.partitions)
        }))
    }

    /// With the reader's request for all partitions, and the credit of each call.
    pub(super) fn open(
        partitions: Vec<u32>,
        connection: Connection,
        all: v1::ReadRequest,
        credit: Option<u64>,
    ) -> Looking {
        Looking::Opening(Box::pin(async move {
            let mut sources = Vec::with_capacity(partitions.len());
            for partition in partitions {
                let request = v1::ReadRequest {
                    partitions: vec![partition],
                    from: Some(From::Start.into_proto()),
                    ..all.clone()
                };
                match Source::open(&connection, request, credit).await {
                    Ok(source) => sources.push((partition, source)),
                    // The next look finds the rest.
                    Err(_) => break,
                }
            }
            sources
        }))
    }
}
