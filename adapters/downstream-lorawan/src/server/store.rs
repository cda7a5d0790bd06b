//! Sessions and counters that survive a restart.

mod embedded;
mod row;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use embedded::EmbeddedStore;

use crate::event::DevEui;
use crate::proto::store::{DeviceRecord, SessionRecord};

/// Keeps what a network server must not forget: sessions, counters, and nonces that were used.
///
/// It holds session keys, so it is a secret.
#[async_trait]
pub trait SessionStore: fmt::Debug + Send + Sync + 'static {
    /// Reads all that was stored, once at the start.
    ///
    /// # Errors
    /// It cannot be read; the server does not start then.
    async fn load(&self) -> Result<Vec<DeviceRecord>, StoreError>;

    /// Writes changes, all or none. When it returns they survive a loss of power: only then are
    /// frames answered and delivered. All that happens during one call is in the next.
    ///
    /// # Errors
    /// They are not stored; what they allowed is not done then.
    async fn save(&self, changes: Vec<Change>) -> Result<(), StoreError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: SessionStore + ?Sized> SessionStore for Arc<T> {
    async fn load(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        (**self).load().await
    }

    async fn save(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        (**self).save(changes).await
    }
}

/// Is what has changed of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Everything: it joins, or uses what it has joined.
    Device(DeviceRecord),
    /// Its session in use alone, as with every frame. It goes in place of
    /// [`DeviceRecord::session`].
    Session {
        /// The device.
        dev_eui: DevEui,
        /// The session.
        session: SessionRecord,
    },
}

/// Tells why a store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be used.
    #[error("cannot use the store; is its disk full, or another server using it?")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored of a device cannot be understood.
    #[error("what is stored of {dev_eui} cannot be read; was it written by a newer version?")]
    Content {
        /// The device.
        dev_eui: DevEui,
        /// What is wrong. It does not repeat the content.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Makes an error of what a database says.
    #[must_use]
    pub fn database(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Database(source.into())
    }
}
