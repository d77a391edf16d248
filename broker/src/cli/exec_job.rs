//! One job as a command sees it, and what its end means: pure.
//!
//! The message is the command's standard input; all else comes as variables of its environment.
//! What cannot be one (no text, or too long) is left out and named in `AQUEDUCT_OMITTED`, so that
//! nothing a publisher sends keeps a command from starting. Names of headers come behind a prefix,
//! so that no message sets any other variable.

use std::process::ExitStatus;

use aqueduct_client::{Failure, Job};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Longest value of a variable; and of all headers together.
const LONGEST: usize = 32 * 1024;
/// What is kept of a line of the command's standard error: the broker keeps no more.
const LINE_BYTES: usize = 256;
/// `EX_TEMPFAIL` of sysexits.h: again later.
const RETRY: i32 = 75;
/// `EX_DATAERR`: the message can never be handled.
const DEAD_LETTER: i32 = 65;

/// The variables of a job.
pub(super) fn variables((topic, group): (&str, &str), job: &Job) -> Vec<(String, String)> {
    let mut variables = Variables::default();
    variables.set("TOPIC", topic);
    variables.set("GROUP", group);
    variables.set("PARTITION", &job.partition.to_string());
    variables.set("OFFSET", &job.offset.to_string());
    variables.set("TIMESTAMP_MS", &job.timestamp_ms.to_string());
    variables.set("ATTEMPT", &job.attempt.to_string());
    variables.set("HAND_OUTS", &job.hand_outs.to_string());
    variables.set("LEASE", &job.lease.to_string());
    variables.set("LEASE_DEADLINE_MS", &job.lease_deadline_ms.to_string());
    variables.set("LAST_ERROR", &job.last_error);
    if let Some(failed_ms) = job.first_failure_ms {
        variables.set("FIRST_FAILURE_MS", &failed_ms.to_string());
    }
    if let Some(key) = &job.key {
        match text(key) {
            Some(key) => variables.set("KEY", key),
            None => variables.set("KEY_BASE64", &STANDARD.encode(key)),
        }
    }
    let mut room = LONGEST;
    for header in &job.headers {
        let name = format!("HEADER_{}", shouted(header.name_str()));
        let value = text(header.value.as_deref().unwrap_or_default());
        match value.filter(|value| name.len() + value.len() <= room) {
            // The first of a name counts, as everywhere.
            Some(value) if !variables.has(&name) => {
                room -= name.len() + value.len();
                variables.set(&name, value);
            }
            Some(_) => {}
            None => variables.omit(&name),
        }
    }
    variables.finish()
}

#[derive(Default)]
struct Variables {
    set: Vec<(String, String)>,
    omitted: String,
}

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        if value.len() > LONGEST || value.contains('\0') {
            return self.omit(name);
        }
        self.set
            .push((format!("AQUEDUCT_{name}"), value.to_owned()));
    }

    fn has(&self, name: &str) -> bool {
        let known = |set: &str| set.strip_prefix("AQUEDUCT_") == Some(name);
        self.set.iter().any(|(set, _)| known(set))
    }

    fn omit(&mut self, name: &str) {
        let more = name.get(..name.len().min(100)).unwrap_or("HEADER_");
        if self.omitted.len() + more.len() < LONGEST {
            self.omitted.push_str(&format!("AQUEDUCT_{more} "));
        }
    }

    fn finish(mut self) -> Vec<(String, String)> {
        if !self.omitted.is_empty() {
            let omitted = self.omitted.trim_end().to_owned();
            self.set.push(("AQUEDUCT_OMITTED".to_owned(), omitted));
        }
        self.set
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(text)
}

/// `content-type` as `CONTENT_TYPE`.
fn shouted(name: &str) -> String {
    let letter = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    };
    name.chars().map(letter).collect()
}

/// What a command's end means for its job.
pub(super) fn outcome(status: ExitStatus, last_line: &str) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt as _;
    let said = |otherwise: String| match last_line {
        "" => otherwise,
        line => line.to_owned(),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(DEAD_LETTER), _) => Err(Failure::dead_letter(said("exit code 65".to_owned()))),
        (Some(RETRY), _) => Err(Failure::retry(said("exit code 75".to_owned()))),
        (Some(code), _) => Err(Failure::retry(said(format!("exit code {code}")))),
        (None, Some(signal)) => Err(Failure::retry(said(format!("killed by signal {signal}")))),
        (None, None) => Err(Failure::retry(said(status.to_string()))),
    }
}

/// The last line that is not blank of what flows by, as far as it is kept.
#[derive(Debug, Default)]
pub(super) struct LastLine {
    last: Vec<u8>,
    present: Vec<u8>,
}

impl LastLine {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = lines.next() {
            let room = LINE_BYTES.saturating_sub(self.present.len());
            let part_kept = part.get(..room.min(part.len())).unwrap_or_default();
            self.present.extend_from_slice(part_kept);
            if lines.peek().is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.present.trim_ascii().is_empty() {
            std::mem::swap(&mut self.last, &mut self.present);
        }
        self.present.clear();
    }

    pub(super) fn text(&mut self) -> String {
        self.end_line();
        let text = String::from_utf8_lossy(&self.last);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.chars().map(shown).collect();
        text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn last(parts: &[&[u8]]) -> String {
        let mut line = LastLine::default();
        parts.iter().for_each(|part| line.add(part));
        line.text()
    }

    #[test]
    fn the_last_line_that_says_something_is_kept_in_bounds() {
        assert_eq!(last(&[]), "");
        assert_eq!(last(&[b"one\ntw", b"o\n\n  \n"]), "two");
        assert_eq!(last(&[b"one\n", b"no end"]), "no end");
        assert_eq!(last(&[b"\x1b[31mred\x07\n"]), "[31mred");
        let long = vec![b'x'; 10_000];
        assert_eq!(last(&[b"a\n", &long, &long]).len(), LINE_BYTES);
    }

    #[test]
    fn exit_codes_are_verdicts() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let failed = |status, line| format!("{:?}", outcome(status, line).unwrap_err());
        assert!(outcome(exited(0), "chatter").is_ok());
        assert_eq!(
            failed(exited(65), "bad"),
            format!("{:?}", Failure::dead_letter("bad"))
        );
        for (status, line, text) in [
            (exited(75), "", "exit code 75"),
            (exited(1), "", "exit code 1"),
            (exited(1), "why", "why"),
            (ExitStatus::from_raw(9), "", "killed by signal 9"),
        ] {
            assert_eq!(failed(status, line), format!("{:?}", Failure::retry(text)));
        }
    }

    #[test]
    fn names_are_letters_digits_and_underscores() {
        assert_eq!(shouted("content-type"), "CONTENT_TYPE");
        assert_eq!(shouted("ce_id=\u{e4}\0x"), "CE_ID___X");
    }

    #[test]
    fn what_is_no_variable_is_left_out_and_named() {
        let mut variables = Variables::default();
        variables.set("A", "1");
        variables.set("B", "a\0b");
        variables.set("C", &"x".repeat(LONGEST + 1));
        let all = variables.finish();
        let set: Vec<(&str, &str)> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            set,
            [
                ("AQUEDUCT_A", "1"),
                ("AQUEDUCT_OMITTED", "AQUEDUCT_B AQUEDUCT_C")
            ]
        );
    }
}
