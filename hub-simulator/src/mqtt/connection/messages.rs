//! Cloud-to-device messages on their way to a device.

use super::Core;
use super::device::Device;
use crate::hub::queue::Verdict;
use crate::hub::state::Delivery;
use crate::mqtt::codec::{MAX_TEXT, QoS};
use crate::mqtt::message::c2d_bag;
use crate::mqtt::session::Subscription;
use crate::mqtt::topic;

impl Device {
    /// Sends waiting messages, as many as may be in flight.
    pub(super) fn pump(&mut self, core: &mut Core) {
        while let Some((subscription, delivery)) = self.next_message(core) {
            self.deliver(core, &subscription, &delivery);
        }
    }

    fn next_message(&self, core: &Core) -> Option<(Subscription, Delivery)> {
        let subscription = self.look_at_session(core, |session| {
            let has_room = session.in_flight().held() < core.hub.limits.mqtt_in_flight.max(1);
            session.messages().filter(|_| has_room).cloned()
        })??;
        let delivery = core.hub.state().next_message(self.identity(), core.now)?;
        Some((subscription, delivery))
    }

    fn deliver(&self, core: &mut Core, subscription: &Subscription, delivery: &Delivery) {
        let bag = c2d_bag(self.identity(), &delivery.message, delivery.enqueued);
        let topic = topic::message(&subscription.filter, &bag);
        if topic.len() > MAX_TEXT {
            tracing::warn!(
                device.id = self.identity(),
                "Message is dropped: its properties do not fit into a topic"
            );
            return self.settle(core, delivery, Verdict::Reject);
        }
        let body = delivery.message.body.clone();
        if subscription.qos == QoS::AtMostOnce {
            core.publish(topic, body);
            return self.settle(core, delivery, Verdict::Complete);
        }
        let (lock, sequence) = (delivery.lock, delivery.sequence);
        let sent = self.with_session(core, |session| session.in_flight_mut().send(sequence, lock));
        let Some((pkid, dup)) = sent else {
            return core.hub.state().let_go(self.identity(), &[lock], core.now);
        };
        core.publish_acked(topic, body, pkid, dup);
    }

    fn settle(&self, core: &Core, delivery: &Delivery, verdict: Verdict) {
        let mut state = core.hub.state();
        let settled = state.settle(self.identity(), delivery.lock, verdict, core.now);
        if settled.is_err() {
            tracing::debug!(device.id = self.identity(), "Message is gone meanwhile");
        }
    }

    /// A PUBACK completes its message; one that comes too late changes nothing.
    pub(super) fn acknowledged(&mut self, core: &mut Core, pkid: u16) {
        let lock = self.with_session(core, |session| session.in_flight_mut().acknowledge(pkid));
        if let Some(lock) = lock.flatten() {
            let mut state = core.hub.state();
            let settled = state.settle(self.identity(), lock, Verdict::Complete, core.now);
            drop(state);
            tracing::debug!(
                device.id = self.identity(),
                in_time = settled.is_ok(),
                "Message is acknowledged"
            );
            core.hub.stir();
        }
        self.pump(core);
    }
}
