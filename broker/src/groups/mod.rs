//! Consumer groups: members share the partitions of a topic, and the broker keeps where they are.
//!
//! ```text
//!  stream or pull ──► session (lanes, credit) ◄── told ── driver ── effects ── coordinator (pure)
//!        │                                                   │ claim, seek
//!        └── commit ──► partition's owner ──► its log ◄──────┘
//! ```
//!
//! - [`assign`], [`coordinator`], [`start`]: the decisions, pure
//! - [`driver`]: a task for each group that has members; [`session`], [`pull`]: a member's side
//! - [`commit`]: from a member to the partition's log
//! - [`admin`], [`seek`], [`lag`], [`board`]: the group from outside
//!
//! Two things are promised. A commit of an assignment that is over never lands: every assignment
//! and every seek raises the group's epoch in the partition's own log first, and the log decides.
//! And a group without members costs nothing but its record.

pub(crate) mod admin;
mod assign;
pub(crate) mod board;
pub(crate) mod commit;
mod coordinator;
mod driver;
pub(crate) mod lag;
pub(crate) mod member;
pub(crate) mod pull;
mod requests;
pub(crate) mod seek;
pub(crate) mod session;
mod skips;
pub(crate) mod start;
pub(crate) mod terms;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::{
    board::Board,
    driver::{Driver, Face},
    requests::Request,
};
use crate::{error::Refusal, metadata::groups::Group, services::Services, shards::Shards};

/// Requests that may wait for a group's task.
const INBOX: usize = 1_024;

struct Active {
    sender: mpsc::Sender<Request>,
    face: Arc<Face>,
}

/// The groups that have a task.
pub(crate) struct Groups {
    active: Mutex<HashMap<u64, Active>>,
    /// One change of a group's record at a time.
    changing: tokio::sync::Mutex<()>,
    pub(crate) shards: Arc<Shards>,
    /// Queue groups are made by whoever works in them first.
    pub(crate) auto_create_queues: bool,
    board: Board,
}

impl Groups {
    pub(crate) fn new(shards: Arc<Shards>, auto_create_queues: bool) -> Groups {
        Groups {
            active: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            shards,
            auto_create_queues,
            board: Board::default(),
        }
    }

    /// While this is held no group is made, changed or deleted.
    pub(crate) async fn hold_still(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// The group's task ends, if nobody can reach it any more but through here.
    fn retire(&self, id: u64, inbox: &mpsc::Receiver<Request>) -> bool {
        let mut active = self.active.lock();
        let unreached = inbox.is_empty() && inbox.sender_strong_count() == 1;
        if unreached {
            active.remove(&id);
        }
        unreached
    }

    fn remove(&self, id: u64) {
        self.active.lock().remove(&id);
    }

    fn running(&self, id: u64) -> Option<mpsc::Sender<Request>> {
        let active = self.active.lock();
        active.get(&id).map(|active| active.sender.clone())
    }

    fn face(&self, id: u64) -> Option<Arc<Face>> {
        let active = self.active.lock();
        active.get(&id).map(|active| active.face.clone())
    }
}

impl Services {
    /// The way to the group's task, started if it does not run.
    fn coordinator(self: &Arc<Self>, group: &Group) -> Result<mpsc::Sender<Request>, Refusal> {
        if group.queue.is_some() {
            return Err(admin::wrong_kind(group));
        }
        let live = self.topics.get(&group.topic)?;
        let mut active = self.groups.active.lock();
        if let Some(active) = active.get(&group.id) {
            return Ok(active.sender.clone());
        }
        // Under the lock: a group that is deleted has closed its task first.
        let Some(group) = self.group_by_id(group) else {
            return Err(not_found(group, None));
        };
        self.check_draining()?;
        let (sender, inbox) = mpsc::channel(INBOX);
        let face = Arc::new(Face::default());
        let id = group.id;
        let (weak, shown) = (sender.downgrade(), face.clone());
        let driver = Driver::new(self.clone(), group, live, inbox, weak, shown);
        self.groups.shards.of(id).spawn(driver.run());
        let handle = sender.clone();
        active.insert(id, Active { sender, face });
        Ok(handle)
    }

    /// Asks the group's task.
    async fn ask<T>(
        self: &Arc<Self>,
        group: &Group,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let coordinator = self.coordinator(group)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Refusal::Unavailable {
            why: "the group's coordinator stopped".into(),
        };
        coordinator
            .send(request(answer))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// The record of the same group as of now.
    pub(crate) fn group_by_id(&self, group: &Group) -> Option<Group> {
        let view = self.metadata.view().read();
        let found = view.group(&group.topic, &group.name)?;
        (found.id == group.id).then(|| found.clone())
    }
}

fn not_empty(group: &Group, members: u64) -> Refusal {
    Refusal::GroupNotEmpty {
        topic: group.topic.clone(),
        group: group.name.clone(),
        members,
    }
}

fn not_found(group: &Group, did_you_mean: Option<String>) -> Refusal {
    Refusal::GroupNotFound {
        topic: group.topic.clone(),
        group: group.name.clone(),
        did_you_mean,
    }
}
