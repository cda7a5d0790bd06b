use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Credential;
use super::key::{GroupKey, KeyPair, SharedAccessPolicy};
use crate::error::{CredentialError, ErrorKind};
use crate::id::DeviceId;

/// Knows each device's credential: the plug-in point for a registry or a vault.
///
/// Asked for each attach, and anew when the hub refuses what it gave before; never for each message.
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

/// Says whom to ask for a device's newer credential once the hub refuses the one at hand.
///
/// Two are equal if they are one and the same provider.
#[derive(Debug, Clone)]
pub struct CredentialSource(Arc<dyn CredentialProvider>);

impl CredentialSource {
    /// Makes a source of a provider.
    #[must_use]
    pub fn new(provider: Arc<dyn CredentialProvider>) -> Self {
        Self(provider)
    }

    /// Asks for the device's credential as it is now. A provider that hangs or panics costs this device
    /// alone.
    ///
    /// # Errors
    /// As [`CredentialProvider::credential`]; [`ErrorKind::TimedOut`] if there is no answer within
    /// `patience`.
    ///
    /// # Cancel safety
    /// Safe; the provider's future is dropped.
    ///
    /// # Panics
    /// Called outside a tokio runtime.
    pub async fn credential(
        &self,
        device: &DeviceId,
        patience: Duration,
    ) -> Result<Credential, CredentialError> {
        let (provider, device) = (self.0.clone(), device.clone());
        // A task of its own, so that a panic ends there.
        let mut asked = JoinSet::new();
        asked.spawn(async move { provider.credential(&device).await });
        let failure = match timeout(patience, asked.join_next()).await {
            Ok(Some(Ok(answer))) => return answer,
            Ok(_) => "the credential provider panicked",
            Err(_) => "the credential provider does not answer",
        };
        Err(CredentialError::new(ErrorKind::TimedOut, "credential look-up").with_source(failure))
    }
}

impl PartialEq for CredentialSource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CredentialSource {}

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

/// Vouches for every device that a downstream lets in: for a hub that asks for no proof of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct VouchedCredentials;

#[async_trait]
impl CredentialProvider for VouchedCredentials {
    async fn credential(&self, _: &DeviceId) -> Result<Credential, CredentialError> {
        Ok(Credential::Vouched)
    }
}

/// Derives each device's key from the key of its enrolment group.
#[derive(Debug, Clone)]
pub struct GroupKeyCredentials {
    primary: GroupKey,
    secondary: Option<GroupKey>,
}

impl GroupKeyCredentials {
    /// Uses this group key.
    #[must_use]
    pub fn new(key: GroupKey) -> Self {
        Self {
            primary: key,
            secondary: None,
        }
    }

    /// Sets the group's second key, which is used where the hub refuses the first.
    #[must_use]
    pub fn with_secondary(mut self, key: GroupKey) -> Self {
        self.secondary = Some(key);
        self
    }
}

#[async_trait]
impl CredentialProvider for GroupKeyCredentials {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        let keys = KeyPair::from(self.primary.derive(device));
        Ok(Credential::DeviceKey(match &self.secondary {
            Some(secondary) => keys.with_secondary(secondary.derive(device)),
            None => keys,
        }))
    }
}

/// Holds the keys of a fixed set of devices.
///
/// Empty, it is the provider for devices that all present tokens of their own.
#[derive(Debug, Clone, Default)]
pub struct StaticCredentials(HashMap<DeviceId, KeyPair>);

impl StaticCredentials {
    /// Uses these keys; any other device is refused.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = (DeviceId, impl Into<KeyPair>)>) -> Self {
        let keys = keys.into_iter();
        Self(keys.map(|(device, keys)| (device, keys.into())).collect())
    }
}

#[async_trait]
impl CredentialProvider for StaticCredentials {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        match self.0.get(device) {
            Some(keys) => Ok(Credential::DeviceKey(keys.clone())),
            None => Err(CredentialError::new(
                ErrorKind::UnknownDevice,
                "credential look-up",
            )),
        }
    }
}
