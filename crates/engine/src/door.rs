//! A door that is open or shut, and those who wait for it to open: under an event and a latch.
//!
//! It is opened and shut under the lock of the line, and looked at without. Whoever waits looks once more under that
//! lock before he joins the line; so whoever opens it either finds him there, or he finds it open.
//!
//! Who was let through stays so, also if the door is shut again before he looks: he is no longer in the line.

use crate::line::{Left, Line, Ticket};
use crate::prim::atomic::{AtomicBool, Ordering};
use crate::prim::{Mutex, lock};

/// A door and the line before it.
#[derive(Debug)]
pub struct Door<W> {
    is_open: AtomicBool,
    line: Mutex<Line<W>>,
}

impl<W> Default for Door<W> {
    fn default() -> Self {
        Self { is_open: AtomicBool::new(false), line: Mutex::default() }
    }
}

impl<W> Door<W> {
    /// Whether one gets through now.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        // Acquire pairs with the Release in `open`: what came before is seen by whoever gets through.
        self.is_open.load(Ordering::Acquire)
    }

    /// Opens it; these get through, and are to be woken.
    #[must_use]
    pub fn open(&self) -> Vec<W> {
        if self.is_open() {
            return Vec::new();
        }
        let mut line = lock(&self.line);
        self.is_open.store(true, Ordering::Release);
        line.serve_all()
    }

    /// Shuts it.
    pub fn shut(&self) {
        let _line = lock(&self.line);
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// A place in the line, unless the door is open.
    pub fn enter(&self, waiter: W) -> Option<Ticket> {
        let mut line = lock(&self.line);
        if self.is_open() { None } else { Some(line.join(waiter)) }
    }

    /// Whether the one with this ticket still waits; otherwise he was let through.
    #[must_use]
    pub fn waits(&self, ticket: Ticket) -> bool {
        lock(&self.line).contains(ticket)
    }

    /// Takes somebody out of the line; `true` if he had been let through.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> bool {
        lock(&self.line).leave(ticket) == Left::Served
    }

    /// Takes out those who are gone without having left.
    #[must_use]
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        lock(&self.line).dismiss(is_gone)
    }

    /// Looks at those who wait, in order, until `look` fails. It must not call out.
    ///
    /// # Errors
    /// What `look` gave.
    pub fn try_for_each_waiter<E>(&self, look: impl FnMut(&W) -> Result<(), E>) -> Result<(), E> {
        lock(&self.line).iter().try_for_each(look)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_was_let_through_stays_so() {
        let door = Door::default();
        let ticket = door.enter("a").expect("it is shut");
        assert!(door.waits(ticket));
        assert_eq!(door.open(), ["a"]);
        door.shut();
        assert!(!door.waits(ticket));
        assert!(door.leave(ticket));
        assert!(door.enter("b").is_some());
    }

    #[test]
    fn nobody_waits_at_an_open_door() {
        let door = Door::default();
        assert!(door.open().is_empty());
        assert!(door.is_open());
        assert!(door.enter("a").is_none());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;
    use crate::prim::Arc;
    use crate::prim::atomic::AtomicUsize;

    /// A lost wake-up is a deadlock, which loom reports.
    #[test]
    fn loom_whoever_waits_gets_through_and_sees_what_came_before() {
        loom::model(|| {
            let shared = Arc::new((Door::<Sleeper>::default(), AtomicUsize::new(0)));
            let waiters: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        let (door, news) = &*shared;
                        let sleeper = Sleeper::new();
                        if !door.is_open()
                            && let Some(ticket) = door.enter(sleeper.clone())
                        {
                            while door.waits(ticket) {
                                sleeper.sleep();
                            }
                        }
                        assert_eq!(news.load(Ordering::Relaxed), 1);
                    })
                })
                .collect();
            shared.1.store(1, Ordering::Relaxed);
            shared.0.open().iter().for_each(Sleeper::wake);
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        });
    }
}
