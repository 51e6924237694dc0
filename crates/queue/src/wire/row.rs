//! A message in a database of ours: one JSON object of all that is not its body, what is left out being what is usual.

use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::envelope::replace;
use super::headers::{Each, Name, Reading, take_property};
use super::json::{self, Object};
use super::shortened;
use crate::broker::Unreadable;
use crate::message::{Message, Properties};

/// Writes all but the body.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let Message { headers, properties, .. } = message;
    let mut out = Vec::with_capacity(512);
    let mut row = Object::begin(&mut out);
    row.put("content_type", &properties.content_type);
    row.put("content_encoding", &properties.content_encoding);
    let mut object = row.object("headers");
    object.put_if("lang", headers.lang.as_ref());
    object.put("task", &headers.task);
    object.put("id", &headers.id);
    object.put_if("shadow", headers.shadow.as_ref());
    object.put_if("eta", headers.eta.as_ref());
    object.put_if("expires", headers.expires.as_ref());
    object.put_if("group", headers.group.as_ref());
    object.put_if("group_index", headers.group_index.as_ref());
    object.put_if("retries", usual(headers.retries == 0, &headers.retries));
    object.put_if("timelimit", usual(headers.timelimit == [None; 2], &headers.timelimit));
    object.put_if("root_id", headers.root_id.as_ref());
    object.put_if("parent_id", headers.parent_id.as_ref());
    object.put_if("argsrepr", headers.argsrepr.as_ref());
    object.put_if("kwargsrepr", headers.kwargsrepr.as_ref());
    object.put_if("origin", headers.origin.as_ref());
    object.put_if("ignore_result", headers.ignore_result.as_ref());
    let nesting = &headers.replaced_task_nesting;
    object.put_if("replaced_task_nesting", usual(*nesting == 0, nesting));
    object.put_if("stamped_headers", headers.stamped_headers.as_ref());
    object.put_if("stamps", usual(headers.stamps.is_empty(), &headers.stamps));
    object.put_if("compression", headers.compression.as_ref());
    for (name, value) in &headers.other {
        json::write(object.name(name), value);
    }
    object.end();
    let mut object = row.object("properties");
    object.put_if("correlation_id", properties.correlation_id.as_ref());
    object.put_if("reply_to", properties.reply_to.as_ref());
    object.put_if("priority", usual(properties.priority == 0, &properties.priority));
    object.put_if("delivery_mode", usual(properties.is_persistent, &1));
    object.put_if("expiration", properties.expiration.as_ref());
    object.end();
    row.end();
    out
}

/// Nothing, if the value is the usual one.
fn usual<T>(is_usual: bool, value: &T) -> Option<&T> {
    (!is_usual).then_some(value)
}

/// Reads what [`encode`] wrote, and puts the body to it.
///
/// # Errors
/// [`Unreadable`] if it is no task message.
pub fn decode(row: &[u8], body: Bytes) -> Result<Message, Unreadable> {
    let refuse = |error: serde_json::Error| Unreadable {
        reason: shortened(format!(
            "could not read the message: found {error}, expected JSON of headers and properties"
        )),
    };
    let mut json = serde_json::Deserializer::from_slice(row);
    let parts = json.deserialize_map(Parts::default()).and_then(|parts| json.end().map(|()| parts));
    let Parts { headers, properties } = parts.map_err(refuse)?;
    Ok(Message { headers: headers.finish()?, properties, body })
}

#[derive(Default)]
struct Parts {
    headers: Reading,
    properties: Properties,
}

impl<'de> Visitor<'de> for Parts {
    type Value = Self;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while let Some(Name(name)) = members.next_key()? {
            match &*name {
                "content_type" => replace(&mut self.properties.content_type, members.next_value()?),
                "content_encoding" => replace(&mut self.properties.content_encoding, members.next_value()?),
                "headers" => {
                    members.next_value_seed(Each(|name: &str, value| self.headers.take(name, value)))?;
                }
                "properties" => {
                    let properties = &mut self.properties;
                    members
                        .next_value_seed(Each(|name: &str, value| take_property(properties, name, value)))?;
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }
}
