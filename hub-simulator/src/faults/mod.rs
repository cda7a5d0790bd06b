//! Scripted faults: what a test makes go wrong.

mod fault;
mod plan;
mod script;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::amqp::{AmqpError, condition};
use crate::hub::Hub;
use crate::hub::device::Feed;
use crate::hub::peer::{ConnectionId, Notice};
pub use fault::Fault;
pub use plan::{Plan, PlanError, Planned, Step};
pub(crate) use script::{Attaching, Mishandling, Order, Script, Settling, code_of};
use script::{Mishap, Rejection, Rules};

/// Longest delay that a script makes.
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// Kinds of link that a fault can pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinkKind {
    /// The telemetry link.
    Telemetry,
    /// The cloud-to-device link.
    C2d,
    /// Both links of direct methods.
    Methods,
    /// Both links of the twin.
    Twin,
    /// Every link of a device.
    #[default]
    All,
}

impl LinkKind {
    /// Whether a fault for `self` meets a link of `other`, which is `None` for links of no device.
    pub(crate) fn includes(self, other: Option<Self>) -> bool {
        other.is_some_and(|other| self == Self::All || self == other)
    }
}

/// Script faults of a running hub; every method takes effect at once.
#[derive(Debug, Clone)]
pub struct Faults {
    hub: Arc<Hub>,
}

/// Holds back all settlements of telemetry until it is released or dropped, and so are all others of
/// its kind.
#[derive(Debug)]
#[must_use = "dropping the guard releases the settlements"]
pub struct HeldSettlements {
    faults: Faults,
}

impl HeldSettlements {
    /// Sends what was held back and goes on as usual.
    pub fn release(self) {}
}

impl Drop for HeldSettlements {
    fn drop(&mut self) {
        self.faults.hold(|rules| rules.holders -= 1);
    }
}

impl Faults {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn edit(&self, edit: impl FnOnce(&mut Rules)) {
        self.hub.script.edit(edit);
    }

    fn order_all(&self, order: Order) {
        self.hub.broadcast(&Notice::Order(order));
    }

    /// Changes who holds settlements back; sends them if nobody does any more.
    fn hold(&self, change: impl FnOnce(&mut Rules)) {
        let holds = self.hub.script.edit(|rules| {
            change(rules);
            rules.holds()
        });
        if !holds {
            self.order_all(Order::Release);
        }
    }

    /// Accepts telemetry but tells nobody, until the guard is released or dropped.
    pub fn hold_settlements(&self) -> HeldSettlements {
        self.hold(|rules| rules.holders += 1);
        HeldSettlements {
            faults: self.clone(),
        }
    }

    /// Accepts the next `count` telemetry messages and never tells.
    pub fn drop_settlements(&self, count: u64) {
        self.edit(|rules| rules.drop = count);
    }

    /// Settles telemetry only after `delay`, a day at most; zero settles at once again.
    pub fn delay_settlements(&self, delay: Duration) {
        let delay = delay.min(MAX_DELAY);
        self.edit(|rules| rules.delay = (!delay.is_zero()).then_some(delay));
    }

    /// Sends everything `latency` later, a day at most, as over a line with a round trip of that
    /// length.
    ///
    /// Throughput is not limited. The handshake of a TLS connection is not delayed.
    pub fn latency(&self, latency: Duration) {
        self.hub.script.set_latency(latency.min(MAX_DELAY));
    }

    /// Rejects the next `count` telemetry messages of a device, or of any, with an error condition; over
    /// HTTP with the status that the condition stands for, 500 if it stands for none.
    pub fn reject_next(&self, device: Option<&str>, count: u64, condition: &str) {
        let error = scripted(condition);
        let device = device.map(str::to_owned);
        if count > 0 {
            self.edit(|rules| {
                rules.rejections.push(Rejection {
                    device,
                    left: count,
                    error,
                })
            });
        }
    }

    /// Rejects the next `count` telemetry messages as the real hub does when it is overloaded.
    pub fn throttle(&self, device: Option<&str>, count: u64) {
        self.reject_next(device, count, "com.microsoft:device-container-throttled");
    }

    /// Takes back all rejections of telemetry.
    pub fn stop_rejecting(&self) {
        self.edit(|rules| rules.rejections.clear());
    }

    /// Refuses every attach of a device with an error condition.
    pub fn refuse_attach(&self, device: &str, condition: &str) {
        let error = scripted(condition);
        self.edit(|rules| rules.refused_attaches.extend([(device.to_owned(), error)]));
    }

    /// Never answers an attach of a device.
    pub fn withhold_attach(&self, device: &str) {
        self.edit(|rules| rules.withheld_attaches.extend([device.to_owned()]));
    }

    /// Answers attaches of a device as usual again.
    pub fn allow_attach(&self, device: &str) {
        self.edit(|rules| {
            rules.refused_attaches.remove(device);
            rules.withheld_attaches.remove(device);
        });
    }

    /// Refuses good tokens of a device with a status and a text.
    pub fn refuse_token(&self, device: &str, status: i32, text: &str) {
        let refusal = (status, text.to_owned());
        self.edit(|rules| rules.refused_tokens.extend([(device.to_owned(), refusal)]));
    }

    /// Neither takes nor answers good tokens of a device over AMQP.
    pub fn withhold_token(&self, device: &str) {
        self.edit(|rules| rules.withheld_tokens.extend([device.to_owned()]));
    }

    /// Judges and answers tokens of a device as usual again.
    pub fn allow_token(&self, device: &str) {
        self.edit(|rules| {
            rules.refused_tokens.remove(device);
            rules.withheld_tokens.remove(device);
        });
    }

    /// Loses the next `count` messages that the hub would send to a device on AMQP links of a kind; of
    /// the twin these are answers and changes of desired properties.
    pub fn lose_next(&self, device: &str, kind: LinkKind, count: u64) {
        self.mishandle(device, kind, count, Mishandling::Lose);
    }

    /// Sends the next `count` messages to a device on AMQP links of a kind as what nobody can read.
    pub fn garble_next(&self, device: &str, kind: LinkKind, count: u64) {
        self.mishandle(device, kind, count, Mishandling::Garble);
    }

    fn mishandle(&self, device: &str, kind: LinkKind, left: u64, how: Mishandling) {
        let mishap = Mishap {
            device: device.to_owned(),
            kind,
            left,
            how,
        };
        if left > 0 {
            self.edit(|rules| rules.mishaps.push(mishap));
        }
    }

    /// Gives sessions begun from now on this window, in frames; `None` is the limit's again.
    pub fn incoming_window(&self, window: Option<u32>) {
        self.edit(|rules| rules.incoming_window = window);
    }

    /// Gives links attached from now on this credit; `None` is the limit's again.
    pub fn link_credit(&self, credit: Option<u32>) {
        self.edit(|rules| rules.credit = credit);
    }

    /// Resets every connection.
    pub fn cut_all(&self) {
        self.order_all(Order::Cut);
    }

    /// Resets one connection.
    pub fn cut(&self, connection: ConnectionId) {
        self.hub.post_to(connection, Notice::Order(Order::Cut));
    }

    /// Closes every connection with an error condition, `amqp:connection:forced` for instance.
    pub fn close_all(&self, condition: &str) {
        self.order_all(Order::Close(scripted(condition)));
    }

    /// Closes one connection with an error condition.
    pub fn close(&self, connection: ConnectionId, condition: &str) {
        self.hub
            .post_to(connection, Notice::Order(Order::Close(scripted(condition))));
    }

    /// Stops reading from and writing to every connection; their sockets stay open.
    pub fn freeze_all(&self) {
        self.order_all(Order::Freeze(true));
    }

    /// Stops reading from and writing to one connection.
    pub fn freeze(&self, connection: ConnectionId) {
        self.hub
            .post_to(connection, Notice::Order(Order::Freeze(true)));
    }

    /// Lets every frozen connection go on.
    pub fn thaw(&self) {
        self.order_all(Order::Freeze(false));
    }

    /// Ends every session that has a link of the device, or every session, with a condition.
    pub fn end_sessions(&self, device: Option<&str>, condition: &str) {
        self.order_all(Order::EndSessions(
            device.map(str::to_owned),
            scripted(condition),
        ));
    }

    /// Detaches links of a device with an error condition.
    pub fn detach(&self, device: &str, kind: LinkKind, condition: &str) {
        self.order_all(Order::Detach(
            Some(device.to_owned()),
            kind,
            scripted(condition),
        ));
    }

    /// Detaches links of all devices with an error condition.
    pub fn detach_all(&self, kind: LinkKind, condition: &str) {
        self.order_all(Order::Detach(None, kind, scripted(condition)));
    }

    /// Lets the tokens in use expire now: those of a device, or all.
    ///
    /// A device that came by another's token, as one behind a hub policy, keeps its links unless all
    /// tokens expire.
    pub fn expire_tokens(&self, device: Option<&str>) {
        self.order_all(Order::ExpireTokens(device.map(str::to_owned)));
    }

    /// Moves the hub away, as when it fails over to another region: every connection is closed with
    /// `com.microsoft:iot-hub-not-found-error`, and nobody is let in until [`Faults::fail_back`].
    pub fn fail_over(&self) {
        self.hub.state().registry.set_away(true);
        self.close_all(condition::HUB_NOT_FOUND);
    }

    /// Moves the hub back.
    pub fn fail_back(&self) {
        self.hub.state().registry.set_away(false);
    }

    /// Detaches every link of a device with `amqp:link:detach-forced`, as a hub does that is serviced;
    /// MQTT connections are closed.
    pub fn maintenance(&self) {
        self.detach_all(LinkKind::All, condition::DETACH_FORCED);
    }

    /// Takes the cloud-to-device link of a device, as another client of the same device would.
    pub fn steal(&self, device: &str) {
        let taken = {
            let mut state = self.hub.state();
            state
                .registry
                .get_mut(device)
                .and_then(|device| device.slot(Feed::Messages).take())
        };
        if let Some(subscriber) = taken {
            subscriber.post(Notice::Displaced);
        }
    }
}

fn scripted(condition: &str) -> AmqpError {
    AmqpError::new(
        condition.to_owned(),
        "The script of the hub simulator says so.",
    )
}
