//! Waits for the results of tasks: who brings one is who runs the task.

use std::cell::Cell;

use manyhands_engine::deadlock::waits::{Holding, Manner, Thing, Who};
use manyhands_os::clock;
use manyhands_os::park::Parker;
use pyo3::prelude::*;

use super::state::{What, state};
use super::{Watched, is_on, nap};
use crate::detail::Detail;
use crate::enter;
use crate::future::Future;
use crate::pool::Crew;
use crate::sync::who;

/// Sets results apart from other things.
const RESULT: u64 = 1 << 62;

/// Somebody waits for a result, as long as this lives.
#[pyclass(frozen, module = "manyhands._core")]
pub(crate) struct ResultWait {
    waiter: u64,
    thing: Thing,
}

impl ResultWait {
    /// The running task is about to await the result of `future`; `None` if nobody looks for deadlocks.
    ///
    /// # Errors
    /// `DeadlockError` if that would be for ever.
    pub(crate) fn of_task(future: &Bound<'_, Future>) -> PyResult<Option<Self>> {
        if !is_on() {
            return Ok(None);
        }
        let Some(task) = who::this_task(future.py()) else { return Ok(None) };
        state().set_thread(Who(task), Who(who::this_thread()));
        Self::begin(future, task).map(Some)
    }

    fn begin(future: &Bound<'_, Future>, waiter: u64) -> PyResult<Self> {
        let wait = Self { waiter, thing: thing_of(future) };
        let holding = runners(future);
        let known = state().add_result(wait.thing, future.clone().unbind(), holding);
        drop(known);
        let text = format!("the result of {}", future.repr()?);
        super::begin(future.py(), Who(waiter), What::Result(text), wait.thing, Manner::Endless)?;
        Ok(wait)
    }

    fn look_who_runs(&self, future: &Bound<'_, Future>) {
        let holding = runners(future);
        state().set_holding(self.thing, holding);
    }
}

impl Drop for ResultWait {
    fn drop(&mut self) {
        Watched::stops(self.waiter);
        let future = state().take_result(self.thing);
        drop(future);
    }
}

/// Waits for a result as `enter::wait_until` does, without a limit, and looks around now and then.
///
/// # Errors
/// `DeadlockError` if it would never come; what a signal handler raised.
pub(crate) fn wait(
    future: &Bound<'_, Future>,
    parker: &Parker,
    is_over: impl Fn() -> bool,
) -> PyResult<bool> {
    let py = future.py();
    if is_over() {
        return Ok(true);
    }
    let wait = ResultWait::begin(future, who::this_thread())?;
    while !enter::wait_until(py, parker, nap(None), &is_over)? {
        wait.look_who_runs(future);
        super::look_again(py, wait.waiter)?;
    }
    Ok(true)
}

/// Somebody runs the task from now on: who waits for its result already waits for him.
pub(crate) fn begun(future: &Bound<'_, Future>) {
    let thing = thing_of(future);
    if is_on() && state().awaits(thing) {
        let holding = runners(future);
        state().set_holding(thing, holding);
    }
}

thread_local! {
    /// Of which result this thread takes a step just now, and which asyncio task that is.
    static STEP: Cell<Option<(Thing, Who)>> = const { Cell::new(None) };
}

/// A step of a task is being taken, as long as this lives.
pub(crate) struct Step(());

impl Drop for Step {
    fn drop(&mut self) {
        STEP.set(None);
    }
}

/// The running asyncio task is about to take a step of that task: the first may be taken before anybody else can know who
/// runs it.
pub(crate) fn steps(future: &Bound<'_, Future>) -> Option<Step> {
    if !is_on() || !is_settled_here(future) {
        return None;
    }
    let (task, thing) = (Who(who::this_task(future.py())?), thing_of(future));
    STEP.set(Some((thing, task)));
    let mut state = state();
    if state.awaits(thing) {
        state.set_thread(task, Who(who::this_thread()));
        state.set_holding(thing, Holding::All(vec![task]));
    }
    Some(Step(()))
}

/// Whether whoever runs it is the one to bring its result: a task with a time limit ends by itself, and one that is tried
/// again may go on elsewhere.
fn is_settled_here(future: &Bound<'_, Future>) -> bool {
    let may_move = |detail: &Detail| detail.may_retry() || detail.deadline(clock::now()).is_some();
    !future.get().detail().is_some_and(may_move)
}

fn thing_of(future: &Bound<'_, Future>) -> Thing {
    Thing(future.as_ptr() as u64 | RESULT)
}

/// Who might bring a result, as far as that is certain.
fn runners(future: &Bound<'_, Future>) -> Holding {
    let nobody = Holding::All(Vec::new());
    let Some(pool) = future.get().pool().filter(|_| is_settled_here(future)) else { return nobody };
    if let Some((_, task)) = STEP.get().filter(|(thing, _)| *thing == thing_of(future)) {
        state().set_thread(task, Who(who::this_thread()));
        return Holding::All(vec![task]);
    }
    let (task, shared) = (future.get().coroutine(future.py()), pool.shared());
    match (&shared.crew, task) {
        (Crew::Threads(crew), _) => {
            crew.thread_of(future).map_or(nobody, |thread| Holding::All(vec![Who(thread)]))
        }
        (Crew::Loops(crew), Some((task, event_loop))) => {
            let Some(thread) = crew.thread_of(&event_loop) else { return nobody };
            let task = who::of_task(task.bind(future.py()));
            state().set_thread(Who(task), Who(thread));
            Holding::All(vec![Who(task)])
        }
        // It will begin on one of the loops, if they are all there are.
        (Crew::Loops(crew), None) => Holding::Any(crew.all_threads().into_iter().map(Who).collect()),
        (Crew::Processes(_), _) => nobody,
    }
}
