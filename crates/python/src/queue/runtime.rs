//! The one tokio runtime of the process, and everything that must not survive a fork.
//!
//! It is started when it is first needed and never ended: its threads are no threads of the interpreter's, and whoever
//! exits does not wait for them. Its brokers and stores are shared by address: what asks for the same server in the same
//! way gets the same connections.
//!
//! **Forks.** A forked child has none of its parent's threads, and must not use its connections. So each fork begins a new
//! [`Era`], in which nothing is there yet; the one before is left as it lies, for whatever its locks were doing. Nothing of
//! it is dropped: to close a database that the parent has open would take the parent's locks away.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;
use manyhands_os::park::{Parker, Woken};
use manyhands_queue::address::Address;
use manyhands_queue::caller::{self, Watched};
use manyhands_queue::open::Options;
use manyhands_queue::{Backend, Broker};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use super::outbox::Outbox;
use crate::enter;

/// One keeps servers busy, for what takes long is not done here; of two, each would wake the other for nothing.
const THREADS: usize = 1;

/// What belongs to this process, and to no child that it forks.
pub(crate) struct Era {
    runtime: OnceLock<Runtime>,
    pub(super) brokers: Shelf<Arc<dyn Broker>>,
    pub(super) stores: Shelf<Arc<dyn Backend>>,
    pub(super) outboxes: Shelf<Arc<Outbox>>,
    next: OnceLock<&'static Era>,
}

impl Era {
    const fn new() -> Self {
        Self {
            runtime: OnceLock::new(),
            brokers: Shelf::new(),
            stores: Shelf::new(),
            outboxes: Shelf::new(),
            next: OnceLock::new(),
        }
    }
}

static FIRST: Era = Era::new();
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// The era of this process.
pub(crate) fn era() -> &'static Era {
    let mut era = &FIRST;
    for _ in 0..FORKS.load(Ordering::Acquire) {
        era = era.next.get_or_init(|| Box::leak(Box::new(Era::new())));
    }
    era
}

/// Begins a new era. The child has only this thread yet.
pub(crate) fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::AcqRel);
}

/// Things by a name that says all about how they were made. There are few of them.
pub(crate) struct Shelf<T>(Mutex<Vec<(String, T)>>);

impl<T: Clone> Shelf<T> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn things(&self) -> MutexGuard<'_, Vec<(String, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is called so, opened if it is not there.
    pub(super) fn get_or_open<E>(&self, name: &str, open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut things = self.things();
        if let Some((_, thing)) = things.iter().find(|(known, _)| known == name) {
            return Ok(thing.clone());
        }
        let opened = open()?;
        things.push((name.into(), opened.clone()));
        Ok(opened)
    }

    /// What is called so, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<T> {
        self.things().iter().find(|(known, _)| known == name).map(|(_, thing)| thing.clone())
    }

    /// Takes what is called so off the shelf.
    pub(super) fn take(&self, name: &str) -> Option<T> {
        let mut things = self.things();
        let at = things.iter().position(|(known, _)| known == name)?;
        Some(things.swap_remove(at).1)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<T> {
        self.things().iter().map(|(_, thing)| thing.clone()).collect()
    }
}

/// What tells one broker or store from another: where it is, and how it is used. What lies in this process alone must be
/// the same one for all, however each of them would wait for a server.
pub(super) fn name(places: &[&Address], options: &Options) -> String {
    let places: Vec<&str> = places.iter().map(|place| place.secret()).collect();
    let is_here = places.first().is_some_and(|place| place.starts_with("memory:"));
    if is_here { places[0].into() } else { format!("{}\n{options:?}", places.join("\n")) }
}

/// The runtime of this process.
///
/// # Errors
/// `OSError` if its thread cannot be started.
pub(crate) fn handle() -> PyResult<&'static Handle> {
    let era = era();
    if let Some(runtime) = era.runtime.get() {
        return Ok(runtime.handle());
    }
    let made = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("manyhands-queue")
        .enable_all()
        .build()
        .map_err(|failure| PyOSError::new_err(format!("could not start the queue's thread: {failure}")))?;
    if let Err(surplus) = era.runtime.set(made) {
        surplus.shutdown_background();
    }
    Ok(era.runtime.get().expect("it was set above").handle())
}

struct Alarm(Parker);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` in this thread, detached; `None` if the deadline came first. Given up, it is dropped. A socket that it is
/// the only one to use, it may have [watched](caller) by this thread.
///
/// # Errors
/// What a signal handler raised.
pub(crate) fn wait<F>(py: Python<'_>, deadline: Option<Tick>, future: F) -> PyResult<Option<F::Output>>
where
    F: Future + Send,
    F::Output: Send,
{
    let runtime = handle()?;
    let alarm = Arc::new(Alarm(Parker::default()));
    let waker = Waker::from(Arc::clone(&alarm));
    let mut future = pin!(future);
    loop {
        let (polled, wish) = py.detach(|| {
            let _inside = runtime.enter();
            caller::poll(future.as_mut(), &mut Context::from_waker(&waker))
        });
        if let Poll::Ready(value) = polled {
            return Ok(Some(value));
        }
        let wished = wish.until.map(|when| clock::now() + when.saturating_duration_since(Instant::now()));
        let until = deadline.into_iter().chain(wished).min();
        let woken = match &wish.socket {
            // It has woken itself.
            Some(_) if alarm.0.take() => Woken::Notified,
            Some(Watched { stream, reads, writes }) => {
                enter::watch(py, stream.as_fd(), [*reads, *writes], until)?
            }
            None => enter::park(py, &alarm.0, until)?,
        };
        if woken == Woken::TimedOut && until == deadline {
            return Ok(None);
        }
    }
}
