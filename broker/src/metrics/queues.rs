//! The numbers of queue groups. At most so many groups have rows of their own, as everywhere.

use super::{Labels, OTHER, Scrape, Values};
use crate::{
    groups::board::{GroupLag, QueueNumbers},
    limits::MAX_METRIC_LABELS,
    queue::{command::Reason, state::Counters, view::Counts},
};

/// Name and value of a state.
type State = (&'static str, fn(&Counts) -> u64);

/// Those that are worth watching; what is done only grows.
const STATES: [State; 4] = [
    ("delayed", |counts| counts.delayed),
    ("ready", |counts| counts.ready),
    ("leased", |counts| counts.leased),
    ("dead", |counts| counts.dead),
];

const REASONS: [(&str, Reason); 5] = [
    ("attempts", Reason::Attempts),
    ("hand_outs", Reason::HandOuts),
    ("rejected", Reason::Rejected),
    ("expired", Reason::Ttl),
    ("parked", Reason::Parked),
];

/// Name, help and value of a counter.
type Total = (&'static str, &'static str, fn(&Counters) -> u64);

const TOTALS: [Total; 9] = [
    (
        "aqueduct_queue_acked",
        "Messages that were acknowledged",
        |it| it.acked,
    ),
    (
        "aqueduct_queue_retried",
        "Attempts that a consumer called failed",
        |it| it.retried,
    ),
    (
        "aqueduct_queue_released",
        "Messages that were given back",
        |it| it.released,
    ),
    (
        "aqueduct_queue_expired",
        "Leases that ended before a verdict",
        |it| it.expired,
    ),
    (
        "aqueduct_queue_lost",
        "Leases whose consumer's connection broke",
        |it| it.lost,
    ),
    (
        "aqueduct_queue_discarded",
        "Dead letters of which no copy is kept",
        |it| it.discarded,
    ),
    (
        "aqueduct_queue_cancelled",
        "Messages that were cancelled",
        |it| it.cancelled,
    ),
    (
        "aqueduct_queue_unmatched",
        "Messages that the filter left out",
        |it| it.unmatched,
    ),
    (
        "aqueduct_queue_trimmed",
        "Messages that were not finished when retention took them",
        |it| it.trimmed,
    ),
];

/// A row for each queue group by name, and one for the rest.
fn rows(groups: &[GroupLag]) -> Vec<(Labels, QueueNumbers)> {
    let mut rows: Vec<(Labels, QueueNumbers)> = Vec::new();
    let queues = groups
        .iter()
        .filter_map(|group| Some((group, group.queue.as_ref()?)));
    for (n, (group, numbers)) in queues.enumerate() {
        if n > MAX_METRIC_LABELS
            && let Some((_, other)) = rows.last_mut()
        {
            other.add(numbers);
            continue;
        }
        let (topic, group) = if n < MAX_METRIC_LABELS {
            (group.topic.as_str(), group.group.as_str())
        } else {
            (OTHER, OTHER)
        };
        let labels = vec![("topic", topic.to_owned()), ("group", group.to_owned())];
        rows.push((labels, *numbers));
    }
    rows
}

pub(super) fn add(groups: &[GroupLag], scrape: &mut Scrape) {
    let rows = rows(groups);
    let with = |labels: &Labels, name, value: &str| {
        let mut labels = labels.clone();
        labels.push((name, value.to_owned()));
        labels
    };
    let states = rows.iter().flat_map(|(labels, numbers)| {
        STATES.map(|(state, of)| (with(labels, "state", state), of(&numbers.counts) as f64))
    });
    scrape.add(
        "aqueduct_queue_messages",
        "Unfinished messages of a queue group by state, and dead letters without a copy yet",
        Values::Gauge(states.collect()),
    );
    let parked = rows
        .iter()
        .map(|(labels, numbers)| (labels.clone(), numbers.parked_keys as f64));
    scrape.add(
        "aqueduct_queue_parked_keys",
        "Keys whose messages become dead letters until they are unparked",
        Values::Gauge(parked.collect()),
    );
    let results = |which: usize| {
        let of =
            move |(labels, it): &(Labels, QueueNumbers)| (labels.clone(), it.results[which] as f64);
        rows.iter().map(of).collect()
    };
    scrape.add(
        "aqueduct_queue_results_waiting",
        "Results of steps on their way to their topics",
        Values::Gauge(results(0)),
    );
    scrape.add(
        "aqueduct_queue_results_published",
        "Results of steps that are in their topics",
        Values::Counter(results(1)),
    );
    scrape.add(
        "aqueduct_queue_results_dropped",
        "Results of steps whose topic was deleted before they were there",
        Values::Counter(results(2)),
    );
    let dead = rows.iter().flat_map(|(labels, numbers)| {
        REASONS.map(|(name, reason)| {
            let count = numbers.counters.dead[reason as usize];
            (with(labels, "reason", name), count as f64)
        })
    });
    scrape.add(
        "aqueduct_queue_dead_letters",
        "Messages that became dead letters, by reason",
        Values::Counter(dead.collect()),
    );
    for (name, help, of) in TOTALS {
        let totals = rows
            .iter()
            .map(|(labels, numbers)| (labels.clone(), of(&numbers.counters) as f64));
        scrape.add(name, help, Values::Counter(totals.collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_beyond_the_bound_are_one_row() {
        let counters = Counters {
            acked: 2,
            ..Counters::default()
        };
        let queue = QueueNumbers {
            counters,
            ..QueueNumbers::default()
        };
        let group = |n: usize, queue| GroupLag {
            topic: "jobs".into(),
            group: format!("g{n}"),
            messages: 0,
            seconds: 0.0,
            members: 0,
            queue,
        };
        for (count, expected) in [(0, 0), (1_000, 1_000), (1_001, 1_001), (4_000, 1_001)] {
            let mut groups: Vec<_> = (0..count).map(|n| group(n, Some(queue))).collect();
            groups.push(group(count, None));
            let found = rows(&groups);
            assert_eq!(found.len(), expected, "{count} queue groups");
            let acked: u64 = found
                .iter()
                .map(|(_, numbers)| numbers.counters.acked)
                .sum();
            assert_eq!(acked, 2 * count as u64, "none is lost");
        }
    }
}
