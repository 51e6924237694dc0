//! The class of channels, as Python sees it.

use manyhands_engine::channel::{self, Outcome, Received, Sent};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::super::awaiting::Awaiting;
use super::super::patience::Patience;
use super::super::waiting::block;
use super::super::who::Generation;
use super::candidate::{Item, Person, Place};
use super::choice::{Case, Cases, Choice, Wish, awaiting, closed_to_receivers, closed_to_senders};
use crate::error;

/// What threads and asyncio tasks send to one another: items come out in the order in which they went in, until it is closed.
///
/// With a capacity of 0, an item passes from hand to hand: ``send`` waits until somebody receives it. Otherwise so many
/// items wait in the channel, and ``send`` waits only for room. Those who wait, at either end, are served in order.
///
/// ``close`` says that nothing more will be sent. What is in the channel still comes out; then ``receive`` raises
/// `ChannelClosed`, and ``for item in channel:`` and ``async for item in channel:`` end.
///
/// A thread uses ``send`` and ``receive``, a coroutine ``await channel.asend(item)`` and ``await channel.areceive()``. Who
/// gives up waiting takes no item along: one that he was given in that moment goes to the next. A ``send`` that is given
/// up in the very moment in which its item is taken has sent it.
///
/// Args:
///     capacity: How many items it holds (int ≥ 0).
///
/// Raises:
///     ValueError: `capacity` is negative.
///
/// Thread safety: every method may be called from any thread, and from any event loop.
///
/// Example:
///     >>> import asyncio, threading
///     >>> from manyhands.sync import Channel
///     >>> numbers = Channel()
///     >>> def count():
///     ...     for number in range(3):
///     ...         numbers.send(number)
///     ...     numbers.close()
///     >>> async def collect():
///     ...     return [number async for number in numbers]
///     >>> threading.Thread(target=count).start()
///     >>> asyncio.run(collect())
///     [0, 1, 2]
///
/// Source: the channels of Go, and of Hoare's "Communicating Sequential Processes".
#[pyclass(frozen, subclass, weakref, generic, module = "manyhands.sync")]
pub(crate) struct Channel {
    core: channel::Channel<Item, Person>,
    generation: Generation,
}

impl Channel {
    pub(crate) fn core(&self) -> &channel::Channel<Item, Person> {
        if self.generation.has_passed() {
            // Not dropped: what they refer to was another process's, and this is no place to drop it.
            std::mem::forget(self.core.dismiss(Person::is_gone));
        }
        &self.core
    }

    /// Sends without waiting, if that is possible.
    #[inline]
    pub(crate) fn try_send(&self, py: Python<'_>, item: Item) -> Option<Outcome<Item>> {
        let sent = self.core().send(item);
        self.sent(py, sent)
    }

    /// Receives without waiting, if that is possible.
    #[inline]
    pub(crate) fn try_receive(&self, py: Python<'_>) -> Option<Outcome<Item>> {
        let received = self.core().receive();
        self.received(py, received)
    }

    /// What became of an item, after whoever has it was woken.
    pub(crate) fn sent(&self, py: Python<'_>, sent: Sent<Item, Person>) -> Option<Outcome<Item>> {
        match sent {
            Sent::Done(receiver) => {
                self.wake_receiver(py, receiver);
                Some(Outcome::Sent)
            }
            Sent::Closed(_) => Some(Outcome::Closed),
            Sent::Full(_) | Sent::Over(_) => None,
        }
    }

    /// What came out, after whoever sent it was woken.
    #[expect(clippy::unused_self, reason = "the other side's twin")]
    pub(crate) fn received(&self, py: Python<'_>, received: Received<Item, Person>) -> Option<Outcome<Item>> {
        match received {
            Received::Item(item, sender) => {
                // Who cannot be woken has sent his item all the same.
                let _ = sender.is_none_or(|sender| sender.waiter.wake(py));
                Some(Outcome::Received(item))
            }
            Received::Closed => Some(Outcome::Closed),
            Received::Empty | Received::Over => None,
        }
    }

    /// Takes an item back from a receiver who gave up.
    pub(crate) fn give_back(&self, py: Python<'_>, item: Item) {
        let next = self.core().give_back(item);
        self.wake_receiver(py, next);
    }

    /// Wakes somebody who has an item; if he is gone, the next one gets it.
    fn wake_receiver(&self, py: Python<'_>, receiver: Option<Place>) {
        if let Some(receiver) = receiver
            && !receiver.waiter.wake(py)
            && let Some((_, Outcome::Received(item))) = receiver.token.give_up()
        {
            self.give_back(py, item);
        }
    }

    /// # Errors
    /// The channel is closed, or what a signal handler raised.
    fn send_within(slf: &Bound<'_, Self>, item: Item, patience: &Patience) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let sent = match (this.try_send(py, item.clone_ref(py)), patience) {
            (None, Patience::None) => None,
            (None, patience) => {
                let choice = Choice::new(Cases::One(Case::Send(slf.clone().unbind(), item)));
                block(py, &choice, patience.deadline())?.map(|(_, outcome)| outcome)
            }
            (sent, _) => sent,
        };
        match sent {
            Some(Outcome::Closed) => Err(closed_to_senders(py, slf.as_unbound())),
            sent => Ok(sent.is_some()),
        }
    }

    /// # Errors
    /// What a signal handler raised.
    fn receive_within(slf: &Bound<'_, Self>, patience: &Patience) -> PyResult<Option<Outcome<Item>>> {
        match (slf.get().try_receive(slf.py()), patience) {
            (None, Patience::None) => Ok(None),
            (None, patience) => {
                let choice = Choice::new(Cases::One(Case::Receive(slf.clone().unbind())));
                Ok(block(slf.py(), &choice, patience.deadline())?.map(|(_, outcome)| outcome))
            }
            (received, _) => Ok(received),
        }
    }

    /// # Errors
    /// The channel is closed, there was nothing in time, or what a signal handler raised.
    fn receive_or_raise(slf: &Bound<'_, Self>, patience: &Patience) -> PyResult<Item> {
        match Self::receive_within(slf, patience)? {
            Some(Outcome::Received(item)) => Ok(item),
            Some(_) => Err(closed_to_receivers(slf.py(), slf.as_unbound())),
            None => Err(bare(error::queue_empty(slf.py()))),
        }
    }
}

fn bare(kind: PyResult<&Bound<'_, PyType>>) -> PyErr {
    kind.map_or_else(|failure| failure, |kind| PyErr::from_type(kind.clone(), ()))
}

#[pymethods]
impl Channel {
    #[new]
    #[pyo3(signature = (capacity=0))]
    fn new(capacity: isize) -> PyResult<Self> {
        let Ok(capacity) = usize::try_from(capacity) else {
            return Err(PyValueError::new_err(format!(
                "could not make channel: found capacity={capacity}, expected 0 or more"
            )));
        };
        Ok(Self { core: channel::Channel::new(capacity), generation: Generation::new() })
    }

    /// Send an item, waiting for room, or for somebody who receives it, if need be.
    ///
    /// Args:
    ///     item: Anything.
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Raises:
    ///     ChannelClosed: The channel is closed, or was while this waited. The item was not sent.
    ///     queue.Full: There was no room in time.
    #[pyo3(signature = (item, timeout=None))]
    fn send(slf: &Bound<'_, Self>, item: Item, timeout: Option<f64>) -> PyResult<()> {
        let sent = Self::send_within(slf, item, &Patience::seconds(timeout)?)?;
        if sent { Ok(()) } else { Err(bare(error::queue_full(slf.py()))) }
    }

    /// Receive the next item, waiting for one if need be.
    ///
    /// Args:
    ///     timeout: Seconds to wait at most; None waits for ever.
    ///
    /// Raises:
    ///     ChannelClosed: The channel is closed, and there is nothing left in it.
    ///     queue.Empty: There was no item in time.
    #[pyo3(signature = (timeout=None))]
    fn receive(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Item> {
        Self::receive_or_raise(slf, &Patience::seconds(timeout)?)
    }

    /// Send an item if there is room now, or somebody who waits for it.
    ///
    /// Raises:
    ///     ChannelClosed: The channel is closed.
    ///     queue.Full: There is neither.
    fn send_nowait(slf: &Bound<'_, Self>, item: Item) -> PyResult<()> {
        let sent = Self::send_within(slf, item, &Patience::None)?;
        if sent { Ok(()) } else { Err(bare(error::queue_full(slf.py()))) }
    }

    /// Receive the next item if there is one now, or somebody who waits to send one.
    ///
    /// Raises:
    ///     ChannelClosed: The channel is closed, and there is nothing left in it.
    ///     queue.Empty: There is neither.
    fn receive_nowait(slf: &Bound<'_, Self>) -> PyResult<Item> {
        Self::receive_or_raise(slf, &Patience::None)
    }

    /// Send an item, as a coroutine.
    fn asend(slf: Py<Self>, item: Item) -> Awaiting {
        awaiting(Cases::One(Case::Send(slf, item)), Wish::Nothing)
    }

    /// Receive the next item, as a coroutine; awaiting it gives the item.
    fn areceive(slf: Py<Self>) -> Awaiting {
        awaiting(Cases::One(Case::Receive(slf)), Wish::Item)
    }

    /// Let nobody send any more. Who waits to send or to receive gets a `ChannelClosed`; closing it again does nothing.
    fn close(&self, py: Python<'_>) {
        for place in self.core().close() {
            let _ = place.waiter.wake(py);
        }
    }

    /// Whether it was closed.
    #[getter]
    fn is_closed(&self) -> bool {
        self.core().is_closed()
    }

    /// How many items it holds.
    #[getter]
    fn capacity(&self) -> usize {
        self.core.capacity()
    }

    /// How many items are in it; by the time that you look, there may be more or fewer.
    fn qsize(&self) -> usize {
        self.core().len()
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Item>> {
        match Self::receive_within(slf, &Patience::Endless)? {
            Some(Outcome::Received(item)) => Ok(Some(item)),
            _ => Ok(None),
        }
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: Py<Self>) -> Awaiting {
        awaiting(Cases::One(Case::Receive(slf)), Wish::Next)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let core = slf.get().core();
        let closed = if core.is_closed() { ", closed" } else { "" };
        super::super::describe(slf.as_any(), &format!("{}/{}{closed}", core.len(), core.capacity()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.core.look(|item| visit.call(item), |person| person.traverse(&visit))
    }

    fn __clear__(&self) {
        let everything = self.core.clear();
        drop(everything);
    }
}
