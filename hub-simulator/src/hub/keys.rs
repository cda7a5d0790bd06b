//! Pairs of symmetric keys, of any length.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::sas::{SasToken, hmac_sha256};
use crate::guid::random_bytes;

/// The two symmetric keys of a device, base64-encoded as the registry shows them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceKeys {
    /// The primary key.
    pub primary: String,
    /// The secondary key, accepted just as well.
    pub secondary: String,
}

impl fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceKeys").finish_non_exhaustive()
    }
}

/// Names one of the two keys of a device or policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhichKey {
    /// The primary key.
    Primary,
    /// The secondary key.
    Secondary,
}

/// A pair of raw keys, one behind the other.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Encoded", try_from = "Encoded")]
pub(crate) struct KeyPair {
    bytes: Box<[u8]>,
    /// Where the secondary key begins.
    split: u32,
}

impl KeyPair {
    pub(crate) fn new(primary: &[u8], secondary: &[u8]) -> Self {
        Self {
            bytes: [primary, secondary].concat().into(),
            split: u32::try_from(primary.len()).unwrap_or(u32::MAX),
        }
    }

    /// Two keys of 32 bytes.
    pub(crate) fn random() -> Self {
        Self::new(&random_bytes::<32>(), &random_bytes::<32>())
    }

    /// The keys of `device_id` under a group key (Microsoft, "Symmetric key attestation").
    pub(crate) fn derived(group_key: &[u8], device_id: &str) -> Self {
        Self::new(
            &hmac_sha256(group_key, &[device_id.as_bytes()]),
            &hmac_sha256(group_key, &[device_id.as_bytes(), b"\nsecondary"]),
        )
    }

    pub(crate) fn primary(&self) -> &[u8] {
        self.bytes.split_at(self.split as usize).0
    }

    pub(crate) fn secondary(&self) -> &[u8] {
        self.bytes.split_at(self.split as usize).1
    }

    /// The pair with one key new.
    pub(crate) fn regenerate(&self, which: WhichKey) -> Self {
        let new = random_bytes::<32>();
        match which {
            WhichKey::Primary => Self::new(&new, self.secondary()),
            WhichKey::Secondary => Self::new(self.primary(), &new),
        }
    }

    pub(crate) fn encoded(&self) -> DeviceKeys {
        DeviceKeys {
            primary: BASE64.encode(self.primary()),
            secondary: BASE64.encode(self.secondary()),
        }
    }

    pub(crate) fn signed(&self, token: &SasToken<'_>) -> bool {
        // Both are always compared: which of them fits is nobody's business.
        token.is_signed_with(self.primary()) | token.is_signed_with(self.secondary())
    }

    /// Whether a token was made as Event Hubs clients make them: with the text of a key.
    pub(crate) fn signed_as_text(&self, token: &SasToken<'_>) -> bool {
        let DeviceKeys { primary, secondary } = self.encoded();
        token.is_signed_with(primary.as_bytes()) | token.is_signed_with(secondary.as_bytes())
    }
}

/// A pair of keys in base64, as it is kept on disk.
#[derive(Serialize, Deserialize)]
struct Encoded {
    primary: String,
    secondary: String,
}

impl From<KeyPair> for Encoded {
    fn from(keys: KeyPair) -> Self {
        let DeviceKeys { primary, secondary } = keys.encoded();
        Self { primary, secondary }
    }
}

impl TryFrom<Encoded> for KeyPair {
    type Error = base64::DecodeError;

    fn try_from(keys: Encoded) -> Result<Self, Self::Error> {
        Ok(Self::new(
            &BASE64.decode(keys.primary)?,
            &BASE64.decode(keys.secondary)?,
        ))
    }
}

/// Bytes stored as base64 text, for `#[serde(with = ...)]`.
pub(crate) mod base64_bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        bytes: impl AsRef<[u8]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        BASE64.encode(bytes).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(T::from).map_err(D::Error::custom)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_key_matches_the_documented_vector() {
        let group = BASE64
            .decode("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
            .unwrap();
        let keys = KeyPair::derived(&group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6");
        assert_eq!(
            keys.encoded().primary,
            "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="
        );
    }

    #[test]
    fn keys_of_any_length_stay_apart() {
        let keys = KeyPair::new(b"one", b"another");
        assert_eq!(
            (keys.primary(), keys.secondary()),
            (&b"one"[..], &b"another"[..])
        );
    }
}
