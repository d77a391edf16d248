//! Schedules: messages that are published by themselves.

use std::time::Duration;

use aqueduct_proto::v1::{self, schedule::When as WireWhen, schedules_client::SchedulesClient};

use crate::{
    Ack, Client, Error, Message,
    client::MAX_TRANSPORT_MESSAGE,
    connection::Connection,
    times::{duration_from_proto, duration_to_proto, time_from_proto, time_to_proto},
};

/// When a schedule fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// By a cron expression (minute, hour, day of month, month, day of week) in a time zone of
    /// the IANA database; an empty one is UTC.
    Cron {
        /// Such as `0 8 * * MON-FRI`.
        expression: String,
        /// Such as `Europe/Berlin`.
        time_zone: String,
    },
    /// Again and again after this time; at least a second.
    Every(Duration),
    /// Once, in milliseconds since the Unix epoch.
    Once(i64),
}

/// What becomes of times that passed while the broker was down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// They are left out, but for the last if it is late by a minute at most.
    #[default]
    Skip,
    /// The last of them is made up for.
    Once,
    /// As many of the last as this are made up for; at most 1,000.
    All(u32),
}

/// A schedule to make, or the new definition of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSchedule {
    /// By the rule of topic names.
    pub name: String,
    /// Where the message is published.
    pub topic: String,
    /// At most 64 KiB; without dedup id, time stamp and `deliver_at`.
    pub message: Message,
    /// When it fires.
    pub when: When,
    /// What becomes of what was missed.
    pub catch_up: CatchUp,
    /// Fires when it is resumed.
    pub paused: bool,
}

/// A schedule as the broker describes it. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Given by the broker, never used again.
    pub id: u64,
    /// Where the message is published.
    pub topic: String,
    /// When it fires; absent if the broker says something that this client does not know.
    pub when: Option<When>,
    /// What becomes of what was missed.
    pub catch_up: CatchUp,
    /// Nothing fires.
    pub paused: bool,
    /// When it fires next.
    pub next_time_ms: Option<i64>,
    /// The time that the last firing was for.
    pub last_time_ms: Option<i64>,
    /// Firings so far.
    pub fired: u64,
    /// Times that were left out.
    pub skipped: u64,
    /// Why it cannot fire just now; empty if it can.
    pub problem: String,
    /// When it was made.
    pub create_time_ms: i64,
    /// When its definition changed last.
    pub update_time_ms: i64,
    /// Changes with every update.
    pub etag: String,
}

impl Schedule {
    fn from_proto(schedule: v1::Schedule) -> Self {
        let catch_up = match v1::CatchUp::try_from(schedule.catch_up) {
            Ok(v1::CatchUp::Once) => CatchUp::Once,
            Ok(v1::CatchUp::All) => CatchUp::All(schedule.catch_up_limit.max(1)),
            _ => CatchUp::Skip,
        };
        Self {
            name: schedule.name,
            id: schedule.id,
            topic: schedule.topic,
            when: schedule.when.map(|when| match when {
                WireWhen::Cron(cron) => When::Cron {
                    expression: cron.expression,
                    time_zone: cron.time_zone,
                },
                WireWhen::Every(every) => When::Every(duration_from_proto(every)),
                WireWhen::Once(time) => When::Once(time_from_proto(time)),
            }),
            catch_up,
            paused: schedule.paused,
            next_time_ms: schedule.next_time.map(time_from_proto),
            last_time_ms: schedule.last_time.map(time_from_proto),
            fired: schedule.fired,
            skipped: schedule.skipped,
            problem: schedule.problem,
            create_time_ms: schedule.create_time.map_or(0, time_from_proto),
            update_time_ms: schedule.update_time.map_or(0, time_from_proto),
            etag: schedule.etag,
        }
    }
}

impl NewSchedule {
    fn into_proto(self) -> v1::Schedule {
        let (catch_up, catch_up_limit) = match self.catch_up {
            CatchUp::Skip => (v1::CatchUp::Unspecified, 0),
            CatchUp::Once => (v1::CatchUp::Once, 0),
            CatchUp::All(limit) => (v1::CatchUp::All, limit),
        };
        let when = match self.when {
            When::Cron {
                expression,
                time_zone,
            } => WireWhen::Cron(v1::Cron {
                expression,
                time_zone,
            }),
            When::Every(every) => WireWhen::Every(duration_to_proto(every)),
            When::Once(time_ms) => WireWhen::Once(time_to_proto(time_ms)),
        };
        v1::Schedule {
            name: self.name,
            topic: self.topic,
            message: Some(self.message.into_proto()),
            when: Some(when),
            catch_up: catch_up as i32,
            catch_up_limit,
            paused: self.paused,
            ..v1::Schedule::default()
        }
    }
}

impl Client {
    /// The broker's schedules.
    #[must_use]
    pub fn schedules(&self) -> Schedules {
        Schedules {
            client: self.clone(),
        }
    }
}

/// The schedules of a broker.
#[derive(Clone, Debug)]
pub struct Schedules {
    client: Client,
}

impl Schedules {
    fn service(&self) -> SchedulesClient<Connection> {
        let connection = self.client.connection();
        SchedulesClient::with_origin(connection.clone(), connection.origin())
            .max_decoding_message_size(MAX_TRANSPORT_MESSAGE)
    }

    /// Makes a schedule.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what cannot be, [`Error::NotFound`] for the topic, and
    /// [`Error::Conflict`] if there is one of this name.
    pub async fn create(&self, new: NewSchedule) -> Result<Schedule, Error> {
        let request = v1::CreateScheduleRequest {
            schedule: Some(new.into_proto()),
        };
        let mut service = self.service();
        let made = self.client.call(service.create_schedule(request)).await?;
        Ok(Schedule::from_proto(made))
    }

    /// Gives a schedule another definition; how far it is stays.
    ///
    /// # Errors
    /// As [`Schedules::create`], and [`Error::NotFound`].
    pub async fn update(&self, new: NewSchedule) -> Result<Schedule, Error> {
        let request = v1::UpdateScheduleRequest {
            schedule: Some(new.into_proto()),
        };
        let mut service = self.service();
        let changed = self.client.call(service.update_schedule(request)).await?;
        Ok(Schedule::from_proto(changed))
    }

    /// One schedule.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of the connection.
    pub async fn get(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::GetScheduleRequest { name: name.into() };
        let mut service = self.service();
        let found = self.client.call(service.get_schedule(request)).await?;
        Ok(Schedule::from_proto(found))
    }

    /// All schedules, by name.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list(&self) -> Result<Vec<Schedule>, Error> {
        let mut all = Vec::new();
        let mut request = v1::ListSchedulesRequest::default();
        loop {
            let mut service = self.service();
            let listed = service.list_schedules(request.clone());
            let page = self.client.call(listed).await?;
            all.extend(page.schedules.into_iter().map(Schedule::from_proto));
            if page.next_page_token.is_empty() {
                return Ok(all);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Deletes a schedule.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of the connection.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteScheduleRequest { name: name.into() };
        let mut service = self.service();
        self.client.call(service.delete_schedule(request)).await?;
        Ok(())
    }

    /// Nothing fires until it is resumed.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of the connection.
    pub async fn pause(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::PauseScheduleRequest { name: name.into() };
        let mut service = self.service();
        let paused = self.client.call(service.pause_schedule(request)).await?;
        Ok(Schedule::from_proto(paused))
    }

    /// Fires again from now on; what would have fired meanwhile is not made up for.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of the connection.
    pub async fn resume(&self, name: &str) -> Result<Schedule, Error> {
        let request = v1::ResumeScheduleRequest { name: name.into() };
        let mut service = self.service();
        let resumed = self.client.call(service.resume_schedule(request)).await?;
        Ok(Schedule::from_proto(resumed))
    }

    /// Fires now; answers when the message is on stable storage.
    ///
    /// # Errors
    /// [`Error::NotFound`]; if [`Error::is_unknown`], it may have been published or still be.
    pub async fn run(&self, name: &str) -> Result<Ack, Error> {
        let request = v1::RunScheduleRequest { name: name.into() };
        let mut service = self.service();
        let fired = self.client.call(service.run_schedule(request)).await?;
        Ok(Ack {
            partition: fired.partition,
            offset: fired.offset,
            duplicate: false,
        })
    }
}
