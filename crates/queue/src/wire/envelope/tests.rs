use serde_json::json;

use super::*;
use crate::message::Headers;

fn message() -> Message {
    let headers = Headers { task: "shop.charge".into(), id: "7".into(), ..Headers::default() };
    Message { headers, properties: Properties::default(), body: Bytes::from_static(b"[[], {}, {}]") }
}

fn read(envelope: &Value) -> Result<Envelope, Unreadable> {
    decode(envelope.to_string().as_bytes(), &Limits::default())
}

#[test]
fn what_is_written_is_read() {
    let mut message = message();
    message.headers.other.insert("a \"name\"\n".into(), json!({"deep": [1, null, "é"]}));
    message.properties.expiration = Some(120_000);
    message.properties.is_persistent = false;
    let read = decode(&encode(&message, "tag", "", "billing"), &Limits::default()).unwrap();
    assert_eq!(read.message, message);
    assert_eq!(read.delivery_tag.as_deref(), Some("tag"));
    assert_eq!((&*read.exchange, &*read.routing_key, read.is_redelivered), ("", "billing", false));
}

#[test]
fn only_task_id_and_body_are_needed() {
    let read = read(&json!({"body": "[[1], {}, null]", "headers": {"task": "t", "id": 5}})).unwrap();
    assert_eq!((&*read.message.headers.task, &*read.message.headers.id), ("t", "5"));
    assert_eq!(read.message.body, "[[1], {}, null]");
    assert_eq!(read.message.properties, Properties::default());
    assert_eq!(read.delivery_tag, None);
}

#[test]
fn odd_headers_are_read_for_what_they_can_mean() {
    let headers = json!({
        "task": "t", "id": "7", "retries": "3", "timelimit": ["30", -1], "group_index": 2.0, "ignore_result": 1,
        "stamped_headers": ["a", 5, null], "stamps": [], "eta": {"a": 1}, "lang": null, "replaced_task_nesting": -4,
        "shadow": 1.5,
    });
    let read =
        read(&json!({"body": "", "headers": headers, "properties": null, "content-type": null})).unwrap();
    let expected = Headers {
        task: "t".into(),
        id: "7".into(),
        retries: 3,
        timelimit: [Some(30.0), None],
        group_index: Some(2),
        ignore_result: Some(true),
        stamped_headers: Some(vec!["a".into(), "5".into()]),
        eta: Some(r#"{"a":1}"#.into()),
        shadow: Some("1.5".into()),
        ..Headers::default()
    };
    assert_eq!(read.message.headers, expected);
}

#[test]
fn what_is_no_task_message_is_refused_with_a_reason() {
    let deep = "[".repeat(100_000);
    let broken = format!(r#"{{"body": "", "headers": {{"task": "t", "id": "7", "x": {deep}"#);
    for (envelope, reason) in [
        ("", "EOF"),
        ("\u{0}\u{1}", "expected value"),
        ("[]", "expected an object"),
        (r#"{"headers": {"task": "t", "id": "7"}}"#, "no body"),
        (r#"{"body": 5, "headers": {"task": "t", "id": "7"}}"#, "expected a text"),
        (r#"{"body": "", "headers": {"task": "t"}}"#, "no id"),
        (r#"{"body": "", "headers": {"id": "7"}}"#, "no header `task`"),
        (r#"{"body": "", "headers": [], "properties": {}}"#, "expected an object"),
        (
            r#"{"body": "%", "headers": {"task": "t", "id": "7"}, "properties": {"body_encoding": "base64"}}"#,
            "base64",
        ),
        (
            r#"{"body": "", "headers": {"task": "t", "id": "7"}, "properties": {"body_encoding": "rot13"}}"#,
            "rot13",
        ),
        (r#"{"body": "", "headers": {"task": "t", "id": "7"}} and more"#, "trailing"),
        (&broken, "recursion limit"),
    ] {
        let error = decode(envelope.as_bytes(), &Limits::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{envelope:.80}: {error}");
        assert!(error.len() < 500, "{error}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let mut message = message();
    message.body = vec![b'x'; 1001].into();
    let limits = Limits { body: 1000, headers: 2000 };
    let error = decode(&encode(&message, "tag", "", "q"), &limits).unwrap_err().to_string();
    assert!(error.contains("1001 bytes"), "{error}");
    message.body = vec![b'x'; 1000].into();
    assert_eq!(decode(&encode(&message, "tag", "", "q"), &limits).unwrap().message, message);
    message.headers.other.insert("x".into(), "y".repeat(2000).into());
    let error = decode(&encode(&message, "tag", "", "q"), &limits).unwrap_err().to_string();
    assert!(error.contains("bytes of headers"), "{error}");
}

#[test]
fn a_redelivered_one_is_marked_and_else_the_same() {
    let mut message = message();
    message.headers.other.insert("x".into(), 1.5.into());
    let once = encode(&message, "tag", "", "q");
    let marked = mark_redelivered(&once).unwrap();
    let read = decode(&marked, &Limits::default()).unwrap();
    assert!(read.is_redelivered);
    assert_eq!(read.message, message);
    assert_eq!(mark_redelivered(&marked).unwrap(), marked);
    let mut expected: Value = serde_json::from_slice(&once).unwrap();
    expected["headers"]["redelivered"] = true.into();
    expected["properties"]["delivery_info"]["redelivered"] = true.into();
    assert_eq!(serde_json::from_slice::<Value>(&marked).unwrap(), expected);
    assert!(mark_redelivered(b"[]").is_err());
}

#[test]
fn the_tag_is_found_in_what_is_no_task_message() {
    let envelope = json!({"body": 7, "properties": {"delivery_tag": "here"}}).to_string();
    assert_eq!(delivery_tag(envelope.as_bytes()).as_deref(), Some("here"));
    assert_eq!(delivery_tag(b"{}"), None);
    assert_eq!(delivery_tag(b"garbage"), None);
}

#[test]
fn of_two_members_of_one_name_the_last_one_counts() {
    let envelope = r#"{
        "body": "one", "headers": {"task": "one", "id": "1", "x": 1, "redelivered": "odd"},
        "properties": {"delivery_tag": "one", "priority": 1, "delivery_info": {"exchange": "one"}},
        "headers": {"task": "t", "task": "two", "id": "2"}, "body": "two", "properties": {"reply_to": "two"}
    }"#;
    let read = decode(envelope.as_bytes(), &Limits::default()).unwrap();
    let headers = Headers { task: "two".into(), id: "2".into(), ..Headers::default() };
    let properties = Properties { reply_to: Some("two".into()), ..Properties::default() };
    assert_eq!(read.message, Message { headers, properties, body: Bytes::from_static(b"two") });
    assert_eq!((read.delivery_tag, &*read.exchange, read.is_redelivered), (None, "", false));
    let marked = decode(&mark_redelivered(envelope.as_bytes()).unwrap(), &Limits::default()).unwrap();
    assert!(marked.is_redelivered);
    assert_eq!(marked.message, read.message);
}
