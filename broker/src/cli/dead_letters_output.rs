//! How dead letters are printed.
//!
//! As JSON: the keys of a record (see [`records`]) with the dead-letter topic's partition and
//! offset, and then
//!
//! | Key                                  | Value                                          |
//! |--------------------------------------|------------------------------------------------|
//! | `group`                              | the group that gave it up                      |
//! | `reason`                             | ATTEMPTS, HAND_OUTS, REJECTED, EXPIRED, PARKED |
//! | `error`                              | text of the last failure                       |
//! | `attempts`, `hand_outs`              | numbers                                        |
//! | `source_partition`, `source_offset`  | where the message lay                          |
//! | `number`                             | counted from 1 for each source partition       |
//! | `died`, `first_failure`, `published` | milliseconds since 1970; null = not known      |
//! | `history`                            | failed attempts: the latest, the oldest first  |
//!
//! `topic` is the topic that the message comes from.

use std::io;

use aqueduct_client::{DeadLetter, DeadLettersProgress, FailedAttempt};
use serde_json::{Map, Value, json};

use super::{
    output::{self, Format},
    queue_output::history_text,
    records,
    values::show_time,
};

/// How much of each is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Line,
    Page,
}

/// Prints dead letters one after the other.
pub(super) struct Printer {
    format: Format,
    detail: Detail,
    count: u64,
}

impl Printer {
    pub(super) fn new(format: Format, detail: Detail) -> Self {
        Self {
            format,
            detail,
            count: 0,
        }
    }

    pub(super) fn add(&mut self, buffer: &mut Vec<u8>, letter: &DeadLetter) {
        let first = self.count == 0;
        self.count += 1;
        match (self.format, self.detail) {
            (Format::Json, _) => {
                buffer.extend_from_slice(if first { b"[" } else { b",\n" });
                write_json(buffer, letter);
            }
            (Format::Jsonl, _) => {
                write_json(buffer, letter);
                buffer.push(b'\n');
            }
            (Format::Table, Detail::Line) => {
                if first {
                    buffer.extend_from_slice(ROW_HEADER);
                }
                write_row(buffer, letter);
            }
            (Format::Table, Detail::Page) => {
                if !first {
                    buffer.push(b'\n');
                }
                write_page(buffer, letter);
            }
        }
    }

    /// What comes after the last.
    pub(super) fn end(&self) -> &'static [u8] {
        match (self.format, self.detail, self.count) {
            (Format::Json, _, 0) => b"[]\n",
            (Format::Json, ..) => b"]\n",
            (Format::Table, Detail::Line, 0) => ROW_HEADER,
            _ => b"",
        }
    }
}

const ROW_HEADER: &[u8] =
    b"PARTITION      OFFSET  DIED                      REASON     ATTEMPTS  SOURCE          ERROR\n";

fn write_row(buffer: &mut Vec<u8>, letter: &DeadLetter) {
    use std::io::Write as _;
    let (partition, offset) = (letter.record.partition, letter.record.offset);
    let source = format!("{}:{}", letter.source_partition, letter.source_offset);
    let error: String = letter.error.chars().map(plain).take(60).collect();
    // Writing into memory cannot fail.
    let _ = writeln!(
        buffer,
        "{partition:>9}  {offset:>10}  {:<24}  {:<9}  {:>8}  {source:<14}  {error}",
        show_time(letter.death_ms),
        letter.reason.name(),
        letter.attempts,
    );
}

pub(super) fn plain(c: char) -> char {
    if c.is_control() { '\u{b7}' } else { c }
}

fn write_page(buffer: &mut Vec<u8>, letter: &DeadLetter) {
    let mut line = |name: &str, value: &[u8]| {
        buffer.extend_from_slice(format!("{name:<14} ").as_bytes());
        buffer.extend_from_slice(value);
        buffer.push(b'\n');
    };
    let record = &letter.record;
    let time = |ms: Option<i64>| ms.map_or_else(|| "(none)".to_owned(), show_time);
    let place = format!("{}:{}", record.partition, record.offset);
    line("id", place.as_bytes());
    let source = format!(
        "{} {}:{}",
        letter.source_topic, letter.source_partition, letter.source_offset
    );
    line("source", source.as_bytes());
    line("group", letter.group.as_bytes());
    line("number", letter.number.to_string().as_bytes());
    line("reason", letter.reason.name().as_bytes());
    let error: String = letter.error.chars().map(plain).collect();
    line("error", error.as_bytes());
    line("attempts", letter.attempts.to_string().as_bytes());
    line("hand-outs", letter.hand_outs.to_string().as_bytes());
    for attempt in history_text(&letter.history, letter.attempts) {
        line("  attempt", attempt.as_bytes());
    }
    line("published", time(letter.published_ms).as_bytes());
    line("first failure", time(letter.first_failure_ms).as_bytes());
    line("died", time(Some(letter.death_ms)).as_bytes());
    line("key", record.key.as_deref().unwrap_or(b"(none)"));
    for header in &record.headers {
        let value = String::from_utf8_lossy(header.value.as_deref().unwrap_or_default());
        let text = format!("{}={value}", header.name_str());
        line("header", text.as_bytes());
    }
    line("value", record.value.as_deref().unwrap_or(b"(none)"));
}

fn write_json(buffer: &mut Vec<u8>, letter: &DeadLetter) {
    records::write_json(buffer, &letter.source_topic, &letter.record);
    // The object goes on.
    buffer.pop();
    let attempt = |it: &FailedAttempt| {
        json!({
            "attempt": it.attempt,
            "hand_out": it.hand_out,
            "end": it.end.name(),
            "ended": it.end_ms,
            "consumer": it.consumer.to_string(),
            "error": it.error,
        })
    };
    let history: Vec<Value> = letter.history.iter().map(attempt).collect();
    let fields = [
        ("group", json!(letter.group)),
        ("reason", json!(letter.reason.name())),
        ("error", json!(letter.error)),
        ("attempts", json!(letter.attempts)),
        ("hand_outs", json!(letter.hand_outs)),
        ("source_partition", json!(letter.source_partition)),
        ("source_offset", json!(letter.source_offset)),
        ("number", json!(letter.number)),
        ("died", json!(letter.death_ms)),
        ("first_failure", json!(letter.first_failure_ms)),
        ("published", json!(letter.published_ms)),
        ("history", Value::from(history)),
    ];
    for (name, value) in fields {
        buffer.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
    }
    buffer.push(b'}');
}

/// What a redrive or discard came to.
pub(super) fn moved(
    format: Format,
    past: &str,
    dry_run: bool,
    progress: &DeadLettersProgress,
) -> io::Result<()> {
    if format != Format::Table {
        let reasons = progress.reasons.iter();
        let reasons: Map<String, Value> = reasons
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect();
        return output::print_json(&json!({
            "dry_run": dry_run,
            "total": progress.total,
            "examined": progress.examined,
            "matched": progress.matched,
            past: progress.moved,
            "failed": progress.failed,
            "done": progress.done,
            "reasons": reasons,
        }));
    }
    let would = if dry_run { "would be " } else { "" };
    let mut text = format!(
        "{} of {} dead letters {would}{past}",
        progress.moved, progress.total
    );
    if progress.failed > 0 {
        text += &format!(", {} stay: damaged, or too large", progress.failed);
    }
    if !progress.done {
        text += "; not finished";
    }
    text.push('\n');
    for (reason, count) in &progress.reasons {
        text += &format!("  {count:>10}  {}\n", reason.name());
    }
    output::print(text)
}
