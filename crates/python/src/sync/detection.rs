//! Deadlock detection for the primitives of `manyhands.sync`; off, and then a look at one flag, unless the user wants it.
//!
//! What is a deadlock, and what only looks like one to come, is `engine`'s to [say](manyhands_engine::deadlock). Here is kept
//! who has what, who waits for what, and where each was made: [`state`]. **Who** waits or holds is a thread or a task, by its
//! [number](super::who). What primitives tell is in [`watched`], what else matters in [`conditions`], [`results`],
//! [`threads`] and [`asleep`].
//!
//! Whoever completes a deadlock by his wait is told before he sleeps. One may be completed by other things, such as a thread
//! that ends; so threads that wait without a limit look again, some times a second.
//!
//! **Locks.** The state's lock is held for a few look-ups, no Python code runs meanwhile, and no object is freed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::deadlock::orders::{Class, Inversion};
use manyhands_engine::deadlock::waits::{Manner, Thing, Who};
use manyhands_os::clock;
use pyo3::call::PyCallArgs;
use pyo3::prelude::*;

use super::who;
use state::{Person, What, state};

mod asleep;
pub(crate) mod conditions;
pub(crate) mod results;
mod state;
mod threads;
mod watched;

pub(crate) use watched::Watched;

/// How long a thread waits before it looks around.
const NAP: Duration = Duration::from_millis(100);

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Whether somebody wants to know of deadlocks.
#[inline]
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Has the primitives of `manyhands.sync` watched from now on, or not any more.
#[pyfunction]
pub(crate) fn watch_locks(on: bool) {
    let forgotten = std::mem::take(&mut *state());
    threads::forget_all();
    IS_ON.store(on, Ordering::Relaxed);
    drop(forgotten);
}

/// Whether the primitives of `manyhands.sync` are watched.
#[pyfunction]
pub(crate) fn watches_locks() -> bool {
    is_on()
}

/// Until when a thread sleeps that waits until `deadline`.
#[inline]
pub(crate) fn nap(deadline: Option<Tick>) -> Option<Tick> {
    deadline.or_else(|| is_on().then(|| clock::now() + NAP))
}

/// He does not wait any more.
pub(crate) fn stops(waiter: u64) {
    if is_on() {
        let person = state().stop(Who(waiter));
        drop(person);
    }
}

/// Somebody has waited for a while.
///
/// # Errors
/// `DeadlockError` if he would wait for ever.
#[cold]
pub(crate) fn look_again(py: Python<'_>, waiter: u64) -> PyResult<()> {
    let deadlock = {
        let mut state = state();
        state.look(Who(waiter)).map(|cycle| state.describe(py, &cycle))
    };
    match deadlock {
        None => asleep::look(py, waiter),
        Some(deadlock) => {
            stops(waiter);
            Err(deadlock.raise(py))
        }
    }
}

/// Somebody is about to wait.
fn begin(py: Python<'_>, who: Who, what: What, thing: Thing, manner: Manner) -> PyResult<()> {
    let person = Person { object: who::person(py, who.0)?, what };
    let (previous, deadlock) = {
        let mut state = state();
        let (previous, cycle) = state.wait(who, person, thing, manner);
        (previous, cycle.map(|cycle| state.describe(py, &cycle)))
    };
    drop(previous);
    match deadlock {
        None => Ok(()),
        Some(deadlock) => {
            stops(who.0);
            Err(deadlock.raise(py))
        }
    }
}

/// Who waits for what, and who has that.
type Told = (Option<Py<PyAny>>, String, Option<Py<PyAny>>);

/// A cycle, as it is told.
struct Deadlock(Vec<Told>);

impl Deadlock {
    fn raise(self, py: Python<'_>) -> PyErr {
        call(py, "deadlock", (self.0,)).map_or_else(|failure| failure, PyErr::from_value)
    }
}

/// Something by the place where it was made.
fn made(noun: &str, site: Option<&str>) -> String {
    site.map_or_else(
        || format!("a {noun} made before the detection"),
        |site| format!("the {noun} made at {site}"),
    )
}

/// Warns if `who` takes `thing` in an order that contradicts another.
fn check_order(py: Python<'_>, who: Who, thing: Thing, class: Class) -> PyResult<()> {
    let held: Vec<Class> = {
        let state = state();
        if state.is_in_order(who, thing, class) {
            return Ok(());
        }
        state.held_by(who).iter().filter(|(held, _)| *held != thing).map(|(_, class)| *class).collect()
    };
    let stack: Arc<str> = call(py, "stack", ())?.extract::<String>()?.into();
    let inversions = state().orders.take(&held, class, || Arc::clone(&stack));
    for Inversion { held, taken, sites, .. } in inversions {
        let (held, taken) = {
            let state = state();
            (made("lock", state.site_of(held).as_deref()), made("lock", state.site_of(taken).as_deref()))
        };
        let mut text = format!(
            "two locks are taken in both orders, a deadlock to come: {taken} while {held} is held\nnow:\n{stack}"
        );
        for stack in sites {
            text.push_str("\nearlier, the other way round:\n");
            text.push_str(&stack);
        }
        call(py, "warn_of_order", (text,))?;
    }
    Ok(())
}

/// What the calling thread has to say of itself to other processes, while it waits for that lock.
pub(crate) fn deadlock_note(py: Python<'_>, lock: &str) -> PyResult<String> {
    call(py, "note", (lock,))?.extract()
}

/// A `DeadlockError` of several processes, from what each has to say of itself.
pub(crate) fn deadlock_of_notes(py: Python<'_>, notes: Vec<String>) -> PyErr {
    call(py, "deadlock_of_processes", (notes,)).map_or_else(|failure| failure, PyErr::from_value)
}

fn call<'py>(
    py: Python<'py>,
    function: &str,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import("manyhands._deadlock")?.getattr(function)?.call1(arguments)
}
