//! Verdicts, renewals, breaks and ends, step by step.

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const LEASE: Duration = Duration::from_millis(3_000);

fn desk(renew: bool) -> Desk<u32> {
    let terms = Terms {
        messages: 4,
        bytes: 1_000,
        batch: 3,
        renew,
    };
    let mut desk = Desk::new(terms);
    desk.opened(LEASE, ms(0));
    assert_eq!(desk.credit(), Some((4, 1_000)));
    desk
}

/// Delivers leases `from..to`, offsets alike, 10 bytes each.
fn deliver(desk: &mut Desk<u32>, leases: std::ops::Range<u64>, now: Duration) -> Vec<Arc<Flag>> {
    let flags: Vec<Arc<Flag>> = leases.clone().map(|_| Arc::default()).collect();
    for (lease, flag) in leases.zip(&flags) {
        assert!(desk.delivered((0, lease), (lease, 10), flag.clone(), now));
    }
    flags
}

fn lost_error() -> Error {
    Error::lease_lost((0, 0))
}

fn leases(request: &[Judged]) -> Vec<u64> {
    request.iter().map(|judged| judged.lease).collect()
}

#[test]
fn verdicts_leave_together_in_order_and_two_requests_at_most() {
    let mut desk = desk(false);
    deliver(&mut desk, 1..5, ms(0));
    desk.judge((0, 1), Verdict::Ack, Some(1));
    let first = desk.request(ms(1)).unwrap();
    assert_eq!(leases(&first), [1]);
    desk.judge((0, 2), Verdict::Ack, Some(2));
    assert_eq!(leases(&desk.request(ms(1)).unwrap()), [2]);
    desk.judge((0, 3), Verdict::Ack, Some(3));
    desk.judge((0, 4), Verdict::retry("no"), Some(4));
    assert_eq!(desk.request(ms(1)), None, "two are on their way");
    desk.settled(vec![Ok(())], ms(2)).unwrap();
    assert_eq!(leases(&desk.request(ms(2)).unwrap()), [3, 4]);
    desk.settled(vec![Err(lost_error())], ms(3)).unwrap();
    desk.settled(vec![Ok(()), Ok(())], ms(4)).unwrap();
    let answers = desk.answers();
    let told: Vec<(u32, bool)> = answers.iter().map(|(n, a)| (*n, a.is_ok())).collect();
    assert_eq!(told, [(1, true), (2, false), (3, true), (4, true)]);
    assert!(desk.is_idle());
    assert!(desk.settled(vec![Ok(())], ms(5)).is_err(), "nobody asked");
}

#[test]
fn a_request_holds_no_more_than_a_batch() {
    let mut desk = desk(false);
    deliver(&mut desk, 1..5, ms(0));
    for lease in 1..5 {
        desk.judge((0, lease), Verdict::Ack, None);
    }
    assert_eq!(leases(&desk.request(ms(1)).unwrap()), [1, 2, 3]);
    assert_eq!(leases(&desk.request(ms(1)).unwrap()), [4]);
}

#[test]
fn a_verdict_makes_room_and_two_verdicts_are_one_too_many() {
    let mut desk = desk(false);
    deliver(&mut desk, 1..5, ms(0));
    assert_eq!(desk.credit(), None);
    desk.judge((0, 1), Verdict::Ack, Some(1));
    assert_eq!(desk.credit(), Some((1, 10)));
    desk.judge((0, 1), Verdict::Release, Some(2));
    let answers = desk.answers();
    assert_eq!(answers.len(), 1);
    assert!(answers[0].0 == 2 && answers[0].1.as_ref().unwrap_err().is_lease_lost());
    desk.judge((0, 2), Verdict::Extend(ms(10)), Some(3));
    assert_eq!(desk.credit(), None, "an extension goes on holding");
}

#[test]
fn leases_are_renewed_after_a_third_until_there_is_a_verdict() {
    let mut desk = desk(true);
    let flags = deliver(&mut desk, 1..3, ms(0));
    assert_eq!(desk.wake_at(), Some(ms(1_000)));
    desk.tick(ms(999));
    assert_eq!(desk.request(ms(999)), None);
    desk.tick(ms(1_000));
    // One is judged before its renewal leaves: only the verdict does.
    desk.judge((0, 2), Verdict::Ack, Some(2));
    let request = desk.request(ms(1_000)).unwrap();
    assert_eq!(leases(&request), [1, 2]);
    assert_eq!(request[0].verdict, Verdict::Extend(LEASE));
    assert_eq!(request[1].verdict, Verdict::Ack);
    desk.settled(vec![Ok(()), Ok(())], ms(1_500)).unwrap();
    assert_eq!(desk.wake_at(), Some(ms(2_000)), "from when it was sent");
    desk.tick(ms(2_000));
    desk.request(ms(2_000)).unwrap();
    desk.settled(vec![Err(lost_error())], ms(2_001)).unwrap();
    assert!(flags[0].is_set() && !flags[1].is_set());
    assert_eq!(desk.lost().len(), 1);
    assert!(desk.is_idle());
}

#[test]
fn without_word_from_the_broker_a_lease_is_lost_at_its_end() {
    let mut desk = desk(true);
    let flags = deliver(&mut desk, 1..2, ms(0));
    desk.disconnected();
    desk.tick(ms(1_000));
    assert_eq!(desk.wake_at(), Some(LEASE));
    desk.tick(LEASE);
    assert!(flags[0].is_set());
    desk.judge((0, 1), Verdict::Ack, Some(1));
    assert!(desk.answers()[0].1.as_ref().unwrap_err().is_lease_lost());
    desk.opened(LEASE, ms(4_000));
    assert_eq!(desk.request(ms(4_000)), None, "its renewal is for nothing");
    assert_eq!(desk.credit(), Some((4, 1_000)));
}

#[test]
fn what_was_on_its_way_goes_again_and_is_unknown_if_the_lease_is_over_then() {
    let mut desk = desk(true);
    deliver(&mut desk, 1..4, ms(0));
    desk.judge((0, 1), Verdict::Ack, Some(1));
    desk.request(ms(1)).unwrap();
    desk.disconnected();
    desk.judge((0, 2), Verdict::Ack, Some(2));
    desk.opened(LEASE, ms(10));
    desk.tick(ms(10));
    let request = desk.request(ms(10)).unwrap();
    assert_eq!(leases(&request), [1, 2, 3], "and the third is renewed");
    let results = vec![Err(lost_error()), Err(lost_error()), Ok(())];
    desk.settled(results, ms(11)).unwrap();
    let answers = desk.answers();
    assert!(matches!(answers[0], (1, Err(Error::Unknown(_)))));
    assert!(answers[1].0 == 2 && answers[1].1.as_ref().unwrap_err().is_lease_lost());
}

#[test]
fn what_could_not_be_judged_goes_again_after_a_while() {
    let mut desk = desk(false);
    deliver(&mut desk, 1..2, ms(0));
    desk.judge((0, 1), Verdict::Ack, Some(1));
    desk.request(ms(0)).unwrap();
    let trouble = Err(Error::unavailable("later"));
    desk.settled(vec![trouble], ms(1)).unwrap();
    assert!(desk.answers().is_empty());
    assert_eq!(desk.request(ms(2)), None);
    let at = desk.wake_at().unwrap();
    desk.request(at).unwrap();
    desk.settled(vec![Ok(())], at).unwrap();
    assert_eq!(desk.answers().len(), 1);
    assert!(desk.is_idle());
}

#[test]
fn draining_asks_for_nothing_and_gives_back_what_comes() {
    let mut desk = desk(true);
    let flags = deliver(&mut desk, 1..2, ms(0));
    desk.drain();
    assert_eq!(desk.credit(), None);
    assert!(!desk.delivered((0, 2), (2, 10), Arc::default(), ms(1)));
    let request = desk.request(ms(1)).unwrap();
    assert_eq!(request[0].verdict, Verdict::Release);
    desk.settled(vec![Ok(())], ms(2)).unwrap();
    assert!(!desk.is_idle() && !flags[0].is_set());
    desk.release_all();
    assert!(flags[0].is_set());
    assert_eq!(leases(&desk.request(ms(3)).unwrap()), [1]);
    desk.settled(vec![Ok(())], ms(4)).unwrap();
    assert!(desk.is_idle());
}

#[test]
fn at_the_end_everybody_is_answered() {
    let mut desk = desk(false);
    let flags = deliver(&mut desk, 1..4, ms(0));
    desk.judge((0, 1), Verdict::Ack, Some(1));
    desk.request(ms(0)).unwrap();
    desk.judge((0, 2), Verdict::Ack, Some(2));
    desk.fail(&Error::closed("over"));
    let answers = desk.answers();
    assert!(matches!(answers[0], (1, Err(Error::Unknown(_)))));
    assert!(matches!(answers[1], (2, Err(Error::Closed(_)))));
    assert!(flags[2].is_set());
    assert!(desk.is_idle());
}
