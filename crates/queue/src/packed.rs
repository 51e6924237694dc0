//! Deliveries that wait for a long time, in few bytes.
//!
//! What the messages of one task have in common (its name, its producer, where results go…) is kept once, as a *shape*
//! with a number; what is each one's own follows in a few dozen bytes. A message comes back exactly as it was.
//!
//! **Bounds.** There are at most [`MOST_SHAPES`] shapes at a time: a message with yet another one carries it along.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use jiff::tz::TimeZone;
use manyhands_engine::clock::Tick;
use serde_json::{Map, Value};

use crate::broker::Tag;
use crate::inbox::{Ticket, times};
use crate::message::{Headers, Message, Properties};

/// More different shapes are not kept.
const MOST_SHAPES: usize = 4096;
/// How the body of a plain call ends.
const NO_EMBED: &[u8] = br#", {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// How a call without arguments by name shows them.
const NO_KWARGS: &str = "{}";

// What a delivery is, and what of it follows: two bytes, before all else.
const REDELIVERED: u16 = 1;
const ID_IS_UUID: u16 = 1 << 1;
const ROOT_IS_ID: u16 = 1 << 2;
const CORRELATION_IS_ID: u16 = 1 << 3;
const PLAIN_CALL: u16 = 1 << 4;
const OWN_SHAPE: u16 = 1 << 5;
/// It is due at a time that is written as most do, so that microseconds since 1970 say as much.
const USUAL_ETA: u16 = 1 << 6;
const WITHOUT_KWARGS: u16 = 1 << 7;
const HAS_GROUP_INDEX: u16 = 1 << 8;
/// The flags of texts that are there, in the order in which they follow.
const TEXTS: [u16; 7] = [1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15];

/// A delivery in few bytes.
#[derive(Debug)]
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// How much memory it takes, without what it shares with others.
    pub(crate) fn bytes(&self) -> usize {
        // What an allocator adds and rounds up to.
        size_of::<Self>() + (self.0.len() + 8).next_multiple_of(16)
    }

    /// Where it came from, read without unpacking the rest.
    pub(crate) fn ticket(&self) -> Ticket {
        let mut reader = Reader(&self.0);
        let flags = reader.flags();
        reader.ticket(flags)
    }
}

/// Ids that are looked for among packed deliveries.
#[derive(Debug)]
pub(crate) struct Ids<'a> {
    uuids: HashSet<[u8; 16]>,
    others: HashSet<&'a [u8]>,
}

impl<'a> Ids<'a> {
    pub(crate) fn new(ids: impl Iterator<Item = &'a str>) -> Self {
        let mut these = Self { uuids: HashSet::new(), others: HashSet::new() };
        for id in ids {
            match uuid_of(id) {
                Some(uuid) => these.uuids.insert(uuid),
                None => these.others.insert(id.as_bytes()),
            };
        }
        these
    }

    /// Whether one of them is the delivery's, which is not unpacked for that.
    pub(crate) fn have(&self, packed: &Packed) -> bool {
        let mut reader = Reader(&packed.0);
        let flags = reader.flags();
        reader.ticket(flags);
        if flags & OWN_SHAPE != 0 {
            reader.bytes();
        } else {
            reader.number();
        }
        if flags & ID_IS_UUID != 0 {
            self.uuids.contains(reader.take(16))
        } else {
            self.others.contains(reader.bytes())
        }
    }
}

/// What packed messages have in common.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    numbers: HashMap<Box<[u8]>, u32>,
    kept: Vec<Kept>,
    vacant: Vec<u32>,
}

#[derive(Debug)]
struct Kept {
    shape: Box<[u8]>,
    users: usize,
}

type Common = (
    (String, Option<String>, String, Option<String>, Option<String>, u32, [Option<f64>; 2], Option<String>),
    (Option<bool>, u32, Option<Vec<String>>, Map<String, Value>, Option<String>, Map<String, Value>),
    (String, String, Option<String>, u8, bool, Option<u64>),
);

/// Writes down what is alike in many messages.
fn shape(queue: &str, message: &Message) -> Vec<u8> {
    let (headers, properties) = (&message.headers, &message.properties);
    let common = (
        (
            queue,
            &headers.lang,
            &headers.task,
            &headers.shadow,
            &headers.group,
            headers.retries,
            headers.timelimit,
            &headers.origin,
        ),
        (
            headers.ignore_result,
            headers.replaced_task_nesting,
            &headers.stamped_headers,
            &headers.stamps,
            &headers.compression,
            &headers.other,
        ),
        (
            &properties.content_type,
            &properties.content_encoding,
            &properties.reply_to,
            properties.priority,
            properties.is_persistent,
            properties.expiration,
        ),
    );
    serde_json::to_vec(&common).unwrap_or_default()
}

impl Shapes {
    /// Packs a delivery.
    pub(crate) fn pack(&mut self, ticket: &Ticket, queue: &str, message: &Message) -> Packed {
        let Message { headers, properties, body } = message;
        let shape = shape(queue, message);
        let number = self.number(&shape);
        let id = uuid_of(&headers.id);
        let is_id = |text: &Option<String>| text.as_deref() == Some(headers.id.as_str());
        let (root_is_id, correlation_is_id) = (is_id(&headers.root_id), is_id(&properties.correlation_id));
        let eta = headers.eta.as_deref().and_then(usual_time);
        let is_without_kwargs = headers.kwargsrepr.as_deref() == Some(NO_KWARGS);
        let arguments = body.strip_suffix(NO_EMBED);
        let texts = [
            headers.eta.as_deref().filter(|_| eta.is_none()),
            headers.expires.as_deref(),
            headers.parent_id.as_deref(),
            headers.argsrepr.as_deref(),
            headers.kwargsrepr.as_deref().filter(|_| !is_without_kwargs),
            headers.root_id.as_deref().filter(|_| !root_is_id),
            properties.correlation_id.as_deref().filter(|_| !correlation_is_id),
        ];
        let facts = [
            (ticket.is_redelivered, REDELIVERED),
            (id.is_some(), ID_IS_UUID),
            (root_is_id, ROOT_IS_ID),
            (correlation_is_id, CORRELATION_IS_ID),
            (arguments.is_some(), PLAIN_CALL),
            (number.is_none(), OWN_SHAPE),
            (eta.is_some(), USUAL_ETA),
            (is_without_kwargs, WITHOUT_KWARGS),
            (headers.group_index.is_some(), HAS_GROUP_INDEX),
        ];
        let facts = facts.into_iter().chain(texts.iter().map(Option::is_some).zip(TEXTS));
        let flags: u16 = facts.filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum();
        let mut writer = Writer(flags.to_le_bytes().into());
        writer.number(u64::from(ticket.line));
        writer.number(ticket.tag.0);
        match number {
            Some(number) => writer.number(u64::from(number)),
            None => writer.bytes(&shape),
        }
        match id {
            Some(id) => writer.0.extend(id),
            None => writer.bytes(headers.id.as_bytes()),
        }
        if let Some(micros) = eta {
            writer.number(micros);
        }
        if let Some(index) = headers.group_index {
            writer.number(index.cast_unsigned());
        }
        for text in texts.into_iter().flatten() {
            writer.bytes(text.as_bytes());
        }
        writer.0.extend(arguments.unwrap_or(body));
        // A vector that gave back what it has too much would leave a gap behind each.
        Packed(writer.0.as_slice().into())
    }

    /// Unpacks a delivery: where it came from, its queue and the message.
    pub(crate) fn unpack(&mut self, packed: Packed) -> (Ticket, String, Message) {
        let unpacked = self.read(&packed);
        self.forget(packed);
        unpacked
    }

    /// Reads a delivery that stays packed.
    fn read(&self, packed: &Packed) -> (Ticket, String, Message) {
        let mut reader = Reader(&packed.0);
        let flags = reader.flags();
        let has = |flag| flags & flag != 0;
        let ticket = reader.ticket(flags);
        let common = if has(OWN_SHAPE) {
            serde_json::from_slice(reader.bytes())
        } else {
            let number = u32::try_from(reader.number()).unwrap_or(u32::MAX);
            serde_json::from_slice(&self.kept[number as usize].shape)
        };
        let common: Common = common.expect("it was written by `shape`");
        let (first, second, third) = common;
        let (queue, lang, task, shadow, group, retries, timelimit, origin) = first;
        let (ignore_result, replaced_task_nesting, stamped_headers, stamps, compression, other) = second;
        let (content_type, content_encoding, reply_to, priority, is_persistent, expiration) = third;
        let id = if has(ID_IS_UUID) { text_of(reader.take(16)) } else { reader.owned() };
        let usual_eta = has(USUAL_ETA).then(|| times::show(Tick::from_nanos(1000 * reader.number())));
        let group_index = has(HAS_GROUP_INDEX).then(|| reader.number().cast_signed());
        let [eta, expires, parent_id, argsrepr, kwargsrepr, root_id, correlation_id] =
            TEXTS.map(|text| has(text).then(|| reader.owned()));
        let eta = usual_eta.or(eta);
        let kwargsrepr = if has(WITHOUT_KWARGS) { Some(NO_KWARGS.into()) } else { kwargsrepr };
        let root_id = if has(ROOT_IS_ID) { Some(id.clone()) } else { root_id };
        let correlation_id = if has(CORRELATION_IS_ID) { Some(id.clone()) } else { correlation_id };
        let mut body = reader.0.to_vec();
        if has(PLAIN_CALL) {
            body.extend(NO_EMBED);
        }
        let headers = Headers {
            lang,
            task,
            id,
            shadow,
            eta,
            expires,
            group,
            group_index,
            retries,
            timelimit,
            root_id,
            parent_id,
            argsrepr,
            kwargsrepr,
            origin,
            ignore_result,
            replaced_task_nesting,
            stamped_headers,
            stamps,
            compression,
            other,
        };
        let properties = Properties {
            content_type,
            content_encoding,
            correlation_id,
            reply_to,
            priority,
            is_persistent,
            expiration,
        };
        (ticket, queue, Message { headers, properties, body: Bytes::from(body) })
    }

    /// Lets go of a packed delivery that nobody wants.
    pub(crate) fn forget(&mut self, packed: Packed) -> Ticket {
        let mut reader = Reader(&packed.0);
        let flags = reader.flags();
        let ticket = reader.ticket(flags);
        if flags & OWN_SHAPE == 0 {
            let number = u32::try_from(reader.number()).unwrap_or(u32::MAX);
            self.release(number);
        }
        ticket
    }

    fn number(&mut self, shape: &[u8]) -> Option<u32> {
        if let Some(number) = self.numbers.get(shape) {
            self.kept[*number as usize].users += 1;
            return Some(*number);
        }
        if self.numbers.len() >= MOST_SHAPES {
            return None;
        }
        let kept = Kept { shape: shape.into(), users: 1 };
        let number = if let Some(number) = self.vacant.pop() {
            self.kept[number as usize] = kept;
            number
        } else {
            self.kept.push(kept);
            u32::try_from(self.kept.len() - 1).ok()?
        };
        self.numbers.insert(shape.into(), number);
        Some(number)
    }

    fn release(&mut self, number: u32) {
        let kept = &mut self.kept[number as usize];
        kept.users -= 1;
        if kept.users == 0 {
            self.numbers.remove(&kept.shape);
            kept.shape = Box::default();
            self.vacant.push(number);
        }
    }
}

/// The sixteen bytes of a UUID that is written in the usual way.
fn uuid_of(text: &str) -> Option<[u8; 16]> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    (text_of(uuid.as_bytes()) == text).then(|| uuid.into_bytes())
}

fn text_of(bytes: &[u8]) -> String {
    uuid::Uuid::from_slice(bytes).unwrap_or_default().hyphenated().to_string()
}

/// Microseconds since 1970, from which [`times::show`] makes the same text again.
fn usual_time(text: &str) -> Option<u64> {
    let time = times::parse(text, &TimeZone::UTC)?;
    (times::show(time) == text).then(|| time.as_nanos() / 1000)
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(0x80 | number.to_le_bytes()[0]);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// Reads what a [`Writer`] wrote.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn flags(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len);
        self.0 = tail;
        head
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::try_from(self.number()).unwrap_or(usize::MAX);
        self.take(len)
    }

    fn owned(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    fn ticket(&mut self, flags: u16) -> Ticket {
        let line = u32::try_from(self.number()).unwrap_or(u32::MAX);
        let tag = Tag(self.number());
        Ticket { line, tag, is_redelivered: flags & REDELIVERED != 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of("[a-zé0-9 ]{0,12}")
    }

    /// A time as we write it, or nearly so, or none.
    fn time() -> impl Strategy<Value = Option<String>> {
        let usual = any::<u64>().prop_map(|nanos| times::show(Tick::from_nanos(nanos)));
        let other = usual.clone().prop_flat_map(|time| {
            let whole = time.replace(".000000", "");
            prop_oneof![
                Just(time.replace("+00:00", "Z")),
                Just(time.replace("+00:00", "+02:00")),
                Just(whole)
            ]
        });
        prop_oneof![usual.prop_map(Some), other.prop_map(Some), text()]
    }

    prop_compose! {
        fn any_message()(
            (id, root, parent, argsrepr) in (
                prop_oneof!["[ -~é]{0,40}", Just("2f85d51a-0c40-4f32-a5c6-edf0807878c0".to_owned()),
                    Just("2F85D51A-0C40-4F32-A5C6-EDF0807878C0".to_owned())],
                text(), text(), text(),
            ),
            (eta, expires, group, shadow) in (time(), text(), text(), text()),
            kwargsrepr in prop_oneof![text(), Just(Some(NO_KWARGS.to_owned()))],
            (group_index, retries, priority) in (proptest::option::of(any::<i64>()), any::<u32>(), any::<u8>()),
            (ignore, hard, stamped) in (any::<Option<bool>>(), proptest::option::of(0_u32..99), any::<bool>()),
            (body, is_plain, is_root) in (proptest::collection::vec(any::<u8>(), 0..60), any::<bool>(), any::<bool>()),
            (correlation, reply_to, expiration) in (text(), text(), any::<Option<u64>>()),
        ) -> Message {
            let mut body = body;
            if is_plain {
                body.extend(NO_EMBED);
            }
            let root_id = if is_root { Some(id.clone()) } else { root };
            let mut other = Map::new();
            if stamped {
                other.insert("x-tenant".into(), Value::from("acme"));
            }
            Message {
                headers: Headers {
                    lang: Some("py".into()), task: "shop.charge".into(), id, shadow, eta, expires, group, group_index,
                    retries, timelimit: [hard.map(f64::from), None], root_id, parent_id: parent, argsrepr, kwargsrepr,
                    ignore_result: ignore, other, stamped_headers: stamped.then(|| vec!["x".into()]),
                    ..Headers::default()
                },
                properties: Properties { correlation_id: correlation, reply_to, priority, expiration, ..Properties::default() },
                body: body.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_as_it_was(
            messages in proptest::collection::vec((any_message(), any::<u32>(), any::<u64>(), any::<bool>()), 1..20),
        ) {
            let mut shapes = Shapes::default();
            let packed: Vec<_> = messages.iter().map(|(message, line, tag, is_redelivered)| {
                let ticket = Ticket { line: *line, tag: Tag(*tag), is_redelivered: *is_redelivered };
                (ticket, shapes.pack(&ticket, "celery", message))
            }).collect();
            for ((ticket, packed), (message, ..)) in packed.into_iter().zip(&messages) {
                prop_assert_eq!(packed.ticket(), ticket);
                let (found, queue, unpacked) = shapes.unpack(packed);
                prop_assert_eq!(found, ticket);
                prop_assert_eq!(queue, "celery");
                prop_assert_eq!(&unpacked, message);
            }
            prop_assert!(shapes.numbers.is_empty());
        }
    }

    #[test]
    fn a_usual_call_that_is_due_later_takes_few_bytes() {
        let id = "2f85d51a-0c40-4f32-a5c6-edf0807878c0".to_owned();
        let headers = Headers {
            task: "shop.charge".into(),
            eta: Some("2030-01-01T00:00:00.000001+00:00".into()),
            root_id: Some(id.clone()),
            argsrepr: Some("(7,)".into()),
            kwargsrepr: Some("{}".into()),
            id: id.clone(),
            ..Headers::default()
        };
        let properties = Properties { correlation_id: Some(id), ..Properties::default() };
        let body = [&b"[[7]"[..], NO_EMBED].concat().into();
        let ticket = Ticket { line: 0, tag: Tag(9999), is_redelivered: false };
        let packed = Shapes::default().pack(&ticket, "celery", &Message { headers, properties, body });
        assert!(packed.0.len() <= 40, "{} bytes", packed.0.len());
    }

    #[test]
    fn too_many_shapes_travel_along() {
        let mut shapes = Shapes::default();
        let ticket = Ticket { line: 0, tag: Tag(1), is_redelivered: false };
        let message = |number: usize| Message {
            headers: Headers { task: format!("task{number}"), id: "x".into(), ..Headers::default() },
            properties: Properties::default(),
            body: Bytes::new(),
        };
        let count = MOST_SHAPES + 10;
        let packed: Vec<_> = (0..count).map(|number| shapes.pack(&ticket, "q", &message(number))).collect();
        assert_eq!(shapes.numbers.len(), MOST_SHAPES);
        for (number, packed) in packed.into_iter().enumerate() {
            if number % 2 == 0 {
                assert_eq!(shapes.unpack(packed).2, message(number));
            } else {
                assert_eq!(shapes.forget(packed), ticket);
            }
        }
        assert!(shapes.numbers.is_empty());
        assert_eq!(shapes.vacant.len(), shapes.kept.len());
    }
}
