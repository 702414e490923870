//! Times as people and programs write them: RFC 3339, in UTC where they are shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 3600;

/// `2026-03-01T12:00:00.125Z`. What lies before 1970 is shown as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second, milli) =
        (seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// A time from 1970 to 9999: a date, `T` or a blank, a time of day with or without a fraction of a second, and `Z` or an offset;
/// or `now`.
pub fn parse(text: &str) -> Option<SystemTime> {
    if text == "now" {
        return Some(SystemTime::now());
    }
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let split = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at_checked(split)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let known = (1970..=9999).contains(&year) && (1..=12).contains(&month);
    if !known || day == 0 || day > length(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    let time = UNIX_EPOCH + Duration::from_secs(seconds) + nanos(fraction)?;
    if zone.eq_ignore_ascii_case("z") {
        return Some(time);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    let [hours, minutes] = numbers(offset, ':', [2, 2])?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    // East of Greenwich the clocks are ahead.
    if sign == "+" { time.checked_sub(offset) } else { time.checked_add(offset) }
}

/// Numbers of these many digits, with a separator between them.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && is_digits(part))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn nanos(fraction: &str) -> Option<Duration> {
    let digits = fraction.get(..fraction.len().min(9)).filter(|_| is_digits(fraction))?;
    format!("{digits:0<9}").parse().ok().map(Duration::from_nanos)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_of(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

/// The days from 1970 to a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(days_of).sum();
    let months: u64 = (1..month).map(|month| length(year, month)).sum();
    years + months + day.saturating_sub(1)
}

/// The date that comes so many days after the first of 1970.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= days_of(year) && year < 9999 {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 1;
    while days >= length(year, month) && month < 12 {
        days -= length(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        Some(parse(text)?.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn times_are_shown_and_read_back() {
        // By `date -u -d @N`.
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_772_366_400, "2026-03-01T12:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (at, text) in known {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(at)), text);
            assert_eq!(seconds(text), Some(at));
        }
        assert_eq!(seconds("2026-03-01T13:30:00+01:30"), Some(1_772_366_400));
        assert_eq!(seconds("2026-03-01 04:00:00-08:00"), Some(1_772_366_400));
        let exact = UNIX_EPOCH + Duration::from_millis(1_772_366_400_125);
        assert_eq!(parse("2026-03-01T12:00:00.125Z"), Some(exact));
        assert_eq!(rfc3339(exact), "2026-03-01T12:00:00.125Z");
    }

    #[test]
    fn what_is_no_time_is_none() {
        let bad = [
            "",
            "2026",
            "2026-03-01",
            "2026-03-01T12:00:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-03-00T00:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:60:00Z",
            "2026-3-1T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00.x1Z",
            "2026-03-01T12:00:00Zjunk",
            "2026-03-01T12:00:00+1:00",
            "2026-03-01T12:00Z",
            "+026-03-01T12:00:00Z",
            "übermorgenT12:00:00Z",
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
