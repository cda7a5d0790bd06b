//! Names of devices on the air.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Tells why a text is no EUI or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {digits} hexadecimal digits, with or without `-` or `:` between bytes")]
pub struct ParseEuiError {
    what: &'static str,
    digits: usize,
}

/// Reads hexadecimal digits, two a byte, with at most one separator between bytes.
fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], ParseEuiError> {
    let wrong = ParseEuiError {
        what,
        digits: 2 * N,
    };
    let digit = |byte: Option<u8>| {
        let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
        digit.ok_or(wrong)
    };
    let mut bytes = [0; N];
    let mut rest = text.bytes().peekable();
    for (at, byte) in bytes.iter_mut().enumerate() {
        if at > 0 {
            rest.next_if(|byte| matches!(byte, b'-' | b':'));
        }
        *byte = (digit(rest.next())? << 4 | digit(rest.next())?) as u8;
    }
    match rest.next() {
        None => Ok(bytes),
        Some(_) => Err(wrong),
    }
}

macro_rules! hex_name {
    ($(#[$doc:meta])* $name:ident, $size:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $size]);

        impl $name {
            /// Makes it from its bytes, the most significant first: as printed, which is the
            /// reverse of their order on the air.
            #[must_use]
            pub const fn new(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }

            /// Its bytes, the most significant first.
            #[must_use]
            pub const fn bytes(self) -> [u8; $size] {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseEuiError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex($what, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_name!(
    /// Names a device for ever (DevEUI, 64 bits). Printed as 16 lower-case hexadecimal digits.
    DevEui, 8, "an EUI"
);

hex_name!(
    /// Names a device's session within a network (DevAddr, 32 bits); not unique.
    DevAddr, 4, "a device address"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eui_is_read_in_every_usual_form_and_printed_in_one() {
        let eui = DevEui::new([0x70, 0xb3, 0xd5, 0x7e, 0xd0, 0, 0, 1]);
        for text in [
            "70b3d57ed0000001",
            "70B3D57ED0000001",
            "70-B3-D5-7E-D0-00-00-01",
            "70:b3:d5:7e:d0:00:00:01",
        ] {
            assert_eq!(text.parse(), Ok(eui));
        }
        assert_eq!(eui.to_string(), "70b3d57ed0000001");
    }

    #[test]
    fn what_is_no_eui_is_refused() {
        for text in [
            "",
            "70b3d57ed000000",
            "70b3d57ed00000011",
            "70b3d57ed000000g",
            "7-0b3d57ed0000001",
            "größe-größe-größe",
            "+0+0+0+0+0+0+0+0",
        ] {
            assert!(text.parse::<DevEui>().is_err(), "{text:?} was taken");
        }
    }
}
