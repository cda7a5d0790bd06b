//! What the links are for: each endpoint turns messages into what the hub does, and back.

pub(crate) mod c2d;
pub(crate) mod cbs;
pub(crate) mod feedback;
pub(crate) mod methods;
pub(crate) mod provisioning;
pub(crate) mod service;
pub(crate) mod telemetry;
pub(crate) mod twin;

use super::codec::DecodeError;
use super::codec::encode::Outcome;
use super::{AmqpError, condition};

/// A message that cannot be read is rejected; its link stays.
pub(super) fn unreadable(error: DecodeError) -> AmqpError {
    AmqpError::new(
        condition::DECODE,
        format!("The message cannot be read: {error}."),
    )
}

impl From<Result<(), AmqpError>> for Outcome {
    fn from(result: Result<(), AmqpError>) -> Self {
        result.map_or_else(Self::Rejected, |()| Self::Accepted)
    }
}
