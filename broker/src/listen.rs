//! The accept loop of the API port: connections to shards, limits, draining.
//!
//! Sockets have Nagle's algorithm off. A connection that does not speak in time is closed; one
//! beyond the limit is closed at once; running out of file descriptors pauses accepting and
//! ends nothing.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{grpc::Service, limits, services::Services, shards::Shards};

/// HTTP/2 flow control: what a client may send ahead of our reading, bytes.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Largest frame that we take, bytes.
const MAX_FRAME: u32 = 1 << 20;
/// Bytes of answers that wait for a slow client, per stream.
const SEND_BUFFER: usize = 1 << 20;
/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Pause after an accept failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the node drains.
pub(crate) async fn accept(
    listener: TcpListener,
    service: Service,
    services: Arc<Services>,
    shards: Arc<Shards>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = services.drained() => return,
        };
        match accepted {
            Ok((socket, _)) => hand_out(socket, &service, &services, &shards),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn hand_out(socket: TcpStream, service: &Service, services: &Arc<Services>, shards: &Shards) {
    if services.stats.connections.load(Relaxed) >= limits::MAX_CONNECTIONS as u64 {
        tracing::warn!(
            limit = limits::MAX_CONNECTIONS,
            "too many connections, one was closed"
        );
        return;
    }
    let socket = match socket.set_nodelay(true).and_then(|()| socket.into_std()) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a connection was lost at once"),
    };
    let (service, services) = (service.clone(), services.clone());
    services.stats.connections.fetch_add(1, Relaxed);
    shards.next().spawn(async move {
        if let Err(error) = serve(socket, service, &services).await {
            tracing::debug!(error, "a connection ended");
        }
        services.stats.connections.fetch_sub(1, Relaxed);
    });
}

async fn serve(
    socket: std::net::TcpStream,
    service: Service,
    services: &Services,
) -> Result<(), String> {
    let socket = TcpStream::from_std(socket).map_err(|error: io::Error| error.to_string())?;
    speaks_in_time(&socket).await?;
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits::MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::MAX_HEADER_BYTES)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = services.drained() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| error.to_string())
}

/// Waits for the first byte, so that a silent connection costs nothing but its socket.
async fn speaks_in_time(socket: &TcpStream) -> Result<(), String> {
    match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, socket.readable()).await {
        Ok(readable) => readable.map_err(|error| error.to_string()),
        Err(_) => Err("nothing was said in time".to_owned()),
    }
}
