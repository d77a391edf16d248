//! The network of a group that has one voter: there is nobody to call.
//!
//! openraft asks for a network even then. Every call answers `Unreachable`, which is what a
//! membership naming other nodes would deserve until peers exist.

use std::{future::Future, io};

use openraft::{
    OptionalSend,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};

use super::types::{RaftVote, TypeConfig};

/// Makes [`Alone`].
pub(crate) struct NoPeers;

/// A connection to a peer that cannot exist.
pub(crate) struct Alone;

fn unreachable() -> Unreachable<TypeConfig> {
    Unreachable::new(&io::Error::other("this node has no peers"))
}

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = Alone;

    async fn new_client(&mut self, _target: u64, _node: &openraft::impls::BasicNode) -> Alone {
        Alone
    }
}

impl RaftNetworkV2<TypeConfig> for Alone {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(unreachable()))
    }
}
