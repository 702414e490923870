//! Times as people write them.

use std::fmt;

/// Milliseconds since 1970, as people write a time.
#[derive(Debug, Clone, Copy)]
pub struct When(pub u64);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / 86_400_000, self.0 / 1000 % 86_400);
        // Years that begin in March have their leap day last; 719,468 days lie between the first of year 0 and 1970.
        let day = days.saturating_add(719_468);
        let (era, day) = (day / 146_097, day % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let date = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let (hour, minute, second, milli) = (seconds / 3600, seconds / 60 % 60, seconds % 60, self.0 % 1000);
        write!(f, "{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::When;

    #[test]
    fn a_time_is_told_as_people_write_it() {
        // By `date -u -d @N`.
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_772_366_400_125, "2026-03-01T12:00:00.125Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (millis, text) in known {
            assert_eq!(When(millis).to_string(), text);
        }
        assert!(When(u64::MAX).to_string().ends_with('Z'));
    }
}
