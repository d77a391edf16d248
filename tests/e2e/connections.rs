//! Connections: a thousand idle ones, half-open ones, and such that speak no HTTP.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use aqueduct_tests::grpc::message;
use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{fixture::Fixture, publishing::request};

/// A codec that sends bytes as they are and does not look at answers.
#[derive(Clone, Copy, Default)]
pub(crate) struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = BytesCodec;
    type Decoder = BytesCodec;

    fn encoder(&mut self) -> BytesCodec {
        BytesCodec
    }

    fn decoder(&mut self) -> BytesCodec {
        BytesCodec
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[tokio::test]
async fn a_thousand_idle_connections_disturb_nobody() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    let idle: Vec<TcpStream> = (0..1_000)
        .map(|_| TcpStream::connect(broker.process.address()).unwrap())
        .collect();
    for n in 0..100 {
        let answer = api
            .publisher
            .publish(request("orders", vec![message(0, "x")]))
            .await;
        assert_eq!(answer.unwrap().into_inner().results[0].offset, n);
    }
    let stats = api
        .ops
        .get_stats(aqueduct_proto::v1::GetStatsRequest {})
        .await
        .unwrap();
    let rss = stats.into_inner().rss_bytes;
    assert!(
        rss < 200 << 20,
        "1,000 idle connections take {} MiB",
        rss >> 20
    );
    broker.assert_serves();
    drop(idle);
}

#[test]
fn what_is_not_http_is_hung_up_on() {
    let mut broker = Fixture::new();
    let strange: [&[u8]; 5] = [
        b"\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for bytes in strange {
        let mut stream = TcpStream::connect(broker.process.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // An answer or a reset, but an end.
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_ne!(
                error.kind(),
                std::io::ErrorKind::WouldBlock,
                "{bytes:?}: still open"
            );
        }
    }
    broker.assert_serves();
}

/// A client that is gone in the middle of a publish stream takes nobody with it.
#[tokio::test]
async fn a_client_that_vanishes_is_forgotten() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("orders", 1).await;
    for _ in 0..50 {
        let mut other = broker.api().await;
        let forever = tokio_stream::pending();
        let answers = other.publisher.publish_stream(forever);
        let _ = tokio::time::timeout(Duration::from_millis(5), answers).await;
        drop(other);
    }
    api.publisher
        .publish(request("orders", vec![message(0, "x")]))
        .await
        .unwrap();
    broker.assert_serves();
}
