//! What a station says of itself and of the air.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::super::Eui64;
use super::super::id::hex;
use super::super::mac::unix_time;
use super::super::radio::{ConcentratorClock, MAX_FRAME, Reception};

/// Is what a station says of itself when it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Version {
    /// The program's version and platform.
    pub station: String,
    /// Its maker's name for the firmware.
    pub firmware: String,
    /// Its maker's name for the package.
    pub package: String,
    /// Its model.
    pub model: String,
    /// Version of this protocol; 2 is spoken here.
    pub protocol: u8,
    /// What it can besides, separated by spaces, such as `rmtsh gps`.
    pub features: String,
}

/// Is a frame that a station heard, put together again.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Uplink {
    /// The frame, 255 bytes at most.
    pub frame: Bytes,
    /// Index of its data rate in the region that the station was told.
    pub data_rate: u8,
    /// Hertz.
    pub frequency: u32,
    /// Strength of the signal, dBm.
    pub rssi: f32,
    /// Signal above noise, dB.
    pub snr: f32,
    /// The station's clock, microseconds, to be echoed in the answer.
    pub xtime: i64,
    /// The antenna, to be echoed in the answer.
    pub rctx: i64,
    /// Microseconds since the GPS epoch (6 January 1980), if the station knows.
    pub gps_time: Option<i64>,
}

impl Uplink {
    /// Returns how it was heard.
    #[must_use]
    pub fn reception(&self, gateway: Eui64) -> Reception {
        let clock = ConcentratorClock::Station {
            xtime: self.xtime,
            rctx: self.rctx,
        };
        let mut reception = Reception::new(gateway, self.frequency, self.data_rate, clock)
            .with_signal(self.rssi, self.snr);
        reception.rf_chain = u8::try_from(self.rctx).ok();
        let since_gps_epoch = self.gps_time.and_then(|time| u64::try_from(time).ok());
        reception.time = since_gps_epoch.map(Duration::from_micros).map(unix_time);
        reception
    }
}

/// Says that a frame has been sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transmitted {
    /// The number that the downlink was given.
    pub id: i64,
    /// Index of the data rate that was used: it tells which window it was.
    pub data_rate: Option<u8>,
    /// Hertz.
    pub frequency: Option<u32>,
}

impl<'de> Deserialize<'de> for Transmitted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Stations write the number under both names.
        #[derive(Deserialize)]
        struct Wire {
            diid: Option<i64>,
            seqno: Option<i64>,
            #[serde(rename = "DR")]
            data_rate: Option<u8>,
            #[serde(rename = "Freq")]
            frequency: Option<u32>,
        }
        let wire = Wire::deserialize(deserializer)?;
        let id = wire.diid.or(wire.seqno);
        Ok(Self {
            id: id.ok_or_else(|| D::Error::missing_field("diid"))?,
            data_rate: wire.data_rate,
            frequency: wire.frequency,
        })
    }
}

/// How it was heard: the same in every kind of frame.
#[derive(Deserialize)]
struct Radio {
    #[serde(rename = "DR")]
    data_rate: u8,
    #[serde(rename = "Freq")]
    frequency: u32,
    upinfo: UpInfo,
}

#[derive(Deserialize)]
struct UpInfo {
    #[serde(default)]
    rctx: i64,
    xtime: i64,
    #[serde(default)]
    gpstime: i64,
    #[serde(default)]
    rssi: f32,
    #[serde(default)]
    snr: f32,
}

impl Radio {
    fn uplink(self, frame: BytesMut) -> Result<Uplink, serde_json::Error> {
        if frame.is_empty() || frame.len() > MAX_FRAME {
            return Err(serde_json::Error::custom("a frame has 1 to 255 bytes"));
        }
        Ok(Uplink {
            frame: frame.freeze(),
            data_rate: self.data_rate,
            frequency: self.frequency,
            rssi: self.upinfo.rssi,
            snr: self.upinfo.snr,
            xtime: self.upinfo.xtime,
            rctx: self.upinfo.rctx,
            gps_time: Some(self.upinfo.gpstime).filter(|time| *time != 0),
        })
    }
}

/// Bytes that are written as hexadecimal digits, as many as a frame may have.
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = vec![0; MAX_FRAME.min(text.len())];
        let length = hex(&text, &mut bytes)
            .ok_or_else(|| D::Error::custom("expected hexadecimal digits, a frame's worth"))?;
        bytes.truncate(length);
        Ok(Self(bytes))
    }
}

/// Numbers of 32 bits, which stations write with a sign, and others without.
fn unsigned<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .or_else(|_| i32::try_from(number).map(i32::cast_unsigned))
        .map_err(|_| D::Error::custom("expected 32 bits"))
}

pub(super) fn join_request(json: &str) -> Result<Uplink, serde_json::Error> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "MHdr")]
        mhdr: u8,
        #[serde(rename = "JoinEui", alias = "JoinEUI")]
        join_eui: Eui64,
        #[serde(rename = "DevEui", alias = "DevEUI")]
        dev_eui: Eui64,
        #[serde(rename = "DevNonce")]
        dev_nonce: u16,
        #[serde(rename = "MIC", deserialize_with = "unsigned")]
        mic: u32,
        #[serde(flatten)]
        radio: Radio,
    }
    let wire: Wire = serde_json::from_str(json)?;
    let mut frame = BytesMut::with_capacity(23);
    frame.put_u8(wire.mhdr);
    frame.put_u64_le(wire.join_eui.get());
    frame.put_u64_le(wire.dev_eui.get());
    frame.put_u16_le(wire.dev_nonce);
    frame.put_u32_le(wire.mic);
    wire.radio.uplink(frame)
}

pub(super) fn data(json: &str) -> Result<Uplink, serde_json::Error> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "MHdr")]
        mhdr: u8,
        #[serde(rename = "DevAddr", deserialize_with = "unsigned")]
        dev_addr: u32,
        #[serde(rename = "FCtrl")]
        control: u8,
        #[serde(rename = "FCnt")]
        counter: u16,
        #[serde(rename = "FOpts")]
        options: Hex,
        #[serde(rename = "FPort")]
        port: i16,
        #[serde(rename = "FRMPayload")]
        payload: Hex,
        #[serde(rename = "MIC", deserialize_with = "unsigned")]
        mic: u32,
        #[serde(flatten)]
        radio: Radio,
    }
    let wire: Wire = serde_json::from_str(json)?;
    if wire.options.0.len() != usize::from(wire.control & 0x0f) {
        return Err(serde_json::Error::custom(
            "FOpts is not as long as FCtrl says",
        ));
    }
    let mut frame = BytesMut::with_capacity(MAX_FRAME);
    frame.put_u8(wire.mhdr);
    frame.put_u32_le(wire.dev_addr);
    frame.put_u8(wire.control);
    frame.put_u16_le(wire.counter);
    frame.put_slice(&wire.options.0);
    match u8::try_from(wire.port) {
        Ok(port) => {
            frame.put_u8(port);
            frame.put_slice(&wire.payload.0);
        }
        Err(_) if wire.port == -1 && wire.payload.0.is_empty() => {}
        Err(_) => return Err(serde_json::Error::custom("FPort is no port")),
    }
    frame.put_u32_le(wire.mic);
    wire.radio.uplink(frame)
}

pub(super) fn proprietary(json: &str) -> Result<Uplink, serde_json::Error> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "FRMPayload")]
        payload: Hex,
        #[serde(flatten)]
        radio: Radio,
    }
    let wire: Wire = serde_json::from_str(json)?;
    wire.radio.uplink(BytesMut::from(&wire.payload.0[..]))
}
