//! Sleeping on a futex: the sleep under `engine`'s parking protocol.
//!
//! Unlike `std::thread::park`, a sleep here ends when a signal arrives, and says so: that is what lets Ctrl-C
//! interrupt every wait of the Python program.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::park::{PARKED, Token};
use rustix::io::Errno;
use rustix::thread::futex;

use crate::clock;

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody called [`Parker::unpark`].
    Notified,
    /// The deadline passed.
    TimedOut,
    /// A signal was delivered to this thread.
    Interrupted,
}

/// One thread's place to sleep. Only one thread may [`park`](Self::park) at a time; anybody may unpark.
#[derive(Debug, Default)]
pub struct Parker {
    token: Token,
}

impl Parker {
    /// Sleeps until notified, past `deadline`, or interrupted by a signal.
    ///
    /// It does not look for a notification for a while before it sleeps: the kernel likes to wake a thread on the
    /// processor of its waker, and there a spinning waiter keeps the very thread from running that it waits for.
    pub fn park(&self, deadline: Option<Tick>) -> Woken {
        if !self.token.prepare() {
            return Woken::Notified;
        }
        let ended = self.sleep(deadline);
        // A notification that raced with the end of the sleep wins: it must not be lost.
        if self.token.consume() { Woken::Notified } else { ended }
    }

    fn sleep(&self, deadline: Option<Tick>) -> Woken {
        loop {
            let timeout = match deadline.map(|deadline| deadline.since(clock::now())) {
                Some(Duration::ZERO) => return Woken::TimedOut,
                // A timespec of the kernel cannot hold every Duration; a year is as good as for ever here.
                Some(left) => Some(left.min(Duration::from_secs(31_536_000)).try_into().unwrap_or_default()),
                None => None,
            };
            match futex::wait(self.token.word(), futex::Flags::PRIVATE, PARKED, timeout.as_ref()) {
                Err(Errno::INTR) => return Woken::Interrupted,
                // The word is no longer PARKED.
                Err(Errno::AGAIN) => return Woken::Notified,
                Ok(()) if self.token.is_notified() => return Woken::Notified,
                // A spurious wake-up, or a timeout: the deadline decides.
                _ => {}
            }
        }
    }

    /// Notifies the sleeper, or the next to sleep here.
    pub fn unpark(&self) {
        if self.token.notify() {
            // The word is valid as long as `self` is; a failure could only mean a bad address.
            let _ = futex::wake(self.token.word(), futex::Flags::PRIVATE, 1);
        }
    }

    /// Takes a notification, if there is one: as [`park`](Self::park) does, without sleeping.
    pub fn take(&self) -> bool {
        self.token.consume()
    }

    /// Forgets a notification that came after its reason had gone.
    pub fn reset(&self) {
        self.token.consume();
    }
}

thread_local! {
    static MINE: OnceCell<Arc<Parker>> = const { OnceCell::new() };
}

/// This thread's own parker, without a stale notification in it.
#[must_use]
pub fn mine() -> Arc<Parker> {
    let parker = MINE.with(|mine| Arc::clone(mine.get_or_init(Arc::default)));
    parker.reset();
    parker
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_ends_the_sleep() {
        let before = clock::now();
        let deadline = before + Duration::from_millis(20);
        assert_eq!(Parker::default().park(Some(deadline)), Woken::TimedOut);
        assert!(clock::now() >= deadline);
    }

    #[test]
    fn an_unpark_from_another_thread_ends_the_sleep() {
        let parker = Arc::new(Parker::default());
        for _ in 0..1000 {
            let other = Arc::clone(&parker);
            let waker = std::thread::spawn(move || other.unpark());
            assert_eq!(parker.park(None), Woken::Notified);
            waker.join().unwrap();
        }
    }

    #[test]
    fn two_threads_hand_a_token_back_and_forth() {
        let there = Arc::new(Parker::default());
        let back = Arc::new(Parker::default());
        let other = {
            let (mine, theirs) = (Arc::clone(&there), Arc::clone(&back));
            std::thread::spawn(move || {
                for _ in 0..10_000 {
                    assert_eq!(mine.park(None), Woken::Notified);
                    theirs.unpark();
                }
            })
        };
        for _ in 0..10_000 {
            there.unpark();
            assert_eq!(back.park(None), Woken::Notified);
        }
        other.join().unwrap();
    }
}
