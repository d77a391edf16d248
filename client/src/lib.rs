//! The Rust client of Aqueduct.
//!
//! What lives here: a [`Client`] for topics and single requests, a [`Producer`] that batches and
//! pipelines, a [`Reader`] that streams, a [`GroupConsumer`] that shares a topic with others, a [`Worker`] that
//! handles the messages of a queue group one by one (below it [`Queue`], [`QueueConsumer`]).
//! What it promises: an [`Ack`] means on stable storage; *failed* is told apart from *unknown*
//! ([`Error::is_unknown`]); a producer sends again without doubling and without changing the
//! order of a partition; a group consumer leaves nothing out; broken connections are made again
//! by themselves; everything that waits is bounded in bytes. No type of the transport is
//! part of the interface. The broker's inside is never imported here.
//!
//! ```no_run
//! # async fn example() -> Result<(), aqueduct_client::Error> {
//! use aqueduct_client::{Client, From, Message};
//! use futures::StreamExt as _;
//!
//! let client = Client::connect("127.0.0.1:7320").await?;
//! let producer = client.producer("orders").build().await?;
//! for n in 0..1000 {
//!     producer.send(Message::new(format!("order {n}")).key("customer-7")).await?;
//! }
//! producer.flush().await?;
//!
//! let mut reader = client.reader("orders").from(From::Start).build().await?;
//! while let Some(record) = reader.next().await {
//!     let record = record?;
//!     println!("{}/{}: {:?}", record.partition, record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```

mod client;
mod consumer;
mod dead_letters;
mod groups;
mod message;
mod offsets;
mod producer;
mod queue;
mod reader;
mod schedules;
mod stats;
mod topics;
mod worker;

mod attempts;
mod backoff;
mod batches;
mod connection;
mod error;
mod stream;
mod times;

pub use aqueduct_proto::compression::Compression;

pub use attempts::{AttemptEnd, FailedAttempt};
pub use client::{Client, ClientBuilder};
pub use connection::DEFAULT_SERVER;
pub use consumer::{Chunk, CommitMode, GroupConsumer, GroupConsumerBuilder, GroupEvent, Received};
pub use dead_letters::{
    DeadLetter, DeadLetterFilter, DeadLetters, DeadLettersProgress, DeadLettersRun, DeadReason,
    Discard, Redrive,
};
pub use error::{Detail, Error};
pub use groups::{
    Group, GroupLag, GroupState, GroupUpdate, Groups, HeaderCondition, InFlight, Member,
    MessageCounts, MessageState, NewGroup, OnKeyFailure, PartitionLag, QueueDescription,
    QueueOrder, QueuePartition, QueuePolicy, QueuePriorities, Seek, SoughtPartition, Standing,
    StartPolicy,
};
pub use message::{Header, Message, Record};
pub use offsets::{From, PartitionOffsets, Until};
pub use producer::{Ack, Delivery, Producer, ProducerBuilder};
pub use queue::{
    Delayed, DelayedPage, Job, Lease, Published, Queue, QueueConsumer, QueueConsumerBuilder,
    QueueEvent, Settlement, Step, Stepped, TraceParent, Verdict,
};
pub use reader::{Event, RawBatches, Reader, ReaderBuilder};
pub use schedules::{CatchUp, NewSchedule, Schedule, Schedules, When};
pub use stats::Stats;
pub use topics::{
    NewTopic, PartitionInfo, Retain, TimestampKind, Topic, TopicConfig, TopicUpdate, Trim,
    TrimmedPartition,
};
pub use worker::{Failure, Worker, WorkerBuilder, WorkerStats};
