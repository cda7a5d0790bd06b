use std::time::Duration;

use gateway_core::{Backoff, ConfigError};
use serde::Deserialize;

use super::backoff;

/// Says how commands are heard and given to devices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttPoolCommands {
    /// Whose commands this gateway hears. Default those of the devices attached here.
    pub subscriptions: MqttSubscriptions,
    /// The group of gateways that share commands: each message and method goes to one of them, by
    /// `$share/<group>/…` (MQTT 5 section 4.8.2; Mosquitto, EMQX and HiveMQ know it in 3.1.1 too).
    /// Default none: each gateway that hears a device hears all of its commands.
    pub group: Option<String>,
    /// Where, in a group that subscribes for all devices, a command goes that came to a gateway
    /// without the device: below this topic all gateways of the group hear all. Default
    /// `gateways/handover`.
    pub handover: String,
    /// Commands of one device that are on their way to it at a time. Default 8, as over AMQP. A
    /// broker gives out only so many unacknowledged messages a connection (Mosquitto 20, or what its
    /// `max_inflight_messages` says): where more of slow devices are on their way than fit, the
    /// others wait for them, so let it give out hundreds.
    pub per_device: usize,
    /// How long a command waits for room beyond that, while no other of its device is done, before it
    /// is refused. Default 1 s: a burst for a device that takes it is taken, and one that does not
    /// takes no place from the others. What the broker has kept for a device that is not back since
    /// the start waits for `keep`, where that has room.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
    /// Commands of all devices that wait or are on their way. Default 4096, to bound memory. Over MQTT 5
    /// there is room for all that the broker is told that it may give: `wire.unacknowledged` for each
    /// connection, if that is more.
    pub pending: usize,
    /// How long a device may take to settle a message before it counts as abandoned. Default 55 s,
    /// as over AMQP.
    #[serde(with = "humantime_serde")]
    pub verdict_timeout: Duration,
    /// The wait before a message that could not be delivered is tried again, before all desired
    /// properties are read for a device that missed a change, and before a broker that takes no more now
    /// is offered an answer or a dead letter again. Default 1 s to 30 s.
    pub retry: Backoff,
    /// How long a message is tried again, from its arrival or until it expires; then it is refused.
    /// Default 2 min: it is unacknowledged that long, and takes its place at the broker. As long after
    /// the start, messages that the broker has kept wait for devices that are not back: as many of a
    /// connection as half of what is taken of it unacknowledged (`wire.unacknowledged`); more are
    /// refused as they come, so that the others get theirs. Where a broker keeps more than that, have it
    /// give out fewer at a time than half: none is refused then, and the others get nothing meanwhile.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// How long a device may take to answer a method; then the answer is 504. Default 30 s; a
    /// request that expires sooner (MQTT 5) has less.
    #[serde(with = "humantime_serde")]
    pub method_timeout: Duration,
    /// Whether what comes on the topic of desired properties is all of them instead of a change.
    /// Default false; a retained message is all of them in any case.
    pub desired_is_whole: bool,
}

impl Default for MqttPoolCommands {
    fn default() -> Self {
        Self {
            subscriptions: MqttSubscriptions::default(),
            group: None,
            handover: "gateways/handover".to_owned(),
            per_device: 8,
            patience: Duration::from_secs(1),
            pending: 4096,
            verdict_timeout: Duration::from_secs(55),
            retry: backoff(1_000, 30_000),
            keep: Duration::from_secs(120),
            method_timeout: Duration::from_secs(30),
            desired_is_whole: false,
        }
    }
}

impl MqttPoolCommands {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let is_topic = |topic: &str| {
            !topic.starts_with('$')
                && topic.split('/').all(|level| !level.is_empty())
                && !topic.contains(|c: char| c.is_control() || "+#{}".contains(c))
        };
        if !is_topic(&self.handover) || self.handover.len() > 1000 {
            let problem = format!("is {:?}", self.handover);
            return Err(ConfigError::new("commands.handover", problem, "a topic"));
        }
        if let Some(group) = &self.group
            && (group.contains('/') || !is_topic(group))
        {
            let problem = format!("is {group:?}");
            let allowed = "one level of a topic, without + # { }";
            return Err(ConfigError::new("commands.group", problem, allowed));
        }
        if self.pending < self.per_device {
            let problem = format!("is {}, less than `commands.per_device`", self.pending);
            return Err(ConfigError::new(
                "commands.pending",
                problem,
                "as much or more",
            ));
        }
        Ok(())
    }

    /// Tells whether commands come to gateways that may not have the device.
    pub(in crate::pooled) fn hands_over(&self) -> bool {
        self.subscriptions == MqttSubscriptions::Wildcard && self.group.is_some()
    }
}

/// Says whose commands a gateway subscribes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MqttSubscriptions {
    /// Of each device that is attached here and listens, for itself: nothing comes that is another
    /// gateway's, and the broker knows who listens. Costs the broker up to three subscriptions a
    /// listening device, and the gateway one round trip for each few hundred after a reconnect.
    #[default]
    PerDevice,
    /// Of all devices at once, over one connection: for brokers that bound subscriptions. What is for
    /// a device that is not attached here is left to other gateways.
    Wildcard,
}
