//! What The Things Stack says of devices: `ApplicationUp` in protobuf's JSON form, with names as in
//! the definition.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::down::ours;
use crate::cloud::read::{best_first, optional_time};
use crate::cloud::{DecodeError, Route, Told, read};
use crate::event::{
    DevEui, DeviceAck, DownlinkFailed, DownlinkId, Event, FailureReason, Join, Located, Location,
    Modulation, Reception, TransmitAck, Uplink,
};

#[derive(Deserialize)]
pub(super) struct ApplicationUp {
    end_device_ids: EndDeviceIds,
    #[serde(default)]
    correlation_ids: Vec<String>,
    #[serde(default, deserialize_with = "optional_time")]
    received_at: Option<SystemTime>,
    uplink_message: Option<UplinkMessage>,
    join_accept: Option<Present>,
    downlink_sent: Option<DownlinkMessage>,
    downlink_ack: Option<DownlinkMessage>,
    downlink_nack: Option<DownlinkMessage>,
    downlink_failed: Option<DownlinkFailure>,
    downlink_queue_invalidated: Option<Invalidated>,
    location_solved: Option<LocationSolved>,
}

/// Is anything: only whether it is there matters.
#[derive(Deserialize)]
struct Present {}

#[derive(Deserialize)]
struct EndDeviceIds {
    #[serde(default)]
    device_id: String,
    application_ids: ApplicationIds,
    #[serde(default)]
    dev_eui: String,
    #[serde(default)]
    dev_addr: String,
}

#[derive(Deserialize)]
struct ApplicationIds {
    #[serde(default)]
    application_id: String,
}

#[derive(Deserialize)]
struct UplinkMessage {
    #[serde(default)]
    f_port: u8,
    #[serde(default)]
    f_cnt: u32,
    #[serde(default, deserialize_with = "read::bytes")]
    frm_payload: Bytes,
    decoded_payload: Option<Box<RawValue>>,
    #[serde(default)]
    rx_metadata: Vec<RxMetadata>,
    settings: Option<Settings>,
    #[serde(default, deserialize_with = "optional_time")]
    received_at: Option<SystemTime>,
    #[serde(default)]
    confirmed: bool,
    app_s_key: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RxMetadata {
    #[serde(default)]
    gateway_ids: GatewayIds,
    #[serde(default, deserialize_with = "optional_time")]
    time: Option<SystemTime>,
    #[serde(default, deserialize_with = "read::number")]
    rssi: f32,
    #[serde(default = "no_ratio", deserialize_with = "read::number")]
    snr: f32,
    #[serde(default)]
    channel_index: u32,
    location: Option<Place>,
}

fn no_ratio() -> f32 {
    f32::NAN
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GatewayIds {
    gateway_id: String,
    eui: String,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default, deserialize_with = "read::number")]
    latitude: f64,
    #[serde(default, deserialize_with = "read::number")]
    longitude: f64,
    altitude: Option<f64>,
}

#[derive(Deserialize)]
struct Settings {
    data_rate: Option<DataRate>,
    /// A number too long for JavaScript, so a text.
    #[serde(default)]
    frequency: String,
}

/// Has one of them.
#[derive(Deserialize)]
struct DataRate {
    lora: Option<Lora>,
    fsk: Option<Fsk>,
    lrfhss: Option<LrFhss>,
}

#[derive(Deserialize)]
struct Lora {
    #[serde(default)]
    bandwidth: u32,
    #[serde(default)]
    spreading_factor: u8,
}

#[derive(Deserialize)]
struct Fsk {
    #[serde(default)]
    bit_rate: u32,
}

#[derive(Deserialize)]
struct LrFhss {
    #[serde(default)]
    operating_channel_width: u32,
    #[serde(default)]
    coding_rate: String,
}

/// `ApplicationDownlink`, of which a gateway needs only whose it is.
#[derive(Deserialize)]
struct DownlinkMessage {
    #[serde(default)]
    correlation_ids: Vec<String>,
    f_cnt: Option<u32>,
    confirmed_retry: Option<ConfirmedRetry>,
}

#[derive(Deserialize)]
struct ConfirmedRetry {
    #[serde(default)]
    attempt: u32,
    max_attempts: Option<u32>,
}

#[derive(Deserialize)]
struct DownlinkFailure {
    downlink: DownlinkMessage,
    #[serde(default)]
    error: ErrorDetails,
}

#[derive(Deserialize, Default)]
struct ErrorDetails {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Invalidated {
    #[serde(default)]
    downlinks: Vec<DownlinkMessage>,
}

#[derive(Deserialize)]
struct LocationSolved {
    location: Place,
}

impl ApplicationUp {
    pub(super) fn told(self) -> Result<Told, DecodeError> {
        let ids = &self.end_device_ids;
        let dev_eui: DevEui = ids.dev_eui.parse().map_err(|_| DecodeError::NoDevEui)?;
        let route = Route::new(&ids.application_ids.application_id, &ids.device_id)?;
        let id = self.id().unwrap_or_default().to_owned();
        let is_uplink = self.uplink_message.is_some();
        let events = self.events(dev_eui, &id)?;
        let told = Told::new(dev_eui, route, events);
        // What is said of a downlink has the names of its uplink as well.
        Ok(match is_uplink {
            true => told.with_id("up", &id),
            false => told,
        })
    }

    /// What names this message: each server on the way adds a name of its own, and the last was the
    /// first to see all copies of a frame as one.
    fn id(&self) -> Option<&str> {
        let after = |start: &str| {
            let mut ids = self.correlation_ids.iter();
            ids.find_map(|id| id.strip_prefix(start))
        };
        ["as:up:", "ns:uplink:", "gs:uplink:"]
            .into_iter()
            .find_map(after)
    }

    fn events(self, dev_eui: DevEui, id: &str) -> Result<Vec<Event>, DecodeError> {
        let dev_addr = self.end_device_ids.dev_addr.parse().ok();
        if let Some(message) = self.uplink_message {
            let mut uplink = message.uplink(dev_eui)?;
            uplink.dev_addr = dev_addr;
            uplink.deduplication_id = (!id.is_empty()).then(|| id.to_owned());
            return Ok(vec![Event::Uplink(uplink)]);
        }
        if self.join_accept.is_some() {
            let dev_addr = dev_addr.ok_or(DecodeError::Lacks("a device address"))?;
            let mut join = Join::new(dev_eui, dev_addr);
            join.received_at = self.received_at.unwrap_or(join.received_at);
            return Ok(vec![Event::Join(join)]);
        }
        if let Some(solved) = self.location_solved {
            let mut located = Located::new(dev_eui, solved.location.location());
            located.at = self.received_at.unwrap_or(located.at);
            return Ok(vec![Event::Located(located)]);
        }
        let sent = self.downlink_sent.and_then(|message| {
            let mut ack = TransmitAck::new(dev_eui, message.id()?, Ok(()));
            ack.frame_counter = message.f_cnt;
            Some(Event::TransmitAck(ack))
        });
        let acknowledged = self
            .downlink_ack
            .and_then(|message| message.ack(dev_eui, true));
        // One that is sent again is still under way.
        let final_nack = self.downlink_nack.filter(DownlinkMessage::is_last_attempt);
        let refused = final_nack.and_then(|message| message.ack(dev_eui, false));
        let failed = self.downlink_failed.and_then(|failure| {
            let reason = failure.error.reason();
            failure.downlink.failed(dev_eui, reason)
        });
        let invalidated = self.downlink_queue_invalidated.into_iter();
        let invalidated = invalidated
            .flat_map(|queue| queue.downlinks)
            .filter_map(|message| message.failed(dev_eui, FailureReason::Other));
        let events = sent.into_iter().chain(acknowledged).chain(refused);
        Ok(events.chain(failed).chain(invalidated).collect())
    }
}

impl UplinkMessage {
    fn uplink(self, dev_eui: DevEui) -> Result<Uplink, DecodeError> {
        // It comes with the payload only where the application is to decrypt that itself.
        if self.app_s_key.is_some() {
            return Err(DecodeError::Encrypted);
        }
        let mut uplink = Uplink::new(dev_eui, self.f_cnt, self.f_port, self.frm_payload);
        uplink.port = (self.f_port != 0).then_some(self.f_port);
        uplink.confirmed = self.confirmed;
        let object = self.decoded_payload;
        uplink.object = object.map(|object| Box::<str>::from(object).into_string().into());
        uplink.received_at = self.received_at.unwrap_or(uplink.received_at);
        if let Some(settings) = self.settings {
            uplink.frequency = settings.frequency.parse().ok();
            uplink.modulation = settings.data_rate.and_then(DataRate::modulation);
        }
        let receptions = self.rx_metadata.into_iter().map(RxMetadata::reception);
        uplink.receptions = best_first(receptions.collect());
        Ok(uplink)
    }
}

impl RxMetadata {
    fn reception(self) -> Reception {
        let GatewayIds { gateway_id, eui } = self.gateway_ids;
        let gateway = match eui.is_empty() {
            true => gateway_id,
            false => eui.to_ascii_lowercase(),
        };
        let mut reception = Reception::new(gateway, self.rssi.round() as i16, Some(self.snr));
        reception.time = self.time;
        reception.channel = Some(self.channel_index);
        reception.location = self.location.map(Place::location);
        reception
    }
}

impl Place {
    fn location(self) -> Location {
        Location::new(self.latitude, self.longitude, self.altitude)
    }
}

impl DataRate {
    fn modulation(self) -> Option<Modulation> {
        let lora = self.lora.map(|lora| Modulation::Lora {
            spreading_factor: lora.spreading_factor,
            bandwidth: lora.bandwidth,
        });
        let fsk = self.fsk.map(|fsk| Modulation::Fsk {
            bit_rate: fsk.bit_rate,
        });
        let lr_fhss = || {
            let info = self.lrfhss?;
            Some(Modulation::LrFhss {
                channel_width: info.operating_channel_width,
                coding_rate: info.coding_rate.parse().ok()?,
            })
        };
        lora.or(fsk).or_else(lr_fhss)
    }
}

impl DownlinkMessage {
    /// Its name, if it is one of ours.
    fn id(&self) -> Option<DownlinkId> {
        self.correlation_ids.iter().find_map(|id| ours(id))
    }

    fn ack(self, dev_eui: DevEui, acknowledged: bool) -> Option<Event> {
        let mut ack = DeviceAck::new(dev_eui, self.id()?, acknowledged);
        ack.frame_counter = self.f_cnt;
        Some(Event::DeviceAck(ack))
    }

    fn failed(self, dev_eui: DevEui, reason: FailureReason) -> Option<Event> {
        let failed = DownlinkFailed::new(dev_eui, self.id()?, reason);
        Some(Event::DownlinkFailed(failed))
    }

    /// By then `attempt` is the number of the one that would be next.
    fn is_last_attempt(&self) -> bool {
        let retry = self.confirmed_retry.as_ref();
        retry.is_some_and(|retry| retry.max_attempts.is_some_and(|most| most < retry.attempt))
    }
}

impl ErrorDetails {
    /// The names are those of `pkg/networkserver`.
    fn reason(&self) -> FailureReason {
        match self.name.as_str() {
            "application_downlink_too_long" => FailureReason::TooLong,
            "schedule" => FailureReason::NoGateway,
            "device_not_found" => FailureReason::UnknownDevice,
            name if name.contains("expired") => FailureReason::Expired,
            _ => FailureReason::Other,
        }
    }
}
