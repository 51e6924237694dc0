//! A flag that processes wait for, in one word.
//!
//! ```text
//! word: unused (32) │ how often it was set (31) │ is it set (1)
//! ```
//!
//! The count tells a waiter that the flag was set while it slept, though somebody has cleared it since.

use crate::prim::atomic::{AtomicU64, Ordering};

const SET: u64 = 1;
const ONE: u64 = 2;
const LOW: u64 = (1 << 32) - 1;

/// Sets it; whether it was clear, so that those who sleep must be woken.
#[must_use]
pub fn set(word: &AtomicU64) -> bool {
    let raise = |seen: u64| (seen & SET == 0).then_some((seen.wrapping_add(ONE) | SET) & LOW);
    // Release publishes what the setter did before to those who find it set.
    word.fetch_update(Ordering::AcqRel, Ordering::Acquire, raise).is_ok()
}

/// Clears it.
pub fn clear(word: &AtomicU64) {
    word.fetch_and(!SET, Ordering::AcqRel);
}

/// Whether it is set.
#[must_use]
pub fn is_set(word: &AtomicU64) -> bool {
    word.load(Ordering::Acquire) & SET != 0
}

/// What a waiter sleeps on, read before it looks whether it must.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the half that has the flag")]
pub fn look(word: &AtomicU64) -> u32 {
    word.load(Ordering::Acquire) as u32
}

/// Whether it is set, or was since the waiter had that look at it.
#[must_use]
pub fn was_set_since(word: &AtomicU64, look_then: u32) -> bool {
    let now = look(word);
    now & 1 != 0 || now >> 1 != look_then >> 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_set_wakes() {
        let word = AtomicU64::new(0);
        assert!(set(&word) && !set(&word) && is_set(&word));
        clear(&word);
        assert!(!is_set(&word) && set(&word));
    }

    #[test]
    fn who_sleeps_learns_of_a_set_that_was_cleared() {
        let word = AtomicU64::new(0);
        let before = look(&word);
        assert!(!was_set_since(&word, before));
        assert!(set(&word));
        clear(&word);
        assert!(was_set_since(&word, before));
        assert!(!was_set_since(&word, look(&word)));
    }

    #[test]
    fn its_count_begins_anew() {
        let word = AtomicU64::new(LOW & !SET);
        assert!(set(&word));
        assert_eq!(look(&word), 1);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Condvar;
    use loom::thread;

    use super::*;
    use crate::prim::{Arc, Mutex, lock};

    #[test]
    fn loom_a_set_ends_a_wait_though_it_is_cleared_at_once() {
        loom::model(|| {
            let shared = Arc::new((AtomicU64::new(0), Mutex::new(()), Condvar::new()));
            let before = look(&shared.0);
            let setter = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    if set(&shared.0) {
                        let _kernel = lock(&shared.1);
                        shared.2.notify_all();
                    }
                    clear(&shared.0);
                })
            };
            let (word, kernel, sleepers) = &*shared;
            while !was_set_since(word, before) {
                let kernel = lock(kernel);
                if look(word) == before {
                    // Who is never woken is a deadlock, of which the model tells.
                    drop(sleepers.wait(kernel));
                }
            }
            setter.join().unwrap();
            assert!(!is_set(word) && was_set_since(word, before));
        });
    }
}
