//! Something that is done once: the first to come does it, the others wait for that; if it fails, the next one tries.
//!
//! Here is only whose turn it is. The result is the owner's: it is there before [`finish`](Once::finish) is called, and
//! may be read by whoever was told [`Turn::Done`].
//!
//! **Invariant**, whenever the lock is free: while nobody is at it and it is not done, somebody who waits has been
//! called, or nobody waits. So who gives up after a call has the next one called in his stead.

use crate::line::{Left, Ticket};
use crate::prim::atomic::{AtomicBool, Ordering};
use crate::prim::{Mutex, lock};
use crate::turnstile::Turnstile;

/// What somebody who came has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Nothing: it is done.
    Done,
    /// To do it, and to call [`Once::finish`] or [`Once::fail`] afterwards.
    Mine,
    /// To wait, in this place.
    Waits(Ticket),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Running,
    Done,
}

#[derive(Debug)]
struct Inner<W> {
    phase: Phase,
    line: Turnstile<W>,
}

/// Whose turn it is, and who waits.
#[derive(Debug)]
pub struct Once<W> {
    /// For a look without the lock; written under it.
    is_done: AtomicBool,
    inner: Mutex<Inner<W>>,
}

impl<W: Clone> Default for Once<W> {
    fn default() -> Self {
        let inner = Inner { phase: Phase::Idle, line: Turnstile::default() };
        Self { is_done: AtomicBool::new(false), inner: Mutex::new(inner) }
    }
}

impl<W: Clone> Once<W> {
    /// Whether it is done, for good.
    #[inline]
    #[must_use]
    pub fn is_done(&self) -> bool {
        // Acquire pairs with the Release in `finish`.
        self.is_done.load(Ordering::Acquire)
    }

    /// Whether somebody is at it.
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.inner).phase == Phase::Running
    }

    /// Somebody comes; he gets a place in the line if somebody else is at it.
    pub fn enter(&self, waiter: W) -> Turn {
        let mut inner = lock(&self.inner);
        match inner.phase {
            Phase::Done => Turn::Done,
            Phase::Idle if inner.line.admits(1) => inner.begin(),
            Phase::Idle | Phase::Running => Turn::Waits(inner.line.join(waiter)),
        }
    }

    /// Somebody comes who will not wait.
    #[must_use]
    pub fn try_enter(&self) -> Option<Turn> {
        let mut inner = lock(&self.inner);
        match inner.phase {
            Phase::Done => Some(Turn::Done),
            Phase::Idle if inner.line.admits(1) => Some(inner.begin()),
            Phase::Idle | Phase::Running => None,
        }
    }

    /// Somebody who waits was woken.
    pub fn poll(&self, ticket: Ticket) -> Turn {
        let mut inner = lock(&self.inner);
        let available = usize::from(inner.phase != Phase::Running);
        match (inner.line.come(available, ticket), inner.phase) {
            (true, Phase::Done) => Turn::Done,
            (true, _) => inner.begin(),
            (false, _) => Turn::Waits(ticket),
        }
    }

    /// Takes somebody out of the line who gave up; returns who is to be woken in his stead.
    #[must_use]
    pub fn leave(&self, ticket: Ticket) -> Vec<(Ticket, W)> {
        let mut inner = lock(&self.inner);
        if inner.line.leave(ticket) == Left::Called && inner.phase == Phase::Idle {
            return inner.line.summon(1);
        }
        Vec::new()
    }

    /// It is done; returns who is to be woken.
    #[must_use]
    pub fn finish(&self) -> Vec<(Ticket, W)> {
        let mut inner = lock(&self.inner);
        inner.phase = Phase::Done;
        // Release pairs with the Acquire in `is_done`: the result is seen with it.
        self.is_done.store(true, Ordering::Release);
        inner.line.summon_all()
    }

    /// It failed: it is the next one's turn. Returns who is to be woken.
    #[must_use]
    pub fn fail(&self) -> Vec<(Ticket, W)> {
        let mut inner = lock(&self.inner);
        inner.phase = Phase::Idle;
        inner.line.summon(1)
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        lock(&self.inner).line.dismiss(is_gone)
    }

    /// Looks at those who wait, in order. `look` must not call out.
    pub fn for_each_waiter(&self, look: impl FnMut(&W)) {
        lock(&self.inner).line.iter().for_each(look);
    }
}

impl<W> Inner<W> {
    fn begin(&mut self) -> Turn {
        self.phase = Phase::Running;
        Turn::Mine
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn names(calls: Vec<(Ticket, &'static str)>) -> Vec<&'static str> {
        calls.into_iter().map(|(_, waiter)| waiter).collect()
    }

    fn joins(once: &Once<&'static str>, name: &'static str) -> Ticket {
        let Turn::Waits(ticket) = once.enter(name) else { panic!("{name} does not wait") };
        ticket
    }

    #[test]
    fn the_first_does_it_and_the_others_find_it_done() {
        let once = Once::default();
        assert_eq!(once.enter("a"), Turn::Mine);
        let (second, third) = (joins(&once, "b"), joins(&once, "c"));
        assert_eq!(once.try_enter(), None);
        assert_eq!(names(once.finish()), ["b", "c"]);
        assert_eq!([once.poll(third), once.poll(second)], [Turn::Done; 2]);
        assert_eq!((once.enter("d"), once.try_enter()), (Turn::Done, Some(Turn::Done)));
    }

    #[test]
    fn after_a_failure_one_tries_and_the_others_wait_on() {
        let once = Once::default();
        assert_eq!(once.enter("a"), Turn::Mine);
        let (second, third) = (joins(&once, "b"), joins(&once, "c"));
        assert_eq!(names(once.fail()), ["b"]);
        assert_eq!(once.enter("d"), Turn::Mine, "who runs already may be faster, once");
        assert_eq!(once.poll(second), Turn::Waits(second));
        assert_eq!(names(once.fail()), ["b"]);
        assert!(matches!(once.enter("e"), Turn::Waits(_)), "but not twice");
        assert_eq!(once.poll(second), Turn::Mine);
        assert_eq!(names(once.fail()), ["c"]);
        assert_eq!(once.poll(third), Turn::Mine);
    }

    #[test]
    fn who_leaves_after_a_call_has_the_next_one_called() {
        let once = Once::default();
        assert_eq!(once.enter("a"), Turn::Mine);
        let (second, third) = (joins(&once, "b"), joins(&once, "c"));
        assert_eq!(names(once.fail()), ["b"]);
        assert_eq!(names(once.leave(second)), ["c"]);
        assert_eq!(once.poll(third), Turn::Mine);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;
    use crate::prim::Arc;
    use crate::prim::atomic::AtomicUsize;

    struct Shared {
        once: Once<Sleeper>,
        tries: AtomicUsize,
        successes: AtomicUsize,
    }

    fn wake(calls: Vec<(Ticket, Sleeper)>) {
        calls.into_iter().for_each(|(_, sleeper)| sleeper.wake());
    }

    impl Shared {
        /// The first try fails.
        fn call(&self) {
            let sleeper = Sleeper::new();
            let mut turn = self.once.enter(sleeper.clone());
            loop {
                match turn {
                    Turn::Done => return assert_eq!(self.successes.load(Ordering::Relaxed), 1),
                    Turn::Mine if self.tries.fetch_add(1, Ordering::Relaxed) == 0 => {
                        return wake(self.once.fail());
                    }
                    Turn::Mine => {
                        self.successes.fetch_add(1, Ordering::Relaxed);
                        return wake(self.once.finish());
                    }
                    Turn::Waits(ticket) => {
                        sleeper.sleep();
                        turn = self.once.poll(ticket);
                    }
                }
            }
        }

        /// Comes, and goes again if he would have to wait.
        fn look_in(&self) {
            match self.once.enter(Sleeper::new()) {
                Turn::Mine => wake(self.once.fail()),
                Turn::Waits(ticket) => wake(self.once.leave(ticket)),
                Turn::Done => {}
            }
        }
    }

    /// A lost wake-up is a deadlock, which loom reports; two successes are counted.
    #[test]
    fn loom_a_failure_and_somebody_who_gives_up_leave_the_turn_to_another() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                once: Once::default(),
                tries: AtomicUsize::new(0),
                successes: AtomicUsize::new(0),
            });
            let others = [Shared::call, Shared::look_in].map(|work| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared))
            });
            shared.call();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(shared.successes.load(Ordering::Relaxed), 1);
            assert!(shared.once.is_done());
        });
    }
}
