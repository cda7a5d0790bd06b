//! Who judges devices that bring a secret, or nothing.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_core::credential::Secret;
use gateway_core::{DeviceId, ErrorKind};

use crate::config::IdentityConfig;
use crate::proto::{Peer, Refusal};
use gateway_net::BindError;

/// Judges devices by a secret, or by their word.
///
/// Tokens and certificates do not come here: the hub judges the former, TLS the latter.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Lets a device in, or not. It has until the hello time-out.
    ///
    /// # Errors
    /// `Unauthorized` if the device is not who it says; a retryable kind if that cannot be told
    /// now.
    ///
    /// # Cancel safety
    /// It is dropped when the time is up or the gateway stops.
    async fn authenticate(
        &self,
        device: &DeviceId,
        secret: Option<&Secret>,
        peer: &Peer,
    ) -> Result<(), Refusal>;
}

/// Knows the devices' secrets. Without any it lets nobody in.
#[derive(Debug, Clone, Default)]
pub struct SharedSecrets(HashMap<DeviceId, Secret>);

impl SharedSecrets {
    /// Takes secrets by device.
    #[must_use]
    pub fn new(secrets: HashMap<DeviceId, Secret>) -> Self {
        Self(secrets)
    }

    /// Adds what a JSON file holds: one object of secrets by device.
    ///
    /// # Errors
    /// The file cannot be read or is not such an object.
    pub fn read_file(&mut self, path: &Path) -> Result<(), BindError> {
        let secrets = gateway_net::read_secrets(path, "secrets by device")?;
        self.0.extend(secrets);
        Ok(())
    }
}

#[async_trait]
impl Authenticator for SharedSecrets {
    async fn authenticate(
        &self,
        device: &DeviceId,
        secret: Option<&Secret>,
        _peer: &Peer,
    ) -> Result<(), Refusal> {
        let secret = secret.ok_or(Refusal::new(ErrorKind::Unauthorized))?;
        // An unknown device takes the time of a known one.
        let (known, expected) = match self.0.get(device) {
            Some(expected) => (true, expected),
            None => (false, secret),
        };
        match (expected == secret) && known {
            true => Ok(()),
            false => Err(Refusal::new(ErrorKind::Unauthorized)),
        }
    }
}

/// Takes every device's word.
#[derive(Debug, Clone, Copy)]
pub struct TrustAnyId;

#[async_trait]
impl Authenticator for TrustAnyId {
    async fn authenticate(
        &self,
        _device: &DeviceId,
        _secret: Option<&Secret>,
        _peer: &Peer,
    ) -> Result<(), Refusal> {
        Ok(())
    }
}

pub(crate) fn from_config(config: &IdentityConfig) -> Result<Arc<dyn Authenticator>, BindError> {
    if config.trust_any_id {
        tracing::warn!("Every device's word is taken for its identity");
        return Ok(Arc::new(TrustAnyId));
    }
    let mut secrets = SharedSecrets::new(config.secrets.clone());
    if let Some(path) = &config.secrets_file {
        secrets.read_file(path)?;
    }
    Ok(Arc::new(secrets))
}
