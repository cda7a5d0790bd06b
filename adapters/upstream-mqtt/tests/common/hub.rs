//! A hub that speaks MQTT, and an upstream, for tests.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gateway_core::credential::{KeyPair, SasToken, SymmetricKey};
use gateway_core::governor::Rate;
use gateway_core::{Backoff, Credential, DeviceId, DeviceIdentity, MessageId, Uplink, Upstream};
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream};
use hub_simulator::{DeviceKeys, HubSimulator};

pub(crate) const HOST: &str = "localhost";

pub(crate) async fn hub() -> HubSimulator {
    let hub = HubSimulator::builder().start().await;
    hub.expect("the simulator starts")
}

/// A hub without TLS, for tests of many connections.
pub(crate) async fn plain_hub() -> HubSimulator {
    let hub = HubSimulator::builder().with_tls(false).start().await;
    hub.expect("the simulator starts")
}

pub(crate) fn backoff(least: u64, most: u64) -> Backoff {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    Backoff::new(least, most).expect("a valid backoff")
}

/// Reaches a hub quickly again after a cut, whatever the default says for real networks.
pub(crate) fn config(hub: &HubSimulator) -> MqttHubConfig {
    let address = hub.mqtts_addr();
    let config = MqttHubConfig::new(HOST).with_address(address.ip().to_string(), address.port());
    let mut config = match hub.ca_pem() {
        Some(pem) => config.with_ca_pem(pem),
        None => config.with_tls(false),
    };
    config.reconnect.backoff = backoff(10, 200);
    config.commands.abandon = backoff(10, 200);
    config.commands.refetch = backoff(10, 200);
    config.budget.connects = Rate::Unlimited;
    config
}

pub(crate) fn upstream(config: MqttHubConfig) -> Arc<MqttHubUpstream> {
    Arc::new(MqttHubUpstream::new(config).expect("a valid configuration"))
}

pub(crate) fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a valid device id")
}

/// A key as a registry shows it.
pub(crate) fn key(text: &str) -> SymmetricKey {
    SymmetricKey::from_base64(text).expect("a valid key")
}

/// Both keys of a registered device or policy.
pub(crate) fn pair(keys: &DeviceKeys) -> KeyPair {
    KeyPair::from(key(&keys.primary)).with_secondary(key(&keys.secondary))
}

/// Registers a device and gives its identity with its key.
pub(crate) fn with_key(hub: &HubSimulator, name: &str) -> DeviceIdentity {
    let keys = hub.add_device(name);
    let credential = Credential::DeviceKey(key(&keys.primary).into());
    DeviceIdentity::new(device_id(name), credential)
}

/// Registers a device and gives its identity with a token of its own.
pub(crate) fn with_token(hub: &HubSimulator, name: &str, expires_in: Duration) -> DeviceIdentity {
    let keys = hub.add_device(name);
    let device = device_id(name);
    let expires = SystemTime::now() + expires_in;
    // As Microsoft's SDKs for Node and Python do: the whole is encoded once, and the id not before.
    let resource = format!("{HOST}/devices/{device}");
    let token = SasToken::sign(&resource, &key(&keys.primary), expires);
    DeviceIdentity::new(device, Credential::SasToken(token))
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

/// Sends a message, again while it fails in passing.
pub(crate) async fn send_until_ok(upstream: &MqttHubUpstream, message: &Uplink) {
    while let Err(error) = upstream.send(message).await {
        assert!(error.is_retryable(), "{}: {error}", message.id);
        // A pace for an upstream that fails at once while it connects.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The ids that the hub accepted of a device, in order, without those that came twice.
pub(crate) fn accepted_ids(hub: &HubSimulator, device: &DeviceId) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let accepted = hub.record().accepted().into_iter();
    accepted
        .filter(|message| message.device_id == device.as_str())
        .filter_map(|message| message.message_id)
        .filter(|id| seen.insert(id.clone()))
        .collect()
}
