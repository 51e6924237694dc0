//! The field tables of a frame, walked through without recursion.

use std::ops::Range;

use crate::broker::amqp::aside::ASIDE;
use crate::wire::table::{DEEPEST, UNREADABLE};

/// The class, the weight and the size of the body, which stand before the properties of a message.
const FIXED: usize = 12;

/// That a message has headers, among the flags of its properties.
const HAS_HEADERS: u16 = 1 << 13;

/// Why the properties of a message cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// What was found, and what was expected.
    pub(super) reason: String,
    /// Where the headers lie, if nothing else is wrong.
    pub(super) headers: Option<Range<usize>>,
}

/// Looks at a method. Of those that a server sends, one alone has a table.
pub(super) fn check_method(payload: &[u8]) -> Result<(), String> {
    let Some(&[0, class, 0, method]) = payload.first_chunk::<4>() else { return Ok(()) };
    match (class, method) {
        (10, 10) => {
            let mut bytes = Bytes { all: payload, at: 6 };
            let Some(table) = bytes.long() else { return Ok(()) };
            check_table(&payload[table])
                .map_err(|reason| format!("found {reason} in what the server says of itself"))
        }
        (10, 11) | (40, 10 | 30 | 40) | (50, 10 | 20 | 50) | (60, 20) => Err(format!(
            "found a method {class}.{method} from the server, expected none that only clients send"
        )),
        _ => Ok(()),
    }
}

/// Looks at the properties of a message. An error outside is one of the frame; one inside, of the message.
pub(super) fn check_properties(payload: &[u8]) -> Result<Result<(), Flaw>, String> {
    let Some(flags) = payload.get(FIXED..FIXED + 2) else {
        return Err(format!(
            "found {} bytes of properties from the server, expected at least 14",
            payload.len()
        ));
    };
    let flags = u16::from_be_bytes([flags[0], flags[1]]);
    let mut bytes = Bytes { all: payload, at: FIXED + 2 };
    let mut flaw = None;
    for bit in (2..=15).rev().filter(|bit| flags & (1 << bit) != 0) {
        let is_there = match bit {
            13 => bytes.long().map(|headers| {
                flaw = check_table(&payload[headers.clone()]).err().map(|reason| (reason, headers));
            }),
            11 | 12 => bytes.take(1).map(drop),
            6 => bytes.take(8).map(drop),
            _ => bytes.text().map(drop),
        };
        if is_there.is_none() {
            return Ok(Err(Flaw { reason: "properties that are cut off or no UTF-8".into(), headers: None }));
        }
    }
    if bytes.at != payload.len() {
        return Ok(Err(Flaw { reason: "more than properties in their place".into(), headers: None }));
    }
    Ok(flaw.map_or(Ok(()), |(reason, headers)| Err(Flaw { reason, headers: Some(headers) })))
}

/// The same without what cannot be read, and with the reason instead.
pub(super) fn mend(payload: &[u8], flaw: &Flaw) -> Vec<u8> {
    let reason = format!("could not read the message: found {}", flaw.reason);
    let mark = field(UNREADABLE, &reason);
    match &flaw.headers {
        Some(headers) => [&payload[..headers.start - 4], &sized(&mark), &payload[headers.end..]].concat(),
        None => alone(payload, &mark),
    }
}

/// The same with nothing but the key by which its properties are found.
pub(super) fn key(payload: &[u8], key: &str) -> Vec<u8> {
    alone(payload, &field(ASIDE, key))
}

/// The same with one header instead of all properties.
fn alone(payload: &[u8], field: &[u8]) -> Vec<u8> {
    [&payload[..FIXED], &HAS_HEADERS.to_be_bytes(), &sized(field)].concat()
}

fn field(name: &str, text: &str) -> Vec<u8> {
    let size = u8::try_from(name.len()).unwrap_or_default();
    [&[size][..], name.as_bytes(), b"S", &sized(text.as_bytes())].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or_default().to_be_bytes()[..], bytes].concat()
}

/// Whether each field can be read, and none lies too deep.
fn check_table(table: &[u8]) -> Result<(), String> {
    let mut bytes = Bytes { all: table, at: 0 };
    let mut inner = (table.len(), true);
    let (mut outer, mut deepest) = (Vec::new(), 0);
    loop {
        let (end, has_names) = inner;
        if bytes.at == end {
            let Some(next) = outer.pop() else { break };
            inner = next;
            continue;
        }
        if has_names && bytes.text().is_none() {
            return Err("a header whose name is cut off or no UTF-8".into());
        }
        let kind = bytes.take(1).map(|kind| kind[0]);
        let size = match kind {
            Some(b'V') => Some(0),
            Some(b't' | b'b' | b'B') => Some(1),
            Some(b's' | b'U' | b'u') => Some(2),
            Some(b'I' | b'i' | b'f') => Some(4),
            Some(b'D') => Some(5),
            Some(b'L' | b'l' | b'd' | b'T') => Some(8),
            _ => None,
        };
        let is_there = match (kind, size) {
            (_, Some(size)) => bytes.take(size).is_some(),
            (Some(b'S' | b'x'), _) => bytes.long().is_some(),
            (Some(kind @ (b'A' | b'F')), _) => bytes.long().is_some_and(|range| {
                outer.push(inner);
                deepest = deepest.max(outer.len());
                bytes.at = range.start;
                inner = (range.end, kind == b'F');
                range.end <= end
            }),
            (Some(kind), _) => {
                return Err(format!("a header of the type {kind:#04x}, expected one of AMQP 0-9-1"));
            }
            (None, _) => false,
        };
        if !is_there || bytes.at > end {
            return Err("headers that are cut off".into());
        }
    }
    if deepest > DEEPEST {
        return Err(format!("headers nested {deepest} deep, expected at most {DEEPEST}"));
    }
    Ok(())
}

/// Bytes, and how far they have been read.
struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let taken = self.all.get(self.at..)?.get(..size)?;
        self.at += size;
        Some(taken)
    }

    /// A text of at most 255 bytes.
    fn text(&mut self) -> Option<&'a str> {
        let size = self.take(1)?[0];
        str::from_utf8(self.take(size.into())?).ok()
    }

    /// Where something lies that has its size before it.
    fn long(&mut self) -> Option<Range<usize>> {
        let size = u32::from_be_bytes(*self.take(4)?.first_chunk()?) as usize;
        let start = self.at;
        self.take(size)?;
        Some(start..self.at)
    }
}
