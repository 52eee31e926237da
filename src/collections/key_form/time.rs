//! Dates and timestamps as key parts: ISO only, years 0001 to 9999, no leap second, no 24:00.

use std::borrow::Cow;

use jiff::{
    civil::{Date, DateTime, Time},
    tz::Offset,
};

use super::{KeyPartError, refuse};

const DATE: &str = "must be a date like 2026-01-31 (years 0001 to 9999), infinity or -infinity";
const TIMESTAMP: &str = "must be a timestamp like 2026-01-31 12:00:00.5 (years 0001 to 9999, at most six digits after the point, no offset), infinity or -infinity";
const TIMESTAMPTZ: &str = "must be a timestamp with an offset like 2026-01-31 12:00:00.5+00 or 2026-01-31T12:00:00Z (years 0001 to 9999, at most six digits after the point), infinity or -infinity";

pub(super) fn date(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    if is_infinite(part) {
        return Ok(Cow::Borrowed(part));
    }
    match read_date(part) {
        Some(date) => Ok(Cow::Owned(date.to_string())),
        None => refuse(DATE),
    }
}

pub(super) fn timestamp(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    if is_infinite(part) {
        return Ok(Cow::Borrowed(part));
    }
    match read_datetime(part) {
        Some((at, "")) => Ok(Cow::Owned(print(at))),
        _ => refuse(TIMESTAMP),
    }
}

pub(super) fn timestamptz(part: &str) -> Result<Cow<'_, str>, KeyPartError> {
    if is_infinite(part) {
        return Ok(Cow::Borrowed(part));
    }
    match read_datetime(part).and_then(|(at, offset)| in_utc(at, offset)) {
        Some(at) => Ok(Cow::Owned(format!("{}+00", print(at)))),
        None => refuse(TIMESTAMPTZ),
    }
}

fn is_infinite(part: &str) -> bool {
    matches!(part, "infinity" | "-infinity")
}

/// `YYYY-MM-DD`, nothing else.
fn read_date(part: &str) -> Option<Date> {
    let (year, rest) = digits(part, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    if !rest.is_empty() || year == 0 {
        return None;
    }
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

/// Date and time, and what follows them.
fn read_datetime(part: &str) -> Option<(DateTime, &str)> {
    let date = read_date(part.get(..10)?)?;
    let (hour, rest) = digits(part[10..].strip_prefix([' ', 'T'])?, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (micros, rest) = read_fraction(rest)?;
    let small = |number| i8::try_from(number).ok();
    let nanos = i32::try_from(micros * 1_000).ok()?;
    let time = Time::new(small(hour)?, small(minute)?, small(second)?, nanos).ok()?;
    Some((date.to_datetime(time), rest))
}

/// Up to six digits after a point, in microseconds.
fn read_fraction(part: &str) -> Option<(u32, &str)> {
    let Some(rest) = part.strip_prefix('.') else { return Some((0, part)) };
    let count = rest.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=6).contains(&count) {
        return None;
    }
    let (fraction, rest) = digits(rest, count)?;
    Some((fraction * 10u32.pow(6 - count as u32), rest))
}

/// `Z`, `+hh`, `+hhmm` or `+hh:mm`.
fn in_utc(at: DateTime, offset: &str) -> Option<DateTime> {
    let seconds = match offset.as_bytes().first()? {
        b'Z' if offset.len() == 1 => 0,
        b'+' => read_offset(&offset[1..])?,
        b'-' => -read_offset(&offset[1..])?,
        _ => return None,
    };
    let utc = Offset::UTC.to_datetime(Offset::from_seconds(seconds).ok()?.to_timestamp(at).ok()?);
    (1..=9999).contains(&utc.year()).then_some(utc)
}

fn read_offset(part: &str) -> Option<i32> {
    let (hours, rest) = digits(part, 2)?;
    let (minutes, rest) = match rest {
        "" => (0, ""),
        rest => digits(rest.strip_prefix(':').unwrap_or(rest), 2)?,
    };
    // Postgres takes offsets below 16 hours.
    if !rest.is_empty() || hours > 15 || minutes > 59 {
        return None;
    }
    i32::try_from(hours * 3_600 + minutes * 60).ok()
}

/// Exactly so many digits, and what follows.
fn digits(part: &str, count: usize) -> Option<(u32, &str)> {
    let head = part.get(..count).filter(|head| head.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((head.parse().ok()?, &part[count..]))
}

/// As Postgres prints it under DateStyle ISO: zeros at the end of the fraction left out.
fn print(at: DateTime) -> String {
    let seconds = format!("{} {:02}:{:02}:{:02}", at.date(), at.hour(), at.minute(), at.second());
    match at.subsec_nanosecond() / 1_000 {
        0 => seconds,
        micros => format!("{seconds}.{}", format!("{micros:06}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_iso() {
        for part in ["2026-01-31", "0001-01-01", "9999-12-31", "2024-02-29", "infinity", "-infinity"] {
            assert_eq!(date(part).as_deref(), Ok(part));
        }
        for part in [
            "",
            "2026-1-31",
            "31.01.2026",
            "2026-02-29",
            "0000-01-01",
            "10000-01-01",
            "2026-01-31 BC",
            "today",
            "2026-01-31 ",
            "Infinity",
            "20260131",
        ] {
            assert!(date(part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn timestamps_are_printed_as_postgres_prints_them() {
        let expected = [
            ("2026-01-31T12:00:00", "2026-01-31 12:00:00"),
            ("2026-01-31 12:00:00.500000", "2026-01-31 12:00:00.5"),
            ("2026-01-31 12:00:00.000001", "2026-01-31 12:00:00.000001"),
            ("2026-01-31 12:00:00.0", "2026-01-31 12:00:00"),
            ("0001-01-01 00:00:00", "0001-01-01 00:00:00"),
            ("-infinity", "-infinity"),
        ];
        for (part, canonical) in expected {
            assert_eq!(timestamp(part).as_deref(), Ok(canonical));
        }
        let wrong = [
            "2026-01-31",
            "2026-01-31 12:00",
            "2026-01-31 24:00:00",
            "2026-01-31 23:59:60",
            "2026-01-31 12:00:00Z",
            "2026-01-31 12:00:00.",
            "now",
        ];
        for part in wrong.into_iter().chain(["2026-01-31 12:00:00.1234567", "2026-01-31  12:00:00", "2026-01-31\u{e9}12:00:00"]) {
            assert!(timestamp(part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn timestamps_with_zone_are_turned_to_utc() {
        let expected = [
            ("2026-01-31 12:00:00+00", "2026-01-31 12:00:00+00"),
            ("2026-01-31T12:00:00Z", "2026-01-31 12:00:00+00"),
            ("2026-01-01T00:30:00.250+01:00", "2025-12-31 23:30:00.25+00"),
            ("2026-01-31 12:00:00-0530", "2026-01-31 17:30:00+00"),
            ("infinity", "infinity"),
        ];
        for (part, canonical) in expected {
            assert_eq!(timestamptz(part).as_deref(), Ok(canonical));
        }
        let wrong = [
            "2026-01-31 12:00:00",
            "2026-01-31 12:00:00 UTC",
            "2026-01-31 12:00:00+1",
            "2026-01-31 12:00:00+16",
            "2026-01-31 12:00:00+01:60",
        ];
        for part in wrong.into_iter().chain(["0001-01-01 00:00:00+01", "9999-12-31 23:59:59-01", "2026-01-31 12:00:00Zulu"]) {
            assert!(timestamptz(part).is_err(), "{part:?}");
        }
    }
}
