//! A call with a soft limit: when that is over, an exception is raised in the thread that makes the call, once, and only
//! while it does.
//!
//! There is no bytecode between the end of the call and the moment from which nothing is raised any more, so what comes
//! after it in the thread is never hit. A call that is in C code for long is told when it is back.

use std::ffi::c_ulong;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_os::clock;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::timers::{self, Alarm};
use crate::{enter, native};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// It was told.
    Interrupted,
    Over,
}

/// A call that is being made.
pub(crate) struct LimitedCall {
    ident: c_ulong,
    stage: Mutex<Stage>,
}

impl LimitedCall {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the exception raised in the call, if it is not over.
    pub(crate) fn interrupt(&self, exception: &Bound<'_, PyType>) {
        let mut stage = self.stage();
        if *stage == Stage::Running {
            *stage = Stage::Interrupted;
            // Under the lock, so that the thread cannot have gone on to other things. It runs no Python code.
            native::set_async_exception(self.ident, Some(exception));
        }
    }

    fn end(&self) {
        if std::mem::replace(&mut *self.stage(), Stage::Over) == Stage::Interrupted {
            // It may have ended before it noticed.
            native::set_async_exception(self.ident, None);
        }
    }
}

/// What `function(*args)` returns; after so many seconds `exception` is raised in it.
#[pyfunction]
pub(crate) fn call_within<'py>(
    seconds: f64,
    exception: Bound<'py, PyType>,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let limit = enter::seconds("soft_timeout", seconds)?;
    let call = Arc::new(LimitedCall { ident: native::thread_ident(py), stage: Mutex::new(Stage::Running) });
    let alarm = Alarm::Call { call: Arc::clone(&call), exception: exception.unbind() };
    let watched = timers::arm(clock::now() + limit, alarm)?;
    let result = native::call(function, args, None);
    call.end();
    watched.disarm();
    result
}
