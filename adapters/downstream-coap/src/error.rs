//! What can go wrong at the start, and what goes to the core later.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use gateway_core::{ConfigError, DownstreamError, ErrorKind};

use crate::dtls::PskFileError;

/// Tells why a downstream could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}; is it taken, or not this machine's?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The file of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] PskFileError),
    /// The file of tokens cannot be used.
    #[error("cannot use {path:?} as tokens by device")]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; it does not repeat tokens.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no random source, without which tokens could be guessed.
    #[error("cannot read the system's random source")]
    Random(#[source] getrandom::Error),
}

/// Makes the error of a command that was not delivered.
pub(crate) fn undelivered(kind: ErrorKind) -> DownstreamError {
    DownstreamError::new(kind, "deliver")
}
