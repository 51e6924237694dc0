//! Threads that end with something in their hands.
//!
//! A thread that has had something is told of when it ends: by the destructor of what it remembers. Its name is asked for
//! while it lives.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::deadlock::waits::Who;
use pyo3::prelude::*;

use super::call;
use super::state::state;
use crate::sync::who;

/// Which stretch of watching this is; nothing is known from one to the next.
static STRETCH: AtomicU64 = AtomicU64::new(1);

struct Remembered {
    stretch: Cell<u64>,
    number: Cell<u64>,
}

thread_local! {
    static ME: Remembered = const { Remembered { stretch: Cell::new(0), number: Cell::new(0) } };
}

impl Drop for Remembered {
    fn drop(&mut self) {
        if self.stretch.get() == STRETCH.load(Ordering::Relaxed) {
            state().end_thread(Who(self.number.get()));
        }
    }
}

pub(super) fn forget_all() {
    STRETCH.fetch_add(1, Ordering::Relaxed);
}

/// Takes note of the calling thread, the first time.
pub(super) fn remember(py: Python<'_>) {
    let stretch = STRETCH.load(Ordering::Relaxed);
    let is_known = ME.try_with(|me| me.stretch.get() == stretch).unwrap_or(true);
    if !is_known {
        name(py, stretch);
    }
}

#[cold]
fn name(py: Python<'_>, stretch: u64) {
    let number = who::this_thread();
    // Set first: what Python does to find the name may take locks.
    let _ = ME.try_with(|me| {
        me.stretch.set(stretch);
        me.number.set(number);
    });
    let name = call(py, "name_here", ()).and_then(|name| name.extract::<String>());
    state().name_thread(Who(number), name.unwrap_or_default());
}
