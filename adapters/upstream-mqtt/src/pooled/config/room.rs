//! How many commands the broker may give, and room for all of them.

use super::{MqttPoolConfig, MqttSubscriptions, MqttVersion};

impl MqttPoolConfig {
    /// Commands of one connection without our acknowledgement. A broker of version 3.1.1 cannot be told,
    /// but be left unread; the client reads up to twice as many, for which there is room.
    pub(in crate::pooled) fn window(&self) -> u16 {
        let most = self.wire.unacknowledged;
        let share = (self.commands.pending / (2 * self.hearing())).max(1);
        match (self.version, u16::try_from(share)) {
            (MqttVersion::V3_1_1, Ok(share)) => share.min(most),
            _ => most,
        }
    }

    /// Commands of all devices that may wait: no fewer than a broker of version 5 is told.
    pub(in crate::pooled) fn room(&self) -> usize {
        let told = self.hearing() * usize::from(self.wire.unacknowledged);
        match self.version {
            MqttVersion::V3_1_1 => self.commands.pending,
            MqttVersion::V5 => self.commands.pending.max(told),
        }
    }

    /// Connections that hear commands.
    fn hearing(&self) -> usize {
        match self.commands.subscriptions {
            MqttSubscriptions::PerDevice => self.connections,
            MqttSubscriptions::Wildcard => 1,
        }
    }
}
