//! How messages become parcels: lanes, open batches, and what a resuming producer skips.

use std::{sync::Arc, time::Instant};

use aqueduct_proto::{batch::BatchHeader, v1};
use bytes::Bytes;

use super::{
    Added, Clock, Resume, Window,
    parcel::{Body, Contents, Identity, Load, Open, Parcel, sequence_of},
};
use crate::{
    Error, Message,
    producer::{
        Ack,
        delivery::{Completion, Outcome},
    },
};

/// What a message costs beside its bytes: record framing, its share of bookkeeping.
const MESSAGE_OVERHEAD: usize = 24;

impl Window {
    /// The partition of a message without key. A resuming producer must choose the same one in
    /// each run, so it goes by turns.
    pub(in crate::producer) fn keyless_partition(&mut self) -> u32 {
        let current = self.sticky.current();
        if self.settings.resume {
            self.sticky.next_batch();
        }
        current
    }

    /// Counts a message of a resuming producer, and says whether an earlier run stored it.
    pub(in crate::producer) fn resume(&mut self, partition: u32) -> Resume {
        let lane = &mut self.lanes[partition as usize];
        if !self.settings.resume || lane.replayed >= lane.at_start.count {
            return Resume::New;
        }
        let ordinal = lane.replayed;
        lane.replayed += 1;
        // If the producer's n messages lie in the first n offsets, then they are all there is,
        // and each lies at its own number. Else others write here too.
        let alone = lane.at_start.last_offset.checked_add(1) == Some(lane.at_start.count);
        let offset = if alone { ordinal } else { Ack::UNKNOWN_OFFSET };
        Resume::Stored(Ack {
            partition,
            offset,
            duplicate: true,
        })
    }

    /// Puts a message into the open batch of its lane. The clock is asked only where a time is
    /// needed: at millions of messages a second its two calls would be a tenth of the work.
    pub(in crate::producer) fn add(
        &mut self,
        partition: u32,
        message: Message,
        clock: &impl Clock,
    ) -> Added {
        let place = if self.settings.plain { 0 } else { partition };
        let as_message = self.settings.plain || message.dedup_id.is_some() || message.is_delayed();
        let bytes = message.size() + MESSAGE_OVERHEAD;
        let mut filled = self.make_way(place, as_message, bytes);
        let lane = &mut self.lanes[place as usize];
        let hint = lane.last_bytes;
        let open = lane.open.get_or_insert_with(|| {
            Open::new(
                as_message,
                self.settings.compression,
                hint.max(bytes),
                clock.now(),
            )
        });
        let index = open.push(message, (!self.settings.plain).then_some(partition), clock);
        open.load.bytes += bytes;
        self.bytes += bytes;
        let completion = open.load.completion.clone();
        if open.load.bytes >= self.settings.batch_bytes
            || open.load.count >= self.settings.batch_messages
        {
            self.close(place);
            filled = true;
        }
        let wake = self.list(place) || filled;
        Added {
            completion,
            index,
            wake,
        }
    }

    /// Closes the lane's open batch if the next message does not go into it.
    fn make_way(&mut self, lane: u32, as_message: bool, bytes: usize) -> bool {
        let Some(open) = &self.lanes[lane as usize].open else {
            return false;
        };
        let same = matches!(open.contents, Contents::Messages { .. }) == as_message;
        let fits = open.load.bytes + bytes <= self.settings.batch_bytes;
        if !(same && fits) {
            self.close(lane);
        }
        !(same && fits)
    }

    /// Takes a batch that the caller encoded.
    pub(in crate::producer) fn add_encoded(
        &mut self,
        partition: u32,
        records: Bytes,
        now: Instant,
    ) -> Result<Arc<Completion>, Error> {
        let header =
            BatchHeader::read(&records).map_err(|error| Error::invalid(error.to_string()))?;
        if header.total_len() != records.len() || header.count <= 0 {
            return Err(Error::invalid("not exactly one record batch"));
        }
        if partition >= self.partitions() {
            let message = format!("partition {partition} of {}: not there", self.partitions());
            return Err(Error::partition_not_found(message));
        }
        self.close(partition);
        let completion = Arc::new(Completion::default());
        let load = Load {
            completion: completion.clone(),
            count: header.count.unsigned_abs(),
            bytes: records.len(),
            since: now,
        };
        self.bytes += load.bytes;
        self.lanes[partition as usize].predicted += u64::from(load.count);
        let body = Body::Batch { partition, records };
        self.queue.push_back(Parcel::new(partition, body, load));
        Ok(completion)
    }

    /// Closes every open batch.
    pub(in crate::producer) fn close_open(&mut self) {
        for lane in 0..self.partitions() {
            self.close(lane);
        }
    }

    pub(super) fn close(&mut self, place: u32) {
        let identity = self.identity.unwrap_or(Identity { id: -1, epoch: -1 });
        let lane = &mut self.lanes[place as usize];
        let Some(open) = lane.open.take() else { return };
        if place == self.sticky.current() && !self.settings.resume {
            self.sticky.next_batch();
        }
        lane.last_bytes = open.load.bytes.min(self.settings.batch_bytes);
        let sequence = sequence_of(lane.predicted);
        let body = match open.contents {
            Contents::Messages { messages, dedup } => {
                let messages = v1::PublishMessages {
                    messages,
                    ..Default::default()
                };
                let kind = v1::publish_stream_request::Kind::Messages(messages);
                Ok(Body::Messages {
                    request: v1::PublishStreamRequest { kind: Some(kind) },
                    dedup,
                })
            }
            Contents::Batch(mut builder) => {
                lane.predicted += u64::from(open.load.count);
                builder.set_producer(identity.id, identity.epoch, sequence);
                let records = builder.finish();
                records.map(|records| Body::Batch {
                    partition: place,
                    records,
                })
            }
        };
        match body {
            Ok(body) => self.queue.push_back(Parcel::new(place, body, open.load)),
            Err(error) => {
                self.bytes -= open.load.bytes;
                open.load
                    .completion
                    .set(Outcome::Failed(Error::invalid(error.to_string())));
            }
        }
    }
}
