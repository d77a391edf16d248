//! The history of attempts: kept, through a kill, seen by calls and by the command line, and taken
//! along by the dead letter.

use aqueduct_proto::v1::{
    AttemptEnd, DeadLetterVerdict, FailedAttempt, MessageState, QueuePolicy, settlement::Verdict,
};

use crate::{
    fixture::Fixture,
    queue_api::{LONG, Queue, retry, seconds},
};

fn policy() -> QueuePolicy {
    QueuePolicy {
        lease: seconds(1),
        backoff: seconds(1),
        backoff_jitter_percent: Some(0),
        max_attempts: Some(30),
        max_hand_outs: Some(40),
        ..QueuePolicy::default()
    }
}

fn told(history: &[FailedAttempt]) -> Vec<(u32, u32, AttemptEnd, &str)> {
    let told = |it: &FailedAttempt| {
        assert!(it.end_time.is_some() && it.consumer > 0, "{it:?}");
    };
    history.iter().for_each(told);
    let told = history.iter();
    told.map(|it| (it.attempt, it.hand_out, it.end(), it.error.as_str()))
        .collect()
}

#[tokio::test]
async fn every_end_of_an_attempt_is_told_and_goes_along_with_the_dead_letter() {
    let mut broker = Fixture::new();
    let mut queue = Queue::new(&broker, policy(), 1).await;
    queue.publish(0, None, 0..1).await;
    let first = queue.some(1).await.remove(0);
    assert_eq!(queue.settle(&first, retry(0, "no stock")).await, None);
    let given_back = queue.some(1).await.remove(0);
    assert_eq!(
        queue.settle(&given_back, Verdict::Release(true)).await,
        None
    );
    // This lease just ends.
    let _ = queue.some(1).await;
    let third = queue.some(1).await.remove(0);
    assert_eq!((third.attempt, third.hand_outs), (3, 4));
    assert_eq!(queue.settle(&third, retry(0, "still none")).await, None);
    let expected = [
        (1, 1, AttemptEnd::Retry, "no stock"),
        (
            2,
            3,
            AttemptEnd::Expired,
            "the lease ended before a verdict",
        ),
        (3, 4, AttemptEnd::Retry, "still none"),
    ];
    let known = queue.standing(0).await;
    assert_eq!(told(&known.history), expected);
    broker.process.kill();
    broker.process.restart();
    let mut queue = Queue(broker.api().await);
    assert_eq!(queue.standing(0).await.history, known.history);

    let page = broker.cli.run(&["get", "jobs", "0:0"]).ok().stdout;
    let line = page.lines().find(|line| line.contains("no stock"));
    let line = line.unwrap_or_else(|| panic!("{page}"));
    assert!(
        line.contains("attempt") && line.contains("1 RETRY at 2"),
        "{line}"
    );
    let json = broker.cli.run(&["get", "jobs", "0:0", "-o", "json"]).ok();
    let history = json.json()["groups"][0]["history"].clone();
    assert_eq!(history.as_array().unwrap().len(), 3, "{history}");
    assert_eq!(history[1]["end"], "EXPIRED");
    assert_eq!(history[2]["hand_out"], 4);

    let last = queue.some(1).await.remove(0);
    let error = "given up".into();
    let dead = Verdict::DeadLetter(DeadLetterVerdict { error });
    assert_eq!(queue.settle(&last, dead).await, None);
    while queue.standing(0).await.state() != MessageState::Done {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(queue.standing(0).await.history, []);
    let peeked = broker.cli.run(&["dlq", "ls", "jobs/work", "-o", "json"]);
    let letter = peeked.ok().json()[0].clone();
    let history = letter["history"].as_array().unwrap();
    assert_eq!((history.len(), &letter["attempts"]), (4, &4.into()));
    assert_eq!(history[3]["end"], "REJECTED");
    assert_eq!(history[3]["error"], "given up");
    assert!(history[3]["ended"].as_i64().unwrap() >= history[0]["ended"].as_i64().unwrap());
    let copy = broker.cli.run(&["get", "jobs.work.dlq", "0:0"]).ok().stdout;
    assert!(copy.contains("aq-dead-attempt-history=[{"), "{copy}");
    let page = broker.cli.run(&["dlq", "peek", "jobs/work"]).ok().stdout;
    assert!(page.contains("4 REJECTED at 2"), "{page}");
}

#[tokio::test]
async fn of_many_attempts_the_latest_eight_are_kept_and_the_page_says_so() {
    let broker = Fixture::new();
    let mut queue = Queue::new(&broker, policy(), 1).await;
    queue.publish(0, None, 0..1).await;
    let long = "é".repeat(100);
    for _ in 0..11 {
        let given = queue.lease(1, LONG).await.remove(0);
        assert_eq!(queue.settle(&given, retry(0, &long)).await, None);
    }
    let standing = queue.standing(0).await;
    let kept: Vec<u32> = standing.history.iter().map(|it| it.attempt).collect();
    assert_eq!(kept, (4..=11).collect::<Vec<_>>());
    assert!(standing.history.iter().all(|it| it.error == "é".repeat(32)));
    let page = broker.cli.run(&["get", "jobs", "0:0"]).ok().stdout;
    assert!(page.contains("3 not kept"), "{page}");
}
