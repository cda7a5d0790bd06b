//! Where the devices' credentials come from.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_core::credential::{
    ConnectionString, CredentialProvider, GroupKey, GroupKeyCredentials, HubPolicyCredentials,
    StaticCredentials, SymmetricKey,
};
use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use crate::document::Document;
use crate::secret::{SecretSource, Surroundings};
use crate::settings::CONNECTION_STRING;

/// Knows the devices' credentials.
pub(crate) type Credentials = Arc<dyn CredentialProvider>;

/// Says how devices prove themselves to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CredentialsConfig {
    kind: Kind,
    /// The group key, for `group_key`.
    key: Option<SecretSource>,
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
}

impl CredentialsConfig {
    /// Checks that the keys are there that the kind needs, and no others.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let owners = [
            ("key", &self.key, Kind::GroupKey, "group_key"),
            ("keys", &self.keys, Kind::DeviceKeys, "device_keys"),
        ];
        for (name, value, owner, kind) in owners {
            if value.is_none() && self.kind == owner {
                let problem = format!("is missing, but the kind is {kind}");
                return Err(ConfigError::new(name, problem, SecretSource::ALLOWED));
            }
            if value.is_some() && self.kind != owner {
                let allowed = format!("only with kind = \"{kind}\"");
                return Err(ConfigError::new(name, "has no effect", allowed));
            }
        }
        Ok(())
    }

    /// Reads the secrets; what is wrong with them is noted.
    pub(crate) fn read(
        self,
        document: &mut Document<'_>,
        connection: Option<&ConnectionString>,
        around: &Surroundings<'_>,
    ) -> Option<Credentials> {
        let (key, credentials) = match self.kind {
            Kind::DeviceTokens => return Some(Arc::new(StaticCredentials::default())),
            // What is wrong with the connection string is noted already.
            Kind::Policy if connection.is_none() && document.has(CONNECTION_STRING) => return None,
            Kind::Policy => ("credentials.kind", policy(connection)),
            Kind::GroupKey => ("credentials.key", read(self.key, around, group_key)),
            Kind::DeviceKeys => ("credentials.keys", read(self.keys, around, device_keys)),
        };
        credentials
            .map_err(|problem| document.note(key, problem))
            .ok()
    }
}

fn read(
    source: Option<SecretSource>,
    around: &Surroundings<'_>,
    parse: impl Fn(&str) -> Result<Credentials, String>,
) -> Result<Credentials, String> {
    // Its absence is noted by `validate`.
    let source = source.ok_or("is missing")?;
    parse(&source.read(around)?)
}

fn policy(connection: Option<&ConnectionString>) -> Result<Credentials, String> {
    match connection.and_then(ConnectionString::policy) {
        Some(policy) => Ok(Arc::new(HubPolicyCredentials::new(policy.clone()))),
        None => Err(
            "is policy, which takes the policy of `upstream.amqp.connection_string`, but \
                     that is missing, wrong, or of a device"
                .to_owned(),
        ),
    }
}

fn group_key(text: &str) -> Result<Credentials, String> {
    let key = GroupKey::from_base64(text).map_err(|error| format!("is no key: {error}"))?;
    Ok(Arc::new(GroupKeyCredentials::new(key)))
}

fn device_keys(text: &str) -> Result<Credentials, String> {
    // serde_json repeats values in its messages; the place must do.
    let keys: HashMap<DeviceId, SymmetricKey> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "is no JSON object of keys in base64 by device: see its line {line}, column {column}"
        )
    })?;
    Ok(Arc::new(StaticCredentials::new(keys)))
}
