//! What is said of a frame on air, in either direction.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use super::Eui64;
use crate::event::DevEui;

/// Bytes that a frame on air may have at most: its length is told in one byte.
pub const MAX_FRAME: usize = 255;

/// Is how a frame is modulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Modulation {
    /// Chirps.
    Lora {
        /// 5 to 12: each step doubles the time on air.
        spreading_factor: u8,
        /// Hertz.
        bandwidth: u32,
    },
    /// Frequency shift keying.
    Fsk {
        /// Bits in a second.
        bit_rate: u32,
    },
    /// Frequency hopping; towards the network only.
    LrFhss {
        /// Hertz of the channel that the hops stay in.
        channel_width: u32,
        /// What part of the bits is data.
        coding_rate: CodingRate,
    },
}

/// Is what part of the bits on air is data, such as 4/5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodingRate {
    /// Bits of data...
    pub data: u8,
    /// ...in so many bits.
    pub of: u8,
}

impl CodingRate {
    /// What LoRaWAN uses with [`Modulation::Lora`].
    pub const LORA: Self = Self { data: 4, of: 5 };
}

impl FromStr for CodingRate {
    type Err = ();

    /// Reads `4/5`; what long interleaving adds (`4/5LI`) is skipped.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0').ok_or(());
        match *text.trim_end_matches("LI").as_bytes() {
            [data, b'/', of] => Ok(Self {
                data: digit(data)?,
                of: digit(of)?,
            }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for CodingRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.data, self.of)
    }
}

/// Is how one concentrator heard a frame.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reception {
    /// The concentrator.
    pub gateway: Eui64,
    /// Hertz.
    pub frequency: u32,
    /// Index of the data rate in the region.
    pub data_rate: u8,
    /// Strength of the signal, dBm.
    pub rssi: f32,
    /// Signal above noise, dB; 0 where the modulation has none.
    pub snr: f32,
    /// The concentrator's clock at the frame's end: what a window is counted from.
    pub clock: ConcentratorClock,
    /// Channel of the concentrator.
    pub channel: Option<u8>,
    /// Radio chain or antenna of the concentrator.
    pub rf_chain: Option<u8>,
    /// When it was heard, since the Unix epoch, by a concentrator that knows the time.
    pub time: Option<Duration>,
}

impl Reception {
    /// Makes one of which nothing is known but where, how and when on the concentrator's clock.
    #[must_use]
    pub fn new(gateway: Eui64, frequency: u32, data_rate: u8, clock: ConcentratorClock) -> Self {
        Self {
            gateway,
            frequency,
            data_rate,
            rssi: 0.0,
            snr: 0.0,
            clock,
            channel: None,
            rf_chain: None,
            time: None,
        }
    }

    /// Sets the strength of the signal, dBm, and how far it is above the noise, dB.
    #[must_use]
    pub fn with_signal(mut self, rssi: f32, snr: f32) -> Self {
        (self.rssi, self.snr) = (rssi, snr);
        self
    }
}

/// Is a reading of a concentrator's own clock, which only that concentrator understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConcentratorClock {
    /// Microseconds of a packet forwarder's counter, which wraps every 71.6 minutes.
    Forwarder(u32),
    /// What a Basics Station wants echoed.
    Station {
        /// Microseconds and a session's mark; above 2^53.
        xtime: i64,
        /// The antenna.
        rctx: i64,
    },
}

/// Is a frame for a concentrator to send, in the first of its windows that it can.
#[derive(Debug, Clone, PartialEq)]
pub struct Transmission {
    /// The device it is for.
    pub dev_eui: DevEui,
    /// The concentrator that shall send it.
    pub gateway: Eui64,
    /// What the windows are counted from; `None` sends at once (class C).
    pub clock: Option<ConcentratorClock>,
    /// One or two, in their order.
    pub windows: Vec<TxWindow>,
    /// The frame, ready for the air.
    pub frame: Bytes,
}

/// Is when and how a frame may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxWindow {
    /// Time after the uplink's end; zero where there is none.
    pub delay: Duration,
    /// Hertz.
    pub frequency: u32,
    /// Index of the data rate in the region.
    pub data_rate: u8,
    /// What that index means.
    pub modulation: Modulation,
    /// Power, dBm EIRP.
    pub power: i8,
}
