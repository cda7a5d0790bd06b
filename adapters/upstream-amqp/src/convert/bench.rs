//! Both ways alone, for benchmarks.

use bytes::Bytes;
use gateway_core::{CloudMessage, DeviceId, MethodCall, Uplink};
use tokio::time::Instant;

/// Encodes one uplink, or several as a batch; none if they are too large.
#[must_use]
pub fn encode_uplinks(uplinks: &[Uplink]) -> Option<Bytes> {
    super::uplinks(uplinks).ok().map(|(encoded, _)| encoded)
}

/// Reads a message from the hub; none if it cannot be decoded.
#[must_use]
pub fn read_message(device: DeviceId, payload: &[u8], deadline: Instant) -> Option<CloudMessage> {
    let message = super::decode(payload).ok()?;
    Some(super::cloud_message(device, message, deadline))
}

/// Reads a method call from the hub; none if it is none.
#[must_use]
pub fn read_method(device: DeviceId, payload: &[u8], deadline: Instant) -> Option<MethodCall> {
    let message = super::decode(payload).ok()?;
    let call = super::method_call(device, message, deadline);
    call.ok().map(|(_, call)| call)
}
