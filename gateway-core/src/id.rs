//! Checked identifiers: once parsed, they need no second look.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Says why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// Which identifier was parsed.
        what: &'static str,
    },
    /// The text is longer than the identifier allows.
    #[error("a {what} has at most {max} bytes, this one has {length}")]
    TooLong {
        /// Which identifier was parsed.
        what: &'static str,
        /// The longest length allowed, in bytes.
        max: usize,
        /// The length found, in bytes.
        length: usize,
    },
    /// The text has a character that the identifier does not allow.
    #[error("a {what} must not contain {found:?} (at byte {at}); allowed are {allowed}")]
    Character {
        /// Which identifier was parsed.
        what: &'static str,
        /// The character found.
        found: char,
        /// Its offset in bytes.
        at: usize,
        /// The characters allowed, in words.
        allowed: &'static str,
    },
}

fn check(
    what: &'static str,
    text: &str,
    max: usize,
    allowed: &'static str,
    is_allowed: impl Fn(char) -> bool,
) -> Result<(), ParseIdError> {
    if text.is_empty() {
        return Err(ParseIdError::Empty { what });
    }
    if text.len() > max {
        return Err(ParseIdError::TooLong {
            what,
            max,
            length: text.len(),
        });
    }
    match text.char_indices().find(|(_, c)| !is_allowed(*c)) {
        Some((at, found)) => Err(ParseIdError::Character {
            what,
            found,
            at,
            allowed,
        }),
        None => Ok(()),
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $allowed:literal, $is_allowed:expr) => {
        $(#[$doc])*
        ///
        /// Cheap to clone: the text is shared.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest length allowed, in bytes.
            pub const MAX_LENGTH: usize = $max;

            /// Checks a text and makes it an identifier.
            ///
            /// # Errors
            /// The text is empty, longer than [`Self::MAX_LENGTH`], or has a character that is
            /// not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, ParseIdError> {
                let text = text.as_ref();
                check($what, text, $max, $allowed, $is_allowed)?;
                Ok(Self(text.into()))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

identifier!(
    /// Names a device, in the form that the hub's identity registry takes.
    ///
    /// 1 to 128 ASCII letters, digits and ``- . + % _ # * ? ! ( ) , : = @ $ '``; case-sensitive
    /// (Microsoft, "Understand the identity registry in your IoT hub").
    DeviceId, "device id", 128, "ASCII letters, digits and - . + % _ # * ? ! ( ) , : = @ $ '",
    |c| c.is_ascii_alphanumeric() || "-.+%_#*?!(),:=@$'".contains(c)
);

identifier!(
    /// Names a message, stable over retries, so that a duplicate can be told.
    ///
    /// 1 to 128 printable ASCII characters. Those that Microsoft names for the hub's `message-id`
    /// ("Create and read IoT Hub messages") are fewer: letters, digits and
    /// ``- : . + % _ # * ? ! ( ) , = @ ; $ '``.
    MessageId, "message id", 128, "printable ASCII characters", |c| c.is_ascii_graphic() || c == ' '
);

identifier!(
    /// Names a direct method.
    ///
    /// 1 to 100 printable ASCII characters without space and ``$ ( ) < > @ , ; : \ " / [ ] ? = { }``
    /// (Microsoft, "Understand and invoke direct methods from IoT Hub").
    MethodName, "method name", 100, r#"printable ASCII characters but $()<>@,;:\"/[]?={}"#,
    |c| c.is_ascii_graphic() && !r#"$()<>@,;:\"/[]?={}"#.contains(c)
);

identifier!(
    /// Ties an answer to its request.
    ///
    /// 1 to 128 printable ASCII characters.
    CorrelationId, "correlation id", 128, "printable ASCII characters", |c| c.is_ascii_graphic() || c == ' '
);

impl MessageId {
    /// Makes a random message id: 32 hexadecimal digits from the system's random source.
    ///
    /// # Panics
    /// The system has no random source.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0_u8; 16];
        #[expect(
            clippy::expect_used,
            reason = "a machine without a random source cannot do TLS either"
        )]
        getrandom::fill(&mut bytes).expect("the system's random source");
        Self(format!("{:032x}", u128::from_be_bytes(bytes)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_takes_what_the_registry_takes() {
        for good in [
            "a",
            "dev-1",
            "A.b+c%d_e#f*g?h!i(j)k,l:m=n@o$p'",
            &"x".repeat(128),
        ] {
            assert_eq!(DeviceId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_wrong_device_id_names_its_fault() {
        assert_eq!(
            DeviceId::new(""),
            Err(ParseIdError::Empty { what: "device id" })
        );
        assert_eq!(
            DeviceId::new("x".repeat(129)).unwrap_err().to_string(),
            "a device id has at most 128 bytes, this one has 129"
        );
        let error = DeviceId::new("a/b").unwrap_err().to_string();
        assert!(error.contains("'/' (at byte 1)"), "{error}");
        assert!(DeviceId::new("größe").is_err());
    }

    #[test]
    fn random_message_ids_differ() {
        assert_ne!(MessageId::random(), MessageId::random());
    }
}
