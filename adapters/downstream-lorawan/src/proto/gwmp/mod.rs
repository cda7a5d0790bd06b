//! Semtech's UDP packet forwarder protocol, version 2 ("GWMP").
//!
//! Four bytes of header, the concentrator's EUI, then JSON. It has neither authentication nor
//! integrity: whoever may send a datagram may claim any EUI, so a server allow-lists EUIs and pins
//! their sources. One packet that cannot be read costs no other packet of its datagram, and never
//! the acknowledgement.
//!
//! Sources: `PROTOCOL.TXT` of Lora-net/packet_forwarder, `packet_forwarder/PROTOCOL.md` of
//! Lora-net/sx1302_hal.

mod base64;
mod rxpk;
mod stat;
#[cfg(test)]
mod tests;
mod txpk;

pub use rxpk::{CrcStatus, Packet};
pub use stat::GatewayStatus;
pub use txpk::{TxOutcome, TxRequest};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Eui64;

const VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PUSH_ACK: u8 = 1;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const PULL_ACK: u8 = 4;
const TX_ACK: u8 = 5;

/// Is a datagram from a packet forwarder.
#[derive(Debug, Clone, PartialEq)]
pub struct Datagram {
    /// The forwarder's number for it, which its acknowledgement repeats; for [`Body::TxAck`] it is
    /// the number of the [`TxRequest`] that is answered.
    pub token: [u8; 2],
    /// The concentrator it claims to come from.
    pub gateway: Eui64,
    /// What it says.
    pub body: Body,
}

/// Is what a packet forwarder says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// Frames that were heard, or how the concentrator is.
    PushData(PushData),
    /// The way back is open: downlinks go to where this datagram came from.
    PullData,
    /// What became of a downlink.
    TxAck(TxOutcome),
}

/// Is what was heard.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PushData {
    /// Frames that could be read, in their order.
    pub packets: Vec<Packet>,
    /// How the concentrator is, if it says so.
    pub status: Option<Box<GatewayStatus>>,
    /// Why each other part could not be read.
    pub odd: Vec<OddPart>,
}

/// Says that a part of a datagram could not be read; the other parts are none the worse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} cannot be read: {reason}")]
pub struct OddPart {
    /// `rxpk`, `stat`, or `JSON` where nothing could be read.
    pub part: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// Says that a datagram is not from a packet forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It ends before its EUI does.
    #[error("the datagram is too short for its header")]
    TooShort,
    /// It is of another version of the protocol, or of another protocol.
    #[error("version {0} of the packet forwarder protocol is not spoken here, only 2 is")]
    Version(u8),
    /// A forwarder does not send this kind.
    #[error("kind {0} of datagram is not for a server")]
    Kind(u8),
}

impl Datagram {
    /// Reads which concentrator a datagram claims to come from, and no more: whoever must not speak
    /// costs nothing else.
    ///
    /// # Errors
    /// [`DatagramError`] if it is not of this protocol.
    pub fn sender(bytes: &[u8]) -> Result<Eui64, DatagramError> {
        Ok(Self::header(bytes)?.1)
    }

    /// Reads token and kind, the concentrator, and what else there is.
    fn header(bytes: &[u8]) -> Result<([u8; 3], Eui64, &[u8]), DatagramError> {
        if let Some(&version) = bytes.first().filter(|version| **version != VERSION) {
            return Err(DatagramError::Version(version));
        }
        let Some((&[_, high, low, kind, ref eui @ ..], json)) = bytes.split_first_chunk::<12>()
        else {
            return Err(DatagramError::TooShort);
        };
        Ok(([high, low, kind], Eui64::from_be_bytes(*eui), json))
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// [`DatagramError`] if it is not of this protocol. JSON that cannot be read is no error, so
    /// that what says so is acknowledged and not sent again: see [`PushData::odd`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DatagramError> {
        let ([high, low, kind], gateway, json) = Self::header(bytes)?;
        Ok(Self {
            token: [high, low],
            gateway,
            body: match kind {
                PUSH_DATA => Body::PushData(PushData::decode(json)),
                PULL_DATA => Body::PullData,
                TX_ACK => Body::TxAck(TxOutcome::decode(json)),
                kind => return Err(DatagramError::Kind(kind)),
            },
        })
    }

    /// Returns what to answer at once, if an answer is due.
    #[must_use]
    pub fn acknowledgement(&self) -> Option<[u8; 4]> {
        let kind = match self.body {
            Body::PushData(_) => PUSH_ACK,
            Body::PullData => PULL_ACK,
            Body::TxAck(_) => return None,
        };
        Some([VERSION, self.token[0], self.token[1], kind])
    }
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    rxpk: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    stat: Option<&'a RawValue>,
}

impl PushData {
    fn decode(json: &[u8]) -> Self {
        let mut data = Self::default();
        let odd = |part, error: serde_json::Error| OddPart {
            part,
            reason: error.to_string(),
        };
        let text = text(json);
        let parts: Parts<'_> = match serde_json::from_str(&text) {
            Ok(parts) => parts,
            Err(error) => {
                data.odd.push(odd("JSON", error));
                return data;
            }
        };
        for part in parts.rxpk {
            match serde_json::from_str(part.get()) {
                Ok(packet) => data.packets.push(packet),
                Err(error) => data.odd.push(odd("rxpk", error)),
            }
        }
        match parts.stat.map(|part| serde_json::from_str(part.get())) {
            Some(Ok(status)) => data.status = Some(status),
            Some(Err(error)) => data.odd.push(odd("stat", error)),
            None => {}
        }
        data
    }
}

/// Makes text of what a forwarder calls JSON: some end it with zeros, or describe themselves in
/// another alphabet.
fn text(json: &[u8]) -> std::borrow::Cow<'_, str> {
    let end = json
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    String::from_utf8_lossy(&json[..end])
}
