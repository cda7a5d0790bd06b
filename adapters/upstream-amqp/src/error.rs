//! From what the wire said to what can be done about it.

use std::io;

use gateway_core::governor::Held;
use gateway_core::{CredentialError, ErrorKind, UpstreamError};

use crate::client::{ClientError, OpenError};

/// What goes unanswered when the hub says nothing to an attach.
pub(crate) const LINK: &str = "a link";

/// What can go wrong inside the adapter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AmqpError {
    #[error("cannot connect to the hub")]
    Connect(#[source] io::Error),
    #[error("the hub did not open the connection, or a session on it")]
    Open(#[source] OpenError),
    #[error("{0} was not answered in time")]
    Unanswered(&'static str),
    #[error("the connection to the hub is down")]
    Down,
    #[error("the hub cannot be reached; the next try is not due yet")]
    NotYet(std::time::Duration),
    #[error("the hub said {condition}: {description}")]
    Refused {
        condition: String,
        description: String,
    },
    #[error("the hub answered the token with {status}: {description}")]
    Token { status: i32, description: String },
    #[error("the hub answered the twin request with {status}: {text}")]
    Twin { status: i32, text: String },
    #[error(transparent)]
    Held(#[from] Held),
    #[error("the device's token has expired")]
    TokenExpired,
    #[error("the hub wants proof of the device, and its credential is none")]
    NoProof,
    #[error("the device's credential cannot be had now")]
    Credential(#[source] CredentialError),
    #[error("too many requests of the device wait")]
    Crowded,
    #[error("the hub released the message without taking it")]
    Released,
    #[error("the message has {0} bytes; the hub takes {max}", max = crate::convert::MAX_UPLINK)]
    TooLarge(usize),
    #[error("the device is not attached")]
    NotAttached,
    #[error("the upstream is closed")]
    Closed,
    #[error("the hub detached the link without a reason")]
    Detached,
    #[error(transparent)]
    Client(ClientError),
    #[error("unexpected: {0}")]
    Unexpected(String),
}

impl AmqpError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect(_) | Self::Open(_) | Self::Down | Self::NotYet(_) => {
                ErrorKind::Disconnected
            }
            Self::Unanswered(_) => ErrorKind::TimedOut,
            Self::Refused { .. } if self.is_displaced() => ErrorKind::Displaced,
            Self::Refused { condition, .. } => kind_of_condition(condition),
            Self::Held(held) => held.kind,
            Self::Token {
                status: 404,
                description,
            } if names_hub(description) => ErrorKind::Disconnected,
            Self::Token { status, .. } | Self::Twin { status, .. } => kind_of_status(*status),
            Self::TokenExpired | Self::NoProof => ErrorKind::Unauthorized,
            Self::Credential(error) => error.kind(),
            Self::Released | Self::Crowded => ErrorKind::Throttled,
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::NotAttached => ErrorKind::UnknownDevice,
            Self::Closed => ErrorKind::Closed,
            Self::Detached | Self::Client(_) | Self::Unexpected(_) => ErrorKind::Disconnected,
        }
    }

    /// Tells whether a new link, session or connection may mend it.
    pub(crate) fn is_passing(&self) -> bool {
        self.kind().is_retryable()
    }

    /// Tells whether another client took the device over (facts of the hub: "newer receive link
    /// wins").
    pub(crate) fn is_displaced(&self) -> bool {
        match self {
            Self::Refused {
                condition,
                description,
            } => {
                condition == "amqp:link:stolen"
                    || condition == "com.microsoft:link-creation-conflict"
                    || description.contains("Another AMQP Client")
            }
            _ => false,
        }
    }

    /// Tells whether the hub asks this gateway, not this device alone, to go slower.
    pub(crate) fn is_throttle(&self) -> bool {
        match self {
            Self::Refused {
                condition,
                description,
            } => {
                condition == "com.microsoft:device-container-throttled"
                    || description.contains("Server Busy")
                    || description.contains("503008")
            }
            Self::Token { status, .. } | Self::Twin { status, .. } => *status == 429,
            _ => false,
        }
    }

    /// Tells whether the hub meant this device, neither all of them nor their connection.
    pub(crate) fn blames_device(&self) -> bool {
        match self {
            Self::Refused { .. } => !self.is_throttle() && !self.is_displaced(),
            Self::Token {
                status,
                description,
            } => {
                *status < 500 && !self.is_throttle() && !(*status == 404 && names_hub(description))
            }
            Self::Unanswered(what) => *what == LINK,
            Self::Detached => true,
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

/// Sorts the error conditions of AMQP 1.0 (section 2.8) and of Azure IoT Hub.
///
/// Source: Azure/azure-iot-sdk-csharp, `amqpTransportExceptions.md`, and Azure/iotedge,
/// `AmqpErrorMapper.cs`.
fn kind_of_condition(condition: &str) -> ErrorKind {
    match condition {
        "amqp:unauthorized-access" => ErrorKind::Unauthorized,
        "amqp:not-found" | "com.microsoft:device-not-found" => ErrorKind::UnknownDevice,
        "amqp:link:message-size-exceeded" => ErrorKind::TooLarge,
        "amqp:not-allowed" | "amqp:not-implemented" => ErrorKind::Unsupported,
        "com.microsoft:device-container-throttled" | "amqp:resource-limit-exceeded" => {
            ErrorKind::Throttled
        }
        "com.microsoft:timeout" => ErrorKind::TimedOut,
        "amqp:internal-error"
        | "amqp:resource-locked"
        | "com.microsoft:iot-hub-not-found-error" => ErrorKind::Disconnected,
        "amqp:invalid-field"
        | "amqp:decode-error"
        | "amqp:precondition-failed"
        | "amqp:resource-deleted"
        | "amqp:illegal-state"
        | "amqp:frame-size-too-small"
        | "com.microsoft:precondition-failed"
        | "com.microsoft:argument-error"
        | "com.microsoft:argument-out-of-range"
        | "com.microsoft:message-lock-lost" => ErrorKind::Rejected,
        other => {
            let is_transport = ["amqp:connection:", "amqp:session:", "amqp:link:"]
                .iter()
                .any(|prefix| other.starts_with(prefix));
            if is_transport {
                ErrorKind::Disconnected
            } else {
                ErrorKind::Other
            }
        }
    }
}

/// Tells "IotHub X not found.", which a hub says that has moved, from "Device X at IotHub Y not
/// registered.".
fn names_hub(description: &str) -> bool {
    description.contains("IotHub") && !description.contains("Device")
}

/// Sorts the statuses of `put-token` and of twin requests.
fn kind_of_status(status: i32) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Unauthorized,
        404 => ErrorKind::UnknownDevice,
        408 => ErrorKind::TimedOut,
        429 => ErrorKind::Throttled,
        400..=499 => ErrorKind::Rejected,
        _ => ErrorKind::Disconnected,
    }
}

impl From<ClientError> for AmqpError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Down => Self::Down,
            ClientError::Refused {
                condition,
                description,
            } => Self::Refused {
                condition,
                description,
            },
            ClientError::Detached => Self::Detached,
            ClientError::Full(_) | ClientError::Malformed(_) => Self::Client(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_of_the_hub_has_its_kind() {
        for (condition, kind) in [
            ("amqp:unauthorized-access", ErrorKind::Unauthorized),
            ("amqp:not-found", ErrorKind::UnknownDevice),
            ("amqp:link:message-size-exceeded", ErrorKind::TooLarge),
            ("amqp:link:detach-forced", ErrorKind::Disconnected),
            ("amqp:link:stolen", ErrorKind::Disconnected),
            ("amqp:connection:forced", ErrorKind::Disconnected),
            ("amqp:session:window-violation", ErrorKind::Disconnected),
            ("amqp:internal-error", ErrorKind::Disconnected),
            (
                "com.microsoft:device-container-throttled",
                ErrorKind::Throttled,
            ),
            ("amqp:resource-limit-exceeded", ErrorKind::Throttled),
            ("com.microsoft:timeout", ErrorKind::TimedOut),
            ("com.microsoft:argument-error", ErrorKind::Rejected),
            ("amqp:decode-error", ErrorKind::Rejected),
            ("amqp:not-allowed", ErrorKind::Unsupported),
            ("com.example:unheard-of", ErrorKind::Other),
        ] {
            assert_eq!(kind_of_condition(condition), kind, "{condition}");
        }
    }

    #[test]
    fn each_status_of_put_token_has_its_kind() {
        for (status, kind) in [
            (400, ErrorKind::Rejected),
            (401, ErrorKind::Unauthorized),
            (404, ErrorKind::UnknownDevice),
            (429, ErrorKind::Throttled),
            (500, ErrorKind::Disconnected),
        ] {
            assert_eq!(kind_of_status(status), kind, "{status}");
        }
    }

    #[test]
    fn a_hub_that_has_moved_is_told_from_a_device_that_is_not_registered() {
        let answer = |text: &str| AmqpError::Token {
            status: 404,
            description: text.to_owned(),
        };
        let moved = answer("IotHub contoso not found.");
        assert!(moved.is_passing() && !moved.blames_device());
        for text in ["Device d-1 at IotHub contoso not registered.", ""] {
            let unknown = answer(text);
            assert_eq!(unknown.kind(), ErrorKind::UnknownDevice, "{text}");
            assert!(unknown.blames_device());
        }
    }

    #[test]
    fn a_throttling_hub_is_told_from_a_faulty_one() {
        let refused = |condition: &str, description: &str| AmqpError::Refused {
            condition: condition.into(),
            description: description.into(),
        };
        assert!(refused("com.microsoft:device-container-throttled", "").is_throttle());
        let busy = "Server Busy. Please retry operation";
        assert!(refused("amqp:internal-error", busy).is_throttle());
        let opens = r#"{"errorCode":503008,"message":"ReceiveLinkOpensThrottled"}"#;
        assert!(refused("amqp:internal-error", opens).is_throttle());
        assert!(!refused("amqp:internal-error", "oops").is_throttle());
        assert!(!refused("amqp:resource-limit-exceeded", "quota").is_throttle());
    }

    #[test]
    fn a_lost_connection_and_a_throttling_hub_are_nobodys_fault() {
        let throttled = AmqpError::Token {
            status: 429,
            description: String::new(),
        };
        let full = ClientError::Full("no handle is left").into();
        let unanswered = AmqpError::Unanswered("a token");
        for error in [AmqpError::Down, throttled, unanswered, full] {
            assert!(error.is_passing(), "{error}");
            assert!(!error.blames_device(), "{error}");
        }
        assert!(AmqpError::Unanswered(LINK).blames_device());
    }

    #[test]
    fn a_displaced_link_is_told_from_a_faulty_hub() {
        let refused = |condition: &str, description: &str| AmqpError::Refused {
            condition: condition.into(),
            description: description.into(),
        };
        assert!(refused("amqp:link:stolen", "").is_displaced());
        let displaced = "Another AMQP Client has opened a Receive Link";
        assert!(refused("amqp:internal-error", displaced).is_displaced());
        let kind = refused("com.microsoft:link-creation-conflict", "").kind();
        assert_eq!(kind, ErrorKind::Displaced);
        assert!(!refused("amqp:internal-error", "oops").is_displaced());
    }
}
