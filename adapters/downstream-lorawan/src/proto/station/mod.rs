//! LoRa Basics Station's protocol with its network server (LNS).
//!
//! JSON in WebSocket messages. A station first asks a discovery endpoint where to go
//! ([`discovery`]), then says its version, is told its region ([`RouterConfig`]), and from then on
//! sends what it hears, taken apart into fields, and is sent downlinks.
//!
//! Source: `src/s2e.c`, `src/lora.c` and `src/tc.c` of lorabasics/basicstation 2.0.6.

mod config;
pub mod discovery;
mod downlink;
#[cfg(test)]
mod tests;
mod uplink;

pub use config::RouterConfig;
pub use downlink::{Downlink, time_answer};
pub use uplink::{Transmitted, Uplink, Version};

use serde::Deserialize;

/// Is a message from a station.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// It has come, and wants its configuration.
    Version(Version),
    /// It heard a frame.
    Uplink(Uplink),
    /// It has sent a frame. Of one that it could not send it says nothing: let time run out.
    Transmitted(Transmitted),
    /// It wants to know the time; see [`time_answer`].
    TimeSync {
        /// Its own clock, microseconds, to be repeated.
        txtime: i64,
    },
    /// Something else, which may be ignored; at most 32 characters of its name.
    Other(String),
}

/// Says that a message from a station cannot be read; the next one may be.
#[derive(Debug, thiserror::Error)]
#[error("the station's message cannot be read")]
pub struct MessageError {
    #[from]
    source: serde_json::Error,
}

#[derive(Deserialize)]
struct Kind {
    msgtype: String,
}

#[derive(Deserialize)]
struct TimeSync {
    txtime: i64,
}

impl Message {
    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`] if it is not JSON, or a field is missing or out of its range.
    pub fn decode(json: &str) -> Result<Self, MessageError> {
        let kind: Kind = serde_json::from_str(json)?;
        Ok(match kind.msgtype.as_str() {
            "version" => Self::Version(serde_json::from_str(json)?),
            "jreq" => Self::Uplink(uplink::join_request(json)?),
            "updf" => Self::Uplink(uplink::data(json)?),
            "propdf" => Self::Uplink(uplink::proprietary(json)?),
            "dntxed" => Self::Transmitted(serde_json::from_str(json)?),
            "timesync" => {
                let TimeSync { txtime } = serde_json::from_str(json)?;
                Self::TimeSync { txtime }
            }
            other => Self::Other(other.chars().take(32).collect()),
        })
    }
}
