//! How a device stands, for whoever asks why.

mod line;
mod upstream;

use std::time::Duration;

use crate::credential::Credential;
use crate::error::ErrorKind;
use crate::id::DeviceId;
use crate::upstream::Interest;
pub use upstream::{
    BreakerState, BudgetWait, LaneExplanation, LastError, LinkExplanation, LinkPurpose,
    TokenExplanation, UpstreamExplanation,
};

/// Is how a device stands, a snapshot. Its [`Display`](std::fmt::Display) is one readable line:
///
/// ```text
/// sensor-7: attached by lorawan on connection 3 lane 12 (shared), telemetry credit 1000, token
/// renewed 12 min ago, due in 33 min, 2 in flight, breaker closed, no error
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The device.
    pub device: DeviceId,
    /// What the session table knows; none if the device is not in it.
    pub session: Option<SessionExplanation>,
    /// What the upstream knows; none if it does not know the device.
    pub upstream: Option<UpstreamExplanation>,
}

impl Explanation {
    /// Puts together what is known of a device.
    #[must_use]
    pub const fn new(
        device: DeviceId,
        session: Option<SessionExplanation>,
        upstream: Option<UpstreamExplanation>,
    ) -> Self {
        Self {
            device,
            session,
            upstream,
        }
    }
}

/// Is what the session table knows of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionExplanation {
    /// Whether the hub knows the device, as far as anybody has said.
    pub is_attached: bool,
    /// What the device wants to hear.
    pub interest: Interest,
    /// What it is attached with.
    pub credential: Option<CredentialKind>,
    /// The downstream that last saw it.
    pub downstream: Option<String>,
    /// Whether a listening device has announced itself and not left.
    pub is_online: bool,
    /// Its messages that wait or are in flight, and other calls on its behalf.
    pub queued: u32,
    /// Time since it last sent, came or left.
    pub idle: Duration,
    /// The hub's refusal that still stands.
    pub refusal: Option<RefusalExplanation>,
    /// Why the last message that was not accepted was not.
    pub last_error: Option<LastError>,
}

/// Is a refusal of the hub that is believed for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusalExplanation {
    /// What kind of refusal it was.
    pub kind: ErrorKind,
    /// How long the hub is not asked again.
    pub left: Duration,
}

/// Says what a [`Credential`] is without its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CredentialKind {
    /// A policy of the hub.
    Policy,
    /// The device's own key.
    DeviceKey,
    /// A token that the device presented.
    SasToken,
    /// The gateway's word.
    Vouched,
}

impl CredentialKind {
    /// The kind in lower-case words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "hub policy",
            Self::DeviceKey => "device key",
            Self::SasToken => "device's own token",
            Self::Vouched => "gateway's word",
        }
    }
}

impl From<&Credential> for CredentialKind {
    fn from(credential: &Credential) -> Self {
        match credential {
            Credential::Policy(_) => Self::Policy,
            Credential::DeviceKey(_) => Self::DeviceKey,
            Credential::SasToken(_) => Self::SasToken,
            Credential::Vouched => Self::Vouched,
        }
    }
}
