//! The network server between simulated concentrators and a hub in memory, on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
mod conformance;
mod device;
mod forwarder;
mod pamoja;
mod station;
mod stations;
mod store;
mod stored;
#[path = "../support/mod.rs"]
mod support;
mod uplinks;

use std::convert::{Infallible, identity};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudMessage, DeviceId, Disposition, ErrorKind, Gateway, Interest, MethodCall, MethodName,
};
use gateway_downstream_lorawan::embed::ProfileConfig;
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::schedule::Class;
use gateway_downstream_lorawan::server::{
    BindError, ConcentratorConfig, DeviceConfig, EmbeddedStore, ForwarderConfig, LorawanServer,
    LorawanServerBuilder, ServerConfig, SessionStore, StationConfig, StoreError,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use device::{Device, join_request, otaa};
use forwarder::Forwarder;
use station::Station;
use store::{Faulty, Gate};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
const OTAA: DevEui = DevEui::new([9; 8]);

/// A gateway with a network server.
struct Network {
    hub: MemoryUpstream,
    forwarders: SocketAddr,
    stations: SocketAddr,
    stop: CancellationToken,
    run: JoinSet<()>,
    /// Where its store is, unless somebody else keeps that.
    folder: Option<TempDir>,
}

/// Concentrators 1 to 3, and devices whose commands go to port 5; windows so late that no machine
/// misses one.
fn config(devices: Vec<DeviceConfig>) -> ServerConfig {
    let mut config = ServerConfig::new(RegionName::Eu868);
    let mut forwarders = ForwarderConfig::default();
    forwarders.listen = "127.0.0.1:0".parse().unwrap();
    config.forwarders = Some(forwarders);
    let mut stations = StationConfig::default();
    stations.listen = "127.0.0.1:0".parse().unwrap();
    stations.radios = vec![json!({})];
    config.stations = Some(stations);
    let concentrators = [1, 2, 3].map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
    config.concentrators = concentrators.into();
    config.timing.rx_delay = 15;
    config.downstream.window = Duration::from_secs(15);
    config.downstream.reports.joins = false;
    for (name, class) in [("a", Class::A), ("c", Class::C)] {
        let mut profile = ProfileConfig::default();
        profile.class = class;
        profile.port = Some(5);
        config.profiles.insert(name.to_owned(), profile);
    }
    config.devices = devices;
    for device in &mut config.devices {
        device.profile.get_or_insert("a".to_owned());
    }
    config
}

fn class_c(mut device: DeviceConfig) -> DeviceConfig {
    device.profile = Some("c".to_owned());
    device
}

impl Network {
    async fn start(config: ServerConfig, folder: &TempDir) -> Self {
        let store = EmbeddedStore::open(folder.path().join("sessions")).await;
        Self::start_with(config, store.unwrap()).await
    }

    async fn start_with(config: ServerConfig, store: impl SessionStore) -> Self {
        Self::run(LorawanServer::builder(config).with_store(store)).await
    }

    async fn run(server: LorawanServerBuilder) -> Self {
        let server = server.bind().await.unwrap();
        let (forwarders, stations) = (server.forwarder_address(), server.station_address());
        let hub = MemoryUpstream::new();
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let policy = SharedAccessPolicy::new("device", key);
        let gateway = Gateway::builder(hub.clone())
            .with_credentials(HubPolicyCredentials::new(policy))
            .with_downstream("lorawan", server)
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        let stopped = stop.clone();
        run.spawn(async move {
            gateway.run(stopped).await.unwrap();
        });
        Self {
            hub,
            forwarders: forwarders.unwrap(),
            stations: stations.unwrap(),
            stop,
            run,
            folder: None,
        }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.run.join_next().await {
            ended.unwrap();
        }
    }

    async fn concentrator(&self, eui: u64) -> Forwarder {
        Forwarder::connect(eui, self.forwarders).await
    }

    /// Waits until the hub has a device's commands fetched.
    async fn listens(&self, device: &Device) {
        let device = name(device.dev_eui);
        self.hub.wait_listening(&device, Interest::COMMANDS).await;
    }

    /// The payloads of the first messages that the hub has, once there are so many.
    async fn data(&self, count: usize) -> Vec<Value> {
        let accepted = self.hub.wait_accepted(count).await;
        let data = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["data"].clone();
        accepted.iter().map(|message| data(&message.body)).collect()
    }
}

/// A network, a concentrator of it, and a device that it has heard and that listens since then.
async fn awake(treated: fn(DeviceConfig) -> DeviceConfig) -> (Network, Forwarder, Device) {
    let (folder, mut device) = (folder(), Device::abp(1));
    let config = config(vec![treated(device.config())]);
    let mut network = Network::start(config, &folder).await;
    network.folder = Some(folder);
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    (network, concentrator, device)
}

fn name(dev_eui: DevEui) -> DeviceId {
    DeviceId::new(dev_eui.to_string()).unwrap()
}

fn message(device: &Device, body: &'static str) -> CloudMessage {
    CloudMessage::new(name(device.dev_eui), body, Instant::now() + LONG)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A device that says a frame until it is answered, as one does that wants an acknowledgement.
async fn says(concentrator: &Forwarder, frame: &[u8]) -> Infallible {
    loop {
        concentrator.push(frame, 5.0).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
