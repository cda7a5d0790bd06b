//! Times as text.

use std::time::{Duration, SystemTime};

use humantime_serde::re::humantime::format_rfc3339_millis;

/// The last second that RFC 3339 has a text for, that of the year 9999.
const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// Writes a time as RFC 3339 has it, in UTC and with milliseconds, as `2026-11-21T12:00:00.500Z`.
///
/// One before 1970 or after the year 9999, which others' clocks may tell, becomes the nearest between.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let time = SystemTime::UNIX_EPOCH + since.unwrap_or_default().min(LATEST);
    format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_of_range_is_the_nearest_that_can_be_written() {
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(early), "1970-01-01T00:00:00.000Z");
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(rfc3339(late), "9999-12-31T23:59:59.000Z");
    }
}
