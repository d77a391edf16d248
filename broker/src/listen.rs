//! The accept loop of the API port: connections to shards, protocols to doors, limits, draining.
//!
//! One port speaks HTTP/2 and HTTP/1.1; the first bytes of a connection decide. gRPC goes straight
//! to its services, everything else to the HTTP door. Sockets have Nagle's algorithm off. A
//! connection that does not speak in time is closed; one beyond the limit is closed at once;
//! running out of file descriptors pauses accepting and ends nothing. While the node drains, a few
//! short connections are still taken, so that whoever asks hears that it is not ready.

use std::{
    convert::Infallible,
    future::Future,
    io,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use crate::{
    files, grpc,
    http::{AnswerBody, Door},
    limits,
    services::{Peer, Services},
    shards::Shards,
    telemetry::{self, Tracing},
};

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
/// How an HTTP/2 connection begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause between looks at a preface that is not whole yet.
const PREFACE_PAUSE: Duration = Duration::from_millis(10);
/// Connections at a time while the node drains, and how long each may take.
const MAX_PROBES: usize = 64;
const PROBE_TIME: Duration = Duration::from_secs(2);
/// How long a connection that has said nothing yet is listened to when the node drains.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Accepts until the task is ended.
pub(crate) async fn accept(listener: TcpListener, doors: Doors, shards: Arc<Shards>) {
    let probes = Arc::new(AtomicUsize::new(0));
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let doors = doors.of(Peer(peer));
        // A connection moves to its shard as a plain socket.
        let socket = socket.set_nodelay(true).and_then(|()| socket.into_std());
        match socket {
            Ok(socket) if *doors.services.draining.borrow() => {
                probe(socket, doors, &probes, &shards);
            }
            Ok(socket) => hand_out(socket, doors, &shards),
            Err(error) => tracing::debug!(%error, "a connection was lost at once"),
        }
    }
}

fn hand_out(socket: std::net::TcpStream, doors: Doors, shards: &Shards) {
    let stats = &doors.services.stats;
    let open_files = files::limit();
    if files::is_spare(socket.as_raw_fd(), open_files) {
        stats.connections_refused.fetch_add(1, Relaxed);
        tracing::warn!(
            ?open_files,
            "too many open files, a connection was closed; raise the limit (ulimit -Hn)"
        );
        return;
    }
    let limit = files::max_connections(open_files);
    if stats.connections.load(Relaxed) >= limit {
        stats.connections_refused.fetch_add(1, Relaxed);
        tracing::warn!(limit, "too many connections, one was closed");
        return;
    }
    stats.connections.fetch_add(1, Relaxed);
    stats.connections_total.fetch_add(1, Relaxed);
    let services = doors.services.clone();
    shards.next().spawn(async move {
        if let Err(error) = serve(socket, doors, &services).await {
            tracing::debug!(error, "a connection ended");
        }
        services.stats.connections.fetch_sub(1, Relaxed);
    });
}

/// A connection that came while the node drains: not waited for, and not for long.
fn probe(socket: std::net::TcpStream, doors: Doors, probes: &Arc<AtomicUsize>, shards: &Shards) {
    if probes.fetch_add(1, Relaxed) >= MAX_PROBES {
        probes.fetch_sub(1, Relaxed);
        return;
    }
    let probes = probes.clone();
    shards.next().spawn(async move {
        let served = async {
            let socket = TcpStream::from_std(socket)?;
            let mut builder = builder(protocol(&socket).await?);
            builder.http1().keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(socket), doors);
            connection.await.map_err(io::Error::other)
        };
        if let Ok(Err(error)) = tokio::time::timeout(PROBE_TIME, served).await {
            tracing::debug!(%error, "a connection ended");
        }
        probes.fetch_sub(1, Relaxed);
    });
}

async fn serve(
    socket: std::net::TcpStream,
    doors: Doors,
    services: &Services,
) -> Result<(), String> {
    let socket = TcpStream::from_std(socket).map_err(|error: io::Error| error.to_string())?;
    let spoken = tokio::select! {
        spoken = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, protocol(&socket)) => spoken,
        // What has been said already is still heard.
        () = services.drained() => tokio::time::timeout(LAST_WORDS, protocol(&socket)).await,
    };
    let builder = match spoken {
        Ok(Ok(protocol)) => builder(protocol),
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("nothing was said in time".to_owned()),
    };
    let connection = builder.serve_connection(TokioIo::new(socket), doors);
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

fn builder(protocol: Protocol) -> auto::Builder<TokioExecutor> {
    match protocol {
        Protocol::Http1 => http1(),
        Protocol::Http2 => http2(),
    }
}

fn http2() -> auto::Builder<TokioExecutor> {
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
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(limits::MAX_PENDING_RESETS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE);
    builder
}

fn http1() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIMEOUT)
        .max_headers(limits::MAX_HTTP_HEADERS)
        .max_buf_size(limits::MAX_HEADER_BYTES as usize);
    builder
}

/// What a connection speaks.
#[derive(Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Looks at the first bytes without taking them. A silent connection costs nothing but its socket.
async fn protocol(socket: &TcpStream) -> io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = socket.peek(&mut first).await?;
        if seen == 0 || first[..seen] != PREFACE[..seen] {
            return Ok(Protocol::Http1);
        }
        if seen == PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        // The rest is on its way; the socket is readable all the time.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

/// The doors, as a connection sees them: gRPC straight to its services, all else to the HTTP door.
#[derive(Clone)]
pub(crate) struct Doors {
    grpc: grpc::Service,
    http: Arc<Door>,
    services: Arc<Services>,
    arrivals: grpc::Arrivals,
    tracing: Tracing,
    /// Whose connection it is.
    peer: Option<Peer>,
}

impl Doors {
    pub(crate) fn new(grpc: grpc::Service, services: Arc<Services>, tracing: Tracing) -> Doors {
        Doors {
            http: Arc::new(Door::new(grpc.routes(), services.clone())),
            grpc,
            services,
            arrivals: grpc::Arrivals::default(),
            tracing,
            peer: None,
        }
    }

    /// The same for one connection.
    fn of(&self, peer: Peer) -> Doors {
        Doors {
            peer: Some(peer),
            ..self.clone()
        }
    }
}

/// The body of a gRPC request, bounded with all others.
type Arriving = grpc::Arriving<Incoming>;

/// An answer to come.
#[expect(
    clippy::large_enum_variant,
    reason = "a gRPC call, which is the hot path, needs no allocation this way"
)]
pub(crate) enum Answering {
    Grpc(<grpc::Service as Service<Request<Arriving>>>::Future),
    Other(Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>> + Send>>),
}

impl hyper::service::Service<Request<Incoming>> for Doors {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let is_grpc = is_grpc(&request);
        let door = if is_grpc { "grpc" } else { "http" };
        let span = telemetry::enabled().then(|| telemetry::span(door, &request));
        let recording = self.tracing.begin(is_grpc, &request);
        let answering = if is_grpc {
            self.services.stats.grpc_requests.fetch_add(1, Relaxed);
            let request = request.map(|body| Arriving::new(body, self.arrivals.clone()));
            Answering::Grpc(self.grpc.clone().call(request))
        } else {
            let door = self.http.clone();
            Answering::Other(Box::pin(async move { Ok(door.answer(request).await) }))
        };
        let answering = match span {
            None => answering,
            Some(span) => Answering::Other(Box::pin(telemetry::within(span, answering))),
        };
        match recording {
            None => answering,
            Some(recording) => Answering::Other(Box::pin(async move {
                let answer = answering.await?;
                Ok(recording.follow(answer))
            })),
        }
    }
}

/// By its content type, over HTTP/2; gRPC-Web is another.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let rest = kind.and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    request.version() == Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

impl Future for Answering {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Answering::Grpc(answer) => Pin::new(answer).poll(context),
            Answering::Other(answer) => answer.as_mut().poll(context),
        }
    }
}
