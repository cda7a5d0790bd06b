//! LoRaWAN devices, whose network server is inside or elsewhere: one section for each way to it.

mod list;
mod profiles;
mod ways;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use gateway_core::{DeviceId, GatewayBuilder, Upstream};
use gateway_downstream_lorawan::embed::{
    Device, DeviceIdCase, EuiDirectory, LorawanConfig, LorawanDownstream,
};
use gateway_downstream_lorawan::server::{DeviceConfig, LorawanServer, LorawanServerBuilder};
use gateway_downstream_lorawan::{chirpstack, tts};

use crate::document::Document;
use crate::secret::Surroundings;
use profiles::{Codecs, Profiles};
use ways::Ways;

pub(super) const LORAWAN: &str = "downstream.lorawan";

/// Is what the file says of LoRaWAN devices: at least one way to them, and what all ways share.
#[derive(Debug)]
pub(crate) struct Lorawan {
    pub(crate) device_id_case: DeviceIdCase,
    pub(crate) messages: LorawanConfig,
    profiles: Profiles,
    /// Those of network servers elsewhere that have a name or a profile of their own.
    devices: Vec<DeviceConfig>,
    pub(crate) ways: Ways,
}

/// Reads the sections; what is wrong is noted.
pub(super) fn read(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<Lorawan> {
    let key = |name: &str| format!("{LORAWAN}.{name}");
    let case = document.take::<DeviceIdCase>(&key("device_id_case"));
    let device_id_case = case.unwrap_or_default();
    let messages = document.section(&key("messages"), LorawanConfig::validate);
    let profiles = profiles::read(document, around);
    let mut ways = ways::read(document, around);
    let devices = list::read(document, around, &profiles.clone().unwrap_or_default());
    document.leave(
        LORAWAN,
        &[
            &[
                "device_id_case",
                "messages",
                "profile",
                "profiles",
                "devices_file",
            ],
            &ways::NAMES[..],
        ]
        .concat(),
    );
    let (messages, profiles, mut devices) = (messages?, profiles?, devices?);
    for device in &mut devices {
        let name = || device_id_case.write(device.dev_eui);
        device.id.get_or_insert_with(name);
    }
    if let Some(server) = &mut ways.server {
        let (here, elsewhere) = devices.into_iter().partition(list::has_keys);
        server.devices = here;
        profiles.apply(server);
        server.downstream = messages.clone();
        devices = elsewhere;
    }
    Some(Lorawan {
        device_id_case,
        messages,
        profiles,
        devices,
        ways,
    })
}

impl Lorawan {
    /// Connections that stations and network servers may have at a time.
    pub(crate) fn max_connections(&self) -> usize {
        self.ways.max_connections()
    }

    /// Tries whether the codecs run.
    pub(crate) async fn try_out(&self) -> anyhow::Result<()> {
        self.profiles.load().await.map(drop)
    }

    /// Adds a downstream for each way, and tells where it listens.
    pub(crate) async fn bind<U: Upstream>(
        self,
        mut gateway: GatewayBuilder<U>,
    ) -> anyhow::Result<(GatewayBuilder<U>, Vec<String>)> {
        let codecs = self.profiles.load().await?;
        let directory = Arc::new(self.directory(&codecs)?);
        let elsewhere = || {
            let builder = LorawanDownstream::builder(self.messages.clone());
            builder.with_directory(directory.clone())
        };
        let mut addresses = Vec::new();
        let mut listens = |scheme: &str, address: Option<SocketAddr>| {
            addresses.extend(address.map(|address| format!("lorawan+{scheme}://{address}")));
        };
        let Ways {
            server,
            chirpstack,
            chirpstack_http,
            tts,
            tts_webhook,
        } = self.ways;
        if let Some(config) = server {
            let builder = with_codecs(LorawanServer::builder(config), &codecs);
            let server = builder.bind().await.context(ways::SERVER)?;
            listens("udp", server.forwarder_address());
            listens("ws", server.station_address());
            gateway = gateway.with_downstream(ways::SERVER, server);
        }
        if let Some(config) = chirpstack {
            let downstream = chirpstack::mqtt(config, elsewhere()).context(ways::CHIRPSTACK)?;
            gateway = gateway.with_downstream(ways::CHIRPSTACK, downstream);
        }
        if let Some(config) = chirpstack_http {
            let downstream = chirpstack::http(config, elsewhere()).await;
            let downstream = downstream.context(ways::CHIRPSTACK_HTTP)?;
            listens("http", downstream.local_addr());
            gateway = gateway.with_downstream(ways::CHIRPSTACK_HTTP, downstream);
        }
        if let Some(config) = tts {
            let downstream = tts::mqtt(config, elsewhere()).context(ways::TTS)?;
            gateway = gateway.with_downstream(ways::TTS, downstream);
        }
        if let Some(config) = tts_webhook {
            let downstream = tts::http(config, elsewhere()).await;
            let downstream = downstream.context(ways::TTS_WEBHOOK)?;
            listens("http", downstream.local_addr());
            gateway = gateway.with_downstream(ways::TTS_WEBHOOK, downstream);
        }
        Ok((gateway, addresses))
    }

    /// Knows the devices of network servers elsewhere.
    fn directory(&self, codecs: &Codecs) -> anyhow::Result<EuiDirectory> {
        let named = self.profiles.make(codecs)?;
        let default = self.profiles.find(&named, None);
        let mut directory = EuiDirectory::new(default).with_case(self.device_id_case);
        for device in &self.devices {
            let profile = self.profiles.find(&named, device.profile.as_deref());
            let name = device.id.clone().unwrap_or_default();
            let known = Device::new(DeviceId::new(name)?, profile);
            directory = directory.with_device(device.dev_eui, known);
        }
        Ok(directory)
    }
}

fn with_codecs(builder: LorawanServerBuilder, codecs: &Codecs) -> LorawanServerBuilder {
    codecs.iter().fold(builder, |builder, (name, codec)| {
        builder.with_codec(name, codec.clone())
    })
}
