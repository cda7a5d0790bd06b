//! What fuzz targets play with. Not part of the interface: it changes at will.

use gateway_core::DeviceId;
use tokio::time::Instant;

pub use crate::client::fuzzing::{feed_client, play_client};
use crate::convert;
use crate::twin::wire;

/// Reads a message of the hub as each of the links of `device` does, at `now`.
///
/// # Panics
/// Panics if more is read of it than there is.
pub fn read_message(device: &DeviceId, payload: &[u8], now: Instant) {
    if let Ok(message) = convert::decode(payload) {
        let cloud = convert::cloud_message(device.clone(), message.clone(), now);
        assert_eq!(&cloud.device, device);
        if let Ok((_, call)) = convert::method_call(device.clone(), message, now) {
            assert_eq!(call.payload, cloud.body);
        }
    }
    match wire::read(payload) {
        Ok(wire::Heard::Change { body, .. }) => assert!(body.len() <= payload.len()),
        Ok(wire::Heard::Answer(_, Ok(answer))) => assert!(answer.body.len() <= payload.len()),
        _ => {}
    }
}
