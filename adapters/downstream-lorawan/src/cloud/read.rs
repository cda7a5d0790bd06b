//! Reads what protobuf's JSON form has in common.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer, de};

use crate::event::{Reception, Uplink};

/// Reads a time of RFC 3339; a device's message is not refused for a time that is none.
pub(crate) fn time(text: &str) -> Option<SystemTime> {
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    // With an offset, as ChirpStack writes it: 2026-11-21T09:34:15.775023242+01:00.
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<u32>().ok()?, minutes.parse::<u32>().ok()?);
    let offset_by = Duration::from_secs(u64::from(hours * 60 + minutes) * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset.as_bytes()[0] {
        b'+' => local.checked_sub(offset_by),
        b'-' => local.checked_add(offset_by),
        _ => None,
    }
}

/// Reads a time where it is one.
pub(crate) fn optional_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
    Ok(text.and_then(|text| time(&text)))
}

/// Reads a number. What is none is not a number: protobuf's JSON form has texts for such, and
/// ChirpStack writes null; a device's message is not refused for it.
pub(crate) fn number<'de, D: Deserializer<'de>, T: From<f32> + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word<T> {
        Number(T),
        Other(de::IgnoredAny),
    }
    Ok(match Word::deserialize(deserializer)? {
        Word::Number(number) => number,
        Word::Other(_) => f32::NAN.into(),
    })
}

/// Reads bytes in base64.
pub(crate) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.unwrap_or_default();
    let bytes = STANDARD.decode(text.as_bytes());
    bytes.map(Bytes::from).map_err(de::Error::custom)
}

/// Writes bytes in base64.
pub(crate) fn to_base64<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Puts the concentrator that heard best first, and keeps no more than an uplink may list.
pub(crate) fn best_first(mut receptions: Vec<Reception>) -> Vec<Reception> {
    let snr = |one: &Reception| one.snr.unwrap_or(f32::NEG_INFINITY);
    receptions.sort_by(|a, b| (snr(b).total_cmp(&snr(a))).then(b.rssi.cmp(&a.rssi)));
    receptions.truncate(Uplink::MAX_RECEPTIONS);
    receptions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_no_ratio_or_one_that_is_no_number_comes_last() {
        let ratio = |number: i16| match number % 3 {
            0 => None,
            1 => Some(f32::NAN),
            _ => Some(f32::from(number * 37 % 50)),
        };
        let heard = |number: i16| Reception::new(number.to_string(), -number, ratio(number));
        let sorted = best_first((0..60).map(heard).collect());
        let ratios: Vec<_> = sorted.iter().filter_map(|one| one.snr).collect();
        assert!(ratios.is_sorted_by(|a, b| a >= b), "{ratios:?}");
        assert_eq!(ratios.len(), 20);
        assert!(sorted[..20].iter().all(|one| one.snr.is_some()));
    }

    #[test]
    fn a_time_is_read_with_every_offset() {
        let noon = humantime::parse_rfc3339("2026-11-21T12:00:00.5Z").unwrap();
        for text in [
            "2026-11-21T12:00:00.5Z",
            "2026-11-21T12:00:00.500000+00:00",
            "2026-11-21T13:30:00.5+01:30",
            "2026-11-21T04:00:00.5-08:00",
        ] {
            assert_eq!(time(text), Some(noon), "{text}");
        }
        for text in ["", "now", "+01:00", "2026-11-21T12:00:00~01:00", "größe!ß"] {
            assert_eq!(time(text), None, "{text}");
        }
        assert_eq!(time("2026-11-21T12:00:00+4000000000:00"), None);
    }
}
