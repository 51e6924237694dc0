//! How long it is worth looking for something before one sleeps: not at all where it comes now and then.
//!
//! To be woken costs more than what a short wait costs, above all on a processor that has gone to sleep. Whoever looks gives
//! way meanwhile: what it looks for may need this very processor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use manyhands_engine::clock::Tick;
use manyhands_os::clock;

/// How long to look at least, if at all.
const SHORTEST: Duration = Duration::from_micros(2);

/// What was learnt of how long it takes.
#[derive(Debug)]
pub(crate) struct Patience {
    longest: Duration,
    nanoseconds: AtomicU64,
}

impl Patience {
    /// One that looks for `longest` at most.
    pub(crate) const fn new(longest: Duration) -> Self {
        Self { longest, nanoseconds: AtomicU64::new(nanoseconds(longest)) }
    }

    /// Looks from `began` on until `is_over`, or it is not worth it any more, or `deadline`.
    ///
    /// # Errors
    /// What `is_over` says.
    pub(crate) fn look<E>(
        &self,
        began: Tick,
        deadline: Option<Tick>,
        mut is_over: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let span = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        let until = (began + span).min(deadline.unwrap_or(Tick::NEVER));
        loop {
            if is_over()? {
                return Ok(true);
            }
            if clock::now() >= until {
                return Ok(false);
            }
            std::thread::yield_now();
        }
    }

    /// Takes note of how long it took, sleep included. Others may do the same at the same time: either will do.
    pub(crate) fn learn(&self, waited: Duration) {
        let span = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        let next = if waited <= self.longest { (span * 2).clamp(SHORTEST, self.longest) } else { span / 2 };
        self.nanoseconds.store(nanoseconds(next), Ordering::Relaxed);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "585 years fit")]
const fn nanoseconds(span: Duration) -> u64 {
    span.as_nanos() as u64
}
