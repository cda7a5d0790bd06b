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

/// Is a shared access policy of the hub: a name and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedAccessPolicy {
    name: Arc<str>,
    key: SymmetricKey,
}

impl SharedAccessPolicy {
    /// Makes a policy from its name, such as `device` or `iothubowner`, and its key.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, key: SymmetricKey) -> Self {
        Self {
            name: name.into(),
            key,
        }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The policy's key.
    #[must_use]
    pub fn key(&self) -> &SymmetricKey {
        &self.key
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
            r#"SharedAccessPolicy { name: "device", key: SymmetricKey(..) }"#
        );
        assert_eq!(
            SymmetricKey::from_base64("?"),
            Err(ParseKeyError::NotBase64)
        );
        assert_eq!(SymmetricKey::from_base64(""), Err(ParseKeyError::Empty));
    }
}
