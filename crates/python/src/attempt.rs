//! What happens around one attempt of a task, the same on every model: its beginning, its end, another one.

use std::sync::Arc;
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_engine::policy::Verdict;
use manyhands_os::clock;
use pyo3::prelude::*;

use crate::call::Work;
use crate::detail::Detail;
use crate::error;
use crate::future::{Future, Outcome};
use crate::pool::Pool;
use crate::waiter::Wakes;

/// How an attempt ended, for the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Succeeded,
    Failed,
    /// It failed, and the task went back to the queue.
    Retried,
    /// Somebody else settled the task first.
    Skipped,
}

/// An attempt that is over.
pub(crate) struct Ran {
    pub(crate) ended: Ended,
    /// From submission, or from the end of the attempt before, to the start.
    pub(crate) waited: Duration,
    pub(crate) began: Tick,
}

/// Takes note of an attempt that begins; says when it must be stopped.
pub(crate) fn begin(
    py: Python<'_>,
    detail: &Detail,
    work: &Work,
    age: u64,
    now: Tick,
    worker: &str,
) -> PyResult<(u32, Option<Tick>)> {
    detail.keep_origin(py, work)?;
    let deadline = detail.begin_detached(age, now, worker);
    Ok((detail.history().attempts, deadline))
}

/// Settles the task with what its call gave, or queues it again.
pub(crate) fn ended(
    future: &Bound<'_, Future>,
    pool: &Arc<Pool>,
    outcome: Outcome,
    wakes: &mut Wakes,
) -> PyResult<Ended> {
    let py = future.py();
    let Some(detail) = future.get().detail() else { return settle(future, outcome, wakes) };
    if let Some(gate) = detail.leave_gate() {
        pool.release(py, gate)?;
    }
    if !outcome.has_failed() || !detail.may_retry() {
        return settle(future, outcome, wakes);
    }
    match outcome.read(py) {
        Outcome::Error(error) => match retry_at(detail, error.bind(py)) {
            Ok(Some(at)) if requeue(future, pool, detail, at)? => Ok(Ended::Retried),
            Ok(_) => settle(future, Outcome::Error(error), wakes),
            Err(refusal) => settle(future, Outcome::of(py, Err(refusal)), wakes),
        },
        outcome => settle(future, outcome, wakes),
    }
}

/// What is known of where and how an attempt was stopped.
#[derive(Default)]
pub(crate) struct LastWords {
    pub(crate) frame: Option<String>,
    /// How the process ended that it took along: its exit code, and the most memory that it held.
    pub(crate) process: Option<(i32, u64)>,
}

/// Settles or repeats a task whose attempt was stopped at its time limit.
pub(crate) fn timed_out(
    future: &Bound<'_, Future>,
    pool: &Arc<Pool>,
    last_words: LastWords,
    wakes: &mut Wakes,
) -> PyResult<Ended> {
    let py = future.py();
    let error = match future.get().detail() {
        Some(detail) => {
            let began = detail.history().began;
            measure_stopped(detail, clock::now() - began);
            task_timeout(py, detail)
        }
        None => error::gave_up_waiting(py),
    };
    error::set_last_words(py, &error, last_words);
    ended(future, pool, Outcome::of(py, Err(error)), wakes)
}

fn task_timeout(py: Python<'_>, detail: &Detail) -> PyErr {
    let name = detail.origin().map_or_else(|| "?".to_owned(), |work| work.name(py));
    let attempts = detail.history().attempts;
    let arguments = (name, detail.limit().as_secs_f64(), attempts);
    match error::task_timeout(py) {
        Ok(kind) => match kind.call1(arguments) {
            Ok(error) => PyErr::from_value(error),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    }
}

fn settle(future: &Bound<'_, Future>, outcome: Outcome, wakes: &mut Wakes) -> PyResult<Ended> {
    let ended = if outcome.has_failed() { Ended::Failed } else { Ended::Succeeded };
    match Future::finish(future, outcome, wakes)? {
        Ok(()) => Ok(ended),
        Err(_) => Ok(Ended::Skipped),
    }
}

/// When to try again, if at all.
fn retry_at(detail: &Detail, error: &Bound<'_, PyAny>) -> PyResult<Option<Tick>> {
    let Some(policy) = &detail.policy else { return Ok(None) };
    let policy = policy.get();
    if !policy.retries_on(error)? {
        return Ok(None);
    }
    let attempts = detail.history().attempts;
    match policy.rules.after_failure(attempts, detail.submitted, clock::now(), fastrand::f64()) {
        Verdict::Retry { at } => Ok(Some(at)),
        Verdict::GiveUp(_) => Ok(None),
    }
}

fn requeue(future: &Bound<'_, Future>, pool: &Arc<Pool>, detail: &Detail, at: Tick) -> PyResult<bool> {
    let py = future.py();
    let Some(origin) = detail.origin() else { return Ok(false) };
    if future.get().requeue(origin.again(py)?).is_err() {
        return Ok(false);
    }
    {
        let mut history = detail.history();
        history.queued = clock::now();
        history.due = Some(at);
    }
    pool.resubmit(py, future.clone().unbind(), detail.order())?;
    Ok(true)
}

/// Adds a run to the task's history.
pub(crate) fn measure(detail: &Detail, wall: Duration, cpu: Duration) {
    let mut history = detail.history();
    history.wall += wall;
    history.cpu += cpu;
}

/// Adds a run to the task's history that was stopped or went with its worker. What it took of a processor nobody knows.
pub(crate) fn measure_stopped(detail: &Detail, wall: Duration) {
    detail.history().wall += wall;
}

/// Adds to the task's history what its arguments and its result take.
pub(crate) fn weigh(detail: &Detail, arguments: usize, result: usize) {
    let mut history = detail.history();
    history.bytes_in += arguments as u64;
    history.bytes_out += result as u64;
}
