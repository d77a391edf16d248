//! `aqueduct.v1.Schedules`.

use std::sync::Arc;

use aqueduct_proto::v1::{
    self, CreateScheduleRequest, DeleteScheduleRequest, DeleteScheduleResponse, GetScheduleRequest,
    ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest, ResumeScheduleRequest,
    RunScheduleRequest, RunScheduleResponse, UpdateScheduleRequest, schedule::When as WireWhen,
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    delayed::page_size,
    status::{duration_ms, status},
    topics::{encode_duration, encode_time},
};
use crate::{
    error::Refusal,
    metadata::schedules::{CatchUp, Cron, Schedule, When},
    publish::whole_ms,
    schedules::timing::Timing,
    services::Services,
};

pub(super) struct Schedules(Arc<Services>);

impl Schedules {
    pub(super) fn new(services: Arc<Services>) -> Schedules {
        Schedules(services)
    }

    fn encode(&self, schedule: Schedule) -> v1::Schedule {
        let problem = self.0.schedule_problem(schedule.id);
        encode(schedule, problem.unwrap_or_default())
    }

    fn answer(
        &self,
        schedule: Result<Schedule, Refusal>,
    ) -> Result<Response<v1::Schedule>, Status> {
        match schedule {
            Ok(schedule) => Ok(Response::new(self.encode(schedule))),
            Err(refusal) => Err(status(&refusal)),
        }
    }
}

fn decode_when(when: Option<WireWhen>) -> Result<Option<When>, Refusal> {
    Ok(match when {
        None => None,
        Some(WireWhen::Cron(cron)) => Some(When::Cron(Cron {
            expression: cron.expression,
            zone: cron.time_zone,
        })),
        Some(WireWhen::Every(every)) => Some(When::EveryMs(duration_ms("schedule.every", every)?)),
        Some(WireWhen::Once(time)) => Some(When::OnceMs(whole_ms(time.seconds, time.nanos))),
    })
}

/// What a user says of a schedule.
fn decode(schedule: Option<v1::Schedule>) -> Result<Schedule, Refusal> {
    let missing = || Refusal::invalid("schedule", "it is missing");
    let schedule = schedule.ok_or_else(missing)?;
    let catch_up = match v1::CatchUp::try_from(schedule.catch_up) {
        Ok(v1::CatchUp::Unspecified) => CatchUp::Skip,
        Ok(v1::CatchUp::Once) => CatchUp::Once,
        Ok(v1::CatchUp::All) => CatchUp::All,
        Err(_) => {
            let why = format!("{} is none", schedule.catch_up);
            return Err(Refusal::invalid("schedule.catch_up", why));
        }
    };
    Ok(Schedule {
        name: schedule.name,
        topic: schedule.topic,
        message: schedule.message.unwrap_or_default().encode_to_vec(),
        when: decode_when(schedule.when)?,
        catch_up: catch_up as i32,
        catch_up_limit: schedule.catch_up_limit,
        paused: schedule.paused,
        ..Schedule::default()
    })
}

fn decode_etag(schedule: Option<&v1::Schedule>) -> Result<Option<u64>, Refusal> {
    let wrong = |_| Refusal::invalid("schedule.etag", "it is not an etag of a schedule");
    match schedule.map_or("", |schedule| schedule.etag.as_str()) {
        "" => Ok(None),
        etag => etag.parse().map(Some).map_err(wrong),
    }
}

fn encode(schedule: Schedule, problem: String) -> v1::Schedule {
    let next_ms = Timing::read(schedule.when.as_ref(), schedule.anchor_ms)
        .ok()
        .filter(|_| !schedule.paused)
        .and_then(|timing| timing.next_after(schedule.after_ms));
    let catch_up = match schedule.catch_up() {
        CatchUp::Skip => v1::CatchUp::Unspecified,
        CatchUp::Once => v1::CatchUp::Once,
        CatchUp::All => v1::CatchUp::All,
    };
    let when = schedule.when.map(|when| match when {
        When::Cron(cron) => WireWhen::Cron(v1::Cron {
            expression: cron.expression,
            time_zone: cron.zone,
        }),
        When::EveryMs(ms) => WireWhen::Every(encode_duration(ms)),
        When::OnceMs(ms) => WireWhen::Once(encode_time(ms)),
    });
    v1::Schedule {
        name: schedule.name,
        id: schedule.id,
        topic: schedule.topic,
        message: v1::Message::decode(schedule.message.as_slice()).ok(),
        when,
        catch_up: catch_up as i32,
        catch_up_limit: schedule.catch_up_limit,
        paused: schedule.paused,
        next_time: next_ms.map(encode_time),
        last_time: (schedule.fired > 0).then(|| encode_time(schedule.last_ms)),
        fired: schedule.fired,
        skipped: schedule.skipped,
        problem,
        create_time: Some(encode_time(schedule.create_time_ms)),
        update_time: Some(encode_time(schedule.update_time_ms)),
        etag: schedule.version.to_string(),
    }
}

#[tonic::async_trait]
impl v1::schedules_server::Schedules for Schedules {
    async fn create_schedule(
        &self,
        request: Request<CreateScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let new = decode(request.into_inner().schedule).map_err(|r| status(&r))?;
        self.answer(self.0.create_schedule(new).await)
    }

    async fn get_schedule(
        &self,
        request: Request<GetScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        self.answer(self.0.schedule(&request.get_ref().name))
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let request = request.into_inner();
        let most = page_size(request.page_size).map_err(|r| status(&r))?;
        let (page, has_more) = self.0.list_schedules(&request.page_token, most);
        let last = page.last().filter(|_| has_more);
        Ok(Response::new(ListSchedulesResponse {
            next_page_token: last.map(|last| last.name.clone()).unwrap_or_default(),
            schedules: page
                .into_iter()
                .map(|one| v1::Schedule {
                    message: None,
                    ..self.encode(one)
                })
                .collect(),
        }))
    }

    async fn update_schedule(
        &self,
        request: Request<UpdateScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let new = request.into_inner().schedule;
        let version = decode_etag(new.as_ref()).map_err(|r| status(&r))?;
        let new = decode(new).map_err(|r| status(&r))?;
        self.answer(self.0.update_schedule(new, version).await)
    }

    async fn delete_schedule(
        &self,
        request: Request<DeleteScheduleRequest>,
    ) -> Result<Response<DeleteScheduleResponse>, Status> {
        let deleted = self.0.delete_schedule(&request.get_ref().name).await;
        deleted
            .map(|_| Response::new(DeleteScheduleResponse {}))
            .map_err(|r| status(&r))
    }

    async fn pause_schedule(
        &self,
        request: Request<PauseScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let name = &request.get_ref().name;
        self.answer(self.0.pause_schedule(name, true).await)
    }

    async fn resume_schedule(
        &self,
        request: Request<ResumeScheduleRequest>,
    ) -> Result<Response<v1::Schedule>, Status> {
        let name = &request.get_ref().name;
        self.answer(self.0.pause_schedule(name, false).await)
    }

    async fn run_schedule(
        &self,
        request: Request<RunScheduleRequest>,
    ) -> Result<Response<RunScheduleResponse>, Status> {
        let fired = self.0.run_schedule(&request.get_ref().name).await;
        let fired = fired.map_err(|r| status(&r))?;
        Ok(Response::new(RunScheduleResponse {
            number: fired.number,
            partition: fired.partition,
            offset: fired.offset,
        }))
    }
}
