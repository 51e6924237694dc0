//! A word that those sleep on who wait for something that others bring.
//!
//! ```text
//! word: unused (32) │ how often it rang (31) │ may somebody sleep (1)
//! ```
//!
//! Who wants to sleep announces it and looks once more; who brings something does so first and rings then. So either the
//! one finds what was brought, or the other finds the announcement. A ring takes the announcement away and wakes one:
//! whoever has slept [passes on](pass_on) when he leaves, with or without what he came for, for he cannot know whether
//! others sleep.
//!
//! A process may die between what it brought and the ring, and whoever was woken before he passes on. So nobody may
//! sleep for long without looking again.

use crate::prim::atomic::{AtomicU64, Ordering, fence};

const SLEEPS: u64 = 1;
const ONE: u64 = 2;
const LOW: u64 = (1 << 32) - 1;

/// Announces a sleeper, who must look once more; what to sleep on.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the half that changes")]
pub fn announce(word: &AtomicU64) -> u32 {
    let before = word.fetch_or(SLEEPS, Ordering::AcqRel);
    // Pairs with the fence in `ring`: one of the two sees what the other did before.
    fence(Ordering::SeqCst);
    (before | SLEEPS) as u32
}

/// Rings, after something was brought; whether somebody may sleep, of whom one is to be woken.
#[must_use]
#[inline]
pub fn ring(word: &AtomicU64) -> bool {
    // Pairs with the fence in `announce`.
    fence(Ordering::SeqCst);
    word.load(Ordering::Relaxed) & SLEEPS != 0 && take_announcement(word)
}

#[cold]
fn take_announcement(word: &AtomicU64) -> bool {
    let next = |seen: u64| (seen & SLEEPS != 0).then_some(seen.wrapping_add(ONE) & LOW & !SLEEPS);
    word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next).is_ok()
}

/// Rings for the next one if `is_there` something for him: for whoever leaves after a sleep.
#[must_use]
pub fn pass_on(word: &AtomicU64, is_there: impl FnOnce() -> bool) -> bool {
    let _ = announce(word);
    is_there() && ring(word)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_wakes_only_where_somebody_may_sleep() {
        let word = AtomicU64::new(LOW & !SLEEPS);
        assert!(!ring(&word));
        let seen = announce(&word);
        assert_eq!(announce(&word), seen);
        assert!(ring(&word) && !ring(&word));
        assert_ne!(announce(&word), seen, "its count begins anew");
    }

    #[test]
    fn who_leaves_wakes_the_next_if_there_is_something() {
        let word = AtomicU64::new(0);
        assert!(!pass_on(&word, || false));
        assert!(ring(&word), "the next may sleep");
        assert!(pass_on(&word, || true));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Condvar;
    use loom::thread;

    use super::*;
    use crate::prim::{Arc, Mutex, lock};

    /// A word with a count of items beside it, and the kernel's side of sleeping.
    struct Shared {
        word: AtomicU64,
        items: AtomicU64,
        kernel: Mutex<()>,
        sleepers: Condvar,
    }

    impl Shared {
        fn sleep(&self, seen: u32) {
            let kernel = lock(&self.kernel);
            if self.word.load(Ordering::Relaxed) == u64::from(seen) {
                // Who is never woken is a deadlock, of which the model tells.
                drop(self.sleepers.wait(kernel));
            }
        }

        fn wake(&self, is_rung: bool) {
            if is_rung {
                let _kernel = lock(&self.kernel);
                self.sleepers.notify_one();
            }
        }

        fn bring(&self) {
            self.items.fetch_add(1, Ordering::AcqRel);
            self.wake(ring(&self.word));
        }

        fn take(&self) {
            let mut has_slept = false;
            let take_one = |seen: u64| seen.checked_sub(1);
            while self.items.fetch_update(Ordering::AcqRel, Ordering::Acquire, take_one).is_err() {
                let seen = announce(&self.word);
                if self.items.load(Ordering::Acquire) == 0 {
                    has_slept = true;
                    self.sleep(seen);
                }
            }
            if has_slept {
                self.wake(pass_on(&self.word, || self.items.load(Ordering::Acquire) > 0));
            }
        }
    }

    #[test]
    fn loom_what_is_brought_is_taken_by_those_who_sleep() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                word: AtomicU64::new(0),
                items: AtomicU64::new(0),
                kernel: Mutex::new(()),
                sleepers: Condvar::new(),
            });
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || shared.take())
                })
                .collect();
            shared.bring();
            shared.bring();
            takers.into_iter().for_each(|taker| taker.join().unwrap());
            assert_eq!(shared.items.load(Ordering::Acquire), 0);
        });
    }
}
