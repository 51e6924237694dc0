//! Readers and writers: many who read at a time, or one who writes.
//!
//! Everybody waits in one line and is served in the order in which he came; readers who stand side by side are served
//! together. Whoever comes while somebody waits takes his place behind him, a reader too: so neither readers nor
//! writers starve.
//!
//! This is plain data, kept under its owner's lock.

use crate::line::{Left, Line, Ticket};

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// To be there together with other readers.
    Read,
    /// To be there alone.
    Write,
}

/// Nobody is there in that mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotThere;

/// Who is there, and who waits.
#[derive(Debug)]
pub struct Passage<W> {
    readers: usize,
    is_written: bool,
    line: Line<(Mode, W)>,
}

impl<W> Default for Passage<W> {
    fn default() -> Self {
        Self { readers: 0, is_written: false, line: Line::default() }
    }
}

impl<W> Passage<W> {
    /// Lets somebody in who has just come, if that needs no waiting.
    #[must_use]
    pub fn try_enter(&mut self, mode: Mode) -> bool {
        self.line.is_empty() && self.admit(mode)
    }

    /// Lets somebody in, or gives him a place in the line.
    pub fn enter(&mut self, mode: Mode, waiter: W) -> Option<Ticket> {
        if self.try_enter(mode) { None } else { Some(self.line.join((mode, waiter))) }
    }

    /// Whether the one with this ticket still waits; otherwise he is there.
    #[must_use]
    pub fn waits(&self, ticket: Ticket) -> bool {
        self.line.contains(ticket)
    }

    /// Takes somebody out of the line. `None`: he is there already. Otherwise these are there now, to be woken.
    pub fn give_up(&mut self, ticket: Ticket) -> Option<Vec<(Mode, W)>> {
        match self.line.leave(ticket) {
            Left::Served => None,
            Left::Waiting | Left::Called => Some(self.serve()),
        }
    }

    /// Lets somebody out; these are there now, to be woken.
    ///
    /// # Errors
    /// [`NotThere`] if nobody is.
    pub fn exit(&mut self, mode: Mode) -> Result<Vec<(Mode, W)>, NotThere> {
        match mode {
            Mode::Read if self.readers > 0 => self.readers -= 1,
            Mode::Write if self.is_written => self.is_written = false,
            Mode::Read | Mode::Write => return Err(NotThere),
        }
        Ok(self.serve())
    }

    /// How many read.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.readers
    }

    /// Whether somebody writes.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.is_written
    }

    /// Those who wait, in order.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.line.iter().map(|(_, waiter)| waiter)
    }

    /// Those who wait to write, in order.
    pub fn writers(&self) -> impl Iterator<Item = &W> {
        self.line.iter().filter(|(mode, _)| *mode == Mode::Write).map(|(_, waiter)| waiter)
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&mut self, is_gone: impl Fn(&W) -> bool) -> Vec<(Mode, W)> {
        self.line.dismiss(|(_, waiter)| is_gone(waiter))
    }

    fn admit(&mut self, mode: Mode) -> bool {
        let is_free = !self.is_written && (mode == Mode::Read || self.readers == 0);
        match mode {
            _ if !is_free => {}
            Mode::Read => self.readers += 1,
            Mode::Write => self.is_written = true,
        }
        is_free
    }

    fn serve(&mut self) -> Vec<(Mode, W)> {
        let mut served = Vec::new();
        while let Some(&(mode, _)) = self.line.first()
            && self.admit(mode)
        {
            served.extend(self.line.serve());
        }
        served
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(served: Vec<(Mode, char)>) -> String {
        served.into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn readers_are_there_together_and_a_writer_alone() {
        let mut passage = Passage::<char>::default();
        assert!(passage.try_enter(Mode::Read));
        assert!(passage.try_enter(Mode::Read));
        assert!(!passage.try_enter(Mode::Write));
        assert_eq!(passage.exit(Mode::Read).map(names), Ok(String::new()));
        assert_eq!(passage.exit(Mode::Read).map(names), Ok(String::new()));
        assert_eq!(passage.exit(Mode::Read).map(names), Err(NotThere));
        assert!(passage.try_enter(Mode::Write));
        assert!(!passage.try_enter(Mode::Read));
    }

    #[test]
    fn a_waiting_writer_is_before_readers_who_come_later() {
        let mut passage = Passage::default();
        assert!(passage.try_enter(Mode::Read));
        let writer = passage.enter(Mode::Write, 'w').expect("somebody reads");
        passage.enter(Mode::Read, 'a').expect("a writer waits");
        passage.enter(Mode::Read, 'b').expect("a writer waits");
        passage.enter(Mode::Write, 'v').expect("others wait");
        assert_eq!(passage.exit(Mode::Read).map(names), Ok("w".into()));
        assert!(!passage.waits(writer));
        assert_eq!(passage.exit(Mode::Write).map(names), Ok("ab".into()));
    }

    #[test]
    fn a_writer_who_gives_up_lets_the_readers_behind_him_in() {
        let mut passage = Passage::default();
        assert!(passage.try_enter(Mode::Read));
        let writer = passage.enter(Mode::Write, 'w').expect("somebody reads");
        passage.enter(Mode::Read, 'a').expect("a writer waits");
        assert_eq!(passage.give_up(writer).map(names), Some("a".into()));
        assert_eq!(passage.readers(), 2);
    }

    proptest! {
        /// Whatever comes and goes, nobody is there beside a writer, and the first in line could not be let in.
        #[test]
        fn everybody_is_served_who_can_be(steps in prop::collection::vec((0_u8..4, any::<bool>(), 0_usize..9), 1..80)) {
            let mut passage = Passage::default();
            let mut waiting: Vec<(Ticket, Mode)> = Vec::new();
            for (step, reads, which) in steps {
                let mode = if reads { Mode::Read } else { Mode::Write };
                match step {
                    0 | 1 => waiting.extend(passage.enter(mode, ()).map(|ticket| (ticket, mode))),
                    2 => drop(passage.exit(mode)),
                    _ if !waiting.is_empty() => drop(passage.give_up(waiting[which % waiting.len()].0)),
                    _ => {}
                }
                waiting.retain(|(ticket, _)| passage.waits(*ticket));
                prop_assert!(!(passage.is_written() && passage.readers() > 0));
                if let Some((_, first)) = waiting.first() {
                    let is_free = !passage.is_written() && (*first == Mode::Read || passage.readers() == 0);
                    prop_assert!(!is_free, "the first in line could be let in");
                }
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::permits::sleeper::Sleeper;
    use crate::prim::atomic::{AtomicUsize, Ordering};
    use crate::prim::{Arc, Mutex, lock};

    type Shared = (Mutex<Passage<Sleeper>>, AtomicUsize);

    fn wake(served: Vec<(Mode, Sleeper)>) {
        served.into_iter().for_each(|(_, sleeper)| sleeper.wake());
    }

    fn enter((passage, _): &Shared, mode: Mode) {
        let sleeper = Sleeper::new();
        let ticket = lock(passage).enter(mode, sleeper.clone());
        while ticket.is_some_and(|ticket| lock(passage).waits(ticket)) {
            sleeper.sleep();
        }
    }

    fn exit((passage, _): &Shared, mode: Mode) {
        let served = lock(passage).exit(mode).expect("he was there");
        wake(served);
    }

    fn write(shared: &Shared) {
        enter(shared, Mode::Write);
        let seen = shared.1.load(Ordering::Relaxed);
        shared.1.store(seen + 1, Ordering::Relaxed);
        exit(shared, Mode::Write);
    }

    fn read(shared: &Shared) {
        enter(shared, Mode::Read);
        let seen = shared.1.load(Ordering::Relaxed);
        assert_eq!(shared.1.load(Ordering::Relaxed), seen, "somebody writes meanwhile");
        exit(shared, Mode::Read);
    }

    /// Wants to write, and gives up unless he may at once.
    fn look_in(shared: &Shared) {
        let ticket = lock(&shared.0).enter(Mode::Write, Sleeper::new());
        let left = ticket.map(|ticket| lock(&shared.0).give_up(ticket));
        match left {
            Some(Some(served)) => wake(served),
            Some(None) | None => exit(shared, Mode::Write),
        }
    }

    fn run(works: [fn(&Shared); 2], mine: fn(&Shared)) -> usize {
        let shared = Arc::new((Mutex::new(Passage::default()), AtomicUsize::new(0)));
        let others = works.map(|work| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        });
        mine(&shared);
        others.into_iter().for_each(|other| other.join().unwrap());
        shared.1.load(Ordering::Relaxed)
    }

    /// A lost wake-up is a deadlock, which loom reports; two writers at a time are a wrong sum.
    #[test]
    fn loom_a_writer_is_alone_and_nobody_sleeps_for_ever() {
        loom::model(|| assert_eq!(run([write, read], write), 2));
    }

    #[test]
    fn loom_a_writer_who_gives_up_lets_the_others_in() {
        let mut model = loom::model::Builder::new();
        // One reads, one waits to write, one comes and waits behind him, and all that before the second gives up.
        model.preemption_bound = Some(4);
        model.check(|| assert_eq!(run([look_in, read], read), 0));
    }
}
