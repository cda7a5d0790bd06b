//! The client alone, for benchmarks.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::UpstreamError;
use tokio_util::task::TaskTracker;

use super::{Client, Inbox, Incoming, Options, Publish};
use crate::error::MqttError;

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
