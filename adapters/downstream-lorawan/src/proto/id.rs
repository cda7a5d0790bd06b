//! Names of concentrators and applications, and keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Says that a text is no identifier of the wanted kind. The text is not repeated: it may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct IdError {
    expected: &'static str,
}

/// Names a concentrator, or an application (JoinEUI, formerly AppEUI). A device's name is a
/// [`DevEui`](crate::event::DevEui).
///
/// It is read from 16 hexadecimal digits with or without `-` or `:` between bytes, and from
/// Basics Station's ID6 (`::1`, `1:2:3:4`); it is shown as 16 digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Eui64(u64);

impl Eui64 {
    /// Makes an EUI of its number: its bytes in the order they are written.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Makes an EUI of its bytes in the order they are written; on air it is the other way round.
    #[must_use]
    pub const fn from_be_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }

    /// Returns its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns it as Basics Station writes it: bytes in upper case with dashes between.
    #[must_use]
    pub fn dashed(self) -> String {
        self.0
            .to_be_bytes()
            .map(|byte| format!("{byte:02X}"))
            .join("-")
    }
}

impl FromStr for Eui64 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bare = text.bytes().filter(|byte| !matches!(byte, b'-' | b':'));
        match hex_number(bare, 16).or_else(|| id6(text)) {
            Some(number) => Ok(Self(number)),
            None => Err(IdError {
                expected: "an EUI of 16 hexadecimal digits",
            }),
        }
    }
}

/// Reads exactly as many hexadecimal digits as asked for.
fn hex_number(digits: impl Iterator<Item = u8>, count: usize) -> Option<u64> {
    let mut number = 0;
    let mut seen = 0;
    for digit in digits.take(count + 1) {
        number = number << 4 | u64::from(char::from(digit).to_digit(16)?);
        seen += 1;
    }
    (seen == count).then_some(number)
}

/// Reads four groups of up to four digits, of which zero ones may be left out once, as in IPv6.
fn id6(text: &str) -> Option<u64> {
    let groups = |part: &str| -> Option<Vec<u16>> {
        let group = |group: &str| match group.len() {
            1..=4 if group.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u16::from_str_radix(group, 16).ok()
            }
            _ => None,
        };
        match part {
            "" => Some(Vec::new()),
            part => part.splitn(5, ':').map(group).collect(),
        }
    };
    let mut all = match text.split_once("::") {
        Some((left, right)) => {
            let (mut left, right) = (groups(left)?, groups(right)?);
            left.resize(4_usize.checked_sub(right.len())?.max(left.len()), 0);
            left.extend(right);
            left
        }
        None => groups(text)?,
    };
    (all.len() == 4).then(|| {
        all.drain(..)
            .fold(0, |sum, group| sum << 16 | u64::from(group))
    })
}

impl fmt::Display for Eui64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Is an AES-128 key. It never shows in `Debug` output; serialised, it is there for a store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// Makes a key of its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn expose(&self) -> [u8; 16] {
        self.0
    }
}

impl FromStr for Key {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 16];
        let read = hex(text, &mut bytes);
        (read == Some(16)).then_some(Self(bytes)).ok_or(IdError {
            expected: "a key of 32 hexadecimal digits",
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Reads hexadecimal digits into a buffer, and returns how many bytes they were.
pub(super) fn hex(text: &str, into: &mut [u8]) -> Option<usize> {
    let pairs = text.as_bytes().chunks(2);
    let count = pairs.len();
    for (byte, pair) in into.get_mut(..count)?.iter_mut().zip(pairs) {
        *byte = u8::try_from(hex_number(pair.iter().copied(), 2)?).ok()?;
    }
    Some(count)
}

/// Writes bytes as hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lets a type be written in documents as its text.
macro_rules! as_text {
    ($type:ty, $show:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&$show(self))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Eui64, Eui64::to_string);
as_text!(Key, |key: &Key| to_hex(&key.0));

impl fmt::Debug for Eui64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eui_is_read_in_every_form_that_is_in_use() {
        let eui = Eui64::new(0x0102_0304_0506_0708);
        for text in [
            "0102030405060708",
            "01-02-03-04-05-06-07-08",
            "01:02:03:04:05:06:07:08",
            "0102:0304:0506:0708",
            "102:304:506:708",
        ] {
            assert_eq!(text.parse(), Ok(eui), "{text}");
        }
        assert_eq!("::1".parse(), Ok(Eui64::new(1)));
        assert_eq!("1::".parse(), Ok(Eui64::new(1 << 48)));
        assert_eq!("::".parse(), Ok(Eui64::new(0)));
        assert_eq!("A::B:c".parse(), Ok(Eui64::new(0x000a_0000_000b_000c)));
        assert_eq!(eui.to_string(), "0102030405060708");
        assert_eq!(eui.dashed(), "01-02-03-04-05-06-07-08");
    }

    #[test]
    fn what_is_no_identifier_is_refused() {
        for text in [
            "",
            "1",
            "010203040506070",
            "01020304050607089",
            "+102030405060708",
            "1:2:3",
        ] {
            assert!(text.parse::<Eui64>().is_err(), "{text}");
        }
        for text in [
            "1:2:3:4:5",
            "::1::",
            "1:2:3:4::5",
            "::12345",
            "é02030405060708",
        ] {
            assert!(text.parse::<Eui64>().is_err(), "{text}");
        }
        assert!("000102030405060708090a0b0c0d0e0".parse::<Key>().is_err());
        assert!("000102030405060708090a0b0c0d0e0f00".parse::<Key>().is_err());
    }

    #[test]
    fn a_key_does_not_show_itself() {
        let key: Key = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(format!("{key:?}"), "Key(..)");
        assert_eq!(
            serde_json::to_string(&key).unwrap(),
            "\"000102030405060708090a0b0c0d0e0f\""
        );
    }
}
