//! A request's path, query and body become the fields of one message.
//!
//! The path wins over the body, and what is neither may be a query parameter, also of a field in
//! a message (`?topic.name=a`). A parameter that names no field is refused by name.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use super::{
    json::{from_json, from_text},
    schema::{BodyRule, Method, Rule, reach, way},
    status::Problem,
};

/// Puts the message together.
///
/// # Errors
/// A refusal that names the field or the parameter.
pub(super) fn message(
    method: &Method,
    rule: &Rule,
    captures: &[String],
    query: Option<&str>,
    body: &[u8],
) -> Result<DynamicMessage, Problem> {
    let mut message = match &rule.body {
        BodyRule::All => from_json(&method.input, body)?,
        BodyRule::None if !body.trim_ascii().is_empty() => {
            let why = format!("{} {} takes none", rule.verb, rule.template);
            return Err(Problem::invalid("body", &why));
        }
        BodyRule::None => DynamicMessage::new(method.input.clone()),
        BodyRule::Field(field) => {
            let mut message = DynamicMessage::new(method.input.clone());
            if let Kind::Message(inner) = field.kind() {
                message.set_field(field, Value::Message(from_json(&inner, body)?));
            }
            message
        }
    };
    for (name, text) in pairs(query.unwrap_or_default())? {
        parameter(&mut message, rule, &name, &text)?;
    }
    for (variable, text) in rule.variables.iter().zip(captures) {
        let names: Vec<&str> = variable.iter().map(FieldDescriptor::name).collect();
        put(&mut message, variable, &names.join("."), text)?;
    }
    Ok(message)
}

/// Names and values of a query, decoded.
fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8();
        decoded
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| Problem::invalid("query", "it is not UTF-8"))
    };
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// Refuses every parameter: for routes that take none.
///
/// # Errors
/// Naming the first one.
pub(super) fn no_parameters(query: Option<&str>) -> Result<(), Problem> {
    match pairs(query.unwrap_or_default())?.first() {
        None => Ok(()),
        Some((name, _)) => Err(Problem::invalid(name, "there is no such query parameter")),
    }
}

/// The value of the one parameter that a route takes.
///
/// # Errors
/// If it is missing, or there is another.
pub(super) fn only_parameter(query: Option<&str>, wanted: &str) -> Result<String, Problem> {
    let mut found = None;
    for (name, value) in pairs(query.unwrap_or_default())? {
        if name != wanted {
            return Err(Problem::invalid(&name, "there is no such query parameter"));
        }
        found = Some(value);
    }
    found.ok_or_else(|| Problem::invalid(wanted, "the query parameter is missing"))
}

fn parameter(
    message: &mut DynamicMessage,
    rule: &Rule,
    name: &str,
    text: &str,
) -> Result<(), Problem> {
    let unknown = || Problem::invalid(name, "there is no such query parameter");
    let fields = way(&message.descriptor(), name).ok_or_else(unknown)?;
    match &rule.body {
        BodyRule::All => return Err(Problem::invalid(name, "it belongs into the body")),
        BodyRule::Field(body) if fields.first() == Some(body) => {
            return Err(Problem::invalid(name, "it belongs into the body"));
        }
        _ => {}
    }
    if rule.variables.contains(&fields) {
        return Err(Problem::invalid(name, "it is part of the path"));
    }
    put(message, &fields, name, text)
}

/// Sets the field at the end of a way from text.
fn put(
    message: &mut DynamicMessage,
    fields: &[FieldDescriptor],
    name: &str,
    text: &str,
) -> Result<(), Problem> {
    let Some((last, before)) = fields.split_last() else {
        return Err(Problem::invalid(name, "it names no field"));
    };
    if last.is_map() {
        return Err(Problem::invalid(name, "a map has to be in a body"));
    }
    let value = value(&last.kind(), text)
        .map_err(|why| Problem::invalid(name, &format!("{text:?}: {why}")))?;
    let home =
        reach(message, before).ok_or_else(|| Problem::invalid(name, "it lies in no message"))?;
    if last.is_list() {
        if let Some(list) = home.get_field_mut(last).as_list_mut() {
            list.push(value);
        }
    } else {
        home.set_field(last, value);
    }
    Ok(())
}

fn value(kind: &Kind, text: &str) -> Result<Value, String> {
    fn number<T: std::str::FromStr>(text: &str, kind: &Kind) -> Result<T, String> {
        text.parse().map_err(|_| format!("it is no {kind:?}"))
    }
    Ok(match kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().map_err(|_| "it is neither true nor false")?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number(text, kind)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number(text, kind)?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number(text, kind)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number(text, kind)?),
        Kind::Float => Value::F32(number(text, kind)?),
        Kind::Double => Value::F64(number(text, kind)?),
        Kind::Bytes => {
            let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
            Value::Bytes(Bytes::from(decoded.map_err(|error| error.to_string())?))
        }
        Kind::Enum(kind) => match (kind.get_value_by_name(text), text.parse::<i32>()) {
            (Some(value), _) => Value::EnumNumber(value.number()),
            (None, Ok(number)) => Value::EnumNumber(number),
            (None, Err(_)) => return Err(format!("{} has no such value", kind.name())),
        },
        Kind::Message(kind) if kind.package_name() == "google.protobuf" => {
            Value::Message(from_text(kind, text)?)
        }
        Kind::Message(_) => return Err("it is a message: name one of its fields".to_owned()),
    })
}
