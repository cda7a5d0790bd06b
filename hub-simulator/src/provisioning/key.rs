//! Symmetric keys of enrolments, and the device keys that derive from them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::guid::random_bytes;
use crate::hub::keys::{DeviceKeys, KeyPair};
use crate::hub::sas::hmac_sha256;

/// Length in bytes of a key that the service takes (Microsoft, "Symmetric key attestation").
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

/// A raw key; base64 wherever it is written.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// A key of the length that the service makes its own keys.
    pub(crate) fn random() -> Self {
        Self(random_bytes::<64>().to_vec())
    }

    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Reads a key from base64; `None` if it is none, or not 16 to 64 bytes long.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        LENGTHS.contains(&bytes.len()).then_some(Self(bytes))
    }

    /// The key of a device under this group key.
    pub(crate) fn derive(&self, registration_id: &str) -> Self {
        Self(hmac_sha256(&self.0, &[registration_id.as_bytes()]).to_vec())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn encoded(&self) -> String {
        BASE64.encode(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encoded())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Of any length: a group key may be set to one that no client could submit.
        BASE64
            .decode(&text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("a symmetric key is base64"))
    }
}

/// The two keys of an enrolment, or of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keys {
    pub(crate) primary_key: Key,
    pub(crate) secondary_key: Key,
}

impl Keys {
    pub(crate) fn random() -> Self {
        Self {
            primary_key: Key::random(),
            secondary_key: Key::random(),
        }
    }

    pub(crate) fn derive(&self, registration_id: &str) -> Self {
        Self {
            primary_key: self.primary_key.derive(registration_id),
            secondary_key: self.secondary_key.derive(registration_id),
        }
    }

    pub(crate) fn encoded(&self) -> DeviceKeys {
        KeyPair::new(&self.primary_key.0, &self.secondary_key.0).encoded()
    }

    pub(crate) fn either(&self) -> [&Key; 2] {
        [&self.primary_key, &self.secondary_key]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_matches_the_documented_vector() {
        let group = Key::parse("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==").unwrap();
        assert_eq!(
            group
                .derive("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
                .encoded(),
            "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
        );
    }

    #[test]
    fn a_key_is_sixteen_to_sixty_four_bytes() {
        for (length, good) in [(15, false), (16, true), (64, true), (65, false)] {
            let text = BASE64.encode(vec![0; length]);
            assert_eq!(Key::parse(&text).is_some(), good, "{length}");
        }
    }
}
