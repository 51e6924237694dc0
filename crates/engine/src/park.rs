//! The protocol of one sleeping thread and those who wake it; how to sleep is `os`'s business.
//!
//! A [`Token`] is one word. Only its owner moves it to Parked; anybody moves it to Notified.
//!
//! ```text
//!            prepare (owner)                 notify (anyone): true, the sleeper must be woken
//!   Empty ────────────────────▶ Parked ────────────────────────────▶ Notified
//!     └──────────────── notify: false, nobody sleeps ───────────────▶ Notified
//!   Notified ── prepare/consume (owner) ──▶ Empty
//! ```
//!
//! Notifications do not add up: any number before the owner looks count as one, as in `std::thread::park`.
//! What happened before `notify` is visible to the owner after it consumed the notification (Release/Acquire).

use crate::prim::atomic::{AtomicU32, Ordering};

/// Nobody sleeps and nobody was notified.
const EMPTY: u32 = 0;
/// The owner sleeps or is about to.
pub const PARKED: u32 = 1;
/// A notification waits for the owner.
const NOTIFIED: u32 = 2;

/// The word between a sleeper and its wakers.
#[derive(Debug, Default)]
pub struct Token(AtomicU32);

impl Token {
    /// Announces that the owner is going to sleep. `false`: a notification was waiting and is consumed, do not
    /// sleep. `true`: sleep as long as [`word`](Self::word) is [`PARKED`], then [`consume`](Self::consume).
    #[must_use]
    pub fn prepare(&self) -> bool {
        // Acquire pairs with the Release in `notify`.
        if self.0.compare_exchange(EMPTY, PARKED, Ordering::Acquire, Ordering::Acquire).is_ok() {
            return true;
        }
        self.consume();
        false
    }

    /// Ends a sleep, for whatever reason it ended. `true`: there was a notification, now consumed.
    pub fn consume(&self) -> bool {
        // Acquire pairs with the Release in `notify`.
        self.0.swap(EMPTY, Ordering::Acquire) == NOTIFIED
    }

    /// Whether a notification waits: whether a sleep ended for a reason.
    #[must_use]
    pub fn is_notified(&self) -> bool {
        self.0.load(Ordering::Acquire) == NOTIFIED
    }

    /// Notifies the owner. `true`: it sleeps, wake it.
    #[must_use]
    pub fn notify(&self) -> bool {
        // Release pairs with the Acquire in `prepare` and `consume`.
        self.0.swap(NOTIFIED, Ordering::AcqRel) == PARKED
    }

    /// The word to sleep on.
    pub const fn word(&self) -> &AtomicU32 {
        &self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_notification_before_the_sleep_prevents_it() {
        let token = Token::default();
        assert!(!token.notify());
        assert!(token.is_notified());
        assert!(!token.prepare());
        assert!(token.prepare());
    }

    #[test]
    fn only_the_notification_of_a_sleeper_asks_for_a_wake_up() {
        let token = Token::default();
        assert!(token.prepare());
        assert!(token.notify());
        assert!(!token.notify());
        assert!(token.consume());
        assert!(!token.consume());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::Notify;
    use loom::thread;

    use super::*;
    use crate::prim::Arc;
    use crate::prim::atomic::AtomicBool;

    /// The sleep is loom's `Notify`, used as a futex: woken exactly when `notify` says that it must be. A lost
    /// wake-up is a deadlock, which loom reports.
    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let shared = Arc::new((Token::default(), Notify::new(), AtomicBool::new(false)));
            let waker = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.2.store(true, Ordering::Relaxed);
                    if shared.0.notify() {
                        shared.1.notify();
                    }
                })
            };
            let (token, sleep, work) = &*shared;
            if token.prepare() {
                // A futex may wake for no reason, and so may loom's `Notify`.
                while !token.is_notified() {
                    sleep.wait();
                }
                assert!(token.consume());
            }
            assert!(work.load(Ordering::Relaxed), "the waker's writes are visible");
            waker.join().unwrap();
        });
    }
}
