//! The atomics and locks every other module uses: `std`'s, or `loom`'s when built with `--cfg loom`.

#[cfg(loom)]
pub use loom::sync::{Arc, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub use std::sync::{Arc, Mutex, MutexGuard, atomic};

/// Locks `mutex`, ignoring poison: every critical section of this crate leaves its data consistent before
/// it can panic, so a panicked holder is no reason to fail all later ones.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
