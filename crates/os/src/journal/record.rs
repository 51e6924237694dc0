//! The bytes of a journal: how one record is written, checked and found again.

use std::io::{self, Read};

/// First bytes of every journal; the digit is the format's version.
pub(super) const MAGIC: [u8; 16] = *b"manyhands-jrnl1\n";

/// Length of a record without its payload.
///
/// After [`MAGIC`] a journal is a sequence of records, integers little-endian:
///
/// | bytes | field | |
/// |---|---|---|
/// | 4 | length | of the payload |
/// | 1 | kind | [`Kind`] |
/// | 4 | occurrence | of the row among rows with the same content |
/// | 16 | content | BLAKE3 of the row, first 16 bytes |
/// | 8 | checksum | BLAKE3 of the record's offset, the 25 bytes above and the payload, first 8 bytes |
/// | length | payload | |
///
/// The offset is part of the checksum so that a record that landed in the wrong place does not pass for one.
pub(super) const HEAD: usize = 33;
const CHECKED: usize = 25;

/// Longest payload; far above any row, and low enough that a forged length cannot exhaust the memory.
pub const MAX_PAYLOAD: usize = 256 << 20;

/// Stands in the content field of a [`Kind::Synced`] record, so that one can be searched for.
pub(super) const SYNCED: Content = *b"manyhands-synced";

/// First 16 bytes of the BLAKE3 hash of a row.
pub type Content = [u8; 16];

/// Names a row wherever in the input it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// What the row contains.
    pub content: Content,
    /// How many rows with the same content came before it.
    pub occurrence: u32,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Which run this is the journal of; the last one counts.
    Opening = 1,
    /// The row is finished; the payload is its result.
    Done = 2,
    /// The row has failed for good; the payload says how.
    Failed = 3,
    /// What an earlier record said about the row no longer holds.
    Dropped = 4,
    /// All bytes before the offset in the payload were on the disk when this was written.
    Synced = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Opening, Self::Done, Self::Failed, Self::Dropped, Self::Synced]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The fixed part of a record, not yet checked against its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: Kind,
    pub(super) key: Key,
    checksum: [u8; 8],
}

/// Appends to `out` the record that will stand at `offset`.
pub(super) fn encode(out: &mut Vec<u8>, offset: u64, kind: Kind, key: Key, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("the caller keeps payloads below MAX_PAYLOAD");
    let start = out.len();
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&key.occurrence.to_le_bytes());
    out.extend_from_slice(&key.content);
    let checksum = checksum(offset, &out[start..], payload);
    out.extend_from_slice(&checksum);
    out.extend_from_slice(payload);
}

fn checksum(offset: u64, head: &[u8], payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&offset.to_le_bytes()).update(&head[..CHECKED]).update(payload);
    take(hasher.finalize().as_bytes())
}

fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the caller has checked the length")
}

impl Head {
    /// Reads a head of a record whose payload may take up to `room` bytes; `None` if it cannot be one.
    pub(super) fn parse(bytes: &[u8; HEAD], room: u64) -> Option<Self> {
        let length = u32::from_le_bytes(take(bytes));
        let kind = Kind::from_byte(bytes[4])?;
        let key = Key { occurrence: u32::from_le_bytes(take(&bytes[5..])), content: take(&bytes[9..]) };
        let fits = u64::from(length) <= room && length as usize <= MAX_PAYLOAD;
        fits.then(|| Self { length: length as usize, kind, key, checksum: take(&bytes[CHECKED..]) })
    }

    /// Whether `bytes` and `payload` are what was written at `offset`.
    pub(super) fn holds(&self, offset: u64, bytes: &[u8; HEAD], payload: &[u8]) -> bool {
        self.checksum == checksum(offset, bytes, payload)
    }
}

/// Walks over the records of a journal from its beginning.
pub(super) struct Scan<R> {
    reader: R,
    /// Where the next record begins: everything before it is sound.
    pub(super) offset: u64,
    end: u64,
    payload: Vec<u8>,
}

/// What a [`Scan`] comes upon.
pub(super) enum Found<'a> {
    Record {
        offset: u64,
        head: Head,
        payload: &'a [u8],
    },
    /// The file ends with a whole record.
    End,
    /// What stands at the scan's offset is no whole, sound record.
    Damage,
}

impl<R: Read> Scan<R> {
    /// `reader` stands at `offset` of a file that ends at `end`.
    pub(super) fn new(reader: R, offset: u64, end: u64) -> Self {
        Self { reader, offset, end, payload: Vec::new() }
    }

    pub(super) fn next(&mut self) -> io::Result<Found<'_>> {
        let room = self.end - self.offset;
        if room == 0 {
            return Ok(Found::End);
        }
        let Some(room) = room.checked_sub(HEAD as u64) else { return Ok(Found::Damage) };
        let mut bytes = [0; HEAD];
        self.reader.read_exact(&mut bytes)?;
        let Some(head) = Head::parse(&bytes, room) else { return Ok(Found::Damage) };
        self.payload.resize(head.length, 0);
        self.reader.read_exact(&mut self.payload)?;
        let offset = self.offset;
        if !head.holds(offset, &bytes, &self.payload) {
            return Ok(Found::Damage);
        }
        self.offset += (HEAD + head.length) as u64;
        Ok(Found::Record { offset, head, payload: &self.payload })
    }
}

/// How far a sound [`Kind::Synced`] record at the start of `bytes`, which stand at `offset`, vouches for the
/// file; `None` if there is no such record.
pub(super) fn synced(bytes: &[u8], offset: u64) -> Option<u64> {
    let (head_bytes, rest) = bytes.split_first_chunk::<HEAD>()?;
    let head = Head::parse(head_bytes, rest.len() as u64)?;
    let payload = &rest[..head.length];
    let sound =
        head.kind == Kind::Synced && head.key.content == SYNCED && head.holds(offset, head_bytes, payload);
    (sound && payload.len() == 8).then(|| u64::from_le_bytes(take(payload)))
}

/// Where [`SYNCED`] stands within a record.
pub(super) const SYNCED_AT: usize = 9;
