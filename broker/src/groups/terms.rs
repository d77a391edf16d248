//! The words that a coordinator and those around it exchange: members, assignments, what a
//! connection is told, what the driver does. Plain data.

/// A member inside its group, never reused.
pub(crate) type Slot = u64;
/// One connection of a member, never reused.
pub(crate) type Conn = u64;

/// Who wants to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Joining {
    /// Not empty: the caller makes one up where the member has none.
    pub(crate) member_id: String,
    /// The caller made it up.
    pub(crate) is_new: bool,
    /// Empty for a dynamic member.
    pub(crate) instance_id: String,
    pub(crate) client_id: String,
    pub(crate) address: String,
    pub(crate) pulls: bool,
}

/// Why somebody cannot join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotJoined {
    TooMany,
    /// The id belongs to a member with another instance id.
    IdTaken,
}

/// A member, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberInfo {
    pub(crate) member: Joining,
    pub(crate) partitions: Vec<u32>,
    pub(crate) idle_ms: u64,
}

/// A partition that a member has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) partition: u32,
    pub(crate) epoch: u64,
    pub(crate) position: u64,
    /// From, and to (exclusive).
    pub(crate) skipped: Option<(u64, u64)>,
}

/// What a claim found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Delivery begins here.
    At {
        position: u64,
        skipped: Option<(u64, u64)>,
    },
    /// By the group's policy nothing is delivered until a seek.
    Stuck(LostReason),
}

/// Why a partition is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LostReason {
    Seek,
    Revoked,
    Overrun,
    NoPosition,
    Damaged,
}

impl LostReason {
    /// The word of the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LostReason::Seek => "SEEK",
            LostReason::Revoked => "REVOKED",
            LostReason::Overrun => "OVERRUN",
            LostReason::NoPosition => "NO_POSITION",
            LostReason::Damaged => "DAMAGED",
        }
    }
}

/// Where and why a member cannot read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) partition: u32,
    pub(crate) epoch: u64,
    pub(crate) cursor: u64,
    pub(crate) reason: LostReason,
}

/// What a connection is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tell {
    Assigned(Vec<Assignment>),
    Revoking {
        partitions: Vec<u32>,
        deadline_ms: u64,
    },
    Lost {
        partitions: Vec<u32>,
        reason: LostReason,
    },
    Paused(bool),
    /// Another connection has this member's place.
    Fenced,
    /// It was not heard of in time.
    Expired,
    /// Somebody let it leave by a call.
    Removed,
}

/// What the driver does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Claim the partition in its log, then call `Coordinator::claimed` with this number.
    Claim {
        partition: u32,
        claim: u64,
        /// Where the member stood, if that is known and the group has no position.
        cursor: Option<u64>,
    },
    Tell(Conn, Tell),
}
