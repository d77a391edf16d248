//! The core against scripts, and against a broker in miniature with everything at random.

use std::{collections::BTreeMap, time::Duration};

use aqueduct_proto::{
    batch::patch,
    compression::Compression,
    google::rpc,
    record::BatchBuilder,
    v1::{self, consume_request, consume_response::Kind},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy(mode: CommitMode) -> Policy {
    Policy {
        mode,
        commit_interval: SECOND,
        prefetch: Amount {
            messages: 1000,
            bytes: 100_000,
        },
        max_unfinished: 10,
    }
}

fn batch(offset: u64, count: u64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..count {
        builder.push(0, None, Some(b"x"), &[]);
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    patch(&mut bytes, offset, 1);
    bytes.into()
}

fn assigned(partition: u32, epoch: u64, position: u64) -> Kind {
    let assignment = v1::Assignment {
        partition,
        epoch,
        position,
        skipped: None,
    };
    Kind::Assigned(v1::Assigned {
        assignments: vec![assignment],
    })
}

fn delivered(partition: u32, offset: u64, count: u64) -> Kind {
    Kind::Batches(v1::Batches {
        partition,
        batches: vec![batch(offset, count)],
        high_watermark: 0,
    })
}

fn revoking(partition: u32) -> Kind {
    Kind::Revoking(v1::Revoking {
        partitions: vec![partition],
        deadline: Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        }),
    })
}

fn committed(partition: u32, position: u64) -> Kind {
    let result = v1::CommitResult {
        partition,
        position,
        error: None,
    };
    Kind::CommitResults(v1::CommitResults {
        results: vec![result],
    })
}

fn refused(partition: u32) -> Kind {
    let error = rpc::Status {
        code: 9,
        message: "no".into(),
        details: Vec::new(),
    };
    let result = v1::CommitResult {
        partition,
        position: 0,
        error: Some(error),
    };
    Kind::CommitResults(v1::CommitResults {
        results: vec![result],
    })
}

/// Opens what is next and takes all of it; partition, first, end.
fn take(core: &mut Core) -> Option<(u32, u64, u64)> {
    let found = core.next()?;
    let mut wanted = found.next..u64::MAX;
    let records = batches::decode(
        found.partition,
        found.batches,
        &mut wanted,
        u64::MAX,
        1 << 20,
    );
    let records = records.unwrap();
    assert!(core.opened(found.partition, found.epoch, wanted.start));
    let (first, next) = (records.first()?.offset, wanted.start);
    assert!(core.take(found.partition, found.epoch, first, next));
    Some((found.partition, first, next))
}

/// Partition, epoch and offset of the commits in these requests.
fn commits(requests: &[consume_request::Kind]) -> Vec<(u32, u64, u64)> {
    let commits = requests.iter().filter_map(|request| match request {
        consume_request::Kind::Commit(commits) => Some(&commits.commits),
        _ => None,
    });
    let commits = commits.flatten();
    commits
        .map(|commit| (commit.partition, commit.epoch, commit.offset))
        .collect()
}

fn released(requests: &[consume_request::Kind]) -> Vec<u32> {
    let released = requests.iter().filter_map(|request| match request {
        consume_request::Kind::Released(released) => Some(released.partitions.clone()),
        _ => None,
    });
    released.flatten().collect()
}

#[test]
fn a_message_is_done_when_the_next_one_is_asked_for() {
    let mut core = Core::new(policy(CommitMode::Automatic));
    core.receive(assigned(0, 7, 5), Duration::ZERO).unwrap();
    core.receive(delivered(0, 3, 5), Duration::ZERO).unwrap();
    assert_eq!(take(&mut core), Some((0, 5, 8)), "from the position on");
    assert!(commits(&core.requests(SECOND)).is_empty(), "still in work");
    core.polled();
    assert!(commits(&core.requests(SECOND)).is_empty(), "not time yet");
    assert_eq!(commits(&core.requests(2 * SECOND)), [(0, 7, 8)]);
    assert!(
        commits(&core.requests(4 * SECOND)).is_empty(),
        "one at a time"
    );
    core.receive(committed(0, 8), 4 * SECOND).unwrap();
    assert!(
        commits(&core.requests(9 * SECOND)).is_empty(),
        "nothing new"
    );
}

#[test]
fn a_partition_goes_when_what_was_handed_out_is_committed() {
    let mut core = Core::new(policy(CommitMode::Automatic));
    core.receive(assigned(0, 7, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 4), Duration::ZERO).unwrap();
    core.receive(delivered(0, 4, 4), Duration::ZERO).unwrap();
    assert_eq!(take(&mut core), Some((0, 0, 4)));
    core.receive(revoking(0), SECOND / 2).unwrap();
    assert!(core.next().is_none(), "the rest is dropped");
    assert!(released(&core.requests(SECOND / 2)).is_empty(), "in work");
    assert!(core.polled(), "that lets it go");
    let requests = core.requests(SECOND / 2);
    assert_eq!(commits(&requests), [(0, 7, 4)], "at once");
    assert!(released(&requests).is_empty(), "not before the answer");
    core.receive(committed(0, 4), SECOND / 2).unwrap();
    assert_eq!(released(&core.requests(SECOND / 2)), [0]);
    assert!(core.commit(0, Some(7), 4).is_err(), "not ours any more");
}

#[test]
fn a_partition_goes_before_the_deadline_whatever_is_in_work() {
    let mut core = Core::new(policy(CommitMode::PerRecord));
    core.receive(assigned(0, 7, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 4), Duration::ZERO).unwrap();
    take(&mut core);
    core.finish(0, 7, 0, 2).unwrap();
    core.finish(0, 7, 3, 4).unwrap();
    core.receive(revoking(0), SECOND / 2).unwrap();
    assert_eq!(core.wake_at(), SECOND, "the ordinary commit");
    assert_eq!(commits(&core.requests(SECOND)), [(0, 7, 2)]);
    core.receive(committed(0, 2), SECOND).unwrap();
    assert!(released(&core.requests(SECOND)).is_empty());
    assert_eq!(released(&core.requests(10 * SECOND)), [0]);
    assert!(core.finish(0, 7, 2, 3).is_err());
}

#[test]
fn whoever_commits_by_hand_is_answered_once() {
    let mut core = Core::new(policy(CommitMode::Manual));
    core.receive(assigned(0, 7, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 8), Duration::ZERO).unwrap();
    assert!(core.commit(0, None, 1).is_err(), "not handed out");
    take(&mut core);
    core.polled();
    assert!(
        commits(&core.requests(5 * SECOND)).is_empty(),
        "by hand only"
    );
    let Committing::Waiting(first) = core.commit(0, Some(7), 3).unwrap() else {
        panic!()
    };
    assert_eq!(commits(&core.requests(5 * SECOND)), [(0, 7, 3)]);
    let Committing::Waiting(second) = core.commit(0, Some(7), 8).unwrap() else {
        panic!()
    };
    assert!(commits(&core.requests(5 * SECOND)).is_empty());
    core.receive(committed(0, 3), 5 * SECOND).unwrap();
    let answers = core.output().answers;
    assert!(matches!(&answers[..], [(number, Ok(3))] if *number == first));
    assert!(matches!(
        core.commit(0, None, 2),
        Ok(Committing::Committed(3))
    ));
    assert_eq!(commits(&core.requests(5 * SECOND)), [(0, 7, 8)]);
    core.receive(refused(0), 5 * SECOND).unwrap();
    let answers = core.output().answers;
    assert!(matches!(&answers[..], [(number, Err(Error::Conflict(_)))] if *number == second));
}

#[test]
fn nothing_of_an_old_connection_is_committed_on_a_new_one() {
    let mut core = Core::new(policy(CommitMode::Automatic));
    core.receive(assigned(0, 7, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 4), Duration::ZERO).unwrap();
    take(&mut core);
    let waiting = core.commit(0, None, 2).unwrap();
    let Committing::Waiting(number) = waiting else {
        panic!()
    };
    core.requests(SECOND);
    core.disconnected(&Error::unavailable("gone"));
    let answers = core.output().answers;
    assert!(matches!(&answers[..], [(it, Err(Error::Unknown(_)))] if *it == number));
    core.polled();
    core.receive(assigned(0, 9, 2), SECOND).unwrap();
    assert!(core.commit(0, Some(7), 4).is_err());
    let requests = core.requests(3 * SECOND);
    assert!(commits(&requests).is_empty());
    assert!(
        matches!(requests[..], [consume_request::Kind::Credit(_)]),
        "all of it anew"
    );
    core.receive(delivered(0, 0, 4), SECOND).unwrap();
    assert_eq!(take(&mut core), Some((0, 2, 4)));
}

#[test]
fn a_full_partition_waits_and_others_go_on() {
    let mut core = Core::new(policy(CommitMode::PerRecord));
    core.receive(assigned(0, 1, 0), Duration::ZERO).unwrap();
    core.receive(assigned(1, 2, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 10), Duration::ZERO).unwrap();
    core.receive(delivered(0, 10, 1), Duration::ZERO).unwrap();
    core.receive(delivered(1, 0, 1), Duration::ZERO).unwrap();
    assert_eq!(take(&mut core), Some((0, 0, 10)));
    assert_eq!(take(&mut core), Some((1, 0, 1)));
    assert_eq!(take(&mut core), None);
    assert!(!core.finish(0, 1, 5, 6).unwrap());
    assert!(core.finish(0, 1, 0, 1).unwrap(), "there is room");
    assert_eq!(take(&mut core), Some((0, 10, 11)));
}

#[test]
fn an_overrun_by_the_policy_to_stop_is_shown() {
    let mut core = Core::new(policy(CommitMode::Automatic));
    core.receive(assigned(0, 1, 0), Duration::ZERO).unwrap();
    let lost = v1::Lost {
        partitions: vec![0],
        reason: "OVERRUN".into(),
    };
    core.receive(Kind::Lost(lost), Duration::ZERO).unwrap();
    assert_eq!(core.error().unwrap().reason(), "OVERRUN");
    assert!(core.error().is_none());
}

#[test]
fn leaving_waits_for_the_last_commit_but_not_for_ever() {
    let mut core = Core::new(policy(CommitMode::Automatic));
    core.receive(assigned(0, 1, 0), Duration::ZERO).unwrap();
    core.receive(delivered(0, 0, 4), Duration::ZERO).unwrap();
    take(&mut core);
    core.polled();
    core.close();
    assert!(!core.may_leave());
    assert_eq!(commits(&core.requests(Duration::ZERO)), [(0, 1, 4)]);
    assert!(!core.may_leave());
    core.receive(refused(0), Duration::ZERO).unwrap();
    assert!(core.requests(SECOND).is_empty());
    assert!(core.may_leave());
}

/// A broker in miniature: one group of this member and "others".
struct Model {
    /// Of each partition: epoch, owned by us, what was asked back, next to deliver, position.
    partitions: BTreeMap<u32, Place>,
    epoch: u64,
    credit: (i64, i64),
    /// Results that were not delivered yet.
    results: VecDeque<Kind>,
}

#[derive(Default)]
struct Place {
    epoch: u64,
    owned: bool,
    revoking: bool,
    next: u64,
    position: u64,
    /// What we took and finished under the present epoch, by the test's own books.
    taken: u64,
    finished: std::collections::BTreeSet<u64>,
}

impl Model {
    fn answer(&mut self, requests: Vec<consume_request::Kind>) {
        for request in requests {
            match request {
                consume_request::Kind::Credit(credit) => {
                    self.credit.0 += i64::try_from(credit.messages).unwrap();
                    self.credit.1 += i64::try_from(credit.bytes).unwrap();
                }
                consume_request::Kind::Commit(commits) => self.commit(&commits.commits),
                consume_request::Kind::Released(released) => {
                    for partition in released.partitions {
                        let place = self.partitions.get_mut(&partition).unwrap();
                        assert!(
                            place.owned && place.revoking,
                            "released what nobody asked for"
                        );
                        (place.owned, place.revoking) = (false, false);
                    }
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self, commits: &[v1::PartitionCommit]) {
        assert!(self.results.is_empty(), "one at a time");
        let mut results = Vec::new();
        for commit in commits {
            let place = self.partitions.get_mut(&commit.partition).unwrap();
            assert!(
                place.owned && place.epoch == commit.epoch,
                "a commit of an old assignment"
            );
            assert!(commit.offset >= place.position && commit.offset <= place.taken);
            let all = (place.position..commit.offset).all(|it| place.finished.contains(&it));
            assert!(all, "a commit over what is not done: {commit:?}");
            place.position = commit.offset;
            results.push(v1::CommitResult {
                partition: commit.partition,
                position: commit.offset,
                error: None,
            });
        }
        let results = v1::CommitResults { results };
        self.results.push_back(Kind::CommitResults(results));
    }

    fn assign(&mut self, partition: u32) -> Kind {
        self.epoch += 1;
        let epoch = self.epoch;
        let place = self.partitions.entry(partition).or_default();
        *place = Place {
            epoch,
            owned: true,
            next: place.position,
            position: place.position,
            taken: place.position,
            ..Place::default()
        };
        assigned(partition, epoch, place.position)
    }
}

#[test]
fn nothing_is_skipped_or_committed_too_early_whatever_happens() {
    let seed = std::env::var("AQUEDUCT_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("AQUEDUCT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for mode in [
        CommitMode::Automatic,
        CommitMode::Manual,
        CommitMode::PerRecord,
    ] {
        for _ in 0..40 {
            run(&mut random, mode);
        }
    }
}

/// The core, the broker, and an application in between.
struct Run<'a> {
    random: &'a mut StdRng,
    mode: CommitMode,
    core: Core,
    model: Model,
    now: Duration,
    /// Partition, epoch, first and end of what was taken last.
    in_hand: Option<(u32, u64, u64, u64)>,
}

fn run(random: &mut StdRng, mode: CommitMode) {
    let mut run = Run {
        random,
        mode,
        core: Core::new(policy(mode)),
        model: Model {
            partitions: BTreeMap::new(),
            epoch: 0,
            credit: (0, 0),
            results: VecDeque::new(),
        },
        now: Duration::ZERO,
        in_hand: None,
    };
    for _ in 0..400 {
        run.step();
    }
    run.rest();
}

impl Run<'_> {
    fn step(&mut self) {
        let partition = self.random.random_range(0..4);
        let place = self.model.partitions.get(&partition);
        let owned = place.is_some_and(|place| place.owned);
        match self.random.random_range(0..100) {
            0..17 => self.movement(partition, owned),
            17..45 if owned => self.deliver(partition),
            45..75 => self.poll(),
            75..85 if self.mode != CommitMode::Automatic => self.settle(partition),
            85..90 => self.results(),
            90..95 => self.now += Duration::from_millis(self.random.random_range(0..2000)),
            _ => self.model.answer(self.core.requests(self.now)),
        }
    }

    fn movement(&mut self, partition: u32, owned: bool) {
        let place = self.model.partitions.entry(partition).or_default();
        match self.random.random_range(0..17) {
            0..10 if !owned => {
                let kind = self.model.assign(partition);
                self.core.receive(kind, self.now).unwrap();
            }
            10..13 if owned => {
                place.revoking = true;
                self.core.receive(revoking(partition), self.now).unwrap();
            }
            13..15 if owned => {
                place.owned = false;
                let (partitions, reason) = (vec![partition], "REVOKED".to_owned());
                let lost = Kind::Lost(v1::Lost { partitions, reason });
                self.core.receive(lost, self.now).unwrap();
            }
            15 => {
                self.core.disconnected(&Error::unavailable("gone"));
                for place in self.model.partitions.values_mut() {
                    (place.owned, place.revoking) = (false, false);
                }
                (self.model.credit, self.in_hand) = ((0, 0), None);
                self.model.results.clear();
            }
            _ => {}
        }
    }

    fn deliver(&mut self, partition: u32) {
        let place = self.model.partitions.get_mut(&partition).unwrap();
        let credit = &mut self.model.credit;
        if place.revoking || credit.0 <= 0 || credit.1 <= 0 {
            return;
        }
        // The first batch may begin below the position.
        let back = self.random.random_range(0..3).min(place.next);
        let first = place.next == place.position;
        let start = place.next - if first { back } else { 0 };
        let end = place.next + self.random.random_range(1..8);
        let kind = delivered(partition, start, end - start);
        if let Kind::Batches(batches) = &kind {
            credit.1 -= i64::try_from(batches.batches[0].len()).unwrap();
        }
        credit.0 -= i64::try_from(end - place.next).unwrap();
        place.next = end;
        self.core.receive(kind, self.now).unwrap();
    }

    fn poll(&mut self) {
        self.core.polled();
        self.done_by_polling();
        if let Some((partition, first, next)) = take(&mut self.core) {
            let place = self.model.partitions.get_mut(&partition).unwrap();
            assert!(
                place.owned && !place.revoking,
                "handed out what is not ours"
            );
            assert_eq!(
                first, place.taken,
                "in order, each once, from the position on"
            );
            place.taken = next;
            self.in_hand = Some((partition, place.epoch, first, next));
        }
    }

    fn done_by_polling(&mut self) {
        let in_hand = self.in_hand.take();
        if let Some((partition, epoch, first, next)) = in_hand
            && self.mode == CommitMode::Automatic
        {
            finished(&mut self.model, partition, epoch, first, next);
        }
    }

    fn settle(&mut self, partition: u32) {
        let Some(place) = self.model.partitions.get(&partition) else {
            return;
        };
        if place.taken <= place.position {
            return;
        }
        let (epoch, ours) = (place.epoch, place.owned);
        let from = self.random.random_range(place.position..place.taken);
        let until = self.random.random_range(from..=place.taken);
        if self.mode == CommitMode::Manual {
            let result = self.core.commit(partition, Some(epoch), until);
            assert_eq!(result.is_ok(), ours);
            finished(&mut self.model, partition, epoch, 0, until);
        } else {
            let result = self.core.finish(partition, epoch, from, until);
            assert_eq!(result.is_ok(), ours);
            finished(&mut self.model, partition, epoch, from, until);
        }
    }

    fn results(&mut self) {
        if let Some(results) = self.model.results.pop_front() {
            self.core.receive(results, self.now).unwrap();
        }
    }

    /// In the end everything comes to rest: done, committed, left.
    fn rest(&mut self) {
        self.core.polled();
        self.done_by_polling();
        self.core.close();
        for _ in 0..4 {
            self.model.answer(self.core.requests(self.now));
            self.results();
        }
        assert!(self.core.may_leave());
        assert!(self.core.tickets.is_empty(), "somebody waits for ever");
    }
}

fn finished(model: &mut Model, partition: u32, epoch: u64, from: u64, until: u64) {
    let place = model.partitions.get_mut(&partition).unwrap();
    if place.owned && place.epoch == epoch {
        place.finished.extend(from..until);
    }
}
