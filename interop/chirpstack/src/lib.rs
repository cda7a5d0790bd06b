//! The gateway inside ChirpStack: its integration trait on the embedding API, type by type.
//!
//! ChirpStack calls an integration for each event, and takes downlinks into a queue of its own.
//! [`Integration`] has the methods of its trait `integration::Integration`, and [`Hub`] implements
//! it on [`NetworkEvents`]; the other way, [`Queue`] implements [`NetworkServer`] on whatever takes
//! a [`DownlinkCommand`].

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use chirpstack_api::gw::modulation::Parameters;
use chirpstack_api::integration::{
    AckEvent, DeviceInfo, DownlinkCommand, JoinEvent, LocationEvent, LogCode, LogEvent, LogLevel,
    StatusEvent, TxAckEvent, UplinkEvent,
};
use chirpstack_api::pbjson_types::Timestamp;
use chirpstack_api::{common, gw};
use gateway_core::Settlement;
use gateway_downstream_lorawan::embed::{NetworkEvents, NetworkServer};
use gateway_downstream_lorawan::event::{
    self, Battery, DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, FailureReason, Join,
    Located, Location, Log, Modulation, Reception, Status, TransmitAck, Uplink,
};
use tokio::time::Instant;

type Variables = HashMap<String, String>;

/// ChirpStack's trait, as of v4.
#[async_trait]
pub trait Integration {
    async fn uplink_event(&self, vars: &Variables, event: &UplinkEvent) -> Result<()>;
    async fn join_event(&self, vars: &Variables, event: &JoinEvent) -> Result<()>;
    async fn ack_event(&self, vars: &Variables, event: &AckEvent) -> Result<()>;
    async fn txack_event(&self, vars: &Variables, event: &TxAckEvent) -> Result<()>;
    async fn log_event(&self, vars: &Variables, event: &LogEvent) -> Result<()>;
    async fn status_event(&self, vars: &Variables, event: &StatusEvent) -> Result<()>;
    async fn location_event(&self, vars: &Variables, event: &LocationEvent) -> Result<()>;
}

/// The hub, as an integration of ChirpStack's.
#[derive(Debug)]
pub struct Hub(pub NetworkEvents);

impl Hub {
    async fn handle(&self, event: impl Into<event::Event>) -> Result<()> {
        match self.0.handle(event.into()).await {
            Settlement::Accepted => Ok(()),
            settlement => anyhow::bail!("the hub has not taken it: {settlement:?}"),
        }
    }
}

#[async_trait]
impl Integration for Hub {
    async fn uplink_event(&self, _: &Variables, event: &UplinkEvent) -> Result<()> {
        self.handle(event::Event::Uplink(uplink(event)?)).await
    }

    async fn join_event(&self, _: &Variables, event: &JoinEvent) -> Result<()> {
        let mut join = Join::new(dev_eui(&event.device_info)?, event.dev_addr.parse()?);
        join.received_at = time(&event.time).unwrap_or(join.received_at);
        self.handle(event::Event::Join(join)).await
    }

    async fn ack_event(&self, _: &Variables, event: &AckEvent) -> Result<()> {
        let id = DownlinkId::new(&event.queue_item_id);
        let mut ack = DeviceAck::new(dev_eui(&event.device_info)?, id, event.acknowledged);
        ack.frame_counter = Some(event.f_cnt_down);
        self.handle(event::Event::DeviceAck(ack)).await
    }

    async fn txack_event(&self, _: &Variables, event: &TxAckEvent) -> Result<()> {
        let id = DownlinkId::new(&event.queue_item_id);
        let mut ack = TransmitAck::new(dev_eui(&event.device_info)?, id, Ok(()));
        ack.frame_counter = Some(event.f_cnt_down);
        ack.gateway = Some(event.gateway_id.clone());
        self.handle(event::Event::TransmitAck(ack)).await
    }

    async fn log_event(&self, _: &Variables, event: &LogEvent) -> Result<()> {
        let dev_eui = dev_eui(&event.device_info)?;
        let reason = match event.code() {
            LogCode::DownlinkPayloadSize => Some(FailureReason::TooLong),
            LogCode::Expired => Some(FailureReason::Expired),
            LogCode::FCntDown => Some(FailureReason::Other),
            _ => None,
        };
        if let Some((reason, item)) = reason.zip(event.context.get("queue_item_id")) {
            let failed = DownlinkFailed::new(dev_eui, DownlinkId::new(item), reason);
            self.handle(event::Event::DownlinkFailed(failed)).await?;
        }
        let level = match event.level() {
            LogLevel::Info => event::LogLevel::Info,
            LogLevel::Warning => event::LogLevel::Warning,
            LogLevel::Error => event::LogLevel::Error,
        };
        let code = event.code().as_str_name();
        let log = Log::new(dev_eui, level, code, &event.description);
        self.handle(event::Event::Log(log)).await
    }

    async fn status_event(&self, _: &Variables, event: &StatusEvent) -> Result<()> {
        let battery = match event {
            _ if event.external_power_source => Battery::External,
            _ if event.battery_level_unavailable => Battery::Unknown,
            _ => Battery::Percent(event.battery_level),
        };
        let margin = event.margin.try_into()?;
        let mut status = Status::new(dev_eui(&event.device_info)?, battery, margin);
        status.received_at = time(&event.time).unwrap_or(status.received_at);
        self.handle(event::Event::Status(status)).await
    }

    async fn location_event(&self, _: &Variables, event: &LocationEvent) -> Result<()> {
        let place = event.location.as_ref().context("no location")?;
        let mut located = Located::new(dev_eui(&event.device_info)?, location(place));
        located.at = time(&event.time).unwrap_or(located.at);
        self.handle(event::Event::Located(located)).await
    }
}

fn uplink(event: &UplinkEvent) -> Result<Uplink> {
    let encrypted = event.join_server_context.is_some();
    ensure!(!encrypted, "the payload is encrypted end to end");
    let (dev_eui, port) = (dev_eui(&event.device_info)?, event.f_port.try_into()?);
    let payload = Bytes::copy_from_slice(&event.data);
    let mut uplink = Uplink::new(dev_eui, event.f_cnt, port, payload)
        .with_dev_addr(event.dev_addr.parse()?)
        .with_deduplication_id(&event.deduplication_id);
    uplink.port = (port != 0).then_some(port);
    uplink.confirmed = event.confirmed;
    uplink.adr = event.adr;
    uplink.data_rate = event.dr.try_into().ok();
    uplink.received_at = time(&event.time).unwrap_or(uplink.received_at);
    let object = event.object.as_ref().map(serde_json::to_vec).transpose()?;
    uplink.object = object.map(Bytes::from);
    if let Some(info) = &event.tx_info {
        uplink.frequency = Some(info.frequency);
        uplink.modulation = info.modulation.as_ref().and_then(modulation);
    }
    uplink.receptions = event.rx_info.iter().map(reception).collect();
    Ok(uplink)
}

fn modulation(info: &gw::Modulation) -> Option<Modulation> {
    match info.parameters.as_ref()? {
        Parameters::Lora(lora) => Some(Modulation::Lora {
            spreading_factor: lora.spreading_factor.try_into().ok()?,
            bandwidth: lora.bandwidth,
        }),
        Parameters::Fsk(fsk) => Some(Modulation::Fsk {
            bit_rate: fsk.datarate,
        }),
        Parameters::LrFhss(_) => None,
    }
}

fn reception(info: &gw::UplinkRxInfo) -> Reception {
    let rssi = info.rssi.try_into().unwrap_or(i16::MIN);
    let mut reception = Reception::new(&info.gateway_id, rssi, Some(info.snr));
    reception.channel = Some(info.channel);
    reception.rf_chain = Some(info.rf_chain);
    reception.time = time(&info.gw_time);
    reception.location = info.location.as_ref().map(location);
    reception
}

fn location(place: &common::Location) -> Location {
    Location::new(place.latitude, place.longitude, Some(place.altitude))
}

fn dev_eui(info: &Option<DeviceInfo>) -> Result<DevEui> {
    let info = info.as_ref().context("no device")?;
    Ok(info.dev_eui.parse()?)
}

fn time(timestamp: &Option<Timestamp>) -> Option<SystemTime> {
    let timestamp = timestamp.as_ref()?;
    let seconds = timestamp.seconds.try_into().ok()?;
    let since = Duration::new(seconds, timestamp.nanos.try_into().ok()?);
    Some(SystemTime::UNIX_EPOCH + since)
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp {
        seconds: since.as_secs().try_into().ok()?,
        nanos: since.subsec_nanos().try_into().ok()?,
    })
}

/// ChirpStack's queues of downlinks, by whatever puts a command into one.
pub struct Queue<F>(pub F);

impl<F> fmt::Debug for Queue<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
}

#[async_trait]
impl<F: Fn(DownlinkCommand) -> Result<()> + Send + Sync + 'static> NetworkServer for Queue<F> {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        let left = downlink.expires.saturating_duration_since(Instant::now());
        let command = DownlinkCommand {
            id: downlink.id.to_string(),
            dev_eui: downlink.dev_eui.to_string(),
            confirmed: downlink.confirmed,
            f_port: downlink.port.into(),
            data: downlink.payload.to_vec(),
            object: None,
            expires_at: timestamp(SystemTime::now() + left),
        };
        (self.0)(command).map_err(|_| FailureReason::Refused)
    }

    /// It expires in the queue.
    async fn withdraw(&self, _: DevEui, _: &DownlinkId) {}
}
