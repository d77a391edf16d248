//! Schedules of a real node, with what no door lets in.

use std::time::{Duration, Instant};

use crate::{
    metadata::{
        schedules::{Cron, Schedule, When},
        state::{Change, Outcome},
    },
    services::Services,
    testing::Broker,
};

/// For what comes in its own time.
const PATIENCE: Duration = Duration::from_secs(30);

async fn wait_until(services: &Services, id: u64, is: impl Fn(Option<&str>) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let problem = services.schedule_problem(id);
        if is(problem.as_deref()) {
            return;
        }
        assert!(Instant::now() < until, "{problem:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_zone_that_the_machine_does_not_know_is_a_problem_that_is_told() {
    let broker = Broker::temp().unwrap();
    let services = broker.services().unwrap().clone();
    let message = prost::Message::encode_to_vec(&aqueduct_proto::v1::Message::default());
    let zone = |zone: &str| Schedule {
        name: "report".into(),
        topic: "reports".into(),
        message: message.clone(),
        when: Some(When::Cron(Cron {
            expression: "0 8 * * *".into(),
            zone: zone.into(),
        })),
        ..Schedule::default()
    };
    // The API refuses it; a log that was written elsewhere may have it.
    let create = Change::CreateSchedule(zone("Mars/Olympus"));
    let outcome = services.metadata.propose(create).await.unwrap();
    let Outcome::Schedule(schedule) = outcome else {
        panic!("{outcome:?}");
    };
    services.schedules.wake.notify_one();
    let is_told = |problem: Option<&str>| problem.is_some_and(|why| why.contains("Mars/Olympus"));
    wait_until(&services, schedule.id, is_told).await;
    // It fires when it is asked to, and its problem stays.
    assert_eq!(services.run_schedule("report").await.unwrap().number, 1);
    wait_until(&services, schedule.id, is_told).await;
    let update = services.update_schedule(zone("Europe/Berlin"), None);
    update.await.unwrap();
    wait_until(&services, schedule.id, |problem| problem.is_none()).await;
}
