//! The downstream suite over the embedding API, with a network server that the test plays.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/book.rs"]
mod book;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId, Settlement};
use gateway_downstream_lorawan::embed::{
    LorawanConfig, LorawanDownstream, NetworkEvents, NetworkServer,
};
use gateway_downstream_lorawan::event::{
    DevAddr, DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, FailureReason, Join,
    TransmitAck, TransmitError, Uplink,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use book::Book;

async fn fixture() -> Fixture {
    Fixture::default()
}

gateway_core::downstream_conformance!(fixture);

const ADDRESS: DevAddr = DevAddr::new([0; 4]);

/// Devices of class C, under the suite's names.
#[derive(Debug, Default)]
struct Fixture {
    book: Arc<Book>,
    radio: Arc<Radio>,
    events: Mutex<Option<NetworkEvents>>,
}

/// Where downlinks go.
#[derive(Debug, Default)]
struct Radio(Mutex<HashMap<DevEui, mpsc::Sender<Downlink>>>);

#[async_trait]
impl NetworkServer for Radio {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        let device = self.0.lock().unwrap().get(&downlink.dev_eui).cloned();
        let device = device.ok_or(FailureReason::UnknownDevice)?;
        device
            .send(downlink)
            .await
            .map_err(|_| FailureReason::NoGateway)
    }

    async fn withdraw(&self, _: DevEui, _: &DownlinkId) {}
}

#[async_trait]
impl DownstreamFixture for Fixture {
    fn capabilities(&self) -> DownstreamCapabilities {
        let mut capabilities = DownstreamCapabilities::default();
        // A call that hands in an uplink waits; there is no transport that could fill.
        capabilities.pushes_back = false;
        // The gateway answers for the device.
        capabilities.methods = false;
        capabilities.twins = false;
        // The network server vouches for its devices.
        capabilities.authenticates = false;
        capabilities.has_connections = false;
        capabilities
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut config = LorawanConfig::default();
        config.reports.joins = false;
        if let Some(timeout) = settings.idle_timeout {
            config.idle_timeout = timeout;
        }
        let lorawan = LorawanDownstream::builder(config)
            .with_directory(self.book.clone())
            .build(self.radio.clone())
            .unwrap();
        *self.events.lock().unwrap() = Some(lorawan.events());
        Arc::new(lorawan)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let dev_eui = self.book.add(device);
        let (sender, downlinks) = mpsc::channel(10);
        self.radio.0.lock().unwrap().insert(dev_eui, sender);
        let events = self.events.lock().unwrap().clone().unwrap();
        assert_eq!(
            events.join(Join::new(dev_eui, ADDRESS)).await,
            Settlement::Accepted
        );
        Box::new(Client::new(dev_eui, events, downlinks))
    }

    async fn intrude(&self, _: &DeviceId, _: MessageId) {
        unreachable!("the network server vouches for its devices");
    }

    async fn send_garbage(&self) {
        let events = self.events.lock().unwrap().clone().unwrap();
        let (known, unknown) = (DevEui::new([0; 8]), DevEui::new([0xff; 8]));
        for uplink in [
            Uplink::new(known, 0, 0, "port 0"),
            Uplink::new(known, 0, 255, "port 255"),
            Uplink::new(known, u32::MAX, 1, vec![0; 243]),
            Uplink::new(unknown, 0, 1, "a stranger"),
        ] {
            let settlement = events.uplink(uplink).await;
            assert!(matches!(settlement, Settlement::Rejected(_)));
        }
        for device in [known, unknown] {
            let nothing = DownlinkId::new("");
            events
                .transmit_ack(TransmitAck::new(device, nothing.clone(), Ok(())))
                .await;
            events
                .device_ack(DeviceAck::new(device, nothing.clone(), true))
                .await;
            events
                .downlink_failed(DownlinkFailed::new(device, nothing, FailureReason::Other))
                .await;
        }
    }
}

/// A device, and the network server's part that concerns it.
#[derive(Debug)]
struct Client {
    dev_eui: DevEui,
    events: NetworkEvents,
    uplinks: mpsc::Sender<(MessageId, Bytes)>,
    settled: mpsc::Receiver<DeviceEvent>,
    downlinks: mpsc::Receiver<Downlink>,
    _sender: JoinSet<()>,
}

impl Client {
    fn new(dev_eui: DevEui, events: NetworkEvents, downlinks: mpsc::Receiver<Downlink>) -> Self {
        let (uplinks, mut waiting) = mpsc::channel::<(MessageId, Bytes)>(100);
        let (settle, settled) = mpsc::channel(100);
        let mut sender = JoinSet::new();
        let door = events.clone();
        sender.spawn(async move {
            while let Some((id, body)) = waiting.recv().await {
                let uplink = Uplink::new(dev_eui, 0, 1, body).with_deduplication_id(id.as_str());
                let event = match door.uplink(uplink).await {
                    Settlement::Accepted => DeviceEvent::Accepted(id),
                    Settlement::Rejected(_) => DeviceEvent::Rejected(id),
                    _ => DeviceEvent::RetryLater(id),
                };
                settle.send(event).await.unwrap();
            }
        });
        Self {
            dev_eui,
            events,
            uplinks,
            settled,
            downlinks,
            _sender: sender,
        }
    }
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        self.uplinks.send((id, body)).await.is_ok()
    }

    async fn next(&mut self) -> DeviceEvent {
        tokio::select! {
            biased;
            Some(event) = self.settled.recv() => event,
            Some(downlink) = self.downlinks.recv() => DeviceEvent::Message {
                tag: downlink.id.to_string(),
                body: downlink.payload,
            },
            else => DeviceEvent::Closed,
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        let (dev_eui, events) = (self.dev_eui, &self.events);
        let transmitted = |result| TransmitAck::new(dev_eui, DownlinkId::new(tag), result);
        match disposition {
            Disposition::Complete => {
                events.transmit_ack(transmitted(Ok(()))).await;
                let ack = DeviceAck::new(dev_eui, DownlinkId::new(tag), true);
                events.device_ack(ack).await;
            }
            Disposition::Reject => {
                let reason = FailureReason::Refused;
                let failed = DownlinkFailed::new(dev_eui, DownlinkId::new(tag), reason);
                events.downlink_failed(failed).await;
            }
            Disposition::Abandon => {
                events
                    .transmit_ack(transmitted(Err(TransmitError::CollisionPacket)))
                    .await;
            }
        }
    }

    async fn close(self: Box<Self>) {}
}
