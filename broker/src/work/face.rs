//! What the node shows of a queue group's task without asking it: who works, and who holds what.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Request, Work};
use crate::{
    error::Refusal, groups::member::check_words, metadata::groups::Group, services::Services,
};

/// Names of calls that are kept before those are looked for that hold nothing any more.
const CALLS: usize = 10_000;

/// What a consumer says of itself, and where it comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) client_id: String,
    pub(crate) address: String,
}

impl Holder {
    /// # Errors
    /// If the name is too long or cannot be shown.
    pub(crate) fn new(client_id: String, address: String) -> Result<Holder, Refusal> {
        check_words("client_id", &client_id)?;
        Ok(Holder { client_id, address })
    }
}

/// Consumers by id.
#[derive(Default)]
pub(crate) struct Face(Mutex<Known>);

#[derive(Default)]
struct Known {
    streams: BTreeMap<u64, Holder>,
    /// Streams that are gone and calls that were answered, as long as they may hold something.
    others: HashMap<u64, Holder>,
}

impl Face {
    pub(super) fn joined(&self, id: u64, holder: Holder) {
        self.0.lock().streams.insert(id, holder);
    }

    /// The stream is gone; its leases end one after the other.
    pub(super) fn left(&self, id: u64) {
        let mut known = self.0.lock();
        if let Some(holder) = known.streams.remove(&id) {
            // Streams that come and go without end leave a bounded trace.
            if known.others.len() >= CALLS {
                known.others.clear();
            }
            known.others.insert(id, holder);
        }
    }

    /// A call has got messages. `holding` tells who holds any, and is asked now and then.
    pub(super) fn holds(&self, id: u64, holder: Holder, holding: impl FnOnce() -> HashSet<u64>) {
        let mut known = self.0.lock();
        if known.others.len() >= CALLS {
            let holding = holding();
            known.others.retain(|id, _| holding.contains(id));
            // All of them hold something: then the oldest knowledge is as good as none.
            if known.others.len() > CALLS / 2 {
                known.others.clear();
            }
        }
        known.others.insert(id, holder);
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = Known::default();
    }

    pub(crate) fn holder(&self, id: u64) -> Option<Holder> {
        let known = self.0.lock();
        let found = known.streams.get(&id).or_else(|| known.others.get(&id));
        found.cloned()
    }

    /// Streams that work now.
    pub(crate) fn streams(&self) -> Vec<(u64, Holder)> {
        let known = self.0.lock();
        let streams = known.streams.iter();
        streams.map(|(id, holder)| (*id, holder.clone())).collect()
    }
}

impl Work {
    /// Who works in the group, if it has a task.
    pub(crate) fn face(&self, id: u64) -> Option<Arc<Face>> {
        let active = self.active.lock();
        active.get(&id).map(|active| active.face.clone())
    }
}

impl Services {
    /// Messages that wait for a time, by partition, as far as the group's task has looked; `None`
    /// if it has none.
    pub(crate) async fn count_delayed(&self, group: &Group) -> Option<Vec<u64>> {
        let driver = self.work.running(group.id)?;
        let (answer, answered) = oneshot::channel();
        driver.send(Request::CountDelayed { answer }).await.ok()?;
        answered.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str) -> Holder {
        Holder {
            client_id: name.into(),
            address: String::new(),
        }
    }

    #[test]
    fn names_are_known_while_something_is_held_and_bounded() {
        let face = Face::default();
        face.joined(1, holder("a"));
        assert_eq!(face.streams(), [(1, holder("a"))]);
        face.left(1);
        assert_eq!(face.streams(), []);
        assert_eq!(face.holder(1), Some(holder("a")));
        for id in 2..=CALLS as u64 {
            face.holds(id, holder("b"), || unreachable!("there is room"));
        }
        face.holds(0, holder("c"), || HashSet::from([7]));
        let known = |id| face.holder(id).is_some();
        assert!(known(0) && known(7) && !known(1) && !known(8));
    }

    #[test]
    fn streams_that_come_and_go_leave_a_bounded_trace() {
        let face = Face::default();
        for id in 0..3 * CALLS as u64 {
            face.joined(id, holder("a"));
            face.left(id);
        }
        assert!(face.0.lock().others.len() <= CALLS);
        assert!(face.holder(3 * CALLS as u64 - 1).is_some());
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_refused() {
        assert!(Holder::new("w-1".into(), String::new()).is_ok());
        assert!(Holder::new("a\nb".into(), String::new()).is_err());
        assert!(Holder::new("x".repeat(250), String::new()).is_err());
    }
}
