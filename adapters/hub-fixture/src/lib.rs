//! The hub simulator as the fixture of upstreams' tests: devices and their proofs, what the hub took,
//! and the [conformance suite's](gateway_core::upstream_conformance) view of it.
//!
//! It belongs to no program: upstreams that speak with the simulator test themselves by it.

mod conformance;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use gateway_core::credential::{ConnectionString, KeyPair, SasToken, SymmetricKey, sas_resource};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Backoff, Credential, DeviceId, DeviceIdentity, MessageId, Uplink, Upstream};
use hub_simulator::{DeviceKeys, HubSimulator};

pub use conformance::HubFixture;

/// The simulator's name, as tokens and certificates say it.
pub const HOST: &str = "localhost";

/// Starts a hub; without TLS where what it says becomes [seeds](fuzz_seeds).
pub async fn hub() -> HubSimulator {
    let hub = HubSimulator::builder().with_tls(!fuzz_seeds::are_kept());
    hub.start().await.expect("the simulator starts")
}

/// Starts a hub without TLS, for tests of many connections.
pub async fn plain_hub() -> HubSimulator {
    let hub = HubSimulator::builder().with_tls(false).start().await;
    hub.expect("the simulator starts")
}

/// Makes a backoff between two waits, in milliseconds.
#[must_use]
pub fn backoff(least: u64, most: u64) -> Backoff {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    Backoff::new(least, most).expect("a valid backoff")
}

/// Makes a device's id.
#[must_use]
pub fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a valid device id")
}

/// Reads a key as a registry shows it.
#[must_use]
pub fn key(text: &str) -> SymmetricKey {
    SymmetricKey::from_base64(text).expect("a valid key")
}

/// Reads both keys of a registered device or policy.
#[must_use]
pub fn pair(keys: &DeviceKeys) -> KeyPair {
    KeyPair::from(key(&keys.primary)).with_secondary(key(&keys.secondary))
}

/// Registers a device and gives its identity with its key.
#[must_use]
pub fn with_key(hub: &HubSimulator, name: &str) -> DeviceIdentity {
    let keys = hub.add_device(name);
    let credential = Credential::DeviceKey(key(&keys.primary).into());
    DeviceIdentity::new(device_id(name), credential)
}

/// Registers a device and gives its identity with a token of its own.
#[must_use]
pub fn with_token(hub: &HubSimulator, name: &str, expires_in: Duration) -> DeviceIdentity {
    let keys = hub.add_device(name);
    let device = device_id(name);
    let token = token(&device, &key(&keys.primary), expires_in);
    DeviceIdentity::new(device, Credential::SasToken(token))
}

/// Signs a token for a device as the device itself does.
#[must_use]
pub fn token(device: &DeviceId, key: &SymmetricKey, expires_in: Duration) -> SasToken {
    let expires = SystemTime::now() + expires_in;
    SasToken::sign(&sas_resource(HOST, device), key, expires)
}

/// Registers a device and gives its identity under the hub's policy.
#[must_use]
pub fn with_policy(hub: &HubSimulator, name: &str) -> DeviceIdentity {
    hub.add_device(name);
    let text = hub.policy_connection_string("device");
    let parsed: ConnectionString = text.parse().expect("a valid string");
    DeviceIdentity::new(device_id(name), parsed.credential().clone())
}

/// Attaches a device, which the hub must let in, and keeps what comes for it.
pub async fn attach(upstream: &dyn Upstream, identity: &DeviceIdentity) -> RecordingCallback {
    let callback = RecordingCallback::new();
    attach_with(upstream, identity, &callback).await;
    callback
}

/// Attaches a device, which the hub must let in, with a callback that knows what to do.
pub async fn attach_with(
    upstream: &dyn Upstream,
    identity: &DeviceIdentity,
    callback: &RecordingCallback,
) {
    let attached = upstream.attach(identity.clone(), callback.shared()).await;
    attached.unwrap_or_else(|error| panic!("{} cannot attach: {error}", identity.device));
}

/// Registers and attaches a device that listens to nothing.
pub async fn attach_new(upstream: &dyn Upstream, hub: &HubSimulator, name: &str) -> DeviceId {
    let identity = with_key(hub, name);
    attach(upstream, &identity).await;
    identity.device
}

/// Makes a message whose body is its id.
#[must_use]
pub fn uplink(device: &DeviceId, id: impl AsRef<str>) -> Uplink {
    let id = MessageId::new(id.as_ref()).expect("a valid id");
    Uplink::new(device.clone(), id.clone(), id.as_str().to_owned())
}

/// Sends a message, again while it fails in passing.
pub async fn send_until_ok(upstream: &dyn Upstream, message: &Uplink) {
    while let Err(error) = upstream.send(message).await {
        assert!(error.is_retryable(), "{}: {error}", message.id);
        // A pace for an upstream that fails at once while it connects.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for what an upstream alone can tell: the simulator's own waits wake when the hub changes.
pub async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tells the ids that the hub accepted of a device, in order, without those that came twice.
#[must_use]
pub fn accepted_ids(hub: &HubSimulator, device: &DeviceId) -> Vec<String> {
    let mut seen = HashSet::new();
    let accepted = hub.record().accepted().into_iter();
    accepted
        .filter(|message| message.device_id == device.as_str())
        .filter_map(|message| message.message_id)
        .filter(|id| seen.insert(id.clone()))
        .collect()
}
