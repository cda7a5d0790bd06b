//! A hub and an upstream for tests.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway_core::credential::{KeyPair, SasToken, SymmetricKey, sas_resource};
use gateway_core::{Credential, DeviceId, DeviceIdentity, MessageId, Uplink};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream, CommandConfig, PoolConfig, WireConfig};
use hub_simulator::{DeviceKeys, HubSimulator};

pub(crate) const HOST: &str = "localhost";

pub(crate) async fn hub() -> HubSimulator {
    HubSimulator::builder()
        .start()
        .await
        .expect("the simulator starts")
}

/// Reaches a hub quickly again after a cut, whatever the default says for real networks.
pub(crate) fn config(hub: &HubSimulator) -> AmqpConfig {
    let backoff = gateway_core::Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    let backoff = backoff.expect("a valid backoff");
    let mut pool = PoolConfig::default();
    pool.reconnect = backoff;
    let mut commands = CommandConfig::default();
    (commands.reopen, commands.abandon) = (backoff, backoff);
    let address = hub.addr();
    let config = AmqpConfig::new(HOST).with_address(address.ip().to_string(), address.port());
    let config = config.with_pool(pool).with_commands(commands);
    match hub.ca_pem() {
        Some(_) => config.with_ca_pem(hub.ca_pem().unwrap_or_default()),
        None => config.with_tls(false),
    }
}

pub(crate) fn upstream(config: AmqpConfig) -> Arc<AmqpUpstream> {
    Arc::new(AmqpUpstream::new(config).expect("a valid configuration"))
}

pub(crate) fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a valid device id")
}

/// Registers a device and gives its identity with its key.
pub(crate) fn with_key(hub: &HubSimulator, name: &str) -> DeviceIdentity {
    let keys = hub.add_device(name);
    DeviceIdentity::new(
        device_id(name),
        Credential::DeviceKey(key(&keys.primary).into()),
    )
}

/// A key as a registry shows it.
pub(crate) fn key(text: &str) -> SymmetricKey {
    SymmetricKey::from_base64(text).expect("a valid key")
}

/// Both keys of a registered device or policy.
pub(crate) fn pair(keys: &DeviceKeys) -> KeyPair {
    KeyPair::from(key(&keys.primary)).with_secondary(key(&keys.secondary))
}

/// Registers a device and gives its identity with a token of its own.
pub(crate) fn with_token(hub: &HubSimulator, name: &str, expires_in: Duration) -> DeviceIdentity {
    let keys = hub.add_device(name);
    let device = device_id(name);
    let token = token(&device, &key(&keys.primary), expires_in);
    DeviceIdentity::new(device, Credential::SasToken(token))
}

/// Signs a token for a device as the device itself does.
pub(crate) fn token(device: &DeviceId, key: &SymmetricKey, expires_in: Duration) -> SasToken {
    let expires = SystemTime::now() + expires_in;
    SasToken::sign(&sas_resource(HOST, device), key, expires)
}

/// Gives a device's identity under the hub's policy.
pub(crate) fn with_policy(hub: &HubSimulator, name: &str) -> DeviceIdentity {
    hub.add_device(name);
    let text = hub.policy_connection_string("device");
    let parsed: gateway_core::credential::ConnectionString = text.parse().expect("a valid string");
    DeviceIdentity::new(device_id(name), parsed.credential().clone())
}

pub(crate) fn uplink(device: &DeviceId, id: impl AsRef<str>) -> Uplink {
    let id = MessageId::new(id.as_ref()).expect("a valid id");
    Uplink::new(device.clone(), id.clone(), id.as_str().to_owned())
}

pub(crate) fn wire(change: impl FnOnce(&mut WireConfig)) -> WireConfig {
    let mut wire = WireConfig::default();
    change(&mut wire);
    wire
}
