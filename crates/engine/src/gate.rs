//! Gates: what holds a group of tasks back, a rate and a number of tasks running at once.
//!
//! **Guarantees.** The tasks that enter keep to the rate in every window of time, and never are more inside
//! than the concurrency limit allows, provided each enters only when `Gate::opens` says `Now`.
//!
//! **Not here.** A gate holds no tasks and knows no order: the scheduler keeps a queue before each gate.

use crate::clock::Tick;
use crate::rate::{Gcra, Rate};

/// What a gate enforces; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// How often tasks may start.
    pub rate: Option<Rate>,
    /// How many tasks may run at once. With `Some(0)` none ever does.
    pub concurrency: Option<usize>,
}

/// Names one gate of one scheduler. The name of a gate that is gone is harmless: it is never given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GateId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// When the next task may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opens {
    Now,
    At(Tick),
    /// As soon as a task that passed has finished.
    OnFinish,
}

/// The state of one gate.
#[derive(Debug)]
pub(crate) struct Gate {
    limiter: Option<Gcra>,
    /// What the limiter says, kept because asking it costs a 128-bit division.
    next: Tick,
    concurrency: usize,
    running: usize,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        let limiter = limits.rate.map(Gcra::new);
        Self {
            next: limiter.as_ref().map_or(Tick::ZERO, Gcra::next),
            limiter,
            concurrency: limits.concurrency.unwrap_or(usize::MAX),
            running: 0,
        }
    }

    pub(crate) fn opens(&self, now: Tick) -> Opens {
        if self.running >= self.concurrency {
            Opens::OnFinish
        } else if self.next <= now {
            Opens::Now
        } else {
            Opens::At(self.next)
        }
    }

    /// Lets one task pass.
    pub(crate) fn enter(&mut self, now: Tick) {
        debug_assert_eq!(self.opens(now), Opens::Now);
        if let Some(limiter) = &mut self.limiter {
            let acquired = limiter.try_acquire(now);
            debug_assert_eq!(acquired, Ok(()));
            self.next = limiter.next();
        }
        self.running += 1;
    }

    /// Takes note that a task that passed has finished. One call too many is ignored.
    pub(crate) fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}
