//! The forms in which the hub sees what devices and their network tell.

mod own;
mod starter_kit;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{CodecError, Decoded};
use crate::event::Uplink;

pub use own::{report, uplink as own_uplink};
pub use starter_kit::uplink as starter_kit_uplink;

/// Chooses the body of a device's telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TelemetryForm {
    /// This crate's [JSON](own_uplink). The default.
    #[default]
    Json,
    /// The JSON of the [Azure IoT Edge LoRaWAN Starter Kit](starter_kit_uplink).
    StarterKit,
    /// The payload and nothing else; what surrounds it is in application properties.
    Raw,
}

/// Is what a codec made of a payload; none where there is no codec.
pub type Reading = Option<Result<Decoded, CodecError>>;

/// The decoded value as it goes into JSON: the codec's, or else the network server's. One that is no
/// JSON, or longer than a codec's may be, is left out: it would spoil the whole.
fn object<'a>(uplink: &'a Uplink, reading: &'a Reading) -> Option<&'a RawValue> {
    let text = match reading {
        Some(Ok(decoded)) => &decoded.data,
        Some(Err(_)) => return None,
        None => (uplink.object.as_ref()).filter(|object| object.len() <= Decoded::MAX_SIZE)?,
    };
    serde_json::from_slice(text).ok()
}

/// What the codec made of a payload in the units of all devices.
fn normalized(reading: &Reading) -> Option<&RawValue> {
    let decoded = reading.as_ref()?.as_ref().ok()?;
    serde_json::from_slice(decoded.normalized.as_ref()?).ok()
}

/// A codec's failure in words, not longer than anybody reads: a script may say anything.
fn problem(error: &CodecError) -> String {
    const LONGEST: usize = 500;
    error.to_string().chars().take(LONGEST).collect()
}

/// Room for a usual message, in bytes; more is taken where it is needed.
const USUAL: usize = 640;

fn to_json(value: &impl serde::Serialize) -> Bytes {
    let mut text = Vec::with_capacity(USUAL);
    // Only maps with keys that are no strings, and failing implementations, cannot be written.
    match serde_json::to_writer(&mut text, value) {
        Ok(()) => text.into(),
        Err(_) => Bytes::new(),
    }
}
