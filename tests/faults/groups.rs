//! Consumer groups under kill -9: of the broker, and of members that just vanish.
//!
//! Members consume and commit what they were delivered while a publisher publishes. Checked of
//! every assignment: it never lies before a commit that was answered (no position goes back,
//! duplicates only above the last commit) and never behind what somebody tried to commit
//! (nothing is skipped). In the end everything was delivered. `AQUEDUCT_ROUNDS` gives the
//! number of rounds (5 in the suite), `AQUEDUCT_SEED` the seed.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{
    Commits, CreateGroupRequest, GetLagRequest, Group, PartitionCommit, PublishRequest,
    consume_request::Kind,
};
use aqueduct_tests::{
    Process, Seed,
    grpc::{Api, message},
    member::{Member, open},
    process::PATIENCE,
};
use rand::Rng as _;

const TOPIC: &str = "orders";
const GROUP: &str = "bill";
const PARTITIONS: u32 = 4;

/// What all members together know of one partition.
#[derive(Default)]
struct Known {
    /// Greatest commit that was answered.
    answered: u64,
    /// Greatest commit that was tried.
    tried: u64,
    delivered: BTreeSet<u64>,
}

type History = Arc<Mutex<Vec<Known>>>;

/// Takes in what a member was told since the last look.
struct Observer {
    history: History,
    epochs: Vec<u64>,
    seen: usize,
    results: usize,
}

impl Observer {
    fn look(&mut self, member: &Member) {
        let mut history = self.history.lock().unwrap();
        for assignment in member.assigned.values() {
            let (at, position) = (assignment.partition as usize, assignment.position);
            if self.epochs[at] == assignment.epoch {
                continue;
            }
            assert!(assignment.epoch > self.epochs[at], "epochs only grow");
            self.epochs[at] = assignment.epoch;
            let known = &history[at];
            assert!(
                (known.answered..=known.tried).contains(&position),
                "partition {at}: assigned from {position}, but {} was committed and {} tried",
                known.answered,
                known.tried
            );
        }
        for (partition, offset) in &member.seen[self.seen..] {
            history[*partition as usize].delivered.insert(*offset);
        }
        self.seen = member.seen.len();
        for result in member.results[self.results..].iter().flatten() {
            if result.error.is_none() {
                let known = &mut history[result.partition as usize];
                known.answered = known.answered.max(result.position);
            }
        }
        self.results = member.results.len();
    }

    fn commits(&self, member: &Member) -> Commits {
        let mut history = self.history.lock().unwrap();
        let held = member.assigned.values();
        let commits = held.map(|assignment| {
            let partition = assignment.partition;
            let offset = member.next[&partition];
            let known = &mut history[partition as usize];
            known.tried = known.tried.max(offset);
            PartitionCommit {
                partition,
                epoch: assignment.epoch,
                offset,
            }
        });
        Commits {
            commits: commits.collect(),
        }
    }
}

/// A member that comes back after every end, sometimes under another id.
async fn consume(address: SocketAddr, number: u64, seed: Seed, history: History, stop: Stop) {
    let mut rng = seed.child(number).rng();
    let mut name = format!("m{number}");
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok(api) = Api::try_connect(address).await else {
            continue;
        };
        let mut opening = open(TOPIC, GROUP);
        opening.member_id.clone_from(&name);
        let Ok(mut member) = Member::try_join(&api, opening).await else {
            continue;
        };
        member.credit(1 << 40, 1 << 50).await;
        let mut observer = Observer {
            history: history.clone(),
            epochs: vec![0; PARTITIONS as usize],
            seen: 0,
            results: 0,
        };
        while !stop.load(Relaxed) {
            match tokio::time::timeout(Duration::from_millis(100), member.step()).await {
                Err(_) => member.heartbeat().await,
                Ok(Ok(())) => {}
                Ok(Err(_)) => break,
            }
            observer.look(&member);
            if rng.random_ratio(1, 4) {
                let commits = observer.commits(&member);
                member.send(Kind::Commit(commits)).await;
            }
            // Vanishes without a word.
            if rng.random_ratio(1, 150) {
                if rng.random() {
                    name = format!("m{number}-{}", rng.random::<u16>());
                }
                break;
            }
        }
    }
}

type Stop = Arc<AtomicBool>;

async fn publish(address: SocketAddr, stop: Stop) {
    while !stop.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(mut api) = Api::try_connect(address).await else {
            continue;
        };
        while !stop.load(Relaxed) {
            let messages = (0..20).map(|n| message(n % PARTITIONS, "x")).collect();
            let request = PublishRequest {
                topic: TOPIC.to_owned(),
                messages,
                ..PublishRequest::default()
            };
            if api.publisher.publish(request).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits until everything is consumed; the end of each partition.
async fn consumed(address: SocketAddr) -> Vec<u64> {
    let mut api = Api::connect(address).await;
    let start = Instant::now();
    loop {
        let request = GetLagRequest {
            topic: TOPIC.to_owned(),
            group: GROUP.to_owned(),
        };
        let lag = api.groups.get_lag(request).await.unwrap().into_inner();
        if lag.messages == 0 {
            return lag.partitions.iter().map(|p| p.high_watermark).collect();
        }
        assert!(start.elapsed() < 2 * PATIENCE, "not consumed: {lag:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_survive_kill_nine_of_everybody() {
    let seed = Seed::from_env();
    let mut rng = seed.rng();
    let rounds: u32 =
        std::env::var("AQUEDUCT_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    let directory = tempfile::tempdir().unwrap();
    let mut broker = Process::start(&directory.path().join("data"));
    let address = broker.address();
    let mut api = Api::connect(address).await;
    api.create(TOPIC, PARTITIONS).await;
    let group = Group {
        name: GROUP.to_owned(),
        session_timeout: Some(Duration::from_secs(1).try_into().unwrap()),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
    let known = (0..PARTITIONS).map(|_| Known::default()).collect();
    let history: History = Arc::new(Mutex::new(known));
    let (quiet, stop) = (Stop::default(), Stop::default());
    let publishing = tokio::spawn(publish(address, quiet.clone()));
    let members: Vec<_> = (0..3)
        .map(|n| tokio::spawn(consume(address, n, seed, history.clone(), stop.clone())))
        .collect();
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..1_500))).await;
        broker.restart();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    quiet.store(true, Relaxed);
    publishing.await.unwrap();
    let ends = consumed(address).await;
    stop.store(true, Relaxed);
    for member in members {
        member.await.unwrap();
    }
    let history = history.lock().unwrap();
    for (partition, (known, end)) in history.iter().zip(&ends).enumerate() {
        let missing = (0..*end).find(|offset| !known.delivered.contains(offset));
        assert_eq!(missing, None, "partition {partition}: never delivered");
        assert!(known.answered <= *end);
    }
    println!("{rounds} rounds, consumed up to {ends:?}, nothing skipped");
}
