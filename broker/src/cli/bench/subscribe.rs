//! The reading half: what is stored, or what is being published at the same time.

use std::time::{Duration, Instant};

use anyhow::ensure;
use aqueduct_client::{Client, From, Reader, Record};

use super::{
    Clients, Measured, Plan,
    latency::{Latency, stamp},
    publish,
};

/// Reads the topic once from its start, decoding every record.
pub(super) async fn run(plan: &Plan, clients: &Clients) -> anyhow::Result<Measured> {
    let mut readers = Vec::new();
    for _ in 0..plan.connections {
        readers.push(clients.one().await?);
    }
    let start = Instant::now();
    let topic = plan.topic.clone();
    let reads = readers
        .into_iter()
        .map(|client| tokio::spawn(read_all(client, topic.clone())));
    let mut messages = 0;
    for read in futures::future::join_all(reads).await {
        messages += read??;
    }
    Ok(Measured {
        messages,
        elapsed: start.elapsed(),
        latency: None,
        end_to_end: None,
    })
}

async fn read_all(client: Client, topic: String) -> anyhow::Result<u64> {
    let mut reader = client.reader(topic).from(From::Start).build().await?;
    let (mut messages, mut bytes) = (0, 0);
    while let Some(records) = reader.next_chunk().await {
        for record in &records? {
            messages += 1;
            bytes += touch(record);
        }
    }
    ensure!(messages == 0 || bytes > 0, "records came without a byte");
    Ok(messages)
}

/// Looks at the value, so that decoding cannot be left out.
fn touch(record: &Record) -> usize {
    record.value.as_ref().map_or(0, |value| value.len())
}

/// Publishes, and reads what is published on another connection.
pub(super) async fn run_both(plan: &Plan, clients: &Clients) -> anyhow::Result<Measured> {
    let client = clients.one().await?;
    let mut reader = client
        .reader(&plan.topic)
        .from(From::End)
        .follow(true)
        .build()
        .await?;
    // Where each partition begins is settled when the first event says so.
    let first = reader.next_event().await;
    first.transpose()?;
    let (told, mut total) = tokio::sync::watch::channel(None);
    let epoch = plan.epoch;
    let reading = tokio::spawn(async move {
        let mut seen = Seen {
            messages: 0,
            latency: Latency::new(),
            epoch,
        };
        loop {
            tokio::select! {
                biased;
                more = seen.next(&mut reader) => more?,
                changed = total.changed() => changed?,
            }
            if total.borrow().is_some_and(|total| seen.messages >= total) {
                return Ok::<_, anyhow::Error>((seen, Instant::now()));
            }
        }
    });
    let start = Instant::now();
    let mut measured = publish::run(plan, clients).await?;
    told.send(Some(measured.messages))?;
    let patience = Duration::from_secs(30);
    let (seen, end) = tokio::time::timeout(patience, reading).await???;
    measured.elapsed = end - start;
    measured.end_to_end = Some(seen.latency);
    Ok(measured)
}

/// What the reader has got so far.
struct Seen {
    messages: u64,
    latency: Latency,
    epoch: Instant,
}

impl Seen {
    async fn next(&mut self, reader: &mut Reader) -> anyhow::Result<()> {
        let Some(records) = reader.next_chunk().await else {
            anyhow::bail!("the reader ended although it follows");
        };
        let records = records?;
        let now = self.epoch.elapsed();
        self.messages += records.len() as u64;
        for record in &records {
            if let Some(nanos) = record.value.as_ref().and_then(|value| stamp(value)) {
                self.latency
                    .record(now.saturating_sub(Duration::from_nanos(nanos)), 1);
            }
        }
        Ok(())
    }
}
