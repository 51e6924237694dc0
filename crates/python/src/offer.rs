//! Memory of the pool's that a worker may use for its next large answer.
//!
//! Pool and workers each keep memory for the next large message, because new memory is dear. Without this all of it would
//! add up, though most of the time only one of them has a use for it.
//!
//! The pool writes the descriptor of a segment into a word that both have. Whoever clears the word has the segment: the
//! worker, to answer in it, or the pool, to use it for something else once the worker has nothing more to do.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_os::segment::Segment;
use manyhands_os::stock::{Loan, Stock};

use crate::process_crew::OFFER;

/// From this size on.
pub(crate) const LEAST: usize = 8 << 20;

/// The pool's side.
pub(crate) struct Offer {
    stock: Arc<Stock>,
    /// What the worker may have taken.
    loan: Mutex<Option<Loan>>,
}

impl Offer {
    pub(crate) fn new(stock: Arc<Stock>) -> Self {
        Self { stock, loan: Mutex::default() }
    }

    fn loan(&self) -> MutexGuard<'_, Option<Loan>> {
        self.loan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers what is in stock to a worker that has nothing to do, by way of the memory `shared` with it.
    pub(crate) fn make(&self, shared: &Segment) {
        if !self.stock.may_have(LEAST) {
            return;
        }
        let mut loan = self.loan();
        // One that the worker has taken and answered nothing in goes back.
        *loan = self.stock.lend_unused(LEAST);
        let descriptor = loan.as_ref().map_or(0, |loan| loan.segment().fd().as_raw_fd().cast_unsigned() + 1);
        // Release: the worker may write to it from now on.
        shared.words()[OFFER].store(descriptor.into(), Ordering::Release);
    }

    /// Takes the offer back, unless the worker has accepted it.
    pub(crate) fn withdraw(&self, shared: &Segment) {
        let word = &shared.words()[OFFER];
        if word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::AcqRel) != 0 {
            self.loan().take();
        }
    }

    /// What the worker has answered in.
    pub(crate) fn accepted(&self, shared: &Segment) -> Option<Loan> {
        // A worker in its right mind has cleared it.
        shared.words()[OFFER].store(0, Ordering::Release);
        self.loan().take()
    }
}

/// Accepts an offer of at least `len` bytes of process `parent`, if there is one.
pub(crate) fn accept(shared: &Segment, parent: i32, len: usize) -> Option<Segment> {
    let word = &shared.words()[OFFER];
    let offered = word.swap(0, Ordering::AcqRel);
    let segment = open(parent, offered.checked_sub(1)?).ok()?;
    if segment.len() < len {
        // Nobody else looks while a task runs.
        word.store(offered, Ordering::Release);
        return None;
    }
    Some(segment)
}

fn open(parent: i32, descriptor: u64) -> io::Result<Segment> {
    let path = format!("/proc/{parent}/fd/{descriptor}");
    Segment::from_fd_at_once(File::options().read(true).write(true).open(path)?.into())
}
