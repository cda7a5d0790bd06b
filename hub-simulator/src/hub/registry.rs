//! Who may connect: devices with their keys, hub policies, and the check of a token against them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::device::Device;
use super::sas::{Resource, SasToken, hmac_sha256};
use crate::clock::unix_seconds;
use crate::guid::random_bytes;

/// Longest device id (Microsoft, "Understand the identity registry").
const MAX_DEVICE_ID: usize = 128;

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

/// A pair of raw keys.
#[derive(Clone, Copy)]
pub(crate) struct KeyPair {
    pub(crate) primary: [u8; 32],
    pub(crate) secondary: [u8; 32],
}

impl KeyPair {
    pub(crate) fn random() -> Self {
        Self {
            primary: random_bytes(),
            secondary: random_bytes(),
        }
    }

    /// The keys of `device_id` under a group key (Microsoft, "Symmetric key attestation").
    fn derived(group_key: &[u8], device_id: &str) -> Self {
        Self {
            primary: hmac_sha256(group_key, &[device_id.as_bytes()]),
            secondary: hmac_sha256(group_key, &[device_id.as_bytes(), b"\nsecondary"]),
        }
    }

    pub(crate) fn encoded(&self) -> DeviceKeys {
        DeviceKeys {
            primary: BASE64.encode(self.primary),
            secondary: BASE64.encode(self.secondary),
        }
    }

    fn signed(&self, token: &SasToken<'_>) -> bool {
        // Both are always compared: which of them fits is nobody's business.
        token.is_signed_with(&self.primary) | token.is_signed_with(&self.secondary)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

/// What a policy lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) device_connect: bool,
    pub(crate) service_connect: bool,
}

/// A hub-wide shared access policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) rights: Rights,
    pub(crate) keys: KeyPair,
}

impl Policy {
    /// The policies every hub is made with.
    pub(crate) fn built_in() -> Vec<Self> {
        let policy = |name, device_connect, service_connect| Self {
            name,
            rights: Rights {
                device_connect,
                service_connect,
            },
            keys: KeyPair::random(),
        };
        vec![
            policy("iothubowner", true, true),
            policy("service", false, true),
            policy("device", true, false),
            policy("registryRead", false, false),
            policy("registryReadWrite", false, false),
        ]
    }
}

/// Whom a checked token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// One device or module, by its own key.
    Device(Arc<str>),
    /// The holder of a policy, within the part of the hub the token is for.
    Policy {
        name: &'static str,
        rights: Rights,
        resource: Resource,
    },
}

impl Principal {
    /// Whether this may act as `device`; whether that device exists is another question.
    pub(crate) fn may_act_as(&self, device: &str) -> bool {
        match self {
            Self::Device(own) => &**own == device,
            Self::Policy {
                rights, resource, ..
            } => rights.device_connect && resource.covers_identity(device),
        }
    }

    pub(crate) fn auth_method(&self) -> AuthMethod {
        match self {
            Self::Device(_) => AuthMethod::IdentityKey,
            Self::Policy { .. } => AuthMethod::HubPolicy,
        }
    }

    /// Whether this may use the service-side endpoint below `path`.
    pub(crate) fn may_serve(&self, path: &[&str]) -> bool {
        match self {
            Self::Device(_) => false,
            Self::Policy {
                rights, resource, ..
            } => rights.service_connect && resource.covers(path),
        }
    }
}

/// How a sender of messages has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AuthMethod {
    /// By a token made with its own key.
    IdentityKey,
    /// By a token made with a key of the hub.
    HubPolicy,
    /// By a certificate.
    Certificate,
}

impl AuthMethod {
    /// The value of `iothub-connection-auth-method` (Microsoft, "Create and read IoT Hub messages").
    pub(crate) fn stamp(self) -> &'static str {
        match self {
            Self::IdentityKey => {
                r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
            }
            Self::HubPolicy => {
                r#"{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
            }
            Self::Certificate => {
                r#"{"scope":"device","type":"x509Certificate","issuer":"iothub","acceptingIpFilterRule":null}"#
            }
        }
    }
}

/// A token that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) principal: Principal,
    /// Seconds since the Unix epoch.
    pub(crate) expiry: u64,
}

/// Why a token or a link is refused; the texts are the real hub's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("The token is not a valid shared access signature.")]
    Malformed,
    #[error("The specified SAS token is expired.")]
    Expired,
    #[error(
        "The specified SAS token has an invalid signature. It does not match either the primary or secondary key."
    )]
    Signature,
    #[error("The specified SAS token is not for this hub.")]
    Audience,
    #[error("Device {identity} at IotHub {hub} not registered.")]
    NotRegistered { identity: String, hub: String },
    #[error("Device {identity} at IotHub {hub} is disabled.")]
    Disabled { identity: String, hub: String },
    /// A script says so.
    #[error("{text}")]
    Scripted { status: i32, text: String },
}

impl AccessError {
    /// Whether the hub answers 404 rather than 401.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status() == 404
    }

    pub(crate) fn status(&self) -> i32 {
        match self {
            Self::NotRegistered { .. } | Self::Disabled { .. } => 404,
            Self::Scripted { status, .. } => *status,
            Self::Malformed | Self::Expired | Self::Signature | Self::Audience => 401,
        }
    }
}

/// The hub's identity registry.
#[derive(Debug)]
pub(crate) struct Registry {
    host: String,
    devices: HashMap<Arc<str>, Device>,
    policies: Vec<Policy>,
    group_key: [u8; 32],
    auto_register: bool,
}

impl Registry {
    pub(crate) fn new(host: &str, auto_register: bool) -> Self {
        Self {
            host: host.to_owned(),
            devices: HashMap::new(),
            policies: Policy::built_in(),
            group_key: random_bytes(),
            auto_register,
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host name up to its first dot, as the hub names itself in its texts.
    pub(crate) fn short_name(&self) -> &str {
        self.host.split('.').next().unwrap_or_default()
    }

    pub(crate) fn group_key(&self) -> &[u8; 32] {
        &self.group_key
    }

    pub(crate) fn set_group_key(&mut self, key: [u8; 32]) {
        self.group_key = key;
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn policies_mut(&mut self) -> &mut [Policy] {
        &mut self.policies
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = (&Arc<str>, &Device)> {
        self.devices.iter()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Device> {
        self.devices.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Device> {
        self.devices.get_mut(id)
    }

    /// Registers a device unless it is there already; its keys derive from the group key if the hub
    /// registers by itself, and are random otherwise.
    pub(crate) fn add(&mut self, id: &str) -> &mut Device {
        let (group_key, auto) = (self.group_key, self.auto_register);
        self.devices.entry(id.into()).or_insert_with(|| {
            Device::new(if auto {
                KeyPair::derived(&group_key, id)
            } else {
                KeyPair::random()
            })
        })
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Device> {
        self.devices.remove(id)
    }

    /// The registered id, if the device exists and is enabled.
    pub(crate) fn usable(&mut self, id: &str) -> Result<Arc<str>, AccessError> {
        if self.auto_register && !self.devices.contains_key(id) && is_valid_id(id) {
            self.add(id);
        }
        let names = || (id.to_owned(), self.short_name().to_owned());
        match self.devices.get_key_value(id) {
            None => {
                let (identity, hub) = names();
                Err(AccessError::NotRegistered { identity, hub })
            }
            Some((_, device)) if !device.enabled => {
                let (identity, hub) = names();
                Err(AccessError::Disabled { identity, hub })
            }
            Some((id, _)) => Ok(Arc::clone(id)),
        }
    }

    /// Checks a token: form, audience, identity, signature, expiry.
    pub(crate) fn check_token(
        &mut self,
        text: &str,
        now: SystemTime,
    ) -> Result<Grant, AccessError> {
        let token = SasToken::parse(text).map_err(|_| AccessError::Malformed)?;
        if !token.resource.is_on(&self.host) {
            return Err(AccessError::Audience);
        }
        let (principal, keys) = match &token.policy {
            Some(name) => {
                let policy = self.policy(name).ok_or(AccessError::Signature)?;
                let resource = token.resource.clone();
                (
                    Principal::Policy {
                        name: policy.name,
                        rights: policy.rights,
                        resource,
                    },
                    policy.keys,
                )
            }
            None => {
                let id = token.resource.identity().ok_or(AccessError::Audience)?;
                let id = self.usable(&id)?;
                let keys = self.devices.get(&id).ok_or(AccessError::Malformed)?.keys;
                (Principal::Device(id), keys)
            }
        };
        if !keys.signed(&token) {
            return Err(AccessError::Signature);
        }
        if token.expiry <= unix_seconds(now) {
            return Err(AccessError::Expired);
        }
        Ok(Grant {
            principal,
            expiry: token.expiry,
        })
    }
}

/// Whether the registry would take this id.
fn is_valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_DEVICE_ID
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.+%_#*?!(),:=@$'".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HUB: &str = "hub.test";

    fn registry() -> Registry {
        let mut registry = Registry::new(HUB, false);
        registry.add("dev1");
        registry
    }

    fn check(registry: &mut Registry, text: &str) -> Result<Grant, AccessError> {
        registry.check_token(text, SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn either_key_of_a_device_speaks_for_it() {
        let mut registry = registry();
        let keys = registry.get("dev1").unwrap().keys;
        for key in [keys.primary, keys.secondary] {
            let grant = check(
                &mut registry,
                &super::super::sas::sign("hub.test/devices/dev1", &key, 2000, None),
            );
            assert!(grant.unwrap().principal.may_act_as("dev1"));
        }
    }

    #[test]
    fn a_token_is_refused_for_the_reason_it_is_bad() {
        let mut registry = registry();
        let key = registry.get("dev1").unwrap().keys.primary;
        let sign = |resource: &str, expiry| super::super::sas::sign(resource, &key, expiry, None);
        let refused = |registry: &mut Registry, text: &str| check(registry, text).unwrap_err();
        assert_eq!(refused(&mut registry, "nonsense"), AccessError::Malformed);
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev1", 999)),
            AccessError::Expired
        );
        assert_eq!(
            refused(&mut registry, &sign("other/devices/dev1", 2000)),
            AccessError::Audience
        );
        assert!(refused(&mut registry, &sign("hub.test/devices/dev2", 2000)).is_not_found());
        registry.add("dev2");
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev2", 2000)),
            AccessError::Signature
        );
        registry.get_mut("dev1").unwrap().enabled = false;
        assert!(refused(&mut registry, &sign("hub.test/devices/dev1", 2000)).is_not_found());
    }

    #[test]
    fn a_policy_token_reaches_as_far_as_its_resource_and_rights() {
        let mut registry = registry();
        let mut grant = |policy: &str, resource: &str| {
            let key = registry.policy(policy).unwrap().keys.primary;
            let token = super::super::sas::sign(resource, &key, 2000, Some(policy));
            check(&mut registry, &token).unwrap().principal
        };
        assert!(grant("device", HUB).may_act_as("dev1"));
        assert!(grant("device", "hub.test/devices").may_act_as("dev1"));
        assert!(!grant("device", "hub.test/devices/dev2").may_act_as("dev1"));
        assert!(!grant("service", HUB).may_act_as("dev1"));
        assert!(grant("service", HUB).may_serve(&["messages"]));
        assert!(!grant("device", HUB).may_serve(&["messages"]));
    }

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
}
