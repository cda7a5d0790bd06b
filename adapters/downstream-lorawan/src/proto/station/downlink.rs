//! What a station is told to send, and what time it is.

use std::time::Duration;

use serde::Serialize;

use super::super::Eui64;
use super::super::id::to_hex;
use super::super::radio::{ConcentratorClock, Transmission};

/// Is a frame for a station to send (`dnmsg`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Downlink {
    msgtype: &'static str,
    #[serde(rename = "DevEui")]
    dev_eui: String,
    #[serde(rename = "dC")]
    class: u8,
    diid: i64,
    pdu: String,
    priority: u8,
    #[serde(rename = "RxDelay", skip_serializing_if = "Option::is_none")]
    rx_delay: Option<u64>,
    #[serde(rename = "RX1DR", skip_serializing_if = "Option::is_none")]
    rx1_data_rate: Option<u8>,
    #[serde(rename = "RX1Freq", skip_serializing_if = "Option::is_none")]
    rx1_frequency: Option<u32>,
    #[serde(rename = "RX2DR", skip_serializing_if = "Option::is_none")]
    rx2_data_rate: Option<u8>,
    #[serde(rename = "RX2Freq", skip_serializing_if = "Option::is_none")]
    rx2_frequency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xtime: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rctx: Option<i64>,
}

/// Longest delay that a station takes for its first window, seconds.
const MAX_DELAY: u64 = 15;

impl Downlink {
    /// Makes the message for all windows of a transmission, which the station tries in their
    /// order. When the frame has been sent, the station says so with the number that is given
    /// here. `None` if a station cannot do it: its clock is another kind's, there is no window, or
    /// the first is later than 15 s.
    #[must_use]
    pub fn new(transmission: &Transmission, id: i64) -> Option<Self> {
        let (xtime, rctx) = match transmission.clock {
            None => (None, None),
            Some(ConcentratorClock::Station { xtime, rctx }) => (Some(xtime), Some(rctx)),
            Some(_) => return None,
        };
        let mut message = Self {
            msgtype: "dnmsg",
            dev_eui: Eui64::from_be_bytes(transmission.dev_eui.bytes()).dashed(),
            class: if xtime.is_some() { 0 } else { 2 },
            diid: id,
            pdu: to_hex(&transmission.frame),
            priority: 0,
            rx_delay: None,
            rx1_data_rate: None,
            rx1_frequency: None,
            rx2_data_rate: None,
            rx2_frequency: None,
            xtime,
            rctx,
        };
        let delay = transmission.windows.first()?.delay.as_secs();
        match transmission.windows[..] {
            // At once, on what a device of class C listens to for ever.
            [rx2, ..] if xtime.is_none() => {
                message.rx_delay = Some(0);
                message.rx2_data_rate = Some(rx2.data_rate);
                message.rx2_frequency = Some(rx2.frequency);
            }
            // One window is always counted as the first: the station adds its delay to the time.
            [rx1, ref rest @ ..] => {
                message.rx_delay = Some(delay).filter(|delay| *delay <= MAX_DELAY);
                message.rx_delay?;
                message.rx1_data_rate = Some(rx1.data_rate);
                message.rx1_frequency = Some(rx1.frequency);
                // A station sends a second window one second after the first, as LoRaWAN does.
                let second = rest.first();
                message.rx2_data_rate = second.map(|window| window.data_rate);
                message.rx2_frequency = second.map(|window| window.frequency);
            }
            [] => return None,
        }
        Some(message)
    }

    /// Writes the message.
    #[must_use]
    pub fn encode(&self) -> String {
        // Texts and numbers: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Answers a station that wants to know the time: its own clock is repeated beside the time since
/// the GPS epoch (6 January 1980).
#[must_use]
pub fn time_answer(txtime: i64, since_gps_epoch: Duration) -> String {
    #[derive(Serialize)]
    struct Answer {
        msgtype: &'static str,
        txtime: i64,
        gpstime: u64,
    }
    let answer = Answer {
        msgtype: "timesync",
        txtime,
        gpstime: since_gps_epoch.as_micros() as u64,
    };
    serde_json::to_string(&answer).unwrap_or_default()
}
