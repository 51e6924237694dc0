//! A lock of processes in one word, which passes on when its holder dies.
//!
//! ```text
//! word: start (32) │ waited for (1) │ abandoned (1) │ process number (30)          0: free
//!
//!   free ── acquire ──▶ held ── announce ──▶ held, waited for ── release: wake one ──▶ free
//!                                                  └── take over, if the holder has died ──▶ held, abandoned
//! ```
//!
//! **Guarantees.** One process has it at a time; of those who see that its holder has died exactly one takes it over,
//! and is told so. A release tells whether somebody may sleep. Who has slept leaves the mark of waiting behind, for it
//! cannot know whether it was the last.
//!
//! A releaser may be killed before it wakes anybody, and whoever was woken before it acquires. So nobody may sleep for
//! long without looking again.

use super::Owner;
use crate::prim::atomic::{AtomicU64, Ordering};

const ABANDONED: u64 = 1 << 30;
const WAITED_FOR: u64 = 1 << 31;

/// A lock that somebody holds, as a waiter has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    /// Who holds it; `None` for a word that makes no sense.
    #[must_use]
    pub const fn holder(self) -> Option<Owner> {
        Owner::of_word(self.0)
    }

    /// The half of the word to sleep on.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the half that changes with every hand-over")]
    pub const fn low(self) -> u32 {
        self.0 as u32
    }
}

/// Acquires it if it is free. `has_waited`: this thread has slept for it.
#[must_use]
#[inline]
pub fn try_acquire(word: &AtomicU64, me: Owner, has_waited: bool) -> bool {
    let mark = if has_waited { WAITED_FOR } else { 0 };
    // Acquire pairs with the Release in `release`.
    word.compare_exchange(0, me.word() | mark, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Marks it as waited for; `None` if it is free by now.
#[must_use]
pub fn announce(word: &AtomicU64) -> Option<Seen> {
    let mark = |seen| (seen != 0).then_some(seen | WAITED_FOR);
    let seen = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, mark).ok()?;
    Some(Seen(seen | WAITED_FOR))
}

/// Takes it from a holder that has died; `false` if that is not the holder any more.
#[must_use]
pub fn take_over(word: &AtomicU64, seen: Seen, me: Owner) -> bool {
    let mine = me.word() | ABANDONED | WAITED_FOR;
    // Acquire pairs with nothing that the dead one did on purpose; the kernel has ended it before it told us.
    word.compare_exchange(seen.0, mine, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Releases it. `Some(true)`: wake one of those who sleep; `None`: this process does not hold it.
#[must_use]
#[inline]
pub fn release(word: &AtomicU64, me: Owner) -> Option<bool> {
    if !is_held_by(word, me) {
        return None;
    }
    // Nobody else changes more than the mark while we hold it. Release pairs with the Acquire in `try_acquire`.
    Some(word.swap(0, Ordering::Release) & WAITED_FOR != 0)
}

/// Whether that process holds it.
#[must_use]
#[inline]
pub fn is_held_by(word: &AtomicU64, owner: Owner) -> bool {
    holder(word) == Some(owner)
}

/// Who holds it.
#[must_use]
#[inline]
pub fn holder(word: &AtomicU64) -> Option<Owner> {
    Owner::of_word(word.load(Ordering::Relaxed))
}

/// Whether it was taken over and not released since.
#[must_use]
pub fn is_abandoned(word: &AtomicU64) -> bool {
    word.load(Ordering::Relaxed) & ABANDONED != 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ME: Owner = Owner::new(7, 1);
    const OTHER: Owner = Owner::new(8, 1);

    #[test]
    fn one_process_has_it_at_a_time() {
        let word = AtomicU64::new(0);
        assert!(try_acquire(&word, ME, false) && !try_acquire(&word, OTHER, false));
        assert_eq!(release(&word, OTHER), None);
        assert_eq!(release(&word, Owner::new(7, 2)), None, "the number alone is not the process");
        assert_eq!(release(&word, ME), Some(false));
        assert_eq!(release(&word, ME), None);
        assert_eq!(announce(&word), None);
    }

    #[test]
    fn a_release_tells_whether_somebody_may_sleep() {
        let word = AtomicU64::new(0);
        assert!(try_acquire(&word, ME, false));
        assert_eq!(announce(&word).and_then(Seen::holder), Some(ME));
        assert_eq!(release(&word, ME), Some(true));
        assert!(try_acquire(&word, OTHER, true));
        assert_eq!(release(&word, OTHER), Some(true), "there may be another");
    }

    #[test]
    fn it_passes_on_from_the_dead_with_a_mark_that_a_release_takes_away() {
        let word = AtomicU64::new(0);
        assert!(try_acquire(&word, ME, false) && !is_abandoned(&word));
        let seen = announce(&word).unwrap();
        assert!(take_over(&word, seen, OTHER) && !take_over(&word, seen, Owner::new(9, 1)));
        assert!(is_abandoned(&word) && is_held_by(&word, OTHER));
        assert_eq!(release(&word, OTHER), Some(true));
        assert!(try_acquire(&word, ME, false) && !is_abandoned(&word));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::prim::Arc;

    /// Two find a lock whose holder has died: each gets it once, one of them with the mark, and their writes do not mix.
    #[test]
    fn loom_one_of_two_takes_over_from_the_dead() {
        loom::model(|| {
            let dead = Owner::new(1, 1);
            let shared = Arc::new((AtomicU64::new(dead.word()), AtomicU64::new(0)));
            let take = move |me: Owner, shared: &(AtomicU64, AtomicU64)| {
                let (word, count) = shared;
                while !try_acquire(word, me, false) {
                    if announce(word)
                        .is_some_and(|seen| seen.holder() == Some(dead) && take_over(word, seen, me))
                    {
                        break;
                    }
                    thread::yield_now();
                }
                let is_abandoned = is_abandoned(word);
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                assert!(release(word, me).is_some());
                is_abandoned
            };
            let other = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || take(Owner::new(2, 1), &shared))
            };
            let mine = take(Owner::new(3, 1), &shared);
            assert!(mine != other.join().unwrap(), "exactly one is told");
            assert_eq!(shared.1.load(Ordering::Relaxed), 2);
        });
    }
}
