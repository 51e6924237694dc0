//! `manyhands.sync`: primitives that threads and asyncio tasks wait for alike, in one process.
//!
//! Below lie `engine`'s [line](manyhands_engine::line) and [permits](manyhands_engine::permits); [`waiting`] knows how
//! threads and tasks wait, and every primitive has a file of its own.

mod atomic;
mod awaiting;
mod barrier;
mod channel;
mod condition;
mod detection;
mod event;
mod hubs;
mod keyed;
mod latch;
mod limiter;
mod lock;
mod monitor;
mod mutual;
mod once;
mod patience;
mod queue;
mod rlock;
mod rwlock;
mod semaphore;
mod waiting;
mod who;

pub(crate) use atomic::{AtomicFlag, AtomicInt};
pub(crate) use awaiting::Awaiting;
pub(crate) use barrier::Barrier;
pub(crate) use channel::{Channel, aselect, select};
pub(crate) use condition::Condition;
pub(crate) use detection::results::{
    ResultWait, begun as task_begun, steps as task_steps, wait as wait_for_result,
};
pub(crate) use detection::{deadlock_note, deadlock_of_notes, watch_locks, watches_locks};
pub(crate) use event::Event;
pub(crate) use hubs::register_hub;
pub(crate) use keyed::{KeyLock, KeyedLock};
pub(crate) use latch::Latch;
pub(crate) use limiter::RateLimiter;
pub(crate) use lock::Lock;
pub(crate) use once::Once;
use pyo3::prelude::*;
pub(crate) use queue::{LifoQueue, PriorityQueue, Queue};
pub(crate) use rlock::RLock;
pub(crate) use rwlock::{RWLock, RWLockSide};
pub(crate) use semaphore::{BoundedSemaphore, Semaphore};
pub(crate) use who::{after_fork_in_child, this_thread};

/// A primitive as it is shown: `<sync.Event at 0x7f…: set>`, with the last part of its module's name.
fn describe(slf: &Bound<'_, PyAny>, state: &str) -> PyResult<String> {
    let kind = slf.get_type();
    let module = kind.module()?.to_string();
    let module = module.rsplit('.').next().unwrap_or_default();
    Ok(format!("<{module}.{} at {:p}: {state}>", kind.qualname()?, slf.as_ptr()))
}
