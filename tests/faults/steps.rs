//! Steps under kill -9: workers settle jobs and publish results in one call, again and again
//! until they know what came of it, while the broker is killed.
//!
//! Every result carries the name of its step. In the end each step that was answered as made has
//! each of its results exactly once in its topic, each that was refused has none, and every job
//! was done by exactly one step. `AQUEDUCT_ROUNDS` gives the number of rounds (`just soak`),
//! `AQUEDUCT_SEED` the seed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{
    CompleteRequest, CreateGroupRequest, Delivery, Group, LeaseRequest, Message, PublishRequest,
    QueuePolicy, ReadRequest, Settlement, StepResult, read_response, settlement::Verdict,
};
use aqueduct_tests::{
    Process, Seed,
    grpc::{Api, Refused},
    process::PATIENCE,
};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

const TOPIC: &str = "jobs";
const GROUP: &str = "work";
/// Where results go: a topic of their own, and one with more partitions.
const TARGETS: [(&str, u32); 2] = [("done", 1), ("sent", 3)];
const PARTITIONS: u32 = 2;
const JOBS: u32 = 400;

/// What is known of a step in the end.
#[derive(Debug)]
struct Step {
    is_made: bool,
    acked: Vec<(u32, u64)>,
    /// Names of its results.
    results: Vec<String>,
}

#[derive(Default)]
struct Notes {
    steps: Mutex<Vec<Step>>,
    over: AtomicBool,
}

async fn connect(address: SocketAddr) -> Api {
    loop {
        if let Ok(api) = Api::try_connect(address).await {
            return api;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A step on jobs of one partition: most are done, some fail.
fn step(rng: &mut StdRng, jobs: &[Delivery]) -> (CompleteRequest, Step) {
    let mut known = Step {
        is_made: false,
        acked: Vec::new(),
        results: Vec::new(),
    };
    let mut settlements = Vec::new();
    for job in jobs {
        let record = job.record.as_ref().unwrap();
        let (partition, offset) = (record.partition, record.offset);
        let verdict = match rng.random_range(0..10) {
            0 => Verdict::Release(true),
            _ => {
                known.acked.push((partition, offset));
                Verdict::Ack(true)
            }
        };
        settlements.push(Settlement {
            partition,
            offset,
            lease: job.lease,
            verdict: Some(verdict),
        });
    }
    let (first, partition) = (jobs[0].lease, settlements[0].partition);
    let result = |n| {
        let (topic, partitions) = TARGETS.choose(rng).unwrap();
        let name = format!("{partition}/{first}/{n}");
        known.results.push(format!("{topic} {name}"));
        let message = Message {
            value: Some(name.into()),
            partition: Some(rng.random_range(0..*partitions)),
            ..Message::default()
        };
        StepResult {
            topic: (*topic).to_owned(),
            message: Some(message),
        }
    };
    let results = (0..jobs.len()).map(result).collect();
    let request = CompleteRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        settlements,
        results,
    };
    (request, known)
}

/// Sends a step until it is known what came of it; sometimes once more.
async fn make(address: SocketAddr, api: &mut Api, request: &CompleteRequest) -> bool {
    loop {
        let answer = api.queues.complete(request.clone()).await;
        let Ok(answer) = answer else {
            *api = connect(address).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut reasons = Vec::new();
        for result in answer.into_inner().results {
            let reason = result
                .error
                .as_ref()
                .map(|e| Refused::from_result(e).reason);
            reasons.push(reason.unwrap_or_default());
        }
        let is_refused = |reason: &String| reason == "LEASE_LOST" || reason == "STEP_REFUSED";
        if reasons.iter().all(String::is_empty) {
            return true;
        }
        if reasons.iter().all(is_refused) {
            return false;
        }
        // The disk, the log, the end of the process: nobody knows.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn work(address: SocketAddr, seed: Seed, notes: Arc<Notes>) {
    let mut rng = seed.rng();
    let mut api = connect(address).await;
    while !notes.over.load(Relaxed) {
        let request = LeaseRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
            max_messages: rng.random_range(1..8),
            wait: Duration::from_millis(200).try_into().ok(),
            ..LeaseRequest::default()
        };
        let Ok(leased) = api.queues.lease(request).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            api = connect(address).await;
            continue;
        };
        let mut jobs: BTreeMap<u32, Vec<Delivery>> = BTreeMap::new();
        for job in leased.into_inner().deliveries {
            let partition = job.record.as_ref().unwrap().partition;
            jobs.entry(partition).or_default().push(job);
        }
        for jobs in jobs.into_values() {
            if rng.random_ratio(1, 40) {
                // Past the lease.
                tokio::time::sleep(Duration::from_millis(1_100)).await;
            }
            let (request, mut known) = step(&mut rng, &jobs);
            known.is_made = make(address, &mut api, &request).await;
            if rng.random_ratio(1, 10) {
                let again = make(address, &mut api, &request).await;
                assert_eq!(again, known.is_made, "the answer changed: {known:?}");
            }
            notes.steps.lock().unwrap().push(known);
        }
    }
}

/// Names of all results that are in a topic.
async fn read(api: &mut Api, topic: &str) -> Vec<String> {
    let request = ReadRequest {
        topic: topic.to_owned(),
        ..ReadRequest::default()
    };
    let mut answers = api.reader.read(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(read_response::Kind::Records(records)) = answer.kind {
            for record in records.records {
                let value = record.value.unwrap().to_vec();
                let name = String::from_utf8(value).unwrap();
                names.push(format!("{topic} {name}"));
            }
        }
    }
    names
}

async fn prepare(api: &mut Api) {
    api.create(TOPIC, PARTITIONS).await;
    for (topic, partitions) in TARGETS {
        api.create(topic, partitions).await;
    }
    let group = Group {
        name: GROUP.to_owned(),
        queue: Some(QueuePolicy {
            lease: Duration::from_secs(1).try_into().ok(),
            max_attempts: Some(1_000),
            max_hand_outs: Some(10_000),
            backoff: Duration::from_millis(20).try_into().ok(),
            backoff_max: Duration::from_millis(50).try_into().ok(),
            ..QueuePolicy::default()
        }),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
    let message = |n| Message {
        value: Some("job".into()),
        partition: Some(n % PARTITIONS),
        ..Message::default()
    };
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages: (0..JOBS).map(message).collect(),
        ..PublishRequest::default()
    };
    api.publisher.publish(request).await.unwrap();
}

/// How often each job was done by a step that was made.
fn done(steps: &[Step]) -> BTreeMap<(u32, u64), usize> {
    let mut done = BTreeMap::new();
    for step in steps.iter().filter(|step| step.is_made) {
        for job in &step.acked {
            *done.entry(*job).or_default() += 1;
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_result_of_a_step_is_there_once_or_never() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Process::start(&directory.path().join("data"));
    let address = broker.address();
    let seed = Seed::from_env();
    let mut rng = seed.rng();
    prepare(&mut Api::connect(address).await).await;
    let notes = Arc::<Notes>::default();
    let workers = (0..4).map(|n| tokio::spawn(work(address, seed.child(n), notes.clone())));
    let workers: Vec<_> = workers.collect();
    let rounds = std::env::var("AQUEDUCT_ROUNDS").map_or(6, |it| it.parse().expect("a number"));
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
        if round % 3 == 1 {
            assert!(broker.terminate().success());
        }
        broker.kill();
        broker.restart();
    }
    let start = Instant::now();
    while done(&notes.steps.lock().unwrap()).len() < JOBS as usize {
        assert!(start.elapsed() < PATIENCE, "not worked off");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    notes.over.store(true, Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let steps = std::mem::take(&mut *notes.steps.lock().unwrap());
    assert!(done(&steps).values().all(|times| *times == 1), "done twice");
    let made = steps.iter().filter(|step| step.is_made);
    let mut expected: Vec<String> = made.flat_map(|step| step.results.clone()).collect();
    expected.sort_unstable();
    let mut api = Api::connect(address).await;
    let start = Instant::now();
    loop {
        let mut found = Vec::new();
        for (topic, _) in TARGETS {
            found.extend(read(&mut api, topic).await);
        }
        found.sort_unstable();
        if found == expected {
            break;
        }
        // Those that are on their way come; none is there that nobody was told of.
        assert!(
            start.elapsed() < PATIENCE,
            "{} of {}",
            found.len(),
            expected.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = steps.iter().filter(|step| !step.is_made).count();
    println!("{} steps, {refused} of them refused", steps.len());
}
