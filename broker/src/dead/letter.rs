//! What a dead letter says of itself: headers in, headers out. Pure.
//!
//! The copy in the dead-letter topic is the message as it was, and headers that tell its end:
//! Kafka's `__dlq.errors.*` (KIP-1191) and ours with `aq-dead-`. Those of an earlier death are
//! replaced, so a copy never tells two stories. A message that is redriven loses them again and
//! gets `aq-redriven-*`, which say where it comes from.

use aqueduct_proto::{
    attributes,
    record::{Header, Record},
};

use super::attempts;
use crate::queue::{command::Reason, history::PastAttempt, record::Dead};

/// Kafka's names begin with this.
const KAFKA: &str = "__dlq.errors.";
/// Ours begin with this.
const OURS: &str = "aq-dead-";
/// Of messages that were redriven.
const REDRIVEN: &str = "aq-redriven-";

const TOPIC: &str = "__dlq.errors.topic";
const PARTITION: &str = "__dlq.errors.partition";
const OFFSET: &str = "__dlq.errors.offset";
const GROUP: &str = "__dlq.errors.group";
const HAND_OUTS: &str = "__dlq.errors.delivery.count";
const ERROR: &str = "__dlq.errors.message";
const HISTORY: &str = "aq-dead-attempt-history";
const REASON: &str = "aq-dead-reason";
const ATTEMPTS: &str = "aq-dead-attempts";
const NUMBER: &str = "aq-dead-number";
const TIME: &str = "aq-dead-time";
const FIRST_FAILURE: &str = "aq-dead-first-failure";
const PUBLISHED: &str = "aq-dead-published";
const REDRIVEN_FROM: &str = "aq-redriven-from";
const REDRIVEN_TIME: &str = "aq-redriven-time";
const REDRIVEN_COUNT: &str = "aq-redriven-count";

/// The end of a message, as its group's queue knows it.
pub(crate) struct Death<'a> {
    pub(crate) topic: &'a str,
    pub(crate) group: &'a str,
    pub(crate) partition: u32,
    pub(crate) number: u64,
    pub(crate) dead: Dead,
    pub(crate) error: &'a str,
    /// The latest failed attempts, the oldest first.
    pub(crate) history: &'a [PastAttempt],
}

/// The headers of the copy: the message's own (but for those that would delay or expire the
/// copy) and its end. A message that retention took before it was copied has none of its own.
pub(crate) fn copy_headers(record: Option<&Record>, death: &Death<'_>) -> Vec<Header> {
    let timed = [attributes::DELAY_UNTIL, attributes::TTL];
    let own = record.map(|record| record.headers.as_slice());
    let mut headers: Vec<Header> = own
        .unwrap_or_default()
        .iter()
        .filter(|header| !timed.contains(&header.name_str()) && !tells_an_end(header))
        .cloned()
        .collect();
    let dead = &death.dead;
    let mut say = |name: &str, value: String| headers.push(Header::new(name, value));
    say(TOPIC, death.topic.to_owned());
    say(PARTITION, death.partition.to_string());
    say(OFFSET, dead.offset.to_string());
    say(GROUP, death.group.to_owned());
    say(HAND_OUTS, dead.hand_outs.to_string());
    say(ERROR, death.error.to_owned());
    say(REASON, name(dead.reason).to_owned());
    say(ATTEMPTS, dead.failed.to_string());
    say(NUMBER, death.number.to_string());
    say(TIME, dead.died_ms.to_string());
    if dead.first_failure_ms > 0 {
        say(FIRST_FAILURE, dead.first_failure_ms.to_string());
    }
    if !death.history.is_empty() {
        say(HISTORY, attempts::write(death.history));
    }
    if let Some(record) = record {
        say(PUBLISHED, record.timestamp_ms.to_string());
    }
    headers
}

fn tells_an_end(header: &Header) -> bool {
    let name = header.name.as_ref();
    name.starts_with(KAFKA.as_bytes()) || name.starts_with(OURS.as_bytes())
}

fn name(reason: Reason) -> &'static str {
    match reason {
        Reason::Unknown => "UNKNOWN",
        Reason::Attempts => "ATTEMPTS",
        Reason::HandOuts => "HAND_OUTS",
        Reason::Rejected => "REJECTED",
        Reason::Ttl => "EXPIRED",
        Reason::Parked => "PARKED",
    }
}

fn reason(name: &[u8]) -> Reason {
    match name {
        b"ATTEMPTS" => Reason::Attempts,
        b"HAND_OUTS" => Reason::HandOuts,
        b"REJECTED" => Reason::Rejected,
        b"EXPIRED" => Reason::Ttl,
        b"PARKED" => Reason::Parked,
        _ => Reason::Unknown,
    }
}

/// A copy, read back. A message that somebody else published to the topic is one, too: what it
/// does not say is empty, 0 or unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    /// Where the copy lies.
    pub(crate) partition: u32,
    /// The message as it was, with its own headers; its offset is the copy's.
    pub(crate) record: Record,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) source: (u32, u64),
    pub(crate) number: u64,
    pub(crate) reason: Reason,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) hand_outs: u32,
    /// 0 if no attempt failed.
    pub(crate) first_failure_ms: i64,
    pub(crate) died_ms: i64,
    /// 0 if it is not known.
    pub(crate) published_ms: i64,
    /// The latest failed attempts, the oldest first.
    pub(crate) history: Vec<PastAttempt>,
}

impl Letter {
    /// Reads a record of the dead-letter topic.
    pub(crate) fn read(partition: u32, mut record: Record) -> Letter {
        let (end, own): (Vec<Header>, Vec<Header>) =
            record.headers.into_iter().partition(tells_an_end);
        record.headers = own;
        let text = |name: &str| {
            let value = attributes::find(&end, name).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        Letter {
            partition,
            topic: text(TOPIC),
            group: text(GROUP),
            source: (
                number(&end, PARTITION).unwrap_or(0),
                number(&end, OFFSET).unwrap_or(0),
            ),
            number: number(&end, NUMBER).unwrap_or(0),
            reason: reason(attributes::find(&end, REASON).unwrap_or_default()),
            error: text(ERROR),
            attempts: number(&end, ATTEMPTS).unwrap_or(0),
            hand_outs: number(&end, HAND_OUTS).unwrap_or(0),
            first_failure_ms: number(&end, FIRST_FAILURE).unwrap_or(0),
            died_ms: number(&end, TIME).unwrap_or(record.timestamp_ms),
            published_ms: number(&end, PUBLISHED).unwrap_or(0),
            history: attempts::read(attributes::find(&end, HISTORY).unwrap_or_default()),
            record,
        }
    }
}

fn number<T: std::str::FromStr>(headers: &[Header], name: &str) -> Option<T> {
    std::str::from_utf8(attributes::find(headers, name)?)
        .ok()?
        .parse()
        .ok()
}

/// What a redrive changes of the messages' own headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    /// In place of all headers of these names.
    pub(crate) set: Vec<Header>,
    pub(crate) remove: Vec<String>,
}

impl Letter {
    /// The headers with which it is published again.
    pub(crate) fn redriven_headers(&self, from: &str, edits: &Edits, now_ms: i64) -> Vec<Header> {
        let own = &self.record.headers;
        let before: u64 = number(own, REDRIVEN_COUNT).unwrap_or(0);
        let goes = |header: &&Header| {
            let name = header.name_str();
            name.starts_with(REDRIVEN)
                || edits.remove.iter().any(|removed| removed == name)
                || edits.set.iter().any(|set| set.name == header.name)
        };
        let mut headers: Vec<Header> = own.iter().filter(|h| !goes(h)).cloned().collect();
        headers.extend(edits.set.iter().cloned());
        let place = format!("{from}/{}/{}", self.partition, self.record.offset);
        headers.push(Header::new(REDRIVEN_FROM, place));
        headers.push(Header::new(REDRIVEN_TIME, now_ms.to_string()));
        let count = before.saturating_add(1);
        headers.push(Header::new(REDRIVEN_COUNT, count.to_string()));
        headers
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn death(dead: Dead) -> Death<'static> {
        Death {
            topic: "jobs",
            group: "work",
            partition: 3,
            number: 9,
            dead,
            error: "no luck",
            history: &[],
        }
    }

    const DEAD: Dead = Dead {
        offset: 17,
        reason: Reason::Rejected,
        failed: 4,
        hand_outs: 6,
        first_failure_ms: 1_000,
        died_ms: 2_000,
    };

    fn names(headers: &[Header]) -> Vec<&str> {
        headers.iter().map(Header::name_str).collect()
    }

    #[test]
    fn a_copy_tells_its_end_and_only_the_last() {
        let own = vec![
            Header::new("a", "1"),
            Header::new("aq-delay-until", "99"),
            Header::new("aq-ttl", "99"),
            Header::new("aq-priority", "7"),
            Header::new("__dlq.errors.message", "of an earlier life"),
            Header::new("aq-dead-reason", "EXPIRED"),
        ];
        let record = Record {
            offset: 17,
            timestamp_ms: 500,
            headers: own,
            ..Record::default()
        };
        let headers = copy_headers(Some(&record), &death(DEAD));
        let copy = Record {
            offset: 2,
            headers,
            ..record
        };
        let letter = Letter::read(0, copy);
        assert_eq!(names(&letter.record.headers), ["a", "aq-priority"]);
        assert_eq!(
            (letter.topic.as_str(), letter.group.as_str()),
            ("jobs", "work")
        );
        assert_eq!((letter.source, letter.number), ((3, 17), 9));
        assert_eq!((letter.attempts, letter.hand_outs), (4, 6));
        assert_eq!(
            (letter.reason, letter.error.as_str()),
            (Reason::Rejected, "no luck")
        );
        assert_eq!((letter.first_failure_ms, letter.died_ms), (1_000, 2_000));
        assert_eq!(letter.published_ms, 500);
    }

    #[test]
    fn every_reason_comes_back() {
        for known in 0..crate::queue::command::REASONS {
            let known = Reason::try_from(i32::try_from(known).unwrap()).unwrap();
            assert_eq!(reason(name(known).as_bytes()), known);
        }
    }

    #[test]
    fn what_is_no_copy_reads_as_unknown() {
        let headers = vec![Header::new("aq-dead-attempts", "many")];
        let letter = Letter::read(
            1,
            Record {
                headers,
                ..Record::default()
            },
        );
        assert_eq!(
            (letter.reason, letter.attempts, letter.number),
            (Reason::Unknown, 0, 0)
        );
        assert!(letter.topic.is_empty() && letter.record.headers.is_empty());
    }

    #[test]
    fn a_redriven_message_says_where_it_comes_from() {
        let record = Record {
            offset: 5,
            headers: vec![
                Header::new("keep", "1"),
                Header::new("drop", "2"),
                Header::new("fix", "old"),
                Header::new("fix", "old too"),
            ],
            ..Record::default()
        };
        let edits = Edits {
            set: vec![Header::new("fix", "new")],
            remove: vec!["drop".into()],
        };
        let headers = copy_headers(Some(&record), &death(DEAD));
        let letter = Letter::read(0, Record { headers, ..record });
        let headers = letter.redriven_headers("jobs.work.dlq", &edits, 7);
        let expected = ["keep", "fix", REDRIVEN_FROM, REDRIVEN_TIME, REDRIVEN_COUNT];
        assert_eq!(names(&headers), expected);
        assert_eq!(
            attributes::find(&headers, REDRIVEN_FROM),
            Some(&b"jobs.work.dlq/0/5"[..])
        );
        // A second time counts, and names the last place only.
        let again = Letter {
            record: Record {
                offset: 8,
                headers,
                ..Record::default()
            },
            ..letter
        };
        let headers = again.redriven_headers("jobs.work.dlq", &Edits::default(), 9);
        assert_eq!(names(&headers), expected);
        assert_eq!(attributes::find(&headers, REDRIVEN_COUNT), Some(&b"2"[..]));
    }
}
