//! A queue of processes, in memory that grows: items go in at its tail, under one guard, and out at its head, under another.
//!
//! ```text
//! word 0  the putters' guard      1  the tail      2  the head as putters saw it last
//!     16  the getters' guard     17  the head     18  the tail as getters saw it last
//!     32  the getters' bell      48  the putters' bell      64  the joiners' bell     65  how many items are done
//!     80  the most items         81  is it shut: 1, and emptied: 2      82  how many pages      83  where to look for one
//!    496… pages (see `pages`), of which the tail and the head each name one, and a word in it
//!
//! head ─▶ │ record │ record │ goes on ─▶ │ record │ ◀─ tail          record: length (56) │ tag (7) │ is it long (1)
//!                      │                                             then its bytes, or the first of its pages
//!                      └▶ │ page │ ─▶ │ page │
//! ```
//!
//! **Putting.** A record is written behind the tail, where nobody looks, and counts from the one store on that moves the
//! tail. A long item is written to pages of its own before, without any guard; the record leads to them.
//!
//! **Taking.** The item is copied, or if it is long its pages get the taker's name; then one store moves the head, and the
//! item is the taker's. A page that the head has left, or whose item was copied, is free again.
//!
//! So whoever is killed anywhere has put an item as a whole or not at all, and has taken it or not at all, and there is
//! nothing to mend but pages that nobody has any more. The number of items is not kept beside them: it is the difference
//! of the numbers in head and tail.
//!
//! **Not here.** Waiting, and the guards: each method says whose it needs. Whatever is read is checked before it is used.

#[cfg(all(test, loom))]
mod models;
mod pages;
#[cfg(all(test, not(loom)))]
mod tests;

use super::copy;
use super::{Memory, Owner};
use crate::prim::atomic::{AtomicU64, Ordering};
pub use pages::{Cursor, Taken};
use pages::{InUse, PAGE, PAGE_BYTES, Pages};

/// The word of the putters' guard.
pub const PUTTERS: usize = 0;
const TAIL: usize = 1;
const HEAD_SEEN: usize = 2;
/// The word of the getters' guard.
pub const GETTERS: usize = 16;
const HEAD: usize = 17;
const TAIL_SEEN: usize = 18;
/// The word of the bell for those who wait for items.
pub const ITEMS: usize = 32;
/// The word of the bell for those who wait for room.
pub const ROOM: usize = 48;
/// The word of the bell for those who wait until all is done.
pub const ALL_DONE: usize = 64;
const DONE: usize = 65;
const LIMIT: usize = 80;
const SHUT: usize = 81;
const PAGES: usize = 82;
const HINT: usize = 83;
/// Pages begin where the kernel's do, behind the words that come before these.
const FIRST: usize = if cfg!(loom) { 88 } else { 496 };
/// The pages of a new queue.
const AT_FIRST: usize = 7;
/// The words of a new queue.
pub const LEAST: usize = pages::words(AT_FIRST);

/// Bits of the numbers of items, of pages, and of words in a page.
const NUMBER_BITS: u32 = 28;
const PAGE_BITS: u32 = 26;
const OFFSET_BITS: u32 = 10;
/// The most items at a time.
pub const MOST: u64 = (1 << NUMBER_BITS) - 1;

/// The longest item that is part of its record; in half of the pages, a record leaves no more than half of itself unused.
pub const SHORT: usize = (PAGE / 2 - 1) * copy::BYTES;
/// The most of a record's tag.
pub const MOST_TAG: u8 = 127;
const LONG: u64 = 128;
const LEN_SHIFT: u32 = 8;
/// How often one looks for a head and a tail that belong together; more often the head does not move just then.
const TRIES: u32 = 100;
/// What stands in place of a record where the next page goes on; no record has it, for none has the tag 0.
const GOES_ON: u64 = 0;

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<E> {
    /// The memory makes no sense.
    Corrupt,
    /// There is not enough of it.
    Memory(E),
    /// An item is too large.
    TooLarge,
}

/// What has become of an item that somebody put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is in the queue.
    Done,
    /// There are as many as there may be.
    Full,
    /// The queue was shut down.
    Shut,
    /// There is no free page: [make one](Queue::make_room).
    NoPage,
}

/// What somebody took.
#[derive(Debug)]
pub enum Take<'a, M: Memory> {
    /// The tag of an item, and its bytes.
    Short(u8, Vec<u8>),
    /// The tag of an item, and the pages in which it lies.
    Long(u8, Long<'a, M>),
    /// There is no item.
    Empty,
    /// There is none, and there will be none.
    Shut,
}

/// An item on its way into the queue.
#[derive(Debug)]
pub enum Draft<'b, 'a, M: Memory> {
    /// At most [`SHORT`] bytes.
    Short(&'b [u8]),
    /// Written to pages of its own already.
    Long(Long<'a, M>),
}

impl<M: Memory> Draft<'_, '_, M> {
    fn words(&self) -> usize {
        1 + if let Self::Short(bytes) = self { bytes.len().div_ceil(copy::BYTES) } else { 1 }
    }

    fn write(&self, tag: u8, target: &[AtomicU64]) {
        let (len, kind, first) = match self {
            Self::Short(bytes) => {
                copy::write(&target[1..], bytes);
                (bytes.len(), 0, None)
            }
            Self::Long(long) => (long.len, LONG, long.taken.numbers().first()),
        };
        if let Some(first) = first {
            target[1].store(u64::from(*first), Ordering::Relaxed);
        }
        let head = (len as u64) << LEN_SHIFT | kind | u64::from(tag.clamp(1, MOST_TAG));
        target[0].store(head, Ordering::Relaxed);
    }
}

/// A long item in its pages, which are free again when it is dropped.
#[derive(Debug)]
pub struct Long<'a, M: Memory> {
    taken: Taken<'a, M>,
    len: usize,
}

impl<'a, M: Memory> Long<'a, M> {
    /// Its length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "one of no bytes is short")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Where it begins.
    #[must_use]
    pub const fn cursor(&self) -> Cursor<'_, 'a, M> {
        Cursor::new(&self.taken)
    }
}

/// A place in the queue, in one word.
#[derive(Debug, Clone, Copy)]
struct Place {
    page: u32,
    offset: usize,
    /// Of the item there, counted from the first; begins anew.
    number: u64,
}

impl Place {
    const fn word(self) -> u64 {
        (self.number & MOST) << (PAGE_BITS + OFFSET_BITS)
            | (self.page as u64) << OFFSET_BITS
            | self.offset as u64
    }

    const fn of_word(word: u64) -> Self {
        Self {
            page: (word >> OFFSET_BITS & ((1 << PAGE_BITS) - 1)) as u32,
            offset: (word & ((1 << OFFSET_BITS) - 1)) as usize,
            number: word >> (PAGE_BITS + OFFSET_BITS),
        }
    }

    /// How many items lie from another place to this one.
    const fn since(self, other: Self) -> u64 {
        self.number.wrapping_sub(other.number) & MOST
    }

    /// The place behind a record of so many words.
    const fn behind(self, words: usize) -> Self {
        Self { page: self.page, offset: self.offset + words, number: self.number + 1 }
    }
}

/// A record, as it was read.
struct Record {
    at: Place,
    /// The page that is left to get there.
    left: Option<u32>,
    tag: u8,
    is_long: bool,
    len: usize,
}

impl Record {
    fn words(&self) -> usize {
        1 + if self.is_long { 1 } else { self.len.div_ceil(copy::BYTES) }
    }

    fn pages(&self) -> usize {
        if self.is_long { self.len.div_ceil(PAGE_BYTES).max(1) } else { 0 }
    }
}

/// Makes an empty queue in [`LEAST`] words, all of them 0, for so many items; 0 for as many as there can be.
pub fn initialise(words: &[AtomicU64], me: Owner, limit: u64) {
    words[LIMIT].store(limit, Ordering::Relaxed);
    words[PAGES].store(AT_FIRST as u64, Ordering::Relaxed);
    words[HINT].store(1, Ordering::Relaxed);
    // The first page of the first table, in which head and tail are.
    words[FIRST].store(me.word(), Ordering::Relaxed);
}

/// A queue; see the module.
#[derive(Debug)]
pub struct Queue<'a, M> {
    pages: Pages<'a, M>,
    head: &'a [AtomicU64],
}

impl<'a, M: Memory> Queue<'a, M> {
    /// The queue in that memory.
    ///
    /// # Errors
    /// If there is none.
    #[inline]
    pub fn new(memory: &'a M) -> Result<Self, Failure<M::Error>> {
        let head = memory.words(FIRST).and_then(|words| words.get(..FIRST)).ok_or(Failure::Corrupt)?;
        Ok(Self { pages: Pages::new(memory, &head[PAGES], &head[HINT]), head })
    }

    fn place(&self, word: usize) -> Place {
        // Acquire pairs with the Release with which a place is moved: what lies before it is whole.
        Place::of_word(self.head[word].load(Ordering::Acquire))
    }

    /// The most items that it holds; 0 for as many as there can be.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.head[LIMIT].load(Ordering::Relaxed)
    }

    fn most(&self) -> u64 {
        match self.limit() {
            0 => MOST,
            limit => limit.min(MOST),
        }
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        for _ in 0..TRIES {
            let head = self.head[HEAD].load(Ordering::Acquire);
            let tail = self.place(TAIL);
            // The two belong together if the head has not moved meanwhile.
            if self.head[HEAD].load(Ordering::Acquire) == head {
                return tail.since(Place::of_word(head));
            }
        }
        self.place(TAIL).since(self.place(HEAD))
    }

    /// Whether there is none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.place(HEAD).number == self.place(TAIL).number
    }

    /// Whether there are as many as there may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.most()
    }

    /// Whether it was shut down.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        // Acquire pairs with the Release in `shut`: who sees it sees the last item too.
        self.head[SHUT].load(Ordering::Acquire) != 0
    }

    /// Writes an item that is not [`SHORT`] to pages of its own; `None` if there are not enough: [make
    /// them](Self::make_room). No guard is needed.
    ///
    /// # Errors
    /// What `fill` says.
    pub fn store<F>(
        &self,
        me: Owner,
        len: usize,
        fill: impl FnOnce(&mut Cursor<'_, 'a, M>) -> Result<(), F>,
    ) -> Result<Option<Long<'a, M>>, F> {
        let Some(long) = self.reserve(me, len) else { return Ok(None) };
        fill(&mut long.cursor())?;
        Ok(Some(long))
    }

    /// Takes pages for an item of that length, to be written to; `None` if there are not enough.
    #[must_use]
    pub fn reserve(&self, me: Owner, len: usize) -> Option<Long<'a, M>> {
        Some(Long { taken: self.pages.take(me, len.div_ceil(PAGE_BYTES).max(1))?, len })
    }

    /// Puts an item, for whoever has the putters' guard. A long one is the queue's if it is [`Put::Done`].
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn put(&self, me: Owner, tag: u8, draft: &mut Draft<'_, 'a, M>) -> Result<Put, Failure<M::Error>> {
        let words = draft.words();
        if words > PAGE {
            return Err(Failure::TooLarge);
        }
        if self.is_shut() {
            return Ok(Put::Shut);
        }
        let tail = self.place(TAIL);
        if !self.has_room(tail) {
            return Ok(Put::Full);
        }
        let (at, mut page) = if tail.offset + words <= PAGE {
            (tail, None)
        } else {
            let Some(page) = self.pages.take(me, 1) else { return Ok(Put::NoPage) };
            (self.go_on(tail, &page).ok_or(Failure::Corrupt)?, Some(page))
        };
        let content = self.pages.content(at.page).ok_or(Failure::Corrupt)?;
        draft.write(tag, &content[at.offset..at.offset + words]);
        // Release publishes the record, and what it leads to.
        self.head[TAIL].store(at.behind(words).word(), Ordering::Release);
        page.iter_mut().for_each(Taken::give);
        if let Draft::Long(long) = draft {
            long.taken.give();
        }
        Ok(Put::Done)
    }

    /// The beginning of another page, to which the one at a place goes on.
    fn go_on(&self, place: Place, page: &Taken<'a, M>) -> Option<Place> {
        let next = *page.numbers().first()?;
        self.pages.link(place.page, next)?;
        if let Some(end) = self.pages.content(place.page)?.get(place.offset) {
            end.store(GOES_ON, Ordering::Relaxed);
        }
        Some(Place { page: next, offset: 0, ..place })
    }

    /// Whether there is room for one more; looks at the word that getters write only when it must.
    fn has_room(&self, tail: Place) -> bool {
        let seen = Place::of_word(self.head[HEAD_SEEN].load(Ordering::Relaxed));
        let most = self.most();
        tail.since(seen) < most || {
            let head = self.place(HEAD);
            self.head[HEAD_SEEN].store(head.word(), Ordering::Relaxed);
            tail.since(head) < most
        }
    }

    /// Whether there is something at the head; looks at the word that putters write only when it must.
    fn has_item(&self, head: Place) -> bool {
        let seen = Place::of_word(self.head[TAIL_SEEN].load(Ordering::Relaxed));
        seen.number != head.number || {
            let tail = self.place(TAIL);
            self.head[TAIL_SEEN].store(tail.word(), Ordering::Relaxed);
            tail.number != head.number
        }
    }

    /// Takes an item, for whoever has the getters' guard.
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn take(&self, me: Owner) -> Result<Take<'a, M>, Failure<M::Error>> {
        // Before one looks whether there is an item: the last one is put before it is shut.
        let shut = self.head[SHUT].load(Ordering::Acquire);
        if shut > 1 {
            return Ok(Take::Shut);
        }
        match self.take_any(me)? {
            Take::Empty if shut == 1 => Ok(Take::Shut),
            taken => Ok(taken),
        }
    }

    fn take_any(&self, me: Owner) -> Result<Take<'a, M>, Failure<M::Error>> {
        let head = self.place(HEAD);
        if !self.has_item(head) {
            return Ok(Take::Empty);
        }
        let record = self.record(head).ok_or(Failure::Corrupt)?;
        let taken = if record.is_long {
            let taken = self.claim_pages(me, &record).ok_or(Failure::Corrupt)?;
            Take::Long(record.tag, Long { taken, len: record.len })
        } else {
            Take::Short(record.tag, self.bytes_of(&record).ok_or(Failure::Corrupt)?)
        };
        let left = match record.left {
            Some(page) => Some(self.pages.claim(me, page, 1).ok_or(Failure::Corrupt)?),
            None => None,
        };
        // Release keeps it behind the names on the pages.
        self.head[HEAD].store(record.at.behind(record.words()).word(), Ordering::Release);
        drop(left);
        Ok(taken)
    }

    /// The record at a place, or at the beginning of the next page.
    fn record(&self, place: Place) -> Option<Record> {
        let word = |at: Place| Some(self.pages.content(at.page)?.get(at.offset)?.load(Ordering::Relaxed));
        let (at, left, head) = match word(place) {
            Some(head) if head != GOES_ON => (place, None, head),
            _ => {
                let next = Place { page: self.pages.next(place.page)?, offset: 0, ..place };
                (next, Some(place.page), word(next)?)
            }
        };
        let (is_long, tag) = (head & LONG != 0, u8::try_from(head & u64::from(MOST_TAG)).ok()?);
        let record = Record { at, left, tag, is_long, len: usize::try_from(head >> LEN_SHIFT).ok()? };
        (record.words() <= PAGE - at.offset).then_some(record)
    }

    fn bytes_of(&self, record: &Record) -> Option<Vec<u8>> {
        let words = self.pages.content(record.at.page)?.get(record.at.offset + 1..)?;
        let mut bytes = vec![0; record.len];
        copy::read(words, &mut bytes);
        Some(bytes)
    }

    fn first_page(&self, record: &Record) -> Option<u32> {
        let word = self.pages.content(record.at.page)?.get(record.at.offset + 1)?;
        u32::try_from(word.load(Ordering::Relaxed)).ok()
    }

    fn claim_pages(&self, me: Owner, record: &Record) -> Option<Taken<'a, M>> {
        self.pages.claim(me, self.first_page(record)?, record.pages())
    }

    /// Sees to it that so many bytes, at least a page, can be stored; first from what the dead have left. For whoever has
    /// both guards, the putters' first.
    ///
    /// # Errors
    /// If there is no room, or the memory makes no sense.
    pub fn make_room(
        &self,
        me: Owner,
        bytes: usize,
        is_alive: impl FnMut(Owner) -> bool,
    ) -> Result<(), Failure<M::Error>> {
        let wanted = bytes.div_ceil(PAGE_BYTES).max(1);
        let dead = self.pages.dead(is_alive).ok_or(Failure::Corrupt)?;
        if !dead.is_empty() {
            let in_use = self.in_use().ok_or(Failure::Corrupt)?;
            self.pages.sweep(&in_use, &dead).ok_or(Failure::Corrupt)?;
        }
        // What is taken here is free again at once; others may be faster, then one comes back.
        if self.pages.take(me, wanted).is_some() { Ok(()) } else { self.pages.grow(wanted) }
    }

    /// The pages that head and tail lead to.
    fn in_use(&self) -> Option<InUse> {
        let mut in_use = InUse::of(self.pages)?;
        let (mut at, tail) = (self.place(HEAD), self.place(TAIL));
        if tail.since(at) > in_use.words() {
            return None;
        }
        in_use.add(at.page)?;
        for _ in 0..tail.since(at) {
            let record = self.record(at)?;
            in_use.add(record.at.page)?;
            if record.is_long {
                in_use.add_chain(self.pages, self.first_page(&record)?, record.pages())?;
            }
            at = record.at.behind(record.words());
        }
        in_use.add(tail.page)?;
        Some(in_use)
    }

    /// Lets nobody put any more, for whoever has the putters' guard; if it `is_emptied`, nobody takes any more either.
    pub fn shut(&self, is_emptied: bool) {
        // Release pairs with the Acquire of those who ask: they see what was put before.
        self.head[SHUT].fetch_max(if is_emptied { 2 } else { 1 }, Ordering::Release);
    }

    /// Takes the items away and calls them done, for whoever has the getters' guard.
    ///
    /// # Errors
    /// If the memory makes no sense.
    pub fn clear(&self, me: Owner) -> Result<(), Failure<M::Error>> {
        while !matches!(self.take_any(me)?, Take::Empty) {
            let _ = self.finish();
        }
        Ok(())
    }

    /// How many items were put that nobody has called done.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        let done = self.head[DONE].load(Ordering::Acquire);
        self.place(TAIL).number.wrapping_sub(done) & MOST
    }

    /// Calls an item done; how many are left, `None` if there was none.
    #[must_use]
    pub fn finish(&self) -> Option<u64> {
        let mut left = 0;
        let finish_one = |done: u64| {
            left = (self.place(TAIL).number.wrapping_sub(done) & MOST).checked_sub(1)?;
            Some((done + 1) & MOST)
        };
        self.head[DONE].fetch_update(Ordering::AcqRel, Ordering::Acquire, finish_one).ok()?;
        Some(left)
    }
}
