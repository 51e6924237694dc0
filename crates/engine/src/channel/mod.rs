//! Channels: items pass from those who send to those who receive, through a buffer of so many, or from hand to hand.
//!
//! Who comes second does it for both: whoever sends gives his item to the first receiver who waits, whoever receives
//! takes it from the buffer and lets the first sender who waits refill that, or takes it from him. So as long as the
//! lock is free, nobody waits to receive beside an item, nobody waits to send beside room, and no sender waits beside a
//! receiver.
//!
//! **Several channels.** Who waits for the first of several cases stands in the line of each with one [`Token`], under
//! whose lock at most one case is decided, once. If he who comes second stands in lines himself, both tokens are decided
//! together, locked in the order of their numbers; so of two who offer and seek crosswise neither gets two. A token that
//! is over is passed by until its owner takes it out of the lines.
//!
//! **Giving up.** [`Token::give_up`] says whether it came too late. An item that was given to somebody who has no use for
//! it any more goes [back](Channel::give_back), before all others.
//!
//! **Locks.** A channel's, then tokens'. Whatever leaves a channel is returned, to be dropped without its lock.

use std::collections::VecDeque;

use crate::line::{Line, Ticket};
use crate::prim::{Arc, Mutex, lock};

mod token;

use token::Settled;
pub use token::{Outcome, Token};

/// Somebody who stands in a line: with his item, if it is that of the senders.
#[derive(Debug)]
pub struct Place<T, W> {
    /// What is decided for him.
    pub token: Arc<Token<T>>,
    /// Which of his cases this is.
    pub case: usize,
    /// What he wants to send.
    pub item: Option<T>,
    /// Him.
    pub waiter: W,
}

/// What became of an item that somebody wants to send.
#[derive(Debug)]
#[must_use]
pub enum Sent<T, W> {
    /// It is in the channel, or a receiver has it, who must be woken: whoever cannot be has [given
    /// up](Token::give_up), and his item is to be sent again.
    Done(Option<Place<T, W>>),
    /// The channel is closed.
    Closed(T),
    /// There is no room, and nobody to take it.
    Full(T),
    /// Another case of the same token is decided.
    Over(T),
}

/// What somebody gets who wants to receive.
#[derive(Debug)]
#[must_use]
pub enum Received<T, W> {
    /// This; and a sender, whose item it is or is in the channel now, must be woken.
    Item(T, Option<Place<T, W>>),
    /// The channel is closed, and there is nothing left.
    Closed,
    /// There is nothing.
    Empty,
    /// Another case of the same token is decided.
    Over,
}

#[derive(Debug)]
struct Inner<T, W> {
    items: VecDeque<T>,
    is_closed: bool,
    senders: Line<Place<T, W>>,
    receivers: Line<Place<T, W>>,
}

/// Items, and those who wait at both ends.
#[derive(Debug)]
pub struct Channel<T, W> {
    capacity: usize,
    inner: Mutex<Inner<T, W>>,
}

impl<T, W> Channel<T, W> {
    /// A channel that holds so many items; none means that items pass from hand to hand.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let (senders, receivers) = (Line::default(), Line::default());
        let inner = Inner { items: VecDeque::new(), is_closed: false, senders, receivers };
        Self { capacity, inner: Mutex::new(inner) }
    }

    /// How many items it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many items are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.inner).items.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.inner).is_closed
    }

    /// Sends without waiting.
    #[inline]
    pub fn send(&self, item: T) -> Sent<T, W> {
        lock(&self.inner).send(self.capacity, item, None)
    }

    /// Receives without waiting.
    #[inline]
    pub fn receive(&self) -> Received<T, W> {
        lock(&self.inner).receive(self.capacity, None)
    }

    /// Sends, or waits with the item in line; whoever does not wait is returned as he came.
    ///
    /// # Errors
    /// What became of it if that needs no waiting, and the waiter.
    pub fn enter_sender(
        &self,
        token: &Arc<Token<T>>,
        case: usize,
        item: T,
        waiter: W,
    ) -> Result<Ticket, (Sent<T, W>, W)> {
        let mut inner = lock(&self.inner);
        match inner.send(self.capacity, item, Some(token)) {
            Sent::Full(item) => {
                let place = Place { token: Arc::clone(token), case, item: Some(item), waiter };
                Ok(inner.senders.join(place))
            }
            sent => Err((sent, waiter)),
        }
    }

    /// Receives, or waits in line.
    ///
    /// # Errors
    /// What became of it if that needs no waiting, and the waiter.
    pub fn enter_receiver(
        &self,
        token: &Arc<Token<T>>,
        case: usize,
        waiter: W,
    ) -> Result<Ticket, (Received<T, W>, W)> {
        let mut inner = lock(&self.inner);
        match inner.receive(self.capacity, Some(token)) {
            Received::Empty => {
                let place = Place { token: Arc::clone(token), case, item: None, waiter };
                Ok(inner.receivers.join(place))
            }
            received => Err((received, waiter)),
        }
    }

    /// Takes a sender out of the line, if he is there.
    #[must_use]
    pub fn leave_sender(&self, ticket: Ticket) -> Option<Place<T, W>> {
        lock(&self.inner).senders.remove(ticket)
    }

    /// Takes a receiver out of the line, if he is there.
    #[must_use]
    pub fn leave_receiver(&self, ticket: Ticket) -> Option<Place<T, W>> {
        lock(&self.inner).receivers.remove(ticket)
    }

    /// Takes an item back from somebody who gave up: it is the next one to come out, also of a channel that is closed
    /// meanwhile. Returns a receiver who waits and has it now: he must be woken.
    #[must_use]
    pub fn give_back(&self, item: T) -> Option<Place<T, W>> {
        let mut inner = lock(&self.inner);
        match inner.hand_over(item, None) {
            Ok(receiver) => Some(receiver),
            Err((item, _)) => {
                inner.items.push_front(item);
                None
            }
        }
    }

    /// Lets nobody send any more, and nobody wait. Returns those who did: they must be woken.
    #[must_use]
    pub fn close(&self) -> Vec<Place<T, W>> {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        let mut waiting = inner.senders.serve_all();
        waiting.extend(inner.receivers.serve_all());
        drop(inner);
        for place in &waiting {
            // Whose token is over is woken for nothing, or has been woken.
            let _ = Token::settle(None, &place.token, place.case, || Outcome::Closed);
        }
        waiting
    }

    /// Takes out those who are gone without having left.
    pub fn dismiss(&self, is_gone: impl Fn(&W) -> bool) -> Vec<Place<T, W>> {
        let mut inner = lock(&self.inner);
        let mut gone = inner.senders.dismiss(|place| is_gone(&place.waiter));
        gone.extend(inner.receivers.dismiss(|place| is_gone(&place.waiter)));
        gone
    }

    /// Takes out everything and everybody, whom nobody will wake any more.
    pub fn clear(&self) -> (Vec<T>, Vec<Place<T, W>>) {
        let mut inner = lock(&self.inner);
        let mut waiting = inner.senders.serve_all();
        waiting.extend(inner.receivers.serve_all());
        (inner.items.drain(..).collect(), waiting)
    }

    /// Looks at every item and everybody who waits, until an error. `look` must not call out.
    ///
    /// # Errors
    /// The first one of either.
    pub fn look<E>(
        &self,
        at_item: impl Fn(&T) -> Result<(), E>,
        at_waiter: impl Fn(&W) -> Result<(), E>,
    ) -> Result<(), E> {
        let inner = lock(&self.inner);
        inner.items.iter().try_for_each(&at_item)?;
        inner.senders.iter().chain(inner.receivers.iter()).try_for_each(|place| {
            place.item.as_ref().map_or(Ok(()), &at_item)?;
            at_waiter(&place.waiter)
        })
    }
}

impl<T, W> Inner<T, W> {
    fn send(&mut self, capacity: usize, item: T, mine: Option<&Token<T>>) -> Sent<T, W> {
        if self.is_closed {
            return if Token::proceed(mine) { Sent::Closed(item) } else { Sent::Over(item) };
        }
        match self.hand_over(item, mine) {
            Ok(receiver) => Sent::Done(Some(receiver)),
            Err((item, true)) => Sent::Over(item),
            Err((item, false)) if self.items.len() >= capacity => Sent::Full(item),
            Err((item, false)) if !Token::proceed(mine) => Sent::Over(item),
            Err((item, false)) => {
                self.items.push_back(item);
                Sent::Done(None)
            }
        }
    }

    /// Gives an item to the first receiver who waits; otherwise it is returned, with whether `mine` is over.
    fn hand_over(&mut self, item: T, mine: Option<&Token<T>>) -> Result<Place<T, W>, (T, bool)> {
        let (mut item, mut is_over) = (Some(item), false);
        let receiver = self.receivers.serve_first(|place| {
            let outcome = || Outcome::Received(item.take().expect("is given to one"));
            if is_over {
                return false;
            }
            let settled = Token::settle(mine, &place.token, place.case, outcome);
            is_over = settled == Settled::MineIsOver;
            settled == Settled::Both
        });
        receiver.ok_or_else(|| (item.expect("nobody took it"), is_over))
    }

    fn receive(&mut self, capacity: usize, mine: Option<&Token<T>>) -> Received<T, W> {
        if !self.items.is_empty() {
            if !Token::proceed(mine) {
                return Received::Over;
            }
            let Some(item) = self.items.pop_front() else { return Received::Empty };
            let refill = if self.items.len() < capacity { self.release_sender(None).ok() } else { None };
            return match refill {
                Some((sender, sent)) => {
                    self.items.push_back(sent);
                    Received::Item(item, Some(sender))
                }
                None => Received::Item(item, None),
            };
        }
        match self.release_sender(mine) {
            Ok((sender, item)) => Received::Item(item, Some(sender)),
            Err(true) => Received::Over,
            Err(false) if self.is_closed && Token::proceed(mine) => Received::Closed,
            Err(false) if self.is_closed => Received::Over,
            Err(false) => Received::Empty,
        }
    }

    /// Takes the item of the first sender who waits; otherwise says whether `mine` is over.
    fn release_sender(&mut self, mine: Option<&Token<T>>) -> Result<(Place<T, W>, T), bool> {
        let mut is_over = false;
        let sender = self.senders.serve_first(|place| {
            if is_over {
                return false;
            }
            let settled = Token::settle(mine, &place.token, place.case, || Outcome::Sent);
            is_over = settled == Settled::MineIsOver;
            settled == Settled::Both
        });
        let Some(mut sender) = sender else { return Err(is_over) };
        let item = sender.item.take().expect("a sender waits with his item");
        Ok((sender, item))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
