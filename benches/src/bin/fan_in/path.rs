//! The ways that messages take.

use anyhow::Result;
use benches::embedded::{Embedded, send, send_one};
use benches::raw::Raw;
use gateway_core::DeviceId;

/// The way that a message takes to the hub.
#[derive(Debug)]
pub(crate) enum Path {
    /// The AMQP client alone.
    Bare(Raw),
    /// The embedded gateway, with the devices' ids.
    Gateway(Embedded, Vec<DeviceId>),
}

impl Path {
    /// Sends so many messages of each device, one after the other.
    pub(crate) async fn send_all(&self, devices: usize, messages: usize) -> Result<()> {
        match self {
            Self::Bare(raw) => raw.send(messages, "trial").await.map(drop),
            Self::Gateway(Embedded { ingress, .. }, _) => {
                let sent = send(ingress, 0..devices, devices, messages, "trial").await;
                sent.map(drop)
            }
        }
    }

    /// Sends a message of a device and says whether the hub has accepted it.
    pub(crate) async fn send(&self, device: usize, number: u64) -> Result<bool> {
        match self {
            Self::Bare(raw) => raw.send_one(device, number.to_string()).await,
            Self::Gateway(embedded, devices) => {
                send_one(&embedded.ingress, &devices[device], number).await
            }
        }
    }
}
