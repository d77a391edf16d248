//! The HTTP door as its users meet it: JSON of every method, streams as lines, errors, raw
//! messages, CloudEvents, gRPC-Web.

use aqueduct_proto::v1::{DESCRIPTORS, GetTopicRequest, Topic};
use aqueduct_tests::http::{Answer, Http};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};

use crate::fixture::Fixture;

/// "hi" in base64.
const HI: &str = "aGk=";

pub(crate) fn started() -> (Fixture, Http) {
    let broker = Fixture::new();
    let http = Http::connect(broker.process.address());
    (broker, http)
}

fn with_topic(partitions: u32) -> (Fixture, Http) {
    let (broker, mut http) = started();
    let topic = json!({ "name": "orders", "partitions": partitions });
    let made = http.post("/v1/topics", &topic).ok();
    assert_eq!(made["name"], "topics/orders");
    (broker, http)
}

/// The records of a topic, from the first on.
fn read(http: &mut Http) -> Vec<Value> {
    let answer = http.post(
        "/v1/topics/orders:read",
        &json!({ "from": { "start": true } }),
    );
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let records = answer.lines().into_iter();
    records
        .filter_map(|line| line["records"]["records"].as_array().cloned())
        .flatten()
        .collect()
}

fn header<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    let headers = record["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header["name"] == name);
    found.map(|header| header["value"].as_str().unwrap())
}

#[test]
fn a_topic_lives_by_json() {
    let (_broker, mut http) = with_topic(2);
    let got = http.get("/v1/topics/orders").ok();
    assert_eq!(got["partitions"], 2);
    assert_eq!(got["config"]["retention"], "604800s");
    let labels = json!({ "labels": { "team": "shop" }, "config": { "retention": "3600s" } });
    let patch = |http: &mut Http, path: &str| {
        let kind = [("content-type", "application/json")];
        http.send("PATCH", path, &kind, labels.to_string().as_bytes())
    };
    let changed = patch(&mut http, "/v1/topics/orders?updateMask=labels").ok();
    assert_eq!(changed["labels"]["team"], "shop");
    assert_eq!(changed["config"]["retention"], "604800s", "not in the mask");
    let changed = patch(
        &mut http,
        "/v1/topics/topics%2Forders?update_mask=config.retention",
    )
    .ok();
    assert_eq!(changed["config"]["retention"], "3600s");
    let listed = http.get("/v1/topics?pageSize=10&prefix=ord").ok();
    assert_eq!(listed["topics"][0]["name"], "topics/orders");
    assert_eq!(http.get("/v1/topics?prefix=x").ok()["topics"], json!([]));
    let preview = http.send("DELETE", "/v1/topics/orders?validateOnly=true", &[], b"");
    assert_eq!(preview.ok(), json!({}));
    assert_eq!(
        http.send("DELETE", "/v1/topics/orders", &[], b"").status,
        200
    );
    http.get("/v1/topics/orders")
        .refused(404, "TOPIC_NOT_FOUND");
}

#[test]
fn publish_and_read() {
    let (_broker, mut http) = with_topic(1);
    let publish = json!({ "messages": [
        { "key": "aw==", "value": HI, "headers": [{ "name": "a", "value": "Yg==" }] },
        { "value": HI, "partition": 7 },
        { "key": "" },
    ] });
    let answer = http.post("/v1/topics/orders:publish", &publish).ok();
    assert_eq!(
        answer["results"][0]["offset"], "0",
        "zero is shown, as text"
    );
    let error = &answer["results"][1]["error"];
    assert_eq!(
        error["details"][0]["reason"], "PARTITION_NOT_FOUND",
        "{error}"
    );
    assert_eq!(answer["results"][2]["offset"], "1");
    let records = read(&mut http);
    assert_eq!(records[0]["value"], HI);
    assert_eq!(header(&records[0], "a"), Some("Yg=="));
    assert_eq!(records[1]["key"], "", "an empty key is a key");
    assert_eq!(records[1].get("value"), None, "a tombstone has no value");
    let one = http.get("/v1/topics/orders/partitions/0/messages/0").ok();
    assert_eq!(one["value"], HI);
    // The same by its gRPC name.
    let plain = json!({ "topic": "orders", "messages": [{ "value": HI }] });
    let answer = http.post("/aqueduct.v1.Publisher/Publish", &plain).ok();
    assert_eq!(answer["results"][0]["offset"], "2");
}

/// Lines come as they happen, not at the end; and an end in the middle is a last line.
#[test]
fn a_stream_is_lines_while_it_runs() {
    let (broker, mut http) = with_topic(1);
    let follow = json!({ "follow": true, "from": { "start": true } }).to_string();
    let mut reader = Http::connect(broker.process.address());
    use std::io::Write as _;
    let head = format!(
        "POST /v1/topics/orders:read HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{follow}",
        follow.len()
    );
    reader.socket().write_all(head.as_bytes()).unwrap();
    while !reader.line().unwrap().is_empty() {}
    let mut next =
        || -> Value { serde_json::from_slice(&reader.chunk().unwrap().unwrap()).unwrap() };
    assert!(next().get("opened").is_some());
    assert!(next().get("caughtUp").is_some());
    for n in 0..3 {
        let _ = http.send("POST", "/v1/topics/orders/messages", &[], b"hi");
        let line = next();
        let record = &line["records"]["records"][0];
        assert_eq!(record["offset"], n.to_string(), "{line}");
        assert!(next().get("caughtUp").is_some());
    }
    assert_eq!(
        http.send("DELETE", "/v1/topics/orders", &[], b"").status,
        200
    );
    assert!(next().get("error").is_some());
    assert_eq!(reader.chunk().unwrap(), None);
}

#[test]
fn a_timeout_of_the_client_is_kept() {
    let (_broker, mut http) = with_topic(1);
    let follow = json!({ "follow": true }).to_string();
    for (name, value) in [("x-aqueduct-timeout", "300ms"), ("grpc-timeout", "300m")] {
        let headers = [("content-type", "application/json"), (name, value)];
        let answer = http.send(
            "POST",
            "/v1/topics/orders:read",
            &headers,
            follow.as_bytes(),
        );
        let lines = answer.lines();
        let error = &lines.last().unwrap()["error"];
        assert_eq!(error["code"], 4, "{lines:?}");
    }
    let headers = [("x-aqueduct-timeout", "soon")];
    http.send("GET", "/v1/topics", &headers, b"")
        .names("x-aqueduct-timeout");
}

/// Every method of every service answers in JSON, and refuses an unknown field by name.
#[test]
fn every_method_speaks_json() {
    let (mut broker, mut http) = with_topic(1);
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let document = http.get("/openapi.json").ok();
    let mut methods = 0;
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        methods += 1;
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        assert!(
            document["paths"][&path]["post"].is_object(),
            "{path} in OpenAPI"
        );
        if method.is_client_streaming() {
            let refused = http.post(&path, &json!({})).refused(501, "STREAM_ONLY");
            assert!(
                refused["message"].as_str().unwrap().contains("/v1/"),
                "{refused}"
            );
            continue;
        }
        http.post(&path, &json!({ "no_such_field": 1 }))
            .names("no_such_field");
        http.post(&path, &json!([])).names("body");
        let answer = http.post(&path, &json!({}));
        for line in answer.lines() {
            assert!(line.is_object(), "{path}: {line}");
        }
        http.send("GET", &path, &[], b"")
            .refused(405, "METHOD_NOT_ALLOWED");
    }
    assert!(methods > 10);
    broker.assert_serves();
}

/// Every annotation is served, and is in the OpenAPI document.
#[test]
fn every_annotated_path_is_served() {
    let (_broker, mut http) = with_topic(1);
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let extension = pool.get_extension_by_name("google.api.http").unwrap();
    let document = http.get("/openapi.json").ok();
    let mut paths = 0;
    for method in pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
    {
        let options = method.options();
        if !options.has_extension(&extension) {
            assert!(
                method.is_client_streaming(),
                "{} has no path",
                method.full_name()
            );
            continue;
        }
        let rule = options.get_extension(&extension).into_owned();
        let mut rules = vec![rule.as_message().unwrap().clone()];
        let more = rules[0]
            .get_field_by_name("additional_bindings")
            .unwrap()
            .into_owned();
        rules.extend(
            more.as_list()
                .unwrap()
                .iter()
                .map(|rule| rule.as_message().unwrap().clone()),
        );
        for rule in rules {
            let verbs = ["get", "put", "post", "delete", "patch"];
            let verb = verbs
                .into_iter()
                .find(|verb| rule.has_field_by_name(verb))
                .unwrap();
            let template = rule
                .get_field_by_name(verb)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned();
            assert!(
                document["paths"][&template][verb].is_object(),
                "{verb} {template}"
            );
            let path = template
                .replace("{partition}", "0")
                .replace("{offset}", "0")
                .replace(['{', '}'], "");
            let head = [("content-type", "application/json")];
            let answer = http.send(&verb.to_uppercase(), &path, &head, b"");
            let json: Value = answer.lines().remove(0);
            assert_ne!(
                json["details"][0]["reason"], "PATH_NOT_FOUND",
                "{verb} {path}"
            );
            assert_ne!(answer.status, 405, "{verb} {path}");
            paths += 1;
        }
    }
    assert!(paths > 20, "{paths}");
}

#[test]
fn what_cannot_be_is_named() {
    let (mut broker, mut http) = with_topic(1);
    let publish = "/v1/topics/orders:publish";
    for (json, field) in [
        (json!({ "mesages": [] }), "mesages"),
        (
            json!({ "messages": [{ "value": HI }, { "valu": HI }] }),
            "messages[1].valu",
        ),
        (json!({ "messages": [{ "value": 7 }] }), "messages[0].value"),
        (
            json!({ "messages": [{ "partition": -1 }] }),
            "messages[0].partition",
        ),
        (
            json!({ "messages": [{ "partition": 5_000_000_000_u64 }] }),
            "messages[0].partition",
        ),
        (
            json!({ "messages": [{ "headers": {} }] }),
            "messages[0].headers",
        ),
        (json!({ "expectedOffset": "x" }), "expectedOffset"),
        (json!("text"), "body"),
        (json!(null), "body"),
    ] {
        http.post(publish, &json).names(field);
    }
    let kind = [("content-type", "application/json")];
    for text in ["{", "{}}", "nonsense", "{\"a\":\"\u{0}\"}", "\u{feff}{}"] {
        let answer = http.send("POST", publish, &kind, text.as_bytes());
        assert_eq!(answer.status, 400, "{text:?}: {}", answer.text());
    }
    let answer = http.send("POST", publish, &kind, b"{\"topic\":\"\xff\"}");
    assert_eq!(answer.status, 400, "{}", answer.text());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    http.send("POST", publish, &kind, deep.as_bytes())
        .names("body");
    http.get("/v1/topics?pageSize=many").names("pageSize");
    http.get("/v1/topics?page=1").names("page");
    http.get("/v1/topics?topic.name=x").names("topic.name");
    http.get("/v1/topics/orders?name=x").names("name");
    http.get("/v1/topics/orders/partitions/x/messages/0")
        .names("partition");
    http.get("/health?x=1").names("x");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    http.send("POST", publish, &form, b"{}")
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    let grpc = [("content-type", "application/grpc")];
    http.send(
        "POST",
        "/aqueduct.v1.Topics/ListTopics",
        &grpc,
        b"\0\0\0\0\0",
    )
    .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    let foreign = [("origin", "http://evil.example")];
    http.send("GET", "/v1/topics", &foreign, b"")
        .refused(403, "ORIGIN_REFUSED");
    let own = [("origin", "http://broker")];
    assert_eq!(http.send("GET", "/v1/topics", &own, b"").status, 200);
    broker.assert_serves();
}

#[test]
fn wrong_paths_and_verbs_are_json() {
    let (_broker, mut http) = with_topic(1);
    for path in [
        "/",
        "/v1",
        "/v1/topics/",
        "/v1/topics/a/b/c",
        "/v1/topics/orders:nope",
        "/%00",
    ] {
        http.get(path).refused(404, "PATH_NOT_FOUND");
    }
    let refused = http.send("PUT", "/v1/topics", &[], b"");
    refused.refused(405, "METHOD_NOT_ALLOWED");
    assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS, POST"));
    http.send("BREW", "/v1/topics", &[], b"")
        .refused(405, "METHOD_NOT_ALLOWED");
    let options = http.send("OPTIONS", "/v1/topics", &[], b"");
    assert_eq!(options.status, 204);
    assert_eq!(options.header("allow"), Some("GET, HEAD, OPTIONS, POST"));
    assert_eq!(options.header("access-control-allow-origin"), None);
    let (head, get) = (
        http.send("HEAD", "/v1/topics", &[], b""),
        http.get("/v1/topics"),
    );
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), get.header("content-length"));
    let retry: &Answer = &http.get("/v1/topics/nope");
    assert_eq!(retry.header("retry-after"), None);
}

#[test]
fn a_raw_message_is_its_body() {
    let (_broker, mut http) = with_topic(2);
    let path = "/v1/topics/orders/messages";
    let headers = [
        ("content-type", "image/png"),
        ("aq-partition", "1"),
        ("aq-key", "k"),
        ("aq-timestamp-ms", "1234"),
        ("aq-header-Source", "shop"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("aq-dedup-id", "one"),
    ];
    let stored = http.send("POST", path, &headers, b"\x89PNG\0").ok();
    assert_eq!(
        (&stored["partition"], &stored["offset"]),
        (&json!(1), &json!("0"))
    );
    assert_eq!(
        http.send("POST", path, &headers, b"again").ok()["duplicate"],
        true
    );
    let record = &read(&mut http)[0];
    assert_eq!(record["value"], "iVBORwA=");
    assert_eq!(
        (&record["key"], &record["timestampMs"]),
        (&json!("aw=="), &json!("1234"))
    );
    assert_eq!(header(record, "source"), Some("c2hvcA=="));
    assert!(header(record, "traceparent").is_some());
    assert_eq!(header(record, "content-type"), None);
    for (name, value) in [
        ("aq-partition", "x"),
        ("aq-kee", "x"),
        ("aq-timestamp-ms", "1.5"),
    ] {
        http.send("POST", path, &[(name, value)], b"").names(name);
    }
    let wrong = http.send("POST", path, &[("aq-partition", "9")], b"x");
    wrong.refused(404, "PARTITION_NOT_FOUND");
    let nowhere = http.send("POST", "/v1/topics/nope/messages", &[], b"x");
    nowhere.refused(404, "TOPIC_NOT_FOUND");
    let large = vec![b'x'; (8 << 20) + 1];
    http.send("POST", path, &[], &large)
        .refused(400, "MESSAGE_TOO_LARGE");
}

#[test]
fn cloud_events_in_three_modes() {
    let (mut broker, mut http) = with_topic(1);
    let path = "/v1/topics/orders/messages";
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "paid"),
        ("ce-partitionkey", "k"),
    ];
    let _ = http.send("POST", path, &binary, br#"{"n":1}"#).ok();
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/shop", "type": "paid", "partitionkey": "k",
        "datacontenttype": "application/json", "data": { "n": 1 },
    });
    let kind = [(
        "content-type",
        "application/cloudevents+json; charset=utf-8",
    )];
    let _ = http
        .send("POST", path, &kind, event.to_string().as_bytes())
        .ok();
    let batch = json!([event, event]).to_string();
    let kind = [("content-type", "application/cloudevents-batch+json")];
    let stored = http.send("POST", path, &kind, batch.as_bytes()).ok();
    assert_eq!(stored["results"].as_array().unwrap().len(), 2);
    let records = read(&mut http);
    assert_eq!(records.len(), 4);
    for record in &records {
        assert_eq!(record["value"], "eyJuIjoxfQ==");
        assert_eq!(record["key"], "aw==");
        assert_eq!(record["headers"], records[0]["headers"], "stored alike");
    }
    assert_eq!(header(&records[0], "ce_type"), Some("cGFpZA=="));
    for missing in ["ce-specversion", "ce-id", "ce-source", "ce-type"] {
        let some: Vec<_> = binary
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        http.send("POST", path, &some, b"{}").names(&missing[3..]);
    }
    let bad = json!([event, { "specversion": "1.0", "id": "1", "source": "" }]).to_string();
    http.send("POST", path, &kind, bad.as_bytes())
        .names("[1].source");
    let xml = [("content-type", "application/cloudevents+xml")];
    http.send("POST", path, &xml, b"<event/>")
        .names("content-type");
    broker.assert_serves();
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let mut frame = vec![0];
    let length = u32::try_from(message.encoded_len()).unwrap();
    frame.extend(length.to_be_bytes());
    frame.extend(message.encode_to_vec());
    frame
}

#[test]
fn grpc_web_in_both_codings() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (_broker, mut http) = with_topic(3);
    let path = "/aqueduct.v1.Topics/GetTopic";
    let ask = |name: &str| {
        framed(&GetTopicRequest {
            name: name.to_owned(),
        })
    };
    let binary = [("content-type", "application/grpc-web+proto")];
    let answer = http.send("POST", path, &binary, &ask("orders"));
    let length = u32::from_be_bytes(answer.body[1..5].try_into().unwrap()) as usize;
    let topic = Topic::decode(&answer.body[5..5 + length]).unwrap();
    assert_eq!(topic.partitions, 3);
    let trailers = &answer.body[5 + length..];
    assert_eq!(trailers[0], 0x80);
    let said = String::from_utf8_lossy(&trailers[5..]).to_lowercase();
    assert!(
        said.contains("grpc-status:0") || said.contains("grpc-status: 0"),
        "{said}"
    );
    let text = [
        ("content-type", "application/grpc-web-text+proto"),
        ("accept", "application/grpc-web-text"),
    ];
    let answer = http.send(
        "POST",
        path,
        &text,
        STANDARD.encode(ask("orders")).as_bytes(),
    );
    let start = answer.text().split('=').next().unwrap();
    let whole = STANDARD.decode(&start[..start.len() / 4 * 4]).unwrap();
    assert_eq!(whole[0], 0, "a message comes first");
    assert_eq!(whole[1..5], answer_length(&topic));
    let refused = http.send("POST", path, &binary, &ask("nope"));
    let said = format!(
        "{:?}{}",
        refused.headers,
        String::from_utf8_lossy(&refused.body)
    );
    assert!(said.contains("grpc-status") && said.contains('5'), "{said}");
}

fn answer_length(topic: &Topic) -> [u8; 4] {
    u32::try_from(topic.encoded_len()).unwrap().to_be_bytes()
}

#[test]
fn connections_are_kept_and_requests_may_queue() {
    use std::io::Write as _;
    let (broker, mut http) = with_topic(1);
    for _ in 0..50 {
        assert_eq!(http.get("/v1/topics/orders").status, 200);
        assert_eq!(http.get("/v1/topics/nope").status, 404);
    }
    let mut pipelined = Http::connect(broker.process.address());
    let one = "POST /v1/topics/orders/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    let many = one.repeat(100);
    pipelined.socket().write_all(many.as_bytes()).unwrap();
    for n in 0..100 {
        let answer = pipelined.answer(false).unwrap().ok();
        assert_eq!(answer["offset"], n.to_string(), "in order");
    }
}

/// A client that forgets to fill in a template sends it as it stands.
#[test]
fn a_template_is_a_path_like_any_other() {
    let (mut broker, mut http) = with_topic(1);
    let document = http.get("/openapi.json").ok();
    let paths = document["paths"].as_object().unwrap();
    let mut tried = 0;
    for (path, verbs) in paths {
        for verb in verbs.as_object().unwrap().keys() {
            let answer = http.send(&verb.to_uppercase(), path, &[], b"");
            assert_ne!(answer.status, 500, "{verb} {path}: {}", answer.text());
            tried += usize::from(path.contains('{'));
        }
    }
    assert!(tried > 10, "{tried} templates");
    let raw = http.send("POST", "/v1/topics/{topic}/messages", &[], b"x");
    raw.refused(400, "INVALID_ARGUMENT");
    broker.assert_serves();
}
