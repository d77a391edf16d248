//! What the door knows of the API: every method, and every path, read once from the compiled
//! descriptors at start.
//!
//! Nothing of the API is written down a second time: a method that is added to a proto file is
//! served here without a line of code.

use aqueduct_proto::v1;
use http::{Method as Verb, Uri};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    ReflectMessage as _, Value,
};
use prost_types::FileDescriptorSet;

use super::template::Template;

/// One method of a service.
pub(super) struct Method {
    /// Where gRPC finds it: `/aqueduct.v1.Topics/GetTopic`.
    pub(super) uri: Uri,
    pub(super) descriptor: MethodDescriptor,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    pub(super) rules: Vec<Rule>,
}

/// What of a request's JSON body goes where.
#[derive(Debug, Clone)]
pub(super) enum BodyRule {
    None,
    All,
    Field(FieldDescriptor),
}

/// One `google.api.http` binding.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) verb: Verb,
    pub(super) template: Template,
    /// The field that each variable of the template sets, as a way through messages.
    pub(super) variables: Vec<Vec<FieldDescriptor>>,
    pub(super) body: BodyRule,
}

/// Every method of the API.
pub(super) struct Schema {
    pub(super) pool: DescriptorPool,
    pub(super) methods: Vec<Method>,
    /// `google.rpc.Status`; its details are in the pool.
    pub(super) status: MessageDescriptor,
    /// The method and its answer that the raw publish route uses.
    pub(super) publish: usize,
    pub(super) publish_result: MessageDescriptor,
}

impl Schema {
    /// Reads the compiled descriptors.
    ///
    /// # Errors
    /// What of them is not understood; the build's tests rule that out.
    pub(super) fn load() -> Result<Schema, String> {
        let mut pool = DescriptorPool::decode(v1::DESCRIPTORS).map_err(|e| e.to_string())?;
        add_error_details(&mut pool)?;
        let message = |name: &str| {
            pool.get_message_by_name(name)
                .ok_or_else(|| format!("{name} is missing"))
        };
        let mut methods = Vec::new();
        for service in pool.services() {
            for descriptor in service.methods() {
                methods.push(method(&pool, descriptor)?);
            }
        }
        let publish = methods
            .iter()
            .position(|method| method.descriptor.full_name() == "aqueduct.v1.Publisher.Publish")
            .ok_or("there is no Publish")?;
        Ok(Schema {
            status: message("google.rpc.Status")?,
            publish_result: message("aqueduct.v1.PublishResult")?,
            publish,
            methods,
            pool,
        })
    }
}

/// The details that errors carry are not part of our own files.
fn add_error_details(pool: &mut DescriptorPool) -> Result<(), String> {
    let set = tonic_types::pb::FILE_DESCRIPTOR_SET;
    let mut set = FileDescriptorSet::decode(set).map_err(|e| e.to_string())?;
    // Some of it is known already, under other names of files.
    set.file.retain(|file| {
        let known = |name: &str| {
            let name = format!("{}.{name}", file.package());
            pool.get_message_by_name(&name).is_some()
        };
        !file
            .message_type
            .iter()
            .any(|message| known(message.name()))
    });
    pool.add_file_descriptor_set(set).map_err(|e| e.to_string())
}

fn method(pool: &DescriptorPool, descriptor: MethodDescriptor) -> Result<Method, String> {
    let service = descriptor.parent_service().full_name();
    let uri = format!("/{service}/{}", descriptor.name());
    let input = descriptor.input();
    let extension = pool.get_extension_by_name("google.api.http");
    let extension = extension.ok_or("google.api.http is missing")?;
    let options = descriptor.options();
    let mut rules = Vec::new();
    if options.has_extension(&extension)
        && let Value::Message(rule) = options.get_extension(&extension).as_ref()
    {
        collect(rule, &input, &mut rules)
            .map_err(|why| format!("{}: {why}", descriptor.full_name()))?;
    }
    Ok(Method {
        uri: uri.parse().map_err(|_| format!("{uri} is no path"))?,
        output: descriptor.output(),
        input,
        rules,
        descriptor,
    })
}

/// A rule and those it holds.
fn collect(
    rule: &DynamicMessage,
    input: &MessageDescriptor,
    rules: &mut Vec<Rule>,
) -> Result<(), String> {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name);
        value.and_then(|value| value.as_str().map(str::to_owned))
    };
    let verbs = [
        ("get", Verb::GET),
        ("put", Verb::PUT),
        ("post", Verb::POST),
        ("delete", Verb::DELETE),
        ("patch", Verb::PATCH),
    ];
    let found = verbs
        .into_iter()
        .find(|(name, _)| rule.has_field_by_name(name));
    let (name, verb) = found.ok_or("a rule without a path")?;
    let template = Template::parse(&text(name).unwrap_or_default())?;
    let variables = template
        .variables()
        .map(|path| way(input, path).ok_or_else(|| format!("no field {path}")))
        .collect::<Result<_, _>>()?;
    let body = match text("body").unwrap_or_default().as_str() {
        "" => BodyRule::None,
        "*" => BodyRule::All,
        field => {
            let field = input.get_field_by_name(field);
            BodyRule::Field(field.ok_or("the body names no field")?)
        }
    };
    rules.push(Rule {
        verb,
        template,
        variables,
        body,
    });
    if let Some(more) = rule.get_field_by_name("additional_bindings") {
        for more in more.as_list().unwrap_or_default() {
            if let Value::Message(rule) = more {
                collect(rule, input, rules)?;
            }
        }
    }
    Ok(())
}

/// The fields of a dotted path, by their proto or their JSON names.
pub(super) fn way(message: &MessageDescriptor, path: &str) -> Option<Vec<FieldDescriptor>> {
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    for name in path.split('.') {
        let home = match fields.last() {
            None => message.clone(),
            Some(field) if field.is_list() || field.is_map() => return None,
            Some(field) => match field.kind() {
                Kind::Message(message) => message,
                _ => return None,
            },
        };
        let field = home.get_field_by_name(name);
        fields.push(field.or_else(|| home.get_field_by_json_name(name))?);
    }
    Some(fields)
}

/// The message at the end of a way, made where it is missing.
pub(super) fn reach<'a>(
    message: &'a mut DynamicMessage,
    way: &[FieldDescriptor],
) -> Option<&'a mut DynamicMessage> {
    let mut at = message;
    for field in way {
        if *field.parent_message() != at.descriptor() {
            return None;
        }
        at = at.get_field_mut(field).as_message_mut()?;
    }
    Some(at)
}
