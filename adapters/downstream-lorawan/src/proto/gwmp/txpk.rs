//! A frame to send, and what became of it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::radio::{CodingRate, ConcentratorClock, Modulation, Transmission, TxWindow};
use super::{PULL_RESP, VERSION, base64, text};

/// Is a frame for a concentrator to send (`txpk`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TxRequest {
    /// When to start, on the concentrator's counter; `None` is at once.
    pub timestamp: Option<u32>,
    /// Hertz.
    pub frequency: u32,
    /// How to modulate it.
    pub modulation: Modulation,
    /// Power, dBm EIRP: the forwarder takes its antenna's gain off.
    pub power: i8,
    /// The frame.
    pub frame: Bytes,
}

#[derive(Serialize)]
struct Document {
    txpk: Wire,
}

#[derive(Serialize)]
struct Wire {
    imme: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmst: Option<u32>,
    freq: f64,
    rfch: u8,
    powe: i8,
    modu: &'static str,
    datr: DataRate,
    #[serde(skip_serializing_if = "Option::is_none")]
    codr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fdev: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipol: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ncrc: Option<bool>,
    size: usize,
    data: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DataRate {
    Text(String),
    Number(u32),
}

impl TxRequest {
    /// Makes the request for one window of a transmission; `None` if a packet forwarder cannot do
    /// it, because its clock is another kind's.
    #[must_use]
    pub fn new(transmission: &Transmission, window: &TxWindow) -> Option<Self> {
        // The counter wraps, and so does what is counted from it.
        let delay = window.delay.as_micros() as u32;
        let timestamp = match transmission.clock {
            None => None,
            Some(ConcentratorClock::Forwarder(end)) => Some(end.wrapping_add(delay)),
            Some(_) => return None,
        };
        Some(Self {
            timestamp,
            frequency: window.frequency,
            modulation: window.modulation,
            power: window.power,
            frame: transmission.frame.clone(),
        })
    }

    /// Writes the datagram (PULL_RESP), which goes to where the last PULL_DATA came from; the
    /// forwarder repeats the token when it tells what became of it. Towards devices LoRa's
    /// polarity is inverted, so that they do not hear each other, and concentrators neither; a LoRa
    /// downlink has no CRC of its payload (TS001-1.0.4, section 3).
    #[must_use]
    pub fn encode(&self, token: [u8; 2]) -> Vec<u8> {
        let (modu, datr, codr, fdev) = match self.modulation {
            Modulation::Lora {
                spreading_factor,
                bandwidth,
            } => {
                let datr = format!("SF{spreading_factor}BW{}", bandwidth / 1000);
                ("LORA", DataRate::Text(datr), Some(CodingRate::LORA), None)
            }
            // LoRaWAN's deviation is half of its 50 kbit/s (RP002-1.0.x).
            Modulation::Fsk { bit_rate } => {
                ("FSK", DataRate::Number(bit_rate), None, Some(bit_rate / 2))
            }
            Modulation::LrFhss {
                channel_width,
                coding_rate,
            } => {
                let datr = format!("M0CW{}", channel_width / 1000);
                ("LR-FHSS", DataRate::Text(datr), Some(coding_rate), None)
            }
        };
        let document = Document {
            txpk: Wire {
                imme: self.timestamp.is_none(),
                tmst: self.timestamp,
                freq: f64::from(self.frequency) / 1e6,
                rfch: 0,
                powe: self.power,
                modu,
                datr,
                codr: codr.map(|codr| codr.to_string()),
                fdev,
                ipol: (modu == "LORA").then_some(true),
                ncrc: (modu == "LORA").then_some(true),
                size: self.frame.len(),
                data: base64::encode(&self.frame),
            },
        };
        let mut datagram = vec![VERSION, token[0], token[1], PULL_RESP];
        // A vector takes all, and none of the fields is one that JSON cannot hold.
        datagram.extend(serde_json::to_vec(&document).unwrap_or_default());
        datagram
    }
}

/// Is what became of a frame to send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TxOutcome {
    /// It is in the concentrator's queue and will be on air.
    Sent,
    /// It will be on air with another power than asked for, dBm (SX1302 and later).
    SentWithPower(i8),
    /// It came too late for its time: another window may do.
    TooLate,
    /// Its time is too far ahead.
    TooEarly,
    /// Another frame has its time.
    Collision,
    /// The concentrator does not do its frequency.
    Frequency,
    /// The concentrator does not do its power.
    Power,
    /// It wants GPS time, and the concentrator has none.
    NoGps,
    /// Something else, in the forwarder's words, 64 characters at most.
    Other(String),
}

#[derive(Deserialize, Default)]
struct AckDocument {
    #[serde(default)]
    txpk_ack: Ack,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ack {
    error: Option<String>,
    warn: Option<String>,
    value: Option<f64>,
}

impl TxOutcome {
    /// Tells whether the frame will be on air.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        matches!(self, Self::Sent | Self::SentWithPower(_))
    }

    /// Reads an acknowledgement: empty means that all is well, and so did older forwarders' `{}`.
    pub(super) fn decode(json: &[u8]) -> Self {
        let text = text(json);
        if text.trim().is_empty() {
            return Self::Sent;
        }
        let ack = match serde_json::from_str::<AckDocument>(&text) {
            Ok(document) => document.txpk_ack,
            Err(_) => return Self::Other("an acknowledgement that cannot be read".to_owned()),
        };
        match (ack.error.as_deref(), ack.warn.as_deref()) {
            (None | Some("" | "NONE"), Some("TX_POWER")) => {
                Self::SentWithPower(ack.value.unwrap_or_default() as i8)
            }
            (None | Some("" | "NONE"), _) => Self::Sent,
            (Some("TOO_LATE"), _) => Self::TooLate,
            (Some("TOO_EARLY"), _) => Self::TooEarly,
            (Some("COLLISION_PACKET" | "COLLISION_BEACON"), _) => Self::Collision,
            (Some("TX_FREQ"), _) => Self::Frequency,
            (Some("TX_POWER"), _) => Self::Power,
            (Some("GPS_UNLOCKED"), _) => Self::NoGps,
            (Some(other), _) => Self::Other(other.chars().take(64).collect()),
        }
    }
}
