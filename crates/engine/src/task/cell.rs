use std::fmt;

use crate::prim::{Mutex, lock};

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started, or waiting for its next attempt.
    Pending,
    /// A worker has it.
    Running,
    /// Cancelled; a worker may still come across it.
    Cancelled,
    /// Cancelled, and the worker that came across it has said so.
    CancelledAndNotified,
    /// It has a value or an exception.
    Finished,
}

impl State {
    /// Whether the outcome is settled.
    #[must_use]
    pub const fn is_done(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Whether the outcome is "cancelled".
    #[must_use]
    pub const fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAndNotified)
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Cancelled | Self::CancelledAndNotified => "cancelled",
            Self::Finished => "finished",
        })
    }
}

/// Whether the caller holds the condition of a guarded cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// It does not.
    None,
    /// It does.
    Held,
}

/// What [`Cell::start`] found.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Start<C> {
    /// Run this call (`None` if the cell never had one) and report with `finish`.
    Run(Option<C>),
    /// It was cancelled: tell those who wait by the standard library's protocol, run nothing.
    Cancelled,
    /// Acquire the condition and come again.
    Guarded,
    /// Nothing to start: it is in this state.
    Refused(State),
}

/// What became of an outcome offered to [`Cell::finish`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Finish<O, W> {
    /// Taken: wake these.
    Done(Vec<W>),
    /// Acquire the condition and come again.
    Guarded(O),
    /// Too late: it is in this state already.
    Refused(O, State),
}

/// What [`Cell::cancel`] did.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Cancel<C, W> {
    /// Cancelled just now: wake these, drop the call.
    Done {
        /// Everybody who waited.
        waiters: Vec<W>,
        /// The call that will not be made.
        call: Option<C>,
        /// Whether a worker was running it.
        was_running: bool,
    },
    /// It was cancelled before.
    Already,
    /// Acquire the condition and come again.
    Guarded,
    /// It is running, and the caller did not insist, or it is finished.
    Refused(State),
}

#[derive(Debug)]
enum Body<C, O> {
    Empty,
    Call(C),
    Outcome(O),
}

#[derive(Debug)]
struct Inner<C, O, W> {
    body: Body<C, O>,
    waiters: Vec<W>,
    state: State,
    guarded: bool,
}

impl<C, O, W> Inner<C, O, W> {
    const fn refuses(&self, key: Key) -> bool {
        self.guarded && matches!(key, Key::None)
    }

    fn take_call(&mut self) -> Option<C> {
        match std::mem::replace(&mut self.body, Body::Empty) {
            Body::Call(call) => Some(call),
            other => {
                self.body = other;
                None
            }
        }
    }
}

/// A task's call, then its outcome, and those who wait for it. `C` is the call, `O` the outcome, `W` a waiter.
#[derive(Debug)]
pub struct Cell<C, O, W> {
    inner: Mutex<Inner<C, O, W>>,
}

impl<C, O, W> Default for Cell<C, O, W> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                body: Body::Empty,
                waiters: Vec::new(),
                state: State::Pending,
                guarded: false,
            }),
        }
    }
}

impl<C, O, W> Cell<C, O, W> {
    /// The state at this moment.
    pub fn state(&self) -> State {
        lock(&self.inner).state
    }

    /// Gives a pending cell the call to make; returns what it held before.
    pub fn set_call(&self, call: C) -> Option<C> {
        let mut inner = lock(&self.inner);
        let previous = inner.take_call();
        inner.body = Body::Call(call);
        previous
    }

    /// From now on, transitions need [`Key::Held`].
    pub fn guard(&self) {
        lock(&self.inner).guarded = true;
    }

    /// Pending → Running, or Cancelled → `CancelledAndNotified`.
    pub fn start(&self, key: Key) -> Start<C> {
        let mut inner = lock(&self.inner);
        if inner.refuses(key) {
            return Start::Guarded;
        }
        match inner.state {
            State::Pending => {
                inner.state = State::Running;
                Start::Run(inner.take_call())
            }
            State::Cancelled => {
                inner.state = State::CancelledAndNotified;
                Start::Cancelled
            }
            state => Start::Refused(state),
        }
    }

    /// Running → Pending, for another attempt.
    ///
    /// # Errors
    /// Gives `call` back if the task was settled in the meantime.
    pub fn requeue(&self, call: C) -> Result<(), C> {
        let mut inner = lock(&self.inner);
        if inner.state != State::Running {
            return Err(call);
        }
        inner.state = State::Pending;
        inner.body = Body::Call(call);
        Ok(())
    }

    /// Pending or Running → Finished.
    pub fn finish(&self, outcome: O, key: Key) -> Finish<O, W> {
        let mut inner = lock(&self.inner);
        if inner.state.is_done() {
            return Finish::Refused(outcome, inner.state);
        }
        if inner.refuses(key) {
            return Finish::Guarded(outcome);
        }
        inner.state = State::Finished;
        let call = std::mem::replace(&mut inner.body, Body::Outcome(outcome));
        let waiters = std::mem::take(&mut inner.waiters);
        drop(inner);
        // Outside the lock: dropping a call can run arbitrary code of the payload.
        drop(call);
        Finish::Done(waiters)
    }

    /// Pending → Cancelled; with `insist` also Running → `CancelledAndNotified`.
    pub fn cancel(&self, insist: bool, key: Key) -> Cancel<C, W> {
        let mut inner = lock(&self.inner);
        match inner.state {
            State::Cancelled | State::CancelledAndNotified => return Cancel::Already,
            State::Finished => return Cancel::Refused(State::Finished),
            State::Running if !insist => return Cancel::Refused(State::Running),
            State::Running | State::Pending => {}
        }
        if inner.refuses(key) {
            return Cancel::Guarded;
        }
        let was_running = inner.state == State::Running;
        // Nobody starts it any more, so nobody but us can say that it is over.
        inner.state = if was_running { State::CancelledAndNotified } else { State::Cancelled };
        let call = inner.take_call();
        Cancel::Done { waiters: std::mem::take(&mut inner.waiters), call, was_running }
    }

    /// Enrols a waiter.
    ///
    /// # Errors
    /// Gives `waiter` back if the task is settled: there is nothing to wait for.
    pub fn subscribe(&self, waiter: W) -> Result<(), W> {
        let mut inner = lock(&self.inner);
        if inner.state.is_done() {
            return Err(waiter);
        }
        inner.waiters.push(waiter);
        Ok(())
    }

    /// Takes back the first waiter that `is_it` recognises; `None` means that it was, or is being, woken.
    pub fn unsubscribe(&self, is_it: impl FnMut(&W) -> bool) -> Option<W> {
        let mut inner = lock(&self.inner);
        let position = inner.waiters.iter().position(is_it)?;
        // The others keep their order: callbacks are promised to be called in that in which they were added.
        Some(inner.waiters.remove(position))
    }

    /// Looks at the state, the outcome if there is one, and the call if it is still here. `look` must not call out.
    pub fn peek<R>(&self, look: impl FnOnce(State, Option<&O>, Option<&C>) -> R) -> R {
        let inner = lock(&self.inner);
        match &inner.body {
            Body::Empty => look(inner.state, None, None),
            Body::Call(call) => look(inner.state, None, Some(call)),
            Body::Outcome(outcome) => look(inner.state, Some(outcome), None),
        }
    }

    /// Looks at every waiter. `look` must not call out.
    pub fn for_each_waiter(&self, look: impl FnMut(&W)) {
        lock(&self.inner).waiters.iter().for_each(look);
    }

    /// Replaces an outcome by the same one in another form, if `is_it` still finds the old form; returns what is not
    /// kept, to be dropped by the caller.
    pub fn replace_outcome(&self, outcome: O, is_it: impl FnOnce(&O) -> bool) -> O {
        let mut inner = lock(&self.inner);
        match &mut inner.body {
            Body::Outcome(known) if is_it(known) => std::mem::replace(known, outcome),
            _ => outcome,
        }
    }

    /// Forces a state and an outcome: for tests that put a future into a state by hand.
    pub fn force(&self, state: State, outcome: Option<O>) -> Option<O> {
        let mut inner = lock(&self.inner);
        inner.state = state;
        match outcome {
            None => None,
            Some(outcome) => match std::mem::replace(&mut inner.body, Body::Outcome(outcome)) {
                Body::Outcome(previous) => Some(previous),
                _ => None,
            },
        }
    }

    /// Empties the cell of everything it holds, for a garbage collector; its state stays.
    pub fn clear(&self) -> (Option<C>, Option<O>, Vec<W>) {
        let mut inner = lock(&self.inner);
        let waiters = std::mem::take(&mut inner.waiters);
        match std::mem::replace(&mut inner.body, Body::Empty) {
            Body::Empty => (None, None, waiters),
            Body::Call(call) => (Some(call), None, waiters),
            Body::Outcome(outcome) => (None, Some(outcome), waiters),
        }
    }
}
