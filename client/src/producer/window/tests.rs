//! The window step by step; at random in `random`.

#![allow(clippy::unwrap_used, reason = "tests")]

use aqueduct_proto::batch::Batch;

use super::*;
use crate::Message;

mod random;

const IDENTITY: Identity = Identity { id: 7, epoch: 1 };

/// A time that stands still.
struct At(Instant);

impl Clock for At {
    fn now(&self) -> Instant {
        self.0
    }

    fn now_ms(&self) -> i64 {
        0
    }
}

fn settings() -> Settings {
    Settings {
        batch_bytes: 1 << 20,
        batch_messages: 2,
        max_in_flight_bytes: 1 << 20,
        linger: Duration::ZERO,
        compression: Compression::None,
        plain: false,
        resume: false,
        named: true,
    }
}

fn window(settings: Settings, partitions: u32) -> Window {
    let mut window = Window::new(settings, partitions, 0);
    window.set_identity(Some(IDENTITY), &[]);
    window
}

fn add(window: &mut Window, partition: u32, text: &str, now: Instant) -> (Arc<Completion>, u32) {
    let message = Message::new(text.to_owned());
    let added = window.add(partition, message, &At(now));
    (added.completion, added.index)
}

fn result(completion: &(Arc<Completion>, u32)) -> Option<Result<Ack, Error>> {
    super::super::Delivery::new(completion.0.clone(), completion.1).try_ack()
}

/// Partition, sequence and texts of the batch that is sent next, if any.
fn sent(window: &mut Window, now: Instant) -> Option<(u32, i32, Vec<String>)> {
    let request = sent_request(window, now)?;
    Some((request.partition, request.sequence, request.texts))
}

/// A batch on its way to the broker.
struct Sent {
    partition: u32,
    epoch: i16,
    sequence: i32,
    texts: Vec<String>,
}

fn sent_request(window: &mut Window, now: Instant) -> Option<Sent> {
    match window.next(now) {
        Next::Wait(_) => None,
        Next::Send(parcel) => {
            let Body::Batch { partition, records } = &parcel.body else {
                panic!("a batch")
            };
            let batch = Batch::check(records.clone()).unwrap();
            assert_eq!(batch.header().producer_id, IDENTITY.id);
            let texts = batch
                .records(1 << 20)
                .unwrap()
                .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            Some(Sent {
                partition: *partition,
                epoch: batch.header().producer_epoch,
                sequence: batch.header().base_sequence,
                texts: texts.collect(),
            })
        }
    }
}

fn stored(base_offset: u64) -> Answer {
    Answer::Stored {
        partition: 0,
        base_offset,
        duplicate: false,
    }
}

fn exhausted(millis: u64) -> Error {
    let retry_after = Some(Duration::from_millis(millis));
    Error::Exhausted {
        retry_after,
        detail: Arc::default(),
    }
}

fn gap() -> Error {
    let detail = crate::Detail {
        reason: "SEQUENCE_GAP".into(),
        ..Default::default()
    };
    Error::Conflict(Arc::new(detail))
}

#[test]
fn a_batch_is_sent_when_full_and_an_open_one_when_little_is_in_flight() {
    let (now, mut window) = (Instant::now(), window(settings(), 1));
    for text in ["a", "b", "c"] {
        add(&mut window, 0, text, now);
    }
    assert_eq!(
        sent(&mut window, now).unwrap(),
        (0, 0, vec!["a".into(), "b".into()])
    );
    assert_eq!(sent(&mut window, now).unwrap(), (0, 2, vec!["c".into()]));
    for (text, sequence) in [("d", 3), ("e", 4)] {
        add(&mut window, 0, text, now);
        assert_eq!(
            sent(&mut window, now),
            Some((0, sequence, vec![text.into()]))
        );
    }
    // Four are in flight: the next one waits for company or for an answer.
    add(&mut window, 0, "f", now);
    assert_eq!(sent(&mut window, now), None);
    add(&mut window, 0, "g", now);
    assert_eq!(
        sent(&mut window, now),
        Some((0, 5, vec!["f".into(), "g".into()]))
    );
    add(&mut window, 0, "h", now);
    assert_eq!(sent(&mut window, now), None);
    for offset in [0, 2] {
        assert_eq!(window.answer(stored(offset), &At(now)), Verdict::GoOn);
    }
    assert_eq!(sent(&mut window, now), Some((0, 7, vec!["h".into()])));
}

#[test]
fn linger_holds_an_open_batch_back() {
    let mut settings = settings();
    settings.linger = Duration::from_millis(5);
    let (now, mut window) = (Instant::now(), window(settings, 1));
    add(&mut window, 0, "a", now);
    let Next::Wait(Some(at)) = window.next(now) else {
        panic!("waits")
    };
    assert_eq!(at, now + settings.linger);
    assert_eq!(sent(&mut window, at), Some((0, 0, vec!["a".into()])));
}

#[test]
fn a_refused_batch_leaves_no_hole() {
    let (now, mut window) = (Instant::now(), window(settings(), 1));
    let texts = ["a", "b", "c", "d", "e", "f"];
    let all: Vec<_> = texts
        .iter()
        .map(|text| add(&mut window, 0, text, now))
        .collect();
    for sequence in [0, 2, 4] {
        assert_eq!(sent(&mut window, now).unwrap().1, sequence);
    }
    window.answer(Answer::Refused(Error::too_large("too large")), &At(now));
    assert!(matches!(result(&all[1]), Some(Err(Error::TooLarge(_)))));
    assert!(sent(&mut window, now).is_none());
    window.answer(Answer::Refused(gap()), &At(now));
    window.answer(Answer::Refused(gap()), &At(now));
    assert_eq!(
        sent(&mut window, now),
        Some((0, 0, vec!["c".into(), "d".into()]))
    );
    assert_eq!(
        sent(&mut window, now),
        Some((0, 2, vec!["e".into(), "f".into()]))
    );
    window.answer(stored(0), &At(now));
    window.answer(stored(2), &At(now));
    assert_eq!(result(&all[5]).unwrap().unwrap().offset, 3);
    assert!(window.is_empty());
}

#[test]
fn the_first_batch_of_a_nameless_producer_goes_alone() {
    let mut settings = settings();
    settings.named = false;
    let (now, mut window) = (Instant::now(), window(settings, 1));
    for text in ["a", "b", "c", "d", "e", "f"] {
        add(&mut window, 0, text, now);
    }
    assert_eq!(sent(&mut window, now).unwrap().1, 0);
    assert_eq!(sent(&mut window, now), None);
    window.answer(Answer::Refused(exhausted(0)), &At(now));
    assert_eq!(sent(&mut window, now).unwrap().2, ["a", "b"]);
    assert_eq!(sent(&mut window, now), None);
    window.answer(stored(0), &At(now));
    assert_eq!(sent(&mut window, now).unwrap().1, 2);
    assert_eq!(sent(&mut window, now).unwrap().1, 4);
}

#[test]
fn what_is_stored_but_forgotten_is_acknowledged_without_a_place() {
    let (now, mut window) = (Instant::now(), window(settings(), 1));
    let all = [add(&mut window, 0, "a", now), add(&mut window, 0, "b", now)];
    sent(&mut window, now);
    window.lost(&Error::unavailable("gone"));
    sent(&mut window, now);
    let detail = crate::Detail {
        reason: "SEQUENCE_TOO_OLD".into(),
        ..Default::default()
    };
    window.answer(
        Answer::Refused(Error::AlreadyExists(Arc::new(detail))),
        &At(now),
    );
    assert_eq!(
        result(&all[1]).unwrap().unwrap().offset,
        Ack::UNKNOWN_OFFSET
    );
    add(&mut window, 0, "c", now);
    assert_eq!(sent(&mut window, now).unwrap().1, 2);
}

#[test]
fn exhaustion_waits_and_keeps_the_order() {
    let (now, mut window) = (Instant::now(), window(settings(), 1));
    for text in ["a", "b", "c", "d"] {
        add(&mut window, 0, text, now);
    }
    sent(&mut window, now);
    sent(&mut window, now);
    window.answer(Answer::Refused(exhausted(100)), &At(now));
    window.answer(Answer::Refused(gap()), &At(now));
    let Next::Wait(Some(at)) = window.next(now) else {
        panic!("waits")
    };
    assert_eq!(at, now + Duration::from_millis(100));
    assert_eq!(
        sent(&mut window, at),
        Some((0, 0, vec!["a".into(), "b".into()]))
    );
    assert_eq!(
        sent(&mut window, at),
        Some((0, 2, vec!["c".into(), "d".into()]))
    );
}

#[test]
fn a_broken_stream_is_sent_again_with_the_same_sequences() {
    let (now, mut window) = (Instant::now(), window(settings(), 1));
    let all: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|text| add(&mut window, 0, text, now))
        .collect();
    sent(&mut window, now);
    sent(&mut window, now);
    window.lost(&Error::unavailable("gone"));
    assert_eq!(sent(&mut window, now).unwrap().1, 0);
    assert_eq!(sent(&mut window, now).unwrap().1, 2);
    let twice = Answer::Stored {
        partition: 0,
        base_offset: 40,
        duplicate: true,
    };
    window.answer(twice, &At(now));
    let ack = result(&all[1]).unwrap().unwrap();
    assert_eq!(
        ack,
        Ack {
            partition: 0,
            offset: 41,
            duplicate: false
        }
    );
}

#[test]
fn what_cannot_be_delivered_is_unknown_only_if_it_was_sent() {
    let (now, mut window) = (Instant::now(), window(settings(), 2));
    let first = [add(&mut window, 0, "a", now), add(&mut window, 0, "b", now)];
    sent(&mut window, now);
    let second = add(&mut window, 1, "c", now);
    let later = now + Duration::from_secs(9);
    assert!(!window.expired(later, Duration::from_secs(10)));
    assert!(window.expired(later, Duration::from_secs(8)));
    window.lost(&Error::unavailable("gone"));
    window.fail_all(&Error::timeout("late"));
    assert!(matches!(result(&first[0]), Some(Err(Error::Unknown(_)))));
    assert!(matches!(result(&second), Some(Err(Error::Timeout(_)))));
    assert!(window.is_empty() && window.outstanding().is_empty());
}

#[test]
fn plain_messages_are_not_sent_twice_unless_they_have_an_id() {
    let mut settings = settings();
    (settings.plain, settings.batch_messages) = (true, 1);
    let (now, mut window) = (Instant::now(), Window::new(settings, 3, 0));
    let plain = add(&mut window, 2, "a", now);
    let with_id = Message::new("b").dedup_id("id");
    let with_id = window.add(1, with_id, &At(now));
    for _ in 0..2 {
        assert!(matches!(window.next(now), Next::Send(_)));
    }
    window.lost(&Error::unavailable("gone"));
    assert!(matches!(result(&plain), Some(Err(Error::Unknown(_)))));
    assert!(matches!(window.next(now), Next::Send(_)));
    let ack = Ack {
        partition: 1,
        offset: 3,
        duplicate: true,
    };
    window.answer(Answer::Each(vec![Ok(ack)]), &At(now));
    assert_eq!(result(&(with_id.completion, 0)).unwrap().unwrap(), ack);
}

#[test]
fn a_resumed_producer_skips_what_is_stored() {
    let mut settings = settings();
    settings.resume = true;
    let mut window = Window::new(settings, 2, 0);
    let alone = Stored {
        count: 2,
        last_offset: 1,
    };
    let shared = Stored {
        count: 1,
        last_offset: 8,
    };
    window.set_identity(Some(IDENTITY), &[(0, alone), (1, shared)]);
    for offset in [0, 1] {
        let Resume::Stored(ack) = window.resume(0) else {
            panic!("stored")
        };
        assert_eq!(
            ack,
            Ack {
                partition: 0,
                offset,
                duplicate: true
            }
        );
    }
    assert!(matches!(window.resume(0), Resume::New));
    let Resume::Stored(ack) = window.resume(1) else {
        panic!("stored")
    };
    assert_eq!(ack.offset, Ack::UNKNOWN_OFFSET);
    let now = Instant::now();
    add(&mut window, 0, "c", now);
    assert_eq!(sent(&mut window, now).unwrap().1, 2);
}

#[test]
fn sequences_wrap_at_31_bits() {
    let mut window = Window::new(settings(), 1, 0);
    let stored_before = Stored {
        count: (1 << 31) - 1,
        last_offset: 0,
    };
    window.set_identity(Some(IDENTITY), &[(0, stored_before)]);
    let now = Instant::now();
    for text in ["a", "b", "c"] {
        add(&mut window, 0, text, now);
    }
    assert_eq!(sent(&mut window, now).unwrap().1, i32::MAX);
    assert_eq!(sent(&mut window, now).unwrap().1, 1);
}

#[test]
fn a_new_identity_sends_nothing_again_that_may_be_stored() {
    let (now, mut window) = (
        Instant::now(),
        window(
            Settings {
                named: false,
                ..settings()
            },
            1,
        ),
    );
    let first = add(&mut window, 0, "a", now);
    sent(&mut window, now);
    window.forget_identity();
    window.lost(&Error::unavailable("gone"));
    let second = add(&mut window, 0, "b", now);
    window.set_identity(Some(IDENTITY), &[]);
    assert!(result(&first).unwrap().unwrap_err().is_unknown());
    assert_eq!(sent(&mut window, now), Some((0, 0, vec!["b".into()])));
    assert!(result(&second).is_none());
}

fn unknown_here() -> Error {
    let detail = crate::Detail {
        reason: "PRODUCER_UNKNOWN".into(),
        ..crate::Detail::default()
    };
    Error::Conflict(Arc::new(detail))
}

#[test]
fn a_broker_that_does_not_know_a_nameless_producer_gives_it_a_new_identity() {
    let now = Instant::now();
    let nameless = Settings {
        named: false,
        ..settings()
    };
    let mut window = window(nameless, 3);
    let lost = add(&mut window, 0, "lost", now);
    assert!(sent(&mut window, now).is_some());
    window.lost(&Error::unavailable("gone"));
    let all = [1, 2].map(|partition| add(&mut window, partition, "new", now));
    let later = now + Duration::from_secs(1);
    for _ in 0..3 {
        assert!(sent(&mut window, later).is_some());
    }
    let refused = || Answer::Refused(unknown_here());
    for _ in 0..2 {
        assert_eq!(window.answer(refused(), &At(later)), Verdict::GoOn);
        assert!(
            sent(&mut window, later).is_none(),
            "nothing under the old id"
        );
    }
    assert_eq!(window.answer(refused(), &At(later)), Verdict::UnknownHere);
    window.lost(&Error::unavailable("unknown"));
    assert!(!window.has_identity());
    window.set_identity(Some(IDENTITY), &[]);
    // What may be stored under the old identity is not sent under another one.
    assert!(matches!(result(&lost), Some(Err(Error::Unknown(_)))));
    for _ in &all {
        let (partition, sequence, _) = sent(&mut window, later).unwrap();
        assert_eq!(sequence, 0);
        let stored = Answer::Stored {
            partition,
            base_offset: 5,
            duplicate: false,
        };
        assert_eq!(window.answer(stored, &At(later)), Verdict::GoOn);
    }
    for completion in &all {
        assert_eq!(result(completion).unwrap().unwrap().offset, 5);
    }
}

#[test]
fn a_named_producer_that_is_unknown_says_so() {
    let now = Instant::now();
    let mut window = window(settings(), 1);
    let message = add(&mut window, 0, "a", now);
    assert!(sent(&mut window, now).is_some());
    window.answer(Answer::Refused(unknown_here()), &At(now));
    let error = result(&message).unwrap().unwrap_err();
    assert_eq!(error.reason(), "PRODUCER_UNKNOWN");
}
