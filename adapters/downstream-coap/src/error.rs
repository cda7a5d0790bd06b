//! What goes to the core when a command was not delivered.

use gateway_core::{DownstreamError, ErrorKind};

/// Makes the error of a command that was not delivered.
pub(crate) fn undelivered(kind: ErrorKind) -> DownstreamError {
    DownstreamError::new(kind, "deliver")
}
