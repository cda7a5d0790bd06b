use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::DeviceId;

/// Says that a text is not a usable key. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseKeyError {
    /// The text is not base64.
    #[error("a shared access key must be base64 (RFC 4648, with padding)")]
    NotBase64,
    /// The key is empty.
    #[error("a shared access key must not be empty")]
    Empty,
}

/// Holds a symmetric key. It never shows in `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct SymmetricKey(Arc<[u8]>);

impl SymmetricKey {
    /// Decodes a key from base64, the form in which the hub gives it.
    ///
    /// # Errors
    /// The text is empty or not base64.
    pub fn from_base64(text: &str) -> Result<Self, ParseKeyError> {
        let bytes = BASE64
            .decode(text.trim())
            .map_err(|_| ParseKeyError::NotBase64)?;
        if bytes.is_empty() {
            Err(ParseKeyError::Empty)
        } else {
            Ok(Self(bytes.into()))
        }
    }

    pub(super) fn hmac_sha256(&self, data: &[u8]) -> [u8; 32] {
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes a key of any length (RFC 2104)"
        )]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any key length");
        mac.update(data);
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SymmetricKey(..)")
    }
}

impl<'de> serde::Deserialize<'de> for SymmetricKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_base64(&text).map_err(serde::de::Error::custom)
    }
}

/// Holds a key and, where the hub takes a second one, that as well: with both known here, either
/// may be replaced at the hub without a device noticing.
///
/// Read from a text, the key alone, or from `primary` and `secondary`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "Keys")]
pub struct KeyPair {
    primary: SymmetricKey,
    secondary: Option<SymmetricKey>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Keys {
    One(SymmetricKey),
    Named(NamedKeys),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKeys {
    primary: SymmetricKey,
    secondary: Option<SymmetricKey>,
}

impl From<Keys> for KeyPair {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::One(key) => key.into(),
            Keys::Named(NamedKeys { primary, secondary }) => Self { primary, secondary },
        }
    }
}

impl From<SymmetricKey> for KeyPair {
    fn from(primary: SymmetricKey) -> Self {
        Self {
            primary,
            secondary: None,
        }
    }
}

impl KeyPair {
    /// Sets the second key, which is used where the hub refuses the first.
    #[must_use]
    pub fn with_secondary(mut self, key: SymmetricKey) -> Self {
        self.secondary = Some(key);
        self
    }

    /// The key that is tried first.
    #[must_use]
    pub fn primary(&self) -> &SymmetricKey {
        &self.primary
    }

    /// The key that is tried where the hub refuses the first.
    #[must_use]
    pub fn secondary(&self) -> Option<&SymmetricKey> {
        self.secondary.as_ref()
    }

    /// The keys in the order in which they are tried, each with whether it is the second: that one
    /// first if the hub took it last.
    pub fn in_order(&self, is_second_first: bool) -> impl Iterator<Item = (&SymmetricKey, bool)> {
        let mut order = [(Some(&self.primary), false), (self.secondary(), true)];
        if is_second_first {
            order.reverse();
        }
        let order = order.into_iter();
        order.filter_map(|(key, is_second)| Some((key?, is_second)))
    }
}

/// Holds the key of an enrolment group, from which each device's key is derived.
///
/// Source: Microsoft, "Symmetric key attestation with DPS", group enrollments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupKey(SymmetricKey);

impl GroupKey {
    /// Decodes a group key from base64.
    ///
    /// # Errors
    /// The text is empty or not base64.
    pub fn from_base64(text: &str) -> Result<Self, ParseKeyError> {
        SymmetricKey::from_base64(text).map(Self)
    }

    /// Derives a device's key: HMAC-SHA256 of the registration id under the group key.
    ///
    /// The id is taken as it is; register devices in lower case where the provisioning service
    /// folds case.
    #[must_use]
    pub fn derive(&self, device: &DeviceId) -> SymmetricKey {
        SymmetricKey(
            self.0
                .hmac_sha256(device.as_str().as_bytes())
                .as_slice()
                .into(),
        )
    }
}

/// Is a shared access policy of the hub: a name and its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedAccessPolicy {
    name: Arc<str>,
    keys: KeyPair,
}

impl SharedAccessPolicy {
    /// Makes a policy from its name, such as `device` or `iothubowner`, and its key or keys.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, keys: impl Into<KeyPair>) -> Self {
        Self {
            name: name.into(),
            keys: keys.into(),
        }
    }

    /// Sets the policy's second key, which is used where the hub refuses the first.
    #[must_use]
    pub fn with_secondary(mut self, key: SymmetricKey) -> Self {
        self.keys = self.keys.with_secondary(key);
        self
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The policy's keys.
    #[must_use]
    pub fn keys(&self) -> &KeyPair {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_key_derives_the_documented_device_key() {
        let group = GroupKey::from_base64(
            "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==",
        )
        .unwrap();
        let device = DeviceId::new("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").unwrap();
        assert_eq!(
            group.derive(&device),
            SymmetricKey::from_base64("Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=").unwrap()
        );
    }

    #[test]
    fn a_key_never_shows_itself() {
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let policy = SharedAccessPolicy::new("device", key);
        assert_eq!(
            format!("{policy:?}"),
            "SharedAccessPolicy { name: \"device\", keys: KeyPair { primary: SymmetricKey(..), \
             secondary: None } }"
        );
        assert_eq!(
            SymmetricKey::from_base64("?"),
            Err(ParseKeyError::NotBase64)
        );
        assert_eq!(SymmetricKey::from_base64(""), Err(ParseKeyError::Empty));
    }

    #[test]
    fn a_pair_is_read_from_a_key_or_from_two() {
        let pair = |text: &str| serde_json::from_str::<KeyPair>(text);
        let key = |text: &str| SymmetricKey::from_base64(text).unwrap();
        let one = pair(r#""b25l""#).unwrap();
        assert_eq!(one, key("b25l").into());
        let two = pair(r#"{"primary": "b25l", "secondary": "dHdv"}"#).unwrap();
        assert_eq!(two, one.with_secondary(key("dHdv")));
        for wrong in [r#""!hidden""#, r#"{"primary": "b25l", "third": "hidden"}"#] {
            let error = pair(wrong).unwrap_err().to_string();
            assert!(!error.contains("hidden"), "{error}");
        }
    }
}
