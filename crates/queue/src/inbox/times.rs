//! Points in time as messages and documents write them, for those who count in ticks.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use manyhands_engine::clock::Tick;

use crate::wire::time;

/// The wall clock's time that a header means; a time without an offset is one of `zone`. `None` if it is no time.
pub(crate) fn parse(text: &str, zone: &TimeZone) -> Option<Tick> {
    // What lies before 1970 is over, whenever it was.
    let since = Duration::try_from_secs_f64(time::read(text, zone).ok()?.max(0.0)).ok()?;
    let whole = since.as_micros() + u128::from(since.subsec_nanos() % 1000 >= 500);
    Some(u64::try_from(whole * 1000).map_or(Tick::NEVER, Tick::from_nanos))
}

/// A time of the wall clock as Celery writes it.
pub(crate) fn show(wall: Tick) -> String {
    let stamp = Timestamp::from_nanosecond(i128::from(wall.as_nanos())).unwrap_or(Timestamp::MAX);
    let time = TimeZone::UTC.to_datetime(stamp);
    let (date, micros) = (time.date(), time.subsec_nanosecond() / 1000);
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let written = "2026-11-20T21:50:10.603222+00:00";
        let tick = Tick::from_nanos(1_795_211_410_603_222_000);
        assert_eq!(show(tick), written);
        assert_eq!(parse(written, &TimeZone::UTC), Some(tick));
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(parse("2026-11-20T23:50:10.603222", &east), Some(tick));
        assert_eq!(parse("1905-01-01T00:00:00Z", &TimeZone::UTC), Some(Tick::ZERO));
        assert_eq!(parse("tomorrow", &TimeZone::UTC), None);
    }
}
