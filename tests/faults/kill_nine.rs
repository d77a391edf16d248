//! Kill -9 at random under load, with the history checked.
//!
//! Each round: writers publish, the broker is killed after a random time (sometimes also
//! while it starts), and starts again. A reader follows all the while. Checked every few
//! rounds and at the end: what the file `writers.rs` promises, and that no record a reader
//! ever saw has changed or gone. `AQUEDUCT_ROUNDS` gives the number of rounds
//! (8 in the suite, 200 for `just soak`), `AQUEDUCT_SEED` the seed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use aqueduct_proto::v1::{Position, ReadRequest, Record, position, read_response};
use aqueduct_tests::{Process, Seed, grpc::Api, process::binary};
use bytes::Bytes;
use rand::Rng as _;
use tokio_stream::StreamExt as _;

use crate::writers::{Deduplicated, Sequenced, Stop, TOPIC};

const PARTITIONS: u32 = 3;

/// What readers were ever shown, by place.
type Seen = HashMap<(u32, u64), Bytes>;

#[derive(Default)]
struct Writers {
    sequenced: Vec<Sequenced>,
    deduplicated: Vec<Deduplicated>,
}

impl Writers {
    /// Two pipelined writers share partition 0 with a single-message one; others have their own.
    async fn new(address: SocketAddr, seed: Seed) -> Writers {
        let mut api = Api::connect(address).await;
        api.create(TOPIC, PARTITIONS).await;
        let mut writers = Writers::default();
        for (number, partition) in [0, 0, 1].into_iter().enumerate() {
            let rng = seed.child(number as u64).rng();
            writers
                .sequenced
                .push(Sequenced::new(&mut api, number, partition, rng).await);
        }
        writers.deduplicated.push(Deduplicated::new(3, 0));
        writers.deduplicated.push(Deduplicated::new(4, 2));
        writers
    }

    /// All writers at once until they are stopped.
    async fn run(self, address: SocketAddr, stop: Stop) -> Writers {
        let run_sequenced = self
            .sequenced
            .into_iter()
            .map(|w| w.run(address, stop.clone()));
        let run_single = self
            .deduplicated
            .into_iter()
            .map(|w| w.run(address, stop.clone()));
        let (sequenced, deduplicated) = tokio::join!(
            futures::future::join_all(run_sequenced),
            futures::future::join_all(run_single)
        );
        Writers {
            sequenced,
            deduplicated,
        }
    }

    /// Number, partition and acknowledged offsets of each.
    fn acknowledged(&self) -> Vec<(usize, u32, &[u64])> {
        let sequenced = self
            .sequenced
            .iter()
            .map(|w| (w.number, w.partition, &w.acknowledged[..]));
        let single = self
            .deduplicated
            .iter()
            .map(|w| (w.number, w.partition, &w.acknowledged[..]));
        sequenced.chain(single).collect()
    }
}

/// Reads along until the connection breaks; a record may be shown again, but unchanged.
async fn follow(address: SocketAddr, mut seen: Seen) -> Seen {
    // The broker may be gone before we come.
    let Ok(mut api) = Api::try_connect(address).await else {
        return seen;
    };
    let last = Position {
        kind: Some(position::Kind::Last(50)),
    };
    let request = ReadRequest {
        topic: TOPIC.to_owned(),
        from: Some(last),
        follow: true,
        ..ReadRequest::default()
    };
    let Ok(answers) = api.reader.read(request).await else {
        return seen;
    };
    let mut answers = answers.into_inner();
    while let Some(Ok(answer)) = answers.next().await {
        if let Some(read_response::Kind::Records(records)) = answer.kind {
            records
                .records
                .into_iter()
                .for_each(|record| note(&mut seen, record));
        }
    }
    seen
}

fn note(seen: &mut Seen, record: Record) {
    let place = (record.partition, record.offset);
    let value = record.value.unwrap();
    if let Some(before) = seen.insert(place, value.clone()) {
        assert_eq!(before, value, "the record at {place:?} has changed");
    }
}

/// Everything there is, in order within each partition.
async fn read_all(address: SocketAddr) -> Vec<Vec<Bytes>> {
    let mut api = Api::connect(address).await;
    let request = ReadRequest {
        topic: TOPIC.to_owned(),
        ..ReadRequest::default()
    };
    let mut answers = api.reader.read(request).await.unwrap().into_inner();
    let mut all = vec![Vec::new(); PARTITIONS as usize];
    while let Some(answer) = answers.next().await {
        let Some(read_response::Kind::Records(records)) = answer.unwrap().kind else {
            continue;
        };
        for record in records.records {
            let partition = &mut all[record.partition as usize];
            assert_eq!(record.offset, partition.len() as u64, "offsets are dense");
            partition.push(record.value.unwrap());
        }
    }
    all
}

/// Every value once and in order, every acknowledged one at its place, nothing seen is gone.
fn check(writers: &Writers, all: &[Vec<Bytes>], seen: &Seen) {
    let mut next: HashMap<usize, usize> = HashMap::new();
    for (partition, values) in all.iter().enumerate() {
        for (offset, value) in values.iter().enumerate() {
            let text = std::str::from_utf8(value).unwrap();
            let mut words = text.split(' ');
            let number: usize = words.next().unwrap()[1..].parse().unwrap();
            let n: usize = words.next().unwrap().parse().unwrap();
            let due = next.entry(number).or_default();
            assert_eq!(
                n, *due,
                "writer {number}, partition {partition}, offset {offset}"
            );
            *due += 1;
        }
    }
    for (number, partition, acknowledged) in writers.acknowledged() {
        for (n, offset) in acknowledged.iter().enumerate() {
            let stored = all[partition as usize].get(*offset as usize);
            let stored = stored.unwrap_or_else(|| {
                panic!("acknowledged and missing: writer {number}, value {n}, offset {offset}")
            });
            assert!(
                stored.starts_with(format!("w{number} {n} ").as_bytes()),
                "writer {number}, value {n} is not at offset {offset}: {stored:?}"
            );
        }
    }
    for ((partition, offset), value) in seen {
        let stored = all[*partition as usize].get(*offset as usize);
        assert_eq!(
            stored,
            Some(value),
            "seen and gone: partition {partition}, offset {offset}"
        );
    }
}

/// Starts the broker and kills it in the middle of that.
fn start_and_kill(data: &Path, after: Duration) {
    let mut child = Command::new(binary())
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_under_load() {
    let seed = Seed::from_env();
    let mut rng = seed.rng();
    let rounds: u32 =
        std::env::var("AQUEDUCT_ROUNDS").map_or(8, |rounds| rounds.parse().expect("a number"));
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut broker = Process::start(&data);
    let mut writers = Writers::new(broker.address(), seed).await;
    let mut seen = Seen::new();
    for round in 0..rounds {
        let stop = Stop::default();
        let running = tokio::spawn(writers.run(broker.address(), stop.clone()));
        let following = tokio::spawn(follow(broker.address(), seen));
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..250))).await;
        broker.kill();
        stop.now.store(true, std::sync::atomic::Ordering::Relaxed);
        writers = running.await.unwrap();
        seen = following.await.unwrap();
        for _ in 0..rng.random_range(0..3) {
            start_and_kill(&data, Duration::from_millis(rng.random_range(0..60)));
        }
        broker.restart();
        if round % 5 == 4 {
            check(&writers, &read_all(broker.address()).await, &seen);
            let count: usize = writers
                .acknowledged()
                .iter()
                .map(|(.., offsets)| offsets.len())
                .sum();
            println!("round {}: {count} acknowledged, nothing missing", round + 1);
        }
    }
    let drain = Stop {
        drain: true,
        ..Stop::default()
    };
    writers = writers.run(broker.address(), drain).await;
    let all = read_all(broker.address()).await;
    check(&writers, &all, &seen);
    let stored: usize = all.iter().map(Vec::len).sum();
    let acknowledged: usize = writers
        .acknowledged()
        .iter()
        .map(|(.., offsets)| offsets.len())
        .sum();
    assert_eq!(
        stored, acknowledged,
        "in the end every value has its answer and is stored once"
    );
    println!("{rounds} rounds: {acknowledged} acknowledged, each stored once");
}
