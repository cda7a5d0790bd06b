//! The gateway's network server for a fleet on LoRaWAN.

use std::net::SocketAddr;
use std::path::Path;

use gateway_downstream_lorawan::embed::{ListenPolicy, ProfileConfig};
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::payload::{JavaScriptCodec, JavaScriptConfig};
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::proto::{Eui64, Key};
use gateway_downstream_lorawan::server::{
    ConcentratorConfig, DeviceConfig, ForwarderConfig, OtaaConfig, ServerConfig,
};

use super::Setup;
use crate::device::lorawan::{concentrators, identity};
use crate::plan::device_id;

/// The profile of all devices.
pub(super) const PROFILE: &str = "device";

/// Says which concentrators and devices there are.
pub(super) fn config(
    setup: &Setup,
    address: SocketAddr,
    folder: &Path,
) -> anyhow::Result<ServerConfig> {
    let devices = u32::try_from(setup.connections)?;
    let mut config = ServerConfig::new(RegionName::Eu868);
    config.store = Some(folder.join("sessions.redb"));
    let mut forwarders = ForwarderConfig::default();
    forwarders.listen = address;
    config.forwarders = Some(forwarders);
    let euis = concentrators(devices).map(Eui64::new);
    config.concentrators = euis.map(ConcentratorConfig::new).collect();
    let mut profile = ProfileConfig::default();
    // Everybody speaks every second or two: a command waits here, not at the hub.
    profile.listen = Some(ListenPolicy::Always);
    profile.confirmed = true;
    config.profiles.insert(PROFILE.to_owned(), profile);
    for number in 0..devices {
        let identity = identity(number, &setup.secret);
        let dev_eui = DevEui::new(identity.dev_eui.to_be_bytes());
        let otaa = OtaaConfig::new(Key::new(identity.app_key));
        let mut device = DeviceConfig::otaa(dev_eui, otaa);
        device.id = Some(device_id(number));
        device.profile = Some(PROFILE.to_owned());
        config.devices.push(device);
    }
    // The whole fleet may speak within the time that a frame is remembered.
    config.limits.frames = config.limits.frames.max(4 * setup.connections);
    config.downstream.max_tasks = config.downstream.max_tasks.max(setup.connections);
    // Only what devices say is counted.
    config.downstream.reports.joins = false;
    config.downstream.reports.empty = false;
    Ok(config)
}

/// The script that reads and writes the devices' payloads, as their maker would ship it.
pub(super) async fn codec(setup: &Setup) -> anyhow::Result<JavaScriptCodec> {
    let mut limits = JavaScriptConfig::default();
    limits.max_waiting = limits.max_waiting.max(setup.connections);
    Ok(JavaScriptCodec::load(include_str!("codec.js"), limits).await?)
}
