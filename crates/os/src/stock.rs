//! Segments that are used again.
//!
//! The pages of a new segment have to be found, cleared and connected, which takes longer than copying to them. So a
//! segment that nobody reads any more is kept for the next message of about its size: not too many, not too much.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::segment::Segment;

/// The most segments that are kept unused.
const MOST_UNUSED: usize = 16;
/// The most bytes that are kept unused.
const MOST_BYTES: usize = 128 << 20;
/// The most segments that are lent to those who can do without: each takes a descriptor, of which a process often has
/// no more than 1024.
const MOST_LENT: usize = 128;

/// Segments that nobody uses at present.
#[derive(Debug, Default)]
pub struct Stock {
    /// The one that was used last is the last.
    unused: Mutex<Vec<Segment>>,
    lent: AtomicUsize,
    /// At least the size of the largest, for a look without the lock.
    bound: AtomicUsize,
}

impl Stock {
    fn unused(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment of `len` bytes or somewhat more, which may have any content.
    ///
    /// # Errors
    /// As [`Segment::create`].
    pub fn take(&self, len: usize) -> io::Result<Segment> {
        if let Some(segment) = self.take_unused(len) {
            return Ok(segment);
        }
        Segment::create(rounded(len)).or_else(|error| {
            if self.is_empty() {
                return Err(error);
            }
            // What is kept for later may be what lacks now.
            self.clear();
            Segment::create(len)
        })
    }

    /// Whether one of `len` bytes or more is unused, perhaps.
    #[must_use]
    pub fn may_have(&self, len: usize) -> bool {
        self.bound.load(Ordering::Relaxed) >= len
    }

    /// Whether [`take`](Self::take) finds one that is unused.
    #[must_use]
    pub fn has(&self, len: usize) -> bool {
        fitting(&self.unused(), len).is_some()
    }

    /// Lends the largest that is unused, if it has `least` bytes, until the loan is dropped.
    pub fn lend_unused(self: &Arc<Self>, least: usize) -> Option<Loan> {
        let mut unused = self.unused();
        let index = (0..unused.len()).max_by_key(|&index| unused[index].len());
        let Some(index) = index.filter(|&index| unused[index].len() >= least) else {
            self.bound.store(least.saturating_sub(1), Ordering::Relaxed);
            return None;
        };
        let segment = Some(unused.remove(index));
        self.lent.fetch_add(1, Ordering::Relaxed);
        Some(Loan { segment, stock: Arc::clone(self), is_spoilt: AtomicBool::new(false) })
    }

    fn take_unused(&self, len: usize) -> Option<Segment> {
        let mut unused = self.unused();
        let index = fitting(&unused, len)?;
        Some(unused.remove(index))
    }

    /// Keeps a segment that nobody reads or writes any more.
    pub fn put(&self, segment: Segment) {
        let mut dropped = Vec::new();
        {
            let mut unused = self.unused();
            self.bound.fetch_max(segment.len(), Ordering::Relaxed);
            unused.push(segment);
            let mut bytes: usize = unused.iter().map(Segment::len).sum();
            while unused.len() > MOST_UNUSED || bytes > MOST_BYTES {
                let oldest = unused.remove(0);
                bytes -= oldest.len();
                dropped.push(oldest);
            }
        }
        // Outside the lock, because giving back memory takes its time.
        drop(dropped);
    }

    /// Lends a segment as [`take`](Self::take) gives it, until the loan is dropped.
    ///
    /// # Errors
    /// `ResourceBusy` if many are lent already and `must` is not set; else as [`Segment::create`].
    pub fn lend(self: &Arc<Self>, len: usize, must: bool) -> io::Result<Loan> {
        if !must && self.lent.load(Ordering::Relaxed) >= MOST_LENT {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let segment = Some(self.take(len)?);
        self.lent.fetch_add(1, Ordering::Relaxed);
        Ok(Loan { segment, stock: Arc::clone(self), is_spoilt: AtomicBool::new(false) })
    }

    /// Gives back the memory that is kept unused.
    pub fn clear(&self) {
        let unused = std::mem::take(&mut *self.unused());
        drop(unused);
    }

    /// Whether nothing is kept unused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unused().is_empty()
    }
}

/// A segment that goes back to its stock.
#[derive(Debug)]
pub struct Loan {
    /// There until the drop.
    segment: Option<Segment>,
    stock: Arc<Stock>,
    is_spoilt: AtomicBool,
}

impl Loan {
    /// The segment, to be filled.
    #[expect(clippy::missing_panics_doc, reason = "it cannot")]
    pub fn segment_mut(&mut self) -> &mut Segment {
        self.segment.as_mut().expect("it is taken by the drop alone")
    }

    /// The segment.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "it cannot")]
    pub fn segment(&self) -> &Segment {
        self.segment.as_ref().expect("it is taken by the drop alone")
    }

    /// Sees to it that it is not used again: somebody may read it for nobody knows how long.
    pub fn spoil(&self) {
        self.is_spoilt.store(true, Ordering::Relaxed);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.stock.lent.fetch_sub(1, Ordering::Relaxed);
        if let Some(segment) = self.segment.take().filter(|_| !*self.is_spoilt.get_mut()) {
            self.stock.put(segment);
        }
    }
}

/// The place of the smallest that is large enough, and not so large that most of it would be wasted.
fn fitting(unused: &[Segment], len: usize) -> Option<usize> {
    let fitting = unused
        .iter()
        .enumerate()
        .filter(|(_, segment)| (len..=len.saturating_mul(2)).contains(&segment.len()));
    fitting.min_by_key(|(_, segment)| segment.len()).map(|(index, _)| index)
}

/// A size that messages of about this size have in common: up to an eighth more, and up to a mebibyte.
fn rounded(len: usize) -> usize {
    let step = (len.checked_next_power_of_two().unwrap_or(len) / 16).clamp(1 << 12, 1 << 20);
    len.checked_next_multiple_of(step).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn number(segment: &Segment) -> i32 {
        segment.fd().as_raw_fd()
    }

    #[test]
    fn what_was_put_back_is_taken_again_by_messages_of_its_size_alone() {
        let stock = Stock::default();
        let (small, large) = (stock.take(100_000).unwrap(), stock.take(1 << 20).unwrap());
        let (first, second) = (number(&small), number(&large));
        stock.put(large);
        stock.put(small);
        assert_eq!(number(&stock.take(99_000).unwrap()), first);
        let tiny = stock.take(100).unwrap();
        assert!(number(&tiny) != second && tiny.len() < 1 << 20);
        let taken = stock.take(600_000).unwrap();
        assert_eq!(number(&taken), second);
        assert!(stock.is_empty());
    }

    #[test]
    fn a_size_is_rounded_up_by_an_eighth_and_by_a_mebibyte_at_most() {
        for len in [1, 4095, 4097, 65_537, 100_000, 1 << 20, (1 << 20) + 1, 67_108_865, usize::MAX] {
            let found = rounded(len);
            assert!(found >= len && found - len <= (len / 8).clamp(4096, 1 << 20), "{len} {found}");
        }
    }

    #[test]
    fn no_more_is_kept_than_it_is_worth() {
        let stock = Stock::default();
        for _ in 0..2 * MOST_UNUSED {
            stock.put(Segment::create(4096).unwrap());
        }
        assert_eq!(stock.unused().len(), MOST_UNUSED);
        for _ in 0..3 {
            stock.put(Segment::create(MOST_BYTES / 2).unwrap());
        }
        let kept: Vec<usize> = stock.unused().iter().map(Segment::len).collect();
        assert_eq!(kept, [MOST_BYTES / 2, MOST_BYTES / 2]);
        stock.put(Segment::create(MOST_BYTES + 1).unwrap());
        assert!(stock.is_empty());
    }

    #[test]
    fn a_loan_goes_back_unless_it_is_spoilt() {
        let stock = Arc::new(Stock::default());
        let loan = stock.lend(100_000, false).unwrap();
        let lent = number(loan.segment());
        drop(loan);
        let mut loan = stock.lend(100_000, false).unwrap();
        assert_eq!(number(loan.segment_mut()), lent);
        loan.spoil();
        drop(loan);
        assert!(stock.is_empty());
    }

    #[test]
    fn those_who_can_do_without_are_refused_when_many_are_lent() {
        let stock = Arc::new(Stock::default());
        let loans: Vec<Loan> = (0..MOST_LENT).map(|_| stock.lend(1, false).unwrap()).collect();
        assert_eq!(stock.lend(1, false).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert!(stock.lend(1, true).is_ok());
        drop(loans);
        assert!(stock.lend(1, false).is_ok());
    }

    #[test]
    fn the_largest_is_lent_to_whoever_may_need_it() {
        let stock = Arc::new(Stock::default());
        for len in [100_000, 300_000, 200_000] {
            stock.put(Segment::create(len).unwrap());
        }
        assert!(stock.may_have(300_000) && !stock.may_have(300_001));
        let loan = stock.lend_unused(1).unwrap();
        assert_eq!(loan.segment().len(), 300_000);
        assert!(stock.lend_unused(250_000).is_none() && !stock.may_have(250_000));
        assert!(stock.has(150_000) && !stock.has(250_000));
        drop(loan);
        assert!(stock.has(250_000) && stock.may_have(300_000));
    }

    #[test]
    fn a_lack_of_memory_is_met_with_what_is_kept_unused() {
        let stock = Stock::default();
        stock.put(Segment::create(1 << 20).unwrap());
        assert_eq!(stock.take(1 << 46).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(stock.is_empty());
    }
}
