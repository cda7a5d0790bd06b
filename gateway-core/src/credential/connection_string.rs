use std::fmt;
use std::str::FromStr;

use super::Credential;
use super::key::{ParseKeyError, SharedAccessPolicy, SymmetricKey};
use crate::id::{DeviceId, ParseIdError};

/// Says what is wrong with a connection string. What stands there is not repeated: even an unknown name
/// may be the beginning of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseConnectionStringError {
    /// A part is not of the form `Name=value`.
    #[error("part {0} of the connection string is not of the form `Name=value`")]
    Form(usize),
    /// A name is not known.
    #[error(
        "part {0} of the connection string has a name that is not known; known are HostName, \
         GatewayHostName, DeviceId, SharedAccessKeyName, SharedAccessKey"
    )]
    UnknownName(usize),
    /// A name stands there twice.
    #[error("the connection string has `{0}` twice")]
    Duplicate(&'static str),
    /// A name is missing or empty.
    #[error("the connection string lacks `{0}`")]
    Missing(&'static str),
    /// A device and a policy are both named.
    #[error("the connection string names a device and a policy; use one of the two")]
    DeviceAndPolicy,
    /// The host name has characters that no host name has.
    #[error("`{0}` of the connection string is not a host name")]
    Host(&'static str),
    /// The device id is wrong.
    #[error("`DeviceId` of the connection string: {0}")]
    Device(#[from] ParseIdError),
    /// The key is wrong.
    #[error("`SharedAccessKey` of the connection string: {0}")]
    Key(#[from] ParseKeyError),
}

/// Is a connection string in Azure's form.
///
/// `HostName=...;SharedAccessKeyName=...;SharedAccessKey=...` for a policy of the hub,
/// `HostName=...;DeviceId=...;SharedAccessKey=...` for a device. Names are case-insensitive.
///
/// ```
/// use gateway_core::credential::ConnectionString;
/// let parsed: ConnectionString =
///     "HostName=hub.example;SharedAccessKeyName=device;SharedAccessKey=c2VjcmV0".parse()?;
/// assert_eq!(parsed.host_name(), "hub.example");
/// # Ok::<(), gateway_core::credential::ParseConnectionStringError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    host_name: String,
    gateway_host_name: Option<String>,
    device: Option<DeviceId>,
    credential: Credential,
}

impl ConnectionString {
    /// The hub's name, the one that tokens are for.
    #[must_use]
    pub fn host_name(&self) -> &str {
        &self.host_name
    }

    /// Where to connect instead of the hub, if the string says so.
    #[must_use]
    pub fn gateway_host_name(&self) -> Option<&str> {
        self.gateway_host_name.as_deref()
    }

    /// The device, in a device's string.
    #[must_use]
    pub fn device(&self) -> Option<&DeviceId> {
        self.device.as_ref()
    }

    /// The policy or the device's key.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// The policy, in a policy's string.
    #[must_use]
    pub fn policy(&self) -> Option<&SharedAccessPolicy> {
        match &self.credential {
            Credential::Policy(policy) => Some(policy),
            _ => None,
        }
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionString")
            .field("host_name", &self.host_name)
            .field("device", &self.device)
            .field("policy", &self.policy().map(SharedAccessPolicy::name))
            .finish_non_exhaustive()
    }
}

const NAMES: [&str; 5] = [
    "HostName",
    "GatewayHostName",
    "DeviceId",
    "SharedAccessKeyName",
    "SharedAccessKey",
];

impl FromStr for ConnectionString {
    type Err = ParseConnectionStringError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use ParseConnectionStringError as Error;
        let mut values: [Option<&str>; NAMES.len()] = [None; NAMES.len()];
        let parts = text
            .trim()
            .split(';')
            .filter(|part| !part.trim().is_empty());
        for (at, part) in parts.enumerate() {
            // A base64 value may itself end with `=`.
            let (name, value) = part.split_once('=').ok_or(Error::Form(at + 1))?;
            let (name, value) = (name.trim(), value.trim());
            let slot = NAMES
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name))
                .ok_or_else(|| Error::UnknownName(at + 1))?;
            if values[slot].replace(value).is_some() {
                return Err(Error::Duplicate(NAMES[slot]));
            }
        }
        let value = |at: usize| values[at].filter(|value| !value.is_empty());
        let required = |at: usize| value(at).ok_or(Error::Missing(NAMES[at]));

        let host = |at: usize, text: &str| match is_host(text) {
            true => Ok(text.to_owned()),
            false => Err(Error::Host(NAMES[at])),
        };
        let host_name = host(0, required(0)?)?;
        let gateway_host_name = value(1).map(|text| host(1, text)).transpose()?;
        let device = value(2).map(DeviceId::new).transpose()?;
        let key = SymmetricKey::from_base64(required(4)?)?;
        let credential = match (&device, value(3)) {
            (Some(_), Some(_)) => return Err(Error::DeviceAndPolicy),
            (Some(_), None) => Credential::DeviceKey(key.into()),
            (None, Some(policy)) => Credential::Policy(SharedAccessPolicy::new(policy, key)),
            (None, None) => return Err(Error::Missing(NAMES[3])),
        };
        Ok(Self {
            host_name,
            gateway_host_name,
            device,
            credential,
        })
    }
}

/// A host name or address, with an optional port.
fn is_host(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c))
}

impl<'de> serde::Deserialize<'de> for ConnectionString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_of_azures_forms_are_read() {
        let device: ConnectionString =
            "HostName=h.azure-devices.net;DeviceId=d=1;SharedAccessKey=c2VjcmV0MQ=="
                .parse()
                .unwrap();
        assert_eq!(device.device().unwrap().as_str(), "d=1");
        assert!(matches!(device.credential(), Credential::DeviceKey(_)));
        let policy: ConnectionString =
            " hostname=h;sharedaccesskeyname=device;SharedAccessKey=c2VjcmV0;GatewayHostName=edge;"
                .parse()
                .unwrap();
        assert_eq!(policy.policy().unwrap().name(), "device");
        assert_eq!(policy.gateway_host_name(), Some("edge"));
    }

    #[test]
    fn each_fault_is_named_and_no_secret_shown() {
        use ParseConnectionStringError as Error;
        let parse = |text: &str| text.parse::<ConnectionString>().unwrap_err();
        assert_eq!(parse(""), Error::Missing("HostName"));
        assert_eq!(
            parse("HostName=h;DeviceId=d"),
            Error::Missing("SharedAccessKey")
        );
        assert_eq!(
            parse("HostName=h;SharedAccessKey=c2U="),
            Error::Missing("SharedAccessKeyName")
        );
        assert_eq!(parse("HostName=h;HostName=i"), Error::Duplicate("HostName"));
        assert_eq!(parse("HostName=h;Nope=1"), Error::UnknownName(2));
        assert_eq!(parse("HostName=h;junk"), Error::Form(2));
        assert_eq!(
            parse("HostName=h/x;DeviceId=d;SharedAccessKey=c2U="),
            Error::Host("HostName")
        );
        assert_eq!(
            parse("HostName=h;DeviceId=d;SharedAccessKeyName=p;SharedAccessKey=c2U="),
            Error::DeviceAndPolicy
        );
        let error = parse("HostName=h;DeviceId=d;SharedAccessKey=!hidden!").to_string();
        assert!(
            error.contains("SharedAccessKey") && !error.contains("hidden"),
            "{error}"
        );
        // Padding makes a name of a key that stands alone.
        let error = parse("HostName=h;aGlkZGVuIGtleQ==").to_string();
        assert!(
            error.contains("part 2") && !error.contains("aGlk"),
            "{error}"
        );
        let good: ConnectionString = "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0"
            .parse()
            .unwrap();
        assert!(!format!("{good:?}").contains("c2Vj"));
    }
}
