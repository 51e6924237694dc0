//! Everything that Celery was recorded to write is read, field by field, and written again as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use manyhands_queue::message::Message;
use manyhands_queue::wire::envelope::{self, Envelope};
use manyhands_queue::wire::{Limits, table};
use serde_json::{Map, Value, json};

/// All recordings, by the names of their files.
fn recordings() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/celery");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|suffix| suffix == "json"))
        .map(|file| {
            let content = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            (file.file_name().unwrap().to_string_lossy().into_owned(), content)
        })
        .collect()
}

/// Calls `visit` with every value within one.
fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Array(values) => values.iter().for_each(|value| walk(value, visit)),
        Value::Object(members) => members.values().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

/// All envelopes of kombu in the recordings, wherever they stand.
fn envelopes() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (file, recording) in recordings() {
        walk(&recording, &mut |value| match value {
            Value::String(text) if text.starts_with(r#"{"body""#) => found.push((file.clone(), text.clone())),
            Value::String(text) if text.starts_with(r#"[{"body""#) => {
                let unacknowledged: Vec<Value> = serde_json::from_str(text).unwrap();
                found.push((file.clone(), unacknowledged[0].to_string()));
            }
            _ => {}
        });
    }
    found
}

/// All messages of AMQP in the recordings.
fn amqp_messages() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (file, recording) in recordings() {
        walk(&recording, &mut |value| {
            if value.get("properties").is_some() && value.get("body_base64").is_some() {
                found.push((file.clone(), value.clone()));
            }
        });
    }
    found
}

/// The headers by which Celery knows them, each looked up by hand, so that two fields mixed up are seen to be.
fn headers_of(message: &Message) -> Value {
    let headers = &message.headers;
    let limit = |seconds: Option<f64>| {
        seconds.map(|seconds| serde_json::from_str::<Value>(&seconds.to_string()).unwrap())
    };
    let mut all = json!({
        "lang": headers.lang, "task": headers.task, "id": headers.id, "shadow": headers.shadow, "eta": headers.eta,
        "expires": headers.expires, "group": headers.group, "group_index": headers.group_index,
        "retries": headers.retries, "timelimit": headers.timelimit.map(limit), "root_id": headers.root_id,
        "parent_id": headers.parent_id, "argsrepr": headers.argsrepr, "kwargsrepr": headers.kwargsrepr,
        "origin": headers.origin, "ignore_result": headers.ignore_result,
        "replaced_task_nesting": headers.replaced_task_nesting, "stamped_headers": headers.stamped_headers,
        "stamps": headers.stamps,
    });
    if let Some(codec) = &headers.compression {
        all["compression"] = codec.as_str().into();
    }
    all.as_object_mut().unwrap().extend(headers.other.clone());
    all
}

fn properties_of(message: &Message) -> Value {
    let properties = &message.properties;
    let mut all = json!({
        "correlation_id": properties.correlation_id, "reply_to": properties.reply_to, "priority": properties.priority,
        "delivery_mode": if properties.is_persistent { 2 } else { 1 },
    });
    if let Some(expiration) = properties.expiration {
        all["expiration"] = expiration.to_string().into();
    }
    all
}

/// What is expected of a body of protocol 1: the headers in it, and the body that it becomes.
fn of_protocol_1(body: &Value) -> (Value, Value) {
    let headers = json!({
        "lang": null, "task": body["task"], "id": body["id"], "shadow": null, "eta": body["eta"],
        "expires": body["expires"], "group": body["group"], "group_index": body["group_index"],
        "retries": body["retries"], "timelimit": body["timelimit"], "root_id": null, "parent_id": null,
        "argsrepr": null, "kwargsrepr": null, "origin": null, "ignore_result": null, "replaced_task_nesting": 0,
        "stamped_headers": null, "stamps": {},
    });
    let embed = json!({
        "callbacks": body["callbacks"], "errbacks": body["errbacks"], "chain": null, "chord": body["chord"],
    });
    (headers, json!([body["args"], body["kwargs"], embed]))
}

/// Compares headers and body of what was read with the recording. Says whether they were of protocol 2.
fn compare(message: &Message, headers: &Value, body: &[u8], name: &str) -> bool {
    let is_2 = headers.get("task").is_some();
    if is_2 {
        let mut expected = headers.clone();
        expected.as_object_mut().unwrap().remove("redelivered");
        assert_eq!(headers_of(message), expected, "{name}");
        assert_eq!(message.body, body, "{name}");
    } else {
        let (headers, body) = of_protocol_1(&serde_json::from_slice(body).unwrap());
        assert_eq!(headers_of(message), headers, "{name}");
        assert_eq!(serde_json::from_slice::<Value>(&message.body).unwrap(), body, "{name}");
    }
    is_2
}

#[test]
fn envelopes_are_read_and_written_as_kombu_does() {
    let (mut tasks, mut others) = (0, 0);
    for (name, text) in envelopes() {
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let read = envelope::decode(text.as_bytes(), &Limits::default());
        let tag = recorded["properties"]["delivery_tag"].as_str();
        assert_eq!(envelope::delivery_tag(text.as_bytes()).as_deref(), tag);
        if recorded["headers"].get("task").is_none() && !name.starts_with("protocol_v1") {
            assert!(read.unwrap_err().reason.contains("`task`"), "{name}");
            others += 1;
            continue;
        }
        tasks += 1;
        let read = read.unwrap_or_else(|error| panic!("{name}: {error}"));
        check_envelope(&name, &recorded, &read);
    }
    assert!(tasks >= 80 && others >= 150, "found {tasks} tasks and {others} others in the recordings");
}

fn check_envelope(name: &str, recorded: &Value, read: &Envelope) {
    let Envelope { message, delivery_tag, exchange, routing_key, is_redelivered } = read;
    let (properties, info) = (&recorded["properties"], &recorded["properties"]["delivery_info"]);
    let body = STANDARD.decode(recorded["body"].as_str().unwrap()).unwrap();
    let is_2 = compare(message, &recorded["headers"], &body, name);
    assert_eq!(json!(message.properties.content_type), recorded["content-type"], "{name}");
    assert_eq!(json!(message.properties.content_encoding), recorded["content-encoding"], "{name}");
    assert_eq!(json!(delivery_tag), properties["delivery_tag"], "{name}");
    assert_eq!(json!(exchange), info["exchange"], "{name}");
    assert_eq!(json!(routing_key), info["routing_key"], "{name}");
    assert_eq!(*is_redelivered, info["redelivered"] == true, "{name}");

    let written = envelope::encode(message, delivery_tag.as_deref().unwrap(), exchange, routing_key);
    let again = envelope::decode(&written, &Limits::default()).unwrap();
    assert_eq!(again, Envelope { is_redelivered: false, ..read.clone() }, "{name}");
    if is_2 {
        let written = if *is_redelivered { envelope::mark_redelivered(&written).unwrap() } else { written };
        let mut expected = recorded.clone();
        // A retry of Celery's has a property that nobody reads, and that stands in the headers, too.
        expected["properties"].as_object_mut().unwrap().remove("origin");
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), expected, "{name}");
    }
}

/// A recorded value in the type that py-amqp sends it in.
fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(truth) => AMQPValue::Boolean(*truth),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Number(number) => {
            let number = number.as_i64().unwrap();
            i32::try_from(number).map_or(AMQPValue::LongLongInt(number), AMQPValue::LongInt)
        }
        Value::Array(values) => AMQPValue::FieldArray(values.iter().map(field).collect::<Vec<_>>().into()),
        Value::Object(members) => AMQPValue::FieldTable(fields(members)),
    }
}

fn fields(members: &Map<String, Value>) -> FieldTable {
    let fields: BTreeMap<ShortString, AMQPValue> =
        members.iter().map(|(name, value)| (name.as_str().into(), field(value))).collect();
    fields.into()
}

fn basic_properties(recorded: &Value) -> BasicProperties {
    let text = |name: &str| recorded[name].as_str().unwrap().into();
    let number = |name: &str| u8::try_from(recorded[name].as_u64().unwrap()).unwrap();
    let properties = BasicProperties::default()
        .with_content_type(text("content_type"))
        .with_content_encoding(text("content_encoding"))
        .with_headers(fields(recorded["headers"].as_object().unwrap()))
        .with_delivery_mode(number("delivery_mode"))
        .with_priority(number("priority"))
        .with_correlation_id(text("correlation_id"))
        .with_reply_to(text("reply_to"));
    if recorded.get("expiration").is_some() {
        properties.with_expiration(text("expiration"))
    } else {
        properties
    }
}

#[test]
fn messages_of_amqp_are_read_and_written_as_py_amqp_does() {
    let messages = amqp_messages();
    assert!(messages.len() >= 45, "found {} messages in the recordings", messages.len());
    for (name, recorded) in messages {
        let body = STANDARD.decode(recorded["body_base64"].as_str().unwrap()).unwrap();
        let properties = basic_properties(&recorded["properties"]);
        let message = table::decode(&properties, body.clone().into(), &Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let is_2 = compare(&message, &recorded["properties"]["headers"], &body, &name);
        let mut expected = recorded["properties"].as_object().unwrap().clone();
        expected.remove("headers");
        assert_eq!(expected.remove("content_type"), Some(json!(message.properties.content_type)), "{name}");
        assert_eq!(
            expected.remove("content_encoding"),
            Some(json!(message.properties.content_encoding)),
            "{name}"
        );
        assert_eq!(properties_of(&message), Value::Object(expected), "{name}");

        let written = table::encode(&message, 131_072).unwrap();
        assert_eq!(
            table::decode(&written, message.body.clone(), &Limits::default()).unwrap(),
            message,
            "{name}"
        );
        if is_2 {
            assert_eq!(written, properties, "{name}");
        }
    }
}

#[test]
fn frames_are_read_and_written_as_long_as_they_were() {
    let frames = &recordings()["amqp_raw_frames.json"];
    for (name, other) in [
        ("simple_publish_base64", json!({})),
        (
            "typed_headers_publish_base64",
            json!({"f": 1.5, "big": 1_i64 << 40, "neg": -7, "flag": true, "lst": [1, "a", null], "d": {"k": "v"}}),
        ),
    ] {
        let bytes = STANDARD.decode(frames[name].as_str().unwrap()).unwrap();
        let (properties, body, length) = parse(&bytes);
        let message = table::decode(&properties, body, &Limits::default()).unwrap();
        assert_eq!(message.headers.task, "vec.add");
        assert_eq!(Value::Object(message.headers.other.clone()), other);
        assert_eq!(
            message.body,
            r#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#
        );

        let written = table::encode(&message, 131_072).unwrap();
        assert_eq!(written, properties);
        let body_size = u64::try_from(message.body.len()).unwrap();
        let header = AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size, properties: written });
        // The fields come in another order, so of the bytes only their number is the same.
        let frame = gen_frame(&header)(WriteContext::from(Vec::new())).unwrap().write;
        assert_eq!(frame.len(), length, "{name}");
    }
}

/// The properties and the body of a message in whole frames, and how long the frame of the properties was.
fn parse(mut bytes: &[u8]) -> (BasicProperties, Bytes, usize) {
    let (mut properties, mut body, mut length) = (None, Vec::new(), 0);
    while !bytes.is_empty() {
        let (rest, frame) = parse_frame(bytes).unwrap();
        match frame {
            AMQPFrame::Header(_, header) => {
                properties = Some(header.properties);
                length = bytes.len() - rest.len();
            }
            AMQPFrame::Body(_, part) => body.extend(part),
            _ => {}
        }
        bytes = rest;
    }
    (properties.unwrap(), body.into(), length)
}
