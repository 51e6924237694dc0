//! The pages that a queue lies in: who has which.
//!
//! ```text
//! group: a table of one page, then the pages that it is about        table: owners … · following pages …
//! ```
//!
//! A page is free, or bears the [`Owner`] who takes it, which one exchange does; so it needs no lock. What is published
//! keeps the name of whoever took it, dead or alive. So what a dead process has left can be told: pages that bear its
//! name and that nothing published leads to. They are [swept](Pages::sweep) before there are made more.

use std::collections::HashMap;

use super::super::copy;
use super::super::{Memory, Owner};
use crate::prim::atomic::{AtomicU64, Ordering};

/// Words of a page. With loom it is as small as can be.
pub(super) const PAGE: usize = if cfg!(loom) { 8 } else { 512 };
/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = PAGE * copy::BYTES;
/// Pages that one table is about.
const IN_GROUP: usize = PAGE / 2;
const GROUP: usize = PAGE * (IN_GROUP + 1);
/// Up to so many pages, there are made twice as many; beyond, a quarter more.
const FEW: usize = 1024;
/// More owners than these are not told apart: nonsense, or a crowd, who then keep what they left.
const MOST_OWNERS: usize = 1000;
/// As many as a place can tell apart.
const MOST: usize = 1 << super::PAGE_BITS;

/// Words up to the end of so many pages.
pub(super) const fn words(pages: usize) -> usize {
    let (groups, rest) = (pages / IN_GROUP, pages % IN_GROUP);
    super::FIRST + groups * GROUP + if rest == 0 { 0 } else { (1 + rest) * PAGE }
}

/// The pages of some memory; see the module.
#[derive(Debug)]
pub(super) struct Pages<'a, M> {
    memory: &'a M,
    /// How many there are.
    count: &'a AtomicU64,
    /// From where on to look for a free one: a guess.
    hint: &'a AtomicU64,
}

impl<M> Clone for Pages<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Pages<'_, M> {}

/// Pages that a process has taken, free again when dropped.
#[derive(Debug)]
pub struct Taken<'a, M: Memory> {
    pages: Pages<'a, M>,
    numbers: Vec<u32>,
}

impl<M: Memory> Taken<'_, M> {
    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Keeps them from being free again: something that is published leads to them.
    pub(super) fn give(&mut self) {
        self.numbers.clear();
    }
}

impl<M: Memory> Drop for Taken<'_, M> {
    fn drop(&mut self) {
        // From the last to the first, where the next one who looks begins.
        for page in self.numbers.iter().rev() {
            if let Some(owner) = self.pages.owner(*page) {
                // Release pairs with the Acquire in `take`: what was read here is read before it is written again.
                owner.store(0, Ordering::Release);
            }
        }
        if let Some(first) = self.numbers.iter().min() {
            let first = u64::from(*first);
            if first < self.pages.hint.load(Ordering::Relaxed) {
                self.pages.hint.store(first, Ordering::Relaxed);
            }
        }
    }
}

impl<'a, M: Memory> Pages<'a, M> {
    pub(super) const fn new(memory: &'a M, count: &'a AtomicU64, hint: &'a AtomicU64) -> Self {
        Self { memory, count, hint }
    }

    pub(super) fn count(self) -> usize {
        usize::try_from(self.count.load(Ordering::Acquire)).unwrap_or(MOST).min(MOST)
    }

    fn table(self, page: u32) -> Option<(&'a [AtomicU64], usize)> {
        let (group, index) = (page as usize / IN_GROUP, page as usize % IN_GROUP);
        let start = super::FIRST + group * GROUP;
        Some((self.memory.words(start + PAGE)?.get(start..start + PAGE)?, index))
    }

    fn owner(self, page: u32) -> Option<&'a AtomicU64> {
        let (table, index) = self.table(page)?;
        table.get(index)
    }

    fn following(self, page: u32) -> Option<&'a AtomicU64> {
        let (table, index) = self.table(page)?;
        table.get(IN_GROUP + index)
    }

    /// What is in a page.
    #[inline]
    pub(super) fn content(self, page: u32) -> Option<&'a [AtomicU64]> {
        let (group, index) = (page as usize / IN_GROUP, page as usize % IN_GROUP);
        let start = super::FIRST + group * GROUP + (1 + index) * PAGE;
        self.memory.words(start + PAGE)?.get(start..start + PAGE)
    }

    /// The page after that one.
    pub(super) fn next(self, page: u32) -> Option<u32> {
        let next = u32::try_from(self.following(page)?.load(Ordering::Relaxed)).ok()?;
        ((next as usize) < self.count()).then_some(next)
    }

    /// Has one page follow another.
    pub(super) fn link(self, page: u32, next: u32) -> Option<()> {
        self.following(page)?.store(u64::from(next), Ordering::Relaxed);
        Some(())
    }

    /// Takes so many free pages, which follow each other; `None` if there are not so many.
    pub(super) fn take(self, me: Owner, wanted: usize) -> Option<Taken<'a, M>> {
        let all = self.count();
        if wanted > all {
            return None;
        }
        let mut taken = Taken { pages: self, numbers: Vec::with_capacity(wanted) };
        let first = usize::try_from(self.hint.load(Ordering::Relaxed)).unwrap_or(0).min(all);
        for page in (first..all).chain(0..first).filter_map(|page| u32::try_from(page).ok()) {
            if taken.numbers.len() == wanted {
                break;
            }
            let owner = self.owner(page)?;
            // Acquire pairs with the Release of whoever had it before.
            let is_mine = owner.load(Ordering::Relaxed) == 0
                && owner.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok();
            if is_mine {
                if let Some(last) = taken.numbers.last() {
                    self.link(*last, page)?;
                }
                taken.numbers.push(page);
            }
        }
        let last = *taken.numbers.last()?;
        if taken.numbers.len() < wanted {
            return None;
        }
        self.hint.store(u64::from(last) + 1, Ordering::Relaxed);
        Some(taken)
    }

    /// Puts one's name on so many pages, the first of which is known: for whoever has the guard of what led to them.
    pub(super) fn claim(self, me: Owner, first: u32, count: usize) -> Option<Taken<'a, M>> {
        let numbers = self.chain(first, count)?;
        for page in &numbers {
            // It counts once what led to it is taken away, which comes after, with Release.
            self.owner(*page)?.store(me.word(), Ordering::Relaxed);
        }
        Some(Taken { pages: self, numbers })
    }

    fn chain(self, first: u32, count: usize) -> Option<Vec<u32>> {
        if count == 0 || count > self.count() || first as usize >= self.count() {
            return None;
        }
        let mut numbers = Vec::with_capacity(count);
        numbers.push(first);
        while numbers.len() < count {
            numbers.push(self.next(*numbers.last()?)?);
        }
        Some(numbers)
    }

    /// Those who have pages and do not live.
    pub(super) fn dead(self, mut is_alive: impl FnMut(Owner) -> bool) -> Option<Vec<u64>> {
        let mut known = HashMap::new();
        for page in 0..self.count() {
            let word = self.owner(u32::try_from(page).ok()?)?.load(Ordering::Relaxed);
            if word != 0 && known.len() < MOST_OWNERS {
                known.entry(word).or_insert_with(|| Owner::of_word(word).is_some_and(&mut is_alive));
            }
        }
        Some(known.into_iter().filter_map(|(word, lives)| (!lives).then_some(word)).collect())
    }

    /// Frees the pages of those who are dead, but for those `in_use`; for whoever has all guards.
    pub(super) fn sweep(self, in_use: &InUse, dead: &[u64]) -> Option<()> {
        for page in (0..self.count()).filter(|page| !in_use.has(*page)) {
            let owner = self.owner(u32::try_from(page).ok()?)?;
            let word = owner.load(Ordering::Relaxed);
            if dead.contains(&word) {
                // If it is still the dead one's: who lives may have taken it only from nobody.
                let _ = owner.compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed);
            }
        }
        Some(())
    }

    /// Makes so many more pages, and some to spare; for whoever has all guards.
    pub(super) fn grow(self, wanted: usize) -> Result<(), super::Failure<M::Error>> {
        let count = self.count();
        let more = wanted.max(count.min(FEW)).max(count / 4).min(MOST - count);
        if more < wanted {
            return Err(super::Failure::TooLarge);
        }
        self.memory.grow(words(count + more)).map_err(super::Failure::Memory)?;
        // Release publishes the memory, which is all zeros: free pages.
        self.count.store((count + more) as u64, Ordering::Release);
        self.hint.store(count as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Pages that something leads to.
#[derive(Debug)]
pub(super) struct InUse(Vec<bool>);

impl InUse {
    /// None yet; `None` if there are not so many as is said.
    pub(super) fn of<M: Memory>(pages: Pages<'_, M>) -> Option<Self> {
        let count = pages.count();
        pages.memory.words(words(count)).map(|_| Self(vec![false; count]))
    }

    /// How many words they have.
    pub(super) fn words(&self) -> u64 {
        (self.0.len() * PAGE) as u64
    }

    fn has(&self, page: usize) -> bool {
        self.0.get(page).is_none_or(|is_used| *is_used)
    }

    pub(super) fn add(&mut self, page: u32) -> Option<()> {
        *self.0.get_mut(page as usize)? = true;
        Some(())
    }

    /// Adds so many pages from that one on.
    pub(super) fn add_chain<M: Memory>(
        &mut self,
        pages: Pages<'_, M>,
        first: u32,
        count: usize,
    ) -> Option<()> {
        pages.chain(first, count)?.into_iter().try_for_each(|page| self.add(page))
    }
}

/// A place in pages that follow each other, from which one reads or writes on.
#[derive(Debug)]
pub struct Cursor<'t, 'a, M: Memory> {
    taken: &'t Taken<'a, M>,
    /// In words.
    at: usize,
}

impl<'t, 'a, M: Memory> Cursor<'t, 'a, M> {
    pub(super) const fn new(taken: &'t Taken<'a, M>) -> Self {
        Self { taken, at: 0 }
    }

    /// The words from here to the end of the page.
    fn rest(&self) -> Option<&'a [AtomicU64]> {
        let page = *self.taken.numbers.get(self.at / PAGE)?;
        self.taken.pages.content(page)?.get(self.at % PAGE..)
    }

    /// Writes bytes from a word on; `None` if they do not fit.
    pub fn write(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let rest = self.rest()?;
            let (now, later) = bytes.split_at(bytes.len().min(rest.len() * copy::BYTES));
            copy::write(rest, now);
            self.at += now.len().div_ceil(copy::BYTES);
            bytes = later;
        }
        Some(())
    }

    /// Reads bytes from a word on; `None` if there are not so many.
    pub fn read(&mut self, mut bytes: &mut [u8]) -> Option<()> {
        self.visit(bytes.len(), |words, len| {
            let (now, later) = std::mem::take(&mut bytes).split_at_mut_checked(len)?;
            copy::read(words, now);
            bytes = later;
            Some(())
        })
    }

    /// Shows the words from here on in which so many bytes lie, some at a time, and how many bytes of them are meant; `None`
    /// if there are not so many.
    pub fn visit(
        &mut self,
        mut len: usize,
        mut visitor: impl FnMut(&[AtomicU64], usize) -> Option<()>,
    ) -> Option<()> {
        while len > 0 {
            let rest = self.rest()?;
            let now = len.min(rest.len() * copy::BYTES);
            visitor(rest, now)?;
            self.at += now.div_ceil(copy::BYTES);
            len -= now;
        }
        Some(())
    }
}
