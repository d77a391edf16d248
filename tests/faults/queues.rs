//! Queue groups under kill -9, SIGSTOP and consumers that vanish, with the history checked.
//!
//! Consumers on streams and by calls work while a publisher publishes: they acknowledge, fail,
//! give back, extend, reject, stay silent past their leases, are cut off and close. Every
//! message that is called poison fails each time. Meanwhile the broker suffers what the test is
//! about. In the end everything is worked off in peace, and what all of them saw must keep every
//! rule of `aqueduct_tests::queue`. `AQUEDUCT_ROUNDS` gives the number of rounds (`just soak`),
//! `AQUEDUCT_SEED` the seed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{
    CreateGroupRequest, GetOffsetsRequest, Group, Header, ListPartitionsRequest, Message,
    OnKeyFailure, PublishRequest, QueueOrder, QueuePolicy, Retain, Topic, TopicConfig,
    UpdateTopicRequest,
};
use aqueduct_tests::{
    Process, Seed,
    grpc::Api,
    process::PATIENCE,
    queue::{
        Backoff, Clock, Facts, Given, History, KeyOrder, Outcome, Rules, Summary, Word, check,
        worker::{Line, Place, Session, lease, letters, settle},
    },
};
use rand::{Rng as _, rngs::StdRng};

use crate::clock::stepped_broker;

const TOPIC: &str = "jobs";
const GROUP: &str = "work";
const PARTITIONS: u32 = 3;
const LEASE: Duration = Duration::from_secs(1);
const KEYS: u32 = 40;

const RULES: Rules = Rules {
    lease_ms: 1_000,
    max_attempts: 4,
    max_hand_outs: 30,
    backoff: Backoff {
        initial_ms: 30,
        factor_percent: 200,
        max_ms: 300,
        jitter_percent: 20,
    },
    order: KeyOrder::None,
    clock: Clock::True,
};

/// What everybody does.
const FREE: u8 = 0;
/// Nobody publishes, consumers only acknowledge and fail poison.
const CALM: u8 = 1;
const STOP: u8 = 2;

type Phase = Arc<AtomicU8>;

fn policy(rules: &Rules) -> QueuePolicy {
    let ms = |ms: u64| Duration::from_millis(ms).try_into().ok();
    let order = match rules.order {
        KeyOrder::None => QueueOrder::Unspecified,
        KeyOrder::Skip | KeyOrder::Block | KeyOrder::Park => QueueOrder::PerKey,
    };
    let failure = match rules.order {
        KeyOrder::None | KeyOrder::Skip => OnKeyFailure::Unspecified,
        KeyOrder::Block => OnKeyFailure::Block,
        KeyOrder::Park => OnKeyFailure::Park,
    };
    QueuePolicy {
        lease: ms(rules.lease_ms.unsigned_abs()),
        max_attempts: Some(rules.max_attempts),
        max_hand_outs: Some(rules.max_hand_outs),
        backoff: ms(rules.backoff.initial_ms),
        backoff_factor_percent: u32::try_from(rules.backoff.factor_percent).ok(),
        backoff_max: ms(rules.backoff.max_ms),
        backoff_jitter_percent: u32::try_from(rules.backoff.jitter_percent).ok(),
        order: order as i32,
        on_key_failure: failure as i32,
        ..QueuePolicy::default()
    }
}

/// Publishes keyed messages, each key in one partition.
async fn publish(address: SocketAddr, seed: Seed, phase: Phase, padding: usize) {
    let mut rng = seed.rng();
    while phase.load(Relaxed) == FREE {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(mut api) = Api::try_connect(address).await else {
            continue;
        };
        while phase.load(Relaxed) == FREE {
            let mut message = || {
                let key = rng.random_range(0..KEYS);
                let value = match rng.random_range(0..100) {
                    0 => "poison",
                    _ => "job",
                };
                Message {
                    key: Some(format!("k{key}").into()),
                    value: Some(value.into()),
                    partition: Some(key % PARTITIONS),
                    headers: vec![Header {
                        name: "padding".to_owned(),
                        value: vec![0; padding].into(),
                    }],
                    ..Message::default()
                }
            };
            let request = PublishRequest {
                topic: TOPIC.to_owned(),
                messages: (0..20).map(|_| message()).collect(),
                ..PublishRequest::default()
            };
            if api.publisher.publish(request).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a consumer says of a message; `None`: nothing, and the lease ends by itself.
fn judge(rng: &mut StdRng, phase: u8, given: &Given, value: &str) -> Option<Word> {
    let error = format!("no {}", given.lease);
    if value == "poison" {
        let after_ms = rng.random_bool(0.3).then(|| rng.random_range(0..150));
        return Some(Word::Retry { after_ms, error });
    }
    if phase != FREE {
        return Some(Word::Ack);
    }
    Some(match rng.random_range(0..200) {
        0..8 => Word::Retry {
            after_ms: None,
            error,
        },
        8..12 => Word::Retry {
            after_ms: Some(rng.random_range(0..500)),
            error,
        },
        12..22 => Word::Release,
        22..24 => Word::Dead { error },
        24..26 => return None,
        _ => Word::Ack,
    })
}

/// Takes some of what is there; what it says of it, in one batch or several, sometimes twice.
struct Judge {
    rng: StdRng,
    phase: Phase,
}

impl Judge {
    fn phase(&self) -> u8 {
        self.phase.load(Relaxed)
    }

    fn is_free(&self) -> bool {
        self.phase() == FREE
    }

    fn words(&mut self, given: &[(Given, String)]) -> Vec<(Given, Word)> {
        let mut words = Vec::new();
        for (given, value) in given {
            let phase = self.phase.load(Relaxed);
            let word = judge(&mut self.rng, phase, given, value);
            let word = word.map(|word| (given.clone(), word));
            if self.is_free() && self.rng.random_ratio(1, 50) {
                let by_ms = self.rng.random_range(1..2_500);
                words.push((given.clone(), Word::Extend { by_ms }));
            }
            if self.is_free() && self.rng.random_ratio(1, 50) {
                words.extend(word.clone());
            }
            words.extend(word);
        }
        words
    }

    /// Stands still, sometimes until its leases have ended.
    async fn rest(&mut self) {
        let ms = match self.rng.random_range(0..300) {
            _ if !self.is_free() => 0,
            0 => 1_300,
            1..20 => self.rng.random_range(1..60),
            _ => 0,
        };
        if ms > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
    }
}

/// A consumer on streams, one after the other.
async fn stream(place: Place, history: Arc<History>, mut judge: Judge) {
    while judge.phase() != STOP {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Ok(mut session) = Session::open(&place, &history).await else {
            continue;
        };
        let credit = judge.rng.random_range(1..100);
        session.credit(credit, 1 << 40).await;
        let over = loop {
            let wait = tokio::time::timeout(Duration::from_millis(100), session.next()).await;
            let first = match wait {
                Ok(Ok(first)) => first,
                Ok(Err(())) => break true,
                Err(_) if judge.phase() == STOP => break false,
                Err(_) => continue,
            };
            let mut batch = vec![first];
            batch.extend(session.take_waiting());
            judge.rest().await;
            let words = judge.words(&batch);
            session.say(&words).await;
            session.credit(batch.len() as u64, 0).await;
            if judge.is_free() && judge.rng.random_ratio(1, 100) {
                break false;
            }
            if session.answered().await.is_err() {
                break true;
            }
        };
        if over {
            session.left();
        } else if judge.rng.random() {
            session.cut();
        } else {
            session.close().await;
        }
    }
}

/// A consumer by calls, which sometimes hangs up while it waits.
async fn call(place: Place, history: Arc<History>, mut judge: Judge) {
    while judge.phase() != STOP {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Some(line) = Line::connect(place.address, &history).await else {
            continue;
        };
        while judge.phase() != STOP {
            let most = judge.rng.random_range(1..60);
            let patience = match judge.rng.random_ratio(1, 30) && judge.is_free() {
                true => Duration::from_millis(judge.rng.random_range(0..20)),
                false => PATIENCE,
            };
            let wait = Duration::from_millis(judge.rng.random_range(0..200));
            let leased = lease(&line, &place, &history, (most, wait));
            let batch = match tokio::time::timeout(patience, leased).await {
                Err(_) => continue,
                Ok(Err(_)) => break,
                Ok(Ok(batch)) => batch,
            };
            judge.rest().await;
            let words = judge.words(&batch);
            if words.is_empty() {
                continue;
            }
            let outcomes = settle(&line, &place, &history, &words).await;
            if outcomes.contains(&Outcome::Unknown) {
                break;
            }
            if judge.is_free() && judge.rng.random_ratio(1, 100) {
                line.cut();
                break;
            }
        }
    }
}

/// A broker with a queue, its publisher and its consumers.
struct Scene {
    broker: Process,
    place: Place,
    rules: Rules,
    history: Arc<History>,
    phase: Phase,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    seed: Seed,
    rng: StdRng,
    /// Bytes of each message beside its own.
    padding: usize,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn new(order: KeyOrder) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let broker = Process::start(&directory.path().join("data"));
        Scene::on(broker, directory, order).await
    }

    async fn on(broker: Process, directory: tempfile::TempDir, order: KeyOrder) -> Scene {
        let seed = Seed::from_env();
        let place = Place {
            address: broker.address(),
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
        };
        let rules = Rules { order, ..RULES };
        let mut api = Api::connect(place.address).await;
        api.create(TOPIC, PARTITIONS).await;
        let group = Group {
            name: GROUP.to_owned(),
            queue: Some(policy(&rules)),
            ..Group::default()
        };
        let request = CreateGroupRequest {
            topic: TOPIC.to_owned(),
            group: Some(group),
            validate_only: false,
        };
        api.groups.create_group(request).await.unwrap();
        Scene {
            broker,
            place,
            rules,
            history: Arc::default(),
            phase: Phase::default(),
            tasks: Vec::new(),
            seed,
            rng: seed.rng(),
            padding: 0,
            _directory: directory,
        }
    }

    /// Lets so many consumers of each kind work, and a publisher publish.
    fn go(&mut self, streams: u64, calls: u64) {
        let (address, phase) = (self.place.address, self.phase.clone());
        let publisher = publish(address, self.seed.child(99), phase, self.padding);
        self.tasks.push(tokio::spawn(publisher));
        for n in 0..streams + calls {
            let judge = Judge {
                rng: self.seed.child(n).rng(),
                phase: self.phase.clone(),
            };
            let (place, history) = (self.place.clone(), self.history.clone());
            self.tasks.push(match n < streams {
                true => tokio::spawn(stream(place, history, judge)),
                false => tokio::spawn(call(place, history, judge)),
            });
        }
    }

    async fn sleep(&mut self, ms: std::ops::Range<u64>) {
        let ms = self.rng.random_range(ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn kill(&mut self) {
        self.broker.kill();
        self.history.killed();
        self.broker.restart();
    }

    /// Everything is worked off; then what was seen is checked.
    async fn finish(mut self) -> Summary {
        self.phase.store(CALM, Relaxed);
        self.tasks.remove(0).await.unwrap();
        let mut api = Api::connect(self.place.address).await;
        let request = GetOffsetsRequest {
            topic: TOPIC.to_owned(),
            ..GetOffsetsRequest::default()
        };
        let offsets = api.reader.get_offsets(request).await.unwrap().into_inner();
        let ends = offsets.partitions.iter().map(|p| p.high_watermark);
        let ends: Vec<u64> = ends.collect();
        let start = Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let missing = self.missing(&mut api, &ends).await;
            if missing.is_empty() {
                break;
            }
            let waited = start.elapsed();
            assert!(waited < PATIENCE, "not worked off: {missing:?}");
        }
        // What was done wrongly comes back in this time, if it does.
        tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
        self.phase.store(STOP, Relaxed);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        let letters = letters(&mut api, &self.place).await;
        let (given, said) = (&self.history.given, &self.history.said);
        let facts = Facts {
            rules: self.rules,
            given: &given.lock().unwrap(),
            said: &said.lock().unwrap(),
            ended: &self.history.ended.lock().unwrap(),
            letters: &letters,
            ends: Some(&ends),
        };
        let summary = check(&facts).unwrap_or_else(|why| panic!("{why}"));
        println!("up to {ends:?}: {summary:?}");
        summary
    }

    /// Messages that nobody acknowledged and that are no dead letters.
    async fn missing(&self, api: &mut Api, ends: &[u64]) -> BTreeSet<(u32, u64)> {
        let mut missing: BTreeSet<(u32, u64)> = BTreeSet::new();
        for (partition, end) in (0..).zip(ends) {
            missing.extend((0..*end).map(|offset| (partition, offset)));
        }
        for said in self.history.said.lock().unwrap().iter() {
            let taken = matches!(said.outcome, Outcome::Done | Outcome::Unknown);
            if said.word == Word::Ack && taken {
                missing.remove(&(said.partition, said.offset));
            }
        }
        for letter in letters(api, &self.place).await {
            missing.remove(&(letter.partition, letter.offset));
        }
        missing
    }
}

fn rounds(usual: u32) -> u32 {
    std::env::var("AQUEDUCT_ROUNDS").map_or(usual, |rounds| rounds.parse().expect("a number"))
}

async fn kill_nine(order: KeyOrder, usual: u32) {
    let mut scene = Scene::new(order).await;
    scene.go(3, 2);
    for round in 0..rounds(usual) {
        scene.sleep(300..1_500).await;
        if round % 3 == 1 {
            // In order: nobody's attempt has failed.
            assert!(scene.broker.terminate().success());
        }
        scene.kill();
    }
    scene.sleep(500..1_000).await;
    let seen = scene.finish().await;
    assert!(seen.again > 0 && seen.letters > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_survive_kill_nine() {
    kill_nine(KeyOrder::None, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_with_order_per_key_survive_kill_nine() {
    kill_nine(KeyOrder::Skip, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_block_keys_survive_kill_nine() {
    kill_nine(KeyOrder::Block, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_park_keys_survive_kill_nine() {
    kill_nine(KeyOrder::Park, 2).await;
}

/// Segments go all the time, and what is not done of them is kept aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_retain_until_done_survive_kill_nine() {
    let directory = tempfile::tempdir().unwrap();
    let often = ["--max-segment", "1MiB", "--retention-interval", "100ms"];
    let broker = Process::start_with(&directory.path().join("data"), &often);
    let mut scene = Scene::on(broker, directory, KeyOrder::None).await;
    scene.padding = 4_000;
    retain_until_done(&scene).await;
    scene.go(3, 2);
    let (mut kept, mut freed) = (0, 0);
    for _ in 0..rounds(4) {
        for _ in 0..10 {
            scene.sleep(50..150).await;
            let mut api = Api::connect(scene.place.address).await;
            let name = TOPIC.to_owned();
            let listed = api.topics.list_partitions(ListPartitionsRequest { name });
            for info in listed.await.unwrap().into_inner().partitions {
                kept = info.kept_messages.max(kept);
                freed = info.log_start_offset.max(freed);
            }
        }
        scene.kill();
    }
    scene.sleep(500..1_000).await;
    let seen = scene.finish().await;
    assert!(seen.again > 0 && seen.letters > 0, "{seen:?}");
    println!("kept aside up to {kept}, the log began at up to {freed}");
    assert!(kept > 0 && freed > 0, "{kept} {freed}");
}

async fn retain_until_done(scene: &Scene) {
    let mut api = Api::connect(scene.place.address).await;
    let topic = Topic {
        name: TOPIC.to_owned(),
        config: Some(TopicConfig {
            retain: Retain::UntilDone as i32,
            ..TopicConfig::default()
        }),
        ..Topic::default()
    };
    let request = UpdateTopicRequest {
        topic: Some(topic),
        ..UpdateTopicRequest::default()
    };
    api.topics.update_topic(request).await.unwrap();
}

/// A broker that stands still past its leases: nobody holds a message twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_gives_no_lease_twice() {
    let mut scene = Scene::new(KeyOrder::Skip).await;
    scene.go(2, 2);
    for _ in 0..rounds(2) {
        scene.sleep(300..800).await;
        scene.broker.pause();
        scene.sleep(200..1_800).await;
        scene.broker.resume();
    }
    scene.sleep(300..500).await;
    let seen = scene.finish().await;
    assert!(seen.taken > 0, "{seen:?}");
}

/// A clock that is put while the broker runs: leases and waits are as long as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_the_clock_end_no_lease_and_no_wait() {
    let (broker, shift, directory) = stepped_broker();
    let mut scene = Scene::on(broker, directory, KeyOrder::Skip).await;
    scene.rules.clock = Clock::Stepped;
    // Calls only: of their leases it is known when they were granted at the earliest.
    scene.go(0, 4);
    for _ in 0..rounds(3) {
        scene.sleep(200..600).await;
        shift.to_hours(scene.rng.random_range(-1..=1));
    }
    scene.sleep(200..400).await;
    let seen = scene.finish().await;
    assert!(seen.again > 0 && seen.taken > 0, "{seen:?}");
}

/// A clock that is put while the broker is dead: leases may end early, and are never doubled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_put_between_two_runs_makes_no_lease_twice_valid() {
    let (broker, shift, directory) = stepped_broker();
    let mut scene = Scene::on(broker, directory, KeyOrder::Skip).await;
    scene.rules.clock = Clock::Wild;
    scene.go(2, 2);
    for _ in 0..rounds(3) {
        scene.sleep(200..600).await;
        scene.broker.kill();
        shift.to_hours(scene.rng.random_range(-1..=1));
        scene.kill();
    }
    scene.sleep(200..400).await;
    scene.finish().await;
}
