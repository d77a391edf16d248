//! What a group's task can be asked, and what it is told by the members' connections.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    commit::Held,
    pull::PullSession,
    session::MemberSession,
    terms::{Conn, Joining, MemberInfo, Stop},
};
use crate::error::Refusal;

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a group can be asked.
pub(crate) enum Request {
    /// A stream joins.
    Join {
        joining: Joining,
        answer: Answer<Joined>,
    },
    /// A pull: the member's session, joining on the way.
    Pull {
        joining: Joining,
        answer: Answer<Arc<PullSession>>,
    },
    Released {
        conn: Conn,
        partitions: Vec<u32>,
    },
    /// The connection is gone; `closed`: in order.
    Gone {
        conn: Conn,
        closed: bool,
    },
    Stopped {
        conn: Conn,
        stop: Stop,
    },
    Leave {
        member_id: String,
        answer: Answer<()>,
    },
    /// What a connected member holds.
    Find {
        member_id: String,
        answer: Answer<Arc<Held>>,
    },
    /// The epochs of these partitions, if the group has no members.
    Memberless {
        partitions: Vec<u32>,
        answer: Answer<Vec<u64>>,
    },
    Describe {
        answer: Answer<Vec<MemberInfo>>,
    },
    /// The positions become these.
    Seek {
        targets: Vec<(u32, u64)>,
        answer: Answer<()>,
    },
    /// The group's settings have changed.
    Reconfigure,
    /// Nobody joins from now on; refused while there are members.
    Close {
        answer: Answer<()>,
    },
    /// It is not deleted after all.
    Reopen,
}

/// A stream that has joined.
pub(crate) struct Joined {
    pub(crate) session: MemberSession,
    pub(crate) member_id: String,
    pub(crate) session_ms: u64,
}
