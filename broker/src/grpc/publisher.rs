//! `aqueduct.v1.Publisher`.
//!
//! A publish stream has two halves. The *intake* reads requests, hands them to the partitions
//! and waits only for room; requests with messages that have arrived together are handed over
//! together. The *answers* wait for the partitions, in the order of the requests. So any number
//! of requests is in flight, and acknowledgements leave in order.

mod stream;
pub(super) mod wire;

use std::{pin::Pin, sync::Arc};

use aqueduct_proto::v1::{
    self, GetProducerRequest, GetProducerResponse, InitProducerRequest, InitProducerResponse,
    PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse,
};
use futures::Stream;
use tonic::{Request, Response, Status, Streaming};

use self::{
    stream::Intake,
    wire::{decode_messages, encode_result},
};
use super::status::status;
use crate::services::Services;

pub(super) struct Publisher(Arc<Services>);

impl Publisher {
    pub(super) fn new(services: Arc<Services>) -> Publisher {
        Publisher(services)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<PublishStreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl v1::publisher_server::Publisher for Publisher {
    type PublishStreamStream = Answers;

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let request = request.into_inner();
        let live = self
            .0
            .topics
            .get_or_create(&request.topic)
            .await
            .map_err(|r| status(&r))?;
        let messages = decode_messages(request.messages).map_err(|r| status(&r))?;
        let pending = self
            .0
            .publish(&live, messages, request.expected_offset)
            .await;
        let results = pending.map_err(|r| status(&r))?.wait().await;
        let results = results.into_iter().map(encode_result).collect();
        Ok(Response::new(PublishResponse { results }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let answers = Intake::start(self.0.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    async fn init_producer(
        &self,
        request: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let producer = self.0.init_producer(&request.get_ref().name).await;
        let producer = producer.map_err(|r| status(&r))?;
        let (producer_id, epoch) = (producer.id, producer.epoch);
        Ok(Response::new(InitProducerResponse { producer_id, epoch }))
    }

    async fn get_producer(
        &self,
        request: Request<GetProducerRequest>,
    ) -> Result<Response<GetProducerResponse>, Status> {
        let request = request.into_inner();
        let found = self
            .0
            .producer_positions(&request.name, &request.topic)
            .await;
        let (producer, positions) = found.map_err(|r| status(&r))?;
        let position = |position: crate::services::ProducerPosition| v1::ProducerPosition {
            partition: position.partition,
            next_sequence: position.next_number,
            last_offset: position.last_offset,
        };
        Ok(Response::new(GetProducerResponse {
            producer_id: producer.id,
            epoch: producer.epoch,
            partitions: positions.into_iter().map(position).collect(),
        }))
    }
}
