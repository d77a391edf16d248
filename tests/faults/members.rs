//! Members of a group that stand still longer than their session, and very many of them.

use std::{
    collections::BTreeSet,
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aqueduct_proto::v1::{
    CreateGroupRequest, GetLagRequest, Group, ListMembersRequest, PartitionLag, PublishRequest,
};
use aqueduct_tests::{
    Cli, Process,
    grpc::{Api, Refused, message},
    member::{Member, open},
    process::PATIENCE,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

const TOPIC: &str = "orders";
const GROUP: &str = "bill";

async fn create(api: &mut Api, partitions: u32, session: Duration) {
    api.create(TOPIC, partitions).await;
    let group = Group {
        name: GROUP.to_owned(),
        session_timeout: Some(session.try_into().unwrap()),
        ..Group::default()
    };
    let request = CreateGroupRequest {
        topic: TOPIC.to_owned(),
        group: Some(group),
        validate_only: false,
    };
    api.groups.create_group(request).await.unwrap();
}

async fn publish(api: &mut Api, partitions: u32, count: u32) {
    let messages = (0..partitions * count).map(|n| message(n % partitions, "x"));
    let request = PublishRequest {
        topic: TOPIC.to_owned(),
        messages: messages.collect(),
        ..PublishRequest::default()
    };
    let answer = api.publisher.publish(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|it| it.error.is_none()));
}

async fn lag(api: &mut Api) -> Vec<PartitionLag> {
    let request = GetLagRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let lag = api.groups.get_lag(request).await.unwrap().into_inner();
    lag.partitions
}

/// How many partitions each member has, the fewest first.
async fn shares(api: &mut Api) -> Vec<usize> {
    let request = ListMembersRequest {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
    };
    let members = api.groups.list_members(request).await.unwrap().into_inner();
    let mut shares: Vec<_> = members.members.iter().map(|m| m.partitions.len()).collect();
    shares.sort_unstable();
    shares
}

/// Ends the process however the test ends.
struct Stoppable(Child);

impl Stoppable {
    /// What it prints goes to a file.
    fn start(mut command: Command, output: &Path) -> Self {
        let output = File::create(output).unwrap();
        let quiet = command.stdin(Stdio::null()).stdout(output);
        Self(quiet.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Stoppable {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Partition and offset of each message that was printed, in order; a line that is being written
/// is left out.
fn printed(output: &Path) -> Vec<(u32, u64)> {
    let text = std::fs::read_to_string(output).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let message = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let partition = message["partition"].as_u64().unwrap();
        let offset = message["offset"].as_u64().unwrap();
        (u32::try_from(partition).unwrap(), offset)
    };
    whole.lines().map(message).collect()
}

/// Lets a member live until the question is answered with yes.
async fn until(what: &str, member: &mut Member, mut ask: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        member.heartbeat().await;
        member.quiet(Duration::from_millis(50)).await.unwrap();
    }
}

#[tokio::test]
async fn a_member_that_is_stopped_loses_its_place_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Process::start(&directory.path().join("data"));
    let mut api = Api::connect(broker.address()).await;
    create(&mut api, 4, Duration::from_secs(2)).await;
    let cli = Cli::new(broker.address());
    let output = directory.path().join("printed");
    let command = cli.command(&["sub", TOPIC, "-g", GROUP, "-o", "jsonl"]);
    let stopped = Stoppable::start(command, &output);
    let mut other = Member::join(&api, open(TOPIC, GROUP)).await;
    let mut ask = api.clone();
    until("two each", &mut other, async || {
        shares(&mut ask).await == [2, 2]
    })
    .await;
    publish(&mut api, 4, 50).await;
    // What it has read and not committed is what it will try to commit afterwards.
    stopped.signal(Signal::STOP);
    until("the other has all", &mut other, async || {
        shares(&mut ask).await == [4]
    })
    .await;
    publish(&mut api, 4, 50).await;
    let read = |member: &Member| (0..4).all(|p| member.offsets(p).last() == Some(&99));
    while !read(&other) {
        other.heartbeat().await;
        other.quiet(Duration::from_millis(50)).await.unwrap();
    }
    other.commit_all().await;
    let epochs: Vec<u64> = (0..4).map(|partition| other.epoch(partition)).collect();
    assert!(lag(&mut api).await.iter().all(|it| it.messages == 0));

    stopped.signal(Signal::CONT);
    until("two each again", &mut other, async || {
        shares(&mut ask).await == [2, 2]
    })
    .await;
    // Nothing that it knew from before has moved a position, and it goes on behind the other.
    assert!(
        lag(&mut api)
            .await
            .iter()
            .all(|it| it.position == Some(100))
    );
    for partition in other.partitions() {
        let before = epochs[partition as usize];
        assert_eq!(other.epoch(partition), before, "what stays is not touched");
    }
    publish(&mut api, 4, 10).await;
    let mine = other.partitions();
    until("both read on", &mut other, async || {
        let lag = lag(&mut ask).await;
        let theirs = lag.iter().filter(|it| !mine.contains(&it.partition));
        theirs.clone().count() == 2 && theirs.clone().all(|it| it.position == Some(110))
    })
    .await;
    // What it printed is in order and comes once; of what it has at the end nothing is missing.
    let printed = printed(&output);
    for partition in 0..4 {
        let offsets = printed.iter().filter(|(p, _)| *p == partition);
        let offsets: Vec<u64> = offsets.map(|(_, offset)| *offset).collect();
        assert!(
            offsets.is_sorted_by(|a, b| a < b),
            "{partition}: {offsets:?}"
        );
        let last: Vec<u64> = if mine.contains(&partition) {
            Vec::new()
        } else {
            (100..110).collect()
        };
        let late = offsets.iter().filter(|offset| **offset >= 100);
        assert_eq!(late.copied().collect::<Vec<_>>(), last, "{partition}");
    }
}

/// Bounded: the thousand and first is refused; whoever has no partition waits for one.
#[tokio::test]
async fn a_thousand_members_share_a_topic() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Process::start(&directory.path().join("data"));
    let mut api = Api::connect(broker.address()).await;
    create(&mut api, 8, Duration::from_secs(120)).await;
    let connections = [
        Api::connect(broker.address()).await,
        Api::connect(broker.address()).await,
    ];
    let mut members = Vec::new();
    for n in 0..1_000 {
        members.push(Member::join(&connections[n % 2], open(TOPIC, GROUP)).await);
    }
    let refused = Member::try_join(&api, open(TOPIC, GROUP)).await.err();
    Refused::from_status(&refused.unwrap()).is(Code::ResourceExhausted, "LIMIT_REACHED");
    let start = Instant::now();
    loop {
        let shares = shares(&mut api).await;
        assert_eq!(shares.len(), 1_000);
        if shares[991] == 0 && shares[992..].iter().all(|share| *share == 1) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "not shared out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publish(&mut api, 8, 5).await;
    // The first ones leave, one after the other: everybody behind them gets a turn.
    let mut behind = members.split_off(900);
    for member in members {
        member.leave().await;
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 40 {
        assert!(start.elapsed() < 3 * PATIENCE, "{} of 40", seen.len());
        for member in &mut behind {
            member.quiet(Duration::from_millis(1)).await.unwrap();
            seen.extend(member.seen.iter().copied());
        }
    }
    assert_eq!(shares(&mut api).await.len(), 100);
}
