//! Positions of consumer groups in one partition: rules of claiming, committing and seeking. Pure.
//!
//! A position belongs to an *epoch*. A claim (the partition was given to a member) and a seek
//! raise it, and a commit names the epoch it was made under. All of them are entries of the
//! partition's own log, so their order is the log's order and the fence is exact: a commit that
//! was on its way when the partition was claimed either lies before the claim, and then the new
//! owner starts behind it, or after it, and then it is refused here, whatever its sender
//! believed when it sent it. Epochs are part of the state, so they go on growing after a restart.
//!
//! Group ids are never reused, so a group that has the name of a deleted one starts from nothing.

use std::collections::BTreeMap;

use prost::Message;

/// Where a group stands in this partition.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Position {
    /// Next offset to be consumed; absent until the first commit or seek.
    #[prost(uint64, optional, tag = "1")]
    pub(crate) offset: Option<u64>,
    /// Of the latest claim or seek.
    #[prost(uint64, tag = "2")]
    pub(crate) epoch: u64,
    /// When it was committed, milliseconds since the Unix epoch; 0 = never.
    #[prost(int64, tag = "3")]
    pub(crate) commit_time_ms: i64,
}

/// Several changes in one entry, applied in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Moves {
    #[prost(int64, tag = "1")]
    pub(crate) now_ms: i64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) moves: Vec<Move>,
}

/// A change of one group's position.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Move {
    #[prost(uint64, tag = "1")]
    pub(crate) group_id: u64,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5")]
    pub(crate) kind: Option<Kind>,
}

/// What is changed.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    /// A member is given the partition: a new epoch, the position stays.
    #[prost(bool, tag = "2")]
    Claim(bool),
    #[prost(message, tag = "3")]
    Commit(Commit),
    /// The position becomes this offset, under a new epoch.
    #[prost(uint64, tag = "4")]
    Seek(u64),
    /// The group was deleted.
    #[prost(bool, tag = "5")]
    Forget(bool),
}

/// Everything below `offset` is done.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Commit {
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
}

/// What became of each move, in order.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Moved {
    #[prost(message, repeated, tag = "1")]
    pub(crate) results: Vec<MoveResult>,
}

/// The position after a move that was made or refused.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct MoveResult {
    #[prost(enumeration = "Verdict", tag = "1")]
    pub(crate) verdict: i32,
    #[prost(message, required, tag = "2")]
    pub(crate) position: Position,
}

/// Whether a move was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Verdict {
    /// A kind that this version does not know.
    Unreadable = 0,
    Made = 1,
    /// The commit's epoch is not the present one.
    Fenced = 2,
    /// The commit lies before the position.
    Backwards = 3,
    /// The offset is not written yet.
    BeyondEnd = 4,
}

/// The positions of all groups.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Positions {
    #[prost(btree_map = "uint64, message", tag = "1")]
    groups: BTreeMap<u64, Position>,
}

impl Positions {
    /// Where this group stands, if it ever claimed, committed or sought here.
    pub(crate) fn get(&self, group_id: u64) -> Option<Position> {
        self.groups.get(&group_id).copied()
    }

    /// The groups that are known here.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.groups.keys().copied().collect()
    }

    /// Whether a group stands before this offset.
    pub(crate) fn any_before(&self, offset: u64) -> bool {
        let mut positions = self.groups.values().filter_map(|position| position.offset);
        positions.any(|position| position < offset)
    }

    /// Applies the moves of one entry; `end` is the offset of the next record.
    pub(crate) fn apply(&mut self, moves: &Moves, end: u64) -> Moved {
        let apply_one = |one: &Move| self.apply_one(one, moves.now_ms, end);
        Moved {
            results: moves.moves.iter().map(apply_one).collect(),
        }
    }

    fn apply_one(&mut self, one: &Move, now_ms: i64, end: u64) -> MoveResult {
        let mut position = self.get(one.group_id).unwrap_or_default();
        let verdict = match one.kind {
            Some(Kind::Claim(_)) => {
                position.epoch += 1;
                Verdict::Made
            }
            Some(Kind::Seek(offset)) if offset > end => Verdict::BeyondEnd,
            Some(Kind::Seek(offset)) => {
                position.epoch += 1;
                position.offset = Some(offset);
                Verdict::Made
            }
            Some(Kind::Commit(commit)) => check_commit(&position, commit, end),
            Some(Kind::Forget(_)) => Verdict::Made,
            None => Verdict::Unreadable,
        };
        if verdict == Verdict::Made {
            match one.kind {
                Some(Kind::Forget(_)) => drop(self.groups.remove(&one.group_id)),
                Some(Kind::Commit(commit)) => {
                    position.offset = Some(commit.offset);
                    position.commit_time_ms = now_ms;
                    self.groups.insert(one.group_id, position);
                }
                _ => drop(self.groups.insert(one.group_id, position)),
            }
        }
        MoveResult {
            verdict: verdict as i32,
            position,
        }
    }
}

fn check_commit(position: &Position, commit: Commit, end: u64) -> Verdict {
    if commit.epoch != position.epoch {
        Verdict::Fenced
    } else if commit.offset > end {
        Verdict::BeyondEnd
    } else if position.offset.is_some_and(|now| commit.offset < now) {
        Verdict::Backwards
    } else {
        Verdict::Made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u64 = 7;
    const END: u64 = 100;

    fn run(positions: &mut Positions, kind: Kind) -> (Verdict, Position) {
        let one = Move {
            group_id: GROUP,
            kind: Some(kind),
        };
        let moves = Moves {
            now_ms: 5,
            moves: vec![one],
        };
        let result = positions.apply(&moves, END).results[0];
        (result.verdict(), result.position)
    }

    fn commit(epoch: u64, offset: u64) -> Kind {
        Kind::Commit(Commit { epoch, offset })
    }

    #[test]
    fn a_commit_of_an_earlier_epoch_never_lands() {
        let mut positions = Positions::default();
        assert_eq!(run(&mut positions, Kind::Claim(true)).1.epoch, 1);
        assert_eq!(run(&mut positions, commit(1, 10)).0, Verdict::Made);
        let (_, claimed) = run(&mut positions, Kind::Claim(true));
        assert_eq!((claimed.epoch, claimed.offset), (2, Some(10)));
        assert_eq!(run(&mut positions, commit(1, 20)).0, Verdict::Fenced);
        assert_eq!(run(&mut positions, commit(3, 20)).0, Verdict::Fenced);
        assert_eq!(run(&mut positions, commit(2, 20)).0, Verdict::Made);
        assert_eq!(run(&mut positions, Kind::Seek(3)).1.epoch, 3);
        assert_eq!(run(&mut positions, commit(2, 30)).0, Verdict::Fenced);
        assert_eq!(positions.get(GROUP).and_then(|p| p.offset), Some(3));
    }

    #[test]
    fn commits_go_forward_and_not_beyond_the_end() {
        let mut positions = Positions::default();
        run(&mut positions, Kind::Claim(true));
        for (offset, verdict) in [
            (10, Verdict::Made),
            (10, Verdict::Made),
            (9, Verdict::Backwards),
            (101, Verdict::BeyondEnd),
            (100, Verdict::Made),
        ] {
            assert_eq!(run(&mut positions, commit(1, offset)).0, verdict);
        }
        assert_eq!(run(&mut positions, Kind::Seek(101)).0, Verdict::BeyondEnd);
        let known = positions.get(GROUP).unwrap_or_default();
        assert_eq!((known.offset, known.commit_time_ms), (Some(100), 5));
    }

    #[test]
    fn a_forgotten_group_starts_from_nothing_and_a_refusal_leaves_no_trace() {
        let mut positions = Positions::default();
        run(&mut positions, commit(0, 5));
        run(&mut positions, Kind::Forget(true));
        assert_eq!(positions.ids(), Vec::<u64>::new());
        run(&mut positions, commit(9, 5));
        assert_eq!(positions, Positions::default());
    }
}
