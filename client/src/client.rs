//! The handle on a broker: how to get one, and the calls that are not about topics.

use std::{env, future::Future, time::Duration};

use aqueduct_proto::v1::{
    self, consumer_client::ConsumerClient, groups_client::GroupsClient, ops_client::OpsClient,
    publisher_client::PublisherClient, reader_client::ReaderClient, topics_client::TopicsClient,
};

use crate::{
    Error, Message, ProducerBuilder, ReaderBuilder, Record,
    connection::{Connection, DEFAULT_SERVER, parse_address},
    offsets::{From, PartitionOffsets},
    producer::Ack,
    stats::Stats,
};

/// Largest message of the transport, both ways: room for a full batch of large messages.
pub(crate) const MAX_TRANSPORT_MESSAGE: usize = 32 << 20;

/// A handle on a broker. Clones are cheap and share one connection, which is made again by
/// itself when it breaks. Producers and readers have connections of their own.
///
/// ```no_run
/// # async fn example() -> Result<(), aqueduct_client::Error> {
/// use aqueduct_client::{Client, Message, NewTopic};
/// let client = Client::connect("127.0.0.1:7320").await?;
/// client.create_topic(NewTopic::new("orders").partitions(6)).await?;
/// let producer = client.producer("orders").build().await?;
/// let delivery = producer.send(Message::new("42 EUR").key("customer-7")).await?;
/// let ack = delivery.await?; // on stable storage
/// println!("partition {} offset {}", ack.partition, ack.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
    request_timeout: Duration,
}

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    server: String,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            server: DEFAULT_SERVER.to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl ClientBuilder {
    /// `host:port`, `http://host:port` or `aqueduct://host:port`. Default `127.0.0.1:7320`.
    #[must_use]
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// Longest wait for a connection. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest wait for the answer to one request. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad address, [`Error::Unavailable`] if nobody answers there.
    pub async fn build(self) -> Result<Client, Error> {
        let client = self.build_lazy()?;
        client.connection.ready().await?;
        Ok(client)
    }

    /// Like [`ClientBuilder::build`], but connects with the first request.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad address.
    pub fn build_lazy(self) -> Result<Client, Error> {
        let address = parse_address(&self.server)?;
        let connection = Connection::new(address, self.connect_timeout);
        Ok(Client {
            connection,
            request_timeout: self.request_timeout,
        })
    }
}

impl Client {
    /// Connects with the default settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad address, [`Error::Unavailable`] if nobody answers there.
    pub async fn connect(server: impl Into<String>) -> Result<Self, Error> {
        Self::builder().server(server).build().await
    }

    /// Connects to the broker that the environment variable `AQUEDUCT_SERVER` names, or to
    /// `127.0.0.1:7320`.
    ///
    /// # Errors
    /// Those of [`Client::connect`].
    pub async fn from_env() -> Result<Self, Error> {
        let server = env::var("AQUEDUCT_SERVER").unwrap_or_else(|_| DEFAULT_SERVER.to_owned());
        Self::connect(server).await
    }

    /// Settings before connecting.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A producer for a topic: batches, pipelines, sends again without doubling.
    pub fn producer(&self, topic: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic.into())
    }

    /// A reader of a topic.
    pub fn reader(&self, topic: impl Into<String>) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic.into())
    }

    /// Publishes some messages in one request, with a result for each. With
    /// `expected_offset` all go to one partition whose next offset must be this one, or none
    /// is stored ([`Error::Conflict`]). Nothing is sent twice: an [`Error::Unavailable`] or
    /// [`Error::Timeout`] means unknown.
    ///
    /// # Errors
    /// In the results. A failure of the request as a whole answers every message.
    pub async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        expected_offset: Option<u64>,
    ) -> Vec<Result<Ack, Error>> {
        let count = messages.len();
        let request = v1::PublishRequest {
            topic: topic.to_owned(),
            messages: messages.into_iter().map(Message::into_proto).collect(),
            expected_offset,
        };
        let mut publisher = self.publisher();
        match self.call(publisher.publish(request)).await {
            Ok(answer) if answer.results.len() == count => {
                answer.results.into_iter().map(Ack::from_result).collect()
            }
            Ok(answer) => {
                let got = answer.results.len();
                let error = Error::internal(format!("{got} results for {count} messages"));
                vec![Err(error); count]
            }
            Err(error) => vec![Err(error); count],
        }
    }

    /// Where each partition begins and ends, and where `position` is in it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn offsets(
        &self,
        topic: &str,
        position: Option<From>,
    ) -> Result<Vec<PartitionOffsets>, Error> {
        let request = v1::GetOffsetsRequest {
            topic: topic.to_owned(),
            partitions: Vec::new(),
            position: position.map(From::into_proto),
        };
        let mut reader = self.reading();
        let answer = self.call(reader.get_offsets(request)).await?;
        Ok(answer
            .partitions
            .into_iter()
            .map(PartitionOffsets::from_proto)
            .collect())
    }

    /// One message.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the topic or partition, [`Error::OutOfRange`] for the offset.
    pub async fn get_message(
        &self,
        topic: &str,
        partition: u32,
        offset: u64,
    ) -> Result<Record, Error> {
        let request = v1::GetMessageRequest {
            topic: topic.to_owned(),
            partition,
            offset,
        };
        let mut reader = self.reading();
        self.call(reader.get_message(request))
            .await
            .map(Record::from_proto)
    }

    /// Figures of the broker process.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let mut ops = OpsClient::with_origin(self.connection.clone(), self.connection.origin());
        self.call(ops.get_stats(v1::GetStatsRequest {}))
            .await
            .map(Stats::from_proto)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn topics(&self) -> TopicsClient<Connection> {
        TopicsClient::with_origin(self.connection.clone(), self.connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    pub(crate) fn publisher(&self) -> PublisherClient<Connection> {
        PublisherClient::with_origin(self.connection.clone(), self.connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    pub(crate) fn grouping(&self) -> GroupsClient<Connection> {
        GroupsClient::with_origin(self.connection.clone(), self.connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    pub(crate) fn consuming(&self) -> ConsumerClient<Connection> {
        ConsumerClient::with_origin(self.connection.clone(), self.connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    fn reading(&self) -> ReaderClient<Connection> {
        ReaderClient::with_origin(self.connection.clone(), self.connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    /// Waits for one answer, not longer than the request time-out.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.request_timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status)),
            Err(_) => {
                let limit = self.request_timeout.as_millis();
                Err(Error::timeout(format!("no answer within {limit} ms")))
            }
        }
    }
}
