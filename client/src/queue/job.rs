//! A leased message as its worker sees it.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aqueduct_proto::v1;
use tokio::sync::Notify;

use crate::{Message, Record, times::time_from_proto};

/// Whether a lease is lost, for those who hold the job.
#[derive(Debug, Default)]
pub(crate) struct Flag {
    is_lost: AtomicBool,
    told: Notify,
}

impl Flag {
    pub(super) fn set(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        let told = self.told.notified();
        tokio::pin!(told);
        // Enlisted before the look, so that nothing falls between.
        told.as_mut().enable();
        if !self.is_set() {
            told.await;
        }
    }
}

/// A message that was leased to this consumer; reads like the [`Record`] it is. Clones are cheap.
#[derive(Clone)]
pub struct Job {
    /// The message.
    pub record: Record,
    /// 1 for the first: one more than the attempts that failed.
    pub attempt: u32,
    /// How often it was handed out, this time included.
    pub hand_outs: u32,
    /// Only grows, per partition and group: fit as a fencing token.
    pub lease: u64,
    /// The end of the lease as it was given, by the broker's clock, in milliseconds since the
    /// Unix epoch.
    pub lease_deadline_ms: i64,
    /// When the first attempt failed, in milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// Why the last attempt failed; empty if none did.
    pub last_error: String,
    flag: Arc<Flag>,
    /// What is to be published if it is done.
    results: Arc<Mutex<Vec<(String, Message)>>>,
}

impl Job {
    pub(super) fn from_proto(delivery: v1::Delivery) -> Self {
        Self {
            record: Record::from_proto(delivery.record.unwrap_or_default()),
            attempt: delivery.attempt,
            hand_outs: delivery.hand_outs,
            lease: delivery.lease,
            lease_deadline_ms: delivery.lease_deadline.map_or(0, time_from_proto),
            first_failure_ms: delivery.first_failure.map(time_from_proto),
            last_error: delivery.last_error,
            flag: Arc::default(),
            results: Arc::default(),
        }
    }

    pub(super) fn flag(&self) -> &Arc<Flag> {
        &self.flag
    }

    /// Publishes a message together with the acknowledgement, all or nothing: a worker whose
    /// handler ends with `Ok(())` settles the job and publishes what was gathered here in one
    /// [`Step`](crate::Step). Any other end publishes nothing. At most 1,000 messages and 8 MiB,
    /// without dedup ids; one that a broker refuses makes the attempt fail.
    ///
    /// Whoever settles by hand puts the job into a [`Step`](crate::Step).
    pub fn publish(&self, topic: impl Into<String>, message: Message) {
        self.results().push((topic.into(), message));
    }

    pub(crate) fn has_results(&self) -> bool {
        !self.results().is_empty()
    }

    /// What was gathered, which is then no longer here.
    pub(crate) fn take_results(&self) -> Vec<(String, Message)> {
        std::mem::take(&mut *self.results())
    }

    fn results(&self) -> MutexGuard<'_, Vec<(String, Message)>> {
        // Nobody panics while holding it.
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is known that the lease is lost: the broker said so, or its time went by
    /// without word from the broker. Whatever is done for the job from then on may be done by
    /// somebody else at the same time. Never, for a job of [`Queue::lease`](super::Queue::lease).
    pub async fn lost(&self) {
        self.flag.wait().await;
    }

    /// True if it is known that the lease is lost; see [`Job::lost`].
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.flag.is_set()
    }

    /// Where the publisher's trace goes on: the message's header `traceparent`, if it is one.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        TraceParent::parse(self.record.header("traceparent")?)
    }
}

impl Deref for Job {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Job");
        debug
            .field("record", &self.record)
            .field("attempt", &self.attempt)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// A W3C trace context, as hexadecimal text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits: the span that published.
    pub parent_id: String,
    /// Whether the trace is recorded.
    pub sampled: bool,
}

impl TraceParent {
    fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.splitn(5, '-');
        let mut next = |digits: usize| {
            let part = parts.next()?;
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let fits = part.len() == digits && part.bytes().all(is_hex);
            fits.then_some(part)
        };
        let version = next(2)?;
        let (trace_id, parent_id, flags) = (next(32)?, next(16)?, next(2)?);
        let known = version != "ff" && (version != "00" || parts.next().is_none());
        let zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        if !known || zero(trace_id) || zero(parent_id) {
            return None;
        }
        Some(Self {
            trace_id: trace_id.to_owned(),
            parent_id: parent_id.to_owned(),
            sampled: u8::from_str_radix(flags, 16).ok()? & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_taken_only_whole() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceParent::parse(good).unwrap();
        assert_eq!(parsed.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parsed.parent_id, "00f067aa0ba902b7");
        assert!(parsed.sampled);
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e4}-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
        let newer = b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more";
        assert!(!TraceParent::parse(newer).unwrap().sampled);
    }

    #[tokio::test]
    async fn a_lost_lease_is_told_before_and_after() {
        let flag = Arc::new(Flag::default());
        let waiting = tokio::spawn({
            let flag = flag.clone();
            async move { flag.wait().await }
        });
        tokio::task::yield_now().await;
        flag.set();
        waiting.await.unwrap();
        flag.wait().await;
        assert!(flag.is_set());
    }
}
