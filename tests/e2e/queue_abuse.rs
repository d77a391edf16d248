//! Queue groups misused: wrong verdicts, absurd credit and policies, huge batches, many keys and
//! groups, consumers that never settle or hang up. Clear refusals, bounded memory, and whoever
//! behaves is served.

use std::time::Duration;

use aqueduct_proto::v1::{
    ExtendVerdict, LeaseRequest, Message, OnKeyFailure, QueueOrder, QueuePolicy, RetryVerdict,
    SettleResult, Settlement, UpdateGroupRequest, settlement::Verdict,
};
use aqueduct_tests::{
    grpc::{Refused, message, refused},
    http::Http,
    process::PATIENCE,
    queue::{
        Given, KeyOrder, Outcome, Rules, Word,
        worker::{Session, settlement},
    },
};
use serde_json::json;
use tonic::Code;

use crate::{
    fixture::Fixture,
    queue_scene::{RULES, Scene, create_group, ms},
};

const MIB: u64 = 1 << 20;

fn reason(result: &SettleResult) -> String {
    let error = result.error.as_ref();
    error.map_or(String::new(), |error| Refused::from_result(error).reason)
}

#[tokio::test]
async fn verdicts_on_what_is_not_ones_own_change_nothing() {
    let mut scene = Scene::on(Fixture::new(), 2, QueuePolicy::default()).await;
    scene.publish_some(4).await;
    let held = scene.some(4).await;
    create_group(&mut scene.api, "other", QueuePolicy::default())
        .await
        .unwrap();
    scene.ack(&held[..1]).await;
    let ack = |offset, lease| Settlement {
        partition: 0,
        offset,
        lease,
        verdict: Some(Verdict::Ack(true)),
    };
    let wrong = [
        ack(held[0].offset, held[0].lease),
        ack(held[1].offset, held[2].lease),
        ack(held[1].offset, 0),
        ack(held[1].offset, u64::MAX),
        ack(held[3].offset + 1, held[3].lease + 1),
        ack(u64::MAX, held[1].lease),
        ack(u64::MAX, u64::MAX),
        Settlement {
            partition: 1,
            ..ack(held[1].offset, held[1].lease)
        },
    ];
    let verdicts = [
        Verdict::Ack(true),
        Verdict::Release(true),
        Verdict::Retry(RetryVerdict::default()),
        Verdict::Extend(ExtendVerdict { by: ms(60_000) }),
        Verdict::DeadLetter(Default::default()),
    ];
    let mut all = Vec::new();
    for verdict in verdicts {
        all.extend(wrong.iter().map(|wrong| Settlement {
            verdict: Some(verdict.clone()),
            ..wrong.clone()
        }));
    }
    // In the midst of them one that is right, and a partition that is none.
    all.insert(9, settlement(&held[2], &Word::Ack));
    all.insert(
        17,
        Settlement {
            partition: 2,
            ..ack(1, 1)
        },
    );
    all.insert(
        20,
        Settlement {
            partition: u32::MAX,
            ..ack(1, 1)
        },
    );
    let results = scene.settle(all.clone()).await.unwrap();
    for (n, (settlement, result)) in all.iter().zip(&results).enumerate() {
        assert_eq!(
            (result.partition, result.offset),
            (settlement.partition, settlement.offset)
        );
        let expected = match n {
            9 => "",
            17 | 20 => "PARTITION_NOT_FOUND",
            _ => "LEASE_LOST",
        };
        assert_eq!(reason(result), expected, "{settlement:?}");
    }
    // The other group has leases of its own.
    scene.place.group = "other".to_owned();
    let outcomes = scene.say(&held[1..2], Word::Ack).await;
    assert_eq!(outcomes, [Outcome::LeaseLost]);
    scene.place.group = "work".to_owned();
    scene.history.said.lock().unwrap().clear();
    scene.ack(&[held[1].clone(), held[3].clone()]).await;
    assert!(scene.take(10).await.is_empty());
}

#[tokio::test]
async fn verdicts_that_cannot_be_are_refused_as_a_whole() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    scene.publish_some(2).await;
    let held = scene.some(2).await;
    let extend = |by| Verdict::Extend(ExtendVerdict { by });
    let retry = |after| {
        Verdict::Retry(RetryVerdict {
            after,
            error: String::new(),
        })
    };
    let long = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let absurd = [
        None,
        Some(Verdict::Ack(false)),
        Some(Verdict::Release(false)),
        Some(extend(None)),
        Some(extend(ms(0))),
        Some(extend(long(-1, 0))),
        Some(extend(long(86_401, 0))),
        Some(extend(long(i64::MAX, 999_999_999))),
        Some(retry(long(-5, 0))),
        Some(retry(long(0, -1))),
        Some(retry(long(31 * 86_400, 0))),
        Some(retry(long(i64::MIN, 0))),
    ];
    for verdict in absurd {
        let wrong = Settlement {
            verdict: verdict.clone(),
            ..settlement(&held[0], &Word::Ack)
        };
        let right = settlement(&held[1], &Word::Ack);
        let answer = scene.settle(vec![right, wrong]).await;
        let refused = refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(
            refused.facts["field"].starts_with("settlements."),
            "{verdict:?}: {refused:?}"
        );
    }
    // A long text is cut off, at the end of a character.
    let error = "ä".repeat(100_000);
    let after_ms = Some(0);
    let outcomes = scene.say(&held[..1], Word::Retry { after_ms, error }).await;
    assert_eq!(outcomes, [Outcome::Done]);
    let again = scene.some(1).await;
    assert_eq!(again[0].last_error, "ä".repeat(128));
    scene.ack(&[again[0].clone(), held[1].clone()]).await;
}

#[tokio::test]
async fn a_settlement_is_as_large_as_the_limit_and_no_larger() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    for _ in 0..2 {
        scene.publish_some(5_001).await;
    }
    let mut held = Vec::new();
    while held.len() < 10_002 {
        held.extend(scene.some(10_000).await);
    }
    let words = |count: usize| {
        let acks = held[..count]
            .iter()
            .map(|given| settlement(given, &Word::Ack));
        acks.collect::<Vec<_>>()
    };
    let answer = scene.settle(words(10_001)).await;
    let refused_call = refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(refused_call.facts["field"], "settlements");
    // Every other one first, so that nothing lies side by side.
    let (even, odd): (Vec<Given>, Vec<Given>) =
        held.iter().cloned().partition(|g| g.offset % 2 == 0);
    scene.ack(&even).await;
    scene.ack(&odd).await;
    scene.check(RULES, Some(&[10_002])).await;
    // The same ten thousand times: the first one counts.
    scene.publish_some(1).await;
    let last = scene.some(1).await;
    let same = vec![settlement(&last[0], &Word::Ack); 10_000];
    let results = scene.settle(same).await.unwrap();
    assert_eq!(
        results
            .iter()
            .filter(|result| reason(result).is_empty())
            .count(),
        1
    );
    assert_eq!(reason(&results[0]), "");
}

/// On a stream too, which then ends.
#[tokio::test]
async fn a_stream_that_settles_too_much_is_told_so() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    scene.publish_some(1).await;
    let mut session = Session::open(&scene.place, &scene.history).await.unwrap();
    session.credit(10, 1 << 20).await;
    let (given, _) = session.next().await.unwrap();
    session.say(&vec![(given, Word::Ack); 10_001]).await;
    assert!(session.answered().await.is_err());
    session.cut();
    // The message comes back: nothing was taken.
    let again = scene.some(1).await;
    assert_eq!((again[0].offset, again[0].attempt), (0, 2));
    scene.ack(&again).await;
    scene.check(RULES, Some(&[1])).await;
}

#[tokio::test]
async fn credit_is_no_way_to_take_memory() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let value = "x".repeat(10_000);
    for _ in 0..10 {
        let messages = (0..1_000).map(|_| message(0, value.clone()));
        scene.publish(messages.collect()).await;
    }
    let before = scene.memory();
    // Credit for everything, many times; nothing is read.
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let session = Session::open(&scene.place, &scene.history).await.unwrap();
        for _ in 0..3 {
            session.credit(u64::MAX, u64::MAX).await;
        }
        greedy.push(session);
    }
    let mut none = Session::open(&scene.place, &scene.history).await.unwrap();
    for (messages, bytes) in [(0, 0), (0, u64::MAX), (u64::MAX, 0)] {
        none.credit(messages, bytes).await;
    }
    for _ in 0..200_000 {
        none.credit(0, 0).await;
    }
    let quiet = tokio::time::timeout(Duration::from_millis(200), none.next()).await;
    assert!(
        quiet.is_err(),
        "messages and bytes are both needed, and bytes are there now"
    );
    let taken = scene.memory().saturating_sub(before);
    assert!(taken < 150 * MIB, "{} MiB for nothing", taken / MIB);
    for session in greedy {
        session.close().await;
    }
    // One byte is enough for one message, and then it is used up.
    let mut poor = Session::open(&scene.place, &scene.history).await.unwrap();
    poor.credit(1_000, 1).await;
    let (first, _) = poor.next().await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(200), poor.next()).await;
    assert!(second.is_err(), "{second:?}");
    poor.say(&[(first, Word::Ack)]).await;
    poor.answered().await.unwrap();
    poor.close().await;
    none.cut();
    scene.check(RULES, None).await;
}

/// Values that no policy may have, by field.
fn absurd_policies() -> Vec<(&'static str, QueuePolicy)> {
    let base = QueuePolicy::default;
    let long = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    vec![
        (
            "lease",
            QueuePolicy {
                lease: ms(0),
                ..base()
            },
        ),
        (
            "lease",
            QueuePolicy {
                lease: ms(999),
                ..base()
            },
        ),
        (
            "lease",
            QueuePolicy {
                lease: long(-1),
                ..base()
            },
        ),
        (
            "lease",
            QueuePolicy {
                lease: long(i64::MAX),
                ..base()
            },
        ),
        (
            "max_attempts",
            QueuePolicy {
                max_attempts: Some(0),
                ..base()
            },
        ),
        (
            "max_attempts",
            QueuePolicy {
                max_attempts: Some(u32::MAX),
                ..base()
            },
        ),
        (
            "max_hand_outs",
            QueuePolicy {
                max_hand_outs: Some(9),
                ..base()
            },
        ),
        (
            "max_hand_outs",
            QueuePolicy {
                max_hand_outs: Some(u32::MAX),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff: ms(0),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff: long(i64::MAX),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff_factor_percent: Some(99),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff_factor_percent: Some(u32::MAX),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff_max: ms(1),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff_max: long(i64::MAX / 1_000),
                ..base()
            },
        ),
        (
            "backoff",
            QueuePolicy {
                backoff_jitter_percent: Some(101),
                ..base()
            },
        ),
        (
            "max_in_flight",
            QueuePolicy {
                max_in_flight: u64::MAX,
                ..base()
            },
        ),
        (
            "max_in_flight",
            QueuePolicy {
                max_in_flight_per_consumer: u64::MAX,
                ..base()
            },
        ),
        (
            "max_in_flight",
            QueuePolicy {
                max_in_flight_per_key: u64::MAX,
                ..base()
            },
        ),
        (
            "max_in_flight",
            QueuePolicy {
                order: QueueOrder::PerKey as i32,
                max_in_flight_per_key: 2,
                ..base()
            },
        ),
        (
            "",
            QueuePolicy {
                messages_per_second: u64::MAX,
                ..base()
            },
        ),
        (
            "order",
            QueuePolicy {
                order: 77,
                ..base()
            },
        ),
        (
            "on_key_failure",
            QueuePolicy {
                on_key_failure: -1,
                ..base()
            },
        ),
        (
            "priorities",
            QueuePolicy {
                priorities: i32::MAX,
                ..base()
            },
        ),
        (
            "filter",
            QueuePolicy {
                filter: vec![Default::default()],
                ..base()
            },
        ),
        (
            "filter",
            QueuePolicy {
                filter: vec![Default::default(); 100_000],
                ..base()
            },
        ),
    ]
}

#[tokio::test]
async fn absurd_policies_are_refused_by_field() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    for (field, policy) in absurd_policies() {
        let prefix = format!("group.queue.{field}");
        let created = create_group(&mut scene.api, "absurd", policy.clone()).await;
        let at_creation = refused(created, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert!(
            at_creation.facts["field"].starts_with(&prefix),
            "{field}: {at_creation:?}"
        );
        let group = aqueduct_proto::v1::Group {
            name: "work".to_owned(),
            queue: Some(policy),
            ..Default::default()
        };
        let update = UpdateGroupRequest {
            topic: "jobs".to_owned(),
            group: Some(group),
            ..UpdateGroupRequest::default()
        };
        let updated = scene.api.groups.update_group(update).await;
        let at_change = refused(updated, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(at_change.facts, at_creation.facts);
    }
    // A name for which there can be no dead-letter topic.
    let long = "g".repeat(241);
    let named = create_group(&mut scene.api, &long, QueuePolicy::default()).await;
    let named = refused(named, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(named.facts["field"], "group.name");
    // The least and the most of everything is a policy that works.
    let extreme = QueuePolicy {
        lease: ms(86_400_000),
        max_attempts: Some(10_000),
        max_hand_outs: Some(100_000),
        backoff: ms(86_400_000),
        backoff_factor_percent: Some(10_000),
        backoff_max: ms(30 * 86_400_000),
        backoff_jitter_percent: Some(100),
        max_in_flight: 1_000_000,
        max_in_flight_per_consumer: 1_000_000,
        messages_per_second: 10_000_000,
        ..QueuePolicy::default()
    };
    create_group(&mut scene.api, "extreme", extreme)
        .await
        .unwrap();
    scene.publish_some(3).await;
    scene.place.group = "extreme".to_owned();
    let given = scene.some(3).await;
    scene
        .say(
            &given[..1],
            Word::Retry {
                after_ms: None,
                error: String::new(),
            },
        )
        .await;
    scene.ack(&given[1..]).await;
    assert!(scene.take(3).await.is_empty());
}

#[tokio::test]
async fn absurd_requests_in_json_are_refused_too() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let mut http = Http::connect(scene.broker.process.address());
    let policies = [
        json!({"lease": "0s"}),
        json!({"lease": "-3s"}),
        json!({"lease": "1e9999s"}),
        json!({"lease": 5}),
        json!({"maxAttempts": 0}),
        json!({"maxAttempts": -1}),
        json!({"maxAttempts": 4_294_967_296_u64}),
        json!({"maxInFlight": "-1"}),
        json!({"maxInFlight": "18446744073709551616"}),
        json!({"order": "SIDEWAYS"}),
        json!({"filter": {"header": "a"}}),
        json!({"filter": [{"header": "a", "equals": "%%%"}]}),
        json!({"nonsense": true}),
    ];
    for policy in policies {
        let body = json!({"name": "absurd", "queue": policy});
        let answer = http.post("/v1/topics/jobs/groups", &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
    }
    let base = "/v1/topics/jobs/groups/work";
    let bodies = [
        (":lease", json!({"maxMessages": 10_001})),
        (":lease", json!({"maxMessages": -1})),
        (":lease", json!({"maxBytes": "99999999999"})),
        (":lease", json!({"wait": "61s"})),
        (":lease", json!({"wait": "-1s"})),
        (":settle", json!({"settlements": [{}]})),
        (
            ":settle",
            json!({"settlements": [{"offset": "-1", "ack": true}]}),
        ),
        (
            ":settle",
            json!({"settlements": [{"ack": true, "release": true}]}),
        ),
        (
            ":settle",
            json!({"settlements": vec![json!({"ack": true}); 10_001]}),
        ),
    ];
    for (verb, body) in bodies {
        let answer = http.post(&format!("{base}{verb}"), &body);
        assert_eq!(answer.status, 400, "{verb} {body:.100}: {answer:?}");
    }
    // And what is right works in JSON.
    scene.publish_some(1).await;
    let leased = http.post(&format!("{base}:lease"), &json!({"wait": "30s"}));
    let delivery = leased.json()["deliveries"][0].clone();
    assert_eq!(delivery["attempt"], json!(1), "{delivery}");
    let ack = json!({"settlements": [{
        "partition": 0, "offset": delivery["record"]["offset"], "lease": delivery["lease"], "ack": true,
    }]});
    let settled = http.post(&format!("{base}:settle"), &ack);
    assert_eq!(settled.status, 200);
    assert_eq!(
        settled.json()["results"][0].get("error"),
        None,
        "{settled:?}"
    );
    let again = http.post(&format!("{base}:settle"), &ack);
    assert_ne!(again.json()["results"][0].get("error"), None, "{again:?}");
}

/// So many keys, each once and none twice in flight; what they cost is bounded.
#[tokio::test]
async fn a_hundred_thousand_keys_have_an_order_each() {
    let policy = QueuePolicy {
        order: QueueOrder::PerKey as i32,
        on_key_failure: OnKeyFailure::Block as i32,
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let before = scene.memory();
    // Every tenth key has a second message.
    let keys: Vec<u32> = (0..100_000).chain((0..10_000).map(|n| n * 10)).collect();
    for keys in keys.chunks(10_000) {
        let keyed = |key: &u32| Message {
            key: Some(format!("key {key}").into()),
            ..message(0, "x")
        };
        scene.publish(keys.iter().map(keyed).collect()).await;
    }
    let mut held = Vec::new();
    while held.len() < 100_000 {
        held.extend(scene.some(10_000).await);
    }
    assert!(
        scene.take(1).await.is_empty(),
        "the others wait for the first of their key"
    );
    assert!(held.iter().all(|given| given.offset < 100_000));
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 200 * MIB, "{} MiB", grown / MIB);
    for some in held.chunks(10_000) {
        scene.ack(some).await;
    }
    let mut last = Vec::new();
    while last.len() < 10_000 {
        last.extend(scene.some(10_000).await);
    }
    scene.ack(&last).await;
    let order = KeyOrder::Block;
    scene
        .check(Rules { order, ..RULES }, Some(&[110_000]))
        .await;
}

#[tokio::test]
async fn who_never_settles_and_who_hangs_up_stop_nobody() {
    let policy = QueuePolicy {
        lease: ms(1_000),
        backoff: ms(1),
        backoff_max: ms(10),
        ..QueuePolicy::default()
    };
    let mut scene = Scene::new(policy).await;
    let rules = Rules {
        lease_ms: 1_000,
        backoff: aqueduct_tests::queue::Backoff {
            initial_ms: 1,
            factor_percent: 200,
            max_ms: 10,
            jitter_percent: 20,
        },
        ..RULES
    };
    // Calls that are given up while they wait; what comes is not for them.
    let mut hanging = Vec::new();
    for _ in 0..300 {
        let mut queues = scene.api.queues.clone();
        let request = LeaseRequest {
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
            max_messages: 1,
            wait: ms(60_000),
            ..LeaseRequest::default()
        };
        hanging.push(tokio::spawn(async move {
            queues.lease(request).await.map(drop)
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    hanging.drain(..).for_each(|call| call.abort());
    scene.publish_some(200).await;
    // One takes much and says nothing; one takes some and is cut off; one works.
    let mut silent = Session::open(&scene.place, &scene.history).await.unwrap();
    silent.credit(50, 1 << 20).await;
    let mut cut = Session::open(&scene.place, &scene.history).await.unwrap();
    cut.credit(20, 1 << 20).await;
    silent.next().await.unwrap();
    cut.next().await.unwrap();
    cut.cut();
    let start = std::time::Instant::now();
    let mut done = 0;
    while done < 200 {
        assert!(start.elapsed() < PATIENCE, "{done} of 200");
        // What it has used of its credit is gone: nothing more comes to the silent one.
        let given = scene.wait(100, Duration::from_millis(500)).await;
        let outcomes = scene.say(&given, Word::Ack).await;
        done += outcomes
            .iter()
            .filter(|outcome| **outcome == Outcome::Done)
            .count();
    }
    silent.left();
    scene.check(rules, Some(&[200])).await;
}

#[tokio::test]
async fn many_groups_on_one_topic_do_not_share_anything() {
    let mut scene = Scene::new(QueuePolicy::default()).await;
    let names: Vec<String> = (0..100).map(|n| format!("group-{n}")).collect();
    for name in &names {
        create_group(&mut scene.api, name, QueuePolicy::default())
            .await
            .unwrap();
    }
    scene.publish_some(20).await;
    let before = scene.memory();
    for name in &names {
        scene.place.group.clone_from(name);
        let given = scene.some(20).await;
        assert_eq!(given.len(), 20, "{name}");
        assert!(
            given
                .iter()
                .all(|given| given.attempt == 1 && given.lease <= 20)
        );
        scene.ack(&given[..10]).await;
        // Each history is one of its own.
        scene.history.given.lock().unwrap().clear();
        scene.history.said.lock().unwrap().clear();
    }
    let grown = scene.memory().saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
    scene.broker.assert_serves();
}
