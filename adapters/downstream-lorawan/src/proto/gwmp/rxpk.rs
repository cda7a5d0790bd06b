//! A frame that was heard.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::{self, Error as _, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::Eui64;
use super::super::mac::{Region, unix_time};
use super::super::radio::{CodingRate, ConcentratorClock, MAX_FRAME, Modulation, Reception};
use super::base64;

/// Is a frame that a concentrator heard (`rxpk`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Packet {
    /// The frame, 255 bytes at most.
    pub frame: Bytes,
    /// The concentrator's counter at the frame's end, microseconds; without it nothing can be
    /// answered in a window.
    pub timestamp: Option<u32>,
    /// When it was heard, as the concentrator wrote it.
    pub time: Option<String>,
    /// Milliseconds since the GPS epoch (6 January 1980).
    pub gps_time: Option<u64>,
    /// Nanoseconds since the last GPS second (SX1302 and later).
    pub fine_time: Option<u32>,
    /// Hertz.
    pub frequency: u32,
    /// How it was modulated.
    pub modulation: Modulation,
    /// What part of the bits was data; not for FSK.
    pub coding_rate: Option<CodingRate>,
    /// Strength of the channel, dBm.
    pub rssi: Option<f32>,
    /// Strength of the signal alone, dBm (SX1302 and later).
    pub signal_rssi: Option<f32>,
    /// Signal above noise, dB; not for FSK.
    pub snr: Option<f32>,
    /// What the radio thinks of its checksum.
    pub crc: CrcStatus,
    /// Channel of the concentrator.
    pub channel: Option<u8>,
    /// Radio chain of the concentrator.
    pub rf_chain: Option<u8>,
    /// Board of the concentrator.
    pub board: Option<u32>,
    /// Hertz that the sender was off its channel (SX1302 and later).
    pub frequency_offset: Option<i32>,
}

/// Is what the radio thinks of a frame's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CrcStatus {
    /// It matches, or nothing was said of it.
    #[default]
    Good,
    /// It does not match.
    Bad,
    /// The frame had none.
    Absent,
}

impl Packet {
    /// Returns how it was heard, if the region knows its data rate and the concentrator's counter
    /// was told.
    #[must_use]
    pub fn reception(&self, gateway: Eui64, region: &Region) -> Option<Reception> {
        let data_rate = region.data_rate(&self.modulation)?;
        let clock = ConcentratorClock::Forwarder(self.timestamp?);
        let reception = Reception::new(gateway, self.frequency, data_rate, clock);
        let (rssi, snr) = (self.rssi.unwrap_or_default(), self.snr.unwrap_or_default());
        let mut reception = reception.with_signal(rssi, snr);
        (reception.channel, reception.rf_chain) = (self.channel, self.rf_chain);
        reception.time = self.since_unix();
        Some(reception)
    }

    /// Returns when it was heard, since the Unix epoch; GPS is the better clock.
    fn since_unix(&self) -> Option<Duration> {
        let gps = self.gps_time.map(Duration::from_millis).map(unix_time);
        gps.or_else(|| {
            let time = humantime::parse_rfc3339(self.time.as_deref()?).ok()?;
            time.duration_since(SystemTime::UNIX_EPOCH).ok()
        })
    }
}

/// What travels; unknown fields are ignored, as forwarders add theirs.
#[derive(Deserialize)]
struct Wire<'a> {
    time: Option<String>,
    tmms: Option<u64>,
    tmst: Option<u32>,
    ftime: Option<u32>,
    freq: f64,
    chan: Option<u8>,
    rfch: Option<u8>,
    brd: Option<u32>,
    stat: Option<i8>,
    #[serde(borrow)]
    modu: Option<Text<'a>>,
    #[serde(borrow)]
    datr: DataRate<'a>,
    #[serde(borrow)]
    codr: Option<Text<'a>>,
    rssi: Option<f32>,
    rssis: Option<f32>,
    lsnr: Option<f32>,
    foff: Option<i32>,
    #[serde(default)]
    rsig: Vec<Antenna>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

/// A text that is copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// One antenna of several; such concentrators tell the signal for each.
#[derive(Deserialize)]
struct Antenna {
    chan: Option<u8>,
    rssic: Option<f32>,
    rssis: Option<f32>,
    lsnr: Option<f32>,
}

/// `"SF7BW125"`, `"M0CW137"`, or bits in a second.
enum DataRate<'a> {
    Number(u32),
    Text(Cow<'a, str>),
}

/// By hand, since an untagged enum reads into a tree of values first.
impl<'de: 'a, 'a> Deserialize<'de> for DataRate<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DataRateVisitor)
    }
}

struct DataRateVisitor;

impl<'de> Visitor<'de> for DataRateVisitor {
    type Value = DataRate<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a data rate: a text, or bits in a second")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let number = u32::try_from(number);
        number
            .map(DataRate::Number)
            .map_err(|_| E::custom("datr is out of range"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(DataRate::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(DataRate::Text(text.to_owned().into()))
    }
}

impl<'de> Deserialize<'de> for Packet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let frame = base64::decode(&wire.data).map_err(D::Error::custom)?;
        if frame.is_empty() || frame.len() > MAX_FRAME {
            return Err(D::Error::custom(format!(
                "a frame has 1 to {MAX_FRAME} bytes, not {}",
                frame.len()
            )));
        }
        // Negative, infinite and absurd ones saturate, and then fit no channel.
        let frequency = (wire.freq * 1e6).round() as u32;
        let coding_rate = wire.codr.and_then(|Text(codr)| codr.parse().ok());
        let modu = wire.modu.as_ref().map(|Text(modu)| &**modu);
        let modulation = modulation(modu, &wire.datr, coding_rate)
            .ok_or_else(|| D::Error::custom("modu, datr and codr name no modulation"))?;
        let best = wire.rsig.iter().max_by(|a, b| {
            a.lsnr
                .unwrap_or(f32::MIN)
                .total_cmp(&b.lsnr.unwrap_or(f32::MIN))
        });
        Ok(Self {
            frame: frame.into(),
            timestamp: wire.tmst,
            time: wire.time,
            gps_time: wire.tmms,
            fine_time: wire.ftime,
            frequency,
            modulation,
            coding_rate,
            rssi: wire.rssi.or(best.and_then(|antenna| antenna.rssic)),
            signal_rssi: wire.rssis.or(best.and_then(|antenna| antenna.rssis)),
            snr: wire.lsnr.or(best.and_then(|antenna| antenna.lsnr)),
            crc: match wire.stat {
                None | Some(1) => CrcStatus::Good,
                Some(0) => CrcStatus::Absent,
                Some(_) => CrcStatus::Bad,
            },
            channel: wire.chan.or(best.and_then(|antenna| antenna.chan)),
            rf_chain: wire.rfch,
            board: wire.brd,
            frequency_offset: wire.foff,
        })
    }
}

/// Reads the modulation; where `modu` is missing, the form of `datr` tells it.
fn modulation(
    modu: Option<&str>,
    datr: &DataRate<'_>,
    coding_rate: Option<CodingRate>,
) -> Option<Modulation> {
    match (modu, datr) {
        (None | Some("FSK"), DataRate::Number(bit_rate)) => Some(Modulation::Fsk {
            bit_rate: *bit_rate,
        }),
        (None | Some("LORA"), DataRate::Text(text)) if text.starts_with("SF") => lora(text),
        (None | Some("LR-FHSS" | "LRFHSS"), DataRate::Text(text)) => {
            let (_, width) = text.strip_prefix('M')?.split_once("CW")?;
            Some(Modulation::LrFhss {
                channel_width: width.parse::<u32>().ok()?.checked_mul(1000)?,
                coding_rate: coding_rate?,
            })
        }
        _ => None,
    }
}

fn lora(text: &str) -> Option<Modulation> {
    let (factor, width) = text.strip_prefix("SF")?.split_once("BW")?;
    Some(Modulation::Lora {
        spreading_factor: factor.parse().ok()?,
        bandwidth: width.parse::<u32>().ok()?.checked_mul(1000)?,
    })
}
