//! The history of attempts, through the state.

use super::{super::history::End, *};

#[test]
fn what_an_older_version_saved_loads() {
    let mut state = begun();
    let lease = grant(&state, 0..20, 1_000);
    apply(&mut state, 10, lease);
    let saved = state.save();
    // Version 1 ends before the histories and the results of steps, of which there are none.
    let (older, none) = saved.split_at(saved.len() - 6);
    assert_eq!(none, [0; 6]);
    let mut older = older.to_vec();
    older[0] = 1;
    assert_eq!(State::load(&older).map(|state| state.save()), Ok(saved));
    older[0] = 0;
    assert!(State::load(&older).is_err());
}

#[test]
fn the_history_tells_how_each_attempt_ended() {
    let mut state = begun();
    let mut now_ms = 0;
    let mut attempt = |state: &mut State, end: &dyn Fn(Verdicts) -> Kind, action: Action| {
        now_ms += 100;
        let lease = grant(state, 5..6, now_ms + 50);
        apply(state, now_ms, lease);
        let verdicts = verdict(5, 1, state.next_lease() - 1, action);
        apply(state, now_ms + 50, end(verdicts));
    };
    attempt(&mut state, &Kind::Expire, retry(0, ""));
    attempt(&mut state, &Kind::Gone, retry(0, ""));
    attempt(&mut state, &Kind::Gone, Action::Release(true));
    attempt(&mut state, &Kind::Gone, death(Reason::Attempts));
    let known: Vec<_> = state
        .dead_history(1)
        .map(|it| (it.number, it.hand_out, it.end, it.ended_ms))
        .collect();
    let expected = [
        (1, 1, End::Expired, 150),
        (2, 2, End::Lost, 250),
        (3, 4, End::Lost, 450),
    ];
    assert_eq!(known, expected);
    assert_eq!(state.history(5).count(), 0);
    apply(&mut state, 0, Kind::DeadWritten(1));
    assert_eq!(state.dead_history(1).count(), 0);
}
