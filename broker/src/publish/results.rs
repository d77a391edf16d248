//! The results of a step on their way into a queue: checked like published messages, and given
//! an address and absolute times, so that nothing is left to be refused or decided later.

use std::collections::BTreeMap;

use aqueduct_proto::{attributes, record::Header};

use super::{Incoming, check, choose, options, too_large};
use crate::{
    error::Refusal,
    limits::{MAX_STEP_BYTES, MAX_STEP_RESULTS},
    partition::NewRecord,
    queue::parcel::{Parcel, ParcelHeader},
    services::Services,
};

/// A result as a door decoded it.
pub(crate) struct NewResult {
    pub(crate) topic: String,
    pub(crate) incoming: Incoming,
}

/// A result with its place, and the name of its topic for whoever is told.
pub(crate) struct Addressed {
    pub(crate) topic: String,
    pub(crate) parcel: Parcel,
}

impl Services {
    /// Checks the results of a step and chooses their partitions. Topics are made on the way
    /// where publishing makes them.
    ///
    /// # Errors
    /// For the first one that could not be published, with its place in the step.
    pub(crate) async fn address(&self, results: Vec<NewResult>) -> Result<Vec<Addressed>, Refusal> {
        let (count, limit) = (results.len(), MAX_STEP_RESULTS);
        if count > limit {
            let why = format!("{count} is above the limit of {limit}");
            return Err(Refusal::invalid("results", why));
        }
        let bytes = results.iter().map(|it| it.incoming.record.bytes() as u64);
        let bytes: u64 = bytes.sum();
        if bytes > MAX_STEP_BYTES {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            return Err(too_large("results".into(), bytes, MAX_STEP_BYTES));
        }
        let mut keyless = BTreeMap::new();
        let mut addressed = Vec::with_capacity(count);
        for (
            n,
            NewResult {
                topic,
                mut incoming,
            },
        ) in results.into_iter().enumerate()
        {
            let live = self.topics.get_or_create(&topic).await?;
            self.take_in(n, &mut incoming)
                .map_err(|why| renamed(n, why))?;
            let keyless = keyless.entry(live.topic.id).or_default();
            let partition = choose(&live, &incoming, keyless);
            let checked = check(
                n,
                partition,
                &mut incoming.record,
                &live,
                &live.topic.config,
            );
            checked.map_err(|why| renamed(n, why))?;
            addressed.push(Addressed {
                topic: live.topic.name.clone(),
                parcel: self.parcel((live.topic.id, partition), incoming.record),
            });
        }
        Ok(addressed)
    }

    fn take_in(&self, n: usize, incoming: &mut Incoming) -> Result<(), Refusal> {
        let record = &mut incoming.record;
        let is_id = |header: &Header| header.name.as_ref() == attributes::DEDUP_ID.as_bytes();
        if record.dedup_id.is_some() || record.headers.iter().any(is_id) {
            let why = "a result has none: the step's leases make it exactly once";
            return Err(Refusal::invalid(format!("messages[{n}].dedup_id"), why));
        }
        let options = incoming.options.as_deref();
        options::take(n, options, record, || self.clock.wall_ms())
    }

    fn parcel(&self, (topic_id, partition): (u64, u32), record: NewRecord) -> Parcel {
        let now_ms = self.clock.wall_ms();
        let mut headers = record.headers;
        if let Some(delay_ms) = record.delay_ms {
            let until_ms = now_ms.saturating_add(delay_ms).to_string();
            headers.push(Header::new(attributes::DELAY_UNTIL, until_ms));
        }
        let header = |Header { name, value }| ParcelHeader { name, value };
        Parcel {
            topic_id,
            partition,
            timestamp_ms: record.timestamp_ms.unwrap_or(now_ms),
            key: record.key,
            value: record.value,
            headers: headers.into_iter().map(header).collect(),
        }
    }
}

/// What was said of a message of a request is said of a result of a step.
fn renamed(n: usize, refusal: Refusal) -> Refusal {
    let ours = |field: String| {
        let rest = field.strip_prefix(&format!("messages[{n}]"));
        rest.map(|rest| format!("results[{n}].message{rest}"))
            .unwrap_or(field)
    };
    match refusal {
        Refusal::Invalid { field, why } => Refusal::invalid(ours(field), why),
        Refusal::TooLarge { what, bytes, limit } => Refusal::TooLarge {
            what: ours(what),
            bytes,
            limit,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_named_by_its_place_in_the_step() {
        let field = |refusal| match renamed(3, refusal) {
            Refusal::Invalid { field, .. } => field,
            Refusal::TooLarge { what, .. } => what,
            other => panic!("{other}"),
        };
        let invalid = Refusal::invalid("messages[3].ttl", "");
        assert_eq!(field(invalid), "results[3].message.ttl");
        let large = too_large("messages[3]".into(), 2, 1);
        assert_eq!(field(large), "results[3].message");
        assert_eq!(field(Refusal::invalid("topic", "")), "topic");
    }
}
