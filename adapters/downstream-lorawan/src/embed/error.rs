//! What an undelivered command is to the core.

use gateway_core::{DownstreamError, ErrorKind};

use crate::event::{FailureReason, TransmitError};
use crate::schedule::Failure;

/// Makes an error of a kind, with its cause.
pub(super) fn refused(
    kind: ErrorKind,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DownstreamError {
    DownstreamError::new(kind, "send").with_source(source)
}

/// Makes an error of a command's failure.
pub(super) fn undelivered(failure: Failure) -> DownstreamError {
    refused(kind(failure), failure)
}

/// Decides what the hub makes of it: `Rejected` and `TooLarge` are for good, the others are tried
/// again.
fn kind(failure: Failure) -> ErrorKind {
    match failure {
        Failure::BadPort(_) | Failure::NeverConfirmed | Failure::Replaced => ErrorKind::Rejected,
        Failure::TooLong => ErrorKind::TooLarge,
        Failure::QueueFull => ErrorKind::Throttled,
        Failure::Flushed => ErrorKind::Disconnected,
        Failure::Expired | Failure::Untold | Failure::NotAcknowledged => ErrorKind::TimedOut,
        Failure::NotTransmitted(error) => match error {
            TransmitError::QueueFull | TransmitError::DutyCycle => ErrorKind::Throttled,
            _ => ErrorKind::Other,
        },
        Failure::Network(reason) => match reason {
            FailureReason::TooLong => ErrorKind::TooLarge,
            FailureReason::BadPort | FailureReason::Refused => ErrorKind::Rejected,
            FailureReason::UnknownDevice => ErrorKind::UnknownDevice,
            FailureReason::Expired => ErrorKind::TimedOut,
            FailureReason::NoGateway => ErrorKind::Disconnected,
            FailureReason::Busy => ErrorKind::Throttled,
            FailureReason::Other => ErrorKind::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_be_sent_is_refused_for_good() {
        let is_lasting =
            |failure| matches!(kind(failure), ErrorKind::Rejected | ErrorKind::TooLarge);
        for failure in [
            Failure::BadPort(0),
            Failure::TooLong,
            Failure::NeverConfirmed,
            Failure::Replaced,
            Failure::Network(FailureReason::TooLong),
            Failure::Network(FailureReason::BadPort),
            Failure::Network(FailureReason::Refused),
        ] {
            assert!(is_lasting(failure), "{failure:?}");
        }
        for failure in [
            Failure::QueueFull,
            Failure::Flushed,
            Failure::Expired,
            Failure::Untold,
            Failure::NotAcknowledged,
            Failure::NotTransmitted(TransmitError::TooLate),
            Failure::NotTransmitted(TransmitError::DutyCycle),
            Failure::Network(FailureReason::UnknownDevice),
            Failure::Network(FailureReason::Expired),
            Failure::Network(FailureReason::NoGateway),
            Failure::Network(FailureReason::Busy),
            Failure::Network(FailureReason::Other),
        ] {
            assert!(!is_lasting(failure), "{failure:?}");
        }
    }
}
