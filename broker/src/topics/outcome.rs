//! What the metadata's answer to a change means to whoever asked for it.
//!
//! Pure: an outcome goes in, the topic or the refusal comes out. It never knows what runs.

use std::io;

use crate::{
    error::Refusal,
    limits,
    metadata::state::{Denied, Outcome, Topic},
};

pub(super) fn not_carried_out(error: io::Error) -> Refusal {
    Refusal::Unknown {
        why: format!("agreed on, but not carried out yet: {error}"),
    }
}

pub(super) fn etag_mismatch(topic: &Topic, expected: u64) -> Refusal {
    Refusal::EtagMismatch {
        topic: topic.name.clone(),
        expected: expected.to_string(),
        actual: topic.version.to_string(),
    }
}

pub(super) fn topic_of(
    outcome: Outcome,
    name: &str,
    seen: Option<&Topic>,
) -> Result<Topic, Refusal> {
    let denied = match outcome {
        Outcome::Topic(topic) => return Ok(topic),
        Outcome::Denied(why) => Denied::try_from(why).unwrap_or(Denied::Unreadable),
        Outcome::Producer(_) | Outcome::Group(_) | Outcome::Schedule(_) | Outcome::Internal(_) => {
            Denied::Unreadable
        }
    };
    let topic = name.to_owned();
    Err(match denied {
        Denied::Exists => Refusal::TopicExists { topic },
        Denied::NotFound => Refusal::TopicNotFound {
            topic,
            did_you_mean: None,
        },
        Denied::TooMany => Refusal::LimitReached {
            what: format!("topics ({}) or partitions", limits::MAX_TOPICS),
            limit: limits::MAX_PARTITIONS as u64,
        },
        Denied::FewerPartitions => Refusal::invalid("partitions", "they can only be added"),
        Denied::Changed => Refusal::EtagMismatch {
            topic,
            expected: seen.map_or(0, |topic| topic.version).to_string(),
            actual: "a later one".into(),
        },
        Denied::Unreadable => Refusal::Unknown {
            why: "an unexpected outcome".into(),
        },
    })
}
