//! The part of the memory in which the keys and values of a dict lie.
//!
//! ```text
//! word 0  the number of buckets, as a power of two      1  the first word that no record has      2  buckets ever taken
//!      8… the buckets: 0 never taken · 1 its key was taken away · else hash (16 bits) │ the record's place (48)
//!         the records: key's length (24) │ what the value is (8) │ its length (32)
//!                      hash
//!                      key … value …, each from a word of its own on
//! ```
//!
//! A key is looked for from the bucket on that its hash names, up to one that was never taken; a third of them is kept
//! so. Records are never moved within an area and never written over, but for numbers.

use std::ops::Range;

use super::Value;
use super::hash::{Key, words_of};
use crate::prim::atomic::{AtomicU64, Ordering};

const BITS: usize = 0;
const USED: usize = 1;
const TAKEN: usize = 2;
const BUCKETS: usize = 8;
const GONE: u64 = 1;
const PLACE: u64 = (1 << 48) - 1;
/// Words of a record before its key.
const HEAD: usize = 2;
/// The unit of places: a root has 32 bits for each.
const UNIT: usize = 64;
const LONGEST_KEY: usize = (1 << 24) - 1;

const BYTES: u64 = 0;
const INT: u64 = 1;
const FLOAT: u64 = 2;

/// Where an area is: one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// In units behind the head, both.
    start: u32,
    len: u32,
}

impl Place {
    /// As much of the words as are whole units.
    pub(super) fn of(range: Range<usize>) -> Option<Self> {
        let start = u32::try_from(range.start.checked_sub(super::FIRST)? / UNIT).ok()?;
        let len = u32::try_from(range.len() / UNIT).ok()?;
        Some(Self { start, len })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    pub(super) const fn of_word(word: u64) -> Option<Self> {
        let (start, len) = ((word >> 32) as u32, word as u32);
        if len == 0 { None } else { Some(Self { start, len }) }
    }

    pub(super) const fn word(self) -> u64 {
        (self.start as u64) << 32 | self.len as u64
    }

    pub(super) const fn range(self) -> Range<usize> {
        let start = super::FIRST + self.start as usize * UNIT;
        start..start + self.len as usize * UNIT
    }
}

/// How large an area has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) bits: u32,
    records: usize,
}

impl Shape {
    /// For no key yet.
    pub(super) const EMPTY: Self = Self { bits: 5, records: 256 };

    /// Its words, in whole units.
    pub(super) fn words(self) -> usize {
        (BUCKETS + (1 << self.bits) + self.records).next_multiple_of(UNIT)
    }
}

/// Where a key was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) bucket: usize,
    pub(super) record: usize,
}

/// An area; see the module. What its methods return is `None` where the memory makes no sense.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area<'a> {
    words: &'a [AtomicU64],
    mask: usize,
}

impl<'a> Area<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Option<Self> {
        let bits = words.get(BITS)?.load(Ordering::Relaxed);
        let buckets = 1_usize.checked_shl(u32::try_from(bits).ok()?)?;
        (words.len() - BUCKETS.min(words.len()) > buckets).then_some(Self { words, mask: buckets - 1 })
    }

    /// Makes an empty one.
    pub(super) fn initialise(words: &'a [AtomicU64], bits: u32) -> Option<Self> {
        words.get(BITS)?.store(u64::from(bits), Ordering::Relaxed);
        let area = Self::new(words)?;
        for bucket in area.buckets() {
            bucket.store(0, Ordering::Relaxed);
        }
        words[TAKEN].store(0, Ordering::Relaxed);
        words[USED].store((BUCKETS + area.mask + 1) as u64, Ordering::Relaxed);
        Some(area)
    }

    fn buckets(self) -> &'a [AtomicU64] {
        &self.words[BUCKETS..=BUCKETS + self.mask]
    }

    fn word(self, index: usize) -> Option<u64> {
        Some(self.words.get(index)?.load(Ordering::Relaxed))
    }

    fn size(self, index: usize) -> usize {
        usize::try_from(self.words[index].load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// The place of a record in a bucket that has one.
    fn record_in(bucket: u64) -> Option<usize> {
        if bucket <= GONE { None } else { usize::try_from(bucket & PLACE).ok() }
    }

    /// Where the key is; `Some(None)` if it is not there.
    #[inline]
    #[expect(clippy::option_option, reason = "as all here: `None` is memory that makes no sense")]
    pub(super) fn find(self, key: &Key<'_>) -> Option<Option<Found>> {
        for bucket in self.path(key.hash) {
            // Acquire pairs with the Release in `put`.
            let found = self.words[BUCKETS + bucket].load(Ordering::Acquire);
            if found == 0 {
                return Some(None);
            }
            let is_alike = found > GONE && (found ^ key.hash) >> 48 == 0;
            if let Some(record) = Self::record_in(found).filter(|_| is_alike)
                && self.has_key(record, key)?
            {
                return Some(Some(Found { bucket, record }));
            }
        }
        // There is always one that was never taken.
        None
    }

    /// The buckets that a hash may be in, the first first.
    fn path(self, hash: u64) -> impl Iterator<Item = usize> {
        let (mask, first) = (self.mask, usize::try_from(hash & PLACE).unwrap_or(0));
        (0..=mask).map(move |step| first.wrapping_add(step) & mask)
    }

    fn has_key(self, record: usize, key: &Key<'_>) -> Option<bool> {
        if self.word(record + 1)? != key.hash || self.key_len(record)? != key.bytes.len() {
            return Some(false);
        }
        let stored = self.words.get(record + HEAD..record + HEAD + key.bytes.len().div_ceil(8))?;
        Some(stored.iter().zip(words_of(key.bytes)).all(|(word, mine)| word.load(Ordering::Relaxed) == mine))
    }

    fn key_len(self, record: usize) -> Option<usize> {
        usize::try_from(self.word(record)? >> 40).ok()
    }

    fn kind_and_len(self, record: usize) -> Option<(u64, usize)> {
        let head = self.word(record)?;
        Some((head >> 32 & 0xff, usize::try_from(head & u64::from(u32::MAX)).ok()?))
    }

    /// Where the value begins.
    fn value_at(self, record: usize) -> Option<usize> {
        Some(record + HEAD + self.key_len(record)?.div_ceil(8))
    }

    fn bytes(self, start: usize, len: usize) -> Option<Vec<u8>> {
        let words = self.words.get(start..start.checked_add(len.div_ceil(8))?)?;
        let mut bytes = Vec::with_capacity(words.len() * 8);
        for word in words {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes.truncate(len);
        Some(bytes)
    }

    /// The key of a record.
    pub(super) fn key(self, record: usize) -> Option<Vec<u8>> {
        self.bytes(record + HEAD, self.key_len(record)?)
    }

    /// The value of a record.
    pub(super) fn value(self, record: usize) -> Option<Value<Vec<u8>>> {
        let ((kind, len), start) = (self.kind_and_len(record)?, self.value_at(record)?);
        Some(match kind {
            BYTES => Value::Bytes(self.bytes(start, len)?),
            INT => Value::Int(self.word(start)?.cast_signed()),
            FLOAT => Value::Float(f64::from_bits(self.word(start)?)),
            _ => return None,
        })
    }

    /// The same, without what is no number.
    pub(super) fn number(self, record: usize) -> Option<Value<()>> {
        let ((kind, _), start) = (self.kind_and_len(record)?, self.value_at(record)?);
        Some(match kind {
            INT => Value::Int(self.word(start)?.cast_signed()),
            FLOAT => Value::Float(f64::from_bits(self.word(start)?)),
            _ => Value::Bytes(()),
        })
    }

    /// Changes a number to another of its type, by one store; `false` if it is not one.
    pub(super) fn set_in_place(self, record: usize, value: &Value<&[u8]>) -> bool {
        let change = || {
            let (word, is_float) = value.word()?;
            let (kind, _) = self.kind_and_len(record)?;
            let place = self.words.get(self.value_at(record)?)?;
            (kind == if is_float { FLOAT } else { INT }).then(|| place.store(word, Ordering::Release))
        };
        change().is_some()
    }

    /// How many words a record takes; `None` if it cannot be one.
    pub(super) fn record_words(key: &Key<'_>, value: &Value<&[u8]>) -> Option<usize> {
        let len = match value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Int(_) | Value::Float(_) => 8,
        };
        let fits = key.bytes.len() <= LONGEST_KEY && u32::try_from(len).is_ok();
        fits.then(|| HEAD + key.bytes.len().div_ceil(8) + len.div_ceil(8))
    }

    /// Whether a record of so many words can be put here, and a bucket be taken for it.
    pub(super) fn has_room(self, words: usize) -> bool {
        let is_free = self.size(USED).checked_add(words).is_some_and(|end| end <= self.words.len());
        is_free && self.size(TAKEN) < (self.mask + 1) / 3 * 2
    }

    /// Writes a record, for which there is room: in place of what that bucket has, or into the first that is free.
    pub(super) fn put(self, key: &Key<'_>, value: &Value<&[u8]>, bucket: Option<usize>) -> Option<()> {
        let record = self.size(USED);
        let words = self.words.get(record..record.checked_add(Self::record_words(key, value)?)?)?;
        let (kind, len) = match value {
            Value::Bytes(bytes) => (BYTES, bytes.len()),
            Value::Int(_) => (INT, 8),
            Value::Float(_) => (FLOAT, 8),
        };
        words[0].store((key.bytes.len() as u64) << 40 | kind << 32 | len as u64, Ordering::Relaxed);
        words[1].store(key.hash, Ordering::Relaxed);
        let (keys, values) = words[HEAD..].split_at(key.bytes.len().div_ceil(8));
        copy(keys, words_of(key.bytes));
        match value {
            Value::Bytes(bytes) => copy(values, words_of(bytes)),
            number => copy(values, number.word().into_iter().map(|(word, _)| word)),
        }
        self.words[USED].store((record + words.len()) as u64, Ordering::Relaxed);
        self.publish(key.hash, record, bucket)
    }

    /// Has a bucket name the record: from here on it counts.
    fn publish(self, hash: u64, record: usize, bucket: Option<usize>) -> Option<()> {
        let bucket = if let Some(bucket) = bucket {
            bucket
        } else {
            let free = |bucket: &usize| self.buckets()[*bucket].load(Ordering::Relaxed) == 0;
            self.words[TAKEN].fetch_add(1, Ordering::Relaxed);
            self.path(hash).find(free)?
        };
        // Release puts it behind the record, in this program's order and in others' eyes.
        self.buckets()[bucket].store(hash & !PLACE | record as u64 & PLACE, Ordering::Release);
        Some(())
    }

    /// Takes the key of a bucket away.
    pub(super) fn bury(self, bucket: usize) {
        self.buckets()[bucket & self.mask].store(GONE, Ordering::Release);
    }

    /// All records that count.
    pub(super) fn records(self) -> impl Iterator<Item = usize> + use<'a> {
        self.buckets().iter().filter_map(|bucket| Self::record_in(bucket.load(Ordering::Acquire)))
    }

    /// Sets right what the area says of itself; how many keys there are.
    pub(super) fn recount(self) -> u64 {
        let taken = self.buckets().iter().filter(|bucket| bucket.load(Ordering::Relaxed) != 0).count();
        self.words[TAKEN].store(taken as u64, Ordering::Relaxed);
        self.records().count() as u64
    }

    fn words_of_record(self, record: usize) -> Option<Range<usize>> {
        let (_, len) = self.kind_and_len(record)?;
        let end = self.value_at(record)?.checked_add(len.div_ceil(8))?;
        (end <= self.words.len()).then_some(record..end)
    }

    /// The shape of an area that has what lives in this one and a record of so many words, and as much again.
    pub(super) fn shape_for(self, words: usize) -> Option<Shape> {
        let (mut keys, mut live) = (1_usize, words);
        for record in self.records() {
            live = live.checked_add(self.words_of_record(record)?.len())?;
            keys += 1;
        }
        let bits = (keys * 2).next_power_of_two().max(16).ilog2() + 1;
        Some(Shape { bits, records: live.checked_mul(2)?.max(256) })
    }

    /// Takes over a record of another area.
    pub(super) fn adopt(self, other: &Self, record: usize) -> Option<()> {
        let theirs = other.words.get(other.words_of_record(record)?)?;
        let place = self.size(USED);
        let words = self.words.get(place..place.checked_add(theirs.len())?)?;
        copy(words, theirs.iter().map(|word| word.load(Ordering::Relaxed)));
        self.words[USED].store((place + words.len()) as u64, Ordering::Relaxed);
        self.publish(other.word(record + 1)?, place, None)
    }
}

fn copy(target: &[AtomicU64], words: impl Iterator<Item = u64>) {
    for (target, word) in target.iter().zip(words) {
        target.store(word, Ordering::Relaxed);
    }
}
