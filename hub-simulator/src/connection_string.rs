//! Connection strings as Microsoft's tools write them: `Name=value` pairs separated by semicolons.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// A parsed connection string of a device or of a hub policy.
///
/// `Display` writes it out with its key, as configuration needs it; `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionString {
    /// The hub's host name.
    pub host_name: String,
    /// Whose key it is.
    pub owner: KeyOwner,
    /// The raw key, base64-decoded.
    pub key: Vec<u8>,
}

/// Whose shared access key a connection string holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// A device, by id.
    Device(String),
    /// A hub policy, by name.
    Policy(String),
}

/// The text is no connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionStringError {
    /// A part between semicolons has no `=`.
    #[error("a part of the connection string is no Name=value pair")]
    NotAPair,
    /// The named part is missing.
    #[error("the connection string has no {0}")]
    Missing(&'static str),
    /// The key is not base64.
    #[error("the shared access key is not base64")]
    Key,
}

impl ConnectionString {
    pub(crate) fn new(host_name: &str, owner: KeyOwner, key: &[u8]) -> Self {
        Self {
            host_name: host_name.to_owned(),
            owner,
            key: key.to_vec(),
        }
    }

    /// Parses a connection string; the names of its parts are compared without case.
    ///
    /// # Errors
    /// Fails on parts that are no pairs, on missing parts and on a key that is not base64.
    pub fn parse(text: &str) -> Result<Self, ConnectionStringError> {
        let (mut host, mut device, mut policy, mut key) = (None, None, None, None);
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part
                .split_once('=')
                .ok_or(ConnectionStringError::NotAPair)?;
            match name.trim().to_ascii_lowercase().as_str() {
                "hostname" => host = Some(value),
                "deviceid" => device = Some(value),
                "sharedaccesskeyname" => policy = Some(value),
                "sharedaccesskey" => key = Some(value),
                _ => {}
            }
        }
        let owner = match (device, policy) {
            (Some(device), _) => KeyOwner::Device(device.to_owned()),
            (None, Some(policy)) => KeyOwner::Policy(policy.to_owned()),
            (None, None) => {
                return Err(ConnectionStringError::Missing(
                    "DeviceId or SharedAccessKeyName",
                ));
            }
        };
        let key = key.ok_or(ConnectionStringError::Missing("SharedAccessKey"))?;
        Ok(Self {
            host_name: host
                .ok_or(ConnectionStringError::Missing("HostName"))?
                .to_owned(),
            owner,
            key: BASE64.decode(key).map_err(|_| ConnectionStringError::Key)?,
        })
    }

    /// Signs a token with this key that lives until `expiry` (seconds since the Unix epoch): over
    /// the device, or over the whole hub for a policy.
    #[must_use]
    pub fn sign(&self, expiry: u64) -> String {
        match &self.owner {
            KeyOwner::Device(id) => crate::sign(
                &format!("{}/devices/{id}", self.host_name),
                &self.key,
                expiry,
                None,
            ),
            KeyOwner::Policy(name) => crate::sign(&self.host_name, &self.key, expiry, Some(name)),
        }
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.owner {
            KeyOwner::Device(id) => ("DeviceId", id),
            KeyOwner::Policy(name) => ("SharedAccessKeyName", name),
        };
        let key = BASE64.encode(&self.key);
        write!(
            f,
            "HostName={};{kind}={name};SharedAccessKey={key}",
            self.host_name
        )
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("host_name", &self.host_name)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            host in "[a-z0-9.-]{1,20}",
            id in "[a-zA-Z0-9._-]{1,20}",
            key in proptest::collection::vec(any::<u8>(), 1..64),
            is_policy in any::<bool>(),
        ) {
            let owner = if is_policy { KeyOwner::Policy(id) } else { KeyOwner::Device(id) };
            let written = ConnectionString::new(&host, owner, &key);
            prop_assert_eq!(ConnectionString::parse(&written.to_string()).unwrap(), written);
        }
    }

    #[test]
    fn a_key_never_shows_in_debug() {
        let text = "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0";
        let parsed = ConnectionString::parse(text).unwrap();
        assert!(!format!("{parsed:?}").contains("c2VjcmV0"));
        assert_eq!(parsed.to_string(), text);
    }
}
