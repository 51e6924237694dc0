//! Times in headers: ISO 8601 as Python's `datetime.fromisoformat` takes it, to and from seconds since 1970.

use jiff::Timestamp;
use jiff::civil::{Date, ISOWeekDate, Time, Weekday};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

use super::shortened;
use crate::broker::Unreadable;

/// The zone of that name, for times that are written without an offset.
///
/// # Errors
/// [`Unreadable`] if neither this machine nor this library knows it.
pub fn zone(name: &str) -> Result<TimeZone, Unreadable> {
    TimeZone::get(name).map_err(|_| Unreadable {
        reason: shortened(format!(
            "could not find the time zone {name:?}, expected a name such as Europe/Berlin"
        )),
    })
}

/// Seconds since 1970. A time without an offset is one in `zone`, the earlier one if clocks showed it twice.
///
/// # Errors
/// [`Unreadable`] if it is no such time.
pub fn read(text: &str, zone: &TimeZone) -> Result<f64, Unreadable> {
    let refuse = || {
        let found = text.chars().take(64).collect::<String>();
        let reason =
            format!("could not read the time {found:?}, expected ISO 8601, e.g. 2031-05-17T12:30:15+00:00");
        Unreadable { reason }
    };
    // What is longer holds fractions beyond all meaning.
    let text = text.trim();
    if text.len() > 64 {
        return Err(refuse());
    }
    parse(text, zone).map(seconds).ok_or_else(refuse)
}

fn parse(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let plain;
    let text = match week_date(text) {
        Some((date, rest)) => {
            plain = format!("{date}{rest}");
            &plain
        }
        None => text,
    };
    let pieces = Pieces::parse(text).ok()?;
    if pieces.time_zone_annotation().is_some() {
        return None;
    }
    let local = pieces.date().to_datetime(pieces.time().unwrap_or(Time::midnight()));
    match pieces.to_numeric_offset() {
        Some(offset) => offset.to_timestamp(local).ok(),
        None => zone.to_timestamp(local).ok(),
    }
}

/// The date at the beginning, if it is one of year, week and weekday, and what follows: `2031-W20-6` or `2031W206`.
fn week_date(text: &str) -> Option<(Date, &str)> {
    let year = text.get(..4)?;
    let rest = &text[4..];
    let (rest, dash) = rest.strip_prefix('-').map_or((rest, ""), |rest| (rest, "-"));
    let rest = rest.strip_prefix('W')?;
    let week = rest.get(..2)?;
    let after = &rest[2..];
    let day = after.strip_prefix(dash).filter(|day| day.starts_with(|first: char| first.is_ascii_digit()));
    let (day, rest) = day.map_or(("1", after), |day| day.split_at(1));
    let weekday = Weekday::from_monday_one_offset(day.parse().ok()?).ok()?;
    let date = ISOWeekDate::new(year.parse().ok()?, week.parse().ok()?, weekday).ok()?;
    Some((date.date(), rest))
}

fn seconds(time: Timestamp) -> f64 {
    // To the microsecond, which is all that a double has room for, and all that Python's times have.
    time.as_microsecond() as f64 / 1e6
}

/// The time as Celery writes it, in UTC: `2031-05-17T12:30:15.250000+00:00`, without a fraction of nothing.
///
/// # Errors
/// [`Unreadable`] if Python could not read it: before the year 1, after 9999, or no number.
pub fn write(seconds: f64) -> Result<String, Unreadable> {
    const FIRST: f64 = -62_135_596_800.0;
    const END: f64 = 253_402_300_800.0;
    let refuse =
        || Unreadable { reason: format!("could not write the time {seconds}, expected one before 10000") };
    if !(FIRST..END - 1.0).contains(&seconds) {
        return Err(refuse());
    }
    #[allow(clippy::cast_possible_truncation)] // It is within the years just looked at.
    let micros = (seconds * 1e6).round() as i64;
    let time = Timestamp::from_microsecond(micros).map_err(|_| refuse())?;
    let form =
        if time.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S.%6f+00:00" };
    Ok(time.strftime(form).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: f64 = 1_936_787_415.0;

    #[test]
    fn all_the_forms_of_one_time() {
        let berlin = zone("Europe/Berlin").unwrap();
        for text in [
            "2031-05-17T12:30:15+00:00",
            "2031-05-17T12:30:15Z",
            "2031-05-17t12:30:15z",
            "2031-05-17 12:30:15+00:00",
            "2031-05-17T12:30:15.000000+00:00",
            "2031-05-17T12:30:15,000+00:00",
            "20310517T123015Z",
            "20310517T123015+0000",
            "2031-05-17T14:30:15+02:00",
            "2031-05-17T14:30:15+02",
            "2031-05-17T07:30:15-05:00",
            "2031-05-17T18:00:15+05:30",
            "2031-05-17T14:30:15",
            "2031-05-17 14:30:15",
            " 2031-05-17 14:30:15 ",
            "2031-W20-6T12:30:15Z",
            "2031W206T123015Z",
        ] {
            assert_eq!(read(text, &berlin), Ok(TIME), "{text}");
        }
        assert_eq!(read("2031-05-17T12:30:15.25+00:00", &berlin), Ok(TIME + 0.25));
        assert_eq!(read("2031-05-17T12:30:15.250000999Z", &berlin), Ok(TIME + 0.25));
        assert_eq!(read("2031-05-17T12:30Z", &berlin), Ok(TIME - 15.0));
        assert_eq!(read("2031-05-17", &TimeZone::UTC), Ok(TIME - 45_015.0));
        assert_eq!(read("2031-W20", &TimeZone::UTC), Ok(TIME - 45_015.0 - 5.0 * 86_400.0));
        assert_eq!(read("1969-12-31T23:59:59.5Z", &berlin), Ok(-0.5));
    }

    #[test]
    fn a_time_that_clocks_showed_twice_is_the_earlier_one() {
        let berlin = zone("Europe/Berlin").unwrap();
        let twice = read("2031-10-26T02:30:00", &berlin).unwrap();
        assert_eq!(read("2031-10-26T02:30:00+02:00", &berlin), Ok(twice));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let long = "2031-05-17T12:30:15.".to_owned() + &"0".repeat(1_000_000);
        for text in [
            "",
            "soon",
            "12:30",
            "1936787415",
            "2031-13-01T00:00:00Z",
            "2031-02-30",
            "2031-05-17T25:00:00Z",
            "2031-05-17T12:30:15+00:00[UTC]",
            "2031-05-17T12:30:15Z and more",
            "2031-W60-1",
            "2031-W20-8",
            "2031-W2é",
            &long,
        ] {
            let reason = read(text, &TimeZone::UTC).unwrap_err().reason;
            assert!(reason.len() < 500 && reason.contains("ISO 8601"), "{reason}");
        }
        assert!(zone("Middle/Earth").is_err());
    }

    #[test]
    fn a_time_is_written_as_celery_does() {
        assert_eq!(write(TIME).unwrap(), "2031-05-17T12:30:15+00:00");
        assert_eq!(write(TIME + 0.25).unwrap(), "2031-05-17T12:30:15.250000+00:00");
        assert_eq!(write(-0.5).unwrap(), "1969-12-31T23:59:59.500000+00:00");
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, -1e300, 253_402_300_800.0] {
            assert!(write(odd).is_err(), "{odd}");
        }
    }
}
