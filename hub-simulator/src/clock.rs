//! Wall-clock times as text and as AMQP timestamps.

use std::time::SystemTime;

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `2017-08-17T10:48:44Z`.
pub(crate) fn iso8601(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2023-05-19T23:10:45.1256254Z`, the form of .NET: up to seven digits, no trailing zeros.
pub(crate) fn iso8601_ticks(time: SystemTime) -> String {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let fraction = format!("{:07}", since.subsec_nanos() / 100);
    let whole = iso8601(time);
    match (whole.trim_end_matches('Z'), fraction.trim_end_matches('0')) {
        (whole, "") => format!("{whole}Z"),
        (whole, fraction) => format!("{whole}.{fraction}Z"),
    }
}

/// Year, month and day of a day since 1970-01-01, in 400-year eras that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fractions_of_a_second_are_written_without_trailing_zeros() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:01Z"),
            (125_625_400, "1970-01-01T00:00:01.1256254Z"),
            (949_507_099, "1970-01-01T00:00:01.949507Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::new(1, nanos);
            assert_eq!(iso8601_ticks(time), text);
        }
    }

    #[test]
    fn known_times_are_written_as_everybody_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_502_966_924, "2017-08-17T10:48:44Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(
                iso8601(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }
}
