//! A message in AMQP: the headers as a field table, in the types that py-amqp gives them, the properties as they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldTable, ShortString};
use serde_json::{Map, Value};

use super::headers::{Reading, take_property};
use super::json::whole_seconds;
use super::{Limits, Unwritable, shortened, v1};
use crate::broker::Unreadable;
use crate::message::{Headers, Message, Properties};

/// How deep tables and arrays may stand in each other.
pub(crate) const DEEPEST: usize = 64;

/// Instead of headers that nobody can read, one that says why: put there when such a message comes in.
pub(crate) const UNREADABLE: &str = "x-manyhands-unreadable";

/// What a frame has beside the table: its own marks, the fixed part of a content header, and its other properties.
const BESIDE: usize = 8 + 14 + 7 * 256;

/// The properties of a message, its headers among them, for a connection with frames of at most `frame_max` bytes (0 if
/// there is no such limit).
///
/// # Errors
/// [`Unwritable`] if AMQP has no place for something, or all of it together does not fit into a frame.
pub fn encode(message: &Message, frame_max: usize) -> Result<BasicProperties, Unwritable> {
    let mut table = Writing { size: 0, fields: BTreeMap::new() };
    write_headers(&mut table, &message.headers)?;
    if frame_max > 0 && table.size + BESIDE > frame_max {
        let most = frame_max.saturating_sub(BESIDE);
        return Err(unwritable(&format!("{} bytes of headers, expected at most {most}", table.size)));
    }
    let Properties { content_type, content_encoding, correlation_id, reply_to, .. } = &message.properties;
    let mut properties = BasicProperties::default()
        .with_content_type(short("the content type", content_type)?)
        .with_content_encoding(short("the content encoding", content_encoding)?)
        .with_headers(table.fields.into())
        .with_delivery_mode(if message.properties.is_persistent { 2 } else { 1 })
        .with_priority(message.properties.priority);
    if let Some(id) = correlation_id {
        properties = properties.with_correlation_id(short("the correlation id", id)?);
    }
    if let Some(queue) = reply_to {
        properties = properties.with_reply_to(short("reply_to", queue)?);
    }
    if let Some(time) = message.properties.expiration {
        properties = properties.with_expiration(time.to_string().into());
    }
    Ok(properties)
}

/// The message that was delivered with these properties.
///
/// # Errors
/// [`Unreadable`] if it is no task message, or larger than it may be.
pub fn decode(properties: &BasicProperties, body: Bytes, limits: &Limits) -> Result<Message, Unreadable> {
    if u64::try_from(body.len()).is_ok_and(|size| size > limits.body) {
        return Err(unreadable(&format!("a body of {} bytes, expected at most {}", body.len(), limits.body)));
    }
    if let Some(AMQPValue::LongString(reason)) =
        properties.headers().as_ref().and_then(|headers| headers.inner().get(UNREADABLE))
    {
        return Err(Unreadable {
            reason: shortened(String::from_utf8_lossy(reason.as_bytes()).into_owned()),
        });
    }
    let mut headers = Reading::default();
    let mut room = limits.headers;
    for (name, value) in properties.headers().iter().flatten() {
        take_room(&mut room, name.as_str().len())?;
        headers.take(name.as_str(), read(value, &mut room, DEEPEST)?);
    }
    let mut found = Properties::default();
    let texts = [
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            take_property(&mut found, name, text.as_str().into());
        }
    }
    if let Some(content_type) = properties.content_type() {
        found.content_type = content_type.as_str().into();
    }
    if let Some(encoding) = properties.content_encoding() {
        found.content_encoding = encoding.as_str().into();
    }
    found.priority = properties.priority().unwrap_or(0);
    found.is_persistent = properties.delivery_mode().is_none_or(|mode| mode != 1);
    v1::settle(headers, found, body, limits)
}

/// A table that is being filled, and the bytes that it will take.
struct Writing {
    size: usize,
    fields: BTreeMap<ShortString, AMQPValue>,
}

impl Writing {
    fn put(&mut self, name: &str, value: AMQPValue) -> Result<(), Unwritable> {
        self.size += 2 + name.len() + size_of_value(&value);
        self.fields.insert(short("the name of a header", name)?, value);
        Ok(())
    }
}

fn write_headers(table: &mut Writing, headers: &Headers) -> Result<(), Unwritable> {
    let texts = [
        ("lang", &headers.lang),
        ("shadow", &headers.shadow),
        ("eta", &headers.eta),
        ("expires", &headers.expires),
        ("group", &headers.group),
        ("root_id", &headers.root_id),
        ("parent_id", &headers.parent_id),
        ("argsrepr", &headers.argsrepr),
        ("kwargsrepr", &headers.kwargsrepr),
        ("origin", &headers.origin),
    ];
    for (name, value) in texts {
        table.put(name, value.as_deref().map_or(AMQPValue::Void, long_text))?;
    }
    table.put("task", long_text(&headers.task))?;
    table.put("id", long_text(&headers.id))?;
    table.put("group_index", headers.group_index.map_or(Ok(AMQPValue::Void), integer)?)?;
    table.put("retries", integer(headers.retries.into())?)?;
    table.put("timelimit", AMQPValue::FieldArray(headers.timelimit.map(seconds).to_vec().into()))?;
    table.put("ignore_result", headers.ignore_result.map_or(AMQPValue::Void, AMQPValue::Boolean))?;
    table.put("replaced_task_nesting", integer(headers.replaced_task_nesting.into())?)?;
    let stamped = headers.stamped_headers.as_ref().map(|names| names.iter().map(|name| long_text(name)));
    let stamped = stamped.map(|names| AMQPValue::FieldArray(names.collect::<Vec<_>>().into()));
    table.put("stamped_headers", stamped.unwrap_or(AMQPValue::Void))?;
    table.put("stamps", write_map(&headers.stamps, DEEPEST)?)?;
    if let Some(codec) = &headers.compression {
        table.put("compression", long_text(codec))?;
    }
    for (name, value) in &headers.other {
        table.put(name, write(value, DEEPEST)?)?;
    }
    Ok(())
}

fn short(what: &str, text: &str) -> Result<ShortString, Unwritable> {
    ShortString::try_new(text)
        .map_err(|_| unwritable(&format!("{} bytes for {what}, expected at most 255", text.len())))
}

fn long_text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn seconds(seconds: Option<f64>) -> AMQPValue {
    match seconds.map(whole_seconds) {
        Some(Ok(whole)) => {
            i32::try_from(whole).map_or(AMQPValue::LongLongInt(whole.into()), AMQPValue::LongInt)
        }
        Some(Err(seconds)) => AMQPValue::Double(seconds),
        None => AMQPValue::Void,
    }
}

/// A whole number in 32 bits if it fits. In 64 bits py-amqp takes what we can write for unsigned, so a very negative one
/// goes as a double, as long as that is the same number.
fn integer(number: i64) -> Result<AMQPValue, Unwritable> {
    const EXACT: i64 = 1 << 53;
    match i32::try_from(number) {
        Ok(number) => Ok(AMQPValue::LongInt(number)),
        Err(_) if number >= 0 => Ok(AMQPValue::LongLongInt(number)),
        Err(_) if number >= -EXACT => Ok(AMQPValue::Double(number as f64)),
        Err(_) => Err(unwritable(&format!("the number {number} in a header, expected at least {}", -EXACT))),
    }
}

fn write(value: &Value, deepest: usize) -> Result<AMQPValue, Unwritable> {
    match value {
        Value::Null => Ok(AMQPValue::Void),
        Value::Bool(truth) => Ok(AMQPValue::Boolean(*truth)),
        Value::String(text) => Ok(long_text(text)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => integer(number),
            (None, Some(fraction)) if number.is_f64() => Ok(AMQPValue::Double(fraction)),
            _ => Err(unwritable(&format!("the number {number} in a header, expected at most {}", i64::MAX))),
        },
        Value::Array(values) => {
            let deepest = deeper(deepest).ok_or_else(too_deep)?;
            let values = values.iter().map(|value| write(value, deepest)).collect::<Result<Vec<_>, _>>()?;
            Ok(AMQPValue::FieldArray(values.into()))
        }
        Value::Object(map) => write_map(map, deepest),
    }
}

fn write_map(map: &Map<String, Value>, deepest: usize) -> Result<AMQPValue, Unwritable> {
    let deepest = deeper(deepest).ok_or_else(too_deep)?;
    let mut fields = BTreeMap::new();
    for (name, value) in map {
        fields.insert(short("a name in a header", name)?, write(value, deepest)?);
    }
    Ok(AMQPValue::FieldTable(fields.into()))
}

fn deeper(deepest: usize) -> Option<usize> {
    deepest.checked_sub(1)
}

fn too_deep() -> Unwritable {
    unwritable(&format!("a header more than {DEEPEST} levels deep, expected at most so many"))
}

/// How many bytes a value takes after its type.
fn size_of_value(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldArray(values) => {
            4 + values.as_slice().iter().map(|v| 1 + size_of_value(v)).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => 4 + size_of_table(table),
    }
}

fn size_of_table(table: &FieldTable) -> usize {
    table.into_iter().map(|(name, value)| 2 + name.as_str().len() + size_of_value(value)).sum()
}

/// A field as JSON has it; `room` is how many bytes more may be read.
fn read(value: &AMQPValue, room: &mut usize, deepest: usize) -> Result<Value, Unreadable> {
    take_room(room, 1)?;
    Ok(match value {
        AMQPValue::Void => Value::Null,
        AMQPValue::Boolean(truth) => (*truth).into(),
        AMQPValue::ShortShortInt(number) => (*number).into(),
        AMQPValue::ShortShortUInt(number) => (*number).into(),
        AMQPValue::ShortInt(number) => (*number).into(),
        AMQPValue::ShortUInt(number) => (*number).into(),
        AMQPValue::LongInt(number) => (*number).into(),
        AMQPValue::LongUInt(number) => (*number).into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        AMQPValue::Float(number) => (*number).into(),
        AMQPValue::Double(number) => (*number).into(),
        AMQPValue::DecimalValue(number) => decimal(*number).into(),
        AMQPValue::Timestamp(seconds) => moment(*seconds),
        AMQPValue::ShortString(text) => read_text(text.as_str().as_bytes(), room)?,
        AMQPValue::LongString(text) => read_text(text.as_bytes(), room)?,
        AMQPValue::ByteArray(bytes) => read_text(bytes.as_slice(), room)?,
        AMQPValue::FieldArray(values) => {
            let deepest = deeper(deepest).ok_or_else(unreadably_deep)?;
            let values = values.as_slice().iter().map(|value| read(value, room, deepest));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        AMQPValue::FieldTable(table) => {
            let deepest = deeper(deepest).ok_or_else(unreadably_deep)?;
            let mut map = Map::new();
            for (name, value) in table {
                take_room(room, name.as_str().len())?;
                map.insert(name.as_str().into(), read(value, room, deepest)?);
            }
            Value::Object(map)
        }
    })
}

/// A text. What is not UTF-8 is no header that anybody looks into, so that little of it may be lost.
fn read_text(bytes: &[u8], room: &mut usize) -> Result<Value, Unreadable> {
    take_room(room, bytes.len())?;
    Ok(String::from_utf8_lossy(bytes).into())
}

/// A decimal number as text, which is exact.
fn decimal(number: DecimalValue) -> String {
    // py-amqp writes a signed number here, against the letter of the specification.
    let signed = number.value.cast_signed();
    let (digits, scale) = (signed.unsigned_abs().to_string(), usize::from(number.scale));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    format!("{}{whole}{point}{fraction}", if signed < 0 { "-" } else { "" })
}

/// A time of the year 1 to 9999 in ISO 8601; else the number of seconds that it was.
fn moment(seconds: u64) -> Value {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or(seconds.into(), |time| time.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string().into())
}

fn take_room(room: &mut usize, size: usize) -> Result<(), Unreadable> {
    let left = room.checked_sub(size);
    *room = left.ok_or_else(|| unreadable("more bytes of headers than are allowed, expected fewer"))?;
    Ok(())
}

fn unreadably_deep() -> Unreadable {
    unreadable(&format!("headers more than {DEEPEST} levels deep, expected at most so many"))
}

fn unreadable(found: &str) -> Unreadable {
    Unreadable { reason: shortened(format!("could not read the message: found {found}")) }
}

fn unwritable(found: &str) -> Unwritable {
    Unwritable { reason: shortened(format!("found {found}")) }
}

#[cfg(test)]
mod tests;
