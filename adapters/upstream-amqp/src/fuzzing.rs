//! What fuzz targets play with. Not part of the interface: it changes at will.

use gateway_core::{DeviceId, version_of};
use tokio::time::Instant;

pub use crate::client::fuzzing::{feed_client, play_client};
use crate::convert;
use crate::error::AmqpError;
use crate::twin::wire;

/// Reads a message of the hub as each of the links of `device` does, at `now`.
///
/// # Panics
/// Panics if more is read of it than there is.
pub fn read_message(device: &DeviceId, payload: &[u8], now: Instant) {
    let is_there = |body: &[u8]| body.is_empty() || body.len() < payload.len();
    if let Ok(message) = convert::decode(payload) {
        let cloud = convert::cloud_message(device.clone(), message.clone(), now);
        assert_eq!(&cloud.device, device);
        assert!(is_there(&cloud.body));
        // A name has a constructor and a size, a value a constructor.
        assert!(cloud.properties.iter().count() * 3 <= payload.len());
        if let Ok((id, call)) = convert::method_call(device.clone(), message, now) {
            assert_eq!(call.payload, cloud.body);
            assert_eq!(call.request.as_str(), convert::id_text(id));
            let mut values = cloud.properties.iter().map(|(_, value)| value);
            assert!(values.any(|value| value == call.name.as_str()));
        }
    }
    match wire::read(payload) {
        Ok(wire::Heard::Change { version, body }) => {
            assert!(is_there(&body));
            assert_eq!(version, version_of(&body).unwrap_or(0));
        }
        Ok(wire::Heard::Answer(_, Ok(answer))) => assert!(is_there(&answer.body)),
        Ok(wire::Heard::Answer(_, Err(AmqpError::Twin { status, text }))) => {
            assert!(!(200..300).contains(&status));
            assert!(text.len() <= payload.len() * 3);
        }
        _ => {}
    }
}
