//! What can go wrong at the start.

use gateway_core::ConfigError;

use super::store::StoreError;

/// Tells why a server could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The stored sessions cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address or a file cannot be used.
    #[error(transparent)]
    Net(#[from] gateway_net::BindError),
}
