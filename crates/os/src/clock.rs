//! The machine's monotonic clock.

use std::time::Duration;

use manyhands_engine::clock::{Clock, Tick};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: the same in all processes of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Tick {
        Tick::ZERO + read(ClockId::Monotonic)
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
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}
