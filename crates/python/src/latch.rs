//! A door that opens once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manyhands_os::park::{self, Parker};
use pyo3::prelude::*;

use crate::enter;

#[derive(Default)]
struct State {
    is_open: bool,
    waiting: Vec<Arc<Parker>>,
}

/// Threads wait until somebody opens it; from then on nobody waits.
#[derive(Default)]
pub(crate) struct Latch(Mutex<State>);

impl Latch {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self) {
        let waiting = {
            let mut state = self.state();
            state.is_open = true;
            std::mem::take(&mut state.waiting)
        };
        for parker in waiting {
            parker.unpark();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state().is_open
    }

    pub(crate) fn wait(&self, py: Python<'_>) -> PyResult<()> {
        let parker = park::mine();
        self.state().waiting.push(Arc::clone(&parker));
        enter::wait_until(py, &parker, None, || self.state().is_open).map(drop)
    }
}
