//! A hash map in memory that processes share: keys and values as bytes, numbers changed in place.
//!
//! ```text
//! word 0  the guard: whoever writes holds this lock      1  the version: odd while somebody writes
//!      2  the root: where the area is and how long       3  how many keys      4  the seed of the hashes
//!      8 to 10 are left to a lock of the users
//!     16… areas (see `area`), of which the root names the one that counts
//! ```
//!
//! **Writing.** A record is written into free words of the area, and counts from the one store on that puts its place
//! into a bucket. A number that stays one of its type is changed by one store. When an area is full, what lives is
//! copied to another place, which counts from the store of the root on. So a writer can be killed anywhere: what it has
//! changed is there as a whole or not at all. What it leaves wrong is the version and the counts, which do not say
//! anything that the area does not: whoever takes over the guard [mends](recover) them.
//!
//! **Reading** takes no lock: who finds the same even version before and after has read what was there in between.
//! A reader checks every number it finds against the words there are, for it may read what is just being written,
//! or what somebody has written who means harm.

mod area;
mod hash;
#[cfg(all(test, not(loom)))]
mod tests;

use std::ops::Range;

use area::{Area, Place, Shape};
use hash::Key;

use super::{Memory, number};
use crate::prim::atomic::{AtomicU64, Ordering, fence};

/// The word of the guard.
pub const GUARD: usize = 0;
const VERSION: usize = 1;
const ROOT: usize = 2;
const COUNT: usize = 3;
const SEED: usize = 4;
/// The first of three words that the rules leave to a lock of the users.
pub const SPARE: usize = 8;
const FIRST: usize = 16;
/// The words of an empty dict.
pub const LEAST: usize = FIRST + 512;
/// How often a reader tries before it asks for the guard, so that writers do not keep it for ever.
const TRIES: u32 = 8;

/// A value, as it is read and written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<B> {
    /// Anything.
    Bytes(B),
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
}

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<E> {
    /// The memory makes no sense.
    Corrupt,
    /// There is not enough of it.
    Memory(E),
    /// What was to be added to is no number.
    NoNumber,
    /// The sum does not fit.
    Overflow,
    /// A key or a value is too large.
    TooLarge,
}

/// Makes an empty dict of at least [`LEAST`] words.
pub fn initialise(words: &[AtomicU64], seed: u64) {
    let place = Place::of(FIRST..words.len());
    if let Some(area) = place.and_then(|place| words.get(place.range())) {
        let _ = Area::initialise(area, 4);
    }
    words[SEED].store(seed, Ordering::Relaxed);
    words[ROOT].store(place.map_or(0, Place::word), Ordering::Release);
}

/// A dict. Those of its methods that change something are for whoever holds the guard.
#[derive(Debug)]
pub struct Dict<'a, M> {
    memory: &'a M,
    head: &'a [AtomicU64],
}

/// While it lives, readers know that what they read may be half changed.
struct Writing<'a>(&'a AtomicU64);

impl<'a> Writing<'a> {
    fn begin(version: &'a AtomicU64) -> Self {
        version.store(version.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
        // Pairs with the fence in `read`: who sees a change sees the odd version, or a later one.
        fence(Ordering::Release);
        Self(version)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store((self.0.load(Ordering::Relaxed) | 1).wrapping_add(1), Ordering::Release);
    }
}

/// Reads without the guard what is written under that version; `None` if somebody has written all the time.
fn read<R>(version: &AtomicU64, mut look: impl FnMut() -> Option<R>) -> Option<R> {
    for _ in 0..TRIES {
        // Acquire pairs with the Release at the end of `Writing`.
        let before = version.load(Ordering::Acquire);
        if before & 1 != 0 {
            continue;
        }
        let found = look();
        // Pairs with the fence of `Writing`.
        fence(Ordering::Acquire);
        if version.load(Ordering::Relaxed) == before && found.is_some() {
            return found;
        }
    }
    None
}

impl<'a, M: Memory> Dict<'a, M> {
    /// The dict in that memory.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(memory: &'a M) -> Result<Self, Failure<M::Error>> {
        let head = memory.words(FIRST).and_then(|words| words.get(..FIRST)).ok_or(Failure::Corrupt)?;
        Ok(Self { memory, head })
    }

    fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key::new(bytes, self.head[SEED].load(Ordering::Relaxed))
    }

    fn place(&self) -> Option<Place> {
        Place::of_word(self.head[ROOT].load(Ordering::Acquire)).filter(|place| place.range().start >= FIRST)
    }

    fn area(&self) -> Result<Area<'a>, Failure<M::Error>> {
        let find = || {
            let range = self.place()?.range();
            Area::new(self.memory.words(range.end)?.get(range)?)
        };
        find().ok_or(Failure::Corrupt)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.head[COUNT].load(Ordering::Relaxed)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add_to_count(&self, change: i64) {
        let count = self.len().wrapping_add_signed(change);
        self.head[COUNT].store(count, Ordering::Relaxed);
    }

    fn read<R>(&self, mut look: impl FnMut(Area<'a>) -> Option<R>) -> Option<R> {
        read(&self.head[VERSION], || look(self.area().ok()?))
    }

    /// The value of a key, without the guard: `None` if one has to ask for it.
    #[must_use]
    pub fn peek(&self, key: &[u8]) -> Option<Option<Value<Vec<u8>>>> {
        let key = self.key(key);
        self.read(|area| match area.find(&key)? {
            Some(found) => area.value(found.record).map(Some),
            None => Some(None),
        })
    }

    /// Whether there is such a key, without the guard: `None` if one has to ask for it.
    #[must_use]
    pub fn peek_contains(&self, key: &[u8]) -> Option<bool> {
        let key = self.key(key);
        self.read(|area| area.find(&key).map(|found| found.is_some()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value<Vec<u8>>>, Failure<M::Error>> {
        let area = self.area()?;
        let Some(found) = area.find(&self.key(key)).ok_or(Failure::Corrupt)? else { return Ok(None) };
        area.value(found.record).map(Some).ok_or(Failure::Corrupt)
    }

    /// All keys and values, in the order in which they were written.
    ///
    /// # Errors
    /// If the memory makes no sense.
    #[expect(clippy::type_complexity, reason = "pairs of what `get` takes and gives")]
    pub fn entries(&self) -> Result<Vec<(Vec<u8>, Value<Vec<u8>>)>, Failure<M::Error>> {
        let area = self.area()?;
        let mut records: Vec<usize> = area.records().collect();
        records.sort_unstable();
        let entry = |record| Some((area.key(record)?, area.value(record)?));
        records.into_iter().map(|record| entry(record).ok_or(Failure::Corrupt)).collect()
    }

    /// All keys, in the order in which they were written.
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>, Failure<M::Error>> {
        let area = self.area()?;
        let mut records: Vec<usize> = area.records().collect();
        records.sort_unstable();
        records.into_iter().map(|record| area.key(record).ok_or(Failure::Corrupt)).collect()
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// If it does not fit: then nothing is changed.
    pub fn set(&self, key: &[u8], value: &Value<&[u8]>) -> Result<(), Failure<M::Error>> {
        let key = self.key(key);
        let area = self.area()?;
        let found = area.find(&key).ok_or(Failure::Corrupt)?;
        if let Some(found) = &found
            && area.set_in_place(found.record, value)
        {
            return Ok(());
        }
        let words = Area::record_words(&key, value).ok_or(Failure::TooLarge)?;
        if area.has_room(words) {
            let _writing = Writing::begin(&self.head[VERSION]);
            area.put(&key, value, found.map(|found| found.bucket)).ok_or(Failure::Corrupt)?;
        } else {
            let area = self.rebuild(words)?;
            let bucket = area.find(&key).ok_or(Failure::Corrupt)?.map(|found| found.bucket);
            let _writing = Writing::begin(&self.head[VERSION]);
            area.put(&key, value, bucket).ok_or(Failure::Corrupt)?;
        }
        if found.is_none() {
            self.add_to_count(1);
        }
        Ok(())
    }

    /// Takes a key away; whether it was there.
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn remove(&self, key: &[u8]) -> Result<bool, Failure<M::Error>> {
        let area = self.area()?;
        let Some(found) = area.find(&self.key(key)).ok_or(Failure::Corrupt)? else { return Ok(false) };
        let _writing = Writing::begin(&self.head[VERSION]);
        area.bury(found.bucket);
        self.add_to_count(-1);
        Ok(true)
    }

    /// Adds a number to that of a key, which begins with 0; the sum.
    ///
    /// # Errors
    /// If the value is no number, or the sum does not fit: then nothing is changed.
    pub fn add(&self, key: &[u8], number: &Value<&[u8]>) -> Result<Value<&'static [u8]>, Failure<M::Error>> {
        let sum = match (self.number(key)?, number) {
            (None | Some(Value::Int(0)), Value::Int(number)) => Value::Int(*number),
            (None, Value::Float(number)) => Value::Float(*number),
            (Some(Value::Int(old)), Value::Int(number)) => {
                Value::Int(old.checked_add(*number).ok_or(Failure::Overflow)?)
            }
            (Some(Value::Float(old)), Value::Float(number)) => Value::Float(old + number),
            (Some(Value::Int(old)), Value::Float(number)) => Value::Float(old as f64 + number),
            (Some(Value::Float(old)), Value::Int(number)) => Value::Float(old + *number as f64),
            _ => return Err(Failure::NoNumber),
        };
        self.set(key, &sum)?;
        Ok(sum)
    }

    /// The number of a key, without a copy of what is none.
    fn number(&self, key: &[u8]) -> Result<Option<Value<()>>, Failure<M::Error>> {
        let area = self.area()?;
        let Some(found) = area.find(&self.key(key)).ok_or(Failure::Corrupt)? else { return Ok(None) };
        area.number(found.record).map(Some).ok_or(Failure::Corrupt)
    }

    /// Takes all keys away.
    ///
    /// # Errors
    /// If there is no room for an empty area beside the old.
    pub fn clear(&self) -> Result<(), Failure<M::Error>> {
        // Not bucket by bucket: whoever is killed on the way would leave half of the paths broken.
        self.move_to(Shape::EMPTY, |_| Some(()))?;
        self.head[COUNT].store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Copies what lives to a new area, with room for a record of so many words, and more to come.
    fn rebuild(&self, words: usize) -> Result<Area<'a>, Failure<M::Error>> {
        let old = self.area()?;
        let shape = old.shape_for(words).ok_or(Failure::TooLarge)?;
        self.move_to(shape, |new| old.records().try_for_each(|record| new.adopt(&old, record)))
    }

    /// Has a new area of that shape count, once it is filled.
    fn move_to(
        &self,
        shape: Shape,
        fill: impl FnOnce(&Area<'a>) -> Option<()>,
    ) -> Result<Area<'a>, Failure<M::Error>> {
        let place = self.place().ok_or(Failure::Corrupt)?;
        let target = free_range(place.range(), shape.words()).ok_or(Failure::TooLarge)?;
        self.memory.grow(target.end).map_err(Failure::Memory)?;
        let target = Place::of(target).ok_or(Failure::TooLarge)?;
        let words = self.memory.words(target.range().end).and_then(|words| words.get(target.range()));
        // From the first word on: somebody may still read there what was there long ago.
        let _writing = Writing::begin(&self.head[VERSION]);
        let new = Area::initialise(words.ok_or(Failure::Corrupt)?, shape.bits).ok_or(Failure::Corrupt)?;
        fill(&new).ok_or(Failure::Corrupt)?;
        self.head[ROOT].store(target.word(), Ordering::Release);
        Ok(new)
    }
}

/// Words that are not of the area in `used`: before it, if there are so many, else behind it.
fn free_range(used: Range<usize>, words: usize) -> Option<Range<usize>> {
    if used.start - FIRST >= words {
        return Some(FIRST..FIRST + words);
    }
    Some(used.end..used.end.checked_add(words)?)
}

/// Mends what a writer has left that died: for whoever has taken over its guard.
///
/// # Errors
/// If the memory makes no sense.
pub fn recover<M: Memory>(dict: &Dict<'_, M>) -> Result<(), Failure<M::Error>> {
    let _writing = Writing::begin(&dict.head[VERSION]);
    let count = dict.area()?.recount();
    dict.head[COUNT].store(count, Ordering::Relaxed);
    Ok(())
}

impl<B> Value<B> {
    /// The word of a number, and whether it is a float.
    fn word(&self) -> Option<(u64, bool)> {
        match self {
            Self::Bytes(_) => None,
            Self::Int(number) => Some((number::of_int(*number), false)),
            Self::Float(number) => Some((number.to_bits(), true)),
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;

    #[test]
    fn loom_a_reader_sees_a_change_as_a_whole() {
        loom::model(|| {
            let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
            let writer = {
                let words = Arc::clone(&words);
                thread::spawn(move || {
                    for number in 1..3 {
                        let _writing = Writing::begin(&words[0]);
                        words[1].store(number, Ordering::Relaxed);
                        words[2].store(number, Ordering::Relaxed);
                    }
                })
            };
            let look = || Some([1, 2].map(|index| words[index].load(Ordering::Relaxed)));
            if let Some([one, other]) = read(&words[0], look) {
                assert_eq!(one, other);
            }
            writer.join().unwrap();
            assert_eq!(read(&words[0], look), Some([2, 2]));
        });
    }
}
