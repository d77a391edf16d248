//! Steps of a queue group, between the wire and the broker's own types.

use std::sync::Arc;

use aqueduct_proto::v1::{CompleteRequest, CompleteResponse, PublishedResult, StepResult};
use tonic::{Response, Status};

use super::{
    publisher::wire::decode_message,
    queues::{decode_wishes, encode_settled},
    status::status,
};
use crate::{
    error::Refusal,
    publish::NewResult,
    services::Services,
    work::complete::{Completed, Published},
};

pub(super) async fn complete(
    services: &Arc<Services>,
    request: CompleteRequest,
) -> Result<Response<CompleteResponse>, Status> {
    let (places, wishes) = decode_wishes(request.settlements).map_err(|r| status(&r))?;
    let results = decode_results(request.results).map_err(|r| status(&r))?;
    let names = (request.topic.as_str(), request.group.as_str());
    let completed = services.complete(names, wishes, results).await;
    let Completed {
        settled,
        published,
        is_repeated,
    } = completed.map_err(|r| status(&r))?;
    Ok(Response::new(CompleteResponse {
        results: encode_settled(places, settled),
        published: published.into_iter().map(encode_published).collect(),
        duplicate: is_repeated,
    }))
}

fn decode_results(results: Vec<StepResult>) -> Result<Vec<NewResult>, Refusal> {
    let decode = |(n, result): (usize, StepResult)| {
        let missing = || {
            let why = "say what is to be published";
            Refusal::invalid(format!("results[{n}].message"), why)
        };
        Ok(NewResult {
            topic: result.topic,
            incoming: decode_message(result.message.ok_or_else(missing)?),
        })
    };
    results.into_iter().enumerate().map(decode).collect()
}

fn encode_published(published: Published) -> PublishedResult {
    PublishedResult {
        topic: published.topic,
        partition: published.partition,
        offset: published.offset,
    }
}
