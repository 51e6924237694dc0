//! Whatever the bytes are: no panic, and what was read means the same when it was written and is read again.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::types::parsing::parse_field_table;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::tz::TimeZone;
use lapin::BasicProperties;
use manyhands_queue::broker::Unreadable;
use manyhands_queue::message::{Headers, Message, Properties};
use manyhands_queue::wire::envelope::{self, Envelope};
use manyhands_queue::wire::request::{self, Arrival};
use manyhands_queue::wire::{Limits, table, time};
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

fn recording(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/celery");
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Envelopes that Celery wrote, one for each thing that may stand in one.
static ENVELOPES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let names = [
        "simple",
        "eta",
        "expires_seconds",
        "stamped",
        "shadow_headers",
        "protocol_v1",
        "time_limits",
        "group",
    ];
    let raw =
        |name: &str| recording(&format!("{name}.redis.json"))["messages"][0]["raw"].as_str().unwrap().into();
    names.map(raw).into()
});

/// Field tables as they were on the wire, without the four bytes of their length.
static TABLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let frames = recording("amqp_raw_frames.json");
    ["simple_publish_base64", "typed_headers_publish_base64"]
        .map(|name| {
            let bytes = STANDARD.decode(frames[name].as_str().unwrap()).unwrap();
            let (rest, _) = parse_frame(&bytes[..]).unwrap();
            let (_, AMQPFrame::Header(_, header)) = parse_frame(rest).unwrap() else { unreachable!() };
            // The first field's name, and its length before it, begin the table; its own length stands before that.
            let begin = rest.windows(4).position(|four| four == b"lang").unwrap() - 1;
            let length = u32::from_be_bytes(rest[begin - 4..begin].try_into().unwrap()) as usize;
            assert!(header.properties.headers().is_some());
            rest[begin..begin + length].to_vec()
        })
        .into()
});

/// What happens to bytes on their way.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Cut(Index, Index),
    Double(Index, Index),
    Insert(Index, Vec<u8>),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let tokens: Vec<Vec<u8>> = [
        "null",
        "true",
        "{}",
        "[]",
        "-1",
        "1e308",
        "\"\"",
        "\"a\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\\",
        "\"",
        "\\u0000",
        "\\ud800",
        "\u{0}",
        "\u{ff}",
        "99999999999999999999",
        "\"task\":",
        "\"redelivered\": true,",
    ]
    .map(|token| token.as_bytes().to_vec())
    .into();
    let at = any::<Index>;
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        (at(), at()).prop_map(|(begin, end)| Change::Cut(begin, end)),
        (at(), at()).prop_map(|(begin, end)| Change::Double(begin, end)),
        (at(), select(tokens)).prop_map(|(at, token)| Change::Insert(at, token)),
    ];
    vec(change, 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let size = bytes.len();
        // Near each other: what is left shall still look like a message.
        let span = |begin: Index, end: Index| {
            let begin = begin.index(size);
            begin..(begin + end.index(40)).min(size)
        };
        match change {
            Change::Flip(at, byte) => bytes[at.index(size)] = byte,
            Change::Cut(begin, end) => drop(bytes.drain(span(begin, end))),
            Change::Double(begin, end) => {
                let part = bytes[span(begin, end)].to_vec();
                bytes.splice(begin.index(size)..begin.index(size), part);
            }
            Change::Insert(at, part) => drop(bytes.splice(at.index(size)..at.index(size), part)),
        }
    }
    bytes
}

/// Reads an envelope in every way that there is; what can be read must be the same again.
fn read_envelope(bytes: &[u8]) -> Result<(), TestCaseError> {
    let limits = Limits { body: 10_000, headers: 10_000 };
    let tag = envelope::delivery_tag(bytes);
    let marked = envelope::mark_redelivered(bytes);
    let read = match envelope::decode(bytes, &limits) {
        Ok(read) => read,
        Err(Unreadable { reason }) => {
            prop_assert!(reason.len() < 500, "{reason}");
            return Ok(());
        }
    };
    prop_assert!(!read.message.headers.task.is_empty() && !read.message.headers.id.is_empty());
    prop_assert!(tag.is_none() || tag == read.delivery_tag);
    let again = envelope::decode(&marked.unwrap(), &Limits { headers: 20_000, ..limits }).unwrap();
    prop_assert_eq!(&again, &Envelope { is_redelivered: true, ..read.clone() });
    let Envelope { message, exchange, routing_key, .. } = read;
    let written = envelope::encode(&message, "tag", &exchange, &routing_key);
    let again = envelope::decode(&written, &Limits::default()).unwrap();
    prop_assert_eq!(&again.message, &message);
    prop_assert_eq!((again.exchange, again.routing_key), (exchange, routing_key));
    check_request(&message)?;
    // AMQP has no place for some of it, but then it says so.
    let _ = table::encode(&message, 131_072);
    Ok(())
}

fn check_request(message: &Message) -> Result<(), TestCaseError> {
    let arrival = Arrival { exchange: "", routing_key: "celery", is_redelivered: false, hostname: "w1@here" };
    let request: Value = serde_json::from_slice(&request::encode(message, &arrival)).unwrap();
    prop_assert_eq!(&request["id"], &message.headers.id);
    Ok(())
}

/// Reads the fields of a table, as lapin would on their way here.
fn read_table(fields: &[u8], body: &[u8]) -> Result<(), TestCaseError> {
    let mut bytes = u32::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(fields);
    let Ok((_, fields)) = parse_field_table(&bytes[..]) else { return Ok(()) };
    let properties = BasicProperties::default().with_headers(fields);
    let limits = Limits { body: 100, headers: 10_000 };
    match table::decode(&properties, body.to_vec().into(), &limits) {
        Ok(message) => check_table(&message),
        Err(Unreadable { reason }) => {
            prop_assert!(reason.len() < 500, "{reason}");
            Ok(())
        }
    }
}

fn check_table(message: &Message) -> Result<(), TestCaseError> {
    // What no table can hold is refused; of what one can hold, nothing is lost.
    if let Ok(written) = table::encode(message, 0) {
        let again = table::decode(&written, message.body.clone(), &Limits::default()).unwrap();
        prop_assert_eq!(&like_amqp(again), &like_amqp(message.clone()));
    }
    Ok(())
}

/// The message with its numbers as AMQP knows them: it has no very negative whole ones.
fn like_amqp(mut message: Message) -> Message {
    fn like(value: &mut Value) {
        match value {
            Value::Number(number) if number.as_i64().is_some_and(|number| number < i64::from(i32::MIN)) => {
                *value = number.as_f64().into();
            }
            Value::Array(values) => values.iter_mut().for_each(like),
            Value::Object(members) => members.values_mut().for_each(like),
            _ => {}
        }
    }
    message.headers.other.values_mut().chain(message.headers.stamps.values_mut()).for_each(like);
    message
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{0,12}", any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![vec(inner.clone(), 0..4).prop_map(Value::Array), map(inner).prop_map(Value::Object)]
    })
}

fn map(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    hash_map(text(), inner, 0..4).prop_map(|members| members.into_iter().collect())
}

prop_compose! {
    fn headers()(
        names in ("[a-z.]{1,20}", ".{1,20}"),
        texts in prop::array::uniform12(option::of(text())),
        counts in (any::<u32>(), any::<u32>(), option::of(any::<i64>())),
        timelimit in prop::array::uniform2(option::of(prop_oneof![0.0..1e9, (0..1000_u32).prop_map(f64::from)])),
        ignore_result in option::of(any::<bool>()),
        stamped_headers in option::of(vec(text(), 0..3)),
        stamps in map(value()),
        other in map(value()),
    ) -> Headers {
        let [lang, shadow, eta, expires, group, root_id, parent_id, argsrepr, kwargsrepr, origin, compression, _] = texts;
        Headers {
            lang, shadow, eta, expires, group, root_id, parent_id, argsrepr, kwargsrepr, origin, compression,
            task: names.0,
            id: names.1,
            retries: counts.0,
            replaced_task_nesting: counts.1,
            group_index: counts.2,
            timelimit,
            ignore_result,
            stamped_headers,
            stamps,
            // None of the names that have a place of their own.
            other: other.into_iter().map(|(name, value)| (format!("x{name}"), value)).collect(),
        }
    }
}

prop_compose! {
    fn messages()(
        headers in headers(),
        texts in (text(), text(), option::of(text()), option::of(text())),
        priority in any::<u8>(),
        is_persistent in any::<bool>(),
        expiration in option::of(0..1_u64 << 62),
        body in vec(any::<u8>(), 0..200),
    ) -> Message {
        let (content_type, content_encoding, correlation_id, reply_to) = texts;
        let properties = Properties {
            content_type, content_encoding, correlation_id, reply_to, priority, is_persistent, expiration,
        };
        Message { headers, properties, body: Bytes::from(body) }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_envelope_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        read_envelope(&bytes)?;
    }

    #[test]
    fn a_damaged_envelope_is_read_or_refused(at in any::<Index>(), changes in changes()) {
        read_envelope(&changed(at.get(&ENVELOPES).clone(), changes))?;
    }

    #[test]
    fn any_headers_and_body_are_an_envelope_or_refused(headers in value(), body in value(), more in value()) {
        let envelope = serde_json::json!({"body": body, "headers": headers, "properties": more});
        read_envelope(envelope.to_string().as_bytes())?;
        // And as a message of protocol 1, with headers of any kind in its body.
        let mut old = serde_json::json!({"task": "t", "id": "7", "eta": more, "args": body, "timelimit": headers});
        for (name, value) in headers.as_object().into_iter().flatten() {
            old[name.as_str()] = value.clone();
        }
        read_envelope(serde_json::json!({"body": old.to_string(), "headers": {}}).to_string().as_bytes())?;
    }

    #[test]
    fn a_message_comes_back_from_an_envelope(message in messages(), places in (text(), text(), text())) {
        let (tag, exchange, routing_key) = places;
        let written = envelope::encode(&message, &tag, &exchange, &routing_key);
        let read = envelope::decode(&written, &Limits::default()).unwrap();
        prop_assert_eq!(&read.message, &message);
        prop_assert_eq!(read.delivery_tag, Some(tag));
        prop_assert_eq!((read.exchange, read.routing_key, read.is_redelivered), (exchange, routing_key, false));
        check_request(&message)?;
    }

    #[test]
    fn a_message_comes_back_from_a_table(message in messages()) {
        check_table(&message)?;
    }

    #[test]
    fn any_bytes_are_a_table_or_refused(fields in vec(any::<u8>(), 0..300), body in vec(any::<u8>(), 0..120)) {
        read_table(&fields, &body)?;
    }

    #[test]
    fn a_damaged_table_is_read_or_refused(at in any::<Index>(), changes in changes()) {
        read_table(&changed(at.get(&TABLES).clone(), changes), b"[[], {}, {}]")?;
    }

    #[test]
    fn any_text_is_a_time_or_refused(text in prop_oneof![
        any::<String>(),
        "[0-9+:.,WTZtz -]{0,40}",
        "[0-9]{4}-?[01][0-9]-?[0-3][0-9][T ][0-2][0-9]:?[0-5][0-9](:?[0-5][0-9]([.,][0-9]{0,9})?)?([Zz]|[+-][0-2][0-9]:?[0-9]{2})?",
    ]) {
        if let Ok(seconds) = time::read(&text, &TimeZone::UTC) {
            let written = time::write(seconds);
            // Python's years begin with 1, and end before ours by a day.
            if let Ok(written) = written {
                prop_assert_eq!(time::read(&written, &TimeZone::UTC), Ok(seconds));
            } else {
                prop_assert!(!(-62_135_596_800.0..=253_402_207_200.0).contains(&seconds), "{seconds}");
            }
        }
    }
}
