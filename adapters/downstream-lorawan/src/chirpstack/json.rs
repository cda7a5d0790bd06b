//! ChirpStack's events as JSON: protobuf's JSON form, in which a field at its default is left out.

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use gateway_core::rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::told::{self, Code};
use super::{Decoded, EventKind};
use crate::cloud::read::{best_first, optional_time, to_base64};
use crate::cloud::{DecodeError, Told, read};
use crate::event::{
    Battery, DevEui, DeviceAck, Downlink, DownlinkId, Event, Join, Located, Location, LogLevel,
    Modulation, Reception, Status, TransmitAck, Uplink,
};
use crate::proto::CodingRate;

pub(super) fn decode(kind: EventKind, body: &[u8]) -> Decoded {
    match kind {
        EventKind::Up => serde_json::from_slice::<UplinkEvent>(body)?.told(),
        EventKind::Join => serde_json::from_slice::<JoinEvent>(body)?.told(),
        EventKind::Ack => serde_json::from_slice::<AckEvent>(body)?.told(),
        EventKind::TxAck => serde_json::from_slice::<TxAckEvent>(body)?.told(),
        EventKind::Log => serde_json::from_slice::<LogEvent>(body)?.told(),
        EventKind::Status => serde_json::from_slice::<StatusEvent>(body)?.told(),
        EventKind::Location => serde_json::from_slice::<LocationEvent>(body)?.told(),
    }
}

pub(super) fn encode(downlink: &Downlink, expires: Option<SystemTime>) -> Bytes {
    let command = DownlinkCommand {
        id: downlink.id.as_str(),
        dev_eui: downlink.dev_eui,
        confirmed: downlink.confirmed,
        f_port: downlink.port,
        data: &downlink.payload,
        expires_at: expires.map(rfc3339),
    };
    // Texts, numbers and bytes can always be written.
    serde_json::to_vec(&command).unwrap_or_default().into()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceInfo {
    #[serde(default)]
    application_id: String,
    #[serde(default)]
    dev_eui: String,
}

impl DeviceInfo {
    fn told(&self, event: impl FnOnce(DevEui) -> Result<Vec<Event>, DecodeError>) -> Decoded {
        told::about(&self.application_id, &self.dev_eui, event)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UplinkEvent {
    #[serde(default)]
    deduplication_id: String,
    #[serde(default, deserialize_with = "optional_time")]
    time: Option<SystemTime>,
    device_info: DeviceInfo,
    #[serde(default)]
    dev_addr: String,
    #[serde(default)]
    adr: bool,
    #[serde(default)]
    dr: u8,
    #[serde(default)]
    f_cnt: u32,
    #[serde(default)]
    f_port: u8,
    #[serde(default)]
    confirmed: bool,
    #[serde(default, deserialize_with = "read::bytes")]
    data: Bytes,
    object: Option<Box<RawValue>>,
    #[serde(default)]
    rx_info: Vec<RxInfo>,
    tx_info: Option<TxInfo>,
    join_server_context: Option<Box<RawValue>>,
}

impl UplinkEvent {
    fn told(self) -> Decoded {
        if self.join_server_context.is_some() {
            return Err(DecodeError::Encrypted);
        }
        let id = self.deduplication_id.clone();
        let event = |dev_eui| {
            let mut uplink = Uplink::new(dev_eui, self.f_cnt, self.f_port, self.data);
            uplink.dev_addr = self.dev_addr.parse().ok();
            uplink.port = (self.f_port != 0).then_some(self.f_port);
            uplink.confirmed = self.confirmed;
            uplink.adr = self.adr;
            uplink.object = self
                .object
                .map(|object| Box::<str>::from(object).into_string().into());
            uplink.received_at = self.time.unwrap_or(uplink.received_at);
            uplink.data_rate = Some(self.dr);
            if let Some(info) = self.tx_info {
                uplink.frequency = Some(info.frequency);
                uplink.modulation = info.modulation.and_then(ModulationInfo::modulation);
            }
            let receptions = self.rx_info.into_iter().map(RxInfo::reception);
            uplink.receptions = best_first(receptions.collect());
            uplink.deduplication_id =
                (!self.deduplication_id.is_empty()).then_some(self.deduplication_id);
            Ok(vec![Event::Uplink(uplink)])
        };
        Ok(self.device_info.told(event)?.with_id("up", &id))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RxInfo {
    #[serde(default)]
    gateway_id: String,
    #[serde(default, deserialize_with = "optional_time")]
    gw_time: Option<SystemTime>,
    #[serde(default)]
    rssi: i32,
    #[serde(default, deserialize_with = "read::number")]
    snr: f32,
    #[serde(default)]
    channel: u32,
    #[serde(default)]
    rf_chain: u32,
    location: Option<Place>,
}

impl RxInfo {
    fn reception(self) -> Reception {
        let mut reception = told::reception(self.gateway_id, self.rssi, self.snr);
        reception.time = self.gw_time;
        reception.channel = Some(self.channel);
        reception.rf_chain = Some(self.rf_chain);
        reception.location = self.location.map(Place::location);
        reception
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Place {
    #[serde(deserialize_with = "read::number")]
    latitude: f64,
    #[serde(deserialize_with = "read::number")]
    longitude: f64,
    #[serde(deserialize_with = "read::number")]
    altitude: f64,
}

impl Place {
    fn location(self) -> Location {
        Location::new(self.latitude, self.longitude, Some(self.altitude))
    }
}

#[derive(Deserialize)]
struct TxInfo {
    #[serde(default)]
    frequency: u32,
    modulation: Option<ModulationInfo>,
}

/// Has one of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModulationInfo {
    lora: Option<Lora>,
    fsk: Option<Fsk>,
    lr_fhss: Option<LrFhss>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lora {
    #[serde(default)]
    bandwidth: u32,
    #[serde(default)]
    spreading_factor: u8,
}

#[derive(Deserialize)]
struct Fsk {
    #[serde(default)]
    datarate: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LrFhss {
    #[serde(default)]
    operating_channel_width: u32,
    #[serde(default)]
    code_rate: String,
}

impl ModulationInfo {
    fn modulation(self) -> Option<Modulation> {
        let lora = self.lora.map(|lora| Modulation::Lora {
            spreading_factor: lora.spreading_factor,
            bandwidth: lora.bandwidth,
        });
        let fsk = || {
            let bit_rate = self.fsk?.datarate;
            Some(Modulation::Fsk { bit_rate })
        };
        let lr_fhss = || {
            let info = self.lr_fhss?;
            // As CR_1_6 for 1/6.
            let rate = info.code_rate.strip_prefix("CR_")?.replace('_', "/");
            Some(Modulation::LrFhss {
                channel_width: info.operating_channel_width,
                coding_rate: rate.parse::<CodingRate>().ok()?,
            })
        };
        lora.or_else(fsk).or_else(lr_fhss)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JoinEvent {
    #[serde(default)]
    deduplication_id: String,
    #[serde(default, deserialize_with = "optional_time")]
    time: Option<SystemTime>,
    device_info: DeviceInfo,
    #[serde(default)]
    dev_addr: String,
}

impl JoinEvent {
    fn told(self) -> Decoded {
        let told = self.device_info.told(|dev_eui| {
            let dev_addr = self.dev_addr.parse();
            let dev_addr = dev_addr.map_err(|_| DecodeError::Lacks("a device address"))?;
            let mut join = Join::new(dev_eui, dev_addr);
            join.received_at = self.time.unwrap_or(join.received_at);
            Ok(vec![Event::Join(join)])
        })?;
        Ok(told.with_id("join", &self.deduplication_id))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AckEvent {
    #[serde(default)]
    deduplication_id: String,
    device_info: DeviceInfo,
    #[serde(default)]
    queue_item_id: String,
    #[serde(default)]
    acknowledged: bool,
    #[serde(default)]
    f_cnt_down: u32,
}

impl AckEvent {
    fn told(self) -> Decoded {
        let told = self.device_info.told(|dev_eui| {
            let id = DownlinkId::new(&self.queue_item_id);
            let mut ack = DeviceAck::new(dev_eui, id, self.acknowledged);
            ack.frame_counter = Some(self.f_cnt_down);
            Ok(vec![Event::DeviceAck(ack)])
        })?;
        Ok(told.with_id("ack", &self.deduplication_id))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TxAckEvent {
    device_info: DeviceInfo,
    #[serde(default)]
    queue_item_id: String,
    #[serde(default)]
    f_cnt_down: u32,
    #[serde(default)]
    gateway_id: String,
}

impl TxAckEvent {
    fn told(self) -> Decoded {
        self.device_info.told(|dev_eui| {
            let mut ack = TransmitAck::new(dev_eui, DownlinkId::new(&self.queue_item_id), Ok(()));
            ack.frame_counter = Some(self.f_cnt_down);
            ack.gateway = (!self.gateway_id.is_empty()).then_some(self.gateway_id);
            Ok(vec![Event::TransmitAck(ack)])
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogEvent {
    device_info: DeviceInfo,
    #[serde(default)]
    level: Level,
    #[serde(default)]
    code: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    context: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "UPPERCASE")]
enum Level {
    #[default]
    Info,
    Warning,
    Error,
}

impl LogEvent {
    fn told(self) -> Decoded {
        let level = match self.level {
            Level::Info => LogLevel::Info,
            Level::Warning => LogLevel::Warning,
            Level::Error => LogLevel::Error,
        };
        let code = match self.code.is_empty() {
            true => Code::UNKNOWN,
            false => Code(&self.code),
        };
        self.device_info.told(|dev_eui| {
            let item = self.context.get(told::QUEUE_ITEM);
            Ok(told::log(dev_eui, level, code, &self.description, item))
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusEvent {
    #[serde(default)]
    deduplication_id: String,
    #[serde(default, deserialize_with = "optional_time")]
    time: Option<SystemTime>,
    device_info: DeviceInfo,
    #[serde(default)]
    margin: i32,
    #[serde(default)]
    external_power_source: bool,
    #[serde(default)]
    battery_level_unavailable: bool,
    #[serde(default)]
    battery_level: f32,
}

impl StatusEvent {
    fn told(self) -> Decoded {
        let battery = match self {
            Self {
                external_power_source: true,
                ..
            } => Battery::External,
            Self {
                battery_level_unavailable: true,
                ..
            } => Battery::Unknown,
            _ => Battery::Percent(self.battery_level),
        };
        let told = self.device_info.told(|dev_eui| {
            let mut status = Status::new(dev_eui, battery, told::margin(self.margin));
            status.received_at = self.time.unwrap_or(status.received_at);
            Ok(vec![Event::Status(status)])
        })?;
        Ok(told.with_id("status", &self.deduplication_id))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocationEvent {
    #[serde(default)]
    deduplication_id: String,
    #[serde(default, deserialize_with = "optional_time")]
    time: Option<SystemTime>,
    device_info: DeviceInfo,
    location: Place,
}

impl LocationEvent {
    fn told(self) -> Decoded {
        let told: Told = self.device_info.told(|dev_eui| {
            let mut located = Located::new(dev_eui, self.location.location());
            located.at = self.time.unwrap_or(located.at);
            Ok(vec![Event::Located(located)])
        })?;
        Ok(told.with_id("location", &self.deduplication_id))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DownlinkCommand<'a> {
    id: &'a str,
    dev_eui: DevEui,
    confirmed: bool,
    f_port: u8,
    #[serde(serialize_with = "to_base64")]
    data: &'a Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}
