//! What comes from the broker, sorted at once: nothing here waits.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use gateway_core::DeviceId;
use tokio_util::sync::CancellationToken;

use super::config::MqttSubscriptions;
use super::convert::{self, Inward};
use super::line::Line;
use super::pool::Pool;
use super::queues::{Job, Order};
use super::suspicion::Chore;
use super::topics::Kind;
use super::{desired, messages, methods};
use crate::client::{Inbox, Incoming, Publish, Receipt};

/// Characters of a topic that is told in a warning.
const TOLD: usize = 200;

/// Takes what comes on one connection, for as long as it lasts.
#[derive(Debug)]
pub(super) struct LineInbox {
    pool: Weak<Pool>,
    lost: CancellationToken,
}

impl LineInbox {
    pub(super) fn new(pool: &Arc<Pool>, lost: CancellationToken) -> Self {
        Self {
            pool: Arc::downgrade(pool),
            lost,
        }
    }
}

impl Inbox for LineInbox {
    fn on_publish(&self, incoming: Incoming) {
        if let Some(pool) = self.pool.upgrade() {
            pool.sort(incoming, &self.lost);
        }
    }
}

/// A command on its way to a device.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) device: DeviceId,
    pub(super) topic: String,
    pub(super) inward: Inward,
    pub(super) retain: bool,
    pub(super) duplicate: bool,
    pub(super) receipt: Receipt,
    /// The connection that it came on is lost: the broker gives it again.
    pub(super) lost: CancellationToken,
}

impl Pool {
    fn sort(self: &Arc<Self>, incoming: Incoming, lost: &CancellationToken) {
        let Incoming {
            topic,
            payload,
            retain,
            duplicate,
            properties,
            is_cut,
            receipt,
        } = incoming;
        let handover = self.config.commands.handover.as_str();
        let handed = topic
            .strip_prefix(handover)
            .and_then(|rest| rest.strip_prefix('/'));
        let meant = handed.unwrap_or(&topic);
        if is_cut {
            return self.unreadable(meant, "it is larger than `wire.max_packet`", receipt);
        }
        let Some((kind, captures)) = self.topics.read(meant) else {
            return self.unreadable(meant, "it is no topic of ours", receipt);
        };
        if kind == Kind::TwinResponse {
            match convert::inward(self.encoding, captures, &payload, properties) {
                Ok(inward) => self.asked.answer(inward),
                Err(error) => tracing::warn!(error, count = 1, "Unreadable answer dropped"),
            }
            return receipt.acknowledge();
        }
        let device = captures.device.as_deref().map(DeviceId::new);
        let Some(Ok(device)) = device else {
            return self.unreadable(meant, "it names no device", receipt);
        };
        if self.find(&device).is_none() && !(kind == Kind::Message && self.may_come()) {
            if kind == Kind::Desired && retain {
                // Whoever attaches later does not hear it.
                self.has_retained.store(true, Relaxed);
            }
            // Another gateway hears it too, unless the group gave it to us alone.
            if !self.config.commands.hands_over() || kind == Kind::Desired || handed.is_some() {
                return self.leave(&device, kind, receipt);
            }
            self.counters.handed_over.fetch_add(1, Relaxed);
            let publish = Publish {
                topic: format!("{handover}/{topic}"),
                payload,
                retain: false,
                properties,
            };
            return self.chore(0, Chore::HandedOver, publish, vec![receipt], lost.clone());
        }
        let inward = match convert::inward(self.encoding, captures, &payload, properties) {
            Ok(inward) => inward,
            Err(error) => return self.unreadable(meant, &error, receipt),
        };
        let command = Command {
            device,
            topic: meant.to_owned(),
            inward,
            retain,
            duplicate,
            receipt,
            lost: lost.clone(),
        };
        match kind {
            Kind::Message => messages::take(self, command),
            Kind::Method => methods::take(self, command),
            Kind::Desired | Kind::TwinResponse => desired::take(self, command),
        }
    }

    /// Tells whether a message may wait for a device that is not here. Where a gateway hears the commands
    /// of all devices, that is so only behind its start, when its own are not back yet.
    fn may_come(&self) -> bool {
        match self.config.commands.subscriptions {
            MqttSubscriptions::PerDevice => true,
            MqttSubscriptions::Wildcard => {
                !self.config.commands.hands_over() && self.lines[0].is_in_grace()
            }
        }
    }

    /// The connection that hears a device's commands, if the device is not here and may come back as it
    /// was before the start.
    pub(super) fn awaiting(&self, device: &DeviceId) -> Option<&Line> {
        let hears = match self.config.commands.subscriptions {
            MqttSubscriptions::PerDevice => self.place(device),
            MqttSubscriptions::Wildcard => 0,
        };
        let line = &*self.lines[hears];
        (line.is_in_grace() && self.find(device).is_none()).then_some(line)
    }

    /// Acknowledges what is for a device that is not here, so for another gateway or for nobody. What
    /// came because of a subscription for this device alone is of a session from before: it ends.
    pub(super) fn leave(&self, device: &DeviceId, kind: Kind, receipt: Receipt) {
        self.counters.left.fetch_add(1, Relaxed);
        tracing::debug!(device.id = %device, ?kind, count = 1, "Command left to other gateways");
        self.disown(device, kind);
        receipt.acknowledge();
    }

    /// Acknowledges what will not become readable.
    fn unreadable(&self, topic: &str, reason: &str, receipt: Receipt) {
        self.counters.unreadable.fetch_add(1, Relaxed);
        // Topics may be as long as packets.
        let topic: String = topic.chars().take(TOLD).collect();
        tracing::warn!(topic = ?topic, reason, count = 1, "Unreadable command dropped");
        receipt.acknowledge();
    }

    /// Has a job done in its device's turn.
    pub(super) fn enqueue(&self, device: &DeviceId, order: Order, patience: Duration, job: Job) {
        if let Some(worker) = self.queues.push(device, order, patience, job) {
            self.spawn(worker.run());
        }
    }
}
