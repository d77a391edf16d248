//! One HTTP/2 connection to a broker, made when needed and made again when it broke.
//!
//! Promises: at most one attempt to connect at a time; a request that never reached the old
//! connection goes to the new one; windows are wide enough for a stream at full speed.
//! Knows nothing of topics or messages.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Mutex};
use tonic::body::Body;

use crate::error::{Error, chain};

/// Where the command line and this library look for a broker by default.
pub const DEFAULT_SERVER: &str = "127.0.0.1:7320";

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What the peer may put in one frame; the fewer frames, the fewer copies and checks.
const MAX_FRAME: u32 = 1 << 20;
const SEND_BUFFER: usize = 2 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// `host:port` of a broker, from any of the forms a user may write.
pub(crate) fn parse_address(text: &str) -> Result<String, Error> {
    let bare = ["http://", "aqueduct://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let bare = bare.unwrap_or(text).trim_end_matches('/');
    if text.starts_with("https://") {
        return Err(Error::invalid("TLS is not supported yet: use host:port"));
    }
    let uri = format!("http://{bare}").parse::<hyper::Uri>();
    let authority = uri.as_ref().ok().and_then(|uri| uri.authority());
    let Some(authority) = authority.filter(|authority| authority.as_str() == bare) else {
        return Err(Error::invalid(format!(
            "server address {text:?} is not host:port"
        )));
    };
    let rest = bare.strip_prefix(authority.host());
    match (authority.port_u16(), rest) {
        (Some(_), _) => Ok(bare.to_owned()),
        (None, Some("")) => Ok(format!("{bare}:7320")),
        _ => Err(Error::invalid(format!(
            "server address {text:?} has a bad port"
        ))),
    }
}

/// A handle on one connection; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: String,
    connect_timeout: Duration,
    current: Mutex<Option<http2::SendRequest<Body>>>,
}

impl Connection {
    pub(crate) fn new(address: String, connect_timeout: Duration) -> Self {
        let current = Mutex::new(None);
        Self {
            shared: Arc::new(Shared {
                address,
                connect_timeout,
                current,
            }),
        }
    }

    /// A second connection to the same broker, so that a stream that nobody drains cannot
    /// close the window of others.
    pub(crate) fn sibling(&self) -> Self {
        Self::new(self.shared.address.clone(), self.shared.connect_timeout)
    }

    /// The origin that requests must name.
    pub(crate) fn origin(&self) -> hyper::Uri {
        let origin = format!("http://{}", self.shared.address);
        origin
            .parse()
            .expect("the address was checked when it was parsed")
    }

    /// Connects now if it is not connected.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        self.shared.sender().await.map(drop)
    }

    /// Sends one request; its body may still be growing when this returns.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let mut sender = self.shared.sender().await?;
        let unsent = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(mut failed) => match failed.take_message() {
                Some(request) => request,
                None => return Err(Error::unavailable(self.describe(failed.error()))),
            },
        };
        // The old connection ended before it took the request, so nothing can have happened.
        self.shared.forget().await;
        let mut sender = self.shared.sender().await?;
        let answer = sender.send_request(unsent).await;
        answer.map_err(|error| Error::unavailable(self.describe(&error)))
    }

    fn describe(&self, error: &hyper::Error) -> String {
        format!(
            "connection to {} lost: {}",
            self.shared.address,
            chain(error)
        )
    }
}

impl Shared {
    async fn sender(&self) -> Result<http2::SendRequest<Body>, Error> {
        let mut current = self.current.lock().await;
        if let Some(sender) = current.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let sender = match tokio::time::timeout(self.connect_timeout, self.connect()).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(reason)) => {
                let message = format!("cannot connect to {}: {reason}", self.address);
                return Err(Error::unavailable(message));
            }
            Err(_) => {
                let limit = self.connect_timeout.as_millis();
                let message = format!("cannot connect to {} within {limit} ms", self.address);
                return Err(Error::unavailable(message));
            }
        };
        *current = Some(sender.clone());
        Ok(sender)
    }

    async fn forget(&self) {
        *self.current.lock().await = None;
    }

    async fn connect(&self) -> Result<http2::SendRequest<Body>, String> {
        let stream = TcpStream::connect(&self.address)
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, driver) = handshake.map_err(|error| chain(&error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(error = chain(&error), "connection ended");
            }
        });
        Ok(sender)
    }
}

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = self.clone();
        Box::pin(async move { connection.send(request).await })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::parse_address;

    #[test]
    fn addresses_in_every_form() {
        for text in [
            "127.0.0.1:7320",
            "http://127.0.0.1:7320",
            "aqueduct://127.0.0.1:7320/",
        ] {
            assert_eq!(parse_address(text).unwrap(), "127.0.0.1:7320");
        }
        assert_eq!(parse_address("broker").unwrap(), "broker:7320");
        assert_eq!(parse_address("[::1]:7320").unwrap(), "[::1]:7320");
        for text in [
            "",
            "a b",
            "host:port",
            "host:1/path",
            "https://host:1",
            "host:99999",
        ] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
