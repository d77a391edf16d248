//! Groups that begin at a place: pinned when they are created, for streams and queues.

use aqueduct_proto::v1::{
    CreateGroupRequest, Group, Message, Position, PublishRequest, QueuePolicy, StartPolicy,
    position::Kind,
};
use aqueduct_tests::{
    cli::exit,
    grpc::{Api, Refused, message},
};
use tonic::Status;

use crate::{fixture::Fixture, queue_api::Queue};

async fn create(api: &mut Api, topic: &str, group: Group) -> Result<Group, Status> {
    let request = CreateGroupRequest {
        topic: topic.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    let created = api.groups.create_group(request).await;
    created.map(tonic::Response::into_inner)
}

fn at(name: &str, kind: Kind) -> Group {
    Group {
        name: name.to_owned(),
        start_position: Some(Position { kind: Some(kind) }),
        ..Group::default()
    }
}

/// Messages with the time stamps 1,000, 2,000… in partition 0, and half as many in partition 1.
async fn publish(api: &mut Api, topic: &str, count: i64) {
    let stamped = |partition, n: i64| Message {
        timestamp_ms: Some(n * 1_000),
        ..message(partition, n.to_string())
    };
    let all = (1..=count).flat_map(|n| (0..2).map(move |p| (p, n)));
    let messages = all.filter(|(p, n)| *p == 0 || n % 2 == 0);
    let request = PublishRequest {
        topic: topic.to_owned(),
        messages: messages.map(|(p, n)| stamped(p, n)).collect(),
        ..PublishRequest::default()
    };
    api.publisher.publish(request).await.unwrap();
}

#[tokio::test]
async fn a_group_begins_where_its_creation_says_and_stays_there() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("jobs", 2).await;
    publish(&mut api, "jobs", 10).await;
    let mut expected = Vec::new();
    for (name, kind, start, offsets) in [
        (
            "time",
            Kind::TimestampMs(4_500),
            StartPolicy::Pinned,
            vec![4, 2],
        ),
        (
            "late",
            Kind::TimestampMs(99_000),
            StartPolicy::Pinned,
            vec![10, 5],
        ),
        (
            "early",
            Kind::TimestampMs(0),
            StartPolicy::Pinned,
            vec![0, 0],
        ),
        ("last", Kind::Last(3), StartPolicy::Pinned, vec![7, 2]),
        ("start", Kind::Start(true), StartPolicy::Earliest, vec![]),
        ("end", Kind::End(true), StartPolicy::Latest, vec![10, 5]),
    ] {
        let made = create(&mut api, "jobs", at(name, kind)).await.unwrap();
        assert_eq!(
            (made.start(), &made.start_offsets),
            (start, &offsets),
            "{name}"
        );
        expected.push((name, offsets));
    }
    publish(&mut api, "jobs", 2).await;
    broker.process.kill();
    broker.process.restart();
    let mut api = broker.api().await;
    for (name, offsets) in expected {
        let of_group = aqueduct_proto::v1::GetLagRequest {
            topic: "jobs".into(),
            group: name.into(),
        };
        let lag = api.groups.get_lag(of_group).await.unwrap().into_inner();
        let begun = [12, 6].iter().zip(&offsets).map(|(end, at)| end - at);
        let all: u64 = if offsets.is_empty() { 18 } else { begun.sum() };
        assert_eq!(lag.messages, all, "{name}");
    }
}

#[tokio::test]
async fn a_queue_group_hands_out_from_its_place_on() {
    let broker = Fixture::new();
    let mut queue = Queue(broker.api().await);
    queue.0.create("jobs", 1).await;
    publish(&mut queue.0, "jobs", 6).await;
    let group = Group {
        queue: Some(QueuePolicy::default()),
        ..at("work", Kind::Offset(4))
    };
    create(&mut queue.0, "jobs", group).await.unwrap();
    assert_eq!(queue.counts().await.done, 4);
    let given = queue.some(2).await;
    let offsets = given.iter().map(|it| it.record.as_ref().unwrap().offset);
    assert_eq!(offsets.collect::<Vec<_>>(), [4, 5]);
}

#[tokio::test]
async fn what_is_no_place_is_refused() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("one", 1).await;
    api.create("two", 2).await;
    let both = Group {
        start: StartPolicy::Latest as i32,
        ..at("g", Kind::Last(1))
    };
    let pinned = Group {
        name: "g".into(),
        start: StartPolicy::Pinned as i32,
        ..Group::default()
    };
    let nowhere = Group {
        name: "g".into(),
        start_position: Some(Position { kind: None }),
        ..Group::default()
    };
    for (topic, group, field) in [
        ("one", both, "group.start_position"),
        ("one", pinned, "group.start"),
        ("one", nowhere, "group.start_position"),
        ("two", at("g", Kind::Offset(0)), "group.start_position"),
    ] {
        let refused = create(&mut api, topic, group).await.unwrap_err();
        let refused = Refused::from_status(&refused);
        assert_eq!(refused.reason, "INVALID_ARGUMENT", "{field}");
        assert_eq!(refused.facts["field"], field);
    }
    let beyond = create(&mut api, "one", at("g", Kind::Offset(1))).await;
    let reason = Refused::from_status(&beyond.unwrap_err()).reason;
    assert_eq!(reason, "OFFSET_OUT_OF_RANGE");
    assert!(
        create(&mut api, "one", at("g", Kind::Offset(0)))
            .await
            .is_ok()
    );
}

#[test]
fn the_command_line_says_where_a_group_begins() {
    let broker = Fixture::new();
    broker.create("jobs", 1);
    for n in 0..5 {
        let _ = broker.cli.run(&["pub", "jobs", &n.to_string()]).ok();
    }
    let make = |start: &str, name: &str| {
        let group = format!("jobs/{name}");
        let line = ["group", "create", &group, "--start", start, "-o", "json"];
        broker.cli.run(&line)
    };
    let cases = [
        ("-2", "a", 3),
        ("@1h", "b", 0),
        ("2099-01-01T00:00:00Z", "c", 5),
        ("4", "d", 4),
    ];
    for (start, name, offset) in cases {
        let made = make(start, name).ok().json();
        assert_eq!(made["start"], "pinned", "{start}");
        assert_eq!(
            made["start_offsets"],
            serde_json::json!([offset]),
            "{start}"
        );
    }
    let latest = make("latest", "e").ok().json();
    assert_eq!(
        (&latest["start"], &latest["start_offsets"][0]),
        (&"latest".into(), &5.into())
    );
    let wrong = make("newest", "f").with_code(exit::USAGE).stderr;
    assert!(wrong.contains("earliest"), "{wrong}");
}
