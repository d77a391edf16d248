//! The policy of a queue group as flags, and which of its fields they name. Pure.

use std::time::Duration;

use aqueduct_client::{HeaderCondition, OnKeyFailure, QueueOrder, QueuePolicy, QueuePriorities};
use clap::{Args, ValueEnum};

use super::values;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Order {
    /// As they are ready
    None,
    /// One message of a key at a time, in order
    PerKey,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyFailure {
    /// They go on
    Skip,
    /// They wait
    Block,
    /// They wait, and become dead letters if it becomes one
    Park,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Priorities {
    /// Not looked at
    Off,
    /// Higher ones always first
    Strict,
    /// Higher ones more often, lower ones never not
    Weighted,
}

/// How a queue group hands messages out; what is not given stays at its default or as it is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queue groups")]
pub(super) struct QueueFlags {
    /// How long a lease lasts. Default: 30s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    lease: Option<Duration>,
    /// Failed attempts after which a message is a dead letter. Default: 10
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Leases after which it is one, failed or not. Default: 100
    #[arg(long, value_name = "N")]
    max_hand_outs: Option<u32>,
    /// Wait after the first failed attempt. Default: 1s
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    backoff: Option<Duration>,
    /// Each further wait is so many times the one before, such as 1.5. Default: 2
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    backoff_factor: Option<u32>,
    /// Longest wait. Default: 10m
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    backoff_max: Option<Duration>,
    /// Waits are up to so much shorter or longer. Default: 20
    #[arg(long, value_name = "PERCENT")]
    backoff_jitter: Option<u32>,
    /// Whether copies of dead letters go to TOPIC.GROUP.dlq; else they are dropped and counted. Default: true
    #[arg(long, value_name = "BOOL")]
    dead_letters: Option<bool>,
    /// The same as --dead-letters false
    #[arg(long, conflicts_with = "dead_letters")]
    no_dead_letters: bool,
    /// The same for messages whose time to live is over. Default: true
    #[arg(long, value_name = "BOOL")]
    dead_letters_for_expired: Option<bool>,
    /// In which order messages are handed out. Default: none
    #[arg(long, value_name = "ORDER", value_enum)]
    order: Option<Order>,
    /// With --order per-key: what the later messages of a key do while one waits for its retry. Default: skip
    #[arg(long, value_name = "WHAT", value_enum)]
    on_key_failure: Option<KeyFailure>,
    /// Whether messages of higher priority come first. Default: off
    #[arg(long, value_name = "HOW", value_enum)]
    priorities: Option<Priorities>,
    /// Messages leased at a time in each partition; 0 is no limit
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u64>,
    /// The same for one consumer
    #[arg(long, value_name = "N")]
    max_in_flight_per_consumer: Option<u64>,
    /// The same for one key
    #[arg(long, value_name = "N")]
    max_in_flight_per_key: Option<u64>,
    /// Messages a second in each partition; 0 is no limit
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Only messages with a header: NAME? (there is one), NAME=VALUE, NAME^=PREFIX; several must
    /// all hold. The others are done at once
    #[arg(long, value_name = "CONDITION", value_parser = condition)]
    filter: Vec<HeaderCondition>,
    /// All messages again
    #[arg(long, conflicts_with = "filter")]
    no_filter: bool,
    /// In a topic that retains until done: how long messages stay readable after that. Default: 0
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    retain_done: Option<Duration>,
}

/// 1.5 is 150 percent.
fn factor(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a factor like 2 or 1.5");
    let factor: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=10_000.0).contains(&factor) {
        return Err(wrong());
    }
    Ok((factor * 100.0).round() as u32)
}

/// `NAME?`, `NAME=VALUE` or `NAME^=PREFIX`.
fn condition(text: &str) -> Result<HeaderCondition, String> {
    let own = |name: &str| name.to_owned();
    let condition = match text.split_once('=') {
        Some((name, value)) => {
            let value = value.to_owned().into();
            match name.strip_suffix('^') {
                Some(name) => HeaderCondition::Prefix(own(name), value),
                None => HeaderCondition::Equals(own(name), value),
            }
        }
        None => match text.strip_suffix('?') {
            Some(name) => HeaderCondition::Exists(own(name)),
            None => {
                return Err(format!(
                    "{text:?} is none of NAME?, NAME=VALUE, NAME^=PREFIX"
                ));
            }
        },
    };
    let (HeaderCondition::Exists(name)
    | HeaderCondition::Equals(name, _)
    | HeaderCondition::Prefix(name, _)) = &condition;
    match name.is_empty() {
        true => Err(format!("{text:?} names no header")),
        false => Ok(condition),
    }
}

/// A condition as it is written.
pub(super) fn show_condition(condition: &HeaderCondition) -> String {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match condition {
        HeaderCondition::Exists(name) => format!("{name}?"),
        HeaderCondition::Equals(name, value) => format!("{name}={}", text(value)),
        HeaderCondition::Prefix(name, value) => format!("{name}^={}", text(value)),
    }
}

impl QueueFlags {
    /// The policy, and the names of the fields that were given.
    pub(super) fn policy(&self) -> (QueuePolicy, Vec<&'static str>) {
        let mut fields = Vec::new();
        let mut given = |name, is_given: bool| {
            if is_given {
                fields.push(name);
            }
        };
        let dead_letters = self.dead_letters.or(self.no_dead_letters.then_some(false));
        given("lease", self.lease.is_some());
        given("max_attempts", self.max_attempts.is_some());
        given("max_hand_outs", self.max_hand_outs.is_some());
        given("backoff", self.backoff.is_some());
        given("backoff_factor_percent", self.backoff_factor.is_some());
        given("backoff_max", self.backoff_max.is_some());
        given("backoff_jitter_percent", self.backoff_jitter.is_some());
        given("dead_letters", dead_letters.is_some());
        let for_expired = self.dead_letters_for_expired;
        given("dead_letters_for_expired", for_expired.is_some());
        given("order", self.order.is_some());
        given("on_key_failure", self.on_key_failure.is_some());
        given("priorities", self.priorities.is_some());
        given("max_in_flight", self.max_in_flight.is_some());
        let (per_consumer, per_key) = (self.max_in_flight_per_consumer, self.max_in_flight_per_key);
        given("max_in_flight_per_consumer", per_consumer.is_some());
        given("max_in_flight_per_key", per_key.is_some());
        given("messages_per_second", self.rate.is_some());
        given("filter", self.no_filter || !self.filter.is_empty());
        given("retain_done", self.retain_done.is_some());
        let policy = QueuePolicy {
            lease: self.lease,
            max_attempts: self.max_attempts,
            max_hand_outs: self.max_hand_outs,
            backoff: self.backoff,
            backoff_factor_percent: self.backoff_factor,
            backoff_max: self.backoff_max,
            backoff_jitter_percent: self.backoff_jitter,
            dead_letters,
            dead_letters_for_expired: self.dead_letters_for_expired,
            order: self.order.map(QueueOrder::from).unwrap_or_default(),
            on_key_failure: self
                .on_key_failure
                .map(OnKeyFailure::from)
                .unwrap_or_default(),
            priorities: self
                .priorities
                .map(QueuePriorities::from)
                .unwrap_or_default(),
            max_in_flight: self.max_in_flight.unwrap_or(0),
            max_in_flight_per_consumer: per_consumer.unwrap_or(0),
            max_in_flight_per_key: per_key.unwrap_or(0),
            messages_per_second: self.rate.unwrap_or(0),
            filter: self.filter.clone(),
            retain_done: self.retain_done,
        };
        (policy, fields)
    }
}

impl From<Order> for QueueOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::None => Self::None,
            Order::PerKey => Self::PerKey,
        }
    }
}

impl From<KeyFailure> for OnKeyFailure {
    fn from(failure: KeyFailure) -> Self {
        match failure {
            KeyFailure::Skip => Self::SkipAhead,
            KeyFailure::Block => Self::Block,
            KeyFailure::Park => Self::Park,
        }
    }
}

impl From<Priorities> for QueuePriorities {
    fn from(priorities: Priorities) -> Self {
        match priorities {
            Priorities::Off => Self::Off,
            Priorities::Strict => Self::Strict,
            Priorities::Weighted => Self::Weighted,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn conditions() {
        let name = || "type".to_owned();
        let cases = [
            ("type?", HeaderCondition::Exists(name())),
            ("type=", HeaderCondition::Equals(name(), "".into())),
            ("type=a=b", HeaderCondition::Equals(name(), "a=b".into())),
            ("type=a?", HeaderCondition::Equals(name(), "a?".into())),
            ("type^=a", HeaderCondition::Prefix(name(), "a".into())),
        ];
        for (text, expected) in cases {
            let parsed = condition(text).unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(show_condition(&parsed), text);
        }
        for text in ["", "type", "=a", "^=a", "?"] {
            assert!(condition(text).is_err(), "{text}");
        }
    }

    #[test]
    fn factors_are_percents() {
        assert_eq!(factor("2"), Ok(200));
        assert_eq!(factor("1.5"), Ok(150));
        for text in ["", "x", "-1", "NaN", "inf", "1e9"] {
            assert!(factor(text).is_err(), "{text}");
        }
    }
}
