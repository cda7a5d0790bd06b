use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::key::SymmetricKey;
use crate::id::DeviceId;

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const PREFIX: &str = "SharedAccessSignature ";

/// Names the resource that a device's token is for: `{host}/devices/{id}`, the id percent-encoded.
#[must_use]
pub fn sas_resource(host: &str, device: &DeviceId) -> String {
    format!(
        "{host}/devices/{}",
        utf8_percent_encode(device.as_str(), RESERVED)
    )
}

/// Says why a text is not a shared access signature. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseTokenError {
    /// The text does not begin as a token does.
    #[error("a SAS token begins with \"SharedAccessSignature \"")]
    Prefix,
    /// A field is missing or empty.
    #[error("a SAS token needs the field `{0}`")]
    Missing(&'static str),
    /// The expiry is not a number of seconds.
    #[error("the field `se` of a SAS token is a number of seconds since 1970")]
    Expiry,
    /// The token is longer than any hub makes them.
    #[error("a SAS token has at most {max} bytes, this one has {length}", max = SasToken::MAX_LENGTH)]
    TooLong {
        /// The length found, in bytes.
        length: usize,
    },
}

/// Is a shared access signature token. Its text never shows in `Debug` output.
///
/// `SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]`; the signature
/// is HMAC-SHA256 over the literal `sr` text, a line feed and `se`
/// (Microsoft, "Control access to IoT Hub with shared access signatures").
#[derive(Clone, PartialEq, Eq)]
pub struct SasToken {
    text: Arc<str>,
    resource: Arc<str>,
    expires: u64,
}

impl SasToken {
    /// The longest token taken, in bytes.
    pub const MAX_LENGTH: usize = 2048;

    /// Parses a token that somebody else signed. Its signature is for the hub to judge.
    ///
    /// # Errors
    /// The text is not a token, or lacks `sr`, `sig` or `se`.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        if text.len() > Self::MAX_LENGTH {
            return Err(ParseTokenError::TooLong { length: text.len() });
        }
        let fields = text.strip_prefix(PREFIX).ok_or(ParseTokenError::Prefix)?;
        let field = |name: &'static str| {
            fields
                .split('&')
                .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
                .filter(|value| !value.is_empty())
                .ok_or(ParseTokenError::Missing(name))
        };
        field("sig")?;
        let resource = percent_decode_str(field("sr")?)
            .decode_utf8_lossy()
            .into_owned();
        let expires = field("se")?.parse().map_err(|_| ParseTokenError::Expiry)?;
        Ok(Self {
            text: text.into(),
            resource: resource.into(),
            expires,
        })
    }

    /// Signs a token for a resource such as `{host}/devices/{id}` with a device's key.
    #[must_use]
    pub fn sign(resource: &str, key: &SymmetricKey, expires: SystemTime) -> Self {
        Self::sign_as(resource, key, None, expires)
    }

    /// Signs a token for a resource such as `{host}` with a key of a hub's policy of this name.
    #[must_use]
    pub fn sign_with_policy(
        resource: &str,
        policy: &str,
        key: &SymmetricKey,
        expires: SystemTime,
    ) -> Self {
        Self::sign_as(resource, key, Some(policy), expires)
    }

    fn sign_as(
        resource: &str,
        key: &SymmetricKey,
        policy: Option<&str>,
        expires: SystemTime,
    ) -> Self {
        let expires = expires
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let encoded = utf8_percent_encode(resource, RESERVED).to_string();
        let signature = BASE64.encode(key.hmac_sha256(format!("{encoded}\n{expires}").as_bytes()));
        let signature = utf8_percent_encode(&signature, RESERVED);
        let mut text = format!("{PREFIX}sr={encoded}&sig={signature}&se={expires}");
        if let Some(policy) = policy {
            text.push_str("&skn=");
            text.extend(utf8_percent_encode(policy, RESERVED));
        }
        Self {
            text: text.into(),
            resource: resource.into(),
            expires,
        }
    }

    #[cfg(test)]
    pub(crate) fn owners(&self) -> usize {
        Arc::strong_count(&self.text)
    }

    /// The whole token: a secret, for the hub alone.
    #[must_use]
    pub fn secret_text(&self) -> &str {
        &self.text
    }

    /// The resource it is for, decoded once.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// When it lapses.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        // Far enough for any clock, and never out of its range.
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.expires.min(u32::MAX.into()))
    }

    /// Tells whether this token names this very device, on any hub.
    ///
    /// On a shared connection the hub judges tokens, not connections: a token of one device must
    /// not bring up another.
    #[must_use]
    pub fn is_for(&self, device: &DeviceId) -> bool {
        let Some((_, path)) = self.resource.split_once('/') else {
            return false;
        };
        let Some(id) = path.strip_prefix("devices/") else {
            return false;
        };
        id == device.as_str() || percent_decode_str(id).eq(device.as_str().bytes())
    }
}

impl fmt::Debug for SasToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SasToken")
            .field("resource", &self.resource)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SymmetricKey {
        SymmetricKey::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn signatures_match_the_check_vectors() {
        let device = SasToken::sign(
            "myhub.azure-devices.net/devices/dev1",
            &key(),
            at(1_700_000_000),
        );
        assert_eq!(
            device.secret_text(),
            "SharedAccessSignature sr=myhub.azure-devices.net%2Fdevices%2Fdev1\
             &sig=i%2BYmMcSSZc4KzBi6ejz3l0iL%2B2sN0CE3q6vSm837h2g%3D&se=1700000000"
        );
        let expires = at(1_700_000_000);
        let hub = SasToken::sign_with_policy("myhub.azure-devices.net", "device", &key(), expires);
        assert_eq!(
            hub.secret_text(),
            "SharedAccessSignature sr=myhub.azure-devices.net\
             &sig=iIzEw6hi6GK79RY5jNXO6QeQkSL%2FAx4zTmy44X2G1VY%3D&se=1700000000&skn=device"
        );
    }

    #[test]
    fn a_signed_token_parses_back() {
        let device = DeviceId::new("dev#1").unwrap();
        let signed = SasToken::sign(
            &sas_resource("h.example", &device),
            &key(),
            at(1_700_000_000),
        );
        assert_eq!(SasToken::parse(signed.secret_text()).unwrap(), signed);
        assert_eq!(signed.expires(), at(1_700_000_000));
        assert!(signed.is_for(&device));
    }

    #[test]
    fn a_token_is_for_one_device_only() {
        let token = |sr: &str| {
            SasToken::parse(&format!("SharedAccessSignature sig=x&se=1&sr={sr}")).unwrap()
        };
        let dev1 = DeviceId::new("dev1").unwrap();
        assert!(token("hub%2fdevices%2Fdev1").is_for(&dev1));
        assert!(token("hub/devices/dev1").is_for(&dev1));
        for other in [
            "hub",
            "hub/devices",
            "hub/devices/",
            "hub/devices/dev",
            "hub/devices/dev11",
            "hub/devices/DEV1",
            "hub/devices/dev1/modules/m",
            "hub/x/devices/dev1",
        ] {
            assert!(!token(other).is_for(&dev1), "{other}");
        }
    }

    #[test]
    fn a_wrong_token_says_what_it_lacks_and_not_what_it_is() {
        let parse = |text: &str| SasToken::parse(text).unwrap_err();
        assert_eq!(parse("sr=a&sig=b&se=1"), ParseTokenError::Prefix);
        assert_eq!(
            parse("SharedAccessSignature sr=a&se=1"),
            ParseTokenError::Missing("sig")
        );
        assert_eq!(
            parse("SharedAccessSignature sr=a&sig=&se=1"),
            ParseTokenError::Missing("sig")
        );
        assert_eq!(
            parse("SharedAccessSignature sr=a&sig=b&se=soon"),
            ParseTokenError::Expiry
        );
        assert_eq!(
            parse(&"x".repeat(4000)),
            ParseTokenError::TooLong { length: 4000 }
        );
        let secret = SasToken::parse("SharedAccessSignature sr=a&sig=hidden&se=1").unwrap();
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
