//! Policy: how long a task may take, how often it is tried again, and when.
//!
//! **Guarantees.** With `retries` retries a task is attempted at most `retries + 1` times. No delay exceeds
//! the backoff's cap. No attempt starts at or after the end of the total timeout.
//!
//! **Source.** Exponential backoff with full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015. Full jitter (a delay drawn evenly from zero to the exponential one) spreads
//! clients that failed together better than a delay with a little noise on top.
//!
//! **Not here.** Nothing is timed, queued or run; no random numbers are drawn (they come in, so that a seeded
//! run repeats). Which exceptions are worth a retry is for the layer that knows exceptions; it asks
//! [`Policy::after_failure`] only about those.

use std::time::Duration;

use thiserror::Error;

use crate::clock::Tick;

/// How the delay before a retry grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The longest delay before the first retry.
    pub base: Duration,
    /// By how much the longest delay grows with each further retry; at least 1.
    pub factor: f64,
    /// No delay is longer than this.
    pub cap: Duration,
    /// Whether to draw each delay evenly between zero and the longest one.
    pub jitter: bool,
}

impl Default for Backoff {
    /// 0.1 s, doubled up to 30 s, with full jitter.
    fn default() -> Self {
        Self { base: Duration::from_millis(100), factor: 2.0, cap: Duration::from_secs(30), jitter: true }
    }
}

impl Backoff {
    /// The delay before the given retry (1 is the first), where `random` in `[0, 1)` decides the jitter.
    #[must_use]
    pub fn delay(&self, retry: u32, random: f64) -> Duration {
        let growth = self.factor.powf(f64::from(retry.saturating_sub(1))).min(f64::MAX);
        let longest = self.capped(self.base.as_secs_f64() * growth);
        // Written so that a NaN means no delay rather than a panic.
        let share = if random > 0.0 { random.min(1.0) } else { 0.0 };
        if self.jitter { self.capped(longest.as_secs_f64() * share).min(longest) } else { longest }
    }

    fn capped(&self, seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).map_or(self.cap, |delay| delay.min(self.cap))
    }
}

/// What a task may cost; by default it runs once, for as long as it takes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Policy {
    /// How long each attempt may run.
    pub timeout: Option<Duration>,
    /// How long all attempts together may take, from submission on: waiting, running and delays.
    pub total_timeout: Option<Duration>,
    /// How many further attempts may follow the first.
    pub retries: u32,
    /// The delays between attempts.
    pub backoff: Backoff,
    /// Higher goes first.
    pub priority: i32,
}

/// What to do with a task whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Try it again at this tick.
    Retry {
        /// When the next attempt may start.
        at: Tick,
    },
    /// Its last failure is its outcome.
    GiveUp(Reason),
}

/// Why a task is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// All attempts were made.
    NoRetriesLeft,
    /// The next attempt would not start before the end of the total timeout.
    OutOfTime,
}

/// Why a policy was refused.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
pub enum PolicyError {
    /// A task would be out of time before it starts.
    #[error("could not use {name}: found 0 s, expected more")]
    NoTime {
        /// The field, `timeout` or `total_timeout`.
        name: &'static str,
    },
    /// The delays would shrink, or are undefined.
    #[error("could not use backoff factor: found {found}, expected a finite number of at least 1")]
    Factor {
        /// The factor given.
        found: f64,
    },
    /// Not even the first delay fits under the cap.
    #[error(
        "could not use backoff: found a base of {base:?} above the cap of {cap:?}, expected at most the cap"
    )]
    BaseAboveCap {
        /// The base given.
        base: Duration,
        /// The cap given.
        cap: Duration,
    },
}

impl PolicyError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoTime { .. } => "leave it out for no limit",
            Self::Factor { .. } => "use 1 for even delays, 2 to double them",
            Self::BaseAboveCap { .. } => "raise the cap to the longest delay you want, or lower the base",
        }
    }
}

impl Policy {
    /// Checks what the types allow but no task could live with.
    ///
    /// # Errors
    ///
    /// The first [`PolicyError`] that applies.
    pub fn validate(&self) -> Result<(), PolicyError> {
        for (name, timeout) in [("timeout", self.timeout), ("total_timeout", self.total_timeout)] {
            if timeout == Some(Duration::ZERO) {
                return Err(PolicyError::NoTime { name });
            }
        }
        let Backoff { base, factor, cap, .. } = self.backoff;
        if !factor.is_finite() || factor < 1.0 {
            return Err(PolicyError::Factor { found: factor });
        }
        if base > cap {
            return Err(PolicyError::BaseAboveCap { base, cap });
        }
        Ok(())
    }

    /// When an attempt that started at `started` has to be over: the earlier end of the two timeouts.
    #[must_use]
    pub fn deadline(&self, submitted: Tick, started: Tick) -> Option<Tick> {
        let attempt = self.timeout.map(|timeout| started + timeout);
        attempt.into_iter().chain(self.total_deadline(submitted)).min()
    }

    /// When the task has to be over, running or not.
    #[must_use]
    pub fn total_deadline(&self, submitted: Tick) -> Option<Tick> {
        self.total_timeout.map(|timeout| submitted + timeout)
    }

    /// What to do at `now`, after the last of `attempts` attempts failed; `random` as in [`Backoff::delay`].
    pub fn after_failure(&self, attempts: u32, submitted: Tick, now: Tick, random: f64) -> Verdict {
        if attempts > self.retries {
            return Verdict::GiveUp(Reason::NoRetriesLeft);
        }
        let at = now + self.backoff.delay(attempts, random);
        if self.total_deadline(submitted).is_some_and(|end| at >= end) {
            return Verdict::GiveUp(Reason::OutOfTime);
        }
        Verdict::Retry { at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_cap() {
        let backoff = Backoff { jitter: false, ..Backoff::default() };
        let milliseconds: Vec<u128> = (1..=11).map(|retry| backoff.delay(retry, 0.5).as_millis()).collect();
        assert_eq!(milliseconds, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff.delay(u32::MAX, 0.5), 30 * SECOND);
        assert_eq!(Backoff { base: Duration::ZERO, ..backoff }.delay(u32::MAX, 0.5), Duration::ZERO);
    }

    #[test]
    fn jitter_draws_evenly_from_nothing_to_the_longest_delay() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(3, 0.0), Duration::ZERO);
        assert_eq!(backoff.delay(3, 0.5), Duration::from_millis(200));
        assert_eq!(backoff.delay(3, 1.0), Duration::from_millis(400));
        assert_eq!(backoff.delay(3, f64::NAN), Duration::ZERO);
    }

    #[test]
    fn the_earlier_timeout_is_the_deadline() {
        let start = Tick::ZERO + 8 * SECOND;
        let policy = |timeout, total_timeout| Policy { timeout, total_timeout, ..Policy::default() };
        assert_eq!(policy(None, None).deadline(Tick::ZERO, start), None);
        assert_eq!(policy(Some(SECOND), None).deadline(Tick::ZERO, start), Some(Tick::ZERO + 9 * SECOND));
        assert_eq!(policy(Some(SECOND), Some(30 * SECOND)).deadline(Tick::ZERO, start), Some(start + SECOND));
        assert_eq!(
            policy(Some(9 * SECOND), Some(10 * SECOND)).deadline(Tick::ZERO, start),
            Some(start + 2 * SECOND)
        );
        assert_eq!(policy(Some(Duration::MAX), None).deadline(Tick::ZERO, start), Some(Tick::NEVER));
    }

    #[test]
    fn a_retry_has_to_start_before_the_end() {
        let backoff = Backoff { jitter: false, ..Backoff::default() };
        let policy = Policy { total_timeout: Some(SECOND), retries: 1, backoff, ..Policy::default() };
        let submitted = Tick::ZERO + SECOND;
        let latest = submitted + Duration::from_millis(900);
        let too_late = Verdict::GiveUp(Reason::OutOfTime);
        assert_eq!(policy.after_failure(1, submitted, latest, 0.0), too_late);
        let just_before = Tick::from_nanos(latest.as_nanos() - 1);
        let at = just_before + backoff.base;
        assert_eq!(policy.after_failure(1, submitted, just_before, 0.0), Verdict::Retry { at });
        let none_left = Verdict::GiveUp(Reason::NoRetriesLeft);
        assert_eq!(policy.after_failure(2, submitted, submitted, 0.0), none_left);
    }

    #[test]
    fn a_policy_that_makes_no_sense_is_refused() {
        let valid = Policy::default();
        assert_eq!(valid.validate(), Ok(()));
        let refused = |policy: Policy| policy.validate().unwrap_err();
        let timeout = refused(Policy { timeout: Some(Duration::ZERO), ..valid });
        assert_eq!(timeout.to_string(), "could not use timeout: found 0 s, expected more");
        let total = refused(Policy { total_timeout: Some(Duration::ZERO), ..valid });
        assert_eq!(total, PolicyError::NoTime { name: "total_timeout" });
        for factor in [0.5, -2.0, f64::INFINITY, f64::NAN] {
            let backoff = Backoff { factor, ..Backoff::default() };
            assert!(matches!(refused(Policy { backoff, ..valid }), PolicyError::Factor { .. }));
        }
        let backoff = Backoff { base: 60 * SECOND, ..Backoff::default() };
        assert!(
            refused(Policy { backoff, ..valid }).to_string().contains("a base of 60s above the cap of 30s")
        );
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (0..10_000_000_000_u64, 1.0..10.0_f64, 0..100_000_000_000_u64, any::<bool>()).prop_map(
            |(base, factor, cap, jitter)| {
                let (base, cap) = (Duration::from_nanos(base), Duration::from_nanos(cap));
                Backoff { base, factor, cap, jitter }
            },
        )
    }

    fn any_policy() -> impl Strategy<Value = Policy> {
        let total = proptest::option::of((1..100_000_000_000_u64).prop_map(Duration::from_nanos));
        (any_backoff(), total, 0..12_u32).prop_map(|(backoff, total_timeout, retries)| Policy {
            total_timeout,
            retries,
            backoff,
            ..Policy::default()
        })
    }

    proptest! {
        #[test]
        fn a_delay_never_exceeds_cap_or_growth(
            backoff in any_backoff(),
            retry in 1..100_u32,
            random in 0.0..1.0_f64,
        ) {
            let delay = backoff.delay(retry, random);
            let even = Backoff { jitter: false, ..backoff };
            let longest = even.delay(retry, random);
            prop_assert!(delay <= longest && longest <= backoff.cap);
            prop_assert!(longest <= even.delay(retry + 1, random));
            if !backoff.jitter {
                prop_assert_eq!(delay, longest);
            }
        }

        #[test]
        fn attempts_and_time_are_bounded(
            policy in any_policy(),
            runs in proptest::collection::vec((0..5_000_000_000_u64, 0.0..1.0_f64), 20),
        ) {
            let submitted = Tick::from_nanos(7);
            let mut now = submitted;
            let mut attempts = 0;
            let mut gave_up = None;
            for (nanos, random) in runs {
                attempts += 1;
                now = now + Duration::from_nanos(nanos);
                match policy.after_failure(attempts, submitted, now, random) {
                    Verdict::Retry { at } => {
                        prop_assert!(at >= now && at <= now + policy.backoff.cap);
                        prop_assert!(policy.total_deadline(submitted).is_none_or(|end| at < end));
                        now = at;
                    }
                    Verdict::GiveUp(reason) => {
                        gave_up = Some(reason);
                        break;
                    }
                }
            }
            prop_assert!(attempts <= policy.retries + 1);
            match gave_up {
                Some(Reason::NoRetriesLeft) => prop_assert_eq!(attempts, policy.retries + 1),
                Some(Reason::OutOfTime) => {
                    let end = policy.total_deadline(submitted);
                    prop_assert!(end.is_some_and(|end| now + policy.backoff.cap >= end));
                }
                None => prop_assert!(false, "twenty failures and still no end"),
            }
        }
    }
}
