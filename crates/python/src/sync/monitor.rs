//! The lock of a condition: one of ours, or anything with `acquire` and `release`.

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::detection::{self, Watched};
use super::lock::Lock;
use super::mutual::Mutual;
use super::patience::Patience;
use super::rlock::{RLock, Saved};
use super::waiting::block_stubbornly;
use super::who;

/// A lock that is let go while one waits.
pub(crate) enum Monitor {
    Plain(Py<Lock>),
    Reentrant(Py<RLock>),
    Foreign(Py<PyAny>),
}

/// What is needed to take the lock again as it was.
pub(crate) enum Kept {
    Plain,
    Reentrant(Saved),
    Foreign(Option<Py<PyAny>>),
}

impl Monitor {
    pub(crate) fn of(lock: &Bound<'_, PyAny>) -> Self {
        if let Ok(lock) = lock.cast::<RLock>() {
            Self::Reentrant(lock.clone().unbind())
        } else if let Ok(lock) = lock.cast::<Lock>() {
            Self::Plain(lock.clone().unbind())
        } else {
            Self::Foreign(lock.clone().unbind())
        }
    }

    pub(crate) fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Self::Plain(lock) => lock.bind(py).as_any(),
            Self::Reentrant(lock) => lock.bind(py).as_any(),
            Self::Foreign(lock) => lock.bind(py),
        }
    }

    /// Whether it is none of somebody else's making.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self, Self::Foreign(_))
    }

    pub(crate) fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let taken = match self {
            Self::Plain(lock) => lock.get().take(py, &Patience::Endless)?,
            Self::Reentrant(lock) => lock.get().reentrant().take(py, &Patience::Endless)?,
            Self::Foreign(lock) => return lock.call_method0(py, pyo3::intern!(py, "__enter__")),
        };
        Ok(super::awaiting::boolean(py, taken))
    }

    pub(crate) fn give(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Plain(lock) => lock.get().free(py),
            Self::Reentrant(lock) => lock.get().reentrant().give(py),
            Self::Foreign(lock) => lock.call_method0(py, pyo3::intern!(py, "release")).map(drop),
        }
    }

    /// Whether the caller has it; of a plain lock, whether anybody has.
    pub(crate) fn is_owned(&self, py: Python<'_>) -> PyResult<bool> {
        let lock = match self {
            Self::Plain(lock) => return Ok(lock.get().mutual().is_taken()),
            Self::Reentrant(lock) => return Ok(lock.get().reentrant().is_owned(py)),
            Self::Foreign(lock) => lock.bind(py),
        };
        if let Some(is_owned) = lock.getattr_opt(pyo3::intern!(py, "_is_owned"))? {
            return is_owned.call0()?.is_truthy();
        }
        let taken = lock.call_method1(pyo3::intern!(py, "acquire"), (false,))?.is_truthy()?;
        if taken {
            lock.call_method0(pyo3::intern!(py, "release"))?;
        }
        Ok(!taken)
    }

    /// Gives it back altogether, however often it was taken.
    pub(crate) fn save(&self, py: Python<'_>) -> PyResult<Kept> {
        match self {
            Self::Plain(lock) => lock.get().free(py).map(|()| Kept::Plain),
            Self::Reentrant(lock) => lock.get().reentrant().save(py).map(Kept::Reentrant),
            Self::Foreign(lock) => {
                if let Some(save) = lock.bind(py).getattr_opt(pyo3::intern!(py, "_release_save"))? {
                    return Ok(Kept::Foreign(Some(save.call0()?.unbind())));
                }
                lock.call_method0(py, pyo3::intern!(py, "release"))?;
                Ok(Kept::Foreign(None))
            }
        }
    }

    /// The calling thread waits for the condition, and needs this to go on: so it waits for whoever has it.
    #[inline]
    pub(crate) fn tell_of_wait(&self, py: Python<'_>, condition: &Watched) {
        if let Some(watched) = self.watched().filter(|_| detection::is_on()) {
            watched.waits_for_condition(py, who::caller(py), condition);
        }
    }

    pub(crate) fn watched(&self) -> Option<&Watched> {
        match self {
            Self::Plain(lock) => Some(lock.get().mutual().watched()),
            Self::Reentrant(lock) => Some(lock.get().reentrant().mutual().watched()),
            Self::Foreign(_) => None,
        }
    }

    /// Takes it again as it was, also if a signal's handler raises: that is raised when the lock is in hand.
    pub(crate) fn restore(&self, py: Python<'_>, kept: &Kept) -> PyResult<()> {
        let lock = match (self, kept) {
            (Self::Foreign(lock), Kept::Foreign(Some(state))) => {
                return lock.call_method1(py, pyo3::intern!(py, "_acquire_restore"), (state,)).map(drop);
            }
            (Self::Foreign(lock), _) => {
                return lock.call_method0(py, pyo3::intern!(py, "acquire")).map(drop);
            }
            (Self::Plain(lock), _) => lock.get().mutual(),
            (Self::Reentrant(lock), _) => lock.get().reentrant().mutual(),
        };
        let raised = if lock.try_retake() { None } else { block_stubbornly(py, lock)?.1 };
        self.restored(kept);
        raised.map_or(Ok(()), Err)
    }

    /// Takes note of how deep the one is in who has it again.
    pub(crate) fn restored(&self, kept: &Kept) {
        if let (Self::Reentrant(lock), Kept::Reentrant(saved)) = (self, kept) {
            lock.get().reentrant().restore(saved);
        }
    }

    /// What a task waits for to take it again.
    ///
    /// # Errors
    /// A task cannot wait for a lock that is not ours.
    pub(crate) fn mutual(&self, py: Python<'_>) -> PyResult<&Mutual> {
        match self {
            Self::Plain(lock) => Ok(lock.get().mutual()),
            Self::Reentrant(lock) => Ok(lock.get().reentrant().mutual()),
            Self::Foreign(lock) => Err(PyTypeError::new_err(format!(
                "could not wait for `{}` in a coroutine: found a lock that only threads can wait for, expected a \
                 manyhands.sync.Lock or RLock",
                lock.bind(py).get_type().name()?,
            ))),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Plain(lock) => visit.call(lock),
            Self::Reentrant(lock) => visit.call(lock),
            Self::Foreign(lock) => visit.call(lock),
        }
    }
}
