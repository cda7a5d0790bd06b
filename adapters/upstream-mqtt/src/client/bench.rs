//! The client alone, and its packets, for benchmarks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::UpstreamError;
use tokio_util::task::TaskTracker;

use super::codec::{Outgoing, ReadPackets};
use super::options::Version;
use super::{Client, Inbox, Incoming, Options, Publish};
use crate::error::MqttError;

/// The largest packet that is read, in bytes.
const MAX_PACKET: usize = 64 * 1024;

/// Acknowledges whatever comes.
#[derive(Debug)]
struct Taken;

impl Inbox for Taken {
    fn on_publish(&self, incoming: Incoming) {
        incoming.receipt.acknowledge();
    }
}

/// One connection of version 3.1.1 to a broker on this machine.
#[derive(Debug, Clone)]
pub struct MqttClient(Client);

impl MqttClient {
    /// Connects, with so many messages in flight at most.
    ///
    /// # Errors
    /// The broker cannot be reached, or refuses.
    pub async fn connect(port: u16, id: &str, in_flight: u16) -> Result<Self, UpstreamError> {
        let mut options = Options::new("127.0.0.1", port, id);
        options.limits.in_flight = in_flight;
        let client = Client::connect(&options, Arc::new(Taken), &TaskTracker::new()).await;
        client
            .map(Self)
            .map_err(|error| error.into_upstream("connect"))
    }

    /// Publishes at least once: `Ok` if and only if the broker has acknowledged it.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn publish(&self, topic: &str, payload: Bytes) -> Result<(), UpstreamError> {
        let publish = Publish {
            topic: topic.to_owned(),
            payload,
            ..Publish::default()
        };
        let told = self.0.publish(publish).await;
        told.map_err(|error: MqttError| error.into_upstream("send"))
    }
}

/// Writes a message as it goes to the broker; false if MQTT cannot carry it.
pub fn write_publish(topic: &str, payload: &Bytes, is_version_5: bool, out: &mut BytesMut) -> bool {
    let publish = Publish {
        topic: topic.to_owned(),
        payload: payload.clone(),
        ..Publish::default()
    };
    let packet = Outgoing::publish(version(is_version_5), publish);
    packet.map(|packet| packet.write(1, out)).is_ok()
}

/// Takes whole packets off the front and counts them.
pub fn read_packets(buffer: &mut BytesMut, is_version_5: bool) -> usize {
    let mut packets = ReadPackets::new(buffer, version(is_version_5), MAX_PACKET);
    std::iter::from_fn(|| packets.next().ok().flatten()).count()
}

fn version(is_version_5: bool) -> Version {
    match is_version_5 {
        true => Version::V5,
        false => Version::V4,
    }
}
