//! A look at a partition whose messages go when all groups are done with them.
//!
//! What is needed is asked of the groups' own state, one after the other; the rules are in
//! [`super::rule`] and [`super::watch`]. What came between is the partition's to see: it judges
//! each cut again when it applies it.

use std::ops::Range;

use aqueduct_proto::{
    batch,
    compression::Compression,
    record::{BatchBuilder, Record},
};
use bytes::BytesMut;

use super::{
    rule::{Needs, Piece, reach},
    watch::{Wanted, Watch},
};
use crate::{
    error::Refusal,
    groups::start::{Kept, lag_from},
    lanes::decode_from,
    limits::{MAX_KEPT_BYTES, MAX_KEPT_MESSAGES, READ_CHUNK_BYTES},
    metadata::groups::Group,
    partition::{
        Cursor, Partition, Shared,
        kept::{Cut, KeptRecord},
    },
    queue::{offsets::Offsets, policy::Policy},
    services::Services,
    topics::LiveTopic,
    work::seeing::beginning,
};

/// Bytes that one entry moves aside; one message may be more.
const AT_A_TIME: u64 = 1 << 20;
/// The same on a full disk: commands that free it have little room of their own.
const AT_A_TIME_FULL: u64 = 64 << 10;
/// Entries of one look. No group can be made meanwhile.
const CUTS: usize = 16;

/// The longest time for which a group of these wants messages to stay after they were done.
pub(super) fn window_ms(groups: &[Group]) -> i64 {
    let queues = groups.iter().filter_map(|group| group.queue.as_ref());
    let longest = queues.map(|queue| Policy::from(queue).retain_done_ms).max();
    i64::try_from(longest.unwrap_or(0)).unwrap_or(i64::MAX)
}

/// Where the log of a partition begins and ends.
fn extent(shared: &Shared) -> Kept {
    Kept {
        start: shared.log_start_offset(),
        end: shared.high_watermark(),
    }
}

/// The first offset of the log that a group needs if it is a stream group, or has not begun; a
/// queue at work has answered `None`.
fn needs_from(group: &Group, shared: &Shared, log: Kept) -> Option<u64> {
    if group.queue.is_none() {
        let stored = shared.position(group.id).unwrap_or_default();
        return Some(lag_from(group, shared.number, stored.offset, log));
    }
    let begun = shared.with_queues(|queues| queues.get(group.id).is_some());
    (!begun).then(|| beginning(group, shared))
}

/// What the groups need, and a number that changes with every seek of a queue.
fn needs_of(groups: &[Group], shared: &Shared, log: Kept) -> (Needs, u64) {
    let aside = shared.with_kept(|kept| kept.size().0);
    let mut needs = Needs::new(log.end, MAX_KEPT_MESSAGES.saturating_sub(aside));
    let mut epochs = 0_u64;
    for group in groups {
        if let Some(offset) = needs_from(group, shared, log) {
            needs.add_all_from(offset);
            continue;
        }
        shared.with_queues(|queues| {
            if let Some(state) = queues.get(group.id) {
                needs.add_queue(state, log.start);
                epochs = epochs.wrapping_add(state.epoch());
            }
        });
    }
    (needs, epochs)
}

/// Looks at a partition, and lets go of what is done.
pub(super) async fn look_at(
    partition: &Partition,
    groups: &[Group],
    watch: &mut Watch,
    now_ms: i64,
) {
    let shared = partition.shared();
    drop_kept(partition, groups, watch, now_ms).await;
    // The end first: what is published in between lies above it.
    let log = extent(shared);
    let is_idle = watch.is_idle(now_ms, log.end);
    let segments = shared.log.segments();
    let ends = segments.iter().skip(1).map(|next| next.base_offset);
    let pieces = segments.iter().zip(ends.chain([log.end]));
    let pieces: Vec<Piece> = pieces
        .map(|(segment, end)| Piece {
            end,
            bytes: segment.bytes,
            is_active: segment.active,
        })
        .collect();
    let (needs, epochs) = needs_of(groups, shared, log);
    let found = match groups {
        // Nobody has said what done means.
        [] => super::rule::Reach::default(),
        _ => reach(log.start, &pieces, &needs, is_idle),
    };
    if found.is_full && watch.warns(now_ms) {
        tracing::warn!(topic = %shared.topic, partition = shared.number,
            messages = MAX_KEPT_MESSAGES, bytes = MAX_KEPT_BYTES,
            "the log stays: too much of it is still needed to be kept aside");
    }
    let needed = needs.below(found.to.unwrap_or(0));
    watch.note(now_ms, epochs, found.to, &needed);
    let wanted = watch.wanted(now_ms, window_ms(groups), log.start);
    if let Some(wanted) = wanted {
        let active = segments.last().map_or(u64::MAX, |last| last.base_offset);
        cut_to(partition, &wanted, &needs, active, watch, now_ms).await;
    }
}

/// Gives up what is kept aside and needed by nobody any more.
pub(super) async fn drop_kept(
    partition: &Partition,
    groups: &[Group],
    watch: &mut Watch,
    now_ms: i64,
) {
    let shared = partition.shared();
    let kept = shared.with_kept(|kept| kept.offsets().clone());
    if kept.is_empty() {
        return;
    }
    let needed = shared.with_queues(|queues| queues.needed_of(&kept));
    let kept = kept
        .iter_from(0)
        .map(|offset| (offset, needed.contains(offset)));
    let drop = watch.droppable(now_ms, window_ms(groups), kept);
    if drop.is_empty() {
        return;
    }
    let cut = Cut {
        drop,
        ..Cut::default()
    };
    if let Err(refusal) = partition.cut(cut).await {
        tracing::warn!(topic = %shared.topic, partition = shared.number, %refusal,
            "messages that are done stay aside");
    }
}

async fn cut_to(
    partition: &Partition,
    wanted: &Wanted,
    needs: &Needs,
    active: u64,
    watch: &mut Watch,
    now_ms: i64,
) {
    let shared = partition.shared();
    let mut keep = needs.below(wanted.to);
    for offset in wanted.recent.iter_from(0) {
        keep.insert(offset);
    }
    if wanted.to > active {
        // What is done of the segment that is written to goes with it.
        shared.log.roll();
    }
    let mut gatherer = Gatherer::new(partition);
    let mut at_a_time = AT_A_TIME;
    for _ in 0..CUTS {
        let start = shared.log_start_offset();
        if start >= wanted.to {
            return;
        }
        let (records, before) = gatherer.gather(&keep, start..wanted.to, at_a_time).await;
        if before <= start {
            if watch.warns(now_ms) {
                tracing::warn!(topic = %shared.topic, partition = shared.number, offset = start,
                    "the log stays: a message that is needed cannot be kept aside");
            }
            return;
        }
        let cut = Cut {
            before,
            keep: records,
            drop: Vec::new(),
        };
        match partition.cut(cut).await {
            Ok(true) => {}
            // Somebody needs it again; the next look sees.
            Ok(false) => {
                if watch.warns(now_ms) {
                    tracing::warn!(topic = %shared.topic, partition = shared.number, before,
                        "the log stays: what could go was needed again when it was to go");
                }
                return;
            }
            Err(Refusal::DiskFull { .. }) if at_a_time > AT_A_TIME_FULL => {
                at_a_time = AT_A_TIME_FULL;
            }
            Err(refusal) => {
                return tracing::warn!(topic = %shared.topic, partition = shared.number, %refusal,
                    "retention was not applied");
            }
        }
    }
}

/// Reads messages to be kept.
struct Gatherer<'a> {
    shared: &'a Shared,
    cursor: Cursor,
    /// Decoded together, without holes.
    window: Vec<Record>,
}

impl Gatherer<'_> {
    fn new(partition: &Partition) -> Gatherer<'_> {
        Gatherer {
            shared: partition.shared(),
            cursor: partition.cursor(0),
            window: Vec::new(),
        }
    }

    /// Some of `keep` in a range, about so many bytes, and how far the log can go with them.
    async fn gather(
        &mut self,
        keep: &Offsets,
        range: Range<u64>,
        at_a_time: u64,
    ) -> (Vec<KeptRecord>, u64) {
        let (count, aside) = self.shared.with_kept(|kept| kept.size());
        let (mut records, mut bytes) = (Vec::new(), 0);
        let is_inside = |offset: &u64| *offset < range.end;
        for offset in keep.iter_from(range.start).take_while(is_inside) {
            let Some(batch) = self.batch_of(offset).await else {
                return (records, offset);
            };
            let more = bytes + batch.len() as u64;
            let is_much = more > at_a_time && !records.is_empty();
            let are_many = count + records.len() as u64 >= MAX_KEPT_MESSAGES;
            if is_much || are_many || aside + more > MAX_KEPT_BYTES {
                return (records, offset);
            }
            bytes = more;
            records.push(KeptRecord { offset, batch });
        }
        (records, range.end)
    }

    /// The message as a batch of its own, if it can be read.
    async fn batch_of(&mut self, offset: u64) -> Option<bytes::Bytes> {
        let has = |record: &&Record| record.offset == offset;
        if !self.window.iter().any(|record| record.offset == offset) {
            self.cursor.go_to(offset);
            let read = self.cursor.read(Some(offset + 1), READ_CHUNK_BYTES).await;
            let chunk = read.ok().flatten()?;
            self.window = decode_from(chunk.batches, offset).await.ok()?;
        }
        let record = self.window.iter().find(has)?;
        let mut builder = BatchBuilder::new(Compression::None);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.push(record.timestamp_ms, key, value, &record.headers);
        let mut bytes = BytesMut::from(builder.finish().ok()?);
        batch::patch(&mut bytes, offset, 0);
        Some(bytes.freeze())
    }
}

impl Services {
    /// The group that needs the oldest message of a partition's log, and which; nothing if none
    /// does, or messages of the topic do not go by that.
    pub(crate) fn held_at(&self, live: &LiveTopic, partition: &Partition) -> Option<(String, u64)> {
        let shared = partition.shared();
        if !shared.config.load().until_done {
            return None;
        }
        let log = extent(shared);
        let groups: Vec<Group> = {
            let view = self.metadata.view().read();
            view.groups_of(&live.topic.name).cloned().collect()
        };
        let held = groups.into_iter().map(|group| {
            let offset = needs_from(&group, shared, log).or_else(|| {
                shared.with_queues(|queues| queues.get(group.id)?.first_needed(log.start..log.end))
            });
            (group.name, offset.unwrap_or(log.end))
        });
        let oldest = held.min_by_key(|(_, offset)| *offset);
        oldest.filter(|(_, offset)| *offset < log.end)
    }
}
