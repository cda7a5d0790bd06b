//! The network server, as the downstream sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// Brings downlinks to devices.
#[async_trait]
pub trait NetworkServer: fmt::Debug + Send + Sync + 'static {
    /// Takes a downlink: to send it, or to queue it as the next for this device. What became of it
    /// is told later, through [`NetworkEvents`](super::NetworkEvents).
    ///
    /// One for a receive window is given within the call that handed in the uplink, or while its
    /// window is open; a network server with a queue of its own that looks into it after the uplink
    /// was handed in finds it there.
    ///
    /// # Errors
    /// Why it is not taken; nothing more is told of it then.
    ///
    /// # Cancel safety
    /// It is dropped after the [time-out](super::LorawanConfig::handover_timeout). Nobody knows then
    /// whether the downlink was taken: it is in flight until something is told of it, or until its
    /// time is up and it is [withdrawn](Self::withdraw).
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason>;

    /// Drops a downlink that nobody waits for any more, if it can still be stopped. The hub gives
    /// it out again, so that a device might get it twice.
    ///
    /// # Cancel safety
    /// It is dropped after the [time-out](super::LorawanConfig::handover_timeout); the downlink may
    /// be sent then.
    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId);
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: NetworkServer + ?Sized> NetworkServer for Arc<T> {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        (**self).send(downlink).await
    }

    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId) {
        (**self).withdraw(dev_eui, downlink).await;
    }
}

/// Is what a network server is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Take a downlink; see [`NetworkServer::send`]. One that cannot be taken is answered with a
    /// [`DownlinkFailed`](crate::event::DownlinkFailed).
    Send(Downlink),
    /// Drop a downlink; see [`NetworkServer::withdraw`].
    Withdraw {
        /// The device.
        dev_eui: DevEui,
        /// The downlink.
        downlink: DownlinkId,
    },
}

/// Gives a network server its orders, one after the other.
#[derive(Debug)]
pub struct OrderStream(mpsc::Receiver<Order>);

impl OrderStream {
    /// Waits for the next order; none when the downstream is gone.
    ///
    /// # Cancel safety
    /// Safe; no order is lost.
    pub async fn next(&mut self) -> Option<Order> {
        self.0.recv().await
    }
}

/// A network server that reads its orders from a stream.
#[derive(Debug)]
pub(super) struct Streamed(mpsc::Sender<Order>);

pub(super) fn stream(capacity: usize) -> (Streamed, OrderStream) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Streamed(sender), OrderStream(receiver))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl NetworkServer for Streamed {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        // Not waited for: its window would pass.
        let order = Order::Send(downlink);
        self.0.try_send(order).map_err(|_| FailureReason::Busy)
    }

    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId) {
        let downlink = downlink.clone();
        // A reader that is gone, or behind, will not send it in time either.
        drop(self.0.try_send(Order::Withdraw { dev_eui, downlink }));
    }
}
