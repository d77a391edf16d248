//! Raw gRPC to a broker, for what a well-behaved client would never send.

use std::net::SocketAddr;

use aqueduct_proto::v1::{
    CreateTopicRequest, Message, PublishResponse, Topic, consumer_client::ConsumerClient,
    dead_letters_client::DeadLettersClient, groups_client::GroupsClient, ops_client::OpsClient,
    publisher_client::PublisherClient, queues_client::QueuesClient, reader_client::ReaderClient,
    schedules_client::SchedulesClient, topics_client::TopicsClient,
};
use bytes::Bytes;
use prost::Message as _;
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
    /// Consumer groups.
    pub groups: GroupsClient<Channel>,
    /// Members of groups.
    pub consumer: ConsumerClient<Channel>,
    /// Workers of queue groups.
    pub queues: QueuesClient<Channel>,
    /// Schedules.
    pub schedules: SchedulesClient<Channel>,
    /// What queue groups have given up.
    pub dead: DeadLettersClient<Channel>,
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
        Api::try_connect(address).await.unwrap()
    }

    /// Connects, if there is a server.
    ///
    /// # Errors
    /// Why not.
    ///
    /// # Panics
    /// Never: the address makes a valid URI.
    pub async fn try_connect(address: SocketAddr) -> Result<Api, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        Ok(Api::over(endpoint.tcp_nodelay(true).connect().await?))
    }

    /// The services over a connection.
    #[must_use]
    pub fn over(channel: Channel) -> Api {
        Api {
            publisher: PublisherClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            reader: ReaderClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            topics: TopicsClient::new(channel.clone()),
            groups: GroupsClient::new(channel.clone()),
            consumer: ConsumerClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            queues: QueuesClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            schedules: SchedulesClient::new(channel.clone()),
            dead: DeadLettersClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
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

/// The refusal of a call.
///
/// # Panics
/// If it was not refused, or with another code or reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) -> Refused {
    let refusal = Refused::from_status(&answer.expect_err("must be refused"));
    refusal.is(code, reason);
    refusal
}

/// A refusal as a program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The status code.
    pub code: Code,
    /// `ErrorInfo.reason`.
    pub reason: String,
    /// `ErrorInfo.metadata`.
    pub facts: std::collections::HashMap<String, String>,
}

impl Refused {
    /// From the status of a whole call.
    ///
    /// # Panics
    /// If it says no reason.
    #[must_use]
    #[track_caller]
    pub fn from_status(status: &Status) -> Refused {
        assert!(
            !status.message().is_empty(),
            "a refusal says why: {status:?}"
        );
        let details = status.get_error_details();
        let info = details
            .error_info()
            .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
        Refused {
            code: status.code(),
            reason: info.reason.clone(),
            facts: info.metadata.clone(),
        }
    }

    /// From the status beside one message or batch.
    ///
    /// # Panics
    /// If it says no reason.
    #[must_use]
    #[track_caller]
    pub fn from_result(error: &aqueduct_proto::google::rpc::Status) -> Refused {
        assert!(!error.message.is_empty(), "a refusal says why: {error:?}");
        let details = tonic_types::pb::Status::decode(&error.encode_to_vec()[..]).unwrap();
        let info = details
            .details
            .iter()
            .find(|any| any.type_url.ends_with("google.rpc.ErrorInfo"))
            .map(|any| tonic_types::pb::ErrorInfo::decode(&any.value[..]).unwrap())
            .unwrap_or_else(|| panic!("no ErrorInfo in {error:?}"));
        Refused {
            code: Code::from(error.code),
            reason: info.reason,
            facts: info.metadata,
        }
    }

    /// The refusal of a publish, whether the whole call was refused or its first message.
    ///
    /// # Panics
    /// If nothing was refused.
    #[must_use]
    #[track_caller]
    pub fn of_publish(answer: Result<tonic::Response<PublishResponse>, Status>) -> Refused {
        match answer {
            Err(status) => Refused::from_status(&status),
            Ok(answer) => {
                let results = answer.into_inner().results;
                let error = results.iter().find_map(|result| result.error.as_ref());
                Refused::from_result(error.expect("something must be refused"))
            }
        }
    }

    /// Asserts code and reason.
    ///
    /// # Panics
    /// If they differ.
    #[track_caller]
    pub fn is(&self, code: Code, reason: &str) -> &Refused {
        assert_eq!(
            (self.code, self.reason.as_str()),
            (code, reason),
            "{self:?}"
        );
        self
    }

    /// A fact that is a number.
    ///
    /// # Panics
    /// If there is no such fact.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        self.facts
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {self:?}"))
            .parse()
            .unwrap()
    }
}
