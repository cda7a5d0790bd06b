//! ChirpStack over MQTT: what it publishes passes through a Mosquitto, and so do its downlinks.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId};
use gateway_downstream_lorawan::chirpstack::{self, ChirpStackConfig};
use gateway_downstream_lorawan::event::DevEui;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Radio;
use super::book::Book;
use super::broker::Mosquitto;

const APPLICATION: &str = "ca739e26-7b67-4f14-b69e-d568c22a5a75";
const GATEWAY: &str = "gateway";

async fn fixture() -> Option<Fixture> {
    let broker = Mosquitto::start().await?;
    know_the_gateway(&broker).await;
    let (client, mut eventloop) = AsyncClient::new(options(&broker, "chirpstack"), 64);
    subscribe(
        &client,
        &mut eventloop,
        "application/+/device/+/command/down",
    )
    .await;
    let radio = Arc::new(Radio::default());
    let mut connection = JoinSet::new();
    connection.spawn(radio.clone().hear_the_broker(eventloop));
    Some(Fixture {
        broker,
        client,
        radio,
        book: Arc::default(),
        _connection: connection,
    })
}

gateway_core::downstream_conformance!(fixture);

fn options(broker: &Mosquitto, client_id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", broker.port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    options
}

async fn subscribe(client: &AsyncClient, eventloop: &mut EventLoop, filter: &str) {
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let is_done = |event| matches!(event, Event::Incoming(Packet::SubAck(_)));
    while !is_done(eventloop.poll().await.unwrap()) {}
}

/// Has the broker keep from now on what comes for the gateway, as after a visit of it.
async fn know_the_gateway(broker: &Mosquitto) {
    let mut options = options(broker, GATEWAY);
    options.set_clean_session(false);
    let (client, mut eventloop) = AsyncClient::new(options, 8);
    subscribe(&client, &mut eventloop, "application/+/device/+/event/+").await;
    client.disconnect().await.unwrap();
    while eventloop.poll().await.is_ok() {}
}

impl Radio {
    async fn hear_the_broker(self: Arc<Self>, mut eventloop: EventLoop) {
        loop {
            let Event::Incoming(Packet::Publish(message)) = eventloop.poll().await.unwrap() else {
                continue;
            };
            let downlink: Value = serde_json::from_slice(&message.payload).unwrap();
            let dev_eui = downlink["devEui"].as_str().unwrap();
            self.send(dev_eui, downlink.clone()).await;
        }
    }
}

#[derive(Debug)]
struct Fixture {
    broker: Mosquitto,
    client: AsyncClient,
    radio: Arc<Radio>,
    book: Arc<Book>,
    _connection: JoinSet<()>,
}

#[async_trait]
impl DownstreamFixture for Fixture {
    fn capabilities(&self) -> DownstreamCapabilities {
        let mut capabilities = super::capabilities();
        // The broker is between, and nobody comes again.
        capabilities.settles_uplinks = false;
        // The network server vouches for its devices.
        capabilities.authenticates = false;
        capabilities
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut config = ChirpStackConfig::default();
        config.mqtt.host = "127.0.0.1".into();
        config.mqtt.port = Some(self.broker.port());
        config.mqtt.client_id = Some(GATEWAY.into());
        let lorawan = super::lorawan(&self.book, settings);
        Arc::new(chirpstack::mqtt(config, lorawan).unwrap())
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let dev_eui = self.book.add(device);
        let downlinks = self.radio.listen(dev_eui);
        let client = Client {
            dev_eui,
            client: self.client.clone(),
            downlinks,
        };
        client.tell("join", json!({"devAddr": "00189440"})).await;
        Box::new(client)
    }

    async fn intrude(&self, _: &DeviceId, _: MessageId) {
        unreachable!("the network server vouches for its devices");
    }

    async fn send_garbage(&self) {
        let events = format!("application/{APPLICATION}/device/0000000000000000/event");
        let stranger =
            json!({"deviceInfo": {"applicationId": APPLICATION, "devEui": "f".repeat(16)}});
        let nobody = json!({"deviceInfo": {"applicationId": "+/#", "devEui": "0000000000000000"}});
        let bodies = [
            "",
            "garbage",
            "{}",
            "[[[[",
            &stranger.to_string(),
            &nobody.to_string(),
        ];
        for name in ["up", "ack", "txack", "log", "unheard-of"] {
            let topic = format!("{events}/{name}");
            for body in bodies.map(str::to_owned) {
                let told = self.client.publish(&topic, QoS::AtLeastOnce, false, body);
                told.await.unwrap();
            }
            let noise = vec![0xff; 100_000];
            let told = self.client.publish(topic, QoS::AtLeastOnce, false, noise);
            told.await.unwrap();
        }
    }
}

/// A device, and ChirpStack's part that concerns it.
#[derive(Debug)]
struct Client {
    dev_eui: DevEui,
    client: AsyncClient,
    downlinks: mpsc::Receiver<Value>,
}

impl Client {
    /// Publishes an event.
    async fn tell(&self, name: &str, mut event: Value) -> bool {
        let topic = format!(
            "application/{APPLICATION}/device/{}/event/{name}",
            self.dev_eui
        );
        event["deviceInfo"] = json!({"applicationId": APPLICATION, "devEui": self.dev_eui});
        let body = event.to_string();
        let told = self.client.publish(topic, QoS::AtLeastOnce, false, body);
        told.await.is_ok()
    }
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let data = BASE64_STANDARD.encode(body);
        let up = json!({"deduplicationId": id.as_str(), "fPort": 1, "data": data});
        self.tell("up", up).await
    }

    async fn next(&mut self) -> DeviceEvent {
        let Some(downlink) = self.downlinks.recv().await else {
            return DeviceEvent::Closed;
        };
        let body = BASE64_STANDARD.decode(downlink["data"].as_str().unwrap());
        DeviceEvent::Message {
            tag: downlink["id"].as_str().unwrap().to_owned(),
            body: body.unwrap().into(),
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        let log = |code| json!({"level": "ERROR", "code": code, "context": {"queue_item_id": tag}});
        let told = match disposition {
            Disposition::Complete => {
                self.tell("txack", json!({"queueItemId": tag})).await;
                let ack = json!({"queueItemId": tag, "acknowledged": true});
                self.tell("ack", ack).await
            }
            Disposition::Reject => self.tell("log", log("DOWNLINK_PAYLOAD_SIZE")).await,
            Disposition::Abandon => self.tell("log", log("EXPIRED")).await,
        };
        assert!(told);
    }

    async fn close(self: Box<Self>) {}
}
