//! Messages as canonical proto3 JSON, both ways.
//!
//! Reading is strict: unknown fields, wrong types and text behind the end are refused, and the
//! refusal names the field. Writing shows fields without presence also when they are zero, so
//! that `offset` 0 is seen.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::bytes::Buf;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde::de::IntoDeserializer as _;

use super::status::Problem;
use crate::limits::MAX_JSON_ELEMENTS;

const STRICT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);
const SHOWN: SerializeOptions = SerializeOptions::new().skip_default_fields(false);

/// Reads a message; no text at all is the empty message.
///
/// # Errors
/// A refusal that names the field.
pub(super) fn from_json(
    message: &MessageDescriptor,
    text: &[u8],
) -> Result<DynamicMessage, Problem> {
    check_elements(text)?;
    if text.trim_ascii().is_empty() {
        return Ok(DynamicMessage::new(message.clone()));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = DynamicMessage::deserialize_with_options(message.clone(), &mut json, &STRICT);
    match read.and_then(|read| json.end().map(|()| read)) {
        Ok(read) => Ok(read),
        Err(error) => Err(explain(message, text, &error)),
    }
}

/// A few bytes of JSON can become a hundred bytes of memory: what bounds that is the number of
/// elements, which commas and braces count well enough.
fn check_elements(text: &[u8]) -> Result<(), Problem> {
    if text.len() <= MAX_JSON_ELEMENTS {
        return Ok(());
    }
    let elements = text
        .iter()
        .filter(|byte| matches!(byte, b',' | b'{'))
        .count();
    if elements > MAX_JSON_ELEMENTS {
        let why = format!("{elements} elements, the limit is {MAX_JSON_ELEMENTS}");
        return Err(Problem::invalid("body", &why));
    }
    Ok(())
}

/// Reads once more, slowly, to know where it failed.
fn explain(message: &MessageDescriptor, text: &[u8], error: &serde_json::Error) -> Problem {
    if !error.is_data() {
        return Problem::invalid("body", &format!("not JSON: {error}"));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let watched = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = DynamicMessage::deserialize_with_options(message.clone(), watched, &STRICT);
    let why = read
        .err()
        .map_or_else(|| error.to_string(), |e| e.to_string());
    let path = track.path().to_string();
    let path = if path == "." { "" } else { path.as_str() };
    let unknown = why
        .strip_prefix("unrecognized field name '")
        .and_then(|rest| rest.split_once('\''));
    match unknown {
        Some((name, at)) => {
            let separator = if path.is_empty() { "" } else { "." };
            let why = format!("{} has no such field{at}", message_at(message, path));
            Problem::invalid(&format!("{path}{separator}{name}"), &why)
        }
        None if path.is_empty() => Problem::invalid("body", &why),
        None => Problem::invalid(path, &why),
    }
}

fn message_at(message: &MessageDescriptor, path: &str) -> String {
    if path.is_empty() {
        message.name().to_owned()
    } else {
        path.to_owned()
    }
}

/// Writes an encoded message as JSON.
///
/// # Errors
/// If the bytes are not such a message, which the services rule out.
pub(super) fn to_json(message: &MessageDescriptor, encoded: impl Buf) -> Result<Vec<u8>, String> {
    let size = encoded.remaining();
    let read = DynamicMessage::decode(message.clone(), encoded).map_err(|e| e.to_string())?;
    let mut out = Vec::with_capacity(size * 2 + 64);
    let mut json = serde_json::Serializer::new(&mut out);
    read.serialize_with_options(&mut json, &SHOWN)
        .map_err(|e| e.to_string())?;
    Ok(out)
}

/// A value that JSON gives as text: time stamps, durations, field masks.
///
/// # Errors
/// What is wrong with it.
pub(super) fn from_text(message: &MessageDescriptor, text: &str) -> Result<DynamicMessage, String> {
    let value = serde_json::Value::String(text.to_owned());
    let read = DynamicMessage::deserialize_with_options(
        message.clone(),
        value.into_deserializer(),
        &STRICT,
    );
    read.map_err(|error| error.to_string())
}

/// A message in the frame that gRPC gives it: one byte of flags, four of length.
///
/// # Errors
/// If it is too long for the length.
pub(super) fn frame(message: &impl prost::Message) -> Result<Bytes, Problem> {
    let size = message.encoded_len();
    let length = u32::try_from(size).map_err(|_| Problem::internal("a message beyond 4 GiB"))?;
    let mut out = BytesMut::with_capacity(size + 5);
    out.put_u8(0);
    out.put_u32(length);
    message
        .encode(&mut out)
        .map_err(|error| Problem::internal(error.to_string()))?;
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::http::schema::Schema;

    fn refused(text: &str) -> String {
        let schema = Schema::load().unwrap();
        let publish = &schema.methods[schema.publish].input;
        from_json(publish, text.as_bytes()).unwrap_err().line()
    }

    #[test]
    fn a_refusal_names_the_field() {
        for (text, field) in [
            (r#"{"topik":"a"}"#, r#""field":"topik""#),
            (
                r#"{"messages":[{"value":"aGk="},{"valu":"aGk="}]}"#,
                r#""field":"messages[1].valu""#,
            ),
            (r#"{"topic":7}"#, r#""field":"topic""#),
            (
                r#"{"messages":[{"partition":"x"}]}"#,
                r#""field":"messages[0].partition""#,
            ),
            (
                r#"{"messages":[{"partition":-1}]}"#,
                r#""field":"messages[0].partition""#,
            ),
            (
                r#"{"messages":[{"value":"%%"}]}"#,
                r#""field":"messages[0].value""#,
            ),
            (r#"{"messages":{}}"#, r#""field":"messages""#),
            (r"[]", r#""field":"body""#),
            (r#"{"topic":"a""#, r#""field":"body""#),
            (r#"{"topic":"a"} x"#, r#""field":"body""#),
        ] {
            let said = refused(text);
            assert!(said.contains(field), "{text}: {said}");
        }
    }

    #[test]
    fn depth_and_elements_are_bounded() {
        let deep = format!(r#"{{"messages":{}"#, "[".repeat(100_000));
        assert!(refused(&deep).contains("recursion") || refused(&deep).contains("messages"));
        let wide = format!(
            r#"{{"messages":[{}{{}}]}}"#,
            "{},".repeat(MAX_JSON_ELEMENTS)
        );
        assert!(refused(&wide).contains("the limit is"));
    }
}
