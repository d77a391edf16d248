//! One JSON line as a message. What `sub -o jsonl` prints can be published again.
//!
//! | Field                   | Value                                                         |
//! |-------------------------|---------------------------------------------------------------|
//! | `value`, `value_base64` | text, bytes, or any JSON as its compact text; null is no value |
//! | `key`, `key_base64`     | likewise                                                      |
//! | `headers`               | list of `{"name", "value" or "value_base64"}`, or an object   |
//! | `partition`             | number                                                        |
//! | `timestamp`             | milliseconds since 1970, or RFC 3339 text                     |
//! | `dedup_id`              | text, or the field that `--dedup-field` names                 |
//! | `delay`, `ttl`          | text such as `5m`, for queue groups                           |
//! | `deliver_at`            | as `timestamp`                                                |
//! | `priority`              | 0 to 9                                                        |
//! | `topic`, `offset`       | ignored: where `sub` found it                                 |
//!
//! Any other field is an error, since it is more likely misspelt than meant.

use anyhow::Context as _;
use aqueduct_client::Message;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::values;

/// A message and what else its line said.
pub(super) struct Described {
    pub(super) message: Message,
    /// It has a key or a partition of its own.
    pub(super) keyed: bool,
    /// What a key is looked for in.
    pub(super) value: Bytes,
}

/// Reads one JSON line; `dedup_field` is where its dedup id is.
pub(super) fn describe(line: &[u8], dedup_field: &str) -> anyhow::Result<Described> {
    let mut fields: Map<String, Value> =
        serde_json::from_slice(line).context("not a JSON object")?;
    let value = bytes_field(&mut fields, "value")?;
    let key = bytes_field(&mut fields, "key")?;
    let mut message = match &value {
        Some(value) => Message::new(value.clone()),
        None => Message::tombstone(),
    };
    let mut keyed = key.is_some();
    if let Some(key) = key {
        message = message.key(key);
    }
    if let Some(headers) = fields.remove("headers") {
        message = add_headers(message, headers)?;
    }
    if let Some(partition) = fields.remove("partition").filter(|it| !it.is_null()) {
        let partition = partition
            .as_u64()
            .and_then(|number| u32::try_from(number).ok());
        message = message.partition(partition.context("partition is not a number")?);
        keyed = true;
    }
    if let Some(time) = fields.remove("timestamp").filter(|it| !it.is_null()) {
        message = message.timestamp_ms(time_ms("timestamp", &time)?);
    }
    message = add_options(message, &mut fields)?;
    if let Some(id) = fields.remove(dedup_field).filter(|it| !it.is_null()) {
        let text = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        message = message.dedup_id(text);
    }
    // Where `sub` found it says nothing about where it goes.
    fields.remove("topic");
    fields.remove("offset");
    if let Some(unknown) = fields.keys().next() {
        anyhow::bail!(
            "unknown field {unknown:?}; known are key, value, headers, partition, timestamp, delay, deliver_at, ttl, priority and dedup_id"
        );
    }
    Ok(Described {
        message,
        keyed,
        value: value.unwrap_or_default(),
    })
}

fn time_ms(name: &str, time: &Value) -> anyhow::Result<i64> {
    let text = || values::absolute_ms(time.as_str()?);
    time.as_i64()
        .or_else(text)
        .with_context(|| format!("{name} is neither milliseconds nor RFC 3339 text"))
}

/// What a message asks of queue groups.
fn add_options(mut message: Message, fields: &mut Map<String, Value>) -> anyhow::Result<Message> {
    let mut take = |name: &str| fields.remove(name).filter(|it| !it.is_null());
    let duration = |name: &str, value: Value| {
        let text = value.as_str().map(values::duration);
        text.and_then(Result::ok)
            .with_context(|| format!("{name} is not a duration such as \"5m\""))
    };
    if let Some(delay) = take("delay") {
        message = message.delay(duration("delay", delay)?);
    }
    if let Some(time) = take("deliver_at") {
        message = message.deliver_at_ms(time_ms("deliver_at", &time)?);
    }
    if let Some(ttl) = take("ttl") {
        message = message.ttl(duration("ttl", ttl)?);
    }
    if let Some(priority) = take("priority") {
        let number = priority.as_u64().and_then(|n| u8::try_from(n).ok());
        let number = number.filter(|priority| *priority <= 9);
        message = message.priority(number.context("priority is not a number from 0 to 9")?);
    }
    Ok(message)
}

fn add_headers(mut message: Message, headers: Value) -> anyhow::Result<Message> {
    match headers {
        Value::Null => {}
        Value::Object(pairs) => {
            for (name, value) in pairs {
                message = message.header(name, text_of(value).unwrap_or_default());
            }
        }
        Value::Array(list) => {
            for header in list {
                let Value::Object(mut header) = header else {
                    anyhow::bail!("a header is not an object with name and value");
                };
                let Some(Value::String(name)) = header.remove("name") else {
                    anyhow::bail!("a header has no name");
                };
                let value = bytes_field(&mut header, "value")?;
                message = message.header(name, value.unwrap_or_default());
            }
        }
        _ => anyhow::bail!("headers is neither a list nor an object"),
    }
    Ok(message)
}

/// Takes `name` as text or `name_base64` as bytes; missing and null are `None`.
fn bytes_field(fields: &mut Map<String, Value>, name: &str) -> anyhow::Result<Option<Bytes>> {
    let plain = fields.remove(name).and_then(text_of);
    let encoded = fields.remove(&format!("{name}_base64"));
    match (plain, encoded) {
        (Some(_), Some(_)) => anyhow::bail!("both {name} and {name}_base64"),
        (Some(text), None) => Ok(Some(text)),
        (None, None | Some(Value::Null)) => Ok(None),
        (None, Some(encoded)) => {
            let text = encoded
                .as_str()
                .with_context(|| format!("{name}_base64 is not text"))?;
            let bytes = STANDARD
                .decode(text)
                .with_context(|| format!("{name}_base64"))?;
            Ok(Some(bytes.into()))
        }
    }
}

/// Text as it is, other JSON as its compact text, null as nothing.
fn text_of(value: Value) -> Option<Bytes> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn json_lines_describe_messages() {
        let read = |line: &str| describe(line.as_bytes(), "dedup_id").map(|it| it.message);
        let full = read(
            r#"{"topic":"t","partition":2,"offset":9,"timestamp":5,"key":"k","value_base64":"/wA=",
            "headers":[{"name":"a","value":"1"},{"name":"a","value_base64":"/g=="}],"dedup_id":"x"}"#,
        );
        let expected = Message::new(&[0xff, 0][..])
            .key("k")
            .header("a", "1")
            .header("a", &[0xfe][..])
            .partition(2)
            .timestamp_ms(5)
            .dedup_id("x");
        assert_eq!(full.unwrap(), expected);
        assert_eq!(
            read(r#"{"value":{"a": [1]}}"#).unwrap(),
            Message::new(r#"{"a":[1]}"#)
        );
        assert_eq!(
            read(r#"{"key":"k","value":null}"#).unwrap(),
            Message::tombstone().key("k")
        );
        let object = read(r#"{"value":"v","headers":{"a":"1","b":2}}"#).unwrap();
        assert_eq!(object, Message::new("v").header("a", "1").header("b", "2"));
        for bad in [
            "",
            "[]",
            "{",
            r#"{"value":"v","colour":"red"}"#,
            r#"{"value":"v","value_base64":"/w=="}"#,
            r#"{"value_base64":"?"}"#,
            r#"{"value":"v","partition":-1}"#,
            r#"{"value":"v","timestamp":"soon"}"#,
            r#"{"value":"v","delay":5}"#,
            r#"{"value":"v","deliver_at":"soon"}"#,
            r#"{"value":"v","priority":10}"#,
            r#"{"value":"v","headers":[{"value":"x"}]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_field_of_the_line_is_the_dedup_id() {
        let described = describe(br#"{"value":"v","order":17}"#, "order").unwrap();
        assert_eq!(described.message, Message::new("v").dedup_id("17"));
    }
}
