//! What the downstream asks of the server.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::embed::NetworkServer;
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// A downlink that the server is to take, and who waits for its word.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) downlink: Downlink,
    pub(super) taken: oneshot::Sender<Result<(), FailureReason>>,
}

/// The server, as the downstream sees it.
#[derive(Debug)]
pub(super) struct Orders(pub(super) mpsc::Sender<Order>);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl NetworkServer for Orders {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        let (taken, word) = oneshot::channel();
        let order = Order { downlink, taken };
        self.0.send(order).await.map_err(|_| FailureReason::Busy)?;
        word.await.unwrap_or(Err(FailureReason::Busy))
    }

    async fn withdraw(&self, _: DevEui, _: &DownlinkId) {
        // At the latest in its window it is with a concentrator, where nobody gets it back from.
    }
}
