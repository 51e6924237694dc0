//! The machine's monotonic clock.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use manyhands_engine::clock::{Clock, Tick};

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// `CLOCK_MONOTONIC`, counted from the first look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Tick {
        Tick::ZERO + ORIGIN.elapsed()
    }
}

/// The time by [`MonotonicClock`].
#[must_use]
pub fn now() -> Tick {
    MonotonicClock.now()
}

/// Processor time that the calling thread has used.
#[must_use]
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}
