//! A broker with a queue group, for tests that misuse it: everything seen is noted and checked.

use std::{sync::Arc, time::Duration};

use aqueduct_proto::v1::{
    CreateGroupRequest, Group, Message, PublishRequest, QueuePolicy, SettleRequest, SettleResult,
    Settlement,
};
use aqueduct_tests::{
    Process,
    grpc::{Api, message},
    process::PATIENCE,
    queue::{
        Backoff, Clock, Facts, Given, History, KeyOrder, Outcome, Rules, Word, check,
        worker::{Line, Place, lease, letters, settle},
    },
};

use crate::fixture::Fixture;

/// The default policy.
pub(crate) const RULES: Rules = Rules {
    lease_ms: 30_000,
    max_attempts: 10,
    max_hand_outs: 100,
    backoff: Backoff {
        initial_ms: 1_000,
        factor_percent: 200,
        max_ms: 600_000,
        jitter_percent: 20,
    },
    order: KeyOrder::None,
    clock: Clock::True,
};

/// The broker, the topic "jobs", its group "work", and one consumer by calls.
pub(crate) struct Scene {
    pub(crate) broker: Fixture,
    pub(crate) api: Api,
    pub(crate) place: Place,
    pub(crate) history: Arc<History>,
    pub(crate) line: Line,
}

impl Scene {
    pub(crate) async fn new(policy: QueuePolicy) -> Scene {
        Scene::on(Fixture::new(), 1, policy).await
    }

    pub(crate) async fn on(broker: Fixture, partitions: u32, policy: QueuePolicy) -> Scene {
        let mut api = broker.api().await;
        let history = Arc::<History>::default();
        let address = broker.process.address();
        let place = Place {
            address,
            topic: "jobs".to_owned(),
            group: "work".to_owned(),
        };
        api.create("jobs", partitions).await;
        create_group(&mut api, "work", policy).await.unwrap();
        let line = Line::connect(address, &history).await.unwrap();
        Scene {
            broker,
            api,
            place,
            history,
            line,
        }
    }

    /// After the broker was started again.
    pub(crate) async fn connect(&mut self) {
        self.api = self.broker.api().await;
        let line = Line::connect(self.place.address, &self.history).await;
        self.line = line.unwrap();
    }

    pub(crate) async fn publish(&mut self, messages: Vec<Message>) {
        publish(&mut self.api, messages).await;
    }

    /// Publishes so many to partition 0.
    pub(crate) async fn publish_some(&mut self, count: usize) {
        let messages = (0..count).map(|n| message(0, n.to_string()));
        self.publish(messages.collect()).await;
    }

    /// What there is, at most so many, at once.
    pub(crate) async fn take(&self, most: u32) -> Vec<Given> {
        self.wait(most, Duration::ZERO).await
    }

    /// Waits for at least one.
    pub(crate) async fn some(&self, most: u32) -> Vec<Given> {
        let some = self.wait(most, PATIENCE).await;
        assert!(!some.is_empty(), "nothing comes");
        some
    }

    pub(crate) async fn wait(&self, most: u32, wait: Duration) -> Vec<Given> {
        let leased = lease(&self.line, &self.place, &self.history, (most, wait)).await;
        leased
            .unwrap()
            .into_iter()
            .map(|(given, _)| given)
            .collect()
    }

    /// The same verdict on all.
    pub(crate) async fn say(&self, given: &[Given], word: Word) -> Vec<Outcome> {
        let words: Vec<_> = given.iter().map(|g| (g.clone(), word.clone())).collect();
        settle(&self.line, &self.place, &self.history, &words).await
    }

    pub(crate) async fn ack(&self, given: &[Given]) {
        let outcomes = self.say(given, Word::Ack).await;
        assert!(outcomes.iter().all(|o| *o == Outcome::Done), "{outcomes:?}");
    }

    /// Verdicts as they are, and the results as they are.
    pub(crate) async fn settle(
        &mut self,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<SettleResult>, tonic::Status> {
        let request = SettleRequest {
            topic: self.place.topic.clone(),
            group: self.place.group.clone(),
            settlements,
        };
        let answer = self.api.queues.settle(request).await?;
        Ok(answer.into_inner().results)
    }

    /// Checks what was seen; `ends` if everything was worked off.
    pub(crate) async fn check(&mut self, rules: Rules, ends: Option<&[u64]>) {
        let letters = letters(&mut self.api, &self.place).await;
        let facts = Facts {
            rules,
            given: &self.history.given.lock().unwrap(),
            said: &self.history.said.lock().unwrap(),
            ended: &self.history.ended.lock().unwrap(),
            letters: &letters,
            ends,
        };
        check(&facts).unwrap_or_else(|why| panic!("{why}"));
    }

    /// The broker's resident memory, bytes.
    pub(crate) fn memory(&self) -> u64 {
        memory(&self.broker.process)
    }
}

pub(crate) fn memory(process: &Process) -> u64 {
    let path = format!("/proc/{}/status", process.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let words = line.unwrap().split_whitespace().next();
    words.unwrap().parse::<u64>().unwrap() << 10
}

pub(crate) async fn create_group(
    api: &mut Api,
    name: &str,
    policy: QueuePolicy,
) -> Result<Group, tonic::Status> {
    let group = Group {
        name: name.to_owned(),
        queue: Some(policy),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: "jobs".to_owned(),
        group: Some(group),
        validate_only: false,
    };
    let created = api.groups.create_group(request).await?;
    Ok(created.into_inner())
}

pub(crate) async fn publish(api: &mut Api, messages: Vec<Message>) {
    let request = PublishRequest {
        topic: "jobs".to_owned(),
        messages,
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    let error = answer
        .results
        .iter()
        .find_map(|result| result.error.as_ref());
    assert_eq!(error, None);
}

pub(crate) fn ms(ms: u64) -> Option<prost_types::Duration> {
    Duration::from_millis(ms).try_into().ok()
}
