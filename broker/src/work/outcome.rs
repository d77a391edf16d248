//! What came of a partition's entry: results for those who settled, deliveries for those who
//! demanded, and the schedule's books.

use aqueduct_proto::record::Record;

use super::{
    Delivery,
    lane::Lane,
    plan::{Choice, Demand, Part, Results},
};
use crate::{
    error::Refusal,
    queue::{
        command::{DropReason, Replies, Reply, Span, Status},
        policy::Policy,
        schedule::Schedule,
        state::State,
        view::Standing,
    },
};

/// Those who wait for what came of a round.
pub(super) struct Waiting {
    pub(super) demands: Vec<Demand>,
    pub(super) results: Results,
}

impl Lane {
    /// Carries on with what came of an entry that was decided at `now_ms`.
    pub(super) fn conclude(
        &mut self,
        policy: &Policy,
        now_ms: i64,
        (parts, outcome): (Vec<Part>, Result<Replies, Refusal>),
        waiting: &mut Waiting,
    ) {
        let outcome = outcome.and_then(|replies| match replies.replies.len() == parts.len() {
            true => Ok(replies.replies),
            false => Err(Refusal::Unknown {
                why: "the partition answered for other commands".into(),
            }),
        });
        match outcome {
            Ok(replies) => self.carry_on(policy, parts, &replies, waiting),
            Err(refusal) => {
                self.pause();
                if matches!(refusal, Refusal::DiskFull { .. }) {
                    self.rest_leases();
                }
                let mut others = Vec::with_capacity(parts.len());
                for part in parts {
                    match part {
                        Part::Complete(step) => self.completed(step, Err(&refusal)),
                        part => others.push(part),
                    }
                }
                self.with(policy, |_, schedule| {
                    schedule.leases_end_from(Some(now_ms));
                    for part in others {
                        take_back(schedule, part, &refusal, &mut waiting.results);
                    }
                });
            }
        }
    }

    fn carry_on(
        &mut self,
        policy: &Policy,
        parts: Vec<Part>,
        replies: &[Reply],
        waiting: &mut Waiting,
    ) {
        let number = self.number;
        let mut others = Vec::with_capacity(parts.len());
        for (part, reply) in parts.into_iter().zip(replies) {
            match part {
                Part::Complete(step) => self.completed(step, Ok(reply)),
                part => others.push((part, reply)),
            }
        }
        self.with(policy, |state, schedule| {
            for (part, reply) in others {
                match part {
                    // Those of steps are answered above.
                    Part::Plain | Part::Complete(_) => {}
                    Part::Settle(places) => settled(places, reply, &mut waiting.results),
                    Part::Drop(_, reason) => dropped(schedule, reply, reason),
                    Part::Lease(choice, deadline_ms) => {
                        let context = (number, state, &mut *schedule);
                        leased(context, choice, deadline_ms, reply, &mut waiting.demands);
                    }
                }
            }
        });
    }
}

/// The entry failed, or nobody knows: what was taken for it is there again.
fn take_back(schedule: &mut Schedule, part: Part, refusal: &Refusal, results: &mut Results) {
    match part {
        Part::Plain | Part::Complete(_) => {}
        Part::Settle(places) => {
            for place in places {
                results.set(place, Err(refusal.clone()));
            }
        }
        Part::Drop(runs, reason) => {
            for run in runs {
                schedule.give_back_leaving(run, reason);
            }
        }
        Part::Lease(choice, _) => {
            for run in choice.runs {
                schedule.give_back(run);
            }
        }
    }
}

/// Results of verdicts stand in the reply in the order in which the verdicts were named. What
/// the caller is told otherwise is that the lease is lost, which is there already.
fn settled(places: Vec<(usize, usize)>, reply: &Reply, results: &mut Results) {
    let statuses = reply.spans.iter().flat_map(|span| {
        let count = usize::try_from(span.count).unwrap_or(usize::MAX);
        std::iter::repeat_n(span.status(), count)
    });
    for (place, status) in places.into_iter().zip(statuses) {
        if status == Status::Done {
            results.set(place, Ok(()));
        }
    }
}

fn dropped(schedule: &mut Schedule, reply: &Reply, reason: DropReason) {
    for span in &reply.spans {
        match span.status() {
            // An event has said so.
            Status::Done => {}
            Status::Settled => schedule.forget(span.range()),
            _ => schedule.give_back_leaving(span.range(), reason),
        }
    }
}

fn leased(
    (partition, state, schedule): (u32, &State, &mut Schedule),
    choice: Choice,
    deadline_ms: i64,
    reply: &Reply,
    demands: &mut [Demand],
) {
    if reply.spans.is_empty() {
        // The command as a whole was refused. After a seek the schedule is another one.
        if reply.status() != Status::Fenced {
            choice
                .runs
                .into_iter()
                .for_each(|run| schedule.give_back(run));
        }
        return;
    }
    let mut records = choice.records;
    for span in &reply.spans {
        if span.status() != Status::Done {
            for offset in span.range() {
                schedule.refused(offset, state.standing(offset));
            }
            continue;
        }
        let Some(demand) = choice.demand.and_then(|who| demands.get_mut(who)) else {
            continue;
        };
        let delivered = span.range().filter_map(|offset| {
            let record = records.remove(&offset)?;
            delivery((partition, state), record, span, deadline_ms)
        });
        demand.got.extend(delivered);
    }
}

fn delivery(
    (partition, state): (u32, &State),
    record: Record,
    span: &Span,
    deadline_ms: i64,
) -> Option<Delivery> {
    let offset = record.offset;
    let Standing::Open(known) = state.standing(offset) else {
        // Retention took it in this moment.
        return None;
    };
    Some(Delivery {
        partition,
        attempt: known.failed.saturating_add(1),
        hand_outs: known.hand_outs,
        lease: span.lease + (offset - span.first),
        deadline_ms,
        first_failure_ms: known.first_failure_ms,
        last_error: state.last_error(offset).unwrap_or_default().to_owned(),
        record,
    })
}
