//! What a broker, which the tests play, sees of a gateway whose connections are lost.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/site.rs"]
mod site;

use bytes::BytesMut;
use gateway_core::testkit::MemoryUpstream;
use gateway_downstream_lorawan::chirpstack::{self, ChirpStackConfig};
use gateway_downstream_lorawan::cloud::CloudDownstream;
use rumqttc::mqttbytes::Error;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const MAX_PACKET: usize = 64 * 1024;

/// The gateway's connection, on the broker's side.
struct Connection {
    stream: TcpStream,
    heard: BytesMut,
}

impl Connection {
    /// Waits for the gateway, and does not answer it yet.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let heard = BytesMut::new();
        let mut connection = Self { stream, heard };
        let first = connection.packet().await;
        assert!(matches!(first, Packet::Connect(_)), "{first:?}");
        connection
    }

    /// Answers it; the first that it says then is what it wants to hear.
    async fn begin(&mut self) {
        let answer = ConnAck::new(ConnectReturnCode::Success, true);
        self.send(Packet::ConnAck(answer), &[]).await;
        let first = self.packet().await;
        assert!(matches!(first, Packet::Subscribe(_)), "{first:?}");
    }

    async fn packet(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.heard, MAX_PACKET) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {
                    let read = self.stream.read_buf(&mut self.heard).await.unwrap();
                    assert_ne!(read, 0, "the gateway left");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends a packet, and something behind it that comes with it.
    async fn send(&mut self, packet: Packet, behind: &[u8]) {
        let mut sent = BytesMut::new();
        packet.write(&mut sent, MAX_PACKET).unwrap();
        sent.extend_from_slice(behind);
        self.stream.write_all(&sent).await.unwrap();
    }
}

/// An uplink under this number.
fn uplink(number: u16, frame_counter: u32) -> Packet {
    let body = json!({
        "deduplicationId": format!("frame-{frame_counter}"),
        "deviceInfo": {"applicationId": "app", "devEui": "0102030405060708"},
        "fCnt": frame_counter,
        "fPort": 1,
        "data": "qgA=",
    });
    let topic = "application/app/device/0102030405060708/event/up";
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, body.to_string());
    publish.pkid = number;
    Packet::Publish(publish)
}

async fn gateway() -> (TcpListener, CloudDownstream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = ChirpStackConfig::default();
    config.mqtt.host = "127.0.0.1".into();
    config.mqtt.port = Some(listener.local_addr().unwrap().port());
    config.mqtt.client_id = Some("gateway".into());
    (
        listener,
        chirpstack::mqtt(config, site::everybody()).unwrap(),
    )
}

#[tokio::test]
async fn what_the_hub_takes_after_a_loss_is_acknowledged_when_it_comes_again() {
    let (listener, downstream) = gateway().await;
    let hub = MemoryUpstream::new();
    let _run = site::run(&hub, downstream);
    let mut first = Connection::accept(&listener).await;
    first.begin().await;
    hub.hold();
    first.send(uplink(1, 1), &[]).await;
    hub.wait_held(1).await;
    drop(first);
    let mut second = Connection::accept(&listener).await;
    hub.release();
    hub.wait_accepted(1).await;
    second.begin().await;
    second.send(uplink(2, 1), &[]).await;
    assert_eq!(second.packet().await, Packet::PubAck(PubAck::new(2)));
}

#[tokio::test]
async fn what_came_right_before_a_loss_is_not_acknowledged_after_it() {
    let (listener, downstream) = gateway().await;
    let hub = MemoryUpstream::new();
    let _run = site::run(&hub, downstream);
    let mut first = Connection::accept(&listener).await;
    first.begin().await;
    // No packet begins with a zero: the gateway hangs up.
    first.send(uplink(1, 1), &[0, 0]).await;
    let mut second = Connection::accept(&listener).await;
    second.begin().await;
    hub.wait_accepted(1).await;
    second.send(uplink(2, 2), &[]).await;
    assert_eq!(second.packet().await, Packet::PubAck(PubAck::new(2)));
}
