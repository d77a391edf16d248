//! How records are printed: as JSON with a fixed order of keys, raw, or in columns.
//!
//! | Key         | Value                                                            |
//! |-------------|------------------------------------------------------------------|
//! | `topic`     | name                                                             |
//! | `partition` | number                                                           |
//! | `offset`    | number                                                           |
//! | `timestamp` | milliseconds since 1970                                          |
//! | `key`       | text or null; `key_base64` instead if it is not UTF-8            |
//! | `value`     | text or null; `value_base64` instead if it is not UTF-8          |
//! | `headers`   | list of `{"name", "value"}` in order, duplicates kept            |
//!
//! Everything is written into a buffer of the caller; millions of records pass through here.

use aqueduct_client::Record;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::values::show_time;

/// Longest text of a column in the table.
const COLUMN: usize = 60;

/// Appends a record as one JSON object, without a newline.
pub(super) fn write_json(buffer: &mut Vec<u8>, topic: &str, record: &Record) {
    use std::io::Write as _;
    buffer.extend_from_slice(b"{\"topic\":");
    write_text(buffer, topic);
    let (partition, offset, time) = (record.partition, record.offset, record.timestamp_ms);
    // Writing into memory cannot fail.
    let _ = write!(
        buffer,
        ",\"partition\":{partition},\"offset\":{offset},\"timestamp\":{time},"
    );
    write_field(buffer, "key", record.key.as_deref());
    buffer.push(b',');
    write_field(buffer, "value", record.value.as_deref());
    buffer.extend_from_slice(b",\"headers\":[");
    for (place, header) in record.headers.iter().enumerate() {
        buffer.extend_from_slice(if place == 0 {
            b"{\"name\":"
        } else {
            b",{\"name\":"
        });
        write_text(buffer, header.name_str());
        buffer.push(b',');
        write_field(buffer, "value", header.value.as_deref());
        buffer.push(b'}');
    }
    buffer.extend_from_slice(b"]}");
}

/// Appends the value and a newline; nothing marks a missing one.
pub(super) fn write_raw(buffer: &mut Vec<u8>, record: &Record) {
    buffer.extend_from_slice(record.value.as_deref().unwrap_or_default());
    buffer.push(b'\n');
}

/// The columns' names, as [`write_row`] aligns them.
pub(super) const ROW_HEADER: &[u8] =
    b"PARTITION      OFFSET  TIME                      KEY               VALUE\n";

/// Appends a record as one line of columns.
pub(super) fn write_row(buffer: &mut Vec<u8>, record: &Record) {
    use std::io::Write as _;
    let key = shorten(record.key.as_deref());
    let value = shorten(record.value.as_deref());
    let time = show_time(record.timestamp_ms);
    let (partition, offset) = (record.partition, record.offset);
    // Writing into memory cannot fail.
    let _ = write!(
        buffer,
        "{partition:>9}  {offset:>10}  {time:<24}  {key:<16}  {value}"
    );
    for header in &record.headers {
        let _ = write!(
            buffer,
            "  {}={}",
            header.name_str(),
            shorten(header.value.as_deref())
        );
    }
    buffer.push(b'\n');
}

/// `"name":"text"`, `"name":null` or `"name_base64":"…"`.
fn write_field(buffer: &mut Vec<u8>, name: &str, bytes: Option<&[u8]>) {
    buffer.push(b'"');
    buffer.extend_from_slice(name.as_bytes());
    match bytes.map(std::str::from_utf8) {
        None => buffer.extend_from_slice(b"\":null"),
        Some(Ok(text)) => {
            buffer.extend_from_slice(b"\":");
            write_text(buffer, text);
        }
        Some(Err(_)) => {
            buffer.extend_from_slice(b"_base64\":\"");
            buffer.extend_from_slice(STANDARD.encode(bytes.unwrap_or_default()).as_bytes());
            buffer.push(b'"');
        }
    }
}

fn write_text(buffer: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(buffer, text).expect("text into memory always serialises");
}

/// Text for one column: no line breaks, no control characters, not too long.
fn shorten(bytes: Option<&[u8]>) -> String {
    let Some(bytes) = bytes else {
        return "-".to_owned();
    };
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * COLUMN)]);
    let mut short: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{b7}' } else { c })
        .take(COLUMN)
        .collect();
    if short.len() < bytes.len() && short.chars().count() == COLUMN {
        short.push('\u{2026}');
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use aqueduct_client::Header;
    use bytes::Bytes;

    fn record() -> Record {
        Record {
            partition: 3,
            offset: 7,
            timestamp_ms: 1_700_000_000_000,
            key: Some(Bytes::from_static(b"k\"1")),
            value: Some(Bytes::from_static(b"a\nb")),
            headers: Vec::new(),
        }
    }

    fn json(record: &Record) -> String {
        let mut buffer = Vec::new();
        write_json(&mut buffer, "orders", record);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn keys_have_their_order() {
        assert_eq!(
            json(&record()),
            r#"{"topic":"orders","partition":3,"offset":7,"timestamp":1700000000000,"key":"k\"1","value":"a\nb","headers":[]}"#
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        let mut record = record();
        record.key = None;
        record.value = Some(Bytes::from_static(&[0xff, 0x00]));
        record.headers = vec![
            Header::new("h", &b"1"[..]),
            Header::new("h", &[0xfe][..]),
            Header {
                name: Bytes::from_static(b"n"),
                value: None,
            },
        ];
        let text = json(&record);
        let expected = r#""key":null,"value_base64":"/wA=","headers":[{"name":"h","value":"1"},{"name":"h","value_base64":"/g=="},{"name":"n","value":null}]}"#;
        assert!(text.ends_with(expected), "{text}");
        let _: serde_json::Value = serde_json::from_str(&text).unwrap();
    }

    #[test]
    fn rows_are_one_line() {
        let mut record = record();
        record.value = Some(Bytes::from("x\ty\n".repeat(100)));
        let mut buffer = Vec::new();
        write_row(&mut buffer, &record);
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.trim_end().ends_with('\u{2026}'), "{text}");
    }
}
