//! The messages between a pool and its worker processes: one byte of kind, fixed fields (little endian), then bytes.
//!
//! A worker runs the user's code, and that code may scribble into the segment: everything read from a ring is checked.

use std::io;
use std::os::fd::AsRawFd;

use manyhands_os::segment::Segment;

use crate::bulk::Manner;

const TASK: u8 = 0;
const OUTSIDE: u8 = 1;
const READY: u8 = 2;
const NOT_READY: u8 = 3;
const VALUE: u8 = 4;
const ERROR: u8 = 5;
const NOTE: u8 = 9;
const PART: u8 = 6;
const SEEN: u8 = 10;

const HAS_SEED: u8 = 1;
const SPREADS: u8 = 2;
const IS_TIMED: u8 = 4;
const IS_MEASURED: u8 = 8;
const IS_LARGE: u8 = 128;
const NO_SLOT: u8 = u8::MAX;
const YOURS: u8 = u8::MAX - 1;

/// Where a large pickle lies: in memory of the process that sends the message, nearly always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) descriptor: u32,
    /// By what number it is given back; `None` if it need not be.
    pub(crate) slot: Option<u8>,
    /// Of which segment of the sender's it is the memory, if that is worth remembering.
    pub(crate) number: Option<u64>,
    /// In memory that the receiver has [offered](crate::offer).
    pub(crate) is_yours: bool,
}

impl Place {
    pub(crate) const fn yours() -> Self {
        Self { descriptor: 0, slot: None, number: None, is_yours: true }
    }

    pub(crate) fn new(segment: &Segment, slot: Option<u8>, is_memorable: bool) -> Self {
        // A descriptor that is open is not negative.
        let descriptor = segment.fd().as_raw_fd().cast_unsigned();
        Self { descriptor, slot, number: is_memorable.then(|| segment.number()), is_yours: false }
    }

    pub(crate) fn encode(self) -> [u8; 13] {
        let no_slot = if self.is_yours { YOURS } else { NO_SLOT };
        let mut bytes = [self.slot.unwrap_or(no_slot); 13];
        bytes[..4].copy_from_slice(&self.descriptor.to_le_bytes());
        bytes[5..].copy_from_slice(&self.number.unwrap_or(0).to_le_bytes());
        bytes
    }

    fn read(mut reader: Reader<'_>) -> Option<Self> {
        let descriptor = reader.u32()?;
        let slot = reader.byte()?;
        let number = Some(reader.u64()?).filter(|number| *number != 0);
        let is_yours = slot == YOURS;
        Some(Self { descriptor, slot: Some(slot).filter(|slot| *slot < YOURS), number, is_yours })
    }
}

/// A pickle in a message, or where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    Inline(&'a [u8]),
    Large(Place),
}

impl<'a> Content<'a> {
    fn read(is_large: bool, reader: Reader<'a>) -> Option<Self> {
        if is_large { Place::read(reader).map(Self::Large) } else { Some(Self::Inline(reader.0)) }
    }
}

/// The fixed part of a task; followed by the pickled function, if the worker does not know it, and the arguments.
pub(crate) struct Task {
    pub(crate) serial: u64,
    pub(crate) function: u32,
    /// Bytes of the pickled function; 0 if the worker knows it.
    pub(crate) function_len: u32,
    pub(crate) seed: Option<u64>,
    /// How many items the arguments are, each for a call of its own; 0 for one call.
    pub(crate) items: u32,
    /// How to call the function with them.
    pub(crate) manner: Manner,
    /// Bytes of the pickled context before the items.
    pub(crate) context_len: u32,
    /// The arguments lie elsewhere: the message has their place.
    pub(crate) is_large: bool,
}

impl Task {
    pub(crate) fn encode(&self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[0] = TASK;
        bytes[1..9].copy_from_slice(&self.serial.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.function.to_le_bytes());
        bytes[13..17].copy_from_slice(&self.function_len.to_le_bytes());
        let flags = [
            (self.seed.is_some(), HAS_SEED),
            (self.manner.spreads, SPREADS),
            (self.manner.is_timed, IS_TIMED),
            (self.manner.is_measured, IS_MEASURED),
            (self.is_large, IS_LARGE),
        ];
        bytes[17] = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum();
        bytes[18..26].copy_from_slice(&self.seed.unwrap_or(0).to_le_bytes());
        bytes[26..30].copy_from_slice(&self.items.to_le_bytes());
        bytes[30..34].copy_from_slice(&self.context_len.to_le_bytes());
        bytes
    }
}

pub(crate) const fn ready() -> [u8; 1] {
    [READY]
}

/// Followed by the traceback's text.
pub(crate) const fn not_ready() -> [u8; 1] {
    [NOT_READY]
}

/// Followed by what the worker says; `kind` is for Python to know.
pub(crate) const fn note(kind: u8) -> [u8; 2] {
    [NOTE, kind]
}

/// The fixed part of an answer; followed by the pickled value or failure, or its place if it `is_large`.
pub(crate) fn answer(serial: u64, has_failed: bool, is_large: bool, run: u64, cpu: u64) -> [u8; 25] {
    let mut bytes = [0; 25];
    bytes[0] = if has_failed { ERROR } else { VALUE } | if is_large { IS_LARGE } else { 0 };
    bytes[1..9].copy_from_slice(&serial.to_le_bytes());
    bytes[9..17].copy_from_slice(&run.to_le_bytes());
    bytes[17..25].copy_from_slice(&cpu.to_le_bytes());
    bytes
}

/// Before the results of the next items of a batch.
pub(crate) fn part(serial: u64, done: u32, failed: u32, run: u64) -> [u8; 25] {
    let mut bytes = [PART; 25];
    bytes[1..9].copy_from_slice(&serial.to_le_bytes());
    bytes[9..13].copy_from_slice(&done.to_le_bytes());
    bytes[13..17].copy_from_slice(&failed.to_le_bytes());
    bytes[17..25].copy_from_slice(&run.to_le_bytes());
    bytes
}

/// Followed by the frame in which a coroutine is that is stopped.
pub(crate) fn seen(serial: u64) -> [u8; 9] {
    let mut bytes = [SEEN; 9];
    bytes[1..].copy_from_slice(&serial.to_le_bytes());
    bytes
}

/// Puts a message about a task into a segment of its own; returns the message that says where it is.
pub(crate) fn outside(serial: u64, parts: &[&[u8]]) -> io::Result<([u8; 21], Segment)> {
    let len = parts.iter().map(|part| part.len()).sum();
    let segment = Segment::create(len)?;
    let mut offset = 0;
    for part in parts {
        segment.write(offset, part)?;
        offset += part.len();
    }
    let mut bytes = [OUTSIDE; 21];
    let descriptor = u32::try_from(segment.fd().as_raw_fd()).map_err(io::Error::other)?;
    bytes[1..5].copy_from_slice(&descriptor.to_le_bytes());
    bytes[5..13].copy_from_slice(&(len as u64).to_le_bytes());
    bytes[13..21].copy_from_slice(&serial.to_le_bytes());
    Ok((bytes, segment))
}

/// What a worker is told.
pub(crate) enum Order<'a> {
    Task { task: Task, function: &'a [u8], arguments: Content<'a> },
    Outside { descriptor: u32, len: u64, serial: u64 },
}

/// What a worker answers.
pub(crate) enum Answer<'a> {
    Ready,
    NotReady(&'a [u8]),
    Note {
        kind: u8,
        bytes: &'a [u8],
    },
    Done {
        serial: u64,
        has_failed: bool,
        run: u64,
        cpu: u64,
        content: Content<'a>,
    },
    /// Results of the next items of a batch: how many, how many of them failures, and the nanoseconds that they took.
    Part {
        serial: u64,
        done: u32,
        failed: u32,
        run: u64,
        bytes: &'a [u8],
    },
    /// A coroutine that is stopped is in that frame.
    Seen {
        serial: u64,
        frame: &'a [u8],
    },
    Outside {
        descriptor: u32,
        len: u64,
    },
}

/// Reads fields off the front of a message; `None` if it is too short.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Reads a message to a worker; `None` if it is none.
pub(crate) fn read_order(bytes: &[u8]) -> Option<Order<'_>> {
    let mut reader = Reader(bytes);
    Some(match reader.byte()? {
        TASK => {
            let (serial, function, function_len) = (reader.u64()?, reader.u32()?, reader.u32()?);
            let (flags, seed, items) = (reader.byte()?, reader.u64()?, reader.u32()?);
            let manner = Manner {
                spreads: flags & SPREADS != 0,
                is_timed: flags & IS_TIMED != 0,
                is_measured: flags & IS_MEASURED != 0,
            };
            let seed = (flags & HAS_SEED != 0).then_some(seed);
            let context_len = reader.u32()?;
            let is_large = flags & IS_LARGE != 0;
            let task = Task { serial, function, function_len, seed, items, manner, context_len, is_large };
            let (function, rest) = reader.0.split_at_checked(function_len as usize)?;
            Order::Task { task, function, arguments: Content::read(is_large, Reader(rest))? }
        }
        OUTSIDE => Order::Outside { descriptor: reader.u32()?, len: reader.u64()?, serial: reader.u64()? },
        _ => return None,
    })
}

/// The number of the task that a message to a worker is about; `None` if it is none.
pub(crate) fn serial(bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader(bytes);
    match reader.byte()? {
        TASK => reader.u64(),
        OUTSIDE => {
            let _ = (reader.u32()?, reader.u64()?);
            reader.u64()
        }
        _ => None,
    }
}

/// Reads a message from a worker; `None` if it is none.
pub(crate) fn read_answer(bytes: &[u8]) -> Option<Answer<'_>> {
    let mut reader = Reader(bytes);
    Some(match reader.byte()? {
        READY => Answer::Ready,
        NOT_READY => Answer::NotReady(reader.0),
        NOTE => Answer::Note { kind: reader.byte()?, bytes: reader.0 },
        kind if matches!(kind & !IS_LARGE, VALUE | ERROR) => {
            let (serial, run, cpu) = (reader.u64()?, reader.u64()?, reader.u64()?);
            let has_failed = kind & !IS_LARGE == ERROR;
            let content = Content::read(kind & IS_LARGE != 0, reader)?;
            Answer::Done { serial, has_failed, run, cpu, content }
        }
        PART => {
            let (serial, done, failed, run) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u64()?);
            Answer::Part { serial, done, failed, run, bytes: reader.0 }
        }
        SEEN => Answer::Seen { serial: reader.u64()?, frame: reader.0 },
        OUTSIDE => Answer::Outside { descriptor: reader.u32()?, len: reader.u64()? },
        _ => return None,
    })
}

/// Reads what another process of ours has put into a segment of its own.
pub(crate) fn read_outside(pid: i32, descriptor: u32, len: u64) -> io::Result<Vec<u8>> {
    let file =
        std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/fd/{descriptor}"))?;
    let segment = Segment::from_fd(file.into())?;
    let len = usize::try_from(len).map_err(io::Error::other)?;
    segment.read(0, len)
}
