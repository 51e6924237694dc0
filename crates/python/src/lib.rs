//! `manyhands._core`: the one crate that knows Python.

#![expect(clippy::doc_markdown, reason = "the doc comments of Python classes and functions are docstrings")]

mod adopt;
mod attempt;
mod batched;
mod bridge;
mod bulk;
mod call;
mod cancellations;
mod detail;
mod draft;
mod enter;
mod error;
mod executor;
mod future;
mod gather;
mod journal;
mod latch;
mod lines;
mod loop_crew;
mod map;
mod message;
mod native;
mod offer;
mod outcome;
mod parcel;
mod patience;
mod pickle;
mod policy;
mod pool;
mod process_crew;
mod process_worker;
mod progress;
mod queue;
mod reading;
mod seed;
mod shared;
mod soft_limit;
mod supervisor;
mod sync;
mod tally;
mod thread_crew;
mod timers;
mod unobserved;
mod view;
mod wait;
mod waiter;
mod wire;

use pyo3::prelude::*;

/// The Rust core of manyhands. Private: use the names of `manyhands` instead.
#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::batched::Batched;
    #[pymodule_export]
    use crate::executor::{Executor, is_coroutine_function};
    #[pymodule_export]
    use crate::future::Future;
    #[pymodule_export]
    use crate::gather::{gather, race};
    #[pymodule_export]
    use crate::journal::{JournalError, PyLedger, digest};
    #[pymodule_export]
    use crate::loop_crew::{Loop, Runner};
    #[pymodule_export]
    use crate::map::{Mapped, map_calls};
    #[pymodule_export]
    use crate::outcome::{Outcome, Receipt};
    #[pymodule_export]
    use crate::policy::Policy;
    #[pymodule_export]
    use crate::pool::refuse_new_tasks;
    #[pymodule_export]
    use crate::process_worker::ProcessWorker;
    #[pymodule_export]
    use crate::queue::batch::TaskBatch;
    #[pymodule_export]
    use crate::queue::broker::{QueueBroker, flush_queues, shown_address};
    #[pymodule_export]
    use crate::queue::errand::Errand;
    #[pymodule_export]
    use crate::queue::results::ResultStore;
    #[pymodule_export]
    use crate::queue::worker::QueueWorker;
    #[pymodule_export]
    use crate::reading::{import_module, is_reading, unpickle};
    #[pymodule_export]
    use crate::shared::{
        SharedArray, SharedBarrier, SharedCondition, SharedCounter, SharedDict, SharedEvent, SharedLock,
        SharedQueue, SharedRLock, SharedRWLock, SharedRWLockGuard, SharedSemaphore, SharedValue, open_shared,
    };
    #[pymodule_export]
    use crate::soft_limit::call_within;
    #[pymodule_export]
    use crate::supervisor::{Process, ProcessPool};
    #[pymodule_export]
    use crate::sync::{
        AtomicFlag, AtomicInt, Awaiting, Barrier, BoundedSemaphore, Channel, Condition, Event, KeyLock,
        KeyedLock, Latch, LifoQueue, Lock, Once, PriorityQueue, Queue, RLock, RWLock, RWLockSide,
        RateLimiter, Semaphore,
    };
    #[pymodule_export]
    use crate::sync::{aselect, register_hub, select, watch_locks, watches_locks};
    #[pymodule_export]
    use crate::thread_crew::Thread;
    #[pymodule_export]
    use crate::wait::{Completed, wait_for};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
        super::register_fork_handler(module.py())
    }

    /// Have orphaned descendants become children of this process.
    #[pyfunction]
    fn become_subreaper() -> PyResult<()> {
        Ok(manyhands_os::process::become_subreaper()?)
    }

    /// Have this process killed when its parent ends.
    #[pyfunction]
    fn die_with_parent() -> PyResult<()> {
        Ok(manyhands_os::process::set_parent_death_signal()?)
    }

    /// The processors that this process may use: its affinity mask, cut by the cgroup's quota.
    #[pyfunction]
    fn available_processors() -> usize {
        manyhands_os::processors::available()
    }
}

/// Has pools of the parent refuse to work in a forked child, where their threads do not exist.
fn register_fork_handler(py: Python<'_>) -> PyResult<()> {
    #[pyfunction]
    fn after_fork_in_child() {
        pool::after_fork_in_child();
        sync::after_fork_in_child();
        queue::runtime::after_fork_in_child();
        manyhands_os::shared::wait::forget_me();
    }
    #[pyfunction]
    fn around_fork() {
        view::around_fork();
    }
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item("after_in_child", pyo3::wrap_pyfunction!(after_fork_in_child, py)?)?;
    let around = pyo3::wrap_pyfunction!(around_fork, py)?;
    keywords.set_item("before", &around)?;
    keywords.set_item("after_in_parent", around)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&keywords)).map(drop)
}
