//! What a map has done so far: counts, failures by kind, and the items that cost most.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::future::Future;
use crate::progress::Counts;

/// How many of the costliest items are remembered.
const COSTLIEST: usize = 10;

/// An item that cost much. Ordered by what it cost, then by position.
struct Costly {
    wall: Duration,
    index: u64,
    input: Py<PyAny>,
}

impl Costly {
    fn rank(&self) -> (Duration, Reverse<u64>) {
        (self.wall, Reverse(self.index))
    }
}

impl PartialEq for Costly {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Costly {}

impl PartialOrd for Costly {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Costly {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

pub(crate) struct Tally {
    began: Tick,
    ended: Option<Tick>,
    succeeded: u64,
    failed: u64,
    retried: u64,
    failures: BTreeMap<String, u64>,
    /// The least costly on top, to be replaced first.
    costliest: BinaryHeap<Reverse<Costly>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            began: clock::now(),
            ended: None,
            succeeded: 0,
            failed: 0,
            retried: 0,
            failures: BTreeMap::new(),
            costliest: BinaryHeap::new(),
        }
    }
}

impl Tally {
    /// Counts a settled item that took `wall` in one attempt.
    pub(crate) fn count_item(
        &mut self,
        py: Python<'_>,
        index: u64,
        wall: Duration,
        input: &Py<PyAny>,
        failure: Option<&PyErr>,
    ) -> PyResult<()> {
        self.count_end(py, failure)?;
        self.remember(py, wall, index, input);
        Ok(())
    }

    fn count_end(&mut self, py: Python<'_>, failure: Option<&PyErr>) -> PyResult<()> {
        match failure {
            None => self.succeeded += 1,
            Some(error) => {
                self.failed += 1;
                let kind = error.get_type(py).qualname()?.to_string();
                *self.failures.entry(kind).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Counts a settled item.
    pub(crate) fn count(
        &mut self,
        py: Python<'_>,
        index: u64,
        future: &Future,
        input: &Py<PyAny>,
        failure: Option<&PyErr>,
    ) -> PyResult<()> {
        self.count_end(py, failure)?;
        if let Some(detail) = future.detail() {
            let (wall, attempts) = {
                let history = detail.history();
                (history.wall, history.attempts)
            };
            self.retried += u64::from(attempts.saturating_sub(1));
            self.remember(py, wall, index, input);
        }
        Ok(())
    }

    fn remember(&mut self, py: Python<'_>, wall: Duration, index: u64, input: &Py<PyAny>) {
        if self.costliest.len() == COSTLIEST {
            match self.costliest.peek() {
                Some(Reverse(least)) if least.wall < wall => drop(self.costliest.pop()),
                _ => return,
            }
        }
        self.costliest.push(Reverse(Costly { wall, index, input: input.clone_ref(py) }));
    }

    /// Has a progress bar show what was handed out.
    pub(crate) fn settle(&self, counts: &Counts) {
        counts.settle(self.succeeded + self.failed, self.failed, self.retried);
    }

    /// Stops the clock.
    pub(crate) fn end(&mut self) {
        self.ended.get_or_insert_with(clock::now);
    }

    pub(crate) fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let mut costliest: Vec<&Costly> = self.costliest.iter().map(|Reverse(costly)| costly).collect();
        costliest.sort_unstable_by(|one, other| other.cmp(one));
        let costliest: Vec<(u64, Py<PyAny>, f64)> =
            costliest.iter().map(|it| (it.index, it.input.clone_ref(py), it.wall.as_secs_f64())).collect();
        let figures = PyDict::new(py);
        figures.set_item("succeeded", self.succeeded)?;
        figures.set_item("failed", self.failed)?;
        figures.set_item("retried", self.retried)?;
        figures.set_item("failures", self.failures.clone())?;
        figures.set_item("costliest", costliest)?;
        figures.set_item("seconds", (self.ended.unwrap_or_else(clock::now) - self.began).as_secs_f64())?;
        Ok(figures)
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.costliest.iter().try_for_each(|Reverse(costly)| visit.call(&costly.input))
    }
}
