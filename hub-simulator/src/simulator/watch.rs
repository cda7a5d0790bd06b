//! What the hub carries, and waiting for it to change.

use super::HubSimulator;
use crate::hub::device::Feed;
use crate::hub::peer::ConnectionStats;

/// What the hub carries at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubStats {
    /// The open connections, oldest first.
    pub connections: Vec<ConnectionStats>,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Devices with a link on any connection.
    pub attached_devices: usize,
    /// Telemetry messages accepted since the start, or since the record was cleared.
    pub messages: u64,
}

impl HubSimulator {
    /// Returns what each open connection carries, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionStats> {
        self.hub
            .connections()
            .iter()
            .map(|peer| peer.stats())
            .collect()
    }

    /// Counts the connections opened since the start.
    #[must_use]
    pub fn connections_opened_total(&self) -> u64 {
        self.hub.opened()
    }

    /// Counts the devices that have a link on any connection.
    #[must_use]
    pub fn attached_devices(&self) -> usize {
        self.hub.state().attached
    }

    /// Returns what the hub carries now.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        HubStats {
            connections: self.connections(),
            connections_opened: self.connections_opened_total(),
            attached_devices: self.attached_devices(),
            messages: self.hub.record.count(),
        }
    }

    /// Waits until the hub's figures meet a condition.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_until(&self, mut condition: impl FnMut(&HubStats) -> bool) {
        self.wait_for(|| condition(&self.stats())).await;
    }

    /// Waits until a device has its cloud-to-device link or its method links open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_listening(&self, device: &str) {
        self.wait_for(|| {
            self.listens(device, Feed::Messages) || self.listens(device, Feed::Methods)
        })
        .await;
    }

    /// Waits until a device has its cloud-to-device link open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_messages(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Messages)).await;
    }

    /// Waits until a device listens to nothing.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_deaf(&self, device: &str) {
        let feeds = [Feed::Messages, Feed::Methods, Feed::Desired];
        self.wait_for(|| !feeds.into_iter().any(|feed| self.listens(device, feed)))
            .await;
    }

    /// How often a device came with its first link, having had none before.
    #[must_use]
    pub fn attaches(&self, device: &str) -> u64 {
        let mut state = self.hub.state();
        state
            .registry
            .get_mut(device)
            .map_or(0, |device| device.attaches)
    }

    /// How many tokens of a device the hub has taken over AMQP, those that renew another one included.
    #[must_use]
    pub fn tokens_put(&self, device: &str) -> u64 {
        let state = self.hub.state();
        state
            .registry
            .get(device)
            .map_or(0, |device| device.tokens_put)
    }

    /// Waits until a device has both its method links open.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_methods(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Methods)).await;
    }

    /// Waits until a device has subscribed to its desired properties.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_desired(&self, device: &str) {
        self.wait_for(|| self.listens(device, Feed::Desired)).await;
    }

    fn listens(&self, device: &str, feed: Feed) -> bool {
        let mut state = self.hub.state();
        state
            .registry
            .get_mut(device)
            .is_some_and(|device| device.slot(feed).is_some())
    }

    async fn wait_for(&self, mut condition: impl FnMut() -> bool) {
        let mut changes = self.hub.changes();
        while !condition() {
            // The sender lives as long as the hub.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
