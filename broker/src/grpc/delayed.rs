//! Delayed messages of a queue group by id: requests in, answers out. Holds no rules.

use std::sync::Arc;

use aqueduct_proto::v1::{
    CancelDelayedRequest, CancelDelayedResponse, DelayedMessage, GetDelayedRequest,
    ListDelayedRequest, ListDelayedResponse, RescheduleDelayedRequest,
};
use tonic::{Response, Status};

use super::{reader::encode_record, status::status, topics::encode_time};
use crate::{
    error::Refusal,
    limits::{DEFAULT_PAGE_SIZE, MAX_DELAY, MAX_PAGE_SIZE},
    publish::whole_ms,
    services::Services,
    work::{Change, Delayed},
};

type Place = (i64, u32, u64);

fn encode(delayed: Delayed) -> DelayedMessage {
    let partition = delayed.partition;
    DelayedMessage {
        partition,
        offset: delayed.offset,
        deliver_at: Some(encode_time(delayed.until_ms)),
        record: delayed
            .record
            .map(|record| encode_record(partition, record)),
    }
}

/// How many are on a page.
pub(super) fn page_size(asked: u32) -> Result<usize, Refusal> {
    match asked {
        0 => Ok(DEFAULT_PAGE_SIZE as usize),
        size if size <= MAX_PAGE_SIZE => Ok(size as usize),
        size => {
            let why = format!("{size} is above the limit of {MAX_PAGE_SIZE}");
            Err(Refusal::invalid("page_size", why))
        }
    }
}

fn decode_token(token: &str) -> Result<Place, Refusal> {
    let read = || {
        let (until_ms, rest) = token.split_once(':')?;
        let (partition, offset) = rest.split_once(':')?;
        Some((
            until_ms.parse().ok()?,
            partition.parse().ok()?,
            offset.parse().ok()?,
        ))
    };
    match token {
        "" => Ok((i64::MIN, 0, 0)),
        _ => read().ok_or_else(|| Refusal::invalid("page_token", "it is none of ours")),
    }
}

pub(super) async fn list(
    services: &Arc<Services>,
    request: ListDelayedRequest,
) -> Result<Response<ListDelayedResponse>, Status> {
    let most = page_size(request.page_size).map_err(|r| status(&r))?;
    let behind = decode_token(&request.page_token).map_err(|r| status(&r))?;
    let names = (request.topic.as_str(), request.group.as_str());
    let page = services.list_delayed(names, behind, most).await;
    let page = page.map_err(|r| status(&r))?;
    let last = page.messages.last().filter(|_| page.has_more);
    let token = |last: &Delayed| format!("{}:{}:{}", last.until_ms, last.partition, last.offset);
    Ok(Response::new(ListDelayedResponse {
        next_page_token: last.map(token).unwrap_or_default(),
        complete: page.is_complete,
        messages: page.messages.into_iter().map(encode).collect(),
    }))
}

pub(super) async fn get(
    services: &Arc<Services>,
    request: GetDelayedRequest,
) -> Result<Response<DelayedMessage>, Status> {
    let names = (request.topic.as_str(), request.group.as_str());
    let id = (request.partition, request.offset);
    let found = services.change_delayed(names, id, Change::Nothing).await;
    found
        .map(|found| Response::new(encode(found)))
        .map_err(|r| status(&r))
}

pub(super) async fn cancel(
    services: &Arc<Services>,
    request: CancelDelayedRequest,
) -> Result<Response<CancelDelayedResponse>, Status> {
    let names = (request.topic.as_str(), request.group.as_str());
    let id = (request.partition, request.offset);
    let cancelled = services.change_delayed(names, id, Change::Cancel).await;
    cancelled
        .map(|_| Response::new(CancelDelayedResponse {}))
        .map_err(|r| status(&r))
}

pub(super) async fn reschedule(
    services: &Arc<Services>,
    request: RescheduleDelayedRequest,
) -> Result<Response<DelayedMessage>, Status> {
    let until_ms = decode_time(services, request.deliver_at).map_err(|r| status(&r))?;
    let names = (request.topic.as_str(), request.group.as_str());
    let id = (request.partition, request.offset);
    let changed = services.change_delayed(names, id, Change::Until(until_ms));
    changed
        .await
        .map(|changed| Response::new(encode(changed)))
        .map_err(|r| status(&r))
}

fn decode_time(services: &Services, time: Option<prost_types::Timestamp>) -> Result<i64, Refusal> {
    let Some(time) = time else {
        return Err(Refusal::invalid("deliver_at", "say when"));
    };
    let until_ms = whole_ms(time.seconds, time.nanos);
    let most_ms = MAX_DELAY.as_millis() as i64;
    let last_ms = services.clock.wall_ms().saturating_add(most_ms);
    if !(0..=last_ms).contains(&until_ms) {
        let why = format!("{until_ms} ms is not between 0 and {last_ms}");
        return Err(Refusal::invalid("deliver_at", why));
    }
    Ok(until_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_others_are_refused() {
        assert_eq!(decode_token(""), Ok((i64::MIN, 0, 0)));
        assert_eq!(decode_token("-5:3:9"), Ok((-5, 3, 9)));
        for bad in ["5", "5:3", "a:1:1", "1:1:1:1", "1:-1:1"] {
            assert!(decode_token(bad).is_err(), "{bad}");
        }
        assert_eq!(page_size(0), Ok(DEFAULT_PAGE_SIZE as usize));
        assert!(page_size(MAX_PAGE_SIZE + 1).is_err());
    }
}
