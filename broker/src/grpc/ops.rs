//! `aqueduct.v1.Ops`: the node's numbers.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use aqueduct_proto::v1::{self, GetStatsRequest, GetStatsResponse};
use tonic::{Request, Response, Status};

use crate::{services::Services, stats::process_cost};

pub(super) struct Ops(Arc<Services>);

impl Ops {
    pub(super) fn new(services: Arc<Services>) -> Ops {
        Ops(services)
    }
}

#[tonic::async_trait]
impl v1::ops_server::Ops for Ops {
    async fn get_stats(
        &self,
        _request: Request<GetStatsRequest>,
    ) -> Result<Response<GetStatsResponse>, Status> {
        let (stats, disk, cost) = (&self.0.stats, self.0.store.stats(), process_cost());
        let (topics, partitions) = {
            let state = self.0.metadata.view().read();
            (state.topics.len() as u64, state.partitions() as u64)
        };
        Ok(Response::new(GetStatsResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: stats.uptime_ms(),
            cpu_us: cost.cpu_us,
            rss_bytes: cost.rss_bytes,
            rss_peak_bytes: cost.rss_peak_bytes,
            connections: stats.connections.load(Relaxed),
            topics,
            partitions,
            messages_in: stats.messages_in.load(Relaxed),
            bytes_in: stats.bytes_in.load(Relaxed),
            messages_out: stats.messages_out.load(Relaxed),
            bytes_out: stats.bytes_out.load(Relaxed),
            syncs: disk.syncs,
            sync_p50_us: disk.sync_p50_us,
            sync_p99_us: disk.sync_p99_us,
            disk_free_bytes: disk.free_bytes,
            durability: "synced".to_owned(),
        }))
    }
}
