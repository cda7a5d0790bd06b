//! What comes from devices.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{DevAddr, DevEui, Modulation};

/// Is a frame from a device, heard by one concentrator or more, its payload decrypted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Uplink {
    /// The device.
    pub dev_eui: DevEui,
    /// The address that it used.
    pub dev_addr: Option<DevAddr>,
    /// The application's port, 1 to 223; none for a frame without a payload.
    pub port: Option<u8>,
    /// The uplink's counter, all 32 bits.
    pub frame_counter: u32,
    /// Whether the device asked for a confirmation.
    pub confirmed: bool,
    /// Whether the device lets the network choose its data rate.
    pub adr: bool,
    /// The payload, at most 242 bytes.
    pub payload: Bytes,
    /// The payload as the network server decoded it, a JSON value, where it did.
    pub object: Option<Bytes>,
    /// When the network server had it.
    pub received_at: SystemTime,
    /// Its data rate, as the region numbers them.
    pub data_rate: Option<u8>,
    /// Its frequency in Hz.
    pub frequency: Option<u32>,
    /// How it was modulated.
    pub modulation: Option<Modulation>,
    /// The concentrators that heard it, the best first.
    pub receptions: Vec<Reception>,
    /// Names this frame, the same however often it is told (ChirpStack's `deduplicationId`).
    pub deduplication_id: Option<String>,
    /// How much longer a downlink can be taken for the receive windows of this frame, from when it
    /// is handed in; none for the configured time. Zero is for a frame that is handed in again: it
    /// does not count as another uplink of its device.
    pub window: Option<Duration>,
}

/// Tells what is wrong with an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUplink {
    /// The port is none of an application's.
    #[error("port {0} is not an application's; allowed: 1 to 223, and 224 for tests")]
    Port(u8),
    /// The payload is longer than any frame.
    #[error("the payload has {0} bytes; allowed: at most {max}", max = Uplink::MAX_PAYLOAD)]
    TooLong(usize),
    /// More concentrators than are taken.
    #[error("{0} receptions are too many; allowed: at most {max}", max = Uplink::MAX_RECEPTIONS)]
    Receptions(usize),
}

impl Uplink {
    /// The longest payload of any region and data rate, in bytes (RP002-1.0.4).
    pub const MAX_PAYLOAD: usize = 242;
    /// How many concentrators' receptions an uplink may list.
    pub const MAX_RECEPTIONS: usize = 64;

    /// Makes an uplink that was received now.
    #[must_use]
    pub fn new(dev_eui: DevEui, frame_counter: u32, port: u8, payload: impl Into<Bytes>) -> Self {
        Self {
            dev_eui,
            dev_addr: None,
            port: Some(port),
            frame_counter,
            confirmed: false,
            adr: false,
            payload: payload.into(),
            object: None,
            received_at: SystemTime::now(),
            data_rate: None,
            frequency: None,
            modulation: None,
            receptions: Vec::new(),
            deduplication_id: None,
            window: None,
        }
    }

    /// Sets the address that the device used.
    #[must_use]
    pub fn with_dev_addr(mut self, dev_addr: DevAddr) -> Self {
        self.dev_addr = Some(dev_addr);
        self
    }

    /// Adds a concentrator that heard it.
    #[must_use]
    pub fn with_reception(mut self, reception: Reception) -> Self {
        self.receptions.push(reception);
        self
    }

    /// Names this frame.
    #[must_use]
    pub fn with_deduplication_id(mut self, id: impl Into<String>) -> Self {
        self.deduplication_id = Some(id.into());
        self
    }

    /// Sets how much longer a downlink can be taken for its receive windows.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Checks what LoRaWAN itself bounds.
    ///
    /// # Errors
    /// The port is 0 or above 224, or the payload or the list of receptions is too long.
    pub fn validate(&self) -> Result<(), InvalidUplink> {
        if let Some(port @ (0 | 225..)) = self.port {
            return Err(InvalidUplink::Port(port));
        }
        if self.payload.len() > Self::MAX_PAYLOAD {
            return Err(InvalidUplink::TooLong(self.payload.len()));
        }
        if self.receptions.len() > Self::MAX_RECEPTIONS {
            return Err(InvalidUplink::Receptions(self.receptions.len()));
        }
        Ok(())
    }
}

/// Tells how one concentrator heard a frame.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reception {
    /// The concentrator, usually its EUI in hexadecimal.
    pub gateway: String,
    /// Signal strength in dBm.
    pub rssi: i16,
    /// Signal over noise in dB; none for FSK.
    pub snr: Option<f32>,
    /// The channel it came on.
    pub channel: Option<u32>,
    /// The radio it came through.
    pub rf_chain: Option<u32>,
    /// When the concentrator had it, where it knows the time.
    pub time: Option<SystemTime>,
    /// Where the concentrator stands.
    pub location: Option<Location>,
}

impl Reception {
    /// Makes a reception. A ratio that is no number counts as none.
    #[must_use]
    pub fn new(gateway: impl Into<String>, rssi: i16, snr: Option<f32>) -> Self {
        Self {
            gateway: gateway.into(),
            rssi,
            snr: snr.filter(|snr| !snr.is_nan()),
            channel: None,
            rf_chain: None,
            time: None,
            location: None,
        }
    }
}

/// Is a place on Earth (WGS 84).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Location {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// Metres above the sea.
    pub altitude: Option<f64>,
}

impl Location {
    /// Makes a place.
    #[must_use]
    pub const fn new(latitude: f64, longitude: f64, altitude: Option<f64>) -> Self {
        Self {
            latitude,
            longitude,
            altitude,
        }
    }
}

/// Tells that a device joined the network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Join {
    /// The device.
    pub dev_eui: DevEui,
    /// The address that it was given.
    pub dev_addr: DevAddr,
    /// When the network server let it in.
    pub received_at: SystemTime,
}

impl Join {
    /// Makes a join that happened now.
    #[must_use]
    pub fn new(dev_eui: DevEui, dev_addr: DevAddr) -> Self {
        Self {
            dev_eui,
            dev_addr,
            received_at: SystemTime::now(),
        }
    }
}

/// Tells what a device feeds on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Battery {
    /// It has no battery.
    External,
    /// How full its battery is, in percent.
    Percent(f32),
    /// It could not measure.
    Unknown,
}

/// Is a device's answer to the network's DevStatusReq.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// The device.
    pub dev_eui: DevEui,
    /// Its battery.
    pub battery: Battery,
    /// Signal over noise of the last DevStatusReq at the device, in dB (-32 to 31).
    pub margin: i8,
    /// When the network server had it.
    pub received_at: SystemTime,
}

impl Status {
    /// Makes a status that came now.
    #[must_use]
    pub fn new(dev_eui: DevEui, battery: Battery, margin: i8) -> Self {
        Self {
            dev_eui,
            battery,
            margin,
            received_at: SystemTime::now(),
        }
    }
}

/// Tells where a device is, as the network found out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Located {
    /// The device.
    pub dev_eui: DevEui,
    /// Where it is.
    pub location: Location,
    /// When it was found there.
    pub at: SystemTime,
}

impl Located {
    /// Makes a location found now.
    #[must_use]
    pub fn new(dev_eui: DevEui, location: Location) -> Self {
        Self {
            dev_eui,
            location,
            at: SystemTime::now(),
        }
    }
}

/// Tells how much a [`Log`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Good to know.
    Info,
    /// Something is not as it should be.
    Warning,
    /// Something was lost or refused.
    Error,
}

/// Is a network server's remark on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Log {
    /// The device.
    pub dev_eui: DevEui,
    /// How much it matters.
    pub level: LogLevel,
    /// The network server's word for the matter, such as ChirpStack's `UPLINK_MIC`.
    pub code: String,
    /// A sentence about it.
    pub description: String,
}

impl Log {
    /// Makes a remark.
    #[must_use]
    pub fn new(
        dev_eui: DevEui,
        level: LogLevel,
        code: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            dev_eui,
            level,
            code: code.into(),
            description: description.into(),
        }
    }
}
