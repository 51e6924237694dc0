//! Messages of protocol 1, whose headers stand in the body, become messages of protocol 2.
//!
//! Only bodies in JSON can be looked into here. Such a message in another serializer cannot be told from garbage, and is
//! refused with a reason that names its content type. So is a compressed one.
//!
//! There are hybrids, too: headers of protocol 2 with a body of protocol 1. Of these the headers count.

use bytes::Bytes;
use jiff::tz::TimeZone;
use serde::Deserialize as _;
use serde_json::Value;
use serde_json::value::RawValue;

use super::envelope::{Members, member, members};
use super::headers::{Reading, text};
use super::{Limits, shortened, time};
use crate::broker::Unreadable;
use crate::message::{Message, Properties};

/// Those members of a body of protocol 1 that are no headers.
const OF_THE_BODY: [&str; 6] = ["args", "kwargs", "callbacks", "errbacks", "chord", "utc"];

/// A message of protocol 2 out of what was read, whichever protocol that was in.
pub(super) fn settle(
    headers: Reading,
    properties: Properties,
    body: Bytes,
    limits: &Limits,
) -> Result<Message, Unreadable> {
    let has_task = headers.has_task();
    let is_plain = headers.compression().is_none() && is_json(&properties.content_type);
    let is_map = || body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if has_task {
        let hybrid = (is_plain && is_map()).then(|| hybrid_body(&body)).flatten();
        return Ok(Message { headers: headers.finish()?, properties, body: hybrid.unwrap_or(body) });
    }
    if is_plain && is_map() {
        return of_body(headers, properties, &body, limits);
    }
    let kind = &properties.content_type;
    let compression =
        headers.compression().map(|codec| format!(", compressed as {codec}")).unwrap_or_default();
    Err(refuse(&format!("no header `task`, and a body of {kind}{compression}")))
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn of_body(
    headers: Reading,
    properties: Properties,
    body: &[u8],
    limits: &Limits,
) -> Result<Message, Unreadable> {
    let read = |error: &dyn std::fmt::Display| refuse(&format!("a body that is not JSON ({error})"));
    let text = std::str::from_utf8(body).map_err(|error| read(&error))?;
    let members = members(text).map_err(|error| read(&error))?;
    let size: usize = headers_among(&members).map(|(name, raw)| name.len() + raw.get().len()).sum();
    if size > limits.headers {
        return Err(refuse(&format!(
            "{size} bytes of headers in the body, where at most {} are allowed",
            limits.headers
        )));
    }
    let headers = read_headers(headers, &members)?;
    if !headers.has_task() {
        return Err(refuse("neither a header `task` nor a body that has one"));
    }
    Ok(Message { headers: headers.finish()?, properties, body: rewritten(&members) })
}

/// The arguments of a body of protocol 1, if it is one.
fn hybrid_body(body: &[u8]) -> Option<Bytes> {
    let members = members(std::str::from_utf8(body).ok()?).ok()?;
    member(&members, "args").map(|_| rewritten(&members))
}

/// The headers that stand in the body, after those that stand where headers do.
fn read_headers(mut headers: Reading, members: &Members<'_>) -> Result<Reading, Unreadable> {
    let value = |raw: &RawValue| {
        Value::deserialize(raw).map_err(|error| refuse(&format!("a body that cannot be read ({error})")))
    };
    let is_utc = member(members, "utc").is_some_and(|utc| utc.get() == "true");
    let mut taskset = None;
    for (name, raw) in headers_among(members) {
        match (name, value(raw)?) {
            ("taskset", value) => taskset = text(value),
            (name @ ("eta" | "expires"), Value::String(time)) if is_utc => {
                headers.take(name, in_utc(time).into());
            }
            (name, value) => headers.take(name, value),
        }
    }
    headers.group_or(taskset);
    Ok(headers)
}

/// The members that are headers.
fn headers_among<'a>(members: &'a Members<'_>) -> impl Iterator<Item = (&'a str, &'a RawValue)> {
    members.iter().map(|(name, raw)| (&*name.0, *raw)).filter(|(name, _)| !OF_THE_BODY.contains(name))
}

/// The time with its offset: the body says elsewhere that one without is in UTC.
fn in_utc(text: String) -> String {
    time::read(&text, &TimeZone::UTC).and_then(time::write).unwrap_or(text)
}

/// The body in the form of protocol 2: `[args, kwargs, embed]`.
fn rewritten(members: &Members<'_>) -> Bytes {
    let part = |name, none: &'static str| match member(members, name).map_or("null", RawValue::get) {
        "null" => none.to_owned(),
        text => text.to_owned(),
    };
    let body = format!(
        r#"[{}, {}, {{"callbacks": {}, "errbacks": {}, "chain": null, "chord": {}}}]"#,
        part("args", "[]"),
        part("kwargs", "{}"),
        part("callbacks", "null"),
        part("errbacks", "null"),
        part("chord", "null"),
    );
    body.into()
}

fn refuse(found: &str) -> Unreadable {
    let expected = "expected a message of protocol 2, or one of protocol 1 in JSON";
    Unreadable { reason: shortened(format!("could not read the message: found {found}, {expected}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(headers: Value, content_type: &str, body: &str) -> Result<Message, Unreadable> {
        let mut reading = Reading::default();
        for (name, value) in headers.as_object().unwrap() {
            reading.take(name, value.clone());
        }
        let properties = Properties { content_type: content_type.into(), ..Properties::default() };
        settle(
            reading,
            properties,
            Bytes::from(body.to_owned()),
            &Limits { headers: 1000, ..Limits::default() },
        )
    }

    const JSON: &str = "application/json";

    #[test]
    fn headers_are_found_in_the_body() {
        let body = r#" {"task": "t", "id": "7", "args": [1.10, {}], "kwargs": null, "retries": 2, "utc": true,
            "eta": "2031-05-17T12:30:15", "expires": "2031-05-17 14:30:15+02:00", "taskset": "g", "group": null,
            "callbacks": [{"task": "u"}], "errbacks": null, "chord": null, "x": 5}"#;
        let message = read(json!({}), JSON, body).unwrap();
        let headers = &message.headers;
        assert_eq!((&*headers.task, &*headers.id, headers.retries), ("t", "7", 2));
        assert_eq!(headers.eta.as_deref(), Some("2031-05-17T12:30:15+00:00"));
        assert_eq!(headers.expires.as_deref(), Some("2031-05-17T12:30:15+00:00"));
        assert_eq!(headers.group.as_deref(), Some("g"));
        assert_eq!(Value::Object(headers.other.clone()), json!({"x": 5}));
        let embed = r#"{"callbacks": [{"task": "u"}], "errbacks": null, "chain": null, "chord": null}"#;
        assert_eq!(message.body, format!("[[1.10, {{}}], {{}}, {embed}]"));
    }

    #[test]
    fn a_time_that_is_not_in_utc_is_left_alone() {
        let message =
            read(json!({}), JSON, r#"{"task": "t", "id": "7", "eta": "2031-05-17T12:30:15"}"#).unwrap();
        assert_eq!(message.headers.eta.as_deref(), Some("2031-05-17T12:30:15"));
    }

    #[test]
    fn of_a_hybrid_the_headers_count() {
        let body = r#"{"task": "old", "id": "old", "args": [1], "kwargs": {"a": 2}}"#;
        let message =
            read(json!({"task": "new", "id": "new"}), "application/json; charset=utf-8", body).unwrap();
        assert_eq!((&*message.headers.task, &*message.headers.id), ("new", "new"));
        assert!(message.body.starts_with(br#"[[1], {"a": 2}, {"#));
        for body in [r#"{"a": 1}"#, "{", "{\"args\": }"] {
            assert_eq!(read(json!({"task": "t", "id": "7"}), JSON, body).unwrap().body, body);
        }
    }

    #[test]
    fn what_is_of_neither_protocol_is_refused_with_a_reason() {
        for (headers, kind, body, reason) in [
            (json!({}), JSON, "{}", "nor a body that has one"),
            (json!({}), JSON, r#"{"task": "", "id": "7"}"#, "nor a body that has one"),
            (json!({}), JSON, r#"{"task": "t"}"#, "no id"),
            (json!({}), JSON, "{", "not JSON"),
            (json!({}), JSON, "[[], {}, {}]", "no header `task`"),
            (json!({}), "application/x-python-serialize", "{", "application/x-python-serialize"),
            (json!({"compression": "application/x-gzip"}), JSON, "{}", "compressed as application/x-gzip"),
            (
                json!({}),
                JSON,
                &json!({"task": "t", "id": "7", "x": "y".repeat(1000)}).to_string(),
                "bytes of headers",
            ),
            (json!({}), JSON, &format!(r#"{{"task": "t"{}}}"#, r#","":0"#.repeat(10_000)), "more members"),
        ] {
            let error = read(headers, kind, body).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
