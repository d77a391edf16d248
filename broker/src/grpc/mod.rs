//! The gRPC door: decodes, calls, encodes. Holds no rules.

mod arriving;
mod consumer;
mod dead_letters;
mod delayed;
mod groups;
mod ops;
mod publisher;
mod queue_policy;
mod queue_views;
mod queues;
mod reader;
mod schedules;
mod service;
mod status;
mod steps;
mod topics;

use std::sync::Arc;

use aqueduct_proto::v1::{
    DESCRIPTORS, consumer_server::ConsumerServer, dead_letters_server::DeadLettersServer,
    groups_server::GroupsServer, ops_server::OpsServer, publisher_server::PublisherServer,
    queues_server::QueuesServer, reader_server::ReaderServer, schedules_server::SchedulesServer,
    topics_server::TopicsServer,
};
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder;

pub(crate) use self::{
    arriving::{Arrivals, Arriving},
    service::Service,
};
use self::{
    consumer::Consumer, dead_letters::DeadLetters, groups::Groups, ops::Ops, publisher::Publisher,
    queues::Queues, reader::Reader, schedules::Schedules, topics::Topics,
};
use crate::{limits::MAX_REQUEST_BYTES, services::Services};

/// Where the node's health is reported.
pub(crate) type Health = HealthReporter;

/// The service name whose health says whether the node takes requests.
const READY: &str = "aqueduct.v1";

/// Every service of the door, and the reporter of its health.
///
/// # Errors
/// If the compiled descriptors cannot be read, which the build rules out.
pub(crate) async fn routes(
    services: Arc<Services>,
) -> Result<(Service, Health), tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status(READY, ServingStatus::Serving)
        .await;
    let names = [
        PublisherServer::<Publisher>::NAME,
        ReaderServer::<Reader>::NAME,
        TopicsServer::<Topics>::NAME,
        GroupsServer::<Groups>::NAME,
        ConsumerServer::<Consumer>::NAME,
        QueuesServer::<Queues>::NAME,
        SchedulesServer::<Schedules>::NAME,
        DeadLettersServer::<DeadLetters>::NAME,
        OpsServer::<Ops>::NAME,
    ];
    for name in names {
        reporter
            .set_service_status(name, ServingStatus::Serving)
            .await;
    }
    let descriptors = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let publisher = PublisherServer::new(Publisher::new(services.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    // The results of a step are messages, too.
    let queues = QueuesServer::new(Queues::new(services.clone()))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
    let routes = Routes::new(health)
        .add_service(descriptors().build_v1()?)
        .add_service(descriptors().build_v1alpha()?)
        .add_service(publisher.clone())
        .add_service(ReaderServer::new(Reader::new(services.clone())))
        .add_service(TopicsServer::new(Topics::new(services.clone())))
        .add_service(GroupsServer::new(Groups::new(services.clone())))
        .add_service(ConsumerServer::new(Consumer::new(services.clone())))
        .add_service(queues)
        .add_service(SchedulesServer::new(Schedules::new(services.clone())))
        .add_service(DeadLettersServer::new(DeadLetters::new(services.clone())))
        .add_service(OpsServer::new(Ops::new(services)));
    let routes = routes.prepare();
    Ok((Service { publisher, routes }, reporter))
}

/// Says that the node takes no more requests.
pub(crate) async fn report_draining(reporter: &Health) {
    reporter
        .set_service_status(READY, ServingStatus::NotServing)
        .await;
}
