//! The history of attempts in the header of a dead letter's copy: a JSON array, an object for each
//! attempt, the oldest first. Pure.
//!
//! `[{"attempt":1,"hand_out":1,"time":1792000000000,"end":"RETRY","consumer":"17","error":"no"}]`
//!
//! Times are milliseconds since 1970; a consumer's number is text, because JSON's numbers end at
//! 2^53 for many a reader. What anybody else wrote under the header's name reads as nothing.

use serde::{Deserialize, Serialize};

use crate::{
    limits::MAX_HISTORY_ATTEMPTS,
    queue::history::{End, PastAttempt},
};

/// A header that is longer than this was written by nobody here, bytes.
const LONGEST: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
struct Object {
    attempt: u32,
    hand_out: u32,
    time: i64,
    end: String,
    consumer: String,
    error: String,
}

/// The header's value.
pub(super) fn write(history: &[PastAttempt]) -> String {
    let object = |it: &PastAttempt| Object {
        attempt: it.number,
        hand_out: it.hand_out,
        time: it.ended_ms,
        end: it.end.name().into(),
        consumer: it.consumer.to_string(),
        error: it.error.clone(),
    };
    let objects: Vec<Object> = history.iter().map(object).collect();
    // Numbers and texts can always be written.
    serde_json::to_string(&objects).unwrap_or_default()
}

/// The inverse of [`write`].
pub(super) fn read(value: &[u8]) -> Vec<PastAttempt> {
    let objects = match value.len() {
        1..=LONGEST => serde_json::from_slice::<Vec<Object>>(value).unwrap_or_default(),
        _ => Vec::new(),
    };
    let attempt = |it: Object| {
        Some(PastAttempt {
            number: it.attempt,
            hand_out: it.hand_out,
            consumer: it.consumer.parse().ok()?,
            ended_ms: it.time,
            end: End::ALL.into_iter().find(|end| end.name() == it.end)?,
            error: it.error,
        })
    };
    let attempts = objects.into_iter().take(MAX_HISTORY_ATTEMPTS);
    attempts.map_while(attempt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, error: &str) -> PastAttempt {
        PastAttempt {
            number,
            hand_out: number + 1,
            consumer: u64::MAX,
            ended_ms: 1_792_000_000_000,
            end: End::ALL[number as usize % 4],
            error: error.to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let history = [
            attempt(1, ""),
            attempt(2, "no \"é\"\n\u{0}"),
            attempt(3, "x"),
        ];
        assert_eq!(read(write(&history).as_bytes()), history);
        let one = write(&[attempt(4, "no")]);
        let expected = concat!(
            r#"[{"attempt":4,"hand_out":5,"time":1792000000000,"end":"RETRY","#,
            r#""consumer":"18446744073709551615","error":"no"}]"#
        );
        assert_eq!(one, expected);
        // Eight attempts with texts of nothing but escapes.
        let long: Vec<_> = (1..=8).map(|n| attempt(n, &"\u{1}".repeat(64))).collect();
        let text = write(&long);
        assert!(text.len() < LONGEST, "{}", text.len());
        assert_eq!(read(text.as_bytes()), long);
    }

    #[test]
    fn what_others_wrote_there_is_nothing() {
        let many = write(&vec![attempt(1, ""); 50]);
        assert_eq!(read(many.as_bytes()).len(), 8);
        let huge = format!("[{}]", " ".repeat(LONGEST));
        for bad in [
            "",
            "[]",
            "{}",
            "null",
            "[1]",
            "[{}]",
            "[{\"attempt\":-1}]",
            &huge,
        ] {
            assert_eq!(read(bad.as_bytes()), [], "{bad}");
        }
        assert_eq!(read(b"[\xff]"), []);
        assert_eq!(read("[".repeat(10_000).as_bytes()), []);
    }
}
