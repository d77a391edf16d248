//! CloudEvents 1.0 as they come by HTTP, turned into messages as the Kafka binding stores them.
//!
//! | In the event | In the message |
//! |---|---|
//! | attribute or extension `NAME` | header `ce_NAME` |
//! | `datacontenttype` | header `content-type` |
//! | `partitionkey` | the key (and its header) |
//! | data | the value; without data there is none |
//!
//! Binary mode has the attributes in `ce-*` headers, structured mode in a JSON object with the
//! data, batch mode in an array of such. Whatever the mode, the same event is stored the same way.
//! Pure: bytes in, messages out.

use std::collections::BTreeMap;

use aqueduct_proto::v1::{Header, Message};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::percent_decode;
use serde_json::value::RawValue;

/// An attribute that is missing or cannot be: its name, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) attribute: String,
    pub(super) why: String,
}

/// What every event has.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];
/// Prefix of attributes in HTTP headers.
const HTTP_PREFIX: &str = "ce-";

fn fault(attribute: &str, why: impl Into<String>) -> Fault {
    Fault {
        attribute: attribute.to_owned(),
        why: why.into(),
    }
}

/// Does a request carry an event in binary mode?
pub(super) fn is_binary(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with(HTTP_PREFIX))
}

/// An event in binary mode.
///
/// # Errors
/// The attribute that is missing or cannot be.
pub(super) fn binary(headers: &HeaderMap, kind: &str, body: Bytes) -> Result<Message, Fault> {
    let mut attributes = BTreeMap::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(HTTP_PREFIX) else {
            continue;
        };
        let value = percent_decode(value.as_bytes()).decode_utf8();
        let value = value.map_err(|_| fault(attribute, "it is not UTF-8"))?;
        if attribute == "datacontenttype" {
            return Err(fault(attribute, "in binary mode it is the content-type"));
        }
        if attributes
            .insert(attribute.to_owned(), value.into_owned())
            .is_some()
        {
            return Err(fault(attribute, "it is given twice"));
        }
    }
    let kind = (!kind.is_empty()).then(|| kind.to_owned());
    let value = (!body.is_empty() || kind.is_some()).then_some(body);
    message(attributes, kind, value)
}

/// An event in structured mode.
///
/// # Errors
/// The attribute that is missing or cannot be; `body` if it is no JSON object.
pub(super) fn structured(body: &[u8]) -> Result<Message, Fault> {
    let event: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|error| fault("body", error.to_string()))?;
    from_json(event)
}

/// Events in batch mode.
///
/// # Errors
/// As [`structured`]; the attribute has the number of its event, `[3].id`.
pub(super) fn batch(body: &[u8]) -> Result<Vec<Message>, Fault> {
    let events: Vec<BTreeMap<String, &RawValue>> =
        serde_json::from_slice(body).map_err(|error| fault("body", error.to_string()))?;
    let numbered = events.into_iter().enumerate();
    numbered
        .map(|(n, event)| {
            from_json(event).map_err(|found| {
                let attribute = format!("[{n}].{}", found.attribute);
                fault(&attribute, found.why)
            })
        })
        .collect()
}

fn from_json(event: BTreeMap<String, &RawValue>) -> Result<Message, Fault> {
    let (mut attributes, mut data, mut encoded) = (BTreeMap::new(), None, None);
    for (name, value) in event {
        match name.as_str() {
            _ if value.get() == "null" => {}
            "data" => data = Some(value),
            "data_base64" => encoded = Some(value),
            _ => {
                attributes.insert(name.clone(), attribute_text(&name, value)?);
            }
        }
    }
    let kind = attributes.remove("datacontenttype");
    let value = match (data, encoded) {
        (Some(_), Some(_)) => return Err(fault("data_base64", "there is data already")),
        (None, None) => None,
        (None, Some(encoded)) => {
            let text: String = serde_json::from_str(encoded.get())
                .map_err(|error| fault("data_base64", error.to_string()))?;
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|error| fault("data_base64", error.to_string()))?;
            Some(Bytes::from(bytes))
        }
        // Text of a kind that is no JSON is the data itself; all else stays JSON as it was given.
        (Some(data), None) => match serde_json::from_str::<String>(data.get()) {
            Ok(text) if !kind.as_deref().is_none_or(is_json) => Some(Bytes::from(text)),
            _ => Some(Bytes::copy_from_slice(data.get().as_bytes())),
        },
    };
    let kind = kind.or_else(|| data.map(|_| "application/json".to_owned()));
    message(attributes, kind, value)
}

fn is_json(kind: &str) -> bool {
    let media = kind.split(';').next().unwrap_or_default().trim();
    media == "application/json" || media == "text/json" || media.ends_with("+json")
}

/// Attributes are text, numbers and truth values.
fn attribute_text(name: &str, value: &RawValue) -> Result<String, Fault> {
    match serde_json::from_str(value.get()) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        Ok(serde_json::Value::Number(number)) => Ok(number.to_string()),
        Ok(serde_json::Value::Bool(truth)) => Ok(truth.to_string()),
        _ => Err(fault(
            name,
            "an attribute is text, a number or a truth value",
        )),
    }
}

fn message(
    attributes: BTreeMap<String, String>,
    kind: Option<String>,
    value: Option<Bytes>,
) -> Result<Message, Fault> {
    for name in REQUIRED {
        match attributes.get(name).map(String::as_str) {
            None => return Err(fault(name, "the attribute is required")),
            Some("") => return Err(fault(name, "the attribute must not be empty")),
            Some(version) if name == "specversion" && version != "1.0" => {
                return Err(fault(
                    name,
                    format!("{version:?} is not known, only \"1.0\""),
                ));
            }
            Some(_) => {}
        }
    }
    if let Some(time) = attributes.get("time")
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(fault("time", format!("{time:?} is no RFC 3339 time stamp")));
    }
    let key = attributes.get("partitionkey").cloned().map(Bytes::from);
    let mut headers = Vec::with_capacity(attributes.len() + 1);
    for (name, text) in attributes {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(fault(&name, "names of attributes have a-z and 0-9 only"));
        }
        headers.push(Header {
            name: format!("ce_{name}"),
            value: text.into(),
        });
    }
    headers.extend(kind.map(|kind| Header {
        name: "content-type".to_owned(),
        value: kind.into(),
    }));
    Ok(Message {
        key,
        value,
        headers,
        ..Message::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    fn header<'a>(message: &'a Message, name: &str) -> Option<&'a [u8]> {
        let found = message.headers.iter().find(|header| header.name == name);
        found.map(|header| &header.value[..])
    }

    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "paid"),
        ("ce-subject", "caf%C3%A9"),
    ];

    #[test]
    fn both_modes_are_stored_alike() {
        let one = binary(&headers(&BINARY), "application/json", "{\"n\":1.0}".into()).unwrap();
        let two = structured(
            br#"{"specversion":"1.0","id":"1","source":"/shop","type":"paid","subject":"caf\u00e9","datacontenttype":"application/json","data":{"n":1.0}}"#,
        )
        .unwrap();
        assert_eq!(one, two);
        assert_eq!(header(&one, "ce_subject"), Some("café".as_bytes()));
        assert_eq!(header(&one, "content-type"), Some(&b"application/json"[..]));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (missing, _) in &BINARY[..4] {
            let some: Vec<_> = BINARY
                .into_iter()
                .filter(|(name, _)| name != missing)
                .collect();
            let found = binary(&headers(&some), "", Bytes::new()).unwrap_err();
            assert_eq!(found.attribute, missing[3..]);
        }
        let second = batch(
            br#"[{"specversion":"1.0","id":"1","source":"a","type":"b"},{"specversion":"1.0","id":"1","source":"a"}]"#,
        );
        assert_eq!(second.unwrap_err().attribute, "[1].type");
    }

    #[test]
    fn data_keeps_its_kind() {
        let event = |rest: &str| {
            let text = format!(r#"{{"specversion":"1.0","id":"1","source":"a","type":"b"{rest}}}"#);
            structured(text.as_bytes())
        };
        assert_eq!(event("").unwrap().value, None);
        assert_eq!(event(r#","data":null"#).unwrap().value, None);
        let text = event(r#","datacontenttype":"text/plain","data":"hi""#).unwrap();
        assert_eq!(text.value.unwrap(), "hi");
        let json = event(r#","data":"hi""#).unwrap();
        assert_eq!(json.value.unwrap(), "\"hi\"");
        let bytes = event(r#","data_base64":"AAE=""#).unwrap();
        assert_eq!(bytes.value.unwrap(), &b"\0\x01"[..]);
        let keyed = event(r#","partitionkey":"k","n":5,"b":true"#).unwrap();
        assert_eq!(keyed.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(header(&keyed, "ce_n"), Some(&b"5"[..]));
        for (rest, attribute) in [
            (r#","data_base64":"%""#, "data_base64"),
            (r#","data":1,"data_base64":"AAE=""#, "data_base64"),
            (r#","Upper":"x""#, "Upper"),
            (r#","o":{}"#, "o"),
            (r#","time":"yesterday""#, "time"),
            (r#","specversion":"0.3""#, "specversion"),
        ] {
            assert_eq!(event(rest).unwrap_err().attribute, attribute, "{rest}");
        }
        assert_eq!(structured(b"[]").unwrap_err().attribute, "body");
    }
}
