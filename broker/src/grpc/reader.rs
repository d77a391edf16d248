//! `aqueduct.v1.Reader`.

use std::{pin::Pin, sync::Arc};

use aqueduct_proto::{
    record,
    v1::{
        self, Batches, CaughtUp, GetMessageRequest, GetOffsetsRequest, GetOffsetsResponse,
        PartitionOffsets, ReadOpened, ReadRange, ReadRequest, ReadResponse, ReadStreamRequest,
        Records, position, read_response::Kind, read_stream_request,
    },
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::status::status;
use crate::{
    error::Refusal,
    lanes::{Credit, Event},
    partition::Place,
    reading::{Range, ReadSession, ReadSpec},
    services::Services,
};

pub(super) struct Reader(Arc<Services>);

impl Reader {
    pub(super) fn new(services: Arc<Services>) -> Reader {
        Reader(services)
    }

    async fn start(&self, request: ReadRequest, credit: Arc<Credit>) -> Result<Answers, Status> {
        let spec = decode_spec(request).map_err(|r| status(&r))?;
        let opened = ReadSession::open(self.0.clone(), spec, credit).await;
        let (session, ranges) = opened.map_err(|r| status(&r))?;
        let first = stream::iter([Ok(answer(Kind::Opened(encode_opened(ranges))))]);
        let services = self.0.clone();
        let rest = stream::unfold(Some(session), move |session| {
            let services = services.clone();
            async move { next_answer(session?, &services).await }
        });
        Ok(Box::pin(first.chain(rest)))
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

/// The next answer, and the session if it goes on.
async fn next_answer(
    mut session: ReadSession,
    services: &Services,
) -> Option<(Result<ReadResponse, Status>, Option<ReadSession>)> {
    let event = tokio::select! {
        event = session.next() => event,
        () = services.drained() => Err(Refusal::Draining),
    };
    match event {
        Ok(Some(event)) => Some((Ok(answer(encode_event(event))), Some(session))),
        Ok(None) => None,
        Err(refusal) => Some((Err(status(&refusal)), None)),
    }
}

fn answer(kind: Kind) -> ReadResponse {
    ReadResponse { kind: Some(kind) }
}

fn encode_opened(ranges: Vec<Range>) -> ReadOpened {
    let range = |Range {
                     partition,
                     from,
                     until,
                 }| ReadRange {
        partition,
        from,
        until,
    };
    ReadOpened {
        ranges: ranges.into_iter().map(range).collect(),
    }
}

pub(super) fn encode_event(event: Event) -> Kind {
    match event {
        Event::Batches {
            partition,
            batches,
            high_watermark,
        } => Kind::Batches(Batches {
            partition,
            batches,
            high_watermark,
        }),
        Event::Records { partition, records } => {
            let records = records
                .into_iter()
                .map(|r| encode_record(partition, r))
                .collect();
            Kind::Records(Records { records })
        }
        Event::CaughtUp {
            partition,
            next,
            done,
        } => Kind::CaughtUp(CaughtUp {
            partition,
            next_offset: next,
            done,
        }),
    }
}

pub(super) fn encode_record(partition: u32, record: record::Record) -> v1::Record {
    let header = |header: record::Header| v1::Header {
        name: header.name_str().to_owned(),
        value: header.value.unwrap_or_default(),
    };
    v1::Record {
        partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
    }
}

/// A position, absent if none is set.
pub(super) fn decode_place(
    field: &str,
    place: Option<v1::Position>,
) -> Result<Option<Place>, Refusal> {
    let Some(place) = place else { return Ok(None) };
    match place.kind {
        Some(position::Kind::Start(true)) => Ok(Some(Place::Start)),
        Some(position::Kind::End(true)) => Ok(Some(Place::End)),
        Some(position::Kind::Offset(offset)) => Ok(Some(Place::Offset(offset))),
        Some(position::Kind::TimestampMs(time)) => Ok(Some(Place::Time(time))),
        Some(position::Kind::Last(count)) => Ok(Some(Place::Last(count))),
        Some(position::Kind::Start(false) | position::Kind::End(false)) | None => {
            Err(Refusal::invalid(
                field,
                "say where: start, end, an offset, a time or the last n",
            ))
        }
    }
}

fn decode_spec(request: ReadRequest) -> Result<ReadSpec, Refusal> {
    Ok(ReadSpec {
        from: decode_place("from", request.from)?,
        until: decode_place("until", request.until)?,
        topic: request.topic,
        partitions: request.partitions,
        follow: request.follow,
        raw: request.raw,
        max_messages: (request.max_messages > 0).then_some(request.max_messages),
    })
}

/// Adds what the reader grants, for as long as it is there.
async fn take_credit(mut requests: Streaming<ReadStreamRequest>, credit: Arc<Credit>) {
    while let Ok(Some(request)) = requests.message().await {
        if let Some(read_stream_request::Kind::Credit(more)) = request.kind {
            credit.add(more.messages, more.bytes);
        }
    }
}

#[tonic::async_trait]
impl v1::reader_server::Reader for Reader {
    type ReadStream = Answers;
    type ReadStreamStream = Answers;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Answers>, Status> {
        let credit = Arc::new(Credit::unbounded());
        Ok(Response::new(
            self.start(request.into_inner(), credit).await?,
        ))
    }

    async fn read_stream(
        &self,
        request: Request<Streaming<ReadStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.kind);
        let Some(read_stream_request::Kind::Open(open)) = first else {
            let why = "the first message of the stream must be open";
            return Err(status(&Refusal::invalid("open", why)));
        };
        let credit = Arc::new(Credit::new(0, 0));
        let answers = self.start(open, credit.clone()).await?;
        tokio::spawn(take_credit(requests, credit));
        Ok(Response::new(answers))
    }

    async fn get_offsets(
        &self,
        request: Request<GetOffsetsRequest>,
    ) -> Result<Response<GetOffsetsResponse>, Status> {
        let request = request.into_inner();
        let live = self.0.topics.get(&request.topic).map_err(|r| status(&r))?;
        let place = decode_place("position", request.position).map_err(|r| status(&r))?;
        let mut numbers = request.partitions;
        if numbers.is_empty() {
            numbers = (0..live.partitions.len() as u32).collect();
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut partitions = Vec::new();
        for number in numbers {
            let partition = live.partition(number).map_err(|r| status(&r))?;
            let offset = match place {
                None => None,
                Some(place) => Some(partition.offset_of(place).await.map_err(|r| status(&r))?),
            };
            partitions.push(PartitionOffsets {
                partition: number,
                log_start_offset: partition.shared().log_start_offset(),
                high_watermark: partition.shared().high_watermark(),
                offset,
            });
        }
        Ok(Response::new(GetOffsetsResponse { partitions }))
    }

    async fn get_message(
        &self,
        request: Request<GetMessageRequest>,
    ) -> Result<Response<v1::Record>, Status> {
        let GetMessageRequest {
            topic,
            partition,
            offset,
        } = request.into_inner();
        let found = self.0.message_at(&topic, partition, offset).await;
        found
            .map(|r| Response::new(encode_record(partition, r)))
            .map_err(|r| status(&r))
    }
}
