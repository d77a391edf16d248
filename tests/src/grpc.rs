//! Raw gRPC to a broker, for what a well-behaved client would never send.

use std::net::SocketAddr;

use aqueduct_proto::v1::{
    CreateTopicRequest, Message, Topic, ops_client::OpsClient, publisher_client::PublisherClient,
    reader_client::ReaderClient, topics_client::TopicsClient,
};
use bytes::Bytes;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// The services of one broker over one connection.
#[derive(Clone)]
pub struct Api {
    /// The connection itself.
    pub channel: Channel,
    /// Publishing.
    pub publisher: PublisherClient<Channel>,
    /// Reading.
    pub reader: ReaderClient<Channel>,
    /// Topics.
    pub topics: TopicsClient<Channel>,
    /// The node.
    pub ops: OpsClient<Channel>,
}

/// Larger than anything a broker sends in these tests.
const MAX_MESSAGE: usize = 256 << 20;

impl Api {
    /// Connects.
    ///
    /// # Panics
    /// If there is no server.
    pub async fn connect(address: SocketAddr) -> Api {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
        Api {
            publisher: PublisherClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            reader: ReaderClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            topics: TopicsClient::new(channel.clone()),
            ops: OpsClient::new(channel.clone()),
            channel,
        }
    }

    /// Creates a topic.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn create(&mut self, name: &str, partitions: u32) -> Topic {
        let topic = Topic {
            name: name.to_owned(),
            partitions,
            ..Topic::default()
        };
        let request = CreateTopicRequest {
            topic: Some(topic),
            validate_only: false,
        };
        self.topics
            .create_topic(request)
            .await
            .unwrap()
            .into_inner()
    }
}

/// A keyless message for a partition.
#[must_use]
pub fn message(partition: u32, value: impl Into<Bytes>) -> Message {
    Message {
        value: Some(value.into()),
        partition: Some(partition),
        ..Message::default()
    }
}

/// Asserts that an answer is a refusal with this code and reason, and gives its metadata.
///
/// # Panics
/// If it is anything else.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(
    answer: Result<T, Status>,
    code: Code,
    reason: &str,
) -> std::collections::HashMap<String, String> {
    let status = answer.expect_err("must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        !status.message().is_empty(),
        "a refusal says why: {status:?}"
    );
    let details = status.get_error_details();
    let info = details
        .error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.reason, reason, "{status:?}");
    info.metadata.clone()
}
