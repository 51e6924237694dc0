//! The headers of a task message out of names and values, from wherever these were read.

use std::borrow::Cow;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::broker::Unreadable;
use crate::message::{Headers, Properties};

/// What has been read of the headers so far.
#[derive(Default)]
pub(super) struct Reading {
    headers: Headers,
    /// What Redis's consumers note down when they give a message back.
    pub(super) is_redelivered: bool,
}

impl Reading {
    /// Takes one header. A name that came before is overwritten, as in any JSON object.
    pub(super) fn take(&mut self, name: &str, value: Value) {
        let headers = &mut self.headers;
        match name {
            "lang" => headers.lang = text(value),
            "task" => headers.task = text(value).unwrap_or_default(),
            "id" => headers.id = text(value).unwrap_or_default(),
            "shadow" => headers.shadow = text(value),
            "eta" => headers.eta = text(value),
            "expires" => headers.expires = text(value),
            "group" => headers.group = text(value),
            "group_index" => headers.group_index = integer(&value),
            "retries" => headers.retries = count(&value),
            "timelimit" => headers.timelimit = limits(&value),
            "root_id" => headers.root_id = text(value),
            "parent_id" => headers.parent_id = text(value),
            "argsrepr" => headers.argsrepr = text(value),
            "kwargsrepr" => headers.kwargsrepr = text(value),
            "origin" => headers.origin = text(value),
            "ignore_result" => headers.ignore_result = truth(&value),
            "replaced_task_nesting" => headers.replaced_task_nesting = count(&value),
            "stamped_headers" => headers.stamped_headers = names(value),
            "stamps" => headers.stamps = map(value),
            "compression" => headers.compression = text(value),
            "redelivered" => self.is_redelivered = value == Value::Bool(true),
            other => {
                headers.other.insert(other.into(), value);
            }
        }
    }

    /// Sets the group by what it was called once, if it has not got its name by now.
    pub(super) fn group_or(&mut self, taskset: Option<String>) {
        self.headers.group = self.headers.group.take().or(taskset);
    }

    /// Whether this is a message of protocol 2.
    pub(super) fn has_task(&self) -> bool {
        !self.headers.task.is_empty()
    }

    /// The compression, if there is any.
    pub(super) fn compression(&self) -> Option<&str> {
        self.headers.compression.as_deref()
    }

    /// The headers, if all that a worker needs is there.
    pub(super) fn finish(self) -> Result<Headers, Unreadable> {
        if self.headers.id.is_empty() {
            return Err(Unreadable {
                reason: "could not read the message: found no id, expected one".into(),
            });
        }
        Ok(self.headers)
    }
}

/// A text; what is none becomes the text that JSON has for it, so that an odd time is seen to be odd.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// A whole number, also when it was written as text or with a fraction of nothing.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(truth) => Some(i64::from(*truth)),
        _ => None,
    }
}

fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation)] // Below 2^53 nothing is cut off.
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

fn count(value: &Value) -> u32 {
    let count = integer(value).unwrap_or(0).clamp(0, i64::from(u32::MAX));
    u32::try_from(count).unwrap_or(0)
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        other => integer(other).map(|number| number != 0),
    }
}

/// Seconds, hard and soft. A limit that is no time from now on is none.
fn limits(value: &Value) -> [Option<f64>; 2] {
    let limit = |index| {
        let limit = match value.get(index)? {
            Value::String(text) => text.trim().parse().ok()?,
            other => other.as_f64()?,
        };
        (limit.is_finite() && limit >= 0.0).then_some(limit)
    };
    [limit(0), limit(1)]
}

fn names(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => Some(values.into_iter().filter_map(text).collect()),
        Value::String(name) => Some(vec![name]),
        _ => None,
    }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes one property by its name in AMQP. Those that mean nothing to a worker are passed over.
pub(super) fn take_property(properties: &mut Properties, name: &str, value: Value) {
    match name {
        "correlation_id" => properties.correlation_id = text(value),
        "reply_to" => properties.reply_to = text(value),
        "priority" => properties.priority = u8::try_from(count(&value)).unwrap_or(u8::MAX),
        "delivery_mode" => properties.is_persistent = integer(&value) != Some(1),
        "expiration" => properties.expiration = integer(&value).and_then(|time| u64::try_from(time).ok()),
        _ => {}
    }
}

/// The name of a member, borrowed where it stands without escapes.
pub(super) struct Name<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.into())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Hands each member of an object to a function; null is an object without members.
pub(super) struct Each<F>(pub(super) F);

impl<'de, F: FnMut(&str, Value)> DeserializeSeed<'de> for Each<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&str, Value)> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<Name<'de>>()? {
            (self.0)(&name.0, members.next_value()?);
        }
        Ok(())
    }
}
