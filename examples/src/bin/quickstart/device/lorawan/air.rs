//! The air between devices and concentrators.
//!
//! It carries every frame of everybody at once: nothing collides, nothing takes time, no duty cycle
//! is kept. Windows are where they are on air, to the microsecond of a concentrator's counter.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::concentrator::Concentrator;

/// Concentrators that hear a device.
const NEAR: usize = 3;
/// Devices for each concentrator, which so hears well fewer in a second than the gateway lets it.
const DEVICES_EACH: usize = 50;

/// The channel and data rate of all devices: EU868's first, at SF7.
pub(super) const FREQUENCY: f64 = 868.1;
pub(super) const DATA_RATE: &str = "SF7BW125";
/// The second window's (RP002-1.0.x, EU868).
const RX2: (f64, &str) = (869.525, "SF12BW125");

/// A frame on its way to a device.
#[derive(Debug)]
pub(super) struct Sent {
    /// When it is on air.
    pub(super) at: Instant,
    pub(super) is_second_window: bool,
    pub(super) txpk: Value,
    pub(super) frame: Vec<u8>,
}

impl Sent {
    /// Whether the device listens where it is sent.
    pub(super) fn is_heard(&self) -> bool {
        let (frequency, data_rate) = match self.is_second_window {
            true => RX2,
            false => (FREQUENCY, DATA_RATE),
        };
        self.txpk["freq"] == frequency && self.txpk["datr"] == data_rate
    }
}

/// The names of so many devices' concentrators.
pub(crate) fn concentrators(devices: u32) -> impl Iterator<Item = u64> {
    let count = NEAR.max((devices as usize).div_ceil(DEVICES_EACH));
    1..=count as u64
}

#[derive(Debug)]
pub(crate) struct Air {
    concentrators: Vec<Arc<Concentrator>>,
}

impl Air {
    /// Puts up concentrators that speak with the gateway.
    pub(crate) async fn open(
        devices: u32,
        gateway: SocketAddr,
        tasks: &mut JoinSet<()>,
    ) -> io::Result<Self> {
        let mut opened = Vec::new();
        for eui in concentrators(devices) {
            let concentrator = Arc::new(Concentrator::open(eui, gateway).await?);
            let serving = concentrator.clone();
            tasks.spawn(async move { serving.serve().await });
            opened.push(concentrator);
        }
        Ok(Self {
            concentrators: opened,
        })
    }

    /// Sends a device's frame, which those near it hear. What is sent in its windows comes out of
    /// the receiver ahead of time.
    pub(super) fn send(&self, device: u32, frame: &[u8]) -> mpsc::Receiver<Sent> {
        // Both windows, by every concentrator.
        let (ear, heard) = mpsc::channel(2 * NEAR);
        let all = self.concentrators.len();
        for nth in 0..NEAR {
            let near = &self.concentrators[(device as usize + nth) % all];
            // The first hears it best.
            near.hear(frame, 9.5 - 4.0 * nth as f64, ear.clone());
        }
        heard
    }
}
