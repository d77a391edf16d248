//! The window against a broker in miniature: lost streams whose requests arrive late, refusals for
//! now and for good, at random. Nothing acknowledged is missing, doubled or out of order.

use std::collections::HashMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// A broker that checks sequences, per partition.
#[derive(Default)]
struct Model {
    log: Vec<String>,
    next: i32,
    /// Highest epoch that has stored something; lower ones are fenced.
    epoch: i16,
    offsets: HashMap<i32, u64>,
    /// Takes the first sequence it sees as the beginning.
    anywhere: bool,
}

impl Model {
    fn take(&mut self, request: Sent) -> Answer {
        let Sent {
            epoch,
            sequence,
            texts,
            ..
        } = request;
        if epoch < self.epoch {
            return Answer::Refused(Error::fenced("an older epoch"));
        }
        if let Some(base_offset) = self.offsets.get(&sequence).copied() {
            return Answer::Stored {
                partition: 0,
                base_offset,
                duplicate: true,
            };
        }
        if self.anywhere && self.offsets.is_empty() {
            self.next = sequence;
        }
        if sequence != self.next {
            return Answer::Refused(gap());
        }
        self.epoch = epoch;
        let base_offset = self.log.len() as u64;
        self.offsets.insert(sequence, base_offset);
        self.next += i32::try_from(texts.len()).unwrap();
        self.log.extend(texts);
        Answer::Stored {
            partition: 0,
            base_offset,
            duplicate: false,
        }
    }
}

/// A message that was added: its partition, text and outcome.
type Added = (u32, String, (Arc<Completion>, u32));

struct Run {
    rng: StdRng,
    window: Window,
    brokers: Vec<Model>,
    /// Requests on their way.
    requests: VecDeque<Sent>,
    /// Requests of lost streams that are still on their way; nobody waits for their answers.
    late: VecDeque<VecDeque<Sent>>,
    /// Answers on their way.
    answers: VecDeque<Answer>,
    added: Vec<Added>,
    now: Instant,
}

impl Run {
    fn step(&mut self) {
        self.now += Duration::from_millis(7);
        match self.rng.random_range(0..100) {
            0..40 => {
                let partition = self.rng.random_range(0..self.window.partitions());
                let text = format!("{}", self.added.len());
                let handle = add(&mut self.window, partition, &text, self.now);
                self.added.push((partition, text, handle));
            }
            40..60 => self.send(),
            60..75 => self.arrive(),
            75..80 => self.arrive_late(),
            80..97 => self.deliver(),
            97..99 => {
                self.answers.clear();
                self.late.push_back(std::mem::take(&mut self.requests));
                self.window.lost(&Error::unavailable("gone"));
            }
            _ => self.window.close_open(),
        }
    }

    fn send(&mut self) {
        let sent = sent_request(&mut self.window, self.now);
        self.requests.extend(sent);
    }

    /// The broker takes the oldest request of the present stream.
    fn arrive(&mut self) {
        if let Some(request) = self.requests.pop_front() {
            let answer = self.take(request);
            self.answers.push_back(answer);
        }
    }

    /// The broker takes a request of some stream that was lost.
    fn arrive_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let stream = self.rng.random_range(0..self.late.len());
        match self.late[stream].pop_front() {
            Some(request) => drop(self.take(request)),
            None => drop(self.late.remove(stream)),
        }
    }

    fn take(&mut self, request: Sent) -> Answer {
        // A refusal for good depends on the message alone, like a size.
        let too_large = request.texts.iter().any(|text| text.ends_with("17"));
        match self.rng.random_range(0..20) {
            0 => Answer::Refused(exhausted(20)),
            _ if too_large => Answer::Refused(Error::too_large("too large")),
            _ => self.brokers[request.partition as usize].take(request),
        }
    }

    fn deliver(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            assert_eq!(self.window.answer(answer, &At(self.now)), Verdict::GoOn);
        }
    }

    /// Until everything has its outcome; false if the producer had to end instead.
    fn finish(&mut self) -> bool {
        while !self.window.is_empty() && !self.window.has_unsafe_numbers() {
            self.now += Duration::from_secs(1);
            self.window.close_open();
            self.send();
            self.arrive();
            self.deliver();
        }
        let whole = self.window.is_empty();
        self.window.fail_all(&Error::conflict("ended"));
        while !self.late.is_empty() {
            self.arrive_late();
        }
        whole
    }

    fn check(&self, whole: bool) {
        for (partition, broker) in (0..).zip(&self.brokers) {
            let acked = self.added.iter().filter(|(place, _, handle)| {
                *place == partition && result(handle).unwrap().is_ok()
            });
            let acked: Vec<_> = acked.collect();
            let count = broker.log.len();
            let known: Vec<_> = acked.iter().map(|(_, text, _)| text).collect();
            assert!(!whole || known.len() == count, "{known:?} {:?}", broker.log);
            for (_, text, handle) in acked {
                let offset = result(handle).unwrap().unwrap().offset;
                assert_eq!(broker.log[usize::try_from(offset).unwrap()], *text);
            }
            let numbers = broker.log.iter().map(|text| text.parse().unwrap());
            let numbers: Vec<u32> = numbers.collect();
            let grow = numbers.windows(2).all(|pair| pair[0] < pair[1]);
            assert!(grow, "doubled or out of order: {numbers:?}");
        }
    }
}

#[test]
fn random_faults_never_lose_double_or_reorder() {
    let seed = std::env::var("AQUEDUCT_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("AQUEDUCT_SEED={seed}");
    let mut ended = 0;
    for round in 0..200 {
        let named = round % 2 == 0;
        let mut run = Run {
            rng: StdRng::seed_from_u64(seed.wrapping_add(round)),
            window: window(
                Settings {
                    named,
                    ..settings()
                },
                3,
            ),
            brokers: (0..3)
                .map(|_| Model {
                    anywhere: !named,
                    ..Model::default()
                })
                .collect(),
            requests: VecDeque::new(),
            late: VecDeque::new(),
            answers: VecDeque::new(),
            added: Vec::new(),
            now: Instant::now(),
        };
        for _ in 0..400 {
            run.step();
        }
        let whole = run.finish();
        assert!(whole || named, "a nameless producer always goes on");
        ended += usize::from(!whole);
        run.check(whole);
    }
    println!("{ended} named producers had to end");
    assert!(ended < 100, "some go on");
}
