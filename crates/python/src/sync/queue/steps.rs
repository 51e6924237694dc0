//! Putting and taking: one try each, without waiting for anything but the gate.

use std::sync::atomic::Ordering;

use manyhands_engine::line::Ticket;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use super::super::mutual::Mutual;
use super::super::waiting::{block, tell};
use super::classes::{Kind, Queue};
use super::desk::{Caller, Calls, Desk, Step};
use crate::error;

/// The gate, held.
struct Pass<'q, 'py> {
    py: Python<'py>,
    gate: &'q Mutual,
}

impl Drop for Pass<'_, '_> {
    fn drop(&mut self) {
        self.gate.give(self.py);
    }
}

/// `heapq.heappush` and `heappop`.
fn heap_function<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let function = cell.get_or_try_init(py, || py.import("heapq")?.getattr(name).map(Bound::unbind))?;
    Ok(function.bind(py))
}

fn heap_push(heap: &Bound<'_, PyList>, item: Py<PyAny>) -> PyResult<()> {
    static PUSH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    heap_function(heap.py(), &PUSH, "heappush")?.call1((heap, item)).map(drop)
}

fn heap_pop(heap: &Bound<'_, PyList>) -> PyResult<Py<PyAny>> {
    static POP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    heap_function(heap.py(), &POP, "heappop")?.call1((heap,)).map(Bound::unbind)
}

pub(crate) fn shut_down(py: Python<'_>) -> PyErr {
    bare(error::queue_shut_down(py))
}

pub(crate) fn empty(py: Python<'_>) -> PyErr {
    bare(error::queue_empty(py))
}

pub(crate) fn full(py: Python<'_>) -> PyErr {
    bare(error::queue_full(py))
}

fn bare(kind: PyResult<&Bound<'_, pyo3::types::PyType>>) -> PyErr {
    match kind {
        Ok(kind) => PyErr::from_type(kind.clone(), ()),
        Err(failure) => failure,
    }
}

impl Queue {
    /// Whether putting and taking may run Python code, so that one has to pass the gate.
    #[inline]
    fn is_gated(&self) -> bool {
        self.heap.is_some() || self.has_hooks.load(Ordering::Relaxed)
    }

    fn pass<'q, 'py>(&'q self, py: Python<'py>) -> PyResult<Pass<'q, 'py>> {
        if !self.gate.try_take() {
            block(py, &self.gate, None)?;
        }
        Ok(Pass { py, gate: &self.gate })
    }

    /// Puts an item if nothing stands in the way, and nobody has to be told: as it is most often.
    #[inline]
    pub(crate) fn put_at_once(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> bool {
        let this = slf.get();
        if this.is_gated() {
            return false;
        }
        let mut desk = this.desk();
        let is_plain =
            !desk.is_shut_down && desk.getters.has_called_all() && desk.putters.admits(desk.room());
        if is_plain {
            desk.items.push_back(item.clone().unbind());
            desk.size += 1;
            desk.unfinished += 1;
        }
        is_plain
    }

    /// Takes an item if there is one to be had, and nobody has to be told.
    #[inline]
    pub(crate) fn get_at_once(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        let this = slf.get();
        if this.is_gated() {
            return None;
        }
        let mut desk = this.desk();
        let is_plain = desk.putters.has_called_all() && desk.getters.admits(desk.size);
        if is_plain { this.pop(&mut desk) } else { None }
    }

    /// Puts an item without waiting for room.
    pub(crate) fn try_put(
        slf: &Bound<'_, Self>,
        item: &Bound<'_, PyAny>,
        caller: Caller,
    ) -> PyResult<Step<()>> {
        let (this, py) = (slf.get(), slf.py());
        if this.is_gated() {
            return Self::try_put_gated(slf, item, caller);
        }
        let mut desk = this.desk();
        if desk.is_shut_down {
            return Err(refuse_putter(py, desk, &caller));
        }
        let step = desk.admit_putter(caller);
        if matches!(step, Step::Through(())) {
            desk.items.push_back(item.clone().unbind());
            desk.size += 1;
            desk.unfinished += 1;
            let calls = desk.call_getters();
            drop(desk);
            this.wake_getters(py, calls);
        }
        Ok(step)
    }

    fn try_put_gated(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, caller: Caller) -> PyResult<Step<()>> {
        let (this, py) = (slf.get(), slf.py());
        let pass = this.pass(py)?;
        let size = Self::count(slf)?;
        let mut desk = this.desk();
        desk.size = size;
        if desk.is_shut_down {
            return Err(refuse_putter(py, desk, &caller));
        }
        let step = desk.admit_putter(caller);
        drop(desk);
        if matches!(step, Step::Through(())) {
            let put = Self::store(slf, item.clone().unbind());
            let counted = Self::count(slf);
            let (getters, putters) = {
                let mut desk = this.desk();
                desk.size = counted?;
                desk.unfinished += usize::from(put.is_ok());
                (desk.call_getters(), desk.call_putters())
            };
            drop(pass);
            this.wake_getters(py, getters);
            this.wake_putters(py, putters);
            put?;
        }
        Ok(step)
    }

    /// Takes an item without waiting for one.
    pub(crate) fn try_get(slf: &Bound<'_, Self>, caller: Caller) -> PyResult<Step<Py<PyAny>>> {
        let (this, py) = (slf.get(), slf.py());
        if this.is_gated() {
            return Self::try_get_gated(slf, caller);
        }
        let mut desk = this.desk();
        if desk.is_over() {
            return Err(refuse_getter(py, desk, &caller));
        }
        match desk.admit_getter(caller) {
            Step::Through(()) => {
                let item = this.pop(&mut desk).expect("a getter is admitted to an item");
                let calls = desk.call_putters();
                drop(desk);
                this.wake_putters(py, calls);
                Ok(Step::Through(item))
            }
            Step::Waits(ticket) => Ok(Step::Waits(ticket)),
            Step::No => Ok(Step::No),
        }
    }

    fn try_get_gated(slf: &Bound<'_, Self>, caller: Caller) -> PyResult<Step<Py<PyAny>>> {
        let (this, py) = (slf.get(), slf.py());
        let pass = this.pass(py)?;
        let size = Self::count(slf)?;
        let mut desk = this.desk();
        desk.size = size;
        if desk.is_over() {
            return Err(refuse_getter(py, desk, &caller));
        }
        let step = desk.admit_getter(caller);
        drop(desk);
        match step {
            Step::Through(()) => {
                let item = Self::fetch(slf);
                let counted = Self::count(slf);
                let (getters, putters) = {
                    let mut desk = this.desk();
                    desk.size = counted?;
                    (desk.call_getters(), desk.call_putters())
                };
                drop(pass);
                this.wake_getters(py, getters);
                this.wake_putters(py, putters);
                item.map(Step::Through)
            }
            Step::Waits(ticket) => Ok(Step::Waits(ticket)),
            Step::No => Ok(Step::No),
        }
    }

    #[inline]
    pub(crate) fn pop(&self, desk: &mut Desk) -> Option<Py<PyAny>> {
        let item = if self.kind == Kind::Lifo { desk.items.pop_back() } else { desk.items.pop_front() };
        desk.size = desk.items.len();
        item
    }

    /// How many items there are, as a subclass counts them.
    pub(crate) fn count(slf: &Bound<'_, Self>) -> PyResult<usize> {
        if slf.get().has_hooks.load(Ordering::Relaxed) {
            return slf.call_method0(pyo3::intern!(slf.py(), "_qsize"))?.extract();
        }
        Ok(slf.get().own_size(slf.py()))
    }

    fn store(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<()> {
        if slf.get().has_hooks.load(Ordering::Relaxed) {
            return slf.call_method1(pyo3::intern!(slf.py(), "_put"), (item,)).map(drop);
        }
        slf.get().own_put(slf.py(), item)
    }

    fn fetch(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        if slf.get().has_hooks.load(Ordering::Relaxed) {
            return slf.call_method0(pyo3::intern!(slf.py(), "_get")).map(Bound::unbind);
        }
        slf.get().own_get(slf.py())
    }

    pub(crate) fn own_size(&self, py: Python<'_>) -> usize {
        self.heap.as_ref().map_or_else(|| self.desk().items.len(), |heap| heap.bind(py).len())
    }

    pub(crate) fn own_put(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<()> {
        if let Some(heap) = &self.heap {
            return heap_push(heap.bind(py), item);
        }
        self.desk().items.push_back(item);
        Ok(())
    }

    pub(crate) fn own_get(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(heap) = &self.heap {
            return heap_pop(heap.bind(py));
        }
        let item = self.pop(&mut self.desk());
        item.ok_or_else(|| pyo3::exceptions::PyIndexError::new_err("pop from an empty queue"))
    }

    /// How many items there are.
    pub(crate) fn size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        if !slf.get().is_gated() {
            return Ok(slf.get().desk().size);
        }
        let _pass = slf.get().pass(slf.py())?;
        Self::count(slf)
    }

    /// Ends it; with `immediate`, what is in it is thrown away.
    pub(crate) fn end(slf: &Bound<'_, Self>, immediate: bool) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let pass = if this.is_gated() { Some(this.pass(py)?) } else { None };
        this.desk().is_shut_down = true;
        let mut thrown_away = Vec::new();
        while immediate && Self::count(slf)? > 0 {
            thrown_away.push(Self::fetch(slf)?);
        }
        let counted = Self::count(slf)?;
        let (getters, putters, joiners) = {
            let mut desk = this.desk();
            desk.size = counted;
            desk.unfinished = desk.unfinished.saturating_sub(thrown_away.len());
            let joiners = if desk.unfinished == 0 { desk.joiners.serve_all() } else { Vec::new() };
            (desk.getters.summon_all(), desk.putters.summon_all(), joiners)
        };
        drop(pass);
        this.wake_getters(py, getters);
        this.wake_putters(py, putters);
        tell(py, &joiners);
        Ok(())
    }

    #[inline]
    pub(crate) fn wake_getters(&self, py: Python<'_>, calls: Calls) {
        if !calls.is_empty() {
            self.wake(py, calls, Self::leave_getter);
        }
    }

    #[inline]
    pub(crate) fn wake_putters(&self, py: Python<'_>, calls: Calls) {
        if !calls.is_empty() {
            self.wake(py, calls, Self::leave_putter);
        }
    }

    #[cold]
    fn wake(&self, py: Python<'_>, calls: Calls, leave: fn(&Self, Python<'_>, Ticket)) {
        for (ticket, waiter) in calls {
            if !waiter.wake(py) {
                leave(self, py, ticket);
            }
        }
    }

    pub(crate) fn leave_getter(&self, py: Python<'_>, ticket: Ticket) {
        let calls = self.desk().dismiss_getter(ticket);
        self.wake_getters(py, calls);
    }

    pub(crate) fn leave_putter(&self, py: Python<'_>, ticket: Ticket) {
        let calls = self.desk().dismiss_putter(ticket);
        self.wake_putters(py, calls);
    }
}

type Locked<'d> = std::sync::MutexGuard<'d, Desk>;

fn refuse_putter(py: Python<'_>, mut desk: Locked<'_>, caller: &Caller) -> PyErr {
    if let Caller::Waits(ticket) = caller {
        let _ = desk.putters.leave(*ticket);
    }
    drop(desk);
    shut_down(py)
}

fn refuse_getter(py: Python<'_>, mut desk: Locked<'_>, caller: &Caller) -> PyErr {
    if let Caller::Waits(ticket) = caller {
        let _ = desk.getters.leave(*ticket);
    }
    drop(desk);
    shut_down(py)
}
