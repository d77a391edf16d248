//! How long a queue group's task may sleep, and what it wakes before.

use std::time::{Duration, Instant};

use super::driver::Driver;
use crate::queue::time::Next;

/// Longest sleep: what nobody announces is looked for after this.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest sleep while something waits for wall time: nobody tells when that clock steps.
const STEP_NOTICED: Duration = Duration::from_secs(2);

impl Driver {
    /// Makes ready some of what is due; whether there is more.
    pub(super) fn wake_due(&mut self) -> bool {
        let (policy, now) = (&self.policy, self.now());
        let lanes = self.lanes.iter_mut();
        let lanes = lanes.filter(|lane| lane.pause_left_ms().is_none());
        let behind = lanes.filter_map(|lane| lane.with(policy, |_, schedule| schedule.wake(now)));
        // Each of them is looked at.
        behind.fold(false, |any, is_behind| any | is_behind)
    }

    /// How long nothing happens by itself.
    pub(super) fn pause(&mut self) -> Duration {
        let now = self.now();
        let now_ms = now.steady_ms;
        let mut pause = self.paused_for().unwrap_or(LONGEST).min(LONGEST);
        let wanted = self.has_demand();
        for lane in &mut self.lanes {
            if let Some(left) = lane.copies.rest_ms() {
                pause = pause.min(Duration::from_millis(left));
            }
            if let Some(left) = lane.results_rest_ms() {
                pause = pause.min(Duration::from_millis(left.max(1)));
            }
            if let Some(left) = lane.pause_left_ms() {
                pause = pause.min(Duration::from_millis(left));
                continue;
            }
            // What is due is awake, and waits for demand and not for a time.
            let next = lane.with(&self.policy, |_, schedule| {
                schedule.next_due().or(schedule.next_end())
            });
            let next = next.unwrap_or_default();
            if next.wall_ms.is_some() {
                pause = pause.min(STEP_NOTICED);
            }
            let rate = self.policy.rate_per_s;
            let limited = wanted && lane.bucket.available(now_ms, rate) == 0;
            let rate = Next {
                steady_ms: limited.then(|| lane.bucket.next_ms(now_ms, rate)),
                wall_ms: None,
            };
            if let Some(left) = next.or(rate).left_ms(now) {
                // A millisecond at least: what is due and cannot be done is no reason to spin.
                pause = pause.min(Duration::from_millis(left.max(1)));
            }
        }
        for asked in &self.asked {
            pause = pause.min(asked.until.saturating_duration_since(Instant::now()));
        }
        if !wanted && (self.attendance.is_some() || !self.consumers.is_empty()) {
            pause = pause.min(self.attend_at.saturating_duration_since(Instant::now()));
        }
        for awaited in &self.copies_awaited {
            pause = pause.min(awaited.until.saturating_duration_since(Instant::now()));
        }
        for call in &self.calls {
            pause = pause.min(call.until.saturating_duration_since(Instant::now()));
        }
        pause
    }
}
