//! `memory://name`: results in this process.
//!
//! **Guarantees.** One address is one store, for everybody in the process; it is there as long as it is used or holds a
//! result. What has expired is found by nobody, and its memory is free at the next `store`.
//!
//! **Not here.** Nothing outlives the process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::waiters::Waiters;
use super::{Backend, Found, State, Stored};
use crate::address::Address;
use crate::error::Error;
use crate::named::{Houses, Named, Resident, locked};
use crate::open::Options;

#[derive(Debug)]
struct Kept {
    found: Found,
    /// `None`: never.
    expires: Option<Instant>,
}

#[derive(Debug, Default)]
struct Rack {
    results: HashMap<Arc<str>, Kept>,
    /// When to look at which result. It may have been stored again since, and expire later.
    expiries: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
}

impl Rack {
    fn get(&self, id: &str, now: Instant) -> Option<&Found> {
        let kept = self.results.get(id)?;
        kept.expires.is_none_or(|expires| now < expires).then_some(&kept.found)
    }

    /// Whether it was stored: a success is final.
    fn store(&mut self, result: &Stored, now: Instant, expires: Option<Instant>) -> bool {
        if self.get(&result.id, now).is_some_and(|found| found.state == State::Success) {
            return false;
        }
        let id: Arc<str> = result.id.as_str().into();
        if let Some(expires) = expires {
            self.expiries.push(Reverse((expires, Arc::clone(&id))));
        }
        let found = Found { state: result.state.clone(), document: result.document.clone() };
        self.results.insert(id, Kept { found, expires });
        true
    }

    fn sweep(&mut self, now: Instant) {
        while self.expiries.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, id))) = self.expiries.pop() else { break };
            if self.results.get(&id).is_some_and(|kept| kept.expires.is_some_and(|expires| expires <= now)) {
                self.results.remove(&id);
            }
        }
    }
}

/// What `memory://name` is.
#[derive(Debug, Default)]
struct Hub {
    rack: Mutex<Rack>,
    waiters: Arc<Waiters>,
}

static HUBS: LazyLock<Houses<Hub>> = LazyLock::new(Houses::default);

impl Resident for Hub {
    fn houses() -> &'static Houses<Self> {
        &HUBS
    }

    fn is_empty(&self) -> bool {
        let now = Instant::now();
        let rack = locked(&self.rack);
        rack.results.keys().all(|id| rack.get(id, now).is_none())
    }
}

/// The result store behind `memory://name`.
#[derive(Debug)]
pub struct MemoryBackend {
    hub: Named<Hub>,
    shown: String,
    keep: Duration,
    is_closed: AtomicBool,
    /// Ends those who wait by way of this handle.
    end: tokio::sync::Notify,
}

impl MemoryBackend {
    /// The result store of that address, which all in this process share.
    #[must_use]
    pub fn open(address: &Address, options: &Options) -> Self {
        Self {
            hub: Named::find(address.secret()),
            shown: address.shown().into(),
            keep: options.keep_results,
            is_closed: AtomicBool::new(false),
            end: tokio::sync::Notify::new(),
        }
    }

    fn enter(&self) -> Result<MutexGuard<'_, Rack>, Error> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed { server: self.shown.clone() });
        }
        Ok(locked(&self.hub.rack))
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn address(&self) -> &str {
        &self.shown
    }

    async fn store(&self, results: &[Stored]) -> Result<(), Error> {
        let mut rack = self.enter()?;
        let now = Instant::now();
        let expires = now.checked_add(self.keep);
        rack.sweep(now);
        for result in results {
            if rack.store(result, now, expires)
                && result.state.is_ready()
                && self.hub.waiters.wants(&result.id)
            {
                let found = Found { state: result.state.clone(), document: result.document.clone() };
                self.hub.waiters.tell(&result.id, &found);
            }
        }
        Ok(())
    }

    async fn get(&self, id: &str) -> Result<Option<Found>, Error> {
        Ok(self.enter()?.get(id, Instant::now()).cloned())
    }

    async fn wait(&self, id: &str, _patience: Duration) -> Result<Found, Error> {
        let mut end = std::pin::pin!(self.end.notified());
        end.as_mut().enable();
        let mut waiting = self.hub.waiters.enter(id);
        if let Some(found) = self.enter()?.get(id, Instant::now()).filter(|found| found.state.is_ready()) {
            return Ok(found.clone());
        }
        let found = tokio::select! {
            found = waiting.found() => found,
            () = end => None,
        };
        found.ok_or_else(|| Error::Closed { server: self.shown.clone() })
    }

    async fn forget(&self, id: &str) -> Result<(), Error> {
        self.enter()?.results.remove(id);
        Ok(())
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.end.notify_waiters();
    }
}
