//! Those who wait for something, in the order in which they came: the list under every primitive of `sync`.
//!
//! A [`Line`] is plain data, kept under its owner's lock. There are two ways out of it.
//!
//! - [`serve`](Line::serve) takes the first one out: he *has* what he waited for. He learns it by no longer
//!   [being there](Line::contains).
//! - [`call`](Line::call) leaves him in his place and only wakes him, to come and take it himself; meanwhile somebody
//!   who runs already may take it, which spares the two threads a switch. Who was called in vain is
//!   [passed over](Line::pass_over), and has to be served from then on: that bounds the unfairness.
//!
//! **Cancellation.** Who [leaves](Line::leave) learns what he takes with him: nothing, a call that the next one must get
//! in his stead, or, if he is no longer there, the very thing that he waited for.
//!
//! **Cost.** Tickets only grow, so a place is found by bisection however many wait.

use std::collections::VecDeque;

/// A place in one line. Never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Place<W> {
    ticket: Ticket,
    waiter: W,
    /// He is on his way.
    is_called: bool,
    /// He came in vain once.
    is_owed: bool,
}

/// What somebody who leaves a line leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Left {
    /// Nothing: he had only waited.
    Waiting,
    /// He had been called: somebody else must be.
    Called,
    /// He is not in the line: he was served.
    Served,
}

/// Waiters in the order in which they came.
#[derive(Debug)]
pub struct Line<W> {
    places: VecDeque<Place<W>>,
    next: u64,
    called: usize,
    owed: usize,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { places: VecDeque::new(), next: 0, called: 0, owed: 0 }
    }
}

impl<W> Line<W> {
    /// Puts somebody at the end.
    pub fn join(&mut self, waiter: W) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.places.push_back(Place { ticket, waiter, is_called: false, is_owed: false });
        ticket
    }

    /// Takes the first one out: he has what he waited for.
    pub fn serve(&mut self) -> Option<W> {
        let place = self.places.pop_front()?;
        self.forget(&place);
        Some(place.waiter)
    }

    /// Takes everybody out who waits now.
    pub fn serve_all(&mut self) -> Vec<W> {
        (self.called, self.owed) = (0, 0);
        self.places.drain(..).map(|place| place.waiter).collect()
    }

    /// Takes this one out, for whatever reason.
    pub fn leave(&mut self, ticket: Ticket) -> Left {
        let Some(position) = self.position(ticket) else { return Left::Served };
        let Some(place) = self.places.remove(position) else { return Left::Served };
        self.forget(&place);
        if place.is_called { Left::Called } else { Left::Waiting }
    }

    /// Takes out the first one who is `ready`, who has what he waited for.
    pub fn serve_first(&mut self, mut ready: impl FnMut(&W) -> bool) -> Option<W> {
        let position = self.places.iter().position(|place| ready(&place.waiter))?;
        let place = self.places.remove(position)?;
        self.forget(&place);
        Some(place.waiter)
    }

    /// Takes this one out and returns him, if he still waits; he had not been called.
    pub fn remove(&mut self, ticket: Ticket) -> Option<W> {
        let position = self.position(ticket)?;
        let place = self.places.remove(position)?;
        self.forget(&place);
        Some(place.waiter)
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&mut self, is_gone: impl Fn(&W) -> bool) -> Vec<W> {
        let (gone, left): (VecDeque<_>, VecDeque<_>) =
            self.places.drain(..).partition(|place| is_gone(&place.waiter));
        self.places = left;
        for place in &gone {
            self.forget(place);
        }
        gone.into_iter().map(|place| place.waiter).collect()
    }

    /// Takes note that a called one came in vain; the others are passed over in no sense.
    pub fn pass_over(&mut self, ticket: Ticket) {
        let Some(position) = self.position(ticket) else { return };
        let place = &mut self.places[position];
        if place.is_called {
            self.called -= 1;
            self.owed += usize::from(!place.is_owed);
            (place.is_called, place.is_owed) = (false, true);
        }
    }

    /// Whether this one still waits; otherwise he was served.
    #[must_use]
    pub fn contains(&self, ticket: Ticket) -> bool {
        self.position(ticket).is_some()
    }

    /// Whether somebody was called in vain, so that the first in line has to be served.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.owed > 0
    }

    /// How many were called and have not come yet.
    #[must_use]
    pub fn called(&self) -> usize {
        self.called
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The first in line, to be changed.
    pub fn first_mut(&mut self) -> Option<&mut W> {
        self.places.front_mut().map(|place| &mut place.waiter)
    }

    /// How many are in front of this one, and he himself, to be changed; if he still waits.
    pub fn find(&mut self, ticket: Ticket) -> Option<(usize, &mut W)> {
        let position = self.position(ticket)?;
        self.places.get_mut(position).map(|place| (position, &mut place.waiter))
    }

    /// The ticket of the first in line.
    #[must_use]
    pub fn first_ticket(&self) -> Option<Ticket> {
        self.places.front().map(|place| place.ticket)
    }

    /// The first in line.
    #[must_use]
    pub fn first(&self) -> Option<&W> {
        self.places.front().map(|place| &place.waiter)
    }

    /// Everybody who waits, in order.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.places.iter().map(|place| &place.waiter)
    }

    fn position(&self, ticket: Ticket) -> Option<usize> {
        // Nearly always it is the first one.
        if self.places.front().is_some_and(|place| place.ticket == ticket) {
            return Some(0);
        }
        self.places.binary_search_by_key(&ticket, |place| place.ticket).ok()
    }

    fn forget(&mut self, place: &Place<W>) {
        self.called -= usize::from(place.is_called);
        self.owed -= usize::from(place.is_owed);
    }
}

impl<W: Clone> Line<W> {
    /// Calls the first one who is not on his way; he keeps his place.
    pub fn call(&mut self) -> Option<(Ticket, W)> {
        let place = self.places.iter_mut().find(|place| !place.is_called)?;
        place.is_called = true;
        self.called += 1;
        Some((place.ticket, place.waiter.clone()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_is_the_first_to_be_served() {
        let mut line = Line::default();
        let tickets = ["a", "b", "c"].map(|name| line.join(name));
        assert_eq!(line.leave(tickets[1]), Left::Waiting);
        assert_eq!(line.serve(), Some("a"));
        assert!(!line.contains(tickets[0]));
        assert_eq!(line.serve(), Some("c"));
        assert_eq!(line.serve(), None);
    }

    #[test]
    fn a_call_goes_to_each_once_and_keeps_the_place() {
        let mut line = Line::default();
        let first = line.join("a");
        let second = line.join("b");
        assert_eq!(line.call(), Some((first, "a")));
        assert_eq!(line.call(), Some((second, "b")));
        assert_eq!(line.call(), None);
        assert_eq!((line.called(), line.len()), (2, 2));
    }

    #[test]
    fn who_leaves_learns_what_he_takes_with_him() {
        let mut line = Line::default();
        let tickets = ["a", "b"].map(|name| line.join(name));
        let _ = line.call();
        assert_eq!(line.leave(tickets[0]), Left::Called);
        assert_eq!(line.called(), 0);
        assert_eq!(line.serve(), Some("b"));
        assert_eq!(line.leave(tickets[1]), Left::Served);
    }

    #[test]
    fn only_who_was_called_in_vain_is_owed_something() {
        let mut line = Line::default();
        let tickets = ["a", "b"].map(|name| line.join(name));
        line.pass_over(tickets[0]);
        assert!(!line.owes());
        let _ = line.call();
        line.pass_over(tickets[0]);
        assert!(line.owes());
        assert_eq!(line.call(), Some((tickets[0], "a")), "he is still the first");
        assert!(line.owes());
        assert_eq!(line.serve(), Some("a"));
        assert!(!line.owes());
    }
}
