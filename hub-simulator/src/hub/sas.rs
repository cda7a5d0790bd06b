//! Shared access signatures: making them, taking them apart, checking them.
//!
//! Source: Microsoft, "Control access to IoT Hub by using shared access signatures".

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::identity;

/// What a URL component keeps unencoded.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Signs a shared access signature for `resource`, which is given unencoded.
///
/// `key` is the raw key (base64-decoded), `expiry` is in seconds since the Unix epoch, and `policy`
/// names the hub policy the key belongs to, or is `None` for a device's own key.
#[must_use]
pub fn sign(resource: &str, key: &[u8], expiry: u64, policy: Option<&str>) -> String {
    let resource = utf8_percent_encode(resource, COMPONENT).to_string();
    let signature = BASE64.encode(hmac_sha256(
        key,
        &[resource.as_bytes(), b"\n", expiry.to_string().as_bytes()],
    ));
    let signature = utf8_percent_encode(&signature, COMPONENT);
    let policy = policy.map_or_else(String::new, |name| format!("&skn={name}"));
    format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}{policy}")
}

pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The text is no shared access signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is no shared access signature")]
pub(crate) struct NotASignature;

/// A shared access signature taken apart, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SasToken<'a> {
    /// The resource exactly as the token spells it: the signature covers this spelling.
    literal_resource: &'a str,
    literal_expiry: &'a str,
    signature: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub(crate) expiry: u64,
    /// The policy whose key signed, `None` for a device's key.
    pub(crate) policy: Option<String>,
    pub(crate) resource: Resource,
    /// The resource with ids that were encoded once.
    once: Resource,
}

impl<'a> SasToken<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, NotASignature> {
        let fields = text
            .trim()
            .strip_prefix("SharedAccessSignature ")
            .ok_or(NotASignature)?;
        let (mut resource, mut signature, mut expiry, mut policy) = (None, None, None, None);
        for field in fields.trim().split('&') {
            match field.split_once('=').ok_or(NotASignature)? {
                ("sr", value) => resource = Some(value),
                ("sig", value) => signature = Some(value),
                ("se", value) => expiry = Some(value),
                ("skn", value) if !value.is_empty() => policy = Some(decode(value)?),
                _ => {}
            }
        }
        let literal_resource = resource.ok_or(NotASignature)?;
        let literal_expiry = expiry.ok_or(NotASignature)?;
        let decoded = decode(literal_resource)?;
        let signature = decode(signature.ok_or(NotASignature)?)?;
        Ok(Self {
            literal_resource,
            literal_expiry,
            signature: BASE64.decode(signature).map_err(|_| NotASignature)?,
            expiry: literal_expiry.parse().map_err(|_| NotASignature)?,
            policy,
            resource: Resource::parse(&decoded, decoded_again),
            once: Resource::parse(&decoded, str::to_owned),
        })
    }

    /// The device or module that it is for and nothing below it: as the id reads if it was encoded
    /// once, where that is known, and as it most likely was encoded otherwise.
    pub(crate) fn identity(&self, is_known: impl FnOnce(&str) -> bool) -> Option<String> {
        let once = self.once.identity().filter(|id| is_known(id));
        once.or_else(|| self.resource.identity())
    }

    /// Whether `key` made this token.
    pub(crate) fn is_signed_with(&self, key: &[u8]) -> bool {
        let parts = [
            self.literal_resource.as_bytes(),
            b"\n",
            self.literal_expiry.as_bytes(),
        ];
        hmac_sha256(key, &parts)
            .ct_eq(self.signature.as_slice())
            .into()
    }
}

fn decode(text: &str) -> Result<String, NotASignature> {
    Ok(percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| NotASignature)?
        .into_owned())
}

/// Microsoft's C# SDK encodes an id, then the resource with the id in it; those for Node and Python
/// encode once. A segment in which everything is encoded that could be was encoded twice.
fn decoded_again(segment: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!*'()%".contains(&byte);
    let again = segment.bytes().all(is_plain).then(|| decode(segment));
    again
        .and_then(Result::ok)
        .unwrap_or_else(|| segment.to_owned())
}

/// What a token gives access to: a host, and everything under a path on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resource {
    host: String,
    path: Vec<String>,
}

impl Resource {
    /// Reads `[scheme://]host[:port][/segment...]`, already percent-decoded; ids may be encoded still.
    fn parse(text: &str, id: impl Fn(&str) -> String) -> Self {
        let text = text.split_once("://").map_or(text, |(_scheme, rest)| rest);
        let mut segments = text.split('/');
        let authority = segments.next().unwrap_or_default();
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let path = segments
            .filter(|segment| !segment.is_empty())
            .map(id)
            .collect();
        Self {
            host: host.to_ascii_lowercase(),
            path,
        }
    }

    /// The whole hub that this is a part of.
    pub(crate) fn whole(&self) -> Self {
        Self {
            host: self.host.clone(),
            path: Vec::new(),
        }
    }

    pub(crate) fn is_on(&self, host: &str) -> bool {
        self.host.eq_ignore_ascii_case(host)
    }

    /// The identity, if this is one device or module and nothing below it.
    pub(crate) fn identity(&self) -> Option<String> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let (identity, below) = identity::in_path(&path)?;
        below.is_empty().then(|| identity.into_owned())
    }

    /// Whether the resource contains a device, or a module of one.
    pub(crate) fn covers_identity(&self, identity: &str) -> bool {
        match identity::split(identity) {
            (device, None) => self.covers(&["devices", device]),
            (device, Some(module)) => self.covers(&["devices", device, "modules", module]),
        }
    }

    /// Whether the path begins with `word`.
    pub(crate) fn is_below(&self, word: &str) -> bool {
        let first = self.path.first();
        first.is_some_and(|first| first.eq_ignore_ascii_case(word))
    }

    /// Whether the resource contains `path` of the event hub, compared without case: Python asks for
    /// `consumergroups` and attaches to `ConsumerGroups`.
    pub(crate) fn covers_events(&self, path: &[&str]) -> bool {
        let same = |(own, other): (&String, &&str)| own.eq_ignore_ascii_case(other);
        self.path.len() <= path.len() && self.path.iter().zip(path).all(same)
    }

    /// Whether the resource contains `path`, compared segment by segment.
    pub(crate) fn covers(&self, path: &[&str]) -> bool {
        self.path.len() <= path.len()
            && self
                .path
                .iter()
                .zip(path)
                .enumerate()
                .all(|(at, (own, other))| {
                    // Only the leading word is a keyword; ids compare exactly.
                    if at == 0 {
                        own.eq_ignore_ascii_case(other)
                    } else {
                        own == other
                    }
                })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn key() -> Vec<u8> {
        BASE64.decode(KEY).unwrap()
    }

    fn token(resource: &str, signature: &str) -> String {
        let signature = utf8_percent_encode(signature, COMPONENT);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se=1700000000")
    }

    #[test]
    fn an_id_may_be_encoded_once_or_twice() {
        for id in ["dev1", "a+b#c%41$", "a%41", "100%", "a,b", "x!(y)*z'"] {
            let once = format!("hub/devices/{id}");
            let twice = format!("hub/devices/{}", utf8_percent_encode(id, COMPONENT));
            for resource in [once, twice] {
                let text = sign(&resource, &key(), 1_700_000_000, None);
                let token = SasToken::parse(&text).unwrap();
                let identity = token.identity(|known| known == id);
                assert_eq!(identity.as_deref(), Some(id), "{resource}");
                assert!(token.is_signed_with(&key()));
            }
        }
    }

    #[test]
    fn the_signature_covers_the_resource_as_it_is_spelt() {
        for (resource, signature) in [
            (
                "myhub.azure-devices.net%2Fdevices%2Fdev1",
                "i+YmMcSSZc4KzBi6ejz3l0iL+2sN0CE3q6vSm837h2g=",
            ),
            (
                "myhub.azure-devices.net%2fdevices%2fdev1",
                "dUk3ecSsggNPeQNG98fO6Pv16mCcXEgP6lT2QfotQ4s=",
            ),
            (
                "myhub.azure-devices.net",
                "iIzEw6hi6GK79RY5jNXO6QeQkSL/Ax4zTmy44X2G1VY=",
            ),
        ] {
            let text = token(resource, signature);
            assert!(
                SasToken::parse(&text).unwrap().is_signed_with(&key()),
                "{resource}"
            );
        }
    }

    #[test]
    fn a_signature_for_another_spelling_is_refused() {
        let text = token(
            "myhub.azure-devices.net%2Fdevices%2Fdev1",
            "dUk3ecSsggNPeQNG98fO6Pv16mCcXEgP6lT2QfotQ4s=",
        );
        assert!(!SasToken::parse(&text).unwrap().is_signed_with(&key()));
    }

    #[test]
    fn a_scope_covers_whole_path_segments_only() {
        let scope = Resource::parse("Hub:5671/devices/a", decoded_again);
        assert!(scope.is_on("hub"));
        assert!(scope.covers(&["devices", "a", "messages"]));
        assert!(!scope.covers(&["devices", "ab"]));
        assert!(!scope.covers(&["devices", "A"]));
        assert!(!scope.covers(&["devices"]));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_with_that_key_only(
            resource in "[a-z]{1,8}(/[a-zA-Z0-9!'()*:%-]{1,8}){0,3}",
            key in proptest::collection::vec(any::<u8>(), 1..64),
            other in proptest::collection::vec(any::<u8>(), 65..80),
            expiry in any::<u64>(),
        ) {
            let text = sign(&resource, &key, expiry, Some("device"));
            let token = SasToken::parse(&text).unwrap();
            prop_assert!(token.is_signed_with(&key));
            prop_assert!(!token.is_signed_with(&other));
            prop_assert_eq!(token.expiry, expiry);
            prop_assert_eq!(token.policy.as_deref(), Some("device"));
            prop_assert_eq!(token.resource, Resource::parse(&resource, decoded_again));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(SharedAccessSignature )?.{0,80}") {
            drop(SasToken::parse(&text));
        }
    }
}
