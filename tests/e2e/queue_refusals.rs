//! What no queue group may be told: verdicts, policies and requests that cannot be, over gRPC and
//! JSON. Each is refused by the name of its field, and nothing is changed.

use aqueduct_proto::v1::{
    ExtendVerdict, QueueOrder, QueuePolicy, RetryVerdict, Settlement, UpdateGroupRequest,
    settlement::Verdict,
};
use aqueduct_tests::{
    grpc::refused,
    http::Http,
    queue::{Outcome, Word, worker::settlement},
};
use serde_json::json;
use tonic::Code;

use crate::queue_scene::{Scene, create_group, ms};

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

/// Values that no policy may have, by field.
#[expect(clippy::too_many_lines, reason = "a table")]
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
