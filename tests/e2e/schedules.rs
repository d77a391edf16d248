//! Schedules: what fires, what is made up for, and that each firing is published once.

use std::time::Duration;

use aqueduct_broker::testing::Broker;
use aqueduct_client::{CatchUp, Client, From, Message, NewSchedule, Record, When};
use aqueduct_proto::v1::{self, CreateScheduleRequest};
use aqueduct_tests::{
    Seed,
    grpc::{Api, refused},
};
use futures::StreamExt as _;
use rand::Rng as _;
use tonic::Code;

use crate::fixture::Fixture;

const TOPIC: &str = "ticks";
const MINUTE: Duration = Duration::from_secs(60);

fn every(name: &str, interval: Duration) -> NewSchedule {
    NewSchedule {
        name: name.to_owned(),
        topic: TOPIC.to_owned(),
        message: Message::new("tick").header("a", "b"),
        when: When::Every(interval),
        catch_up: CatchUp::Skip,
        paused: false,
    }
}

fn number(record: &Record, name: &str) -> i64 {
    let value = record.header(name).expect("a header of a firing");
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// So many firings, from the first on.
async fn firings(client: &Client, count: usize) -> Vec<Record> {
    let reader = client.reader(TOPIC).from(From::Start).follow(true);
    let mut reader = reader.build().await.unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        records.push(reader.next().await.expect("it is followed").unwrap());
    }
    records
}

/// All that is there now.
async fn all(client: &Client) -> Vec<Record> {
    let reader = client.reader(TOPIC).from(From::Start).build().await;
    let records: Vec<_> = reader.unwrap().collect().await;
    records.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn intervals_fire_by_the_clock_and_what_was_missed_is_made_up_for() {
    let broker = Broker::temp().unwrap();
    let client = Client::connect(broker.address().to_string()).await.unwrap();
    let schedules = client.schedules();
    let all_missed = NewSchedule {
        catch_up: CatchUp::All(3),
        ..every("all", MINUTE)
    };
    let made = schedules.create(all_missed).await.unwrap();
    assert_eq!(
        made.next_time_ms,
        Some(made.create_time_ms + 60_000),
        "{made:?}"
    );
    broker.clock().advance(MINUTE);
    let first = firings(&client, 1).await.remove(0);
    assert_eq!(first.value.as_deref(), Some(&b"tick"[..]));
    assert_eq!(first.header("a").map(|v| &v[..]), Some(&b"b"[..]));
    assert_eq!(number(&first, "aq-schedule-number"), 1);
    let planned = number(&first, "aq-schedule-time");
    assert_eq!(planned, made.create_time_ms + 60_000);
    // Ten times pass at once: the last three are made up for, each for its own time.
    broker.clock().advance(10 * MINUTE);
    let fired = firings(&client, 4).await;
    let times: Vec<i64> = fired
        .iter()
        .map(|record| (number(record, "aq-schedule-time") - made.create_time_ms) / 60_000)
        .collect();
    assert_eq!(times, [1, 9, 10, 11]);
    let numbers: Vec<i64> = fired
        .iter()
        .map(|record| number(record, "aq-schedule-number"))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let seen = schedules.get("all").await.unwrap();
    assert_eq!(
        (seen.fired, seen.skipped, seen.problem.as_str()),
        (4, 7, "")
    );
}

#[tokio::test]
async fn a_paused_schedule_fires_when_asked_and_a_single_time_once() {
    let broker = Broker::temp().unwrap();
    let client = Client::connect(broker.address().to_string()).await.unwrap();
    let schedules = client.schedules();
    let paused = NewSchedule {
        paused: true,
        ..every("paused", MINUTE)
    };
    let made = schedules.create(paused).await.unwrap();
    assert_eq!(made.next_time_ms, None);
    broker.clock().advance(5 * MINUTE);
    let ack = schedules.run("paused").await.unwrap();
    assert_eq!((ack.partition, ack.offset), (0, 0));
    assert_eq!(all(&client).await.len(), 1);
    let resumed = schedules.resume("paused").await.unwrap();
    assert!(resumed.next_time_ms > Some(made.create_time_ms + 5 * 60_000));
    assert_eq!((resumed.fired, resumed.skipped), (1, 0));
    schedules.delete("paused").await.unwrap();
    assert!(schedules.get("paused").await.is_err());

    let once = NewSchedule {
        when: When::Once(1),
        catch_up: CatchUp::Once,
        ..every("once", MINUTE)
    };
    // A time that is past is now.
    schedules.create(once.clone()).await.unwrap();
    assert_eq!(firings(&client, 2).await.len(), 2);
    broker.clock().advance(5 * MINUTE);
    let over = schedules.get("once").await.unwrap();
    assert_eq!((over.fired, over.next_time_ms), (1, None));
    assert!(schedules.create(once).await.is_err(), "the name is taken");
    assert_eq!(schedules.list().await.unwrap().len(), 1);
    assert_eq!(all(&client).await.len(), 2);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn what_cannot_be_is_refused_by_its_field() {
    let broker = Broker::temp().unwrap();
    let mut api = Api::connect(broker.address()).await;
    let good = v1::Schedule {
        name: "s".to_owned(),
        topic: TOPIC.to_owned(),
        message: Some(v1::Message::default()),
        when: Some(v1::schedule::When::Every(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        })),
        ..v1::Schedule::default()
    };
    let cron = |expression: &str, time_zone: &str| {
        Some(v1::schedule::When::Cron(v1::Cron {
            expression: expression.to_owned(),
            time_zone: time_zone.to_owned(),
        }))
    };
    let of = |message: v1::Message| v1::Schedule {
        message: Some(message),
        ..good.clone()
    };
    let bad = [
        (
            "name",
            v1::Schedule {
                name: "a/b".to_owned(),
                ..good.clone()
            },
        ),
        (
            "topic",
            v1::Schedule {
                topic: String::new(),
                ..good.clone()
            },
        ),
        (
            "when",
            v1::Schedule {
                when: None,
                ..good.clone()
            },
        ),
        (
            "cron.expression",
            v1::Schedule {
                when: cron("* * *", ""),
                ..good.clone()
            },
        ),
        (
            "cron.time_zone",
            v1::Schedule {
                when: cron("* * * * *", "Mars/Base"),
                ..good.clone()
            },
        ),
        (
            "catch_up",
            v1::Schedule {
                catch_up: 9,
                ..good.clone()
            },
        ),
        (
            "catch_up_limit",
            v1::Schedule {
                catch_up_limit: 1_001,
                ..good.clone()
            },
        ),
        (
            "message.dedup_id",
            of(v1::Message {
                dedup_id: "x".to_owned(),
                ..v1::Message::default()
            }),
        ),
        (
            "message.priority",
            of(v1::Message {
                priority: Some(10),
                ..v1::Message::default()
            }),
        ),
    ];
    for (field, schedule) in bad {
        let schedule = Some(schedule);
        let answer = api
            .schedules
            .create_schedule(CreateScheduleRequest { schedule });
        let refusal = refused(answer.await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(refusal.facts["field"], format!("schedule.{field}"));
    }
    let large = of(v1::Message {
        value: Some(vec![0; 64 << 10].into()),
        ..v1::Message::default()
    });
    let schedule = Some(large);
    let answer = api
        .schedules
        .create_schedule(CreateScheduleRequest { schedule });
    refused(answer.await, Code::InvalidArgument, "MESSAGE_TOO_LARGE");
    let request = v1::GetScheduleRequest {
        name: "s".to_owned(),
    };
    let answer = api.schedules.get_schedule(request).await;
    refused(answer, Code::NotFound, "SCHEDULE_NOT_FOUND");
}

/// Killed at any moment, again and again: the numbers of what is published have no hole and no
/// double, and neither have the times.
#[tokio::test]
async fn each_firing_is_published_once_though_the_broker_is_killed_around_it() {
    let mut random = Seed::from_env().rng();
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create(TOPIC, 3).await;
    let address = broker.process.address().to_string();
    let client = Client::connect(address.clone()).await.unwrap();
    let schedule = NewSchedule {
        catch_up: CatchUp::All(1_000),
        ..every("often", Duration::from_secs(1))
    };
    client.schedules().create(schedule).await.unwrap();
    for _ in 0..5 {
        // Around the full second at which it fires.
        let wait = random.random_range(900..1_100);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        broker.process.kill();
        broker.process.restart();
    }
    let client = Client::connect(address).await.unwrap();
    let fired = firings(&client, 6).await;
    let numbers: Vec<i64> = fired
        .iter()
        .map(|record| number(record, "aq-schedule-number"))
        .collect();
    let expected: Vec<i64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, expected);
    let times: Vec<i64> = fired
        .iter()
        .map(|record| number(record, "aq-schedule-time"))
        .collect();
    assert!(
        times.windows(2).all(|two| two[1] - two[0] == 1_000),
        "{times:?}"
    );
    assert!(
        fired
            .iter()
            .all(|record| record.partition == fired[0].partition)
    );
}
