//! What an order is, and what is to happen to it: pure.

use std::time::{SystemTime, UNIX_EPOCH};

/// How long later those are that are for later.
const LATER_MS: i64 = 2_000;

/// What happens when it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It works.
    Plain,
    /// It fails at the first attempt.
    Flaky,
    /// It fails at every attempt.
    Refused,
    /// It is no order at all: no second attempt.
    Spam,
    /// It works, but not before its time.
    Later,
}

impl Fate {
    pub(crate) fn of(number: u64) -> Self {
        match number {
            n if n % 100 == 29 => Self::Spam,
            n if n % 50 == 7 => Self::Refused,
            n if n % 20 == 11 => Self::Later,
            n if n % 10 == 3 => Self::Flaky,
            _ => Self::Plain,
        }
    }
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// From 1; the line of the log.
    pub(crate) number: u64,
    pub(crate) customer: String,
    /// Not before then, in milliseconds since 1970; 0: at once.
    pub(crate) due_ms: i64,
    /// What was asked for.
    pub(crate) request: String,
}

impl Order {
    /// The order that a line of the log stands for.
    pub(crate) fn new(number: u64, line: &str) -> Self {
        let (customer, rest) = line.split_once(' ').unwrap_or((line, ""));
        let due_ms = match Fate::of(number) {
            Fate::Later => now_ms() + LATER_MS,
            _ => 0,
        };
        Self {
            number,
            customer: customer.to_owned(),
            due_ms,
            request: rest.split('"').nth(1).unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn fate(&self) -> Fate {
        Fate::of(self.number)
    }

    pub(crate) fn to_text(&self) -> String {
        let Self {
            number,
            customer,
            due_ms,
            request,
        } = self;
        format!("{number} {customer} {due_ms} {request}")
    }

    /// `None` if it is no order.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.splitn(4, ' ');
        Some(Self {
            number: parts.next()?.parse().ok()?,
            customer: parts.next()?.to_owned(),
            due_ms: parts.next()?.parse().ok()?,
            request: parts.next()?.to_owned(),
        })
    }
}

pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
