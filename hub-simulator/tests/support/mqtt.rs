//! A device that speaks MQTT packet by packet.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::BytesMut;
use fuzz_seeds::Conversation;
use hub_simulator::HubSimulator;
use rumqttc::mqttbytes::Error;
pub(crate) use rumqttc::mqttbytes::QoS;
#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, Publish, Subscribe,
    SubscribeReasonCode, Unsubscribe,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{expiry, soon, token};

/// A CONNECT as SDKs send it, with a good token.
pub(crate) fn connect_packet(hub: &HubSimulator, id: &str) -> Connect {
    let mut connect = Connect::new(id);
    connect.keep_alive = 60;
    connect.clean_session = false;
    let user_name = format!(
        "{}/{id}/?api-version=2021-04-12&DeviceClientType=test%2F1",
        hub.host()
    );
    connect.set_login(user_name, identity_token(hub, id));
    connect
}

/// A token of a device or a module, which is registered if it is not yet.
fn identity_token(hub: &HubSimulator, id: &str) -> String {
    let Some((device, module)) = id.split_once('/') else {
        return token(&hub.device_connection_string(id));
    };
    hub.add_device(id);
    let key = BASE64.decode(hub.device_keys(id).unwrap().primary).unwrap();
    let resource = format!("{}/devices/{device}/modules/{module}", hub.host());
    hub_simulator::sign(&resource, &key, expiry(Duration::from_secs(3600)), None)
}

/// A raw connection.
pub(crate) struct Wire {
    stream: TcpStream,
    input: BytesMut,
    said: Conversation,
    heard: Conversation,
}

impl Wire {
    pub(crate) async fn open(hub: &HubSimulator) -> Self {
        Self {
            stream: TcpStream::connect(hub.mqtts_addr()).await.unwrap(),
            input: BytesMut::new(),
            // Before CONNECT; in pieces of this many bytes.
            said: Conversation::new("mqtt_connection", &[0, 255]),
            // As MQTT 3.1.1.
            heard: Conversation::new("mqtt_client_bytes", &[0, 255]),
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).await.unwrap();
    }

    async fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.said.say(bytes);
        self.stream.write_all(bytes).await
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        self.try_send(packet).await.unwrap();
    }

    /// Sends to a hub that may be gone.
    pub(crate) async fn try_send(&mut self, packet: &Packet) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        self.try_send_bytes(&bytes).await
    }

    /// The next packet; `None` once the hub has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.input, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the hub sends no MQTT: {error}"),
            }
            let known = self.input.len();
            match soon(self.stream.read_buf(&mut self.input)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => self.heard.say(&self.input[known..]),
            }
        }
    }

    pub(crate) async fn connect(&mut self, connect: Connect) -> Option<ConnAck> {
        self.send(&Packet::Connect(connect)).await;
        match self.next().await {
            Some(Packet::ConnAck(answer)) => Some(answer),
            None => None,
            other => panic!("no CONNACK but {other:?}"),
        }
    }
}

/// A connected device.
pub(crate) struct Device {
    pub(crate) wire: Wire,
    pub(crate) session_present: bool,
    /// Publications that came while something else was waited for.
    published: VecDeque<Publish>,
    last_id: u16,
}

impl Device {
    /// Connects with a session that outlives the connection, as the SDKs do.
    pub(crate) async fn connect(hub: &HubSimulator, id: &str) -> Self {
        Self::connect_with(hub, connect_packet(hub, id)).await
    }

    pub(crate) async fn connect_with(hub: &HubSimulator, connect: Connect) -> Self {
        let mut wire = Wire::open(hub).await;
        let answer = wire.connect(connect).await.expect("the hub answers");
        assert_eq!(answer.code, ConnectReturnCode::Success);
        Self {
            wire,
            session_present: answer.session_present,
            published: VecDeque::new(),
            last_id: 0,
        }
    }

    fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// Waits for a packet other than a PUBLISH.
    pub(crate) async fn answer(&mut self) -> Option<Packet> {
        loop {
            match self.wire.next().await {
                Some(Packet::Publish(publish)) => self.published.push_back(publish),
                other => return other,
            }
        }
    }

    /// The next publication of the hub.
    pub(crate) async fn received(&mut self) -> Publish {
        if let Some(publish) = self.published.pop_front() {
            return publish;
        }
        match self.wire.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    /// Publishes at least once, without waiting; returns the packet identifier.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8]) -> u16 {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = self.next_id();
        let id = publish.pkid;
        self.wire.send(&Packet::Publish(publish)).await;
        id
    }

    /// Publishes at least once and waits for the acknowledgement.
    pub(crate) async fn publish_acked(&mut self, topic: &str, payload: &[u8]) {
        let id = self.publish(topic, payload).await;
        assert_eq!(self.answer().await, Some(Packet::PubAck(PubAck::new(id))));
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> SubscribeReasonCode {
        let mut subscribe = Subscribe::new(filter, qos);
        subscribe.pkid = self.next_id();
        let id = subscribe.pkid;
        self.wire.send(&Packet::Subscribe(subscribe)).await;
        match self.answer().await {
            Some(Packet::SubAck(answer)) => {
                assert_eq!((answer.pkid, answer.return_codes.len()), (id, 1));
                answer.return_codes[0]
            }
            other => panic!("no SUBACK but {other:?}"),
        }
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let mut unsubscribe = Unsubscribe::new(filter);
        unsubscribe.pkid = self.next_id();
        self.wire.send(&Packet::Unsubscribe(unsubscribe)).await;
        assert!(matches!(self.answer().await, Some(Packet::UnsubAck(_))));
    }

    pub(crate) async fn acknowledge(&mut self, id: u16) {
        self.wire.send(&Packet::PubAck(PubAck::new(id))).await;
    }

    /// Takes its leave.
    pub(crate) async fn disconnect(mut self) {
        self.wire.send(&Packet::Disconnect).await;
        assert_eq!(self.wire.next().await, None);
    }

    /// Waits until the hub has closed the connection, whatever it sends before.
    pub(crate) async fn closed(&mut self) {
        while self.wire.next().await.is_some() {}
    }

    /// Shows that the connection still works.
    pub(crate) async fn ping(&mut self) {
        self.wire.send(&Packet::PingReq).await;
        assert_eq!(self.answer().await, Some(Packet::PingResp));
    }
}
