//! What the holder of a checked token may do.

use std::sync::Arc;

use super::identity;
use super::keys::KeyPair;
use super::sas::Resource;

/// What a policy lets its holder do (Microsoft, "Control access to IoT Hub", permissions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rights {
    pub(crate) registry_read: bool,
    pub(crate) registry_write: bool,
    pub(crate) service_connect: bool,
    pub(crate) device_connect: bool,
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
        let none = Rights::default();
        let policy = |name, rights| Self {
            name,
            rights,
            keys: KeyPair::random(),
        };
        vec![
            policy(
                "iothubowner",
                Rights {
                    registry_read: true,
                    registry_write: true,
                    service_connect: true,
                    device_connect: true,
                },
            ),
            policy(
                "service",
                Rights {
                    service_connect: true,
                    ..none
                },
            ),
            policy(
                "device",
                Rights {
                    device_connect: true,
                    ..none
                },
            ),
            policy(
                "registryRead",
                Rights {
                    registry_read: true,
                    ..none
                },
            ),
            policy(
                "registryReadWrite",
                Rights {
                    registry_read: true,
                    registry_write: true,
                    ..none
                },
            ),
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
    /// Whether this may act as a device or module; whether there is one is another question.
    ///
    /// A device's token covers its modules: the part of the hub that a token is for is a prefix
    /// (Microsoft, "Control access to IoT Hub by using shared access signatures"), and edgeHub's
    /// `DeviceScopeTokenAuthenticator` takes a device's audience for a module of it.
    pub(crate) fn may_act_as(&self, identity: &str) -> bool {
        match self {
            Self::Device(own) => **own == *identity || **own == *identity::split(identity).0,
            Self::Policy {
                rights, resource, ..
            } => rights.device_connect && resource.covers_identity(identity),
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
        self.rights_at(path)
            .is_some_and(|rights| rights.service_connect)
    }

    /// Whether this may read at `path` of the event hub.
    pub(crate) fn may_read_events(&self, path: &[&str]) -> bool {
        match self {
            Self::Device(_) => false,
            Self::Policy {
                rights, resource, ..
            } => rights.service_connect && resource.covers_events(path),
        }
    }

    /// What this may do with the service-side endpoint at `path`; nothing if it is a device.
    pub(crate) fn rights_at(&self, path: &[&str]) -> Option<Rights> {
        match self {
            Self::Device(_) => None,
            Self::Policy {
                rights, resource, ..
            } => resource.covers(path).then_some(*rights),
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
    #[error("The client certificate is none of the device's.")]
    Certificate,
    #[error("Device {identity} at IotHub {hub} not registered.")]
    NotRegistered { identity: String, hub: String },
    #[error("Device {identity} at IotHub {hub} is disabled.")]
    Disabled { identity: String, hub: String },
    /// A script has moved the hub away.
    #[error("IotHub {hub} not found.")]
    Away { hub: String },
    /// A script says so.
    #[error("{text}")]
    Scripted { status: i32, text: String },
}

impl AccessError {
    /// What the hub answers by.
    pub(crate) fn status(&self) -> i32 {
        match self {
            Self::NotRegistered { .. } | Self::Disabled { .. } | Self::Away { .. } => 404,
            Self::Scripted { status, .. } => *status,
            Self::Malformed
            | Self::Expired
            | Self::Signature
            | Self::Audience
            | Self::Certificate => 401,
        }
    }
}
