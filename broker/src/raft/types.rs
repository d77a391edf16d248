//! openraft's type configuration for Aqueduct, and the starting configuration of a Raft group.
//!
//! What a proposal carries is decided here: a kind, one byte of flags and opaque bytes. What
//! the bytes mean is the machine's business. Ids are `u64` in memory; storage keeps terms and
//! leaders as `u32` and refuses larger ones.

use std::{fmt, io, sync::Arc};

use aqueduct_storage::{EntryId, Kind};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{
    Config, EntryPayload, LogId, Membership, OptionalSend, SnapshotPolicy,
    errors::ClientWriteError,
    impls::{BasicNode, BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv::LeaderId},
    raft::ClientWriteResult,
};

use super::engine::ProposeError;

/// What a proposal carries into the log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Data {
    /// `Batch` or `Command`.
    pub(crate) kind: Kind,
    /// Free for the machine; stored in the entry's header.
    pub(crate) flags: u8,
    /// A record batch, or an encoded command.
    pub(crate) payload: Bytes,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}[{} bytes]", self.kind, self.payload.len())
    }
}

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Reply {
    /// Applied; nothing to say.
    #[default]
    Done,
    /// A batch was applied at this base offset.
    Stored { base_offset: u64 },
    /// The machine's own words (an encoded reply).
    Answer(Bytes),
}

/// The type configuration of every Raft group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Reply;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Data, u64, BasicNode>;
    type Entry = openraft::Entry<LeaderId<u64, u64>, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// What a proposal's responder receives.
pub(crate) type WriteAnswer = ClientWriteResult<TypeConfig>;
/// Sends one [`WriteAnswer`].
pub(crate) type WriteResponder = OneshotResponder<TypeConfig, WriteAnswer>;
/// Receives one [`WriteAnswer`].
pub(crate) type WriteReceiver = openraft::alias::OneshotReceiverOf<TypeConfig, WriteAnswer>;

/// openraft's answer in our words.
pub(crate) fn into_answer(answer: WriteAnswer) -> Result<Reply, ProposeError> {
    match answer {
        Ok(response) => Ok(response.data),
        Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NotLeader),
        Err(other) => Err(ProposeError::Unknown(other.to_string())),
    }
}

pub(crate) type Raft<M> = openraft::Raft<TypeConfig, super::machine::Adapter<M>>;
pub(crate) type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type RaftLogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type RaftVote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type RaftMembership = Membership<u64, BasicNode>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The configuration of a group whose only voter is this node.
///
/// No tick runs: a leader that is its own quorum needs no heartbeat and no election timer, and
/// a thousand idle groups must cost nothing. The first election is triggered by hand.
///
/// # Errors
/// If openraft finds the values inconsistent, which the unit test rules out.
pub(crate) fn single_voter_config() -> Result<Arc<Config>, io::Error> {
    let config = Config {
        cluster_name: "aqueduct".into(),
        heartbeat_interval: 300,
        heartbeat_min_interval: Some(300),
        election_timeout_min: 1_000,
        election_timeout_max: 1_500,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(3_000),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        max_payload_entries: 512,
        max_append_entries: Some(1_024),
        api_channel_size: Some(1_024),
        state_machine_channel_size: Some(1_024),
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(io::Error::other)
}

/// openraft's log id as storage writes it.
pub(crate) fn entry_id(id: &RaftLogId) -> EntryId {
    EntryId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

/// Storage's entry id as openraft knows it.
pub(crate) fn log_id(id: EntryId) -> RaftLogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: id.leader,
        },
        id.index,
    )
}

/// Version byte of the encodings below.
const VERSION: u8 = 1;

/// | field | size |
/// |---|---|
/// | version | 1 |
/// | term, node id | 8 + 8, big-endian |
/// | committed | 1 |
pub(crate) fn encode_vote(vote: &RaftVote) -> Bytes {
    let mut out = BytesMut::with_capacity(18);
    out.put_u8(VERSION);
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.node_id);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

/// The inverse of [`encode_vote`].
///
/// # Errors
/// `InvalidData` if the bytes are not of this version and length.
pub(crate) fn decode_vote(mut bytes: &[u8]) -> io::Result<RaftVote> {
    if bytes.len() != 18 || bytes[0] != VERSION {
        return Err(invalid("stored vote", "unknown version or length"));
    }
    bytes.advance(1);
    let (term, node_id, committed) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u8() == 1);
    Ok(RaftVote {
        leader_id: LeaderId { term, node_id },
        committed,
    })
}

/// | field | size |
/// |---|---|
/// | version | 1 |
/// | number of configurations, then each: number of voters, voters | 2, 2, 8 each |
/// | number of nodes, then each: id, address length, address | 2, 8, 2, n |
pub(crate) fn encode_membership(membership: &RaftMembership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    let configs = membership.get_joint_config();
    out.put_u16(len16(configs.len()));
    for config in configs {
        out.put_u16(len16(config.len()));
        config.iter().for_each(|id| out.put_u64(*id));
    }
    out.put_u16(len16(membership.nodes().count()));
    for (id, node) in membership.nodes() {
        out.put_u64(*id);
        out.put_u16(len16(node.addr.len()));
        out.put_slice(node.addr.as_bytes());
    }
    out.freeze()
}

fn len16(n: usize) -> u16 {
    u16::try_from(n).expect("a membership has fewer than 65,536 members and short addresses")
}

/// The inverse of [`encode_membership`].
///
/// # Errors
/// `InvalidData` if the bytes are cut, of another version, or not a possible membership.
pub(crate) fn decode_membership(bytes: &mut &[u8]) -> io::Result<RaftMembership> {
    let cut = || invalid("stored membership", "cut short");
    let take16 = |bytes: &mut &[u8]| bytes.try_get_u16().map_err(|_| cut());
    if bytes.try_get_u8().map_err(|_| cut())? != VERSION {
        return Err(invalid("stored membership", "unknown version"));
    }
    let mut configs = Vec::new();
    for _ in 0..take16(bytes)? {
        let mut config = std::collections::BTreeSet::new();
        for _ in 0..take16(bytes)? {
            config.insert(bytes.try_get_u64().map_err(|_| cut())?);
        }
        configs.push(config);
    }
    let mut nodes = std::collections::BTreeMap::new();
    for _ in 0..take16(bytes)? {
        let id = bytes.try_get_u64().map_err(|_| cut())?;
        let len = usize::from(take16(bytes)?);
        if bytes.remaining() < len {
            return Err(cut());
        }
        let addr = String::from_utf8(bytes[..len].to_vec())
            .map_err(|_| invalid("stored membership", "address is not UTF-8"))?;
        bytes.advance(len);
        nodes.insert(id, BasicNode::new(addr));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(RaftMembership::default());
    }
    Membership::new(configs, nodes)
        .map_err(|error| invalid("stored membership", &error.to_string()))
}

/// An `InvalidData` error that names what was read and why it is refused.
pub(crate) fn invalid(what: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {why}"))
}

/// An openraft payload as (kind, flags, bytes) of a stored entry.
pub(crate) fn encode_payload(payload: EntryPayload<Data, u64, BasicNode>) -> (Kind, u8, Bytes) {
    match payload {
        EntryPayload::Blank => (Kind::Blank, 0, Bytes::new()),
        EntryPayload::Normal(data) => (data.kind, data.flags, data.payload),
        EntryPayload::Membership(membership) => {
            (Kind::Membership, 0, encode_membership(&membership))
        }
    }
}

/// A stored entry as openraft wants it.
///
/// # Errors
/// `InvalidData` if a membership entry cannot be read.
pub(crate) fn decode_entry(entry: aqueduct_storage::Entry) -> io::Result<RaftEntry> {
    let payload = match entry.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Membership => {
            EntryPayload::Membership(decode_membership(&mut entry.payload.as_ref())?)
        }
        kind @ (Kind::Batch | Kind::Command) => EntryPayload::Normal(Data {
            kind,
            flags: entry.flags,
            payload: entry.payload,
        }),
    };
    Ok(openraft::Entry {
        log_id: log_id(entry.id),
        payload,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn single_voter_config_is_valid() {
        single_voter_config().unwrap();
    }

    #[test]
    fn votes_come_back() {
        for committed in [false, true] {
            let vote = RaftVote {
                leader_id: LeaderId {
                    term: 7,
                    node_id: 3,
                },
                committed,
            };
            assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        }
        assert!(decode_vote(&[]).is_err());
        assert!(decode_vote(&[9; 18]).is_err());
    }

    #[test]
    fn memberships_come_back_and_cut_ones_are_refused() {
        let nodes: BTreeMap<u64, _> = (1..=3)
            .map(|id| (id, BasicNode::new(format!("host-{id}:7321"))))
            .collect();
        let membership =
            Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2])], nodes).unwrap();
        let bytes = encode_membership(&membership);
        assert_eq!(decode_membership(&mut bytes.as_ref()).unwrap(), membership);
        for cut in 0..bytes.len() {
            assert!(
                decode_membership(&mut &bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        let empty = encode_membership(&RaftMembership::default());
        assert_eq!(
            decode_membership(&mut empty.as_ref()).unwrap(),
            RaftMembership::default()
        );
    }
}
