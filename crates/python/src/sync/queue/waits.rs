//! Waiting for an item, for room, and for everything to be done: as a thread and as a task.

use manyhands_engine::line::{Left, Ticket};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::super::awaiting::Operation;
use super::super::waiting::{Entered, Waitable, Waiter};
use super::classes::Queue;
use super::desk::{Caller, Step};

/// A thread's wait for an item.
pub(crate) struct Getting<'q, 'py>(pub(crate) &'q Bound<'py, Queue>);

/// A thread's wait for room for its item.
pub(crate) struct Putting<'q, 'py>(pub(crate) &'q Bound<'py, Queue>, pub(crate) &'q Bound<'py, PyAny>);

fn entered<G>(step: Step<G>) -> Entered<G> {
    match step {
        Step::Through(gain) => Entered::Through(gain),
        Step::Waits(ticket) => Entered::Waits(ticket),
        Step::No => unreachable!("who wants a place in the line gets one"),
    }
}

fn gained<G>(step: Step<G>) -> Option<G> {
    if let Step::Through(gain) = step { Some(gain) } else { None }
}

impl Waitable for Getting<'_, '_> {
    type Gain = Py<PyAny>;

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Queue::get_at_once(self.0)
            .map_or_else(|| Queue::try_get(self.0, Caller::Fresh).map(gained), |item| Ok(Some(item)))
    }

    fn enter(&self, _py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Queue::try_get(self.0, Caller::Joins(waiter)).map(entered)
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<Py<PyAny>>> {
        Queue::try_get(self.0, Caller::Waits(ticket)).map(gained)
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<Py<PyAny>> {
        self.0.get().leave_getter(py, ticket);
        None
    }

    fn give_back(&self, _py: Python<'_>, _item: Py<PyAny>) {
        unreachable!("an item is taken by whoever looks, and given to nobody");
    }
}

impl Waitable for Putting<'_, '_> {
    type Gain = ();

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        if Queue::put_at_once(self.0, self.1) {
            return Ok(Some(()));
        }
        Queue::try_put(self.0, self.1, Caller::Fresh).map(gained)
    }

    fn enter(&self, _py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        Queue::try_put(self.0, self.1, Caller::Joins(waiter)).map(entered)
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        Queue::try_put(self.0, self.1, Caller::Waits(ticket)).map(gained)
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) -> Option<()> {
        self.0.get().leave_putter(py, ticket);
        None
    }

    fn give_back(&self, _py: Python<'_>, (): ()) {}
}

/// Everything that was put is done.
impl Waitable for Queue {
    type Gain = ();

    fn try_now(&self, _py: Python<'_>) -> PyResult<Option<()>> {
        Ok((self.desk().unfinished == 0).then_some(()))
    }

    fn enter(&self, _py: Python<'_>, waiter: Waiter) -> PyResult<Entered<()>> {
        let mut desk = self.desk();
        Ok(if desk.unfinished == 0 {
            Entered::Through(())
        } else {
            Entered::Waits(desk.joiners.join(waiter))
        })
    }

    fn poll(&self, _py: Python<'_>, ticket: Ticket) -> PyResult<Option<()>> {
        Ok((!self.desk().joiners.contains(ticket)).then_some(()))
    }

    fn leave(&self, _py: Python<'_>, ticket: Ticket) -> Option<()> {
        (self.desk().joiners.leave(ticket) == Left::Served).then_some(())
    }

    fn give_back(&self, _py: Python<'_>, (): ()) {}
}

/// A task's wait for an item.
pub(crate) struct AwaitGet(pub(crate) Py<Queue>);

impl Operation for AwaitGet {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Getting(self.0.bind(py)).try_now(py)
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Getting(self.0.bind(py)).enter(py, waiter)
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let item = Getting(self.0.bind(py)).poll(py, ticket)?;
        Ok(item.map_or(Entered::Waits(ticket), Entered::Through))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        self.0.get().leave_getter(py, ticket);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// A task's wait for room for its item.
pub(crate) struct AwaitPut(pub(crate) Py<Queue>, pub(crate) Py<PyAny>);

impl AwaitPut {
    fn done(py: Python<'_>, (): ()) -> Py<PyAny> {
        py.None()
    }
}

impl Operation for AwaitPut {
    fn try_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(Putting(self.0.bind(py), self.1.bind(py)).try_now(py)?.map(|put| Self::done(py, put)))
    }

    fn enter(&self, py: Python<'_>, waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        Ok(match Putting(self.0.bind(py), self.1.bind(py)).enter(py, waiter)? {
            Entered::Through(put) => Entered::Through(Self::done(py, put)),
            Entered::Waits(ticket) => Entered::Waits(ticket),
        })
    }

    fn poll(&self, py: Python<'_>, ticket: Ticket, _waiter: Waiter) -> PyResult<Entered<Py<PyAny>>> {
        let put = Putting(self.0.bind(py), self.1.bind(py)).poll(py, ticket)?;
        Ok(put.map_or(Entered::Waits(ticket), |put| Entered::Through(Self::done(py, put))))
    }

    fn leave(&self, py: Python<'_>, ticket: Ticket) {
        self.0.get().leave_putter(py, ticket);
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)?;
        visit.call(&self.1)
    }
}
