//! Dead letters end to end: what their copies carry, filters, redrive, discard, and bad input.

use std::time::Duration;

use aqueduct_proto::v1::{
    CreateGroupRequest, DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterVerdict,
    DeadLettersProgress, DeadReason, DeleteGroupRequest, DeleteTopicRequest, Delivery,
    GetDeadLetterRequest, Group, Header, HeaderCondition, LeaseRequest, ListDeadLettersRequest,
    Message, PublishRequest, QueuePolicy, RedriveRequest, SettleRequest, Settlement,
    header_condition::Test, settlement::Verdict,
};
use aqueduct_tests::{
    grpc::{Api, message, refused},
    http::Http,
};
use serde_json::json;
use tonic::{Code, Status};

use crate::fixture::Fixture;

pub(crate) const TOPIC: &str = "jobs";
pub(crate) const GROUP: &str = "work";
pub(crate) const DLQ: &str = "jobs.work.dlq";

/// A queue group on a topic.
pub(crate) async fn create(api: &mut Api, partitions: u32, policy: QueuePolicy) {
    api.create(TOPIC, partitions).await;
    create_group(api, policy).await;
}

async fn create_group(api: &mut Api, policy: QueuePolicy) {
    let group = Group {
        name: GROUP.to_owned(),
        queue: Some(policy),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
}

pub(crate) async fn publish(api: &mut Api, messages: Vec<Message>) {
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages,
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.error.is_none()));
}

pub(crate) async fn lease(
    api: &mut Api,
    messages: u32,
    wait: Duration,
) -> Result<Vec<Delivery>, Status> {
    let request = LeaseRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        max_messages: messages,
        wait: wait.try_into().ok(),
        ..LeaseRequest::default()
    };
    let leased = api.queues.lease(request).await;
    leased.map(|leased| leased.into_inner().deliveries)
}

/// Gives these up; answers how many of them that was done to.
pub(crate) async fn reject(
    api: &mut Api,
    leased: &[Delivery],
    error: &str,
) -> Result<usize, Status> {
    let settlement = |delivery: &Delivery| {
        let record = delivery.record.as_ref().unwrap();
        let error = error.to_owned();
        Settlement {
            partition: record.partition,
            offset: record.offset,
            lease: delivery.lease,
            verdict: Some(Verdict::DeadLetter(DeadLetterVerdict { error })),
        }
    };
    let request = SettleRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        settlements: leased.iter().map(settlement).collect(),
    };
    let results = api.queues.settle(request).await?.into_inner().results;
    Ok(results.iter().filter(|r| r.error.is_none()).count())
}

/// Gives up everything there is, until it was so many.
pub(crate) async fn reject_all(api: &mut Api, count: usize, error: &str) {
    let mut rejected = 0;
    while rejected < count {
        let leased = lease(api, 1_000, Duration::from_secs(30)).await.unwrap();
        assert!(!leased.is_empty(), "{rejected} of {count} were rejected");
        rejected += reject(api, &leased, error).await.unwrap();
    }
    assert_eq!(rejected, count);
}

/// All dead letters, in small pages.
pub(crate) async fn list(api: &mut Api, filter: Option<DeadLetterFilter>) -> Vec<DeadLetter> {
    let (mut letters, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListDeadLettersRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            filter: filter.clone(),
            page_size: 7,
            page_token,
        };
        let page = api.dead.list_dead_letters(request).await.unwrap();
        let page = page.into_inner();
        assert!(page.dead_letters.len() <= 7);
        letters.extend(page.dead_letters);
        if page.next_page_token.is_empty() {
            return letters;
        }
        page_token = page.next_page_token;
    }
}

/// Waits until so many have their copies.
pub(crate) async fn wait_for(api: &mut Api, count: usize) -> Vec<DeadLetter> {
    for _ in 0..600 {
        let letters = list(api, None).await;
        if letters.len() >= count {
            assert_eq!(letters.len(), count);
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} dead letters did not come");
}

pub(crate) fn redrive_request() -> RedriveRequest {
    RedriveRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        ..RedriveRequest::default()
    }
}

/// The last report of a redrive.
pub(crate) async fn redrive(
    api: &mut Api,
    request: RedriveRequest,
) -> Result<DeadLettersProgress, Status> {
    let mut reports = api.dead.redrive(request).await?.into_inner();
    let mut last = DeadLettersProgress::default();
    while let Some(progress) = reports.message().await? {
        last = progress;
    }
    Ok(last)
}

pub(crate) fn value(record: Option<&aqueduct_proto::v1::Record>) -> String {
    let value = record.unwrap().value.clone().expect("a payload");
    String::from_utf8(value.to_vec()).unwrap()
}

pub(crate) fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: value.to_owned().into(),
    }
}

fn condition(header: &str, test: Test) -> HeaderCondition {
    HeaderCondition {
        header: header.to_owned(),
        test: Some(test),
    }
}

pub(crate) fn numbered(count: usize, partitions: u32) -> Vec<Message> {
    (0..count)
        .map(|n| message(n as u32 % partitions, n.to_string()))
        .collect()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of what is wrong")]
async fn bad_input_is_refused_and_says_why() {
    let mut broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    let with = |filter: DeadLetterFilter| RedriveRequest {
        filter: Some(filter),
        ..redrive_request()
    };
    let long = DeadLetterFilter {
        error_contains: "x".repeat(257),
        ..DeadLetterFilter::default()
    };
    let many = DeadLetterFilter {
        ids: (0..1_001)
            .map(|offset| DeadLetterId {
                partition: 0,
                offset,
            })
            .collect(),
        ..DeadLetterFilter::default()
    };
    let unknown = DeadLetterFilter {
        reasons: vec![99],
        ..DeadLetterFilter::default()
    };
    let empty = DeadLetterFilter {
        headers: vec![HeaderCondition::default()],
        ..DeadLetterFilter::default()
    };
    let ours = RedriveRequest {
        set_headers: vec![header("aq-redriven-from", "me")],
        ..redrive_request()
    };
    let edits = RedriveRequest {
        remove_headers: vec!["a".to_owned(); 65],
        ..redrive_request()
    };
    for (request, field) in [
        (with(long), "filter.error_contains"),
        (with(many), "filter.ids"),
        (with(unknown), "filter.reasons"),
        (with(empty), "filter.headers"),
        (ours, "set_headers"),
        (edits, "remove_headers"),
    ] {
        let refusal = redrive(&mut api, request).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{field}: {refusal}");
        assert!(refusal.message().contains(field), "{field}: {refusal}");
    }
    let missing = RedriveRequest {
        to_topic: "nowhere".to_owned(),
        ..redrive_request()
    };
    refused(
        redrive(&mut api, missing).await,
        Code::NotFound,
        "TOPIC_NOT_FOUND",
    );
    let no_group = RedriveRequest {
        group: "nobody".to_owned(),
        ..redrive_request()
    };
    refused(
        redrive(&mut api, no_group).await,
        Code::NotFound,
        "GROUP_NOT_FOUND",
    );
    for token in ["x", "1:", ":2", "1:2:3", "-1:0"] {
        let request = ListDeadLettersRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            page_token: token.to_owned(),
            ..ListDeadLettersRequest::default()
        };
        let refusal = api.dead.list_dead_letters(request).await;
        refused(refusal, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    // A stream group has none.
    let stream = Group {
        name: "stream".to_owned(),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(stream),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
    let other_kind = RedriveRequest {
        group: "stream".to_owned(),
        ..redrive_request()
    };
    refused(
        redrive(&mut api, other_kind).await,
        Code::FailedPrecondition,
        "WRONG_GROUP_KIND",
    );
    // Nothing died yet: an empty list, and nothing to do.
    assert!(list(&mut api, None).await.is_empty());
    let none = redrive(&mut api, redrive_request()).await.unwrap();
    assert_eq!((none.done, none.total), (true, 0));
    broker.assert_serves();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of filters")]
async fn a_copy_carries_all_and_every_filter_finds_it() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 2, QueuePolicy::default()).await;
    let mut poison = message(1, "payload");
    poison.key = Some("customer-7".into());
    poison.headers = vec![header("type", "order.paid"), header("type", "second")];
    poison.timestamp_ms = Some(1_700_000_000_000);
    publish(&mut api, vec![message(0, "other"), poison]).await;
    let leased = lease(&mut api, 10, Duration::from_secs(30)).await.unwrap();
    let (mut odd, mut even) = (Vec::new(), Vec::new());
    for delivery in leased {
        match delivery.record.as_ref().unwrap().partition {
            1 => odd.push(delivery),
            _ => even.push(delivery),
        }
    }
    assert_eq!(reject(&mut api, &odd, "card refused").await.unwrap(), 1);
    let mut letters = wait_for(&mut api, 1).await;
    let letter = letters.remove(0);
    let record = letter.record.clone().unwrap();
    assert_eq!(record.key.as_deref(), Some(&b"customer-7"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"payload"[..]));
    let names: Vec<_> = record.headers.iter().map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["type", "type"]);
    assert_eq!(letter.reason(), DeadReason::Rejected);
    assert_eq!(letter.error, "card refused");
    assert_eq!(
        (letter.source_topic.as_str(), letter.group.as_str()),
        (TOPIC, GROUP)
    );
    assert_eq!(
        (letter.source_partition, letter.source_offset, letter.number),
        (1, 0, 1)
    );
    assert_eq!((letter.attempts, letter.hand_outs), (1, 1));
    assert_eq!(letter.publish_time.as_ref().unwrap().seconds, 1_700_000_000);
    let died = letter.death_time.unwrap();
    assert!(letter.first_failure.unwrap().seconds <= died.seconds);
    // As an ordinary message it carries the same, for whoever reads the topic by other means.
    let plain = broker
        .cli
        .run(&["get", DLQ, "0:0", "-o", "json"])
        .ok()
        .json();
    let header_of = |name: &str| {
        let headers = plain["headers"].as_array().unwrap();
        let found = headers.iter().find(|header| header["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {plain}"))["value"].clone()
    };
    assert_eq!(header_of("__dlq.errors.topic"), TOPIC);
    assert_eq!(header_of("__dlq.errors.partition"), "1");
    assert_eq!(header_of("__dlq.errors.message"), "card refused");
    assert_eq!(header_of("aq-dead-reason"), "REJECTED");

    assert_eq!(reject(&mut api, &even, "mail bounced").await.unwrap(), 1);
    wait_for(&mut api, 2).await;
    let seconds = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let any = DeadLetterFilter::default;
    let filters = [
        DeadLetterFilter {
            key: Some("customer-7".into()),
            ..any()
        },
        DeadLetterFilter {
            error_contains: "refused".into(),
            ..any()
        },
        DeadLetterFilter {
            source_partition: Some(1),
            ..any()
        },
        DeadLetterFilter {
            ids: vec![DeadLetterId {
                partition: 0,
                offset: 0,
            }],
            ..any()
        },
        DeadLetterFilter {
            headers: vec![condition("type", Test::Exists(true))],
            ..any()
        },
        DeadLetterFilter {
            headers: vec![condition("type", Test::Prefix("order.".into()))],
            ..any()
        },
        DeadLetterFilter {
            headers: vec![condition("type", Test::Equals("order.paid".into()))],
            ..any()
        },
    ];
    for filter in filters {
        let found = list(&mut api, Some(filter.clone())).await;
        assert_eq!(found, std::slice::from_ref(&letter), "{filter:?}");
    }
    let rejected = DeadLetterFilter {
        reasons: vec![DeadReason::Rejected.into()],
        died_from: seconds(died.seconds),
        died_until: seconds(died.seconds + 3_600),
        ..any()
    };
    assert_eq!(list(&mut api, Some(rejected)).await.len(), 2);
    for nothing in [
        DeadLetterFilter {
            reasons: vec![DeadReason::Expired.into()],
            ..any()
        },
        DeadLetterFilter {
            died_until: seconds(died.seconds),
            ..any()
        },
        DeadLetterFilter {
            headers: vec![condition("type", Test::Equals("second".into()))],
            ..any()
        },
    ] {
        assert!(list(&mut api, Some(nothing)).await.is_empty());
    }
    let get = |offset| GetDeadLetterRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        partition: 0,
        offset,
    };
    assert_eq!(
        api.dead.get_dead_letter(get(0)).await.unwrap().into_inner(),
        letter
    );
    assert!(api.dead.get_dead_letter(get(2)).await.is_err());
    // Over HTTP, too.
    let mut http = Http::connect(broker.process.address());
    let listed = http
        .get(&format!(
            "/v1/topics/jobs/groups/{GROUP}/deadLetters?page_size=1"
        ))
        .ok();
    assert_eq!(listed["deadLetters"][0]["error"], "card refused");
    let path = format!("/v1/topics/jobs/groups/{GROUP}/deadLetters:redrive");
    let body = json!({"validateOnly": true, "filter": {"sourcePartition": 1}});
    let reports = http.post(&path, &body).lines();
    assert!(
        format!("{:?}", reports.last()).contains("\"moved\": String(\"1\")"),
        "{reports:?}"
    );
}

#[tokio::test]
async fn without_a_dead_letter_topic_they_are_dropped() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    let policy = QueuePolicy {
        dead_letters: Some(false),
        ..QueuePolicy::default()
    };
    create(&mut api, 1, policy).await;
    publish(&mut api, numbered(5, 1)).await;
    reject_all(&mut api, 5, "no").await;
    assert!(list(&mut api, None).await.is_empty());
    assert!(
        lease(&mut api, 5, Duration::from_millis(200))
            .await
            .unwrap()
            .is_empty()
    );
    let topics = broker.cli.run(&["topic", "ls", "-o", "jsonl"]).ok();
    assert!(!topics.stdout.contains(DLQ), "{}", topics.stdout);
}

#[tokio::test]
async fn a_deleted_dead_letter_topic_begins_again_and_dead_letters_outlive_their_group() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    for round in 0..3_u32 {
        publish(&mut api, numbered(10, 1)).await;
        reject_all(&mut api, 10, &round.to_string()).await;
        let letters = wait_for(&mut api, 10).await;
        let numbers: Vec<u64> = letters.iter().map(|letter| letter.number).collect();
        let first = u64::from(round) * 10 + 1;
        assert_eq!(numbers, (first..first + 10).collect::<Vec<_>>());
        if round < 2 {
            let name = DLQ.to_owned();
            let request = DeleteTopicRequest {
                name,
                ..DeleteTopicRequest::default()
            };
            api.topics.delete_topic(request).await.unwrap();
        }
    }
    let request = DeleteGroupRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        validate_only: false,
    };
    api.groups.delete_group(request).await.unwrap();
    assert_eq!(list(&mut api, None).await.len(), 10);
    // A new group of the same name counts from 1 again, in the same topic.
    create_group(&mut api, QueuePolicy::default()).await;
    reject_all(&mut api, 30, "new").await;
    let letters = wait_for(&mut api, 40).await;
    let numbers: Vec<u64> = letters[10..].iter().map(|letter| letter.number).collect();
    assert_eq!(numbers, (1..31).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_command_line_lists_shows_exports_redrives_and_discards() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    create(&mut api, 1, QueuePolicy::default()).await;
    publish(&mut api, numbered(12, 1)).await;
    reject_all(&mut api, 12, "no luck").await;
    wait_for(&mut api, 12).await;
    let run = |arguments: &[&str]| broker.cli.run(arguments);
    let listed = run(&["dlq", "ls", "jobs/work", "-n", "3", "-o", "json"])
        .ok()
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[2]["value"], "2");
    assert_eq!(
        (&listed[2]["reason"], &listed[2]["number"]),
        (&json!("REJECTED"), &json!(3))
    );
    let table = run(&["dlq", "ls", "jobs/work"]).ok().stdout;
    assert_eq!(table.lines().count(), 13, "{table}");
    let page = run(&["dlq", "peek", "jobs/work", "--id", "0:7"])
        .ok()
        .stdout;
    assert!(
        page.contains("error          no luck") && page.ends_with("value          7\n"),
        "{page}"
    );
    let none = run(&["dlq", "ls", "jobs/work", "--error", "other", "-o", "json"]).ok();
    assert_eq!(none.json(), json!([]));
    let exported = run(&["dlq", "export", "jobs/work"]).ok().stdout;
    assert_eq!(exported.lines().count(), 12);
    let preview = run(&["dlq", "redrive", "jobs/work", "--dry-run", "-o", "json"])
        .ok()
        .json();
    assert_eq!(
        (&preview["redriven"], &preview["dry_run"]),
        (&json!(12), &json!(true))
    );
    let some = [
        "dlq",
        "redrive",
        "jobs/work",
        "-n",
        "4",
        "--set-header",
        "by=ops",
        "-o",
        "json",
    ];
    assert_eq!(run(&some).ok().json()["redriven"], 4);
    // Without somebody to ask, discarding needs a yes.
    let _ = run(&["dlq", "discard", "jobs/work"]).with_code(2);
    let text = run(&["dlq", "discard", "jobs/work", "--yes", "--id", "0:5"])
        .ok()
        .stdout;
    assert!(
        text.starts_with("1 of 8 dead letters discarded\n"),
        "{text}"
    );
    assert_eq!(list(&mut api, None).await.len(), 7);
    let _ = run(&["dlq", "ls", "jobs/nobody"]).with_code(3);
    let _ = run(&["dlq", "redrive", "jobs/work", "--to", "nowhere"]).with_code(3);
    let _ = run(&["dlq", "ls", "jobs/work", "--reason", "boredom"]).with_code(2);
}

/// Dots in names: what is redriven or discarded for one group must never be another's.
#[tokio::test]
async fn two_groups_never_share_a_dead_letter_topic() {
    let broker = Fixture::new();
    let mut api = broker.api().await;
    api.create("a", 1).await;
    api.create("a.b", 1).await;
    let request = |topic: &str, group: &str, queue| CreateGroupRequest {
        topic: topic.to_owned(),
        group: Some(Group {
            name: group.to_owned(),
            queue,
            ..Group::default()
        }),
        validate_only: false,
    };
    let policy = || Some(QueuePolicy::default());
    let first = request("a.b", "c", policy());
    api.groups.create_group(first).await.unwrap();
    let second = api.groups.create_group(request("a", "b.c", policy())).await;
    let status = second.expect_err("they would share it");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let says = "a.b.c.dlq takes the dead letters of a.b/c";
    assert!(status.message().contains(says), "{status:?}");
    // A stream group has no dead letters.
    let stream = request("a", "b.c", None);
    api.groups.create_group(stream).await.unwrap();
}
