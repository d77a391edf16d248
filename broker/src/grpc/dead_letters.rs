//! `aqueduct.v1.DeadLetters`.

use std::{pin::Pin, sync::Arc};

use aqueduct_proto::{
    record::Header,
    v1::{
        self, DeadLetterFilter, DeadLettersProgress, DeadReason, DeadReasonCount, DiscardRequest,
        GetDeadLetterRequest, ListDeadLettersRequest, ListDeadLettersResponse, RedriveRequest,
    },
};
use futures::{Stream, stream};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    queue_policy::decode_condition, queue_views::encode_attempt, reader::encode_record,
    status::status, topics::encode_time,
};
use crate::{
    dead::{
        From,
        letter::{Edits, Letter},
        selection::Selection,
        task::{Progress, Redrive, Reports, Task},
    },
    error::Refusal,
    limits::{DEFAULT_PAGE_SIZE, MAX_HEADER_EDIT_BYTES, MAX_HEADER_EDITS, MAX_PAGE_SIZE},
    queue::{command::Reason, filter::Filter},
    services::Services,
};

pub(super) struct DeadLetters(Arc<Services>);

impl DeadLetters {
    pub(super) fn new(services: Arc<Services>) -> DeadLetters {
        DeadLetters(services)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<DeadLettersProgress, Status>> + Send>>;

/// Reports as they come; dropping the stream ends the task.
fn answers(reports: Reports) -> Answers {
    Box::pin(stream::unfold(reports, |mut reports| async move {
        let report = reports.recv().await?;
        let answer = report.map(encode_progress).map_err(|r| status(&r));
        Some((answer, reports))
    }))
}

fn encode_reason(reason: Reason) -> DeadReason {
    match reason {
        Reason::Unknown => DeadReason::Unspecified,
        Reason::Attempts => DeadReason::Attempts,
        Reason::HandOuts => DeadReason::HandOuts,
        Reason::Rejected => DeadReason::Rejected,
        Reason::Ttl => DeadReason::Expired,
        Reason::Parked => DeadReason::Parked,
    }
}

fn decode_reason(reason: i32) -> Result<Reason, Refusal> {
    match DeadReason::try_from(reason) {
        Ok(DeadReason::Unspecified) => Ok(Reason::Unknown),
        Ok(DeadReason::Attempts) => Ok(Reason::Attempts),
        Ok(DeadReason::HandOuts) => Ok(Reason::HandOuts),
        Ok(DeadReason::Rejected) => Ok(Reason::Rejected),
        Ok(DeadReason::Expired) => Ok(Reason::Ttl),
        Ok(DeadReason::Parked) => Ok(Reason::Parked),
        Err(_) => {
            let why = format!("{reason} is not one of its values");
            Err(Refusal::invalid("filter.reasons", why))
        }
    }
}

fn encode_progress(progress: Progress) -> DeadLettersProgress {
    let count = |(reason, messages)| DeadReasonCount {
        reason: encode_reason(reason) as i32,
        messages,
    };
    DeadLettersProgress {
        total: progress.total,
        examined: progress.examined,
        matched: progress.matched,
        moved: progress.moved,
        failed: progress.failed,
        done: progress.done,
        reasons: progress.reasons.into_iter().map(count).collect(),
    }
}

fn encode_letter(letter: Letter) -> v1::DeadLetter {
    let time = |ms: i64| (ms > 0).then(|| encode_time(ms));
    v1::DeadLetter {
        reason: encode_reason(letter.reason) as i32,
        error: letter.error,
        source_topic: letter.topic,
        source_partition: letter.source.0,
        source_offset: letter.source.1,
        group: letter.group,
        number: letter.number,
        attempts: letter.attempts,
        hand_outs: letter.hand_outs,
        first_failure: time(letter.first_failure_ms),
        death_time: time(letter.died_ms),
        publish_time: time(letter.published_ms),
        history: letter.history.into_iter().map(encode_attempt).collect(),
        record: Some(encode_record(letter.partition, letter.record)),
    }
}

fn decode_filter(filter: Option<DeadLetterFilter>) -> Result<Selection, Refusal> {
    let Some(filter) = filter else {
        return Ok(Selection::default());
    };
    let reasons = filter.reasons.into_iter().map(decode_reason);
    let condition = |wire| decode_condition("filter.headers", wire);
    let conditions = filter.headers.into_iter().map(condition);
    let ids = filter.ids.into_iter().map(|id| (id.partition, id.offset));
    Ok(Selection {
        reasons: reasons.collect::<Result<_, _>>()?,
        key: filter.key,
        headers: Filter {
            conditions: conditions.collect::<Result<_, _>>()?,
        },
        died_from_ms: decode_time("filter.died_from", filter.died_from)?,
        died_until_ms: decode_time("filter.died_until", filter.died_until)?,
        error_contains: filter.error_contains,
        source_partition: filter.source_partition,
        ids: ids.collect(),
    })
}

fn decode_time(field: &str, time: Option<Timestamp>) -> Result<Option<i64>, Refusal> {
    let Some(time) = time else { return Ok(None) };
    let whole = time.seconds.checked_mul(1_000);
    let ms = whole.and_then(|ms| ms.checked_add(i64::from(time.nanos / 1_000_000)));
    let out = || Refusal::invalid(field, "it is out of range");
    ms.map(Some).ok_or_else(out)
}

fn decode_edits(set: Vec<v1::Header>, remove: Vec<String>) -> Result<Edits, Refusal> {
    for (field, count) in [("set_headers", set.len()), ("remove_headers", remove.len())] {
        if count > MAX_HEADER_EDITS {
            let why = format!("{count} headers, the limit is {MAX_HEADER_EDITS}");
            return Err(Refusal::invalid(field, why));
        }
    }
    let of_set = set.iter().map(|it| it.name.len() + it.value.len());
    let bytes: usize = of_set.chain(remove.iter().map(String::len)).sum();
    if bytes > MAX_HEADER_EDIT_BYTES {
        let why = format!("{bytes} bytes, the limit is {MAX_HEADER_EDIT_BYTES}");
        return Err(Refusal::invalid("set_headers", why));
    }
    // What the broker says of a message's past nobody else can say.
    let names = set.iter().map(|header| &header.name).chain(&remove);
    for name in names {
        let is_ours = name.starts_with("aq-dead-") || name.starts_with("aq-redriven-");
        if is_ours || name.is_empty() {
            let why = format!("\"{name}\" is not for a redrive to change");
            return Err(Refusal::invalid("set_headers", why));
        }
    }
    let header = |header: v1::Header| Header::new(header.name, header.value);
    Ok(Edits {
        set: set.into_iter().map(header).collect(),
        remove,
    })
}

fn decode_redrive(request: RedriveRequest) -> Result<Task, Refusal> {
    Ok(Task {
        selection: decode_filter(request.filter)?,
        most: request.max_messages,
        preview: request.validate_only,
        redrive: Some(Redrive {
            to: request.to_topic,
            edits: decode_edits(request.set_headers, request.remove_headers)?,
            rate_per_s: request.messages_per_second,
        }),
    })
}

/// Pages are "PARTITION:OFFSET", where the next one begins.
fn decode_token(token: &str) -> Result<From, Refusal> {
    if token.is_empty() {
        return Ok(From::default());
    }
    let place = token.split_once(':').and_then(|(partition, offset)| {
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        Some(From { partition, offset })
    });
    place.ok_or_else(|| Refusal::invalid("page_token", "it is none that a listing gave"))
}

fn decode_page_size(size: u32) -> Result<usize, Refusal> {
    match size {
        0 => Ok(DEFAULT_PAGE_SIZE as usize),
        size if size <= MAX_PAGE_SIZE => Ok(size as usize),
        size => {
            let why = format!("{size} is above the limit of {MAX_PAGE_SIZE}");
            Err(Refusal::invalid("page_size", why))
        }
    }
}

impl DeadLetters {
    async fn list(
        &self,
        request: ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, Refusal> {
        let selection = decode_filter(request.filter)?;
        let from = decode_token(&request.page_token)?;
        let limit = decode_page_size(request.page_size)?;
        let names = (request.topic.as_str(), request.group.as_str());
        let listed = self.0.list_dead_letters(names, &selection, from, limit);
        let (letters, next) = listed.await?;
        let token = |from: From| format!("{}:{}", from.partition, from.offset);
        Ok(ListDeadLettersResponse {
            dead_letters: letters.into_iter().map(encode_letter).collect(),
            next_page_token: next.map(token).unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl v1::dead_letters_server::DeadLetters for DeadLetters {
    type RedriveStream = Answers;
    type DiscardStream = Answers;

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let listed = self.list(request.into_inner()).await;
        listed.map(Response::new).map_err(|r| status(&r))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<v1::DeadLetter>, Status> {
        let request = request.into_inner();
        let names = (request.topic.as_str(), request.group.as_str());
        let found = self
            .0
            .dead_letter(names, request.partition, request.offset)
            .await;
        let letter = found.map_err(|r| status(&r))?;
        Ok(Response::new(encode_letter(letter)))
    }

    async fn redrive(&self, request: Request<RedriveRequest>) -> Result<Response<Answers>, Status> {
        let mut request = request.into_inner();
        let topic = std::mem::take(&mut request.topic);
        let group = std::mem::take(&mut request.group);
        let task = decode_redrive(request).map_err(|r| status(&r))?;
        let reports = self.0.take_dead_letters((&topic, &group), task);
        Ok(Response::new(answers(reports.map_err(|r| status(&r))?)))
    }

    async fn discard(&self, request: Request<DiscardRequest>) -> Result<Response<Answers>, Status> {
        let request = request.into_inner();
        let task = Task {
            selection: decode_filter(request.filter).map_err(|r| status(&r))?,
            most: request.max_messages,
            preview: request.validate_only,
            redrive: None,
        };
        let names = (request.topic.as_str(), request.group.as_str());
        let reports = self.0.take_dead_letters(names, task);
        Ok(Response::new(answers(reports.map_err(|r| status(&r))?)))
    }
}
