//! All services as one, with a short way for what is called most.
//!
//! The router in front of the services matches the path and boxes the body, the answer and the
//! service itself for each call. A publish pays none of that: its service is asked directly.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use aqueduct_proto::v1::publisher_server::PublisherServer;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, service::Routes};

use super::publisher::Publisher;

/// Paths of the publisher's methods begin so.
const PUBLISHER: &str = "/aqueduct.v1.Publisher/";

/// A request in, an answer out. Cheap to clone, one for each connection.
#[derive(Clone)]
pub(crate) struct Service {
    pub(super) publisher: PublisherServer<Publisher>,
    /// All services.
    pub(super) routes: Routes,
}

impl Service {
    /// The same for callers who have a message ready and know nothing of this door.
    pub(crate) fn routes(&self) -> Routes {
        self.routes.clone()
    }
}

/// An answer to come.
#[expect(
    clippy::large_enum_variant,
    reason = "an allocation more for each call of the other services is what this saves"
)]
pub(crate) enum Calling {
    Publisher(BoxFuture<'static, Result<Response<Body>, Infallible>>),
    Routed(<Routes as tower::Service<Request<Body>>>::Future),
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Calling;

    /// The services are ready at any time: each bounds what it takes by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Calling {
        if request.uri().path().starts_with(PUBLISHER) {
            Calling::Publisher(self.publisher.call(request))
        } else {
            Calling::Routed(self.routes.call(request))
        }
    }
}

impl Future for Calling {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Calling::Publisher(answer) => answer.as_mut().poll(context),
            Calling::Routed(answer) => Pin::new(answer).poll(context),
        }
    }
}
