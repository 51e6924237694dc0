//! A message in Redis: the JSON object that kombu pushes onto a list, the body in base64 within it.

use std::borrow::Cow;
use std::mem::take;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::headers::{Each, Name, Reading, take_property, text};
use super::json::{self, Object};
use super::{Limits, shortened, v1};
use crate::broker::Unreadable;
use crate::message::{Message, Properties};

/// A message with what stands beside it in an envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The message itself.
    pub message: Message,
    /// By what kombu calls it among the unacknowledged ones; a foreign producer may have left it out.
    pub delivery_tag: Option<String>,
    /// The exchange that it was published to; empty for the anonymous one.
    pub exchange: String,
    /// By which it found its queue, whose name it is if the exchange is the anonymous one.
    pub routing_key: String,
    /// Whether a consumer has given it back before.
    pub is_redelivered: bool,
}

/// Writes a message as kombu does.
#[must_use]
pub fn encode(message: &Message, delivery_tag: &str, exchange: &str, routing_key: &str) -> Vec<u8> {
    let Message { headers, properties, body } = message;
    let length = base64::encoded_len(body.len(), true).unwrap_or(0);
    let mut out = Vec::with_capacity(length + 1024);
    let mut envelope = Object::begin(&mut out);
    base64_of(body, length, envelope.name("body"));
    envelope.put("content-encoding", &properties.content_encoding);
    envelope.put("content-type", &properties.content_type);
    let mut object = envelope.object("headers");
    json::headers(&mut object, headers);
    for (name, value) in &headers.other {
        json::write(object.name(name), value);
    }
    object.end();
    let mut object = envelope.object("properties");
    object.put_if("correlation_id", properties.correlation_id.as_ref());
    object.put_if("reply_to", properties.reply_to.as_ref());
    object.put("delivery_mode", if properties.is_persistent { &2 } else { &1 });
    if let Some(expiration) = properties.expiration {
        object.put("expiration", &expiration.to_string());
    }
    let mut info = object.object("delivery_info");
    info.put("exchange", exchange);
    info.put("routing_key", routing_key);
    info.end();
    object.put("priority", &properties.priority);
    object.put("body_encoding", "base64");
    object.put("delivery_tag", delivery_tag);
    object.end();
    envelope.end();
    out
}

fn base64_of(body: &[u8], length: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    let begin = out.len();
    out.resize(begin + length, 0);
    let written = STANDARD.encode_slice(body, &mut out[begin..]).expect("the place was made for it");
    out.truncate(begin + written);
    out.push(b'"');
}

/// Reads a message.
///
/// # Errors
/// [`Unreadable`] if it is no envelope, no task message, or larger than it may be.
pub fn decode(envelope: &[u8], limits: &Limits) -> Result<Envelope, Unreadable> {
    let envelope = utf8(envelope)?;
    // Only an envelope that is large can have headers that are, so most need not be looked over.
    if envelope.len() > limits.headers {
        measure(envelope, limits)?;
    }
    let mut json = serde_json::Deserializer::from_str(envelope);
    let parts = json.deserialize_map(Parts::default()).and_then(|parts| json.end().map(|()| parts));
    let Parts { body, properties, delivery_info, delivery_tag, body_encoding, headers } =
        parts.map_err(|error| refuse(&format!("{error}, expected kombu's JSON")))?;
    let body = body.ok_or_else(|| refuse("no body, expected one"))?;
    let body = read_body(body, body_encoding.as_deref(), limits)?;
    let mut found = Envelope {
        is_redelivered: headers.is_redelivered,
        message: v1::settle(headers, properties, body, limits)?,
        delivery_tag,
        exchange: String::new(),
        routing_key: String::new(),
    };
    if let Value::Object(mut info) = delivery_info {
        let mut named = |name| info.get_mut(name).map(Value::take).and_then(text);
        found.exchange = named("exchange").unwrap_or_default();
        found.routing_key = named("routing_key").unwrap_or_default();
        found.is_redelivered |= info.get("redelivered") == Some(&Value::Bool(true));
    }
    Ok(found)
}

/// What kombu calls the message, if only so much can be read of it.
#[must_use]
pub fn delivery_tag(envelope: &[u8]) -> Option<String> {
    let members = members(utf8(envelope).ok()?).ok()?;
    let tag = member(&members, "properties").and_then(|properties| {
        let members = self::members(properties.get()).ok()?;
        member(&members, "delivery_tag").map(|tag| serde_json::from_str(tag.get()))
    });
    tag?.ok()
}

/// The same envelope, marked as one that a consumer has given back. All else stays as it was, byte by byte.
///
/// # Errors
/// [`Unreadable`] if it is no envelope.
pub fn mark_redelivered(envelope: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let text = utf8(envelope)?;
    let mut out = Vec::with_capacity(envelope.len() + 64);
    rewrite(text, &mut out, &["headers", "properties"], |out, name, value| match name {
        "headers" => mark(value, out),
        _ => rewrite(value, out, &["delivery_info"], |out, _, value| mark(value, out)),
    })
    .map_err(|error| refuse(&format!("{error}, expected kombu's JSON")))?;
    Ok(out)
}

fn utf8(envelope: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(envelope).map_err(|error| refuse(&format!("{error}, expected UTF-8")))
}

fn mark(object: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
    rewrite(object, out, &["redelivered"], |out, _, _| {
        out.extend_from_slice(b"true");
        Ok(())
    })
}

/// Copies an object, its members of these names as `change` writes them: there is one of each afterwards.
fn rewrite(
    object: &str,
    out: &mut Vec<u8>,
    names: &[&str],
    mut change: impl FnMut(&mut Vec<u8>, &str, &str) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    let members = members(object)?;
    let mut copy = Object::begin(out);
    for (name, value) in members.iter().filter(|(name, _)| !names.contains(&&*name.0)) {
        copy.name(&name.0).extend_from_slice(value.get().as_bytes());
    }
    for name in names {
        change(copy.name(name), name, member(&members, name).map_or("null", RawValue::get))?;
    }
    copy.end();
    Ok(())
}

/// More than are ever needed, and few enough to keep a list of.
const MOST_MEMBERS: usize = 10_000;

pub(super) type Members<'a> = Vec<(Name<'a>, &'a RawValue)>;

/// The member of that name; the last one, as everywhere in JSON.
pub(super) fn member<'a>(members: &Members<'a>, name: &str) -> Option<&'a RawValue> {
    members.iter().rev().find(|(found, _)| found.0 == name).map(|(_, value)| *value)
}

/// The members of an object, unread. Null has none.
pub(super) fn members(object: &str) -> serde_json::Result<Members<'_>> {
    struct All;
    impl<'de> Visitor<'de> for All {
        type Value = Members<'de>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::with_capacity(8);
            while let Some(member) = members.next_entry()? {
                if all.len() == MOST_MEMBERS {
                    return Err(serde::de::Error::custom("more members than any message has"));
                }
                all.push(member);
            }
            Ok(all)
        }
    }
    let mut json = serde_json::Deserializer::from_str(object);
    let members = json.deserialize_any(All)?;
    json.end()?;
    Ok(members)
}

/// Refuses headers that are too large before anything is made of them.
fn measure(envelope: &str, limits: &Limits) -> Result<(), Unreadable> {
    struct Others(usize);
    impl<'de> Visitor<'de> for Others {
        type Value = usize;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<usize, A::Error> {
            let mut size = self.0;
            while let Some(name) = members.next_key::<Name<'de>>()? {
                match &*name.0 {
                    "body" => drop(members.next_value::<IgnoredAny>()?),
                    _ => size += name.0.len() + members.next_value::<&RawValue>()?.get().len(),
                }
            }
            Ok(size)
        }
    }
    let size = serde_json::Deserializer::from_str(envelope)
        .deserialize_map(Others(0))
        .map_err(|error| refuse(&format!("{error}, expected kombu's JSON")))?;
    if size > limits.headers {
        return Err(refuse(&format!("{size} bytes of headers, expected at most {}", limits.headers)));
    }
    Ok(())
}

fn read_body(body: Cow<'_, str>, encoding: Option<&str>, limits: &Limits) -> Result<Bytes, Unreadable> {
    let too_large =
        |size: usize| refuse(&format!("a body of {size} bytes, expected at most {}", limits.body));
    let is_too_large = |size: usize| u64::try_from(size).is_ok_and(|size| size > limits.body);
    match encoding {
        Some("base64") => {
            let least = (body.len() / 4 * 3).saturating_sub(2);
            if is_too_large(least) {
                return Err(too_large(least));
            }
            let body = STANDARD_PAD_INDIFFERENT.decode(body.as_bytes()).map_err(|error| {
                refuse(&format!("a body that is not base64 ({error}), expected it to be"))
            })?;
            if is_too_large(body.len()) { Err(too_large(body.len())) } else { Ok(body.into()) }
        }
        None | Some("utf-8") if is_too_large(body.len()) => Err(too_large(body.len())),
        None | Some("utf-8") => Ok(body.into_owned().into_bytes().into()),
        Some(other) => Err(refuse(&format!("the body encoding {other:?}, expected base64 or utf-8"))),
    }
}

fn refuse(found: &str) -> Unreadable {
    Unreadable { reason: shortened(format!("could not read the envelope: found {found}")) }
}

/// What stands in an envelope, as it is read member by member.
#[derive(Default)]
struct Parts<'de> {
    body: Option<Cow<'de, str>>,
    headers: Reading,
    properties: Properties,
    delivery_info: Value,
    delivery_tag: Option<String>,
    body_encoding: Option<String>,
}

impl Parts<'_> {
    /// Of two members of one name the last one counts, so nothing of the first may be left.
    fn forget_properties(&mut self) {
        let Properties { content_type, content_encoding, .. } = take(&mut self.properties);
        self.properties = Properties { content_type, content_encoding, ..Properties::default() };
        (self.delivery_info, self.delivery_tag, self.body_encoding) = (Value::Null, None, None);
    }

    fn take_property(&mut self, name: &str, value: Value) {
        match name {
            "delivery_info" => self.delivery_info = value,
            "delivery_tag" => self.delivery_tag = text(value),
            "body_encoding" => self.body_encoding = text(value),
            other => take_property(&mut self.properties, other, value),
        }
    }
}

impl<'de> Visitor<'de> for Parts<'de> {
    type Value = Self;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while let Some(name) = members.next_key::<Name<'de>>()? {
            match &*name.0 {
                "body" => self.body = Some(members.next_value::<Name<'de>>()?.0),
                "content-type" => replace(&mut self.properties.content_type, members.next_value()?),
                "content-encoding" => replace(&mut self.properties.content_encoding, members.next_value()?),
                "headers" => {
                    self.headers = Reading::default();
                    members.next_value_seed(Each(|name: &str, value| self.headers.take(name, value)))?;
                }
                "properties" => {
                    self.forget_properties();
                    members.next_value_seed(Each(|name: &str, value| self.take_property(name, value)))?;
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }
}

/// Sets what is not null.
pub(super) fn replace(place: &mut String, value: Value) {
    if let Some(text) = text(value) {
        *place = text;
    }
}

#[cfg(test)]
mod tests;
