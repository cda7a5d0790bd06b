//! A gateway with a network server between simulated concentrators and the simulated hub.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use gateway_core::Gateway;
use gateway_core::credential::{ConnectionString, HubPolicyCredentials};
use gateway_downstream_lorawan::embed::ProfileConfig;
use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::schedule::Class;
use gateway_downstream_lorawan::server::{
    ConcentratorConfig, DeviceConfig, ForwarderConfig, LorawanServer, ServerConfig,
};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use hub_simulator::{HubSimulator, Limits};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::forwarder::Forwarder;

/// Concentrators 1 to 8, and devices whose commands go to port 5; windows as late as The Things Stack
/// has them.
pub(crate) fn config(folder: &Path, devices: Vec<DeviceConfig>) -> ServerConfig {
    let mut config = ServerConfig::new(RegionName::Eu868);
    let mut forwarders = ForwarderConfig::default();
    forwarders.listen = (Ipv4Addr::LOCALHOST, 0).into();
    config.forwarders = Some(forwarders);
    config.store = Some(folder.join("sessions"));
    let concentrators = (1..=8).map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
    config.concentrators = concentrators.collect();
    config.timing.rx_delay = 5;
    let mut profile = ProfileConfig::default();
    profile.port = Some(5);
    config.profiles.insert("a".to_owned(), profile.clone());
    profile.class = Class::C;
    config.profiles.insert("c".to_owned(), profile);
    config.devices = devices;
    for device in &mut config.devices {
        device.profile.get_or_insert("a".to_owned());
    }
    config
}

/// A hub that does not let feedback wait for company.
pub(crate) async fn start_hub() -> HubSimulator {
    let hub = HubSimulator::builder().with_tls(false);
    let hub = hub.with_limits(Limits::default().with_feedback_wait(Duration::from_millis(1)));
    hub.start().await.unwrap()
}

/// Where a hub is, and what its gateways sign with.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) policy: String,
}

impl Door {
    pub(crate) fn of(hub: &HubSimulator) -> Self {
        Self {
            address: hub.addr(),
            policy: hub.policy_connection_string("device"),
        }
    }
}

/// Binds a network server and puts a gateway around it.
pub(crate) async fn gateway(door: &Door, config: ServerConfig) -> (Gateway, SocketAddr) {
    let server = LorawanServer::builder(config).bind().await.unwrap();
    let forwarders = server.forwarder_address().unwrap();
    let policy: ConnectionString = door.policy.parse().unwrap();
    let address = (door.address.ip().to_string(), door.address.port());
    let upstream = AmqpConfig::new(policy.host_name())
        .with_address(address.0, address.1)
        .with_tls(false);
    let policy = policy.policy().unwrap().clone();
    let gateway = Gateway::builder(AmqpUpstream::new(upstream).unwrap())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("lorawan", server)
        .build();
    (gateway.unwrap(), forwarders)
}

/// All of it, in this process.
pub(crate) struct Site {
    pub(crate) hub: HubSimulator,
    pub(crate) forwarders: SocketAddr,
    _run: JoinSet<()>,
    _folder: TempDir,
}

impl Site {
    pub(crate) async fn start(devices: Vec<DeviceConfig>) -> Self {
        let (hub, folder) = (start_hub().await, tempfile::tempdir().unwrap());
        hub.add_devices(devices.iter().map(|device| device.dev_eui.to_string()));
        let config = config(folder.path(), devices);
        let (gateway, forwarders) = gateway(&Door::of(&hub), config).await;
        let mut run = JoinSet::new();
        run.spawn(async move {
            gateway.run(CancellationToken::new()).await.unwrap();
        });
        Self {
            hub,
            forwarders,
            _run: run,
            _folder: folder,
        }
    }

    pub(crate) async fn concentrator(&self, eui: u64) -> Forwarder {
        Forwarder::connect(eui, self.forwarders).await
    }

    /// The payloads of the messages that the hub has, once there are so many.
    pub(crate) async fn data(&self, count: u64) -> Vec<String> {
        self.hub.record().wait_for(count).await;
        data(&self.hub)
    }
}

/// The payloads of the messages that a hub has, in base64.
pub(crate) fn data(hub: &HubSimulator) -> Vec<String> {
    let data = |body: &[u8]| {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        body["data"].as_str().unwrap().to_owned()
    };
    let accepted = hub.record().accepted();
    accepted.iter().map(|message| data(&message.body)).collect()
}
