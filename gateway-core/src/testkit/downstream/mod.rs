//! The conformance suite of [`Downstream`]s.
//!
//! Implement [`DownstreamFixture`] over devices that a test can steer, and give
//! [`downstream_conformance!`](crate::downstream_conformance) a function that makes one. Each case
//! runs the downstream in a real gateway over a [`MemoryUpstream`].

mod commands;
mod connections;
mod harness;
mod twins;
mod uplinks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{MemoryUpstream, Outcome, WATCH, need};
use crate::config::GatewayConfig;
use crate::downstream::Downstream;
use crate::id::{DeviceId, MessageId, MethodName};
use crate::message::{Disposition, MethodReply};
use harness::{Running, body, device, message_id, sent_as};

pub use commands::*;
pub use connections::*;
pub use twins::*;
pub use uplinks::*;

/// Says what a downstream's protocol can do, and so which cases apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownstreamCapabilities {
    /// The device is told what became of each uplink. Default true.
    pub settles_uplinks: bool,
    /// The device gives its messages their ids. Default true; false where the downstream does, and
    /// the suite tells messages by their bodies.
    pub names_messages: bool,
    /// A device that sends faster than the gateway takes is slowed down by its transport. Default
    /// true; false where it is told to come back later.
    pub pushes_back: bool,
    /// Messages reach the device. Default true.
    pub messages: bool,
    /// The device confirms that it has a message. Default true.
    pub acknowledges_messages: bool,
    /// The device can refuse a message. Default true.
    pub refuses_messages: bool,
    /// The device answers methods. Default true.
    pub methods: bool,
    /// The device reads its twin, reports properties and hears of desired changes. Default true.
    pub twins: bool,
    /// A device that proves nothing is refused. Default true.
    pub authenticates: bool,
    /// A silent device is dropped after [`DownstreamSettings::idle_timeout`]. Default true.
    pub ends_idle: bool,
    /// Devices hold connections, the newest of which counts. Default true.
    pub has_connections: bool,
}

impl Default for DownstreamCapabilities {
    fn default() -> Self {
        Self {
            settles_uplinks: true,
            names_messages: true,
            pushes_back: true,
            messages: true,
            acknowledges_messages: true,
            refuses_messages: true,
            methods: true,
            twins: true,
            authenticates: true,
            ends_idle: true,
            has_connections: true,
        }
    }
}

/// Is how a case wants the downstream set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownstreamSettings {
    /// How long a device may be silent; none for the downstream's default.
    pub idle_timeout: Option<Duration>,
}

/// Is what a device saw.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent {
    /// It was told that the hub has its message.
    Accepted(MessageId),
    /// It was told that its message is refused for good.
    Rejected(MessageId),
    /// It was told to send its message again later.
    RetryLater(MessageId),
    /// It got a message.
    Message {
        /// What [`DeviceClient::settle`] takes.
        tag: String,
        /// The body.
        body: Bytes,
    },
    /// It was asked to run a method.
    Method {
        /// What [`DeviceClient::reply`] takes.
        tag: String,
        /// The method's name.
        name: MethodName,
        /// The argument.
        payload: Bytes,
    },
    /// It was told its twin, which it asked for.
    Twin(Bytes),
    /// It was told that the hub has what it reported.
    Reported,
    /// It was told of a change of its desired properties.
    Desired {
        /// Their version.
        version: u64,
        /// The change.
        patch: Bytes,
    },
    /// Its connection ended; nothing comes after it.
    Closed,
}

/// Is a device that a case steers. Dropped, its connection breaks without a farewell.
#[async_trait]
pub trait DeviceClient: fmt::Debug + Send {
    /// Sends a message without waiting for what becomes of it. The body is a JSON string.
    ///
    /// False if the connection is gone. It waits while the transport takes no more.
    ///
    /// # Cancel safety
    /// A client whose send was cancelled is only read from or dropped afterwards.
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool;

    /// Waits for what comes next; heartbeats and the like are answered in passing.
    ///
    /// # Cancel safety
    /// Must be safe: no event is lost.
    async fn next(&mut self) -> DeviceEvent;

    /// Settles a message.
    async fn settle(&mut self, tag: &str, disposition: Disposition);

    /// Answers a method. Not called without [`DownstreamCapabilities::methods`].
    async fn reply(&mut self, tag: &str, reply: MethodReply) {
        unreachable!("{reply:?} to {tag}: this device has no methods");
    }

    /// Asks for the twin. Not called without [`DownstreamCapabilities::twins`].
    async fn ask_twin(&mut self) {
        unreachable!("this device has no twin");
    }

    /// Reports properties, a JSON object. Not called without [`DownstreamCapabilities::twins`].
    async fn report(&mut self, patch: Bytes) {
        unreachable!("{patch:?}: this device has no twin");
    }

    /// Says farewell, where the protocol has one, and closes the connection.
    async fn close(self: Box<Self>);
}

/// Is a downstream and the devices that reach it.
///
/// Methods panic where a device cannot be had: a test cannot go on without it.
#[async_trait]
pub trait DownstreamFixture: fmt::Debug + Send + Sync + 'static {
    /// What applies.
    fn capabilities(&self) -> DownstreamCapabilities;

    /// Makes the downstream under test, once for each case.
    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream>;

    /// Connects a device that proves who it is and wants messages, methods and, where there are
    /// twins, desired changes; done when it may send.
    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient>;

    /// Connects a device that claims a name without proof and tries to send a message.
    ///
    /// Done when it was refused.
    async fn intrude(&self, device: &DeviceId, id: MessageId);

    /// Sends what no device of this protocol would send: noise, cut-off and oversized frames, each
    /// over connections of its own, some of them closed at once.
    async fn send_garbage(&self);
}

/// Is a fixture, or none where what it needs is not installed.
pub trait MaybeFixture {
    /// The fixture.
    type Fixture: DownstreamFixture;

    /// Gives the fixture, if it can be had.
    fn into_fixture(self) -> Option<Self::Fixture>;
}

impl<T: DownstreamFixture> MaybeFixture for T {
    type Fixture = T;

    fn into_fixture(self) -> Option<T> {
        Some(self)
    }
}

impl<T: DownstreamFixture> MaybeFixture for Option<T> {
    type Fixture = T;

    fn into_fixture(self) -> Self {
        self
    }
}

/// Makes each case of the downstream suite a test.
///
/// Takes the path of an `async fn() -> impl MaybeFixture`: it gives a fixture, or an option of one,
/// where none means that it has said why and the cases are left out. The crate that uses it needs
/// `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! downstream_conformance {
    ($fixture:path) => {
        $crate::downstream_conformance! { @ $fixture:
            a_device_is_told_accepted_only_after_the_hub_accepted
            a_rejection_is_told
            a_retry_is_told
            a_device_keeps_its_order
            reading_stops_without_credit
            an_acknowledged_message_completes
            a_refused_message_is_rejected
            a_message_that_could_not_be_taken_now_is_abandoned
            parallel_methods_get_their_own_replies
            a_device_that_is_gone_is_unknown
            a_connection_lost_while_waiting_is_never_acknowledged
            a_silent_method_ends_with_its_deadline
            a_method_of_a_device_that_leaves_fails_at_once
            a_late_answer_is_dropped_and_counted
            a_device_reads_and_reports_its_twin
            a_desired_change_reaches_a_device_once_and_in_order
            garbage_never_ends_serve
            a_silent_peer_ends_by_time_out
            the_newest_connection_of_a_device_wins
            the_end_of_a_session_closes_the_connection
            an_unauthenticated_device_never_reaches_the_hub
            a_device_that_the_hub_refuses_harms_nobody
            shutdown_finishes_what_is_in_flight
            what_is_sent_after_the_shutdown_began_is_not_taken
        }
    };
    (@ $fixture:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = $fixture().await;
                let fixture = $crate::testkit::downstream::MaybeFixture::into_fixture(fixture);
                let Some(fixture) = fixture else { return };
                let case = $crate::testkit::downstream::$case(&fixture);
                let _ = $crate::testkit::run_case(stringify!($case), case).await;
            }
        )*
    };
}
