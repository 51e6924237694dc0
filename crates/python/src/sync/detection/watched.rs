//! What a primitive tells the detection.
//!
//! A wait is told before its place in the line is taken, and withdrawn after that is left; a lock is let go here before it
//! is let go. So whatever is found in the graph is so: nobody in a cycle can have moved on meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use manyhands_engine::deadlock::orders::Class;
use manyhands_engine::deadlock::waits::{Manner, Thing, Who};
use manyhands_engine::line::Ticket;
use pyo3::prelude::*;

use super::state::{What, state};
use super::{call, check_order, is_on, threads};
use crate::sync::waiting::Waiter;
use crate::sync::who;

static NEXT_THING: AtomicU64 = AtomicU64::new(1);
/// Sets the classes of what has no known birthplace apart from the others.
const NAMELESS: u64 = 1 << 63;

/// A primitive as the detection knows it; nothing as long as that is off.
pub(crate) struct Watched {
    noun: &'static str,
    /// 0: not known yet.
    thing: AtomicU64,
    /// Where it was made; 0: not known.
    class: AtomicU64,
}

impl Watched {
    /// Something of that kind that the running Python code makes.
    pub(crate) fn new(noun: &'static str) -> Self {
        let watched = Self { noun, thing: AtomicU64::new(0), class: AtomicU64::new(0) };
        if is_on() {
            Python::attach(|py| watched.name_birthplace(py));
        }
        watched
    }

    #[cold]
    fn name_birthplace(&self, py: Python<'_>) {
        let site = call(py, "here", ()).and_then(|site| site.extract::<String>());
        if let Ok(site) = site {
            self.class.store(state().class_of(&site).0, Ordering::Relaxed);
        }
    }

    pub(super) fn thing(&self) -> Thing {
        let known = self.thing.load(Ordering::Relaxed);
        if known != 0 {
            return Thing(known);
        }
        let new = NEXT_THING.fetch_add(1, Ordering::Relaxed);
        let named = self.thing.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
        Thing(named.map_or_else(|known| known, |_| new))
    }

    /// What it has in common with others of its kind: those without a birthplace have nothing.
    pub(super) fn class(&self) -> Class {
        match self.class.load(Ordering::Relaxed) {
            0 => Class(self.thing().0 | NAMELESS),
            class => Class(class),
        }
    }

    /// The caller has taken it, without waiting. With `is_bound`, it would have waited, so the order counts.
    ///
    /// # Errors
    /// The warning about an order that contradicts another, where warnings are errors. The caller has the lock.
    #[cold]
    pub(crate) fn taken(&self, py: Python<'_>, taker: u64, is_bound: bool) -> PyResult<()> {
        threads::remember(py);
        let (thing, class, who) = (self.thing(), self.class(), Who(taker));
        let is_in_order = {
            let mut state = state();
            let is_in_order = !is_bound || state.is_in_order(who, thing, class);
            state.hold(who, who::this_thread(), thing, class);
            is_in_order
        };
        if is_in_order { Ok(()) } else { check_order(py, who, thing, class) }
    }

    /// The order in which that one, who has taken it already, would have waited for it.
    #[cold]
    pub(crate) fn order(&self, taker: u64) -> Order {
        Order { taker: Who(taker), thing: self.thing(), class: self.class() }
    }

    /// A wait of somebody, if he wants to read behind those who want to write, to be begun without any lock.
    #[cold]
    pub(crate) fn wait(&self, waiter: &Waiter, ahead: Option<Vec<u64>>) -> Wait {
        let ahead = ahead.map(|ahead| ahead.into_iter().map(Who).collect());
        Wait { noun: self.noun, order: self.order(waiter.who()), manner: waiter.manner(), ahead }
    }

    /// Somebody is about to wait for it.
    ///
    /// # Errors
    /// `DeadlockError` if the wait would never end; what `taken` raises. The caller must not wait then.
    #[cold]
    pub(crate) fn waits(&self, py: Python<'_>, waiter: u64, manner: Manner) -> PyResult<()> {
        Wait { noun: self.noun, order: self.order(waiter), manner, ahead: None }.begin(py)
    }

    /// Somebody is about to wait to be notified of a condition, whose lock this is, and which he needs to go on.
    #[cold]
    pub(crate) fn waits_for_condition(&self, py: Python<'_>, waiter: u64, condition: &Self) {
        threads::remember(py);
        let what = What::Made(condition.noun, condition.class());
        // Who is stubborn is told of nothing.
        let _ = super::begin(py, Who(waiter), what, self.thing(), Manner::Stubborn);
    }

    /// Somebody is about to wait for one of so many permits.
    ///
    /// # Errors
    /// `DeadlockError` if the wait would never end. The caller must not wait then.
    #[cold]
    pub(crate) fn waits_for_permit(
        &self,
        py: Python<'_>,
        waiter: u64,
        manner: Manner,
        most: usize,
    ) -> PyResult<()> {
        threads::remember(py);
        let thing = self.thing();
        state().set_permits(thing, most);
        super::begin(py, Who(waiter), What::Made(self.noun, self.class()), thing, manner)
    }

    /// He does not wait any more.
    #[cold]
    pub(crate) fn stops(waiter: u64) {
        super::stops(waiter);
    }

    /// Somebody waits at this place in the line.
    #[cold]
    pub(crate) fn joins(&self, ticket: Ticket, waiter: u64) {
        state().join((self.thing(), ticket), Who(waiter));
    }

    /// Who waited at this place in the line does not any more; with `has_it`, because it is his.
    #[cold]
    pub(crate) fn leaves(&self, ticket: Ticket, has_it: bool) {
        let Some(who) = self.left(ticket) else { return };
        Self::stops(who);
        if has_it {
            self.owned(who, who::this_thread());
        }
    }

    /// Who waited at this place in the line, which is not his any more.
    #[cold]
    pub(crate) fn left(&self, ticket: Ticket) -> Option<u64> {
        state().leave_place((self.thing(), ticket)).map(|who| who.0)
    }

    /// It is given to somebody who waits, or has just come.
    #[cold]
    pub(crate) fn handed(&self, heir: &Waiter) {
        self.owned(heir.who(), heir.thread_number());
    }

    /// Somebody, of that thread, has it alone.
    #[cold]
    pub(crate) fn owned(&self, who: u64, thread: u64) {
        let (thing, class) = (self.thing(), self.class());
        state().hold(Who(who), thread, thing, class);
    }

    /// Whoever has it is about to let go of it.
    #[cold]
    pub(crate) fn given(&self) {
        state().let_go(self.thing());
    }

    /// The calling thread has a permit of it. Its order among locks does not count: the next one may have another permit.
    #[cold]
    pub(crate) fn permitted(&self, py: Python<'_>) {
        threads::remember(py);
        state().permit(Who(who::this_thread()), self.thing());
    }

    /// Somebody, of that thread, has it together with others.
    #[cold]
    pub(crate) fn shared(&self, who: u64, thread: u64) {
        let (thing, class) = (self.thing(), self.class());
        state().share(Who(who), thread, thing, class);
    }

    /// He is about to share it no more.
    #[cold]
    pub(crate) fn unshared(&self, who: u64) {
        state().leave(Who(who), self.thing());
    }
}

/// Something taken, among all that its taker has.
pub(crate) struct Order {
    taker: Who,
    thing: Thing,
    class: Class,
}

impl Order {
    /// # Errors
    /// The warning about an order that contradicts another, where warnings are errors.
    pub(crate) fn check(&self, py: Python<'_>) -> PyResult<()> {
        threads::remember(py);
        check_order(py, self.taker, self.thing, self.class)
    }
}

/// A wait that is about to begin.
pub(crate) struct Wait {
    noun: &'static str,
    order: Order,
    manner: Manner,
    ahead: Option<Vec<Who>>,
}

impl Wait {
    /// # Errors
    /// `DeadlockError` if it would never end; what [`Order::check`] raises. The caller must not wait then.
    pub(crate) fn begin(self, py: Python<'_>) -> PyResult<()> {
        threads::remember(py);
        let Order { taker, thing, class } = self.order;
        if let Some(ahead) = self.ahead {
            state().queue_behind(taker, ahead);
        }
        super::begin(py, taker, What::Made(self.noun, class), thing, self.manner)?;
        if self.manner == Manner::Stubborn {
            return Ok(());
        }
        self.order.check(py).inspect_err(|_| super::stops(taker.0))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if is_on() && self.thing.load(Ordering::Relaxed) != 0 {
            state().forget(self.thing());
        }
    }
}
