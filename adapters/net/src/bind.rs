//! What can go wrong before anything is served.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use gateway_core::ConfigError;

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
    /// A file cannot be used.
    #[error("cannot use {path:?} as {purpose}")]
    File {
        /// The file.
        path: PathBuf,
        /// What it was to be used as.
        purpose: &'static str,
        /// What is wrong with it. It does not repeat the file's content.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The files of TLS do not go together.
    #[error("certificate, key and roots do not go together")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system has no random source, without which what is to be secret could be guessed.
    #[error("cannot read the system's random source")]
    Random(#[source] io::Error),
}

impl BindError {
    /// Says that a file cannot be used; what is wrong with it must not repeat its content.
    pub fn file(
        path: &Path,
        purpose: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::File {
            path: path.to_owned(),
            purpose,
            source: source.into(),
        }
    }
}
