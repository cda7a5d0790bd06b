//! From what the hub, the connection or the gateway itself said to what can be done about it.

use std::time::Duration;

use gateway_core::governor::Held;
use gateway_core::{CredentialError, ErrorKind, UpstreamError};

use super::convert::{MAX_TOPIC, MAX_UPLINK};
use crate::error::MqttError;

/// What can go wrong between a device and its hub.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error("the connection to the hub is down")]
    Down,
    #[error("the hub closed the device's connection without a reason, which MQTT has no room for")]
    Dropped,
    #[error("another client keeps taking the device's connection at the hub")]
    Displaced,
    #[error(transparent)]
    Held(#[from] Held),
    #[error("the hub cannot be reached; the next try is not due yet")]
    NotYet(Duration),
    #[error("the hub answered the twin request with {status}: {text}")]
    Twin { status: u16, text: String },
    #[error("{0} was not answered in time")]
    Unanswered(&'static str),
    #[error("the device's token has expired")]
    TokenExpired,
    #[error("the hub wants proof of the device, and its credential is none")]
    NoProof,
    #[error("the device's credential cannot be had now")]
    Credential(#[source] CredentialError),
    #[error("{0} is not known here")]
    Unknown(&'static str),
    #[error("too many twin requests of the device wait")]
    Crowded,
    #[error("the message has {0} bytes; the hub takes {max}", max = MAX_UPLINK)]
    TooLarge(usize),
    #[error("the properties take {0} bytes in the topic; MQTT has room for {max}", max = MAX_TOPIC)]
    LongTopic(usize),
    #[error("the hub keeps property names such as {0:?} for itself")]
    Reserved(String),
    #[error("the device is not attached")]
    NotAttached,
    #[error("the upstream is closed")]
    Closed,
}

impl HubError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Mqtt(error) => error.kind(),
            Self::Down | Self::Dropped | Self::NotYet(_) => ErrorKind::Disconnected,
            Self::Displaced => ErrorKind::Displaced,
            Self::Held(held) => held.kind,
            Self::Twin { status, .. } => kind_of_status(*status),
            Self::Unanswered(_) => ErrorKind::TimedOut,
            Self::TokenExpired | Self::NoProof => ErrorKind::Unauthorized,
            Self::Credential(error) => error.kind(),
            Self::Unknown(_) => ErrorKind::Unsupported,
            Self::Crowded => ErrorKind::Throttled,
            Self::TooLarge(_) | Self::LongTopic(_) => ErrorKind::TooLarge,
            Self::Reserved(_) => ErrorKind::Rejected,
            Self::NotAttached => ErrorKind::UnknownDevice,
            Self::Closed => ErrorKind::Closed,
        }
    }

    /// Tells whether another connection may mend it.
    pub(crate) fn is_passing(&self) -> bool {
        self.kind().is_retryable()
    }

    /// Tells whether the hub could not be reached at all, which is nobody's fault. One that does not
    /// answer a CONNECT, or closes the connection instead, may mean the device.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Mqtt(MqttError::Connect(_)))
    }

    /// Tells whether the hub asks this gateway, not this device alone, to go slower: "server
    /// unavailable" (MQTT 3.1.1, section 3.2.2.3).
    pub(crate) fn is_throttle(&self) -> bool {
        match self {
            Self::Mqtt(MqttError::Refused { code, .. }) => *code == 3,
            Self::Twin { status, .. } => *status == 429,
            _ => false,
        }
    }

    /// Tells whether the hub meant this device.
    pub(crate) fn blames_device(&self) -> bool {
        match self {
            Self::Mqtt(MqttError::Refused { .. }) => !self.is_throttle(),
            Self::Mqtt(MqttError::Left | MqttError::Unanswered(_) | MqttError::Protocol(_))
            | Self::Dropped => true,
            _ => false,
        }
    }

    pub(crate) fn into_upstream(self, operation: &'static str) -> UpstreamError {
        let error = UpstreamError::new(self.kind(), operation);
        match self {
            Self::NotYet(wait) | Self::Held(Held { wait, .. }) => {
                error.with_retry_after(wait).with_source(self)
            }
            _ => error.with_source(self),
        }
    }
}

/// Sorts the statuses of twin requests.
fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Unauthorized,
        404 => ErrorKind::UnknownDevice,
        408 => ErrorKind::TimedOut,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Rejected,
        _ => ErrorKind::Disconnected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn each_status_of_the_twin_has_its_kind() {
        for (status, kind) in [
            (400, ErrorKind::Rejected),
            (401, ErrorKind::Unauthorized),
            (404, ErrorKind::UnknownDevice),
            (413, ErrorKind::TooLarge),
            (429, ErrorKind::Throttled),
            (503, ErrorKind::Disconnected),
        ] {
            assert_eq!(kind_of_status(status), kind, "{status}");
        }
    }

    #[test]
    fn a_lost_connection_and_a_busy_hub_are_not_the_devices_fault() {
        let refused = |code| {
            HubError::from(MqttError::Refused {
                code,
                text: String::new(),
            })
        };
        assert!(refused(5).blames_device() && !refused(5).is_throttle());
        assert!(refused(3).is_throttle() && !refused(3).blames_device());
        assert!(HubError::Dropped.blames_device() && HubError::Dropped.is_passing());
        assert!(!HubError::Down.blames_device());
        let silent = HubError::from(MqttError::Unanswered("CONNECT"));
        for error in [HubError::from(MqttError::Left), silent, refused(5)] {
            assert!(error.blames_device() && !error.is_unreachable(), "{error}");
        }
    }

    #[test]
    fn what_fails_before_the_hub_knows_who_comes_is_nobodys_fault() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            // In the middle of TLS's handshake.
            io::ErrorKind::UnexpectedEof,
        ] {
            let error = HubError::from(MqttError::Connect(kind.into()));
            assert!(error.is_unreachable() && !error.blames_device(), "{kind}");
        }
    }

    #[test]
    fn who_is_to_come_back_later_is_told_when() {
        let wait = Duration::from_secs(3);
        let error = HubError::from(Held::new(wait, ErrorKind::Unauthorized));
        let error = error.into_upstream("attach");
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert_eq!(error.retry_after(), Some(wait));
    }
}
