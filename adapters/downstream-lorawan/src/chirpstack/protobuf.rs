//! ChirpStack's events as protobuf: the fields of package `integration` that are read here, by their
//! numbers. Fields that are not named are skipped.

use std::collections::HashMap;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp};
use serde_json::Value;

use super::told::{self, Code};
use super::{Decoded, EventKind};
use crate::cloud::DecodeError;
use crate::cloud::read::best_first;
use crate::event::{
    Battery, DevEui, DeviceAck, Downlink, DownlinkId, Event, Join, Located, Location, LogLevel,
    Modulation, Status, TransmitAck, Uplink,
};
use crate::proto::CodingRate;

pub(super) fn decode(kind: EventKind, body: &[u8]) -> Decoded {
    match kind {
        EventKind::Up => read::<UplinkEvent>(body)?.told(),
        EventKind::Join => read::<JoinEvent>(body)?.told(),
        EventKind::Ack => read::<AckEvent>(body)?.told(),
        EventKind::TxAck => read::<TxAckEvent>(body)?.told(),
        EventKind::Log => read::<LogEvent>(body)?.told(),
        EventKind::Status => read::<StatusEvent>(body)?.told(),
        EventKind::Location => read::<LocationEvent>(body)?.told(),
    }
}

fn read<T: prost::Message + Default>(body: &[u8]) -> Result<T, DecodeError> {
    T::decode(body).map_err(|error| DecodeError::Protobuf(error.to_string()))
}

pub(super) fn encode(downlink: &Downlink, expires: Option<SystemTime>) -> Bytes {
    let command = DownlinkCommand {
        id: downlink.id.to_string(),
        dev_eui: downlink.dev_eui.to_string(),
        confirmed: downlink.confirmed,
        f_port: downlink.port.into(),
        data: downlink.payload.clone(),
        expires_at: expires.map(Timestamp::from),
    };
    command.encode_to_vec().into()
}

fn time(timestamp: Option<Timestamp>) -> Option<SystemTime> {
    timestamp?.try_into().ok()
}

fn object_json(object: Struct) -> Value {
    let fields = object.fields.into_iter();
    Value::Object(fields.map(|(name, value)| (name, json(value))).collect())
}

/// As deep as prost reads, which is 100 at most.
fn json(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => number.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(bool)) => bool.into(),
        Some(Kind::StructValue(object)) => object_json(object),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json).collect(),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeviceInfo {
    #[prost(string, tag = "3")]
    application_id: String,
    #[prost(string, tag = "8")]
    dev_eui: String,
}

fn about(
    info: Option<DeviceInfo>,
    events: impl FnOnce(DevEui) -> Result<Vec<Event>, DecodeError>,
) -> Decoded {
    let info = info.ok_or(DecodeError::Lacks("deviceInfo"))?;
    told::about(&info.application_id, &info.dev_eui, events)
}

/// Is anything: only whether it is there matters.
#[derive(Clone, PartialEq, prost::Message)]
struct Present {}

#[derive(Clone, PartialEq, prost::Message)]
struct UplinkEvent {
    #[prost(string, tag = "1")]
    deduplication_id: String,
    #[prost(message, optional, tag = "2")]
    time: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(string, tag = "4")]
    dev_addr: String,
    #[prost(bool, tag = "5")]
    adr: bool,
    #[prost(uint32, tag = "6")]
    dr: u32,
    #[prost(uint32, tag = "7")]
    f_cnt: u32,
    #[prost(uint32, tag = "8")]
    f_port: u32,
    #[prost(bool, tag = "9")]
    confirmed: bool,
    #[prost(bytes = "bytes", tag = "10")]
    data: Bytes,
    #[prost(message, optional, tag = "11")]
    object: Option<Struct>,
    #[prost(message, repeated, tag = "12")]
    rx_info: Vec<RxInfo>,
    #[prost(message, optional, tag = "13")]
    tx_info: Option<TxInfo>,
    #[prost(message, optional, tag = "15")]
    join_server_context: Option<Present>,
}

impl UplinkEvent {
    fn told(self) -> Decoded {
        if self.join_server_context.is_some() {
            return Err(DecodeError::Encrypted);
        }
        let id = self.deduplication_id.clone();
        let port = u8::try_from(self.f_port).map_err(|_| DecodeError::Lacks("a port"))?;
        let told = about(self.device_info, |dev_eui| {
            let mut uplink = Uplink::new(dev_eui, self.f_cnt, port, self.data);
            uplink.dev_addr = self.dev_addr.parse().ok();
            uplink.port = (port != 0).then_some(port);
            uplink.confirmed = self.confirmed;
            uplink.adr = self.adr;
            uplink.object = self
                .object
                .map(|object| object_json(object).to_string().into());
            uplink.received_at = time(self.time).unwrap_or(uplink.received_at);
            uplink.data_rate = u8::try_from(self.dr).ok();
            if let Some(info) = self.tx_info {
                uplink.frequency = Some(info.frequency);
                let parameters = info.modulation.and_then(|info| info.parameters);
                uplink.modulation = parameters.and_then(Parameters::modulation);
            }
            let receptions = self.rx_info.into_iter().map(|info| {
                let mut reception = told::reception(info.gateway_id, info.rssi, info.snr);
                reception.time = time(info.gw_time);
                reception.channel = Some(info.channel);
                reception.rf_chain = Some(info.rf_chain);
                reception.location = info.location.map(|place| place.location());
                reception
            });
            uplink.receptions = best_first(receptions.collect());
            uplink.deduplication_id =
                (!self.deduplication_id.is_empty()).then_some(self.deduplication_id);
            Ok(vec![Event::Uplink(uplink)])
        })?;
        Ok(told.with_id("up", &id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RxInfo {
    #[prost(string, tag = "1")]
    gateway_id: String,
    #[prost(message, optional, tag = "3")]
    gw_time: Option<Timestamp>,
    #[prost(int32, tag = "6")]
    rssi: i32,
    #[prost(float, tag = "7")]
    snr: f32,
    #[prost(uint32, tag = "8")]
    channel: u32,
    #[prost(uint32, tag = "9")]
    rf_chain: u32,
    #[prost(message, optional, tag = "12")]
    location: Option<Place>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Place {
    #[prost(double, tag = "1")]
    latitude: f64,
    #[prost(double, tag = "2")]
    longitude: f64,
    #[prost(double, tag = "3")]
    altitude: f64,
}

impl Place {
    fn location(&self) -> Location {
        Location::new(self.latitude, self.longitude, Some(self.altitude))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxInfo {
    #[prost(uint32, tag = "1")]
    frequency: u32,
    #[prost(message, optional, tag = "2")]
    modulation: Option<ModulationInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ModulationInfo {
    #[prost(oneof = "Parameters", tags = "3, 4, 5")]
    parameters: Option<Parameters>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Parameters {
    #[prost(message, tag = "3")]
    Lora(Lora),
    #[prost(message, tag = "4")]
    Fsk(Fsk),
    #[prost(message, tag = "5")]
    LrFhss(LrFhss),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Lora {
    #[prost(uint32, tag = "1")]
    bandwidth: u32,
    #[prost(uint32, tag = "2")]
    spreading_factor: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Fsk {
    #[prost(uint32, tag = "2")]
    datarate: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LrFhss {
    #[prost(uint32, tag = "1")]
    operating_channel_width: u32,
    #[prost(int32, tag = "4")]
    code_rate: i32,
}

impl Parameters {
    fn modulation(self) -> Option<Modulation> {
        Some(match self {
            Self::Lora(lora) => Modulation::Lora {
                spreading_factor: lora.spreading_factor.try_into().ok()?,
                bandwidth: lora.bandwidth,
            },
            Self::Fsk(fsk) => Modulation::Fsk {
                bit_rate: fsk.datarate,
            },
            Self::LrFhss(info) => {
                // The enum CodeRate of gw.proto.
                let (data, of) = match info.code_rate {
                    5 => (3, 8),
                    6 => (2, 6),
                    7 => (1, 4),
                    8 => (1, 6),
                    9 => (5, 6),
                    _ => return None,
                };
                Modulation::LrFhss {
                    channel_width: info.operating_channel_width,
                    coding_rate: CodingRate { data, of },
                }
            }
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct JoinEvent {
    #[prost(string, tag = "1")]
    deduplication_id: String,
    #[prost(message, optional, tag = "2")]
    time: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(string, tag = "4")]
    dev_addr: String,
}

impl JoinEvent {
    fn told(self) -> Decoded {
        let told = about(self.device_info, |dev_eui| {
            let dev_addr = self.dev_addr.parse();
            let dev_addr = dev_addr.map_err(|_| DecodeError::Lacks("a device address"))?;
            let mut join = Join::new(dev_eui, dev_addr);
            join.received_at = time(self.time).unwrap_or(join.received_at);
            Ok(vec![Event::Join(join)])
        })?;
        Ok(told.with_id("join", &self.deduplication_id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct AckEvent {
    #[prost(string, tag = "1")]
    deduplication_id: String,
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(string, tag = "4")]
    queue_item_id: String,
    #[prost(bool, tag = "5")]
    acknowledged: bool,
    #[prost(uint32, tag = "6")]
    f_cnt_down: u32,
}

impl AckEvent {
    fn told(self) -> Decoded {
        let told = about(self.device_info, |dev_eui| {
            let id = DownlinkId::new(&self.queue_item_id);
            let mut ack = DeviceAck::new(dev_eui, id, self.acknowledged);
            ack.frame_counter = Some(self.f_cnt_down);
            Ok(vec![Event::DeviceAck(ack)])
        })?;
        Ok(told.with_id("ack", &self.deduplication_id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct TxAckEvent {
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(string, tag = "4")]
    queue_item_id: String,
    #[prost(uint32, tag = "5")]
    f_cnt_down: u32,
    #[prost(string, tag = "6")]
    gateway_id: String,
}

impl TxAckEvent {
    fn told(self) -> Decoded {
        about(self.device_info, |dev_eui| {
            let mut ack = TransmitAck::new(dev_eui, DownlinkId::new(&self.queue_item_id), Ok(()));
            ack.frame_counter = Some(self.f_cnt_down);
            ack.gateway = (!self.gateway_id.is_empty()).then_some(self.gateway_id);
            Ok(vec![Event::TransmitAck(ack)])
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct LogEvent {
    #[prost(message, optional, tag = "2")]
    device_info: Option<DeviceInfo>,
    #[prost(int32, tag = "3")]
    level: i32,
    #[prost(int32, tag = "4")]
    code: i32,
    #[prost(string, tag = "5")]
    description: String,
    #[prost(map = "string, string", tag = "6")]
    context: HashMap<String, String>,
}

impl LogEvent {
    /// The enum LogCode.
    const CODES: [&str; 12] = [
        "UNKNOWN",
        "DOWNLINK_PAYLOAD_SIZE",
        "UPLINK_CODEC",
        "DOWNLINK_CODEC",
        "OTAA",
        "UPLINK_F_CNT_RESET",
        "UPLINK_MIC",
        "UPLINK_F_CNT_RETRANSMISSION",
        "DOWNLINK_GATEWAY",
        "RELAY_NEW_END_DEVICE",
        "F_CNT_DOWN",
        "EXPIRED",
    ];

    fn told(self) -> Decoded {
        let level = match self.level {
            0 => LogLevel::Info,
            1 => LogLevel::Warning,
            _ => LogLevel::Error,
        };
        let code = usize::try_from(self.code).ok();
        let code = code.and_then(|code| Self::CODES.get(code));
        let code = code.map_or(Code::UNKNOWN, |code| Code(code));
        about(self.device_info, |dev_eui| {
            let item = self.context.get(told::QUEUE_ITEM);
            Ok(told::log(dev_eui, level, code, &self.description, item))
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusEvent {
    #[prost(string, tag = "1")]
    deduplication_id: String,
    #[prost(message, optional, tag = "2")]
    time: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(int32, tag = "5")]
    margin: i32,
    #[prost(bool, tag = "6")]
    external_power_source: bool,
    #[prost(bool, tag = "7")]
    battery_level_unavailable: bool,
    #[prost(float, tag = "8")]
    battery_level: f32,
}

impl StatusEvent {
    fn told(self) -> Decoded {
        let battery = match (self.external_power_source, self.battery_level_unavailable) {
            (true, _) => Battery::External,
            (false, true) => Battery::Unknown,
            (false, false) => Battery::Percent(self.battery_level),
        };
        let told = about(self.device_info, |dev_eui| {
            let mut status = Status::new(dev_eui, battery, told::margin(self.margin));
            status.received_at = time(self.time).unwrap_or(status.received_at);
            Ok(vec![Event::Status(status)])
        })?;
        Ok(told.with_id("status", &self.deduplication_id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct LocationEvent {
    #[prost(string, tag = "1")]
    deduplication_id: String,
    #[prost(message, optional, tag = "2")]
    time: Option<Timestamp>,
    #[prost(message, optional, tag = "3")]
    device_info: Option<DeviceInfo>,
    #[prost(message, optional, tag = "4")]
    location: Option<Place>,
}

impl LocationEvent {
    fn told(self) -> Decoded {
        let told = about(self.device_info, |dev_eui| {
            let place = self.location.ok_or(DecodeError::Lacks("a location"))?;
            let mut located = Located::new(dev_eui, place.location());
            located.at = time(self.time).unwrap_or(located.at);
            Ok(vec![Event::Located(located)])
        })?;
        Ok(told.with_id("location", &self.deduplication_id))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct DownlinkCommand {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    dev_eui: String,
    #[prost(bool, tag = "3")]
    confirmed: bool,
    #[prost(uint32, tag = "4")]
    f_port: u32,
    #[prost(bytes = "bytes", tag = "5")]
    data: Bytes,
    #[prost(message, optional, tag = "7")]
    expires_at: Option<Timestamp>,
}
