//! The OpenAPI 3.1 document, made from the descriptors, so that it cannot differ from what is
//! served. Comments of the proto files are its descriptions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost_reflect::{EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::schema::{BodyRule, Method, Rule, Schema};

/// Comments by file and path of the descriptor.
struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    fn read(schema: &Schema) -> Comments {
        let mut comments = HashMap::new();
        for file in schema.pool.files() {
            let source = file.file_descriptor_proto().source_code_info.clone();
            for location in source.unwrap_or_default().location {
                let text = location.leading_comments().trim();
                if !text.is_empty() {
                    let lines: Vec<&str> = text.lines().map(str::trim).collect();
                    let text = lines.join(" ");
                    comments.insert((file.name().to_owned(), location.path), text);
                }
            }
        }
        Comments(comments)
    }

    fn of(&self, file: &FileDescriptor, path: &[i32]) -> Option<&str> {
        let key = (file.name().to_owned(), path.to_vec());
        self.0.get(&key).map(String::as_str)
    }
}

/// Schemas are gathered while paths are written.
struct Writer<'a> {
    comments: Comments,
    schema: &'a Schema,
    wanted: BTreeSet<String>,
}

/// The document.
pub(super) fn document(schema: &Schema) -> Value {
    let mut writer = Writer {
        comments: Comments::read(schema),
        schema,
        wanted: BTreeSet::from(["google.rpc.Status".to_owned()]),
    };
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for method in &schema.methods {
        for (number, rule) in method.rules.iter().enumerate() {
            let operation = writer.operation(method, rule, number);
            let verb = rule.verb.as_str().to_lowercase();
            paths
                .entry(rule.template.to_string())
                .or_default()
                .insert(verb, operation);
        }
        let operation = writer.plain(method);
        let path = method.uri.path().to_owned();
        paths
            .entry(path)
            .or_default()
            .insert("post".to_owned(), operation);
    }
    pages(&mut paths);
    let schemas = writer.schemas();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Aqueduct",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A durable message broker. Every method of its gRPC API as JSON: \
                64-bit numbers are strings, bytes are base64.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// What is not in the descriptors.
fn pages(paths: &mut BTreeMap<String, Map<String, Value>>) {
    let text = |description: &str, kind: &str| json!({ "200": { "description": description, "content": { kind: {} } } });
    let mut page = |path: &str, verb: &str, id: &str, summary: &str, rest: Value| {
        let mut operation = json!({ "operationId": id, "summary": summary });
        if let (Some(operation), Value::Object(rest)) = (operation.as_object_mut(), rest) {
            operation.extend(rest);
        }
        paths
            .entry(path.to_owned())
            .or_default()
            .insert(verb.to_owned(), operation);
    };
    let metrics = "application/openmetrics-text";
    page(
        "/health",
        "get",
        "health",
        "The process lives",
        json!({ "responses": text("It does", "application/json") }),
    );
    let ready = json!({ "responses": {
        "200": { "description": "It does" },
        "503": { "description": "It is shutting down" },
    } });
    page("/ready", "get", "ready", "The node takes requests", ready);
    page(
        "/metrics",
        "get",
        "metrics",
        "Numbers of the node, its topics and groups",
        json!({ "responses": text("OpenMetrics text", metrics) }),
    );
    let detailed = json!({
        "parameters": [{ "name": "topic", "in": "query", "required": true, "schema": { "type": "string" } }],
        "responses": text("OpenMetrics text", metrics),
    });
    page(
        "/metrics/detailed",
        "get",
        "detailedMetrics",
        "Numbers of each partition of a topic",
        detailed,
    );
    page(
        "/openapi.json",
        "get",
        "openapi",
        "This document",
        json!({ "responses": text("It", "application/json") }),
    );
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string" } });
    let raw = json!({
        "description": "The body is the value, whatever its type; aq-header-NAME becomes a header NAME of the message. \
            CloudEvents 1.0 are understood in binary, structured and batch mode.",
        "parameters": [
            { "name": "topic", "in": "path", "required": true, "schema": { "type": "string" } },
            header("aq-key", "Key of the message"),
            header("aq-partition", "Partition; absent: by key, or by turn"),
            header("aq-dedup-id", "Not stored again within the topic's window"),
            header("aq-timestamp-ms", "Milliseconds since the Unix epoch"),
        ],
        "requestBody": { "content": { "*/*": {} } },
        "responses": responses("aqueduct.v1.PublishResult", false),
    });
    page(
        "/v1/topics/{topic}/messages",
        "post",
        "publishRaw",
        "Publish the body as one message",
        raw,
    );
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn responses(output: &str, streams: bool) -> Value {
    let kind = if streams {
        "application/x-ndjson"
    } else {
        "application/json"
    };
    let description = if streams {
        "One object a line; an error in the middle is a last line with the field error"
    } else {
        "The answer"
    };
    json!({
        "200": { "description": description, "content": { kind: { "schema": reference(output) } } },
        "default": {
            "description": "Refused",
            "content": { "application/json": { "schema": reference("google.rpc.Status") } },
        },
    })
}

impl Writer<'_> {
    fn operation(&mut self, method: &Method, rule: &Rule, number: usize) -> Value {
        let mut parameters = Vec::new();
        for (name, way) in rule.template.variables().zip(&rule.variables) {
            let schema = way.last().map(|field| self.field_schema(field));
            parameters
                .push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        }
        let body = match &rule.body {
            BodyRule::All => Some(self.want(&method.input)),
            BodyRule::Field(field) => Some(self.field_schema(field)),
            BodyRule::None => None,
        };
        for field in method.input.fields() {
            let in_path = rule.variables.iter().any(|way| way.first() == Some(&field));
            let in_body = match &rule.body {
                BodyRule::All => true,
                BodyRule::Field(body) => *body == field,
                BodyRule::None => false,
            };
            if !in_path && !in_body {
                let schema = self.field_schema(&field);
                parameters
                    .push(json!({ "name": field.json_name(), "in": "query", "schema": schema }));
            }
        }
        let mut operation = self.plain(method);
        let (service, name) = (method.descriptor.parent_service(), method.descriptor.name());
        let suffix = if number == 0 {
            String::new()
        } else {
            (number + 1).to_string()
        };
        operation["operationId"] = json!(format!("{}.{name}{suffix}", service.name()));
        operation["parameters"] = json!(parameters);
        match body {
            Some(schema) => {
                operation["requestBody"] =
                    json!({ "content": { "application/json": { "schema": schema } } })
            }
            None => {
                if let Some(operation) = operation.as_object_mut() {
                    operation.remove("requestBody");
                }
            }
        }
        operation
    }

    /// The method by its gRPC path.
    fn plain(&mut self, method: &Method) -> Value {
        let descriptor = &method.descriptor;
        let file = descriptor.parent_service().parent_file();
        let comment = self
            .comments
            .of(&file, descriptor.path())
            .map(str::to_owned);
        let input = self.want(&method.input);
        self.want(&method.output);
        if descriptor.is_client_streaming() {
            return json!({
                "operationId": descriptor.full_name(),
                "tags": [descriptor.parent_service().name()],
                "summary": descriptor.name(),
                "description": "Takes a stream: gRPC only. Here it answers 501 and names the plain method.",
                "responses": { "501": {
                    "description": comment.unwrap_or_default(),
                    "content": { "application/json": { "schema": reference("google.rpc.Status") } },
                } },
            });
        }
        let mut operation = json!({
            "operationId": descriptor.full_name(),
            "tags": [descriptor.parent_service().name()],
            "summary": descriptor.name(),
            "requestBody": { "content": { "application/json": { "schema": input } } },
            "responses": responses(method.output.full_name(), descriptor.is_server_streaming()),
        });
        if let Some(comment) = comment {
            operation["description"] = json!(comment);
        }
        operation
    }

    fn want(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message.full_name()) {
            return known;
        }
        self.wanted.insert(message.full_name().to_owned());
        reference(message.full_name())
    }

    /// Every message that is reached from those that are wanted.
    fn schemas(&mut self) -> BTreeMap<String, Value> {
        let mut written = BTreeMap::new();
        while let Some(name) = self.wanted.iter().find(|name| !written.contains_key(*name)) {
            let name = name.clone();
            let message = self.schema.pool.get_message_by_name(&name);
            let schema = match (message, self.schema.pool.get_enum_by_name(&name)) {
                (Some(message), _) => self.message_schema(&message),
                (None, Some(of)) => self.enum_schema(&of),
                (None, None) => json!({}),
            };
            written.insert(name, schema);
        }
        written
    }

    fn message_schema(&mut self, message: &MessageDescriptor) -> Value {
        let mut properties = Map::new();
        for field in message.fields() {
            let mut schema = self.field_schema(&field);
            let comment = self.comments.of(&field.parent_file(), field.path());
            if let Some(comment) = comment {
                schema["description"] = json!(comment);
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        if let Some(comment) = self.comments.of(&message.parent_file(), message.path()) {
            schema["description"] = json!(comment);
        }
        schema
    }

    fn enum_schema(&mut self, of: &EnumDescriptor) -> Value {
        let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
        let mut schema = json!({ "type": "string", "enum": names });
        if let Some(comment) = self.comments.of(&of.parent_file(), of.path()) {
            schema["description"] = json!(comment);
        }
        schema
    }

    fn field_schema(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map()
            && let Kind::Message(entry) = field.kind()
        {
            let value = self.kind_schema(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": value });
        }
        let schema = self.kind_schema(&field.kind());
        if field.is_list() {
            return json!({ "type": "array", "items": schema });
        }
        schema
    }

    fn kind_schema(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32" })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "uint32", "minimum": 0 })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": ["string", "integer"], "format": "int64" })
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": ["string", "integer"], "format": "uint64" })
            }
            Kind::Float | Kind::Double => json!({ "type": ["number", "string"] }),
            Kind::Message(message) => self.want(message),
            Kind::Enum(of) => {
                self.wanted.insert(of.full_name().to_owned());
                reference(of.full_name())
            }
        }
    }
}

/// Messages that JSON writes in a way of its own.
fn well_known(name: &str) -> Option<Value> {
    Some(match name {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => {
            json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$" })
        }
        "google.protobuf.FieldMask" => json!({ "type": "string" }),
        "google.protobuf.Any" => json!({
            "type": "object",
            "properties": { "@type": { "type": "string" } },
            "additionalProperties": true,
        }),
        _ => return None,
    })
}
