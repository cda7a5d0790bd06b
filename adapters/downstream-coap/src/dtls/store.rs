//! Which key an identity has, and which device it is.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::Path;

use async_trait::async_trait;
use gateway_core::DeviceId;
use gateway_net::{BindError, read_secrets};
use serde::Deserialize;

/// Is a key that a device and the gateway share. It is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PskKey(Box<[u8]>);

impl PskKey {
    /// The most bytes that every side must be able to hold (RFC 4279, section 5.3).
    pub const MAX_LENGTH: usize = 64;

    /// Takes a key of 1 to 64 bytes. Sixteen random ones are as good as the cipher.
    ///
    /// # Errors
    /// It is empty or too long.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PskKeyError> {
        let bytes = bytes.as_ref();
        match (1..=Self::MAX_LENGTH).contains(&bytes.len()) {
            true => Ok(Self(bytes.into())),
            false => Err(PskKeyError::Length(bytes.len())),
        }
    }

    /// Reads a key from hexadecimal digits, two for each byte.
    ///
    /// # Errors
    /// There is something else in it, or the key is empty or too long.
    pub fn from_hex(digits: &str) -> Result<Self, PskKeyError> {
        let digits = digits.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(PskKeyError::Hex);
        let byte = |[high, low]: &[u8; 2]| Ok((digit(*high)? << 4 | digit(*low)?) as u8);
        match rest {
            [] => Self::new(pairs.iter().map(byte).collect::<Result<Vec<_>, _>>()?),
            _ => Err(PskKeyError::Hex),
        }
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskKey(..)")
    }
}

/// Says why something is no key. It does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PskKeyError {
    /// The key is empty or too long.
    #[error("a key has 1 to 64 bytes, this one has {0}")]
    Length(usize),
    /// The key is not written in hexadecimal digits.
    #[error("a key in hexadecimal has an even number of digits and nothing else")]
    Hex,
}

/// Is what is known of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PskEntry {
    /// The device.
    pub device: DeviceId,
    /// The key that it proves itself with.
    pub key: PskKey,
}

impl PskEntry {
    /// Puts a device and its key together.
    #[must_use]
    pub fn new(device: DeviceId, key: PskKey) -> Self {
        Self { device, key }
    }
}

/// Says that an identity could not be looked up. The device's handshake fails; it will try again.
#[derive(Debug, thiserror::Error)]
#[error("the identity cannot be looked up now; is the registry reachable?")]
pub struct PskStoreError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl PskStoreError {
    /// Wraps what went wrong.
    #[must_use]
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// Knows the devices' keys: the place to plug a registry in.
///
/// An identity names a key, which need not be the device's id: `sensor-1@factory` may be device
/// `factory-0001`, and a device may have two identities while its key is changed.
#[async_trait]
pub trait PskStore: fmt::Debug + Send + Sync + 'static {
    /// Looks an identity up, of 128 bytes at most; `None` if it is unknown. It is asked once for each
    /// handshake of a client that receives at its address but has proved nothing else, and has until
    /// the handshake's time-out. A panic counts as an error.
    ///
    /// # Errors
    /// It cannot be told now.
    ///
    /// # Cancel safety
    /// It is dropped when the gateway stops.
    async fn find(&self, identity: &str) -> Result<Option<PskEntry>, PskStoreError>;
}

/// Knows the keys that it was given. Without any it lets nobody in.
#[derive(Debug, Clone, Default)]
pub struct StaticPskStore(HashMap<String, PskEntry>);

impl StaticPskStore {
    /// Makes a store that knows nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an identity, or changes it.
    #[must_use]
    pub fn with(mut self, identity: impl Into<String>, entry: PskEntry) -> Self {
        self.0.insert(identity.into(), entry);
        self
    }

    /// Adds what a JSON file holds: by identity, the `device` (by default the identity itself) and
    /// its key, as text in `key` or in hexadecimal digits in `key_hex`.
    ///
    /// ```json
    /// {
    ///   "sensor-1": { "key": "correct horse battery staple" },
    ///   "a1@factory": { "device": "sensor-2", "key_hex": "000102030405060708090a0b0c0d0e0f" }
    /// }
    /// ```
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong; the error does not repeat keys.
    pub fn read_file(&mut self, path: &Path) -> Result<(), BindError> {
        const PURPOSE: &str = "keys by identity";
        for (identity, entry) in read_secrets::<String, FileEntry>(path, PURPOSE)? {
            let entry = entry.check(&identity).map_err(|error| {
                BindError::file(path, PURPOSE, format!("identity {identity:?}: {error}"))
            })?;
            self.0.insert(identity, entry);
        }
        Ok(())
    }
}

#[async_trait]
impl PskStore for StaticPskStore {
    async fn find(&self, identity: &str) -> Result<Option<PskEntry>, PskStoreError> {
        Ok(self.0.get(identity).cloned())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    device: Option<String>,
    key: Option<String>,
    key_hex: Option<String>,
}

impl FileEntry {
    fn check(self, identity: &str) -> Result<PskEntry, String> {
        let device = self.device.as_deref().unwrap_or(identity);
        let device = DeviceId::new(device).map_err(|error| error.to_string())?;
        let key = match (self.key, self.key_hex) {
            (Some(text), None) => PskKey::new(text),
            (None, Some(digits)) => PskKey::from_hex(&digits),
            _ => return Err("give either `key` or `key_hex`".to_owned()),
        };
        let key = key.map_err(|error| error.to_string())?;
        Ok(PskEntry { device, key })
    }
}

/// Asks a closure for keys.
///
/// ```
/// use gateway_core::DeviceId;
/// use gateway_downstream_coap::dtls::{PskEntry, PskFn, PskKey};
///
/// let store = PskFn::new(|identity: String| async move {
///     let known = DeviceId::new(&identity).ok().zip(PskKey::new("secret").ok());
///     Ok(known.map(|(device, key)| PskEntry::new(device, key)))
/// });
/// # let _ = store;
/// ```
pub struct PskFn<F>(F);

impl<F> PskFn<F> {
    /// Takes what a store would do for an identity.
    pub fn new<A>(find: F) -> Self
    where
        F: Fn(String) -> A,
        A: Future<Output = Result<Option<PskEntry>, PskStoreError>>,
    {
        Self(find)
    }
}

impl<F> fmt::Debug for PskFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PskFn(..)")
    }
}

#[async_trait]
impl<F, A> PskStore for PskFn<F>
where
    F: Fn(String) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Option<PskEntry>, PskStoreError>> + Send,
{
    async fn find(&self, identity: &str) -> Result<Option<PskEntry>, PskStoreError> {
        (self.0)(identity.to_owned()).await
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io::Write as _;

    use super::*;

    fn read(text: &str) -> Result<StaticPskStore, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut store = StaticPskStore::new();
        match store.read_file(file.path()) {
            Ok(()) => Ok(store),
            Err(error) => Err(format!("{error}: {}", error.source().expect("a source"))),
        }
    }

    #[test]
    fn a_file_names_identities_with_keys_as_text_or_digits() {
        let store =
            read(r#"{"a": {"key": "text"}, "b@c": {"device": "sensor-2", "key_hex": "00fF"}}"#)
                .unwrap();
        assert_eq!(store.0["a"].device.as_str(), "a");
        assert_eq!(store.0["a"].key.expose(), b"text");
        assert_eq!(store.0["b@c"].device.as_str(), "sensor-2");
        assert_eq!(store.0["b@c"].key.expose(), [0, 255]);
    }

    #[test]
    fn a_wrong_file_is_told_of_without_its_keys() {
        let too_long = format!(r#"{{"a": {{"key": "{}"}}}}"#, "secret".repeat(11));
        for (text, expected) in [
            (
                r#"{"a": {"key": "secret", "key_hex": "00"}}"#,
                "either `key`",
            ),
            (r#"{"a": {}}"#, "either `key`"),
            (r#"{"a": {"key_hex": "secret"}}"#, "hexadecimal"),
            (r#"{"a": {"key_hex": "123"}}"#, "even number"),
            (r#"{"a": {"key": "secret", "devise": "b"}}"#, "line 1"),
            (r#"{"a": "secret"}"#, "line 1"),
            (r#"{"a/b": {"key": "secret"}}"#, "device"),
            (&too_long, "1 to 64 bytes"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let device = DeviceId::new("a").unwrap();
        let entry = PskEntry::new(device, PskKey::new("secret").unwrap());
        let shown = format!(
            "{entry:?} {:?}",
            StaticPskStore::new().with("a", entry.clone())
        );
        assert!(
            !shown.contains("secret") && !shown.contains("115"),
            "{shown}"
        );
    }
}
