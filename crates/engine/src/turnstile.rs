//! Who may pass where something is there for so many: the two sides of a queue, its items and its room.
//!
//! What there is for the taking is counted by the owner, under whose lock all of this lies; here is only who comes
//! next. One who is there may pass at once as long as nobody was called in vain. From then on what is announced to
//! others is theirs, and who comes now has to join the line: nobody is passed over twice.
//!
//! **Invariant**, if the owner [`summon`](Turnstile::summon)s whenever there is more, and whenever somebody
//! [`leave`](Turnstile::leave)s who was called: as many are called as there is something for, or everybody is.

use crate::line::{Left, Line, Ticket};

/// Those who wait to pass.
#[derive(Debug)]
pub struct Turnstile<W> {
    line: Line<W>,
}

impl<W> Default for Turnstile<W> {
    fn default() -> Self {
        Self { line: Line::default() }
    }
}

impl<W: Clone> Turnstile<W> {
    /// Whether somebody who has just come may pass, when there is something for so many.
    #[inline]
    #[must_use]
    pub fn admits(&self, available: usize) -> bool {
        available > if self.line.owes() { self.line.called() } else { 0 }
    }

    /// Whether nobody is left to be called, whatever there is.
    #[inline]
    #[must_use]
    pub fn has_called_all(&self) -> bool {
        self.line.called() == self.line.len()
    }

    /// Puts somebody into the line.
    pub fn join(&mut self, waiter: W) -> Ticket {
        self.line.join(waiter)
    }

    /// One from the line has come: whether he passes. Then he has left the line.
    #[must_use]
    pub fn come(&mut self, available: usize, ticket: Ticket) -> bool {
        if available > 0 {
            let _ = self.line.leave(ticket);
        } else {
            self.line.pass_over(ticket);
        }
        available > 0
    }

    /// Takes somebody out of the line. If he [was called](Left::Called), somebody else must be.
    pub fn leave(&mut self, ticket: Ticket) -> Left {
        self.line.leave(ticket)
    }

    /// Calls those for whom there is something; they must be woken.
    #[inline]
    #[must_use]
    pub fn summon(&mut self, available: usize) -> Vec<(Ticket, W)> {
        if self.has_called_all() { Vec::new() } else { self.call_some(available) }
    }

    fn call_some(&mut self, available: usize) -> Vec<(Ticket, W)> {
        let mut called = Vec::new();
        while self.line.called() < self.line.len().min(available) {
            called.extend(self.line.call());
        }
        called
    }

    /// Calls everybody, for everything is different now.
    #[must_use]
    pub fn summon_all(&mut self) -> Vec<(Ticket, W)> {
        self.summon(usize::MAX)
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&mut self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        self.line.dismiss(is_gone)
    }

    /// Those who wait, in order.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.line.iter()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_was_called_in_vain_is_not_forestalled_again() {
        let mut getters = Turnstile::default();
        let ticket = getters.join("a");
        assert_eq!(getters.summon(1).len(), 1);
        assert!(getters.admits(1), "the first time, whoever is there may be faster");
        assert!(!getters.come(0, ticket));
        assert_eq!(getters.summon(1).len(), 1);
        assert!(!getters.admits(1));
        assert!(getters.admits(2), "there is enough for both");
        assert!(getters.come(1, ticket));
        assert!(getters.admits(1));
    }

    #[test]
    fn who_leaves_after_a_call_has_the_next_one_called() {
        let mut getters = Turnstile::default();
        let first = getters.join("a");
        let second = getters.join("b");
        assert_eq!(getters.summon(1), [(first, "a")]);
        assert_eq!(getters.leave(first), Left::Called);
        assert_eq!(getters.summon(1), [(second, "b")]);
    }

    proptest! {
        /// Whatever four getters and a producer do, an item and somebody who waits uncalled never meet.
        #[test]
        fn nobody_sleeps_beside_an_item(steps in prop::collection::vec((0_usize..4, 0_usize..4), 1..80)) {
            let mut getters = Turnstile::default();
            let mut items = 0;
            let mut tickets = [None; 4];
            let mut awake = [false; 4];
            for (step, who) in steps {
                match (step, tickets[who]) {
                    (0, _) => items += 1,
                    (1, None) if getters.admits(items) => items -= 1,
                    (1, None) => tickets[who] = Some(getters.join(who)),
                    (2, Some(ticket)) if awake[who] => {
                        awake[who] = false;
                        if getters.come(items, ticket) {
                            items -= 1;
                            tickets[who] = None;
                        }
                    }
                    (3, Some(ticket)) => {
                        let _ = getters.leave(ticket);
                        (tickets[who], awake[who]) = (None, false);
                    }
                    _ => {}
                }
                for (_, called) in getters.summon(items) {
                    awake[called] = true;
                }
                let waiting = tickets.iter().flatten().count();
                let called = awake.iter().filter(|awake| **awake).count();
                prop_assert!(called >= waiting.min(items));
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;
    use crate::prim::{Arc, Mutex, lock};

    /// A queue of room for one: how many items, those who want one, those who have one to put.
    #[derive(Default)]
    struct Desk {
        items: usize,
        getters: Turnstile<Sleeper>,
        putters: Turnstile<Sleeper>,
    }

    impl Desk {
        fn side(&mut self, gets: bool) -> (&mut Turnstile<Sleeper>, usize) {
            if gets { (&mut self.getters, self.items) } else { (&mut self.putters, 1 - self.items) }
        }

        fn pass(&mut self, gets: bool) {
            if gets { self.items -= 1 } else { self.items += 1 }
        }

        fn wake(&mut self) {
            let (items, room) = (self.items, 1 - self.items);
            for (_, sleeper) in self.getters.summon(items).into_iter().chain(self.putters.summon(room)) {
                sleeper.wake();
            }
        }
    }

    /// Gets or puts an item, and waits for it.
    fn go(desk: &Mutex<Desk>, gets: bool) {
        let sleeper = Sleeper::new();
        let mut inner = lock(desk);
        let (side, available) = inner.side(gets);
        let mut is_through = side.admits(available);
        let ticket = (!is_through).then(|| side.join(sleeper.clone()));
        while let Some(ticket) = ticket.filter(|_| !is_through) {
            drop(inner);
            sleeper.sleep();
            inner = lock(desk);
            let (side, available) = inner.side(gets);
            is_through = side.come(available, ticket);
        }
        inner.pass(gets);
        inner.wake();
    }

    /// Wants an item, and gives up at once.
    fn look_in(desk: &Mutex<Desk>) {
        let ticket = {
            let mut inner = lock(desk);
            let (side, _) = inner.side(true);
            side.join(Sleeper::new())
        };
        let mut inner = lock(desk);
        let (side, _) = inner.side(true);
        if side.leave(ticket) == Left::Called {
            inner.wake();
        }
    }

    fn run(works: [fn(&Mutex<Desk>); 2]) -> usize {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let others = works.map(|work| {
            let desk = Arc::clone(&desk);
            thread::spawn(move || work(&desk))
        });
        go(&desk, true);
        others.into_iter().for_each(|other| other.join().unwrap());
        lock(&desk).items
    }

    /// A lost wake-up is a deadlock, which loom reports.
    #[test]
    fn loom_who_puts_and_who_gets_wait_for_each_other() {
        loom::model(|| {
            assert_eq!(run([|desk| go(desk, false), |desk| (go(desk, false), go(desk, true)).1]), 0)
        });
    }

    #[test]
    fn loom_who_gives_up_leaves_the_item_to_the_next() {
        loom::model(|| assert_eq!(run([|desk| go(desk, false), look_in]), 0));
    }
}
