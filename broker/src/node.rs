//! The node: builds everything, starts it, drains it, stops it. The only file that knows all.

use std::{
    fs::DirBuilder, io, net::SocketAddr, os::unix::fs::DirBuilderExt, sync::Arc, time::Duration,
};

use aqueduct_storage::{Log, Store, StoreOptions, disk::RealDisk};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    clock::Clock,
    config::{Config, ConfigError},
    groups::Groups,
    grpc, limits,
    listen::{self, Doors},
    metadata::{METADATA_GROUP, Metadata},
    retention, schedules,
    services::Services,
    shards::Shards,
    telemetry::Tracing,
    topics::Topics,
    work,
};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the data directory {dir} cannot be used: {source}")]
    DataDir { dir: String, source: io::Error },
    #[error("the data directory {dir} cannot be opened: {source}")]
    Store {
        dir: String,
        source: aqueduct_storage::Error,
    },
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        listen: SocketAddr,
        source: io::Error,
    },
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A running node.
pub struct Node {
    address: SocketAddr,
    services: Arc<Services>,
    shards: Arc<Shards>,
    drain: watch::Sender<bool>,
    health: grpc::Health,
    accepting: JoinHandle<()>,
}

impl Node {
    /// Opens the data directory, starts every partition, and listens. When this returns, the
    /// node serves.
    ///
    /// # Errors
    /// Whatever stands in the way, with what to do about it.
    pub fn start(config: Config) -> Result<Node, StartError> {
        Node::start_by(config, Clock::default())
    }

    /// The same with a clock of one's own.
    pub(crate) fn start_by(config: Config, clock: Clock) -> Result<Node, StartError> {
        config.validate()?;
        let store = open_store(&config)?;
        check_journal(&store)?;
        let shards = Arc::new(Shards::start(config.threads)?);
        let starting = start_on_shard(config, clock, store.clone(), shards.clone());
        let (answer, answered) = std::sync::mpsc::channel();
        shards.of(METADATA_GROUP).spawn(async move {
            // The receiver waits below until this is sent.
            let _ = answer.send(starting.await);
        });
        let started = answered
            .recv()
            .map_err(|_| StartError::Damaged("a shard stopped".into()))?;
        if started.is_err() {
            shards.stop();
            store.close();
        }
        started
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its doors work with, for tests that look behind them.
    #[cfg(test)]
    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Takes nothing new, answers what is in flight, waits up to `grace` for connections to
    /// close, and closes the log in order. What was acknowledged was durable before.
    pub fn shutdown(self, grace: Duration) {
        let Node {
            services,
            shards,
            drain,
            health,
            accepting,
            ..
        } = self;
        let (done, finished) = std::sync::mpsc::channel();
        let draining = services.clone();
        shards.of(METADATA_GROUP).spawn(async move {
            grpc::report_draining(&health).await;
            drain.send_replace(true);
            wait_for_connections(&draining, grace).await;
            accepting.abort();
            draining.topics.close().await;
            draining.metadata.shutdown().await;
            let _ = done.send(());
        });
        // An error means that the shard is gone; then there is nothing to wait for.
        let _ = finished.recv();
        services.store.close();
        shards.stop();
    }
}

fn open_store(config: &Config) -> Result<Store, StartError> {
    let dir = config.data_dir.display().to_string();
    // Messages are for the broker's user alone.
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir);
    made.map_err(|source| StartError::DataDir {
        dir: dir.clone(),
        source,
    })?;
    let options = StoreOptions {
        min_free_bytes: config.min_free_bytes,
        max_total_bytes: config.disk_limit_bytes,
        max_segment_bytes: config.max_segment_bytes,
        max_entry_bytes: limits::MAX_DECOMPRESSED_BYTES as u32,
        on_fatal: Arc::new(stop_at_once),
        ..StoreOptions::default()
    };
    let disk = RealDisk::new(&config.data_dir).map_err(|source| StartError::Store {
        dir: dir.clone(),
        source,
    })?;
    Store::open(Arc::new(disk), options).map_err(|source| StartError::Store { dir, source })
}

/// What the journal has lost may be a vote or an acknowledged message of any partition: somebody
/// has to say that what was recovered is good enough, by moving the file away.
fn check_journal(store: &Store) -> Result<(), StartError> {
    let Some(damage) = store.journal_damage().first() else {
        return Ok(());
    };
    let why = format!(
        "{} is damaged at byte {} ({}): acknowledged messages may be missing. The file is kept as \
         journal/<number>.bad; to serve what could be recovered, move it out of the data directory",
        damage.file, damage.position, damage.why
    );
    store.close();
    Err(StartError::Damaged(why))
}

/// A failed write or sync is never retried: what the kernel shows afterwards may not be what
/// the disk holds. The process ends, and recovery decides from the disk.
fn stop_at_once(error: &aqueduct_storage::Error) {
    tracing::error!(%error, "the disk failed; stopping so that nothing false is acknowledged");
    std::process::abort();
}

async fn start_on_shard(
    config: Config,
    clock: Clock,
    store: Store,
    shards: Arc<Shards>,
) -> Result<Node, StartError> {
    let listen = config.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| StartError::Listen { listen, source })?;
    let address = listener.local_addr()?;
    let metadata = Metadata::start(metadata_log(&store)?, clock).await?;
    let topics = Topics::start(metadata.clone(), store.clone(), shards.clone(), &config).await?;
    let (drain, draining) = watch::channel(false);
    let services = Arc::new(Services::new(
        topics,
        metadata,
        store,
        Groups::new(shards.clone(), config.auto_create_queues),
        draining,
        config.in_flight_bytes,
    ));
    services.forget_deleted_groups().await;
    services.resume_queues();
    let (service, health) = grpc::routes(services.clone())
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(schedules::run(services.clone()));
    tokio::spawn(work::attend::run(services.clone()));
    tokio::spawn(retention::run(services.clone(), config.retention_interval));
    let tracing = match config.otlp_endpoint {
        Some(_) => Tracing::installed(),
        None => Tracing::default(),
    };
    let doors = Doors::new(service, services.clone(), tracing);
    let accepting = tokio::spawn(listen::accept(listener, doors, shards.clone()));
    Ok(Node {
        address,
        services,
        shards,
        drain,
        health,
        accepting,
    })
}

fn metadata_log(store: &Store) -> Result<Log, StartError> {
    let logs = store.logs();
    if logs.is_empty() {
        let mut created = store
            .create_logs(&[METADATA_GROUP])
            .map_err(io::Error::other)?;
        return created
            .pop()
            .ok_or_else(|| StartError::Damaged("no log was made".into()));
    }
    if !logs.contains(&METADATA_GROUP) {
        let why = "the directory holds partitions but not the metadata that says what they are";
        return Err(StartError::Damaged(why.into()));
    }
    let log = store.open_log(METADATA_GROUP).map_err(io::Error::other)?;
    match log.damage().first() {
        None => Ok(log),
        Some(damage) => Err(StartError::Damaged(format!(
            "the metadata log is damaged: {} at byte {}: {}",
            damage.file, damage.position, damage.why
        ))),
    }
}

async fn wait_for_connections(services: &Services, grace: Duration) {
    let open = || {
        services
            .stats
            .connections
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    let closed = async {
        while open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(grace, closed).await.is_err() {
        tracing::warn!(
            connections = open(),
            "connections were still open at the end of the grace"
        );
    }
}
