//! From what the wire said to what can be done about it.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::{ErrorKind, UpstreamError};

use crate::client::reason;

/// What can go wrong inside the adapter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MqttError {
    #[error("cannot connect to the broker")]
    Connect(#[source] io::Error),
    #[error("the broker refused the connection with {}{}", reason::describe(*code), said(text))]
    Refused { code: u8, text: String },
    #[error("the broker ended the connection with {}{}", reason::describe(*code), said(text))]
    Ended { code: u8, text: String },
    #[error("the connection to the broker is down")]
    Down,
    /// In order, as far as TCP is concerned: what a broker of version 3.1.1 does that has nothing
    /// else to say.
    #[error("the broker closed the connection without a word")]
    Left,
    #[error("the upstream is closed")]
    Closed,
    #[error("the broker did not answer {0} in time")]
    Unanswered(&'static str),
    #[error("the broker refused the message with {}", reason::describe(*code))]
    PublishRefused { code: u8 },
    #[error("the broker does not give {filter:?} at least once: {}", reason::describe(*code))]
    SubscribeRefused { filter: String, code: u8 },
    #[error("the packet has {size} bytes; the broker takes {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("the topic or text is none that MQTT can carry: {0}")]
    Unspeakable(&'static str),
    #[error("the broker cannot do this: {0}")]
    Unsupported(&'static str),
    #[error("the broker does not speak MQTT as it should: {0}")]
    Protocol(Cow<'static, str>),
    #[error("messages were let go without acknowledgement; another connection brings them again")]
    Forgotten,
    #[error("too many messages wait for the broker")]
    Crowded,
    #[error("the broker cannot be reached; the next try is not due yet")]
    NotYet(Duration),
    #[error("the device is not attached")]
    NotAttached,
    #[error(
        "no broker judges the token that the device presents: let the gateway judge its devices, \
         and take no tokens of them"
    )]
    Unjudged,
    #[error("{0}")]
    Invalid(String),
    #[error("{what} was answered with status {status}")]
    Answered { what: &'static str, status: u16 },
    /// Why the connection that all share is not there.
    #[error(transparent)]
    Shared(Arc<Self>),
}

/// What a broker adds in words; they are its own, so nothing in them is taken literally.
fn said(text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!(": {text:?}"),
    }
}

impl MqttError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect(_)
            | Self::Down
            | Self::Left
            | Self::NotYet(_)
            | Self::Protocol(_)
            | Self::Forgotten => ErrorKind::Disconnected,
            Self::Refused { code, .. } | Self::Ended { code, .. } => kind_of_connection(*code),
            Self::PublishRefused { code } => kind_of_message(*code),
            Self::SubscribeRefused { code, .. } => kind_of_subscription(*code),
            Self::Unanswered(_) => ErrorKind::TimedOut,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Unspeakable(_) | Self::Invalid(_) => ErrorKind::Rejected,
            Self::Answered { status, .. } => kind_of_status(*status),
            Self::Shared(error) => match error.kind() {
                // Ours is the connection, not the device, that another took over.
                ErrorKind::Displaced => ErrorKind::Disconnected,
                kind => kind,
            },
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Crowded => ErrorKind::Throttled,
            Self::Closed => ErrorKind::Closed,
            Self::NotAttached => ErrorKind::UnknownDevice,
            Self::Unjudged => ErrorKind::Unauthorized,
        }
    }

    /// Tells whether a new connection may mend it.
    pub(crate) fn is_passing(&self) -> bool {
        self.kind().is_retryable()
    }

    pub(crate) fn into_upstream(self, operation: &'static str) -> UpstreamError {
        let error = UpstreamError::new(self.kind(), operation);
        match self {
            Self::NotYet(wait) => error.with_retry_after(wait).with_source(self),
            _ => error.with_source(self),
        }
    }
}

/// Sorts why a connection was refused or ended: codes of MQTT 3.1.1 (section 3.2.2.3) below 0x80,
/// of MQTT 5 (section 2.4) above.
fn kind_of_connection(code: u8) -> ErrorKind {
    match code {
        // User name or password, authorisation; the same in 5; banned; authentication method.
        4 | 5 | 0x86 | 0x87 | 0x8a | 0x8c => ErrorKind::Unauthorized,
        // Version; retain, quality of service, subscriptions that are not offered.
        1 | 0x84 | 0x9a | 0x9b | 0x9e | 0xa1 | 0xa2 => ErrorKind::Unsupported,
        // The client identifier; the will's topic or payload.
        2 | 0x85 | 0x8f | 0x90 | 0x99 => ErrorKind::Rejected,
        // Busy, too high a rate, quota.
        0x89 | 0x96 | 0x97 | 0x9f => ErrorKind::Throttled,
        // Somebody else connected with our client identifier.
        0x8e => ErrorKind::Displaced,
        0x95 => ErrorKind::TooLarge,
        _ => ErrorKind::Disconnected,
    }
}

/// Sorts why a message was refused (MQTT 5, section 3.4.2.1).
fn kind_of_message(code: u8) -> ErrorKind {
    match code {
        0x87 => ErrorKind::Unauthorized,
        0x97 => ErrorKind::Throttled,
        // The identifier is in use: a fault of the moment.
        0x91 => ErrorKind::Disconnected,
        _ => ErrorKind::Rejected,
    }
}

/// Sorts why a subscription was refused, or granted at most once (code 0).
fn kind_of_subscription(code: u8) -> ErrorKind {
    match code {
        0x87 => ErrorKind::Unauthorized,
        0x97 => ErrorKind::Throttled,
        0x91 => ErrorKind::Disconnected,
        0 | 0x9e | 0xa1 | 0xa2 => ErrorKind::Unsupported,
        _ => ErrorKind::Rejected,
    }
}

/// Sorts the statuses of requests that are answered in the manner of HTTP.
fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Unauthorized,
        404 => ErrorKind::UnknownDevice,
        408 | 504 => ErrorKind::TimedOut,
        413 => ErrorKind::TooLarge,
        429 => ErrorKind::Throttled,
        501 => ErrorKind::Unsupported,
        400..=499 => ErrorKind::Rejected,
        _ => ErrorKind::Disconnected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_to_refuse_or_end_a_connection_has_its_kind() {
        for (code, kind) in [
            (1, ErrorKind::Unsupported),
            (2, ErrorKind::Rejected),
            (3, ErrorKind::Disconnected),
            (4, ErrorKind::Unauthorized),
            (5, ErrorKind::Unauthorized),
            (0x00, ErrorKind::Disconnected),
            (0x80, ErrorKind::Disconnected),
            (0x84, ErrorKind::Unsupported),
            (0x85, ErrorKind::Rejected),
            (0x86, ErrorKind::Unauthorized),
            (0x87, ErrorKind::Unauthorized),
            (0x88, ErrorKind::Disconnected),
            (0x89, ErrorKind::Throttled),
            (0x8b, ErrorKind::Disconnected),
            (0x8d, ErrorKind::Disconnected),
            (0x8e, ErrorKind::Displaced),
            (0x95, ErrorKind::TooLarge),
            (0x97, ErrorKind::Throttled),
            (0x9d, ErrorKind::Disconnected),
            (0x9f, ErrorKind::Throttled),
        ] {
            let text = String::new();
            assert_eq!(
                MqttError::Refused { code, text }.kind(),
                kind,
                "{code:#04x}"
            );
            let text = String::new();
            assert_eq!(MqttError::Ended { code, text }.kind(), kind, "{code:#04x}");
        }
    }

    #[test]
    fn each_refusal_of_a_message_or_subscription_has_its_kind() {
        for (code, kind) in [
            (0x80, ErrorKind::Rejected),
            (0x83, ErrorKind::Rejected),
            (0x87, ErrorKind::Unauthorized),
            (0x90, ErrorKind::Rejected),
            (0x91, ErrorKind::Disconnected),
            (0x97, ErrorKind::Throttled),
            (0x99, ErrorKind::Rejected),
        ] {
            assert_eq!(
                MqttError::PublishRefused { code }.kind(),
                kind,
                "{code:#04x}"
            );
        }
        for (code, kind) in [
            (0x00, ErrorKind::Unsupported),
            (0x80, ErrorKind::Rejected),
            (0x87, ErrorKind::Unauthorized),
            (0x8f, ErrorKind::Rejected),
            (0x97, ErrorKind::Throttled),
            (0x9e, ErrorKind::Unsupported),
        ] {
            let filter = "a/#".to_owned();
            assert_eq!(
                MqttError::SubscribeRefused { filter, code }.kind(),
                kind,
                "{code:#04x}"
            );
        }
    }

    #[test]
    fn each_status_of_an_answer_has_its_kind() {
        for (status, kind) in [
            (400, ErrorKind::Rejected),
            (401, ErrorKind::Unauthorized),
            (404, ErrorKind::UnknownDevice),
            (413, ErrorKind::TooLarge),
            (429, ErrorKind::Throttled),
            (500, ErrorKind::Disconnected),
            (501, ErrorKind::Unsupported),
            (504, ErrorKind::TimedOut),
        ] {
            let what = "a twin request";
            assert_eq!(
                MqttError::Answered { what, status }.kind(),
                kind,
                "{status}"
            );
        }
        let shared = |code| {
            let text = String::new();
            MqttError::Shared(Arc::new(MqttError::Ended { code, text })).kind()
        };
        assert_eq!(shared(0x86), ErrorKind::Unauthorized);
        assert_eq!(shared(0x8e), ErrorKind::Disconnected);
    }

    #[test]
    fn what_befalls_a_connection_may_pass_and_what_is_wrong_with_a_message_does_not() {
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        for error in [
            MqttError::Connect(broken()),
            MqttError::Down,
            MqttError::Left,
            MqttError::NotYet(Duration::from_secs(1)),
            MqttError::Protocol("garbage".into()),
            MqttError::Unanswered("a message"),
            MqttError::Crowded,
        ] {
            assert!(error.is_passing(), "{error}");
        }
        for error in [
            MqttError::Closed,
            MqttError::TooLarge { size: 2, limit: 1 },
            MqttError::Unspeakable("a wildcard"),
            MqttError::Unsupported("retained messages"),
            MqttError::NotAttached,
        ] {
            assert!(!error.is_passing(), "{error}");
        }
    }

    #[test]
    fn a_brokers_words_cannot_break_out_of_a_line() {
        let text = "no\nentry".to_owned();
        let error = MqttError::Refused { code: 0x87, text };
        let told = error.to_string();
        assert!(
            told.contains("not authorized (0x87)") && !told.contains('\n'),
            "{told}"
        );
    }
}
