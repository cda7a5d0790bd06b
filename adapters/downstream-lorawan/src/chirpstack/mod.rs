//! For fleets on ChirpStack v4: its events in JSON or, with the feature `protobuf`, in protobuf, and
//! downlinks for its queue.
//!
//! [`decode`] and [`encode`] are pure; [`mqtt`] speaks with ChirpStack's MQTT integration, and
//! [`http`] takes what its HTTP integration posts. Sources: ChirpStack's
//! `api/proto/integration/integration.proto` and `chirpstack/src/integration/{mqtt,http}.rs`, v4.
//!
//! ChirpStack has a queue for each device, and looks into it a moment after an uplink
//! (`get_downlink_data_delay`, 100 ms). A downlink that comes later goes in the window of the next
//! uplink; one that nobody waits for any more by then has expired in the queue. So raise that delay
//! where commands are to answer the uplink that they belong to, and let the devices listen
//! [always](crate::embed::ListenPolicy::Always) where they are to be there before it.
//!
//! Commands need ChirpStack 4.14 or later, where downlinks expire (`expires_at`). Before it, one that
//! has missed its window stays in the queue and goes beside the next that the hub gives out for it;
//! up to 4.5, a downlink in JSON that is to expire is not taken at all.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use gateway_downstream_lorawan::chirpstack::{self, ChirpStackConfig};
//! use gateway_downstream_lorawan::embed::{LorawanConfig, LorawanDownstream};
//!
//! let mut config = ChirpStackConfig::default();
//! config.mqtt.host = "broker.example".into();
//! config.mqtt.client_id = Some("gateway-1".into());
//! let lorawan = LorawanDownstream::builder(LorawanConfig::default());
//! let downstream = chirpstack::mqtt(config, lorawan)?;
//! // `Gateway::builder(..).with_downstream("lorawan", downstream)` takes it as any other.
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "cloud")]
mod connect;
#[cfg(all(feature = "cloud", feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod json;
#[cfg(feature = "protobuf")]
mod protobuf;
mod told;
#[cfg(feature = "cloud")]
mod topic;

use std::str::FromStr;
use std::time::SystemTime;

use bytes::Bytes;
use serde::Deserialize;

use crate::cloud::{DecodeError, Told};
use crate::event::Downlink;

#[cfg(feature = "cloud")]
pub use connect::{ChirpStackConfig, http, mqtt};

type Decoded = Result<Told, DecodeError>;

/// Is what an event of ChirpStack's tells: the last part of its topic, or `event` in the query of a
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A frame (`up`).
    Up,
    /// A join (`join`); ChirpStack tells it at the first frame after it.
    Join,
    /// A device's confirmation, or that it did not come in time (`ack`).
    Ack,
    /// A concentrator has taken a downlink to send it (`txack`).
    TxAck,
    /// A remark (`log`).
    Log,
    /// Battery and link margin (`status`).
    Status,
    /// Where a device is (`location`).
    Location,
}

impl FromStr for EventKind {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "up" => Self::Up,
            "join" => Self::Join,
            "ack" => Self::Ack,
            "txack" => Self::TxAck,
            "log" => Self::Log,
            "status" => Self::Status,
            "location" => Self::Location,
            _ => return Err(DecodeError::Kind(text.chars().take(32).collect())),
        })
    }
}

/// Is how events and commands are written, as ChirpStack's integration is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Protobuf's JSON form (`json = true` there). The default.
    #[default]
    Json,
    /// Protobuf (`json = false` there).
    #[cfg(feature = "protobuf")]
    Protobuf,
}

/// Reads an event.
///
/// # Errors
/// It is not what it should be, or its payload is encrypted end to end.
pub fn decode(kind: EventKind, format: Format, body: &[u8]) -> Result<Told, DecodeError> {
    match format {
        Format::Json => json::decode(kind, body),
        #[cfg(feature = "protobuf")]
        Format::Protobuf => protobuf::decode(kind, body),
    }
}

/// Writes the command that puts a downlink into ChirpStack's queue; its id comes back as
/// `queue_item_id`. Nobody waits for it any more after `expires`; servers that do not know that
/// field ignore it.
#[must_use]
pub fn encode(downlink: &Downlink, expires: Option<SystemTime>, format: Format) -> Bytes {
    match format {
        Format::Json => json::encode(downlink, expires),
        #[cfg(feature = "protobuf")]
        Format::Protobuf => protobuf::encode(downlink, expires),
    }
}
