//! How a job failed, and what is to become of it: pure.

use std::{any::Any, error::Error, fmt, time::Duration};

use crate::{Verdict, error::chain};

/// The broker accepts no longer wait.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// Why a handler did not do its job, and what is to become of it. Every error can be one, by `?`:
/// then the attempt failed, and the job comes back as the policy says.
///
/// ```
/// use aqueduct_client::{Failure, Job};
/// use std::time::Duration;
///
/// async fn pack(job: Job) -> Result<(), Failure> {
///     let text = std::str::from_utf8(job.value.as_deref().unwrap_or_default())
///         .map_err(|_| Failure::dead_letter("the order is no text"))?;
///     let pieces: u32 = text.parse()?; // comes back by the policy's backoff
///     if pieces > 100 {
///         return Err(Failure::retry_after(Duration::from_secs(3600), "the store is empty"));
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    verdict: Verdict,
}

impl Failure {
    /// The attempt failed; the next comes as the policy's backoff says.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self {
            verdict: Verdict::retry(error.to_string()),
        }
    }

    /// The attempt failed; the next comes after this (30 days at most).
    pub fn retry_after(after: Duration, error: impl fmt::Display) -> Self {
        Self {
            verdict: Verdict::retry_after(after.min(LONGEST_WAIT), error.to_string()),
        }
    }

    /// It can never succeed: a dead letter.
    pub fn dead_letter(error: impl fmt::Display) -> Self {
        Self {
            verdict: Verdict::dead_letter(error.to_string()),
        }
    }

    /// Not now and not here: given back without counting as a failed attempt, and ready at once.
    #[must_use]
    pub fn release() -> Self {
        Self {
            verdict: Verdict::Release,
        }
    }

    /// A panic with this payload.
    pub(super) fn panicked(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::retry(format!(
            "the handler panicked: {}",
            text.unwrap_or("no text")
        ))
    }

    pub(super) fn timed_out(after: Duration) -> Self {
        Self::retry(format!("the handler was not done within {after:?}"))
    }

    pub(super) fn into_verdict(self) -> Verdict {
        self.verdict
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::retry(chain(&error))
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_a_retry_with_its_text() {
        fn parse() -> Result<u32, Failure> {
            Ok("x".parse()?)
        }
        let failure = parse().unwrap_err();
        assert_eq!(
            failure.into_verdict(),
            Verdict::retry("invalid digit found in string")
        );
    }

    #[test]
    fn waits_stay_within_what_the_broker_takes() {
        let year = Duration::from_secs(366 * 86_400);
        let verdict = Failure::retry_after(year, "later").into_verdict();
        assert_eq!(verdict, Verdict::retry_after(LONGEST_WAIT, "later"));
    }

    #[test]
    fn a_panic_has_its_text() {
        for payload in [
            Box::new("boom") as Box<dyn Any + Send>,
            Box::new("boom".to_owned()),
        ] {
            let verdict = Failure::panicked(&*payload).into_verdict();
            assert_eq!(verdict, Verdict::retry("the handler panicked: boom"));
        }
        let verdict = Failure::panicked(&7).into_verdict();
        assert_eq!(verdict, Verdict::retry("the handler panicked: no text"));
    }
}
