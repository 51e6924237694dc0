//! Those who wait for a notice, each for one: under a condition.
//!
//! They join, and notices are given, by whoever has the condition's own lock; who joins lets go of that lock only
//! afterwards. So who gives notices, with the lock in hand, sees everybody who had joined before, and need not look into
//! the line if nobody has. Who gives up may do so without that lock: then there are fewer than the count says.

use crate::line::{Left, Line, Ticket};
use crate::prim::atomic::{AtomicUsize, Ordering};
use crate::prim::{Mutex, lock};

/// The line, and how long it is.
#[derive(Debug)]
pub struct Notices<W> {
    line: Mutex<Line<W>>,
    /// Written under the line's lock. That of the condition makes it known, so it needs no order of its own.
    waiting: AtomicUsize,
}

impl<W> Default for Notices<W> {
    fn default() -> Self {
        Self { line: Mutex::default(), waiting: AtomicUsize::new(0) }
    }
}

impl<W> Notices<W> {
    fn change<R>(&self, act: impl FnOnce(&mut Line<W>) -> R) -> R {
        let mut line = lock(&self.line);
        let acted = act(&mut line);
        self.waiting.store(line.len(), Ordering::Relaxed);
        acted
    }

    /// How many wait.
    #[inline]
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Puts somebody into the line.
    pub fn join(&self, waiter: W) -> Ticket {
        self.change(|line| line.join(waiter))
    }

    /// Gives the first in line his notice; he is to be woken. If he cannot be, the next one is to get it.
    #[must_use]
    pub fn give(&self) -> Option<W> {
        self.change(Line::serve)
    }

    /// Whether the one with this ticket has got his notice.
    #[must_use]
    pub fn has(&self, ticket: Ticket) -> bool {
        !lock(&self.line).contains(ticket)
    }

    /// Takes somebody out of the line; `true` if he had got a notice, which the next one is to get.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> bool {
        self.change(|line| line.leave(ticket)) == Left::Served
    }

    /// Takes out those who are gone without having left.
    #[must_use]
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        self.change(|line| line.dismiss(is_gone))
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
    fn a_notice_goes_to_the_first_and_only_once() {
        let notices = Notices::default();
        let tickets = ["a", "b"].map(|name| notices.join(name));
        assert_eq!(notices.waiting(), 2);
        assert_eq!(notices.give(), Some("a"));
        assert!(notices.has(tickets[0]) && !notices.has(tickets[1]));
        assert!(notices.leave(tickets[0]), "he takes a notice along");
        assert!(!notices.leave(tickets[1]));
        assert_eq!((notices.give(), notices.waiting()), (None, 0));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;
    use crate::prim::Arc;

    /// A condition: what is waited for, under its lock, and the notices.
    type Condition = (Mutex<usize>, Notices<Sleeper>);

    fn notify((_, notices): &Condition) {
        if notices.waiting() > 0
            && let Some(sleeper) = notices.give()
        {
            sleeper.wake();
        }
    }

    fn put(condition: &Condition) {
        let mut items = lock(&condition.0);
        *items += 1;
        notify(condition);
    }

    fn take(condition: &Condition) {
        let mut items = lock(&condition.0);
        while *items == 0 {
            let sleeper = Sleeper::new();
            let ticket = condition.1.join(sleeper.clone());
            drop(items);
            while !condition.1.has(ticket) {
                sleeper.sleep();
            }
            items = lock(&condition.0);
        }
        *items -= 1;
    }

    /// Waits, and gives up at once.
    fn look_in(condition: &Condition) {
        let ticket = {
            let _items = lock(&condition.0);
            condition.1.join(Sleeper::new())
        };
        if condition.1.leave(ticket) {
            notify(condition);
        }
    }

    fn run(works: [fn(&Condition); 2]) {
        let condition = Arc::new((Mutex::new(0), Notices::default()));
        let others = works.map(|work| {
            let condition = Arc::clone(&condition);
            thread::spawn(move || work(&condition))
        });
        take(&condition);
        others.into_iter().for_each(|other| other.join().unwrap());
    }

    /// A lost notice is a deadlock, which loom reports.
    #[test]
    fn loom_who_joins_before_he_lets_go_of_the_lock_misses_nothing() {
        loom::model(|| run([put, |condition| (put(condition), take(condition)).1]));
    }

    #[test]
    fn loom_who_gives_up_leaves_his_notice_to_the_next() {
        loom::model(|| run([put, look_in]));
    }
}
