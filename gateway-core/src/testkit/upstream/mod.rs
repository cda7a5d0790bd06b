//! The conformance suite of [`Upstream`]s.
//!
//! Implement [`UpstreamFixture`] over a hub that a test can script, and give
//! [`upstream_conformance!`](crate::upstream_conformance) a function that makes one.

mod attaching;
mod batches;
mod commands;
mod ending;
mod twins;
mod uplinks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::sleep;

use super::{BoxFuture, Outcome, RecordingCallback, WATCH, join_in_order, need};
use crate::error::{ErrorKind, UpstreamError};
use crate::id::{DeviceId, MessageId, MethodName};
use crate::message::{Disposition, MethodReply, Uplink};
use crate::upstream::{DeviceIdentity, Interest, Upstream};

pub use attaching::*;
pub use batches::*;
pub use commands::*;
pub use ending::*;
pub use twins::*;
pub use uplinks::*;

/// Says what an upstream and its hub can do, and so which cases apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamCapabilities {
    /// The hub can hold messages unsettled. Default true.
    pub can_hold: bool,
    /// The hub can accept a message and lose its settlement. Default true.
    pub can_lose_settlements: bool,
    /// The hub can refuse a single message. Default true.
    pub can_reject: bool,
    /// The hub takes a batch whole or not at all. Default true.
    pub batches: bool,
    /// The hub learns that a device refused a message. Default true.
    pub can_reject_messages: bool,
    /// The hub learns that a message could not be delivered now, and redelivers it. Default true.
    pub can_abandon_messages: bool,
    /// The hub can call methods. Default true.
    pub methods: bool,
    /// The hub keeps twins. Default true.
    pub twins: bool,
    /// The upstream itself tries again what failed in passing. Default false.
    pub retries: bool,
    /// The hub can count how often a device was attached. Default true.
    pub counts_attaches: bool,
    /// The hub knows devices, and refuses those that it does not. Default true.
    pub judges_devices: bool,
}

impl Default for UpstreamCapabilities {
    fn default() -> Self {
        Self {
            can_hold: true,
            can_lose_settlements: true,
            can_reject: true,
            batches: true,
            can_reject_messages: true,
            can_abandon_messages: true,
            methods: true,
            twins: true,
            retries: false,
            counts_attaches: true,
            judges_devices: true,
        }
    }
}

/// Says how the hub settled a message to a device in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageOutcome {
    /// The device has it.
    Completed {
        /// How often it was delivered.
        deliveries: u32,
    },
    /// It was dead-lettered as refused.
    Rejected,
}

/// Is an upstream connected to a hub of its own that a test can script.
///
/// Methods panic where the hub cannot be asked: a test cannot go on without it.
#[async_trait]
pub trait UpstreamFixture: fmt::Debug + Send + Sync + 'static {
    /// What applies.
    fn capabilities(&self) -> UpstreamCapabilities;

    /// The upstream under test.
    fn upstream(&self) -> Arc<dyn Upstream>;

    /// Makes a device known to the hub and gives its identity with a good credential.
    async fn device(&self, name: &str) -> DeviceIdentity;

    /// Gives the identity of a device whose credential the hub refuses, or that it does not know. A
    /// device of this name that it does know keeps its good one.
    async fn refused_device(&self, name: &str) -> DeviceIdentity;

    /// Makes a device known and gives its identity with a token that expires in this time, which
    /// is zero for one that has expired; none if the upstream takes no tokens.
    async fn device_with_token(&self, name: &str, expires_in: Duration) -> Option<DeviceIdentity>;

    /// What the hub accepted, in order.
    async fn accepted(&self) -> Vec<Uplink>;

    /// Holds messages from now on: the hub has them, and neither accepts nor refuses them.
    async fn hold(&self);

    /// Waits until the hub holds at least this many messages.
    async fn wait_held(&self, count: usize);

    /// Accepts what is held, in order, and holds no more.
    async fn release(&self);

    /// Accepts the next messages without ever saying so.
    async fn lose_settlements(&self, count: usize);

    /// Refuses the next message for good.
    async fn reject_next(&self);

    /// Cuts every connection of the upstream; new ones are taken at once.
    async fn cut(&self);

    /// Sends a message to a device until it is settled for good.
    async fn send_message(&self, device: &DeviceId, body: Bytes) -> MessageOutcome;

    /// Calls a method of a device; none if the hub says that the device does not listen.
    async fn call_method(
        &self,
        device: &DeviceId,
        name: MethodName,
        payload: Bytes,
    ) -> Option<MethodReply>;

    /// Changes a device's desired properties by a JSON object.
    async fn patch_desired(&self, device: &DeviceId, patch: &str);

    /// Waits until the hub sees that the device hears at least this.
    async fn wait_listening(&self, device: &DeviceId, interest: Interest);

    /// Waits until the hub sees that the device hears nothing.
    async fn wait_deaf(&self, device: &DeviceId);

    /// How often the hub saw the device come that was not there before.
    async fn attaches(&self, device: &DeviceId) -> u64;
}

/// Makes each case of the upstream suite a test.
///
/// Takes the path of an `async fn() -> impl UpstreamFixture`; or, with `, if there is one` after it,
/// of one that gives an `Option`: without a fixture, as where the hub is a program that is not
/// installed, the tests pass, and whoever makes the fixture says why. The crate that uses it needs
/// `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! upstream_conformance {
    ($fixture:path) => {
        $crate::upstream_conformance! { @cases always $fixture }
    };
    ($fixture:path, if there is one) => {
        $crate::upstream_conformance! { @cases if_there $fixture }
    };
    (@cases $how:ident $fixture:path) => {
        $crate::upstream_conformance! { @$how $fixture:
            ok_only_after_the_hub_accepted
            a_lost_settlement_is_never_ok
            a_rejected_message_is_rejected
            a_cut_in_flight_is_disconnected_and_the_device_sends_again
            nothing_is_lost_or_invented_over_reconnects
            many_devices_in_parallel_keep_their_order
            a_dropped_send_leaves_the_link_usable_and_in_order
            a_message_survives_whole
            a_too_large_message_is_told
            sending_without_attach_is_unknown_device
            a_batch_is_taken_whole_and_in_order
            a_batch_is_ok_only_after_the_hub_accepted_all
            a_refused_batch_is_refused_whole
            a_batch_cut_in_flight_is_disconnected
            a_too_large_batch_is_whole_or_told
            parallel_attaches_are_one
            a_refused_device_harms_nobody
            an_expired_credential_is_unauthorized
            a_session_ends_with_its_token
            a_dropped_attach_leaves_the_device_attachable
            a_dropped_attach_is_undone
            a_refused_credential_changes_nothing
            detached_is_unknown_and_detaching_twice_is_ok
            a_completed_message_is_completed_at_the_hub
            a_refused_message_is_rejected_at_the_hub
            an_abandoned_message_comes_again
            a_method_reply_reaches_the_hub
            parallel_methods_get_their_own_replies
            a_slow_callback_stalls_nobody
            a_slow_method_or_change_stalls_nobody
            interest_off_ends_commands
            the_newest_callback_hears_everything
            commands_come_again_after_a_cut
            a_twin_is_read_and_patched
            a_desired_patch_arrives
            an_abandoned_desired_change_comes_again_with_all
            desired_changes_come_again_after_a_cut
            close_drains_then_refuses
            close_ends_with_its_grace
            close_leaves_no_call_without_an_end
        }
    };
    (@always $fixture:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let fixture = $fixture().await;
                let case = $crate::testkit::upstream::$case(&fixture);
                let _ = $crate::testkit::run_case(stringify!($case), case).await;
            }
        )*
    };
    (@if_there $fixture:path: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                if let Some(fixture) = $fixture().await {
                    let case = $crate::testkit::upstream::$case(&fixture);
                    let _ = $crate::testkit::run_case(stringify!($case), case).await;
                }
            }
        )*
    };
}

/// Attaches a device that a case is to work with.
async fn attach(
    fixture: &dyn UpstreamFixture,
    name: &str,
    interest: Interest,
    callback: &RecordingCallback,
) -> DeviceId {
    let identity = fixture.device(name).await.with_interest(interest);
    let device = identity.device.clone();
    let attached = fixture.upstream().attach(identity, callback.shared()).await;
    attached.unwrap_or_else(|error| panic!("{name} cannot attach: {error}"));
    if interest != Interest::NONE {
        fixture.wait_listening(&device, interest).await;
    }
    device
}

/// All that a device can hear.
fn everything(fixture: &dyn UpstreamFixture) -> Interest {
    let capabilities = fixture.capabilities();
    Interest::NONE
        .with_messages(true)
        .with_methods(capabilities.methods)
        .with_desired(capabilities.twins)
}

/// Attaches a device that only speaks.
async fn attach_speaker(fixture: &dyn UpstreamFixture, name: &str) -> DeviceId {
    attach(fixture, name, Interest::NONE, &RecordingCallback::new()).await
}

/// Makes a short message with an id of the case's choice.
fn uplink(device: &DeviceId, id: impl AsRef<str>) -> Uplink {
    let id = id.as_ref();
    let message = MessageId::new(id).expect("a case's ids are valid");
    Uplink::new(device.clone(), message, id.to_owned())
}

/// Sends a message, again while it fails in passing.
async fn send_until_ok(upstream: &dyn Upstream, message: &Uplink) {
    loop {
        match upstream.send(message).await {
            Ok(()) => return,
            Err(error) => assert!(error.is_retryable(), "{}: {error}", message.id),
        }
        // A pace for an upstream that fails at once while it connects.
        sleep(Duration::from_millis(5)).await;
    }
}

/// The ids that the hub accepted of a device, in order.
async fn accepted_ids(fixture: &dyn UpstreamFixture, device: &DeviceId) -> Vec<String> {
    let accepted = fixture.accepted().await.into_iter();
    accepted
        .filter(|uplink| uplink.device == *device)
        .map(|uplink| uplink.id.to_string())
        .collect()
}

fn kind<T: fmt::Debug>(result: Result<T, UpstreamError>) -> ErrorKind {
    match result {
        Ok(value) => panic!("this must fail, and gave {value:?}"),
        Err(error) => error.kind(),
    }
}
