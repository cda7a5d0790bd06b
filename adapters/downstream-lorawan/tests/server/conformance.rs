//! The downstream suite over the network server: devices with keys of their own, each near a
//! concentrator of its own.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId};
use gateway_downstream_lorawan::payload::telemetry::TelemetryForm;
use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::server::{ConcentratorConfig, EmbeddedStore, LorawanServer};
use tempfile::TempDir;

use crate::device::Device;
use crate::forwarder::{Asked, Forwarder};
use crate::{class_c, config, folder};

async fn fixture() -> Fixture {
    Fixture {
        folder: folder(),
        forwarders: Mutex::default(),
        devices: Mutex::default(),
    }
}

gateway_core::downstream_conformance!(fixture);

/// The suite's devices: a network server knows its devices before they come.
const NAMES: [&str; 17] = [
    "bad",
    "bystander",
    "good",
    "judge",
    "last",
    "later",
    "newcomer-0",
    "newcomer-1",
    "newcomer-2",
    "orderly",
    "patient",
    "silent",
    "stranger",
    "taker",
    "tardy",
    "unused",
    "victim",
];

#[derive(Debug)]
struct Fixture {
    folder: TempDir,
    forwarders: Mutex<Option<SocketAddr>>,
    devices: Mutex<HashMap<usize, Arc<Mutex<Device>>>>,
}

fn number(name: &DeviceId) -> usize {
    let known = NAMES.iter().position(|known| name.as_str() == *known);
    known.unwrap_or_else(|| panic!("{name} is not among the names that the server knows"))
}

impl Fixture {
    async fn concentrator(&self, number: usize) -> Forwarder {
        let forwarders = self.forwarders.lock().unwrap().unwrap();
        Forwarder::connect(number as u64, forwarders).await
    }

    fn device(&self, number: usize) -> Arc<Mutex<Device>> {
        let mut devices = self.devices.lock().unwrap();
        let new = || Arc::new(Mutex::new(Device::abp(number as u16)));
        devices.entry(number).or_insert_with(new).clone()
    }
}

#[async_trait]
impl DownstreamFixture for Fixture {
    fn capabilities(&self) -> DownstreamCapabilities {
        let mut capabilities = DownstreamCapabilities::default();
        // An acknowledgement says that the hub has a message; a device that gets none says it again
        // or goes on, and cannot tell why.
        capabilities.settles_uplinks = false;
        capabilities.names_messages = false;
        capabilities.pushes_back = false;
        capabilities.refuses_messages = false;
        // The gateway answers for the device.
        capabilities.methods = false;
        capabilities.twins = false;
        capabilities.has_connections = false;
        capabilities
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let devices = NAMES.iter().enumerate().map(|(number, name)| {
            let mut device = class_c(Device::abp(number as u16).config());
            device.id = Some((*name).to_owned());
            device
        });
        let mut config = config(devices.collect());
        let concentrators = 0..=NAMES.len() as u64;
        let concentrators = concentrators.map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
        config.concentrators = concentrators.collect();
        config.timing.rx_delay = 1;
        for profile in config.profiles.values_mut() {
            profile.telemetry = TelemetryForm::Raw;
            profile.confirmed = true;
        }
        config.downstream.reports.empty = false;
        if let Some(timeout) = settings.idle_timeout {
            config.downstream.idle_timeout = timeout;
        }
        let store = EmbeddedStore::open(self.folder.path().join("sessions")).await;
        let server = LorawanServer::builder(config).with_store(store.unwrap());
        let server = server.bind().await.unwrap();
        *self.forwarders.lock().unwrap() = server.forwarder_address();
        Arc::new(server)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let number = number(device);
        let (device, concentrator) = (self.device(number), self.concentrator(number).await);
        let hello = device.lock().unwrap().empty(false);
        concentrator.hear(&hello).await;
        Box::new(Client {
            device,
            concentrator,
            asked: None,
            said: VecDeque::new(),
        })
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        let number = number(device);
        let mut impostor = self.device(number).lock().unwrap().impostor();
        // Through a concentrator that nobody else speaks for.
        let concentrator = self.concentrator(NAMES.len()).await;
        concentrator
            .hear(&impostor.uplink(id.as_str().as_bytes()))
            .await;
    }

    async fn send_garbage(&self) {
        let concentrator = self.concentrator(NAMES.len()).await;
        for garbage in [
            &b""[..],
            b"\x02",
            b"\x02\0\0\x05",
            &[0xff; 1400],
            b"\x02\0\0\0\0\0\0\0\0\0\0\x10{\"rxpk\":[{\"data\":\"",
            b"\x02\0\0\x05\0\0\0\0\0\0\0\x10{\"txpk_ack\":7}",
        ] {
            concentrator.send_raw(garbage).await;
        }
        for frame in [&[0x40; 12][..], &[0; 23], &[0x80; 255], &[0xe0]] {
            concentrator.push(frame, f32::MAX).await;
        }
    }
}

#[derive(Debug)]
struct Client {
    device: Arc<Mutex<Device>>,
    concentrator: Forwarder,
    /// The last downlink.
    asked: Option<Asked>,
    /// What wants an acknowledgement.
    said: VecDeque<MessageId>,
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let frame = self.device.lock().unwrap().confirmed(&body);
        self.concentrator.push(&frame, 5.0).await;
        self.said.push_back(id);
        true
    }

    async fn next(&mut self) -> DeviceEvent {
        let asked = self.concentrator.asked().await;
        let read = self.device.lock().unwrap().read(&asked.frame());
        if read.port.is_none() {
            self.concentrator.acknowledge(&asked, "NONE").await;
            // It is for the last; those before it came to the hub before it.
            let last = self.said.drain(..).next_back();
            return DeviceEvent::Accepted(last.expect("it was asked for"));
        }
        self.asked = Some(asked);
        DeviceEvent::Message {
            tag: read.counter.to_string(),
            body: read.payload.into(),
        }
    }

    async fn settle(&mut self, _: &str, disposition: Disposition) {
        assert_eq!(
            disposition,
            Disposition::Complete,
            "a device refuses nothing"
        );
        let asked = self.asked.take().expect("a message came");
        self.concentrator.acknowledge(&asked, "NONE").await;
        let acknowledgement = self.device.lock().unwrap().empty(true);
        self.concentrator.push(&acknowledgement, 5.0).await;
    }

    async fn close(self: Box<Self>) {}
}
