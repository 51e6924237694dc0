//! A [rate](crate::rate) that many keep together: they pass in the order in which they came, and wait for their time.
//!
//! Nobody gives permits out. Whoever waits looks by himself when his turn is due; whoever looks lets everybody before him
//! pass who is due, so that one who is late, because his event loop is busy, holds up nobody.
//!
//! **Invariant**, whenever the lock is free: the first in line looks by himself no later than the rate lets him pass, or
//! has just been returned to be woken. Those behind him may mean to look later than they need, after somebody gave up; when
//! one of them gets to the front, he is woken to reckon anew.
//!
//! **Giving up.** Who was let pass and has no use for it gives his call back, and it is as if he had never come, as long as
//! nobody has passed after him; his time has passed unused otherwise.

use crate::clock::Tick;
use crate::line::{Left, Line, Ticket};
use crate::prim::{Mutex, lock};
use crate::rate::{Gcra, Rate};

/// What somebody has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// To go on: he has passed.
    Passes,
    /// To look again at this time, or when he is woken.
    Waits(Ticket, Tick),
}

#[derive(Debug)]
struct Sleeper<W> {
    waiter: W,
    /// When he looks by himself.
    until: Tick,
}

#[derive(Debug)]
struct Inner<W> {
    limiter: Gcra,
    line: Line<Sleeper<W>>,
    /// The last one who was let pass out of the line, if nobody has passed since, and how it was before.
    latest: Option<(Ticket, Gcra)>,
}

/// A rate, and those who wait for it.
#[derive(Debug)]
pub struct Pacer<W> {
    inner: Mutex<Inner<W>>,
}

impl<W: Clone> Pacer<W> {
    /// Nobody has passed yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let inner = Inner { limiter: Gcra::new(rate), line: Line::default(), latest: None };
        Self { inner: Mutex::new(inner) }
    }

    /// Whether somebody who has just come passes at once; and who must be woken.
    #[must_use]
    pub fn try_pass(&self, now: Tick) -> (bool, Vec<W>) {
        let mut inner = lock(&self.inner);
        let wakes = inner.advance(now, None);
        (inner.pass(now), wakes)
    }

    /// Somebody comes; returns what he has to do, and who must be woken.
    pub fn enter(&self, now: Tick, waiter: W) -> (Turn, Vec<W>) {
        let mut inner = lock(&self.inner);
        let wakes = inner.advance(now, None);
        if inner.pass(now) {
            return (Turn::Passes, wakes);
        }
        let until = inner.limiter.after(inner.line.len());
        let ticket = inner.line.join(Sleeper { waiter, until });
        (Turn::Waits(ticket, until), wakes)
    }

    /// Somebody who waits looks; returns what he has to do, and who must be woken.
    pub fn poll(&self, now: Tick, ticket: Ticket) -> (Turn, Vec<W>) {
        let mut inner = lock(&self.inner);
        let wakes = inner.advance(now, Some(ticket));
        let Inner { limiter, line, .. } = &mut *inner;
        let Some((ahead, sleeper)) = line.find(ticket) else { return (Turn::Passes, wakes) };
        sleeper.until = limiter.after(ahead);
        (Turn::Waits(ticket, sleeper.until), wakes)
    }

    /// Takes somebody out of the line who gives up; returns whether he had passed, and who must be woken.
    #[must_use]
    pub fn leave(&self, now: Tick, ticket: Ticket) -> (bool, Vec<W>) {
        let mut inner = lock(&self.inner);
        let has_passed = inner.line.leave(ticket) == Left::Served;
        (has_passed, inner.advance(now, None))
    }

    /// Takes the call back of somebody who has passed and has no use for it; returns who must be woken.
    #[must_use]
    pub fn give_back(&self, now: Tick, ticket: Ticket) -> Vec<W> {
        let mut inner = lock(&self.inner);
        match inner.latest.take() {
            Some((latest, before)) if latest == ticket => inner.limiter = before,
            other => inner.latest = other,
        }
        inner.advance(now, None)
    }

    /// The earliest time at which somebody who comes now would pass.
    #[must_use]
    pub fn next(&self) -> Tick {
        let inner = lock(&self.inner);
        inner.limiter.after(inner.line.len())
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.inner).line.len()
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        let gone = lock(&self.inner).line.dismiss(|sleeper| is_gone(&sleeper.waiter));
        gone.into_iter().map(|sleeper| sleeper.waiter).collect()
    }

    /// Looks at those who wait, in order. `look` must not call out.
    pub fn for_each_waiter(&self, mut look: impl FnMut(&W)) {
        lock(&self.inner).line.iter().for_each(|sleeper| look(&sleeper.waiter));
    }
}

impl<W: Clone> Inner<W> {
    /// Lets somebody pass who does not stand in line, if nobody else does.
    fn pass(&mut self, now: Tick) -> bool {
        let passes = self.line.is_empty() && self.limiter.try_acquire(now).is_ok();
        if passes {
            self.latest = None;
        }
        passes
    }

    /// Lets everybody pass who is due, and sees to it that the next one looks in time; `mine` is awake.
    fn advance(&mut self, now: Tick, mine: Option<Ticket>) -> Vec<W> {
        let mut wakes = Vec::new();
        while let Some(ticket) = self.line.first_ticket() {
            let before = self.limiter.clone();
            if self.limiter.try_acquire(now).is_err() {
                break;
            }
            self.latest = Some((ticket, before));
            let served = self.line.serve().filter(|_| mine != Some(ticket));
            wakes.extend(served.map(|sleeper| sleeper.waiter));
        }
        let (next, is_awake) = (self.limiter.next(), self.line.first_ticket() == mine);
        if let Some(first) = self.line.first_mut()
            && first.until > next
            && !is_awake
        {
            first.until = next;
            wakes.push(first.waiter.clone());
        }
        wakes
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
