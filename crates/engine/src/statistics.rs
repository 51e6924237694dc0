//! Statistics: how many tasks met which end, how long they waited and ran.
//!
//! **Guarantees.** Recording takes tens of nanoseconds and never fails. Means and maxima are exact;
//! percentiles are right to two significant digits between 1 µs and 24 h, and what lies outside counts as the
//! nearer end. Merging the statistics of several workers gives what one would have recorded.
//!
//! **Cost.** A histogram takes about 30 kB, allocated with its first value: an idle pool has none.
//!
//! **Source.** G. Tene's high dynamic range histogram, by the crate `hdrhistogram`.
//!
//! **Not here.** No lock and no atomics: each worker records into its own and whoever asks merges them. No
//! clock, no windows in time: all since the beginning.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Tasks handed in.
    pub submitted: u64,
    /// Attempts that began; more than tasks if some were retried.
    pub started: u64,
    /// Tasks that ended with a value.
    pub succeeded: u64,
    /// Tasks that ended with an exception, a timeout included.
    pub failed: u64,
    /// Tasks cancelled before they ended.
    pub cancelled: u64,
    /// Attempts that ran out of time.
    pub timed_out: u64,
    /// Attempts that followed a failed one.
    pub retried: u64,
    /// Attempts that were ended from outside: by a timeout, a cancellation or the death of a worker.
    pub interrupted: u64,
    wait: Option<Box<Times>>,
    run: Option<Box<Times>>,
}

/// A distribution of times, in seconds; all zero if there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Summary {
    /// How many times were recorded.
    pub count: u64,
    /// Their mean, exact.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// Ninety-nine in a hundred are at most this.
    pub p99: f64,
    /// The longest, exact.
    pub max: f64,
}

impl Statistics {
    /// Records how long a task waited before its attempt began.
    pub fn record_wait(&mut self, time: Duration) {
        self.wait.get_or_insert_default().record(time);
    }

    /// Records how long an attempt ran.
    pub fn record_run(&mut self, time: Duration) {
        self.run.get_or_insert_default().record(time);
    }

    /// Records `count` attempts that ran for that long each.
    pub fn record_runs(&mut self, time: Duration, count: u64) {
        self.run.get_or_insert_default().record_many(time, count);
    }

    /// Records `count` tasks that waited for that long each.
    pub fn record_waits(&mut self, time: Duration, count: u64) {
        self.wait.get_or_insert_default().record_many(time, count);
    }

    /// How long tasks waited.
    #[must_use]
    pub fn wait_summary(&self) -> Summary {
        self.wait.as_deref().map(Times::summary).unwrap_or_default()
    }

    /// How long attempts ran.
    #[must_use]
    pub fn run_summary(&self) -> Summary {
        self.run.as_deref().map(Times::summary).unwrap_or_default()
    }

    /// Adds all that `other` recorded.
    pub fn merge(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.started += other.started;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.timed_out += other.timed_out;
        self.retried += other.retried;
        self.interrupted += other.interrupted;
        for (own, others) in [(&mut self.wait, &other.wait), (&mut self.run, &other.run)] {
            if let Some(others) = others {
                own.get_or_insert_default().merge(others);
            }
        }
    }
}

const LONGEST_MICROSECONDS: u64 = 24 * 3600 * 1_000_000;
const SIGNIFICANT_DIGITS: u8 = 2;

#[derive(Debug, Clone)]
struct Times {
    microseconds: Histogram<u64>,
    total: Duration,
    longest: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let microseconds = Histogram::new_with_bounds(1, LONGEST_MICROSECONDS, SIGNIFICANT_DIGITS);
        let microseconds = microseconds.expect("bounds the crate accepts");
        Self { microseconds, total: Duration::ZERO, longest: Duration::ZERO }
    }
}

impl Times {
    fn record(&mut self, time: Duration) {
        self.record_many(time, 1);
    }

    fn record_many(&mut self, time: Duration, count: u64) {
        let microseconds =
            time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()));
        // The crate would count a time below a microsecond as none at all.
        self.microseconds.saturating_record_n(microseconds.max(1), count);
        let total = time.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        self.total = self.total.saturating_add(total);
        self.longest = self.longest.max(time);
    }

    fn merge(&mut self, other: &Self) {
        self.microseconds.add(&other.microseconds).expect("equal bounds");
        self.total = self.total.saturating_add(other.total);
        self.longest = self.longest.max(other.longest);
    }

    fn summary(&self) -> Summary {
        let count = self.microseconds.len();
        let max = self.longest.as_secs_f64();
        // A bucket is named by its upper end, which may lie above everything in it.
        let at = |quantile| (self.microseconds.value_at_quantile(quantile) as f64 / 1e6).min(max);
        let mean = self.total.as_secs_f64() / count as f64;
        Summary { count, mean, p50: at(0.5), p90: at(0.9), p99: at(0.99), max }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "both sides come from the same conversion of the same duration")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_pool_pays_nothing() {
        let statistics = Statistics::default();
        assert!(statistics.wait.is_none() && statistics.run.is_none());
        assert_eq!(statistics.run_summary(), Summary::default());
        let mut merged = Statistics::default();
        merged.merge(&statistics);
        assert!(merged.wait.is_none() && merged.run.is_none());
    }

    #[test]
    fn times_of_all_magnitudes_are_kept() {
        let mut statistics = Statistics::default();
        statistics.record_run(Duration::from_nanos(200));
        let only = statistics.run_summary();
        assert_eq!((only.count, only.mean, only.p50, only.max), (1, 200e-9, 200e-9, 200e-9));
        statistics.record_run(Duration::MAX);
        assert_eq!(statistics.run_summary().max, Duration::MAX.as_secs_f64());
        assert!((statistics.run_summary().p99 / 86400.0 - 1.0).abs() < 0.01);
        assert_eq!(statistics.wait_summary().count, 0);
    }

    #[test]
    fn counts_are_added() {
        let one = Statistics { submitted: 1, started: 2, succeeded: 3, failed: 4, ..Statistics::default() };
        let other = Statistics { cancelled: 5, timed_out: 6, retried: 7, interrupted: 8, ..one.clone() };
        let mut both = one;
        both.merge(&other);
        assert_eq!([both.submitted, both.started, both.succeeded, both.failed], [2, 4, 6, 8]);
        assert_eq!([both.cancelled, both.timed_out, both.retried, both.interrupted], [5, 6, 7, 8]);
    }

    /// Every magnitude from nanoseconds to a day.
    fn any_times() -> impl Strategy<Value = Vec<Duration>> {
        let time = (0..86_400_000_000_000_u64, 0..46_u32)
            .prop_map(|(nanos, bits)| Duration::from_nanos(nanos >> bits));
        proptest::collection::vec(time, 1..200)
    }

    fn recorded(times: &[Duration]) -> Statistics {
        let mut statistics = Statistics::default();
        for time in times {
            statistics.record_wait(*time);
        }
        statistics
    }

    /// Within two significant digits, and the microsecond that is the unit.
    fn close(found: f64, exact: Duration) -> bool {
        (found - exact.as_secs_f64()).abs() <= exact.as_secs_f64() * 0.01 + 1e-6
    }

    proptest! {
        #[test]
        fn a_summary_is_that_of_the_sorted_times(mut times in any_times()) {
            let summary = recorded(&times).wait_summary();
            times.sort_unstable();
            let rank = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
            prop_assert_eq!(summary.count, times.len() as u64);
            prop_assert!(close(summary.p50, rank(50)), "{summary:?}");
            prop_assert!(close(summary.p90, rank(90)), "{summary:?}");
            prop_assert!(close(summary.p99, rank(99)), "{summary:?}");
            prop_assert_eq!(summary.max, times[times.len() - 1].as_secs_f64());
            let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64;
            prop_assert_eq!(summary.mean, mean);
        }

        #[test]
        fn recording_many_equals_recording_each(times in any_times(), count in 1..9_usize) {
            let mut many = Statistics::default();
            let mut each = Statistics::default();
            for time in times {
                many.record_runs(time, count as u64);
                for _ in 0..count {
                    each.record_run(time);
                }
            }
            prop_assert_eq!(many.run_summary(), each.run_summary());
        }

        #[test]
        fn merging_equals_recording_everything_in_one_place(one in any_times(), other in any_times()) {
            let mut merged = recorded(&one);
            merged.merge(&recorded(&other));
            prop_assert_eq!(merged.wait_summary(), recorded(&[one, other].concat()).wait_summary());
        }
    }
}
