//! Opens a streaming call on a connection, below the generated clients.
//!
//! The generated clients copy each outgoing message into a buffer of their own; streams of
//! record batches hand over the batch's bytes as they are instead, through a body of their own.

use std::marker::PhantomData;

use hyper::{Request, Version, header};
use tonic::{
    Status, Streaming,
    body::Body,
    codec::{DecodeBuf, Decoder},
};

use crate::{Error, client::MAX_TRANSPORT_MESSAGE, connection::Connection};

/// Decodes answers of one type.
struct Decode<T>(PhantomData<fn() -> T>);

impl<T: prost::Message + Default + 'static> Decoder for Decode<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        let message = T::decode(source);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// Calls `path` (`/package.Service/Method`) with a body of framed messages and returns the
/// stream of answers.
pub(crate) async fn open<T>(
    connection: &Connection,
    path: &'static str,
    body: Body,
) -> Result<Streaming<T>, Error>
where
    T: prost::Message + Default + 'static,
{
    let mut parts = connection.origin().into_parts();
    parts.path_and_query = Some(hyper::http::uri::PathAndQuery::from_static(path));
    let uri = hyper::Uri::from_parts(parts).expect("scheme, authority and path are set");
    let request = Request::post(uri)
        .version(Version::HTTP_2)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(body)
        .expect("constant headers are valid");
    let response = connection.send(request).await?;
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != tonic::Code::Ok
    {
        return Err(Error::from_status(&status));
    }
    let (head, body) = response.into_parts();
    if head.status != hyper::StatusCode::OK {
        return Err(Error::unavailable(format!(
            "the server answered HTTP {}",
            head.status
        )));
    }
    let decoder = Decode(PhantomData);
    let limit = Some(MAX_TRANSPORT_MESSAGE);
    Ok(Streaming::new_response(
        decoder,
        body,
        head.status,
        None,
        limit,
    ))
}
