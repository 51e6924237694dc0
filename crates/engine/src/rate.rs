//! Rates: how many calls in how much time, and the limiter that keeps to one.
//!
//! [`Rate`] is what a user writes (`"100/s"`), [`Gcra`] the state that holds calls to it.
//!
//! **Guarantees.** In no window of length `w`, wherever it starts, do more than `burst + w · calls / per`
//! acquisitions succeed. Nor fewer than that are possible: whoever acquires at each tick the limiter names
//! attains the rate. With a burst of 2 or more exactly, for ever; an even rate loses what rounding its
//! interval up to a whole nanosecond costs, because a shorter one would break the first law.
//!
//! **Source.** The generic cell rate algorithm in its virtual scheduling form: ITU-T recommendation I.371,
//! annex A. It is a token bucket of `burst` tokens, refilled continuously, that stores one number (the
//! theoretical arrival time of the next call) and needs no timer.
//!
//! **Not here.** No clock (time comes in), no waiting (the caller is told when to come back), no queue (that
//! is the scheduler), no sharing between processes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::clock::Tick;

/// At most `calls` in every `per`, after an initial `burst`.
///
/// Written as `<calls>/<period>` with an optional ` burst <n>`:
///
/// | text | meaning |
/// |---|---|
/// | `100/s` | one call every 10 ms |
/// | `2.5/s` | one every 400 ms; the calls may be a decimal number |
/// | `6/m`, `1000/h`, `20/d` | per minute, hour, day |
/// | `100/10s` | the period may be several units, a whole number of them |
/// | `100/s burst 20` | up to 20 at once, then one every 10 ms |
///
/// Units are `ns`, `us`, `ms`, `s`, `m`, `h`, `d`; `sec`, `second`, `min`, `minute`, `hour`, `day` are
/// understood. The burst is 1 unless stated: an even rate, which is what the limits of most services mean.
///
/// A value put together by hand may be degenerate: with no calls nothing ever passes, without a period
/// everything does, and a burst of 0 counts as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many calls may start in every [`per`](Self::per).
    pub calls: u32,
    /// The period.
    pub per: Duration,
    /// How many calls may start at once after a pause; at least 1.
    pub burst: u32,
}

/// Why a rate was refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RateError {
    /// The text has no `/`.
    #[error("could not read rate `{text}`: found no `/`, expected calls per period")]
    NoPeriod {
        /// The whole text.
        text: String,
    },
    /// What stands before the `/` is not a usable number.
    #[error("could not read rate `{text}`: found `{found}` calls, expected a decimal number above 0")]
    Calls {
        /// The whole text.
        text: String,
        /// The part before the `/`.
        found: String,
    },
    /// What stands after the `/` is not a period.
    #[error(
        "could not read rate `{text}`: found period `{found}`, expected a unit of time such as `s` or `10s`"
    )]
    Period {
        /// The whole text.
        text: String,
        /// The part after the `/`.
        found: String,
    },
    /// What stands after the period is not a burst.
    #[error("could not read rate `{text}`: found `{found}` after the period, expected `burst` and a count")]
    Burst {
        /// The whole text.
        text: String,
        /// The part after the period.
        found: String,
    },
    /// The number is not a rate, or one beyond what can be counted.
    #[error(
        "could not set rate: found {found} calls per second, expected a number above 0 and at most 4294967295"
    )]
    CallsPerSecond {
        /// The number given.
        found: f64,
    },
    /// A burst of nothing would let no call pass.
    #[error("could not set rate: found a burst of 0 calls, expected at least 1")]
    NoBurst,
}

impl RateError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPeriod { .. } => "say per what, as in `100/s`, `6/m` or `1000/h`",
            Self::Calls { .. } => {
                "write a number such as `100/s` or `2.5/s`; leave the rate out for no limit"
            }
            Self::Period { .. } => {
                "use one of ns, us, ms, s, m, h, d, with a whole number before it if need be: `100/10s`"
            }
            Self::Burst { .. } => "write `100/s burst 20`, or leave the burst out for an even rate",
            Self::CallsPerSecond { .. } => "leave the rate out for no limit",
            Self::NoBurst => "use a burst of 1 for an even rate",
        }
    }
}

impl Rate {
    /// A rate of `calls_per_second`, of which `burst` may come at once (1 for an even rate).
    ///
    /// A number with more digits than a [`Rate`] holds (about nine) is rounded down, never up.
    ///
    /// # Errors
    ///
    /// [`RateError::CallsPerSecond`] if the number is not above 0, not finite or too large,
    /// [`RateError::NoBurst`] if `burst` is 0.
    pub fn new(calls_per_second: f64, burst: u32) -> Result<Self, RateError> {
        let refused = RateError::CallsPerSecond { found: calls_per_second };
        if burst == 0 {
            return Err(RateError::NoBurst);
        }
        // The decimal a person meant is the shortest that reads back as this float: what `Display` prints.
        let (calls, per) = scale(&calls_per_second.to_string(), NANOS_PER_SECOND).ok_or(refused)?;
        Ok(Self { calls, per, burst })
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let whole = || text.to_owned();
        let (calls, rest) = text.split_once('/').ok_or_else(|| RateError::NoPeriod { text: whole() })?;
        let (calls, rest) = (calls.trim(), rest.trim());
        let (period, suffix) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let nanos = parse_period(period)
            .ok_or_else(|| RateError::Period { text: whole(), found: period.to_owned() })?;
        let (calls, per) =
            scale(calls, nanos).ok_or_else(|| RateError::Calls { text: whole(), found: calls.to_owned() })?;
        let burst = parse_burst(suffix.trim())
            .ok_or_else(|| RateError::Burst { text: whole(), found: suffix.trim().to_owned() })?;
        Ok(Self { calls, per, burst })
    }
}

impl fmt::Display for Rate {
    /// The form [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.per.as_nanos();
        let (unit, size) = UNITS
            .iter()
            .rev()
            .find(|(_, size)| nanos != 0 && nanos.is_multiple_of(u128::from(*size)))
            .map_or(("ns", 1), |(names, size)| (names[0], *size));
        write!(f, "{}/", self.calls)?;
        match nanos / u128::from(size) {
            1 => write!(f, "{unit}")?,
            count => write!(f, "{count}{unit}")?,
        }
        if self.burst == 1 { Ok(()) } else { write!(f, " burst {}", self.burst) }
    }
}

/// Holds calls to a [`Rate`]; starts with the whole burst at hand.
///
/// Times are kept in units of 1/`calls` nanoseconds, in 128 bits. There the interval between two calls is a
/// whole number (`per`), so nothing is ever rounded but the answer "not before", which is rounded up.
#[derive(Debug, Clone)]
pub struct Gcra {
    /// Units per nanosecond.
    calls: u128,
    /// Units from one call to the next at the even rate.
    interval: u128,
    /// Units by which a call may come before its theoretical arrival time.
    tolerance: u128,
    /// The theoretical arrival time of the next call.
    arrival: u128,
}

impl Gcra {
    /// A limiter that has let nothing pass yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let interval = rate.per.as_nanos();
        Self {
            calls: u128::from(rate.calls.max(1)),
            interval,
            tolerance: interval * u128::from(rate.burst.saturating_sub(1)),
            // No calls at all: the next one is due after the end of time.
            arrival: if rate.calls == 0 { u128::MAX } else { 0 },
        }
    }

    /// Takes one call's worth if the rate allows a call at `now`.
    ///
    /// # Errors
    ///
    /// The earliest tick at which it would succeed, if nobody else acquires before. Nothing was taken.
    pub fn try_acquire(&mut self, now: Tick) -> Result<(), Tick> {
        let now = u128::from(now.as_nanos()) * self.calls;
        if now < self.arrival.saturating_sub(self.tolerance) {
            return Err(self.next());
        }
        self.arrival = self.arrival.max(now) + self.interval;
        Ok(())
    }

    /// The earliest tick at which [`try_acquire`](Self::try_acquire) succeeds; the same until it did.
    #[must_use]
    pub fn next(&self) -> Tick {
        self.after(0)
    }

    /// The earliest tick at which it succeeds after `others` have acquired as soon as they could, if that is not at once.
    #[must_use]
    pub fn after(&self, others: usize) -> Tick {
        let ahead = self.interval.saturating_mul(others as u128);
        let units = self.arrival.saturating_add(ahead).saturating_sub(self.tolerance);
        u64::try_from(units.div_ceil(self.calls)).map_or(Tick::NEVER, Tick::from_nanos)
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Names of each unit, the one to print first, and its nanoseconds; ascending.
const UNITS: [(&[&str], u64); 7] = [
    (&["ns"], 1),
    (&["us"], 1_000),
    (&["ms"], 1_000_000),
    (&["s", "sec", "second"], NANOS_PER_SECOND),
    (&["m", "min", "minute"], 60 * NANOS_PER_SECOND),
    (&["h", "hour"], 3_600 * NANOS_PER_SECOND),
    (&["d", "day"], 86_400 * NANOS_PER_SECOND),
];

/// Nanoseconds of `s`, `10s`, `5min`…
fn parse_period(text: &str) -> Option<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let count = &text[..text.len() - unit.len()];
    let count: u64 = if count.is_empty() { 1 } else { count.parse().ok()? };
    let (_, size) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
    count.checked_mul(*size).filter(|nanos| *nanos > 0)
}

fn parse_burst(text: &str) -> Option<u32> {
    if text.is_empty() {
        return Some(1);
    }
    text.strip_prefix("burst")?.trim_start_matches([' ', '=']).parse().ok().filter(|burst| *burst > 0)
}

/// `decimal` calls per `nanos` as whole calls per a period ten, hundred… times as long, rounded down.
fn scale(decimal: &str, nanos: u64) -> Option<(u32, Duration)> {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut zeros = u32::try_from(digits.len() - whole.len()).ok()?;
    // 38 digits fit; a tail beyond them is far below what the loop keeps.
    let kept = digits.trim_start_matches('0');
    let (kept, tail) = kept.split_at(kept.len().min(38));
    zeros = zeros.checked_sub(u32::try_from(tail.len()).ok()?)?;
    let mut calls: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    loop {
        let period = 10_u64.checked_pow(zeros).and_then(|factor| nanos.checked_mul(factor));
        match (u32::try_from(calls), period) {
            (Ok(0), _) => return None,
            (Ok(calls), Some(nanos)) => return Some((calls, Duration::from_nanos(nanos))),
            _ => zeros = zeros.checked_sub(1)?,
        }
        calls /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn of(calls: u32, per: Duration, burst: u32) -> Rate {
        Rate { calls, per, burst }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        let second = Duration::from_secs(1);
        assert_eq!(rate("100/s"), of(100, second, 1));
        assert_eq!(rate(" 100 / sec "), of(100, second, 1));
        assert_eq!(rate("6/m"), of(6, 60 * second, 1));
        assert_eq!(rate("1000/h"), of(1000, 3600 * second, 1));
        assert_eq!(rate("20/day"), of(20, 86400 * second, 1));
        assert_eq!(rate("2.5/s"), of(25, 10 * second, 1));
        assert_eq!(rate("2.50/s"), of(25, 10 * second, 1));
        assert_eq!(rate("0.5/m"), of(5, 600 * second, 1));
        assert_eq!(rate("100/10s"), of(100, 10 * second, 1));
        assert_eq!(rate("3/250ms"), of(3, Duration::from_millis(250), 1));
        assert_eq!(rate("100/s burst 20"), of(100, second, 20));
        assert_eq!(rate("100/s burst=20"), of(100, second, 20));
    }

    #[test]
    fn what_is_not_a_rate_is_refused_with_the_part_that_is_wrong() {
        let refused = |text: &str| text.parse::<Rate>().unwrap_err();
        assert!(matches!(refused("100"), RateError::NoPeriod { .. }));
        for text in ["/s", "0/s", "-1/s", "x/s", "1e3/s", "0.0/s", "1.2.3/s", "4294967296/s", "∞/s"] {
            assert!(matches!(refused(text), RateError::Calls { .. }), "{text}");
        }
        for text in ["1/", "1/x", "1/0s", "1/-1s", "1/1.5s", "1/10", "1/99999999999999999999s", "1/s/s"] {
            assert!(matches!(refused(text), RateError::Period { .. }), "{text}");
        }
        for text in ["1/s burst", "1/s burst 0", "1/s burst -1", "1/s 20", "1/s brust 20"] {
            assert!(matches!(refused(text), RateError::Burst { .. }), "{text}");
        }
        assert_eq!(
            refused("ten/s").to_string(),
            "could not read rate `ten/s`: found `ten` calls, expected a decimal number above 0"
        );
        assert!(refused("ten/s").hint().contains("2.5/s"));
    }

    #[test]
    fn a_number_of_calls_per_second_becomes_the_decimal_it_was_meant_as() {
        let second = Duration::from_secs(1);
        assert_eq!(Rate::new(100.0, 1), Ok(of(100, second, 1)));
        assert_eq!(Rate::new(4.35, 7), Ok(of(435, 100 * second, 7)));
        assert_eq!(Rate::new(1.0 / 3.0, 1), Ok(of(3_333_333_333, Duration::from_secs(10_000_000_000), 1)));
        assert_eq!(Rate::new(1.0, 0), Err(RateError::NoBurst));
        for wrong in [0.0, -1.0, f64::INFINITY, 5e9, 1e-300] {
            assert_eq!(Rate::new(wrong, 1), Err(RateError::CallsPerSecond { found: wrong }));
        }
        assert!(Rate::new(f64::NAN, 1).is_err());
    }

    #[test]
    fn a_degenerate_rate_means_what_it_says() {
        let mut none = Gcra::new(of(0, Duration::from_secs(1), 5));
        assert_eq!(none.try_acquire(Tick::NEVER), Err(Tick::NEVER));
        let mut all = Gcra::new(of(1, Duration::ZERO, 0));
        assert!((0..100).all(|_| all.try_acquire(Tick::ZERO).is_ok()));
        let mut slow = Gcra::new(of(u32::MAX, Duration::MAX, u32::MAX));
        assert!((0..100).all(|_| slow.try_acquire(Tick::NEVER).is_ok()));
    }

    fn any_rate() -> impl Strategy<Value = Rate> {
        (1..2000_u32, 1..5_000_000_000_u64, 1..20_u32)
            .prop_map(|(calls, nanos, burst)| of(calls, Duration::from_nanos(nanos), burst))
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(rate in any_rate(), seconds in 1..100_000_u64, even in any::<bool>()) {
            let rate = if even { Rate { per: Duration::from_secs(seconds), burst: 1, ..rate } } else { rate };
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn a_float_is_never_rounded_up_and_hardly_down(wanted in 1e-6..4e9_f64) {
            let rate = Rate::new(wanted, 1).unwrap();
            let got = f64::from(rate.calls) / rate.per.as_secs_f64();
            let accepted = wanted * (1.0 - 1e-8)..=wanted * (1.0 + 1e-15);
            prop_assert!(accepted.contains(&got), "{wanted} became {got}");
        }

        #[test]
        fn no_window_holds_more_than_burst_and_rate(
            rate in any_rate(),
            // Steps around the interval between calls, so that about half the attempts succeed.
            steps in proptest::collection::vec(0.0..3.0_f64, 1..150),
        ) {
            let mut limiter = Gcra::new(rate);
            let mut now = Tick::ZERO;
            let mut starts = Vec::new();
            for step in steps {
                now = now + (rate.per / rate.calls).mul_f64(step);
                if limiter.try_acquire(now).is_ok() {
                    starts.push(now);
                }
            }
            for (i, first) in starts.iter().enumerate() {
                for (j, last) in starts.iter().enumerate().skip(i) {
                    let beyond_burst = (j - i + 1).saturating_sub(rate.burst as usize) as u128;
                    let window = (*last - *first).as_nanos();
                    prop_assert!(beyond_burst * rate.per.as_nanos() <= window * u128::from(rate.calls));
                }
            }
        }

        #[test]
        fn acquiring_at_every_tick_it_names_attains_the_rate(rate in any_rate(), start in 0..1_u64 << 50) {
            let interval = rate.per / rate.calls;
            let mut limiter = Gcra::new(rate);
            let mut now = Tick::from_nanos(start);
            for earlier in 0..200_u128 {
                if let Err(at) = limiter.try_acquire(now) {
                    prop_assert!(at > now);
                    prop_assert_eq!(limiter.try_acquire(Tick::from_nanos(at.as_nanos() - 1)), Err(at));
                    now = at;
                    prop_assert_eq!(limiter.try_acquire(now), Ok(()));
                }
                let intervals = (earlier + 1).saturating_sub(u128::from(rate.burst));
                let ideal = (intervals * rate.per.as_nanos()).div_ceil(u128::from(rate.calls));
                let exact = rate.burst > 1 && interval >= Duration::from_nanos(1);
                let rounding = if exact { 0 } else { intervals };
                let found = (now - Tick::from_nanos(start)).as_nanos();
                prop_assert!((ideal..=ideal + rounding).contains(&found), "{found} is not {ideal}");
            }
        }
    }
}
