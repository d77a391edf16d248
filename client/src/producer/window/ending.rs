//! What becomes of parcels when a stream, an identity or the producer ends.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Lane, Window,
    parcel::{Body, Parcel},
};
use crate::{
    Error,
    producer::delivery::{Completion, Outcome},
};

impl Window {
    /// Under a new identity nobody could tell that a batch is stored already: what may be is not
    /// sent again.
    pub(super) fn give_up_unknown(&mut self) {
        let is_unknown = |parcel: &Parcel| {
            (parcel.maybe_stored || parcel.was_lost) && matches!(parcel.body, Body::Batch { .. })
        };
        let mut unknown = Vec::new();
        let mut sort = |queue: &mut VecDeque<Parcel>| {
            let (gone, kept): (Vec<_>, Vec<_>) = queue.drain(..).partition(is_unknown);
            queue.extend(kept);
            unknown.extend(gone);
        };
        for lane in &mut self.lanes {
            sort(&mut lane.again);
            sort(&mut lane.waiting);
        }
        sort(&mut self.queue);
        for parcel in unknown {
            let why = "the connection broke, and the broker has forgotten this producer";
            self.finish(&parcel, Outcome::Failed(Error::unknown(why)));
        }
    }

    /// The stream broke: what was in flight goes again, in the same order (under a new identity,
    /// if the broker did not know the old one).
    pub(in crate::producer) fn lost(&mut self, why: &Error) {
        if self.unknown_here {
            self.identity = None;
        }
        let any = !self.in_flight.is_empty();
        if let Some(identity) = self
            .identity
            .as_mut()
            .filter(|_| any && !self.settings.named)
        {
            identity.epoch = identity.epoch.saturating_add(1);
        }
        while let Some(mut parcel) = self.in_flight.pop_front() {
            let place = parcel.lane;
            let lane = &mut self.lanes[place as usize];
            lane.in_flight -= 1;
            parcel.maybe_stored = true;
            parcel.was_lost = true;
            if parcel.resendable() {
                lane.stalled = true;
                lane.again.push_back(parcel);
            } else {
                let message = format!("the connection broke: {}", why.message());
                self.finish(&parcel, Outcome::Failed(Error::unknown(message)));
            }
            self.settle(place);
        }
    }

    /// True if something has been on its way since before `limit` ago.
    pub(in crate::producer) fn expired(&self, now: Instant, limit: Duration) -> bool {
        let old = |created: Instant| now.saturating_duration_since(created) > limit;
        let first = |queue: &VecDeque<Parcel>| queue.front().is_some_and(|it| old(it.created));
        let in_lane = |lane: &Lane| {
            let open = lane.open.as_ref().is_some_and(|open| old(open.load.since));
            open || first(&lane.again) || first(&lane.waiting)
        };
        first(&self.in_flight) || first(&self.queue) || self.lanes.iter().any(in_lane)
    }

    /// Ends everything. What may be stored is unknown; what certainly is not fails with
    /// `error`, or with the reason for which it was refused before.
    pub(in crate::producer) fn fail_all(&mut self, error: &Error) {
        self.close_open();
        let mut parcels: Vec<Parcel> = self.in_flight.drain(..).collect();
        for parcel in &mut parcels {
            parcel.maybe_stored = true;
        }
        self.parked.clear();
        self.ready.clear();
        for lane in &mut self.lanes {
            parcels.extend(lane.again.drain(..));
            parcels.extend(lane.waiting.drain(..));
            (lane.stalled, lane.parked, lane.listed) = (false, false, false);
            (lane.in_flight, lane.retry_at) = (0, None);
            lane.next = lane.acked;
        }
        parcels.extend(self.queue.drain(..));
        for parcel in parcels {
            let error = match (&parcel.refused, parcel.maybe_stored) {
                (_, true) => Error::unknown(error.message()),
                (Some(refused), false) => refused.clone(),
                (None, false) => error.clone(),
            };
            self.finish(&parcel, Outcome::Failed(error));
        }
        assert_eq!(self.bytes, 0, "every byte on its way is accounted for");
    }

    /// Forgets who we are; [`Window::set_identity`] must follow before anything is sent.
    pub(in crate::producer) fn forget_identity(&mut self) {
        self.identity = None;
    }

    /// Everything that has no outcome yet.
    pub(in crate::producer) fn outstanding(&self) -> Vec<Arc<Completion>> {
        let in_lanes = self
            .lanes
            .iter()
            .flat_map(|lane| lane.again.iter().chain(&lane.waiting));
        let parcels = self.in_flight.iter().chain(&self.queue).chain(in_lanes);
        let open = self.lanes.iter().filter_map(|lane| lane.open.as_ref());
        let open = open.map(|open| open.load.completion.clone());
        parcels
            .map(|parcel| parcel.completion.clone())
            .chain(open)
            .collect()
    }
}
