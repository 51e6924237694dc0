//! What lies under a queue's lock.

use std::collections::VecDeque;

use manyhands_engine::line::{Left, Line, Ticket};
use manyhands_engine::turnstile::Turnstile;
use pyo3::prelude::*;

use super::super::waiting::Waiter;

/// Those who are to be woken.
pub(crate) type Calls = Vec<(Ticket, Waiter)>;

/// Who asks.
pub(crate) enum Caller {
    /// He does not wait, or not yet.
    Fresh,
    /// He takes a place in the line if he does not get through.
    Joins(Waiter),
    /// He comes from his place in the line.
    Waits(Ticket),
}

/// What became of him.
pub(crate) enum Step<G> {
    Through(G),
    Waits(Ticket),
    /// He was fresh, and does not get through.
    No,
}

/// The items, and who waits.
pub(crate) struct Desk {
    pub(crate) items: VecDeque<Py<PyAny>>,
    /// How many items there are, here or where a subclass keeps them.
    pub(crate) size: usize,
    /// At most so many; any number if it is not positive.
    pub(crate) maxsize: isize,
    pub(crate) unfinished: usize,
    pub(crate) is_shut_down: bool,
    pub(crate) getters: Turnstile<Waiter>,
    pub(crate) putters: Turnstile<Waiter>,
    pub(crate) joiners: Line<Waiter>,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            items: VecDeque::new(),
            size: 0,
            maxsize: 0,
            unfinished: 0,
            is_shut_down: false,
            getters: Turnstile::default(),
            putters: Turnstile::default(),
            joiners: Line::default(),
        }
    }

    /// For how many more items there is room.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        match usize::try_from(self.maxsize) {
            Ok(most) if most > 0 => most.saturating_sub(self.size),
            _ => usize::MAX,
        }
    }

    /// Whether nobody gets anything any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_shut_down && self.size == 0
    }

    /// Whether this one may take an item; whoever may not and waits has a place in the line then.
    #[inline]
    pub(crate) fn admit_getter(&mut self, caller: Caller) -> Step<()> {
        admit(&mut self.getters, self.size, caller)
    }

    /// Whether this one may put an item.
    #[inline]
    pub(crate) fn admit_putter(&mut self, caller: Caller) -> Step<()> {
        let room = self.room();
        admit(&mut self.putters, room, caller)
    }

    /// Takes a getter out of the line; returns who is to be woken in his stead.
    pub(crate) fn dismiss_getter(&mut self, ticket: Ticket) -> Calls {
        if self.getters.leave(ticket) == Left::Called { self.call_getters() } else { Calls::new() }
    }

    /// Takes a putter out of the line; returns who is to be woken in his stead.
    pub(crate) fn dismiss_putter(&mut self, ticket: Ticket) -> Calls {
        if self.putters.leave(ticket) == Left::Called { self.call_putters() } else { Calls::new() }
    }

    #[inline]
    pub(crate) fn call_getters(&mut self) -> Calls {
        self.getters.summon(self.size)
    }

    #[inline]
    pub(crate) fn call_putters(&mut self) -> Calls {
        let room = self.room();
        self.putters.summon(room)
    }

    /// Everybody who waits.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.getters.iter().chain(self.putters.iter()).chain(self.joiners.iter())
    }
}

#[inline]
fn admit(turnstile: &mut Turnstile<Waiter>, available: usize, caller: Caller) -> Step<()> {
    match caller {
        Caller::Waits(ticket) if turnstile.come(available, ticket) => Step::Through(()),
        Caller::Waits(ticket) => Step::Waits(ticket),
        _ if turnstile.admits(available) => Step::Through(()),
        Caller::Joins(waiter) => Step::Waits(turnstile.join(waiter)),
        Caller::Fresh => Step::No,
    }
}
