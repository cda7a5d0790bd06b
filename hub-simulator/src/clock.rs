//! Wall-clock times as text, as AMQP timestamps and as the registry counts them.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The longest that anything lasts: as far off as instants surely reach.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

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
    let (year, month, day) = date(time);
    format!("{year:04}-{month:02}-{day:02}T{}Z", time_of_day(time))
}

/// `08/17/2017 10:48:44`, as .NET writes a time in its invariant culture.
pub(crate) fn invariant(time: SystemTime) -> String {
    let (year, month, day) = date(time);
    format!("{month:02}/{day:02}/{year:04} {}", time_of_day(time))
}

/// `8/17/2017 10:48:44 AM`, as .NET writes a time in the culture of the United States.
pub(crate) fn american(time: SystemTime) -> String {
    let (year, month, day) = date(time);
    let hour = unix_seconds(time) / 3600 % 24;
    let half = if hour < 12 { "AM" } else { "PM" };
    let hour = (hour + 11) % 12 + 1;
    let rest = &time_of_day(time)[2..];
    format!("{month}/{day}/{year} {hour}{rest} {half}")
}

fn date(time: SystemTime) -> (u64, u64, u64) {
    civil(unix_seconds(time) / 86_400)
}

fn time_of_day(time: SystemTime) -> String {
    let second = unix_seconds(time) % 86_400;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{hour:02}:{minute:02}:{second:02}")
}

/// A time as the hub's registry counts: in steps of 100 ns since the year 1; 0 is never.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct Ticks(pub(crate) u64);

impl Ticks {
    /// 1970-01-01.
    const UNIX_EPOCH: u64 = 621_355_968_000_000_000;
    const PER_SECOND: u64 = 10_000_000;

    pub(crate) fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Ticks {
    fn from(time: SystemTime) -> Self {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let steps = since.as_secs().saturating_mul(Self::PER_SECOND);
        let steps = steps.saturating_add(u64::from(since.subsec_nanos() / 100));
        Self(Self::UNIX_EPOCH.saturating_add(steps))
    }
}

impl From<Ticks> for SystemTime {
    fn from(time: Ticks) -> Self {
        let steps = time.0.saturating_sub(Ticks::UNIX_EPOCH);
        let (seconds, rest) = (steps / Ticks::PER_SECOND, steps % Ticks::PER_SECOND);
        let nanos = u32::try_from(rest * 100).unwrap_or_default();
        Self::UNIX_EPOCH + Duration::new(seconds, nanos)
    }
}

/// `2021-07-07T20:45:26.7978599Z`, without the zeros at the end of the fraction.
impl fmt::Display for Ticks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(since) = self.0.checked_sub(Self::UNIX_EPOCH) else {
            return f.write_str("0001-01-01T00:00:00Z");
        };
        let (seconds, steps) = (since / Self::PER_SECOND, since % Self::PER_SECOND);
        let whole = iso8601(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        if steps == 0 {
            return f.write_str(&whole);
        }
        let fraction = format!("{steps:07}");
        write!(
            f,
            "{}.{}Z",
            whole.trim_end_matches('Z'),
            fraction.trim_end_matches('0')
        )
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

    #[test]
    fn dot_nets_cultures_write_times_their_own_ways() {
        for (seconds, world, states) in [
            (0, "01/01/1970 00:00:00", "1/1/1970 12:00:00 AM"),
            (
                1_502_966_924,
                "08/17/2017 10:48:44",
                "8/17/2017 10:48:44 AM",
            ),
            (
                1_513_948_452,
                "12/22/2017 13:14:12",
                "12/22/2017 1:14:12 PM",
            ),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((&*invariant(time), &*american(time)), (world, states));
        }
    }

    #[test]
    fn ticks_read_as_the_registry_writes_them() {
        for (ticks, text) in [
            (0, "0001-01-01T00:00:00Z"),
            (637_287_135_293_360_931, "2020-06-25T20:25:29.3360931Z"),
            (637_287_135_293_300_000, "2020-06-25T20:25:29.33Z"),
            (637_287_135_290_000_000, "2020-06-25T20:25:29Z"),
        ] {
            assert_eq!(Ticks(ticks).to_string(), text);
        }
    }
}
