//! Damage to the files of a stopped broker.
//!
//! Every file of the directory in turn: cut, zeroed, garbled at the tail, one bit flipped in
//! the middle, deleted (index files). The rule, whatever was damaged: the broker starts or
//! says in words why not; every record it then serves is the one that was published at that
//! place; records that are missing *in front of* others that can still be read are refused
//! with an error, never skipped; nobody panics.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aqueduct_proto::v1::{ReadRequest, Record, read_response};
use aqueduct_tests::{Cli, Process, Seed, grpc::Api};
use rand::{Rng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;

const COUNT: u64 = 3_000;

/// A broker's directory with [`COUNT`] messages in one partition.
struct Template {
    directory: TempDir,
}

impl Template {
    /// `clean`: the broker was asked to end; else it was killed.
    fn new(clean: bool) -> Template {
        let directory = tempfile::tempdir().unwrap();
        let mut broker = Process::start(&directory.path().join("data"));
        let cli = Cli::new(broker.address());
        cli.run(&["topic", "create", "orders"]).ok();
        let padding = "x".repeat(900);
        // Several segments (the first is 1 MiB), and a restart between, as real logs have.
        for part in 0..3 {
            let per_part = COUNT / 3;
            let numbers = part * per_part..(part + 1) * per_part;
            let input: String = numbers.map(|n| format!("{n} {padding}\n")).collect();
            cli.run_with_input(
                &["pub", "orders", "--batch-bytes", "16384"],
                input.as_bytes(),
            )
            .ok();
            if part == 0 {
                broker.restart();
            }
        }
        if clean {
            assert!(broker.terminate().success());
        } else {
            broker.kill();
        }
        Template { directory }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A copy to do harm to.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.data(), &copy.path().join("data"));
        copy
    }

    /// Every file, as a path below the data directory.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list(&self.data(), &mut found);
        found.sort();
        found
            .iter()
            .map(|path| path.strip_prefix(self.data()).unwrap().to_path_buf())
            .collect()
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    CutInTheMiddle,
    CutToNothing,
    ZeroedTail,
    GarbledTail,
    FlippedBit,
}

const HARMS: [Harm; 5] = [
    Harm::CutInTheMiddle,
    Harm::CutToNothing,
    Harm::ZeroedTail,
    Harm::GarbledTail,
    Harm::FlippedBit,
];

/// Harms what a file holds; prepared space that is still empty can only be cut off.
fn harm(path: &Path, harm: Harm, rng: &mut StdRng) -> Option<String> {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    if used < 2 && harm != Harm::CutToNothing {
        return None;
    }
    let at = if used < 2 {
        0
    } else {
        rng.random_range(used / 4..used)
    };
    match harm {
        Harm::CutInTheMiddle => bytes.truncate(at),
        Harm::CutToNothing => bytes.clear(),
        Harm::ZeroedTail => bytes[at..].fill(0),
        Harm::GarbledTail => rng.fill(&mut bytes[at..]),
        Harm::FlippedBit => bytes[at] ^= 1 << rng.random_range(0..8),
    }
    fs::write(path, bytes).unwrap();
    Some(format!("at byte {at} of {used}"))
}

/// What a reader is given: the records, and the refusal it ended with, if any.
async fn read(broker: &Process) -> (Vec<Record>, Option<tonic::Status>) {
    let mut api = Api::connect(broker.address()).await;
    let request = ReadRequest {
        topic: "orders".to_owned(),
        ..ReadRequest::default()
    };
    let mut records = Vec::new();
    let mut answers = match api.reader.read(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return (records, Some(status)),
    };
    while let Some(answer) = answers.next().await {
        match answer {
            Err(status) => return (records, Some(status)),
            Ok(answer) => {
                if let Some(read_response::Kind::Records(found)) = answer.kind {
                    records.extend(found.records);
                }
            }
        }
    }
    (records, None)
}

/// Every record is the one that was published there, without holes.
fn check_records(records: &[Record]) -> Result<(), String> {
    for (n, record) in records.iter().enumerate() {
        if record.offset != n as u64 {
            return Err(format!(
                "offset {} where {n} was due, without a word",
                record.offset
            ));
        }
        let value = record.value.as_ref().unwrap();
        if !value.starts_with(format!("{n} ").as_bytes()) {
            return Err(format!("wrong value at offset {n}: {value:?}"));
        }
    }
    Ok(())
}

/// Starts the broker on a harmed directory and holds it to the rule of this file.
/// Says what it did, or what it should not have done.
async fn examine(data: &Path) -> Result<String, String> {
    let mut broker = match Process::try_start(data, "127.0.0.1:0", &[]) {
        Err(said) if said.contains("panicked") => return Err(said),
        Err(said) if !said.contains("error") => {
            return Err(format!("ends or hangs without a word: {said}"));
        }
        Err(said) => {
            return Ok(format!(
                "refuses to start: {}",
                said.lines().last().unwrap_or_default()
            ));
        }
        Ok(broker) => broker,
    };
    let (records, refusal) = read(&broker).await;
    check_records(&records)?;
    if broker.has_ended() || broker.stderr().contains("panicked") {
        return Err(format!("ended: {}", broker.stderr()));
    }
    Ok(match refusal {
        Some(status) => format!("{} records, then {:?}", records.len(), status.code()),
        None => format!("{} records", records.len()),
    })
}

async fn harm_every_file(clean: bool) {
    let seed = Seed::from_env();
    let mut rng = seed.rng();
    let template = Template::new(clean);
    let whole = template.copy();
    let outcome = examine(&whole.path().join("data")).await;
    assert_eq!(outcome, Ok(format!("{COUNT} records")));
    let mut wrong = Vec::new();
    for file in template.files() {
        for kind in HARMS {
            let copy = template.copy();
            let data = copy.path().join("data");
            let Some(place) = harm(&data.join(&file), kind, &mut rng) else {
                continue;
            };
            let what = format!("{kind:?} of {} {place}", file.display());
            let mut outcome = examine(&data).await;
            // After a clean end everything is known to be durable: all of it, or a refusal.
            // After a kill, the end of the last segment may look like a torn tail.
            if clean
                && outcome
                    .as_ref()
                    .is_ok_and(|found| found.ends_with(" records"))
            {
                let whole = format!("{COUNT} records");
                outcome = outcome.and_then(|found| {
                    if found == whole {
                        Ok(found)
                    } else {
                        Err(format!("only {found}"))
                    }
                });
            }
            println!("{what}: {outcome:?}");
            wrong.extend(outcome.err().map(|why| format!("{what}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn every_file_of_a_killed_broker_may_be_damaged() {
    harm_every_file(false).await;
}

#[tokio::test]
async fn every_file_of_a_drained_broker_may_be_damaged() {
    harm_every_file(true).await;
}

/// Rot far below what was synced is refused by name, and what lies before and after is served.
#[tokio::test]
async fn rot_in_the_middle_is_refused_and_the_rest_is_served() {
    let template = Template::new(true);
    let segments = template.files().into_iter().filter(|path| {
        let size = fs::metadata(template.data().join(path)).unwrap().len();
        path.extension().is_some_and(|ending| ending == "seg") && size >= 1 << 20
    });
    let largest = segments.max_by_key(|path| {
        let bytes = fs::read(template.data().join(path)).unwrap();
        bytes.iter().rposition(|byte| *byte != 0)
    });
    let largest = largest.expect("a segment of data");
    let copy = template.copy();
    let data = copy.path().join("data");
    let path = data.join(&largest);
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 3] ^= 0x10;
    fs::write(&path, bytes).unwrap();

    let broker = Process::start(&data);
    let (records, refusal) = read(&broker).await;
    check_records(&records).unwrap();
    let status = refusal.expect("rot is not cut away in silence");
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status:?}");
    assert!((records.len() as u64) < COUNT);
    let cli = Cli::new(broker.address());
    let last = cli
        .run(&["sub", "orders", "--from=-1", "--until", "now", "-o", "raw"])
        .ok();
    assert!(
        last.stdout.starts_with(&format!("{} ", COUNT - 1)),
        "behind the rot it goes on"
    );
    drop(broker);
    let verified = cli.run(&["log", "verify", data.to_str().unwrap()]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let named = largest.file_name().unwrap().to_str().unwrap();
    let said = format!("{}{}", verified.stdout, verified.stderr);
    assert!(said.contains(named), "verify names the file: {said}");
}

/// Index files are hints: without any of them the answers are the same.
#[tokio::test]
async fn index_files_can_be_deleted() {
    let template = Template::new(true);
    let copy = template.copy();
    let data = copy.path().join("data");
    for file in template.files() {
        if file.extension().is_some_and(|ending| ending == "idx") {
            fs::remove_file(data.join(file)).unwrap();
        }
    }
    assert_eq!(examine(&data).await, Ok(format!("{COUNT} records")));
}

/// A partition of one segment has nothing left when that is harmed. It alone is not served: the
/// node starts, and other topics are as they were.
#[tokio::test]
async fn a_harmed_log_of_one_segment_keeps_no_other_from_being_served() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut broker = Process::start(&data);
    let cli = Cli::new(broker.address());
    for topic in ["orders", "small"] {
        cli.run(&["topic", "create", topic]).ok();
        cli.run(&["pub", topic, "0 and only"]).ok();
    }
    broker.kill();
    // Ids are given out in order: the topic that came last has the greatest.
    let logs = fs::read_dir(data.join("logs")).unwrap();
    let ids = logs.filter_map(|log| log.unwrap().file_name().to_str()?.parse::<u64>().ok());
    let small = data.join("logs").join(ids.max().unwrap().to_string());
    let mut files = Vec::new();
    list(&small, &mut files);
    let segment = files
        .iter()
        .find(|file| file.extension().is_some_and(|end| end == "seg"))
        .expect("a segment");
    let whole = fs::read(segment).unwrap();
    for harmed in [None, Some(4), Some(20), Some(100)] {
        match harmed {
            None => fs::remove_file(segment).unwrap(),
            Some(at) => {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(segment, bytes).unwrap();
            }
        }
        let mut broker = Process::start(&data);
        let (records, refusal) = read(&broker).await;
        check_records(&records).unwrap();
        assert_eq!((records.len(), refusal.is_none()), (1, true), "{harmed:?}");
        assert!(!broker.has_ended());
        broker.kill();
    }
}
