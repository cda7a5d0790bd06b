//! The devices, a task each.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::device::lorawan::Air;
use crate::plan::Plan;
use crate::progress::{Counter, Progress};
use crate::verdict::Told;

/// Devices that knock at a time; more would overflow the gateway's queue of new connections.
const KNOCKING: usize = 256;

/// Is what all devices share.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) plan: Plan,
    pub(crate) gateway: SocketAddr,
    pub(crate) secret: String,
    pub(crate) progress: Arc<Progress>,
    /// What LoRaWAN devices speak over.
    pub(crate) air: Option<Air>,
    /// Who connects takes a place, and gives it back when it leaves.
    pub(crate) places: Semaphore,
    pub(crate) door: Semaphore,
    /// Fires when devices may send.
    pub(crate) go: CancellationToken,
    started: OnceLock<Instant>,
    tickets: Counter,
    stop: CancellationToken,
}

impl Fleet {
    pub(crate) fn new(
        plan: Plan,
        gateway: SocketAddr,
        secret: String,
        progress: Arc<Progress>,
        air: Option<Air>,
    ) -> Self {
        Self {
            places: Semaphore::new(plan.places as usize),
            plan,
            gateway,
            secret,
            progress,
            air,
            door: Semaphore::new(KNOCKING),
            go: CancellationToken::new(),
            started: OnceLock::new(),
            tickets: Counter::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Lets the devices send.
    pub(crate) fn start(&self) {
        self.started.get_or_init(Instant::now);
        self.go.cancel();
    }

    /// When the next message of the fleet is due; `None` if that is at once.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let rate = self.plan.rate?;
        let started = self.started.get().copied()?;
        let due = self.tickets.next() as f64 / f64::from(rate);
        Some(started + Duration::from_secs_f64(due))
    }

    /// Brings up the devices.
    pub(crate) fn launch(self: &Arc<Self>) -> Devices {
        let mut tasks = JoinSet::new();
        for number in 0..self.plan.devices {
            let (device, stop) = (Device::new(self.clone(), number), self.stop.clone());
            tasks.spawn(device.run(stop));
        }
        Devices {
            tasks,
            stop: self.stop.clone(),
        }
    }
}

/// Owns the devices' tasks; dropped, it ends them.
#[derive(Debug)]
pub(crate) struct Devices {
    tasks: JoinSet<Told>,
    stop: CancellationToken,
}

impl Devices {
    /// Ends the devices and collects what each was told.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Vec<Told>> {
        self.stop.cancel();
        let mut told = Vec::with_capacity(self.tasks.len());
        while let Some(ended) = self.tasks.join_next().await {
            told.push(ended?);
        }
        Ok(told)
    }
}
