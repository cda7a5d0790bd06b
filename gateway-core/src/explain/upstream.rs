//! What an upstream knows of one device.

use std::time::Duration;

use crate::error::ErrorKind;

/// Is what an upstream knows of a device: where it is, and what stands in its way. A snapshot.
///
/// A field is none where the upstream cannot say, or where there is no such thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpstreamExplanation {
    /// The connection that the device is on, by the upstream's own count.
    pub connection: Option<u64>,
    /// The lane that it is on.
    pub lane: Option<LaneExplanation>,
    /// Its links that are open now.
    pub links: Vec<LinkExplanation>,
    /// The token that the hub has for it.
    pub token: Option<TokenExplanation>,
    /// Its messages without a verdict yet.
    pub in_flight: Option<usize>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// Whether the hub is asked for it.
    pub breaker: Option<BreakerState>,
    /// What of the hub's allowance it waits for.
    pub waits_for: Option<BudgetWait>,
}

/// Names a lane: one session on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneExplanation {
    /// Its number, by the upstream's own count.
    pub number: u64,
    /// Whether it is for devices that misbehaved, instead of shared by all.
    pub is_own: bool,
}

impl LaneExplanation {
    /// Names a lane.
    #[must_use]
    pub const fn new(number: u64, is_own: bool) -> Self {
        Self { number, is_own }
    }
}

/// Says what a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkPurpose {
    /// Uplinks.
    Telemetry,
    /// Cloud-to-device messages.
    Messages,
    /// Direct methods, both ways.
    Methods,
    /// The twin, both ways.
    Twin,
}

impl LinkPurpose {
    /// The purpose in one lower-case word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Messages => "messages",
            Self::Methods => "methods",
            Self::Twin => "twin",
        }
    }
}

/// Is a link that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkExplanation {
    /// What it is for.
    pub purpose: LinkPurpose,
    /// Messages that may be sent on it now: by us on a telemetry link, else by the hub.
    pub credit: Option<u32>,
}

impl LinkExplanation {
    /// Describes a link.
    #[must_use]
    pub const fn new(purpose: LinkPurpose, credit: Option<u32>) -> Self {
        Self { purpose, credit }
    }
}

/// Is how a device's token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenExplanation {
    /// Time since the hub took it.
    pub age: Duration,
    /// Time until it is due to be renewed; none if it will not be.
    pub renewal_in: Option<Duration>,
}

impl TokenExplanation {
    /// Describes a token.
    #[must_use]
    pub const fn new(age: Duration, renewal_in: Option<Duration>) -> Self {
        Self { age, renewal_in }
    }
}

/// Is what went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastError {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// What was said about it. Without secrets.
    pub text: String,
    /// Time since then.
    pub ago: Duration,
}

impl LastError {
    /// Describes a failure.
    #[must_use]
    pub fn new(kind: ErrorKind, text: impl Into<String>, ago: Duration) -> Self {
        let text = text.into();
        Self { kind, text, ago }
    }
}

/// Says whether the hub is asked for a device that it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// It is asked.
    Closed,
    /// It is not asked for this time; the device is answered in its place.
    Open(Duration),
    /// One trial is on its way and decides.
    Trying,
}

/// Is a place in the queue for the hub's allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetWait {
    /// What the device waits to do, in one lower-case word, such as `"token"`.
    pub operation: &'static str,
    /// Its place among those that wait for the same, from 1.
    pub position: Option<usize>,
    /// How many devices wait for the same.
    pub waiting: usize,
}

impl BudgetWait {
    /// Describes a place in the queue.
    #[must_use]
    pub const fn new(operation: &'static str, position: Option<usize>, waiting: usize) -> Self {
        Self {
            operation,
            position,
            waiting,
        }
    }
}
