//! The seam to the devices.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::error::DownstreamError;
use crate::ingress::Ingress;
use crate::message::{Delivered, Downlink};

/// Is what a downstream is given to work with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeContext {
    /// The door inward: the only way for a device's message to the hub.
    pub ingress: Ingress,
    /// Fires when the gateway shuts down: stop reading, finish what is in flight, return.
    pub shutdown: CancellationToken,
}

impl ServeContext {
    /// Makes a context.
    #[must_use]
    pub fn new(ingress: Ingress, shutdown: CancellationToken) -> Self {
        Self { ingress, shutdown }
    }
}

/// Speaks with devices in their own protocol.
#[async_trait]
pub trait Downstream: fmt::Debug + Send + Sync + 'static {
    /// Serves devices until the context's shutdown fires, then lets what is in flight settle and
    /// returns. No device's conduct may end it.
    ///
    /// # Errors
    /// It cannot serve, for instance because its address is taken.
    ///
    /// # Cancel safety
    /// Safe: dropping it closes the devices' connections; nothing unsettled was acknowledged.
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError>;

    /// Brings something to a device and says how far it came, before the downlink's deadline.
    ///
    /// A device's answer to a method that comes after the deadline goes to nobody; tell
    /// [`Ingress::note_late_answer`] of it.
    ///
    /// # Errors
    /// `UnknownDevice`, at once, if the device is not connected; `Rejected`, `TooLarge` or
    /// `Unsupported` if it can never be delivered; `Throttled` if the device has too much to do;
    /// `TimedOut` or `Disconnected` if it did not confirm.
    ///
    /// # Cancel safety
    /// Safe: the device may or may not have it.
    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Downstream + ?Sized> Downstream for Arc<T> {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        (**self).serve(context).await
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        (**self).send(downlink).await
    }
}
