use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::Credential;
use super::key::{GroupKey, SharedAccessPolicy, SymmetricKey};
use crate::error::{CredentialError, ErrorKind};
use crate::id::DeviceId;

/// Knows each device's credential: the plug-in point for a registry or a vault.
///
/// Asked once for each attach, never for each message.
#[async_trait]
pub trait CredentialProvider: fmt::Debug + Send + Sync + 'static {
    /// Gives the credential of a device.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownDevice`] if there is none for the device, which refuses it; a retryable
    /// kind if the registry cannot be asked now.
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: CredentialProvider + ?Sized> CredentialProvider for Arc<T> {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        (**self).credential(device).await
    }
}

/// Acts for every device with one policy of the hub.
#[derive(Debug, Clone)]
pub struct HubPolicyCredentials(SharedAccessPolicy);

impl HubPolicyCredentials {
    /// Uses this policy, which needs the hub's permission `DeviceConnect`.
    #[must_use]
    pub fn new(policy: SharedAccessPolicy) -> Self {
        Self(policy)
    }
}

#[async_trait]
impl CredentialProvider for HubPolicyCredentials {
    async fn credential(&self, _: &DeviceId) -> Result<Credential, CredentialError> {
        Ok(Credential::Policy(self.0.clone()))
    }
}

/// Derives each device's key from the key of its enrolment group.
#[derive(Debug, Clone)]
pub struct GroupKeyCredentials(GroupKey);

impl GroupKeyCredentials {
    /// Uses this group key.
    #[must_use]
    pub fn new(key: GroupKey) -> Self {
        Self(key)
    }
}

#[async_trait]
impl CredentialProvider for GroupKeyCredentials {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        Ok(Credential::DeviceKey(self.0.derive(device)))
    }
}

/// Holds the keys of a fixed set of devices.
///
/// Empty, it is the provider for devices that all present tokens of their own.
#[derive(Debug, Clone, Default)]
pub struct StaticCredentials(HashMap<DeviceId, SymmetricKey>);

impl StaticCredentials {
    /// Uses these keys; any other device is refused.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (DeviceId, SymmetricKey)>) -> Self {
        Self(keys.into_iter().collect())
    }
}

#[async_trait]
impl CredentialProvider for StaticCredentials {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        match self.0.get(device) {
            Some(key) => Ok(Credential::DeviceKey(key.clone())),
            None => Err(CredentialError::new(
                ErrorKind::UnknownDevice,
                "credential look-up",
            )),
        }
    }
}
