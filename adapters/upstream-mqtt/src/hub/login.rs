//! How a device's credential becomes user name and password, and how long they are good for.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use gateway_core::credential::{KeyPair, Renewals, SasToken, SymmetricKey, sas_resource};
use gateway_core::{ConfigError, Credential, DeviceIdentity, ErrorKind};
use serde::Deserialize;
use tokio::time::Instant;

use super::bag;
use super::device::Device;
use super::env::Env;
use super::error::HubError;
use super::line::Line;

/// Version of the hub's interface that topics and twins follow.
const API_VERSION: &str = "2021-04-12";
/// How the hub's log names this client.
const CLIENT: &str = concat!("iot-gateway/", env!("CARGO_PKG_VERSION"));
/// An expiry is a whole second, rounded down: up to one second of the life is not there.
const ROUNDING: Duration = Duration::from_secs(1);

/// Says how long the tokens are valid that we sign, and when they are renewed.
///
/// Over MQTT a token is renewed by another connection, which takes the place of the first when nothing
/// is in flight; each passes the budget for connections. The part of a life that is left by then is for
/// a hub whose clock is ahead of ours, and for further tries.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttTokenConfig {
    /// How long a token is valid. Default 1 h, as in Microsoft's SDKs.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// The part of its life after which a token is renewed at the latest. Default 0.8: Microsoft's C
    /// SDK renews there.
    pub renew_at: f64,
    /// The part of its life over which renewals are spread by chance, up to `renew_at`. Default 0.2:
    /// 10,000 devices attached together are renewed over 12 minutes, 14 a second.
    pub jitter: f64,
}

impl Default for MqttTokenConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3600),
            renew_at: 0.8,
            jitter: 0.2,
        }
    }
}

impl MqttTokenConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        for (key, value, least, most) in [
            ("tokens.ttl (s)", self.ttl.as_secs_f64(), 2.0, 86_400.0),
            ("tokens.renew_at", self.renew_at, 0.1, 0.95),
            ("tokens.jitter", self.jitter, 0.0, self.renew_at),
        ] {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }

    /// When in its life a token is renewed.
    fn renewals(&self) -> Renewals {
        Renewals::new(self.renew_at, self.jitter)
    }
}

/// How long what a connection was opened with is good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) begun: Instant,
    pub(super) lapses: Instant,
    /// None if nobody here can renew it.
    pub(super) renewal: Option<Instant>,
    /// Whether it is the device's own: the session ends with it.
    pub(super) is_presented: bool,
}

impl Life {
    /// Of a token that is good for so long.
    fn new(config: &MqttTokenConfig, length: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            lapses: begun + length,
            renewal: Some(begun + config.renewals().by_chance(length)),
            is_presented: false,
        }
    }
}

/// The user name by which the hub knows a device.
pub(super) fn user_name(host: &str, identity: &DeviceIdentity) -> String {
    let (device, client) = (&identity.device, bag::encode(CLIENT));
    format!("{host}/{device}/?api-version={API_VERSION}&DeviceClientType={client}")
}

/// Opens a connection with what the credential allows: with the key that the hub took last, or with
/// the other one if it refuses that.
///
/// Cancel safe: what was being opened is closed.
pub(super) async fn connect(
    env: &Arc<Env>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
) -> Result<Arc<Line>, HubError> {
    let resource = sas_resource(&env.config.host, &identity.device);
    match &identity.credential {
        Credential::DeviceKey(keys) => {
            let sign = |key: &SymmetricKey, expires| SasToken::sign(&resource, key, expires);
            with_keys(env, device, identity, keys, sign).await
        }
        // As a token service of Microsoft's does: for this device alone, under the policy's name.
        Credential::Policy(policy) => {
            let sign = |key: &SymmetricKey, expires| {
                SasToken::sign_with_policy(&resource, policy.name(), key, expires)
            };
            with_keys(env, device, identity, policy.keys(), sign).await
        }
        Credential::SasToken(token) => {
            let left = token.expires().duration_since(SystemTime::now());
            let left = left.map_err(|_| HubError::TokenExpired)?;
            let mut life = Life::new(&env.config.tokens, left);
            life.is_presented = true;
            if identity.source.is_none() {
                life.renewal = None;
            }
            Line::open(env, device, identity, token, life).await
        }
        _ => Err(HubError::NoProof),
    }
}

async fn with_keys(
    env: &Arc<Env>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    keys: &KeyPair,
    sign: impl Fn(&SymmetricKey, SystemTime) -> SasToken,
) -> Result<Arc<Line>, HubError> {
    let tokens = &env.config.tokens;
    let mut refused = HubError::TokenExpired;
    for (key, is_secondary) in keys.in_order(device.prefers_secondary.load(Relaxed)) {
        let life = Life::new(tokens, tokens.ttl.saturating_sub(ROUNDING));
        let token = sign(key, SystemTime::now() + tokens.ttl);
        match Line::open(env, device, identity, &token, life).await {
            Ok(line) => {
                device.prefers_secondary.store(is_secondary, Relaxed);
                return Ok(line);
            }
            Err(error) if error.kind() == ErrorKind::Unauthorized => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Asks whoever gave a credential that the hub refuses for a newer one. None if there is none.
pub(super) async fn newer(
    env: &Env,
    identity: &DeviceIdentity,
) -> Result<Option<Credential>, HubError> {
    let Some(source) = identity.source.clone() else {
        return Ok(None);
    };
    let patience = env.config.wire.answer_timeout;
    match source.credential(&identity.device, patience).await {
        Ok(credential) => Ok((credential != identity.credential).then_some(credential)),
        Err(error) if error.is_retryable() => Err(HubError::Credential(error)),
        Err(error) => {
            tracing::debug!(device.id = %identity.device, error = %error, "No newer credential");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_core::DeviceId;

    #[test]
    fn the_user_name_is_as_the_hub_wants_it() {
        let device = DeviceId::new("dev#1").unwrap();
        let key = SymmetricKey::from_base64("a2V5").unwrap();
        let identity = DeviceIdentity::new(device, Credential::DeviceKey(key.into()));
        let name = user_name("hub.example", &identity);
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            name,
            format!(
                "hub.example/dev#1/?api-version=2021-04-12&DeviceClientType=iot-gateway%2F{version}"
            )
        );
    }

    #[test]
    fn a_setting_out_of_range_names_itself() {
        let mut config = MqttTokenConfig::default();
        config.validate().unwrap();
        config.jitter = f64::NAN;
        assert_eq!(config.validate().unwrap_err().key(), "tokens.jitter");
    }
}
