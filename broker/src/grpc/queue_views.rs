//! What is seen of a queue group, on its way out.

use aqueduct_proto::v1::{
    self, AttemptEnd, DescribeQueueResponse, FailedAttempt, FailedCount, InFlight, MessageCounts,
    MessageStanding, MessageState, QueuePartition, QueueTotals,
};

use super::topics::encode_time;
use crate::{
    error::Refusal,
    queue::{
        command::Reason,
        history::{End, PastAttempt},
        state::Counters,
        view::Counts,
    },
    work::seeing::{HeldBy, PlaceOf, QueueView, StandingWith},
};

fn encode_counts(counts: &Counts) -> MessageCounts {
    MessageCounts {
        delayed: counts.delayed,
        ready: counts.ready,
        leased: counts.leased,
        done: counts.done,
        dead: counts.dead,
    }
}

fn encode_totals(counters: &Counters, results: (u64, u64)) -> QueueTotals {
    let dead = |reason: Reason| counters.dead[reason as usize];
    QueueTotals {
        acked: counters.acked,
        retried: counters.retried,
        released: counters.released,
        expired: counters.expired,
        lost: counters.lost,
        dead_attempts: dead(Reason::Attempts),
        dead_hand_outs: dead(Reason::HandOuts),
        dead_rejected: dead(Reason::Rejected),
        dead_expired: dead(Reason::Ttl),
        dead_parked: dead(Reason::Parked),
        discarded: counters.discarded,
        cancelled: counters.cancelled,
        unmatched: counters.unmatched,
        trimmed: counters.trimmed,
        unparkable: counters.unparkable,
        results_published: results.0,
        results_dropped: results.1,
    }
}

pub(super) fn encode_views(views: &[QueueView]) -> DescribeQueueResponse {
    let (mut counts, mut counters) = (Counts::default(), Counters::default());
    let mut results = (0, 0);
    let mut failed = Vec::new();
    for view in views {
        counts.add(&view.counts);
        counters.add(&view.counters);
        let (published, dropped) = view.results_done;
        results = (results.0 + published, results.1 + dropped);
    }
    for attempts in 1..crate::queue::view::ATTEMPT_BUCKETS {
        let messages: u64 = views.iter().map(|view| view.tally.failed[attempts]).sum();
        if messages > 0 {
            let failed_attempts = attempts as u32;
            failed.push(FailedCount {
                failed_attempts,
                messages,
            });
        }
    }
    let ages = views.iter().map(|view| view.oldest_seconds);
    DescribeQueueResponse {
        counts: Some(encode_counts(&counts)),
        totals: Some(encode_totals(&counters, results)),
        oldest_seconds: ages.fold(0.0, f64::max),
        parked_keys: views.iter().map(|view| view.parked_keys).sum(),
        failed,
        partitions: views.iter().map(encode_partition).collect(),
    }
}

fn encode_partition(view: &QueueView) -> QueuePartition {
    QueuePartition {
        partition: view.partition,
        counts: Some(encode_counts(&view.counts)),
        totals: Some(encode_totals(&view.counters, view.results_done)),
        oldest_offset: view.oldest,
        oldest_seconds: view.oldest_seconds,
        parked_keys: view.parked_keys,
        dead_letters_written: view.dead_letters_written,
        results_waiting: view.results.results,
        result_bytes_waiting: view.results.bytes,
    }
}

pub(super) fn encode_held(held: HeldBy) -> InFlight {
    let HeldBy {
        partition,
        held,
        holder,
        last_error,
    } = held;
    InFlight {
        partition,
        offset: held.offset,
        lease: held.lease.number,
        attempt: held.failed.saturating_add(1),
        hand_outs: held.hand_outs,
        lease_deadline: Some(encode_time(held.lease.deadline_ms)),
        consumer: held.lease.consumer,
        client_id: holder.client_id,
        address: holder.address,
        last_error,
    }
}

pub(super) fn encode_attempt(attempt: PastAttempt) -> FailedAttempt {
    let end = match attempt.end {
        End::Retry => AttemptEnd::Retry,
        End::Expired => AttemptEnd::Expired,
        End::Lost => AttemptEnd::Lost,
        End::Rejected => AttemptEnd::Rejected,
    };
    FailedAttempt {
        attempt: attempt.number,
        hand_out: attempt.hand_out,
        end_time: Some(encode_time(attempt.ended_ms)),
        end: end as i32,
        consumer: attempt.consumer,
        error: attempt.error,
    }
}

pub(super) fn encode_standing(standing: StandingWith) -> MessageStanding {
    let (state, ready_ms) = match standing.place {
        PlaceOf::Delayed { until_ms } => (MessageState::Delayed, Some(until_ms)),
        PlaceOf::Ready => (MessageState::Ready, None),
        PlaceOf::Leased => (MessageState::Leased, None),
        PlaceOf::Done => (MessageState::Done, None),
        PlaceOf::Dead => (MessageState::Dead, None),
    };
    let has_failed = standing.first_failure_ms > 0;
    MessageStanding {
        group: standing.group.name,
        is_queue: standing.group.queue.is_some(),
        state: state as i32,
        failed_attempts: standing.failed,
        hand_outs: standing.hand_outs,
        first_failure: has_failed.then(|| encode_time(standing.first_failure_ms)),
        last_error: standing.last_error,
        ready_time: ready_ms.map(encode_time),
        lease: standing.lease.map(encode_held),
        history: standing.history.into_iter().map(encode_attempt).collect(),
    }
}

/// Where a listing goes on.
pub(super) fn encode_token((partition, offset): (u32, u64)) -> String {
    format!("{partition}:{offset}")
}

pub(super) fn decode_token(token: &str) -> Result<(u32, u64), Refusal> {
    if token.is_empty() {
        return Ok((0, 0));
    }
    let parts = token.split_once(':');
    let place = parts.and_then(|(at, offset)| Some((at.parse().ok()?, offset.parse().ok()?)));
    place.ok_or_else(|| Refusal::invalid("page_token", "it is not one of this listing"))
}

/// Which keys a call names.
pub(super) fn decode_keys(
    which: Option<v1::unpark_keys_request::Which>,
) -> Result<Option<u64>, Refusal> {
    use v1::unpark_keys_request::Which;
    match which {
        Some(Which::Key(key)) => Ok(Some(crate::work::key_hash(&key))),
        Some(Which::All(true)) => Ok(None),
        Some(Which::All(false)) | None => {
            Err(Refusal::invalid("key", "say which key is to go on, or all"))
        }
    }
}
