//! Where the devices' credentials come from.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_core::credential::{
    ConnectionString, CredentialProvider, GroupKey, GroupKeyCredentials, HubPolicyCredentials,
    KeyPair, SharedAccessPolicy, StaticCredentials, SymmetricKey, VouchedCredentials,
};
use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use crate::document::Document;
use crate::secret::{SecretSource, Surroundings};
use crate::settings::HubSection;

const SECONDARY_KEY: &str = "credentials.secondary_key";

/// Knows the devices' credentials.
pub(crate) type Credentials = Arc<dyn CredentialProvider>;

/// Says how devices prove themselves to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialsConfig {
    kind: Kind,
    /// The group key, for `group_key`.
    key: Option<SecretSource>,
    /// The second key of the policy or group, which is used where the hub refuses the first.
    secondary_key: Option<SecretSource>,
    /// A JSON object of keys by device, for `device_keys`.
    keys: Option<SecretSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// The policy in the hub's connection string acts for every device.
    Policy,
    /// Each device's key derives from the key of its enrolment group.
    GroupKey,
    /// Each device has a key in a list.
    DeviceKeys,
    /// Each device brings a token of its own.
    DeviceTokens,
    /// The gateway vouches for every device, to a broker.
    Vouched,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::GroupKey => "group_key",
            Self::DeviceKeys => "device_keys",
            Self::DeviceTokens => "device_tokens",
            Self::Vouched => "vouched",
        }
    }
}

impl CredentialsConfig {
    /// Checks that the keys are there that the kind needs, and no others.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let either = [Kind::Policy, Kind::GroupKey];
        let owners = [
            ("key", &self.key, &[Kind::GroupKey][..], true),
            ("keys", &self.keys, &[Kind::DeviceKeys], true),
            ("secondary_key", &self.secondary_key, &either, false),
        ];
        for (name, value, owners, is_needed) in owners {
            let is_owner = owners.contains(&self.kind);
            if value.is_none() && is_owner && is_needed {
                let problem = format!("is missing, but the kind is {}", self.kind.name());
                return Err(ConfigError::new(name, problem, SecretSource::ALLOWED));
            }
            if value.is_some() && !is_owner {
                let kinds: Vec<_> = owners.iter().map(|kind| kind.name()).collect();
                let allowed = format!("only with kind = \"{}\"", kinds.join("\" or \""));
                return Err(ConfigError::new(name, "has no effect", allowed));
            }
        }
        Ok(())
    }

    /// Reads the secrets; what is wrong with them is noted.
    pub(crate) fn read(
        self,
        document: &mut Document<'_>,
        upstream: &HubSection,
        around: &Surroundings<'_>,
    ) -> Option<Credentials> {
        if let Some(is_broker) = upstream.is_broker
            && (self.kind == Kind::Vouched) != is_broker
        {
            let (whom, allowed) = match is_broker {
                true => ("a broker asks for no such proof", "vouched"),
                false => (
                    "a hub wants proof of each device",
                    "policy, group_key, device_keys, device_tokens",
                ),
            };
            let problem = format!("is {}, but {whom}; allowed: {allowed}", self.kind.name());
            document.note("credentials.kind", problem);
            return None;
        }
        let connection = upstream.connection.as_ref();
        match self.kind {
            Kind::Vouched => Some(Arc::new(VouchedCredentials)),
            Kind::DeviceTokens => Some(Arc::new(StaticCredentials::default())),
            // What is wrong with the connection string is noted already.
            Kind::Policy if connection.is_none() && upstream.is_noted(document) => None,
            Kind::Policy => {
                let policy = noted(document, "credentials.kind", policy(connection))?;
                let second = read(self.secondary_key, around, symmetric_key);
                Some(match noted(document, SECONDARY_KEY, second)? {
                    Some(key) => Arc::new(HubPolicyCredentials::new(policy.with_secondary(key))),
                    None => Arc::new(HubPolicyCredentials::new(policy)),
                })
            }
            Kind::GroupKey => {
                let key = noted(
                    document,
                    "credentials.key",
                    read(self.key, around, group_key),
                )?;
                let second = read(self.secondary_key, around, group_key);
                let credentials = GroupKeyCredentials::new(key?);
                Some(match noted(document, SECONDARY_KEY, second)? {
                    Some(key) => Arc::new(credentials.with_secondary(key)),
                    None => Arc::new(credentials),
                })
            }
            Kind::DeviceKeys => {
                let keys = read(self.keys, around, device_keys);
                let keys = noted(document, "credentials.keys", keys)??;
                Some(Arc::new(StaticCredentials::new(keys)))
            }
        }
    }
}

fn noted<T>(document: &mut Document<'_>, key: &str, read: Result<T, String>) -> Option<T> {
    read.map_err(|problem| document.note(key, problem)).ok()
}

/// Reads a secret if there is one; whether one is needed is seen to by `validate`.
fn read<T>(
    source: Option<SecretSource>,
    around: &Surroundings<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    source
        .map(|source| parse(&source.read(around)?))
        .transpose()
}

fn policy(connection: Option<&ConnectionString>) -> Result<SharedAccessPolicy, String> {
    match connection.and_then(ConnectionString::policy) {
        Some(policy) => Ok(policy.clone()),
        None => Err(
            "is policy, which takes the policy of the hub's `connection_string`, but that is \
                     missing, wrong, or of a device"
                .to_owned(),
        ),
    }
}

fn symmetric_key(text: &str) -> Result<SymmetricKey, String> {
    SymmetricKey::from_base64(text).map_err(|error| format!("is no key: {error}"))
}

fn group_key(text: &str) -> Result<GroupKey, String> {
    GroupKey::from_base64(text).map_err(|error| format!("is no key: {error}"))
}

fn device_keys(text: &str) -> Result<HashMap<DeviceId, KeyPair>, String> {
    // serde_json repeats values in its messages; the place must do.
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "is no JSON object of keys in base64 by device: see its line {line}, column {column}"
        )
    })
}
