//! Whether a connection that the hub closed was taken by another client of the same device.
//!
//! The hub lets a device have one connection, and closes the first when a second comes
//! (`400027 ConnectionForcefullyClosedOnNewConnection`); MQTT 3.1.1 has no room for the reason. Two
//! clients that both come back would close each other's connection for ever. So one that is closed
//! again and again soon after it came back, with nothing of ours in flight that the hub could have
//! closed it for, and while the others' connections stay, gives the device up.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use gateway_core::DeviceId;
use tokio::time::Instant;

use super::config::MqttReconnectConfig;
use crate::lock::lock;

/// Connections of other devices that the hub closed so lately were closed with this one.
const TOGETHER: Duration = Duration::from_secs(5);
/// So many others, and it is the hub's own affair, such as its upkeep.
const COMMON: usize = 3;

/// Remembers which devices' connections the hub closed last.
#[derive(Debug, Default)]
pub(super) struct Closings(Mutex<VecDeque<(Instant, DeviceId)>>);

impl Closings {
    /// Notes that the hub closed a device's connection, and tells whether it closes those of others
    /// as well.
    pub(super) fn note(&self, device: &DeviceId) -> bool {
        let now = Instant::now();
        let mut last = lock(&self.0);
        last.retain(|(at, other)| now.duration_since(*at) < TOGETHER && other != device);
        let is_common = last.len() >= COMMON;
        if last.len() > COMMON {
            last.pop_front();
        }
        last.push_back((now, device.clone()));
        is_common
    }
}

/// Counts how often in a row a device's connection was taken.
#[derive(Debug, Default)]
pub(super) struct Takeovers(u32);

impl Takeovers {
    /// Takes note of a connection of this age that the hub closed. True if the device is another
    /// client's.
    pub(super) fn closed(
        &mut self,
        config: &MqttReconnectConfig,
        age: Duration,
        was_idle: bool,
    ) -> bool {
        match (age < config.displaced_within, was_idle) {
            (true, true) => self.0 += 1,
            // The hub may have closed it for what was in flight.
            (true, false) => {}
            (false, _) => self.0 = 1,
        }
        self.0 >= config.displaced_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(3600);

    #[test]
    fn a_device_is_given_up_when_its_connection_is_taken_again_and_again() {
        let config = MqttReconnectConfig::default();
        let mut takeovers = Takeovers::default();
        assert!(!takeovers.closed(&config, LATE, true));
        assert!(!takeovers.closed(&config, SOON, true));
        assert!(
            !takeovers.closed(&config, SOON, false),
            "it may be the message"
        );
        assert!(takeovers.closed(&config, SOON, true));
    }

    #[test]
    fn a_connection_that_lasted_begins_the_count_anew() {
        let config = MqttReconnectConfig::default();
        let mut takeovers = Takeovers::default();
        for _ in 0..10 {
            assert!(!takeovers.closed(&config, LATE, true));
            assert!(!takeovers.closed(&config, SOON, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_meets_many_devices_at_once_is_no_takeover() {
        let closings = Closings::default();
        let device = |n: usize| DeviceId::new(format!("device-{n}")).unwrap();
        for _ in 0..10 {
            assert!(!closings.note(&device(0)), "only this one");
        }
        let common: Vec<_> = (0..10).map(|n| closings.note(&device(n))).collect();
        assert_eq!(common.iter().filter(|is_common| !**is_common).count(), 3);
        assert!(closings.note(&device(0)), "it is one of many by now");
        advance(TOGETHER).await;
        assert!(!closings.note(&device(0)));
    }
}
