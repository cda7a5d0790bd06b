//! Devices that prove themselves to the provisioning service.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hub_simulator::{HubSimulator, ProvisioningOptions, sign};

use crate::support::expiry;

/// A service that takes no time, so that tests need not either.
pub(crate) fn at_once() -> ProvisioningOptions {
    ProvisioningOptions::default()
        .with_retry_after(Duration::ZERO)
        .with_assigning(Duration::ZERO)
}

pub(crate) fn derive(group_key: &str, id: &str) -> Vec<u8> {
    let key = BASE64.decode(group_key).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(id.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The token of a device, and the path of its registration.
pub(crate) fn device(hub: &HubSimulator, id: &str, key: &[u8]) -> (String, String) {
    let resource = format!("{}/registrations/{id}", hub.provisioning().id_scope());
    let ahead = expiry(Duration::from_secs(3600));
    let token = sign(&resource, key, ahead, Some("registration"));
    (token, format!("/{resource}"))
}

pub(crate) fn grouped(hub: &HubSimulator, id: &str) -> (String, String) {
    device(hub, id, &derive(&hub.provisioning().group_key(), id))
}
