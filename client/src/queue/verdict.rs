//! What may become of a leased message, and its bounds: pure.

use std::time::Duration;

use aqueduct_proto::v1;

use super::Job;
use crate::{Error, times::duration_to_proto};

/// The broker keeps no more of an error's text.
const MAX_ERROR_BYTES: usize = 256;
const LONGEST_EXTENSION: Duration = Duration::from_secs(86_400);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// What becomes of a leased message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done: it never comes back.
    Ack,
    /// The attempt failed. It comes back, or is a dead letter if it was the last attempt.
    Retry {
        /// Not before so long (at most 30 days). `None`: as the policy's backoff says.
        after: Option<Duration>,
        /// Why, for the next attempt and the dead letter. Kept up to 256 bytes.
        error: String,
    },
    /// Given back: not a failed attempt, and ready at once.
    Release,
    /// The lease lasts so long from now (1 ms to 1 day); it is never made shorter.
    Extend(Duration),
    /// Never handed out again: a dead letter.
    DeadLetter {
        /// Why. Kept up to 256 bytes.
        error: String,
    },
}

impl Verdict {
    /// The attempt failed, by the policy.
    pub fn retry(error: impl Into<String>) -> Self {
        Self::Retry {
            after: None,
            error: error.into(),
        }
    }

    /// The attempt failed; the next comes after this.
    pub fn retry_after(after: Duration, error: impl Into<String>) -> Self {
        Self::Retry {
            after: Some(after),
            error: error.into(),
        }
    }

    /// It can never succeed.
    pub fn dead_letter(error: impl Into<String>) -> Self {
        Self::DeadLetter {
            error: error.into(),
        }
    }

    /// Whether the lease goes on.
    pub(super) fn extends(&self) -> bool {
        matches!(self, Self::Extend(_))
    }

    /// What the broker would refuse is refused here: there it would end the stream.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Extend(by) if *by < Duration::from_millis(1) || *by > LONGEST_EXTENSION => {
                let why = format!("extension of {by:?}: 1 ms to 1 day can be had");
                Err(Error::invalid(why))
            }
            Self::Retry {
                after: Some(after), ..
            } if *after > LONGEST_WAIT => {
                let why = format!("retry after {after:?}: at most 30 days can be had");
                Err(Error::invalid(why))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn to_proto(&self) -> v1::settlement::Verdict {
        use v1::settlement::Verdict as Wire;
        match self {
            Self::Ack => Wire::Ack(true),
            Self::Retry { after, error } => Wire::Retry(v1::RetryVerdict {
                after: after.map(duration_to_proto),
                error: cut(error).to_owned(),
            }),
            Self::Release => Wire::Release(true),
            Self::Extend(by) => Wire::Extend(v1::ExtendVerdict {
                by: Some(duration_to_proto(*by)),
            }),
            Self::DeadLetter { error } => Wire::DeadLetter(v1::DeadLetterVerdict {
                error: cut(error).to_owned(),
            }),
        }
    }
}

/// The beginning, at most 256 bytes, whole characters.
fn cut(text: &str) -> &str {
    let end = (0..=MAX_ERROR_BYTES.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// A verdict and the message that it is about, for [`Queue::settle`](super::Queue::settle).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Where the message lies.
    pub partition: u32,
    /// Where the message lies.
    pub offset: u64,
    /// The lease under which it is held.
    pub lease: u64,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Settlement {
    /// A verdict on this job.
    #[must_use]
    pub fn of(job: &Job, verdict: Verdict) -> Self {
        Self {
            partition: job.partition,
            offset: job.offset,
            lease: job.lease,
            verdict,
        }
    }

    pub(super) fn to_proto(&self) -> v1::Settlement {
        v1::Settlement {
            partition: self.partition,
            offset: self.offset,
            lease: self.lease,
            verdict: Some(self.verdict.to_proto()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("ab"), "ab");
        let long = "x".repeat(255) + "\u{e4}rger";
        assert_eq!(cut(&long), "x".repeat(255));
        let long = "x".repeat(254) + "\u{e4}rger";
        assert_eq!(cut(&long).len(), 256);
    }

    #[test]
    fn what_the_broker_would_refuse_does_not_leave() {
        let day = Duration::from_secs(86_400);
        assert!(Verdict::Extend(Duration::ZERO).check().is_err());
        assert!(Verdict::Extend(day).check().is_ok());
        assert!(Verdict::Extend(day * 2).check().is_err());
        assert!(Verdict::retry_after(day * 31, "").check().is_err());
        assert!(Verdict::retry_after(day * 30, "").check().is_ok());
    }
}
