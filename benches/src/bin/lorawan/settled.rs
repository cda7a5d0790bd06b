//! The way to the hub, watched: when the hub accepts what a device said.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use benches::latency::Latencies;
use benches::process::machine_time;
use gateway_core::{
    CloudCallback, DeviceId, DeviceIdentity, TwinReply, TwinRequest, Uplink, Upstream,
    UpstreamError, UpstreamExplanation,
};

use crate::device;

/// When each device's last uplink was due, and how long those before took.
#[derive(Debug)]
pub(crate) struct Departures {
    /// Nanoseconds of the machine's time; 0 if nothing is on its way.
    left_at: Vec<AtomicU64>,
    took: Mutex<Latencies>,
}

impl Departures {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            left_at: (0..devices).map(|_| AtomicU64::new(0)).collect(),
            took: Mutex::default(),
        }
    }

    /// Notes that an uplink is due at this machine time, whenever it really leaves.
    pub(crate) fn leave(&self, number: usize, due: Duration) {
        if let Some(left_at) = self.left_at.get(number) {
            left_at.store(due.as_nanos() as u64, Relaxed);
        }
    }

    fn arrive(&self, device: &DeviceId) {
        let number = device::number(device.as_str());
        let left_at = number.and_then(|number| self.left_at.get(number));
        // Nobody but the latency's round notes departures.
        let left_at = left_at.map_or(0, |left_at| left_at.load(Relaxed));
        if left_at > 0 {
            let took = machine_time().saturating_sub(Duration::from_nanos(left_at));
            let mut all = self.took.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(took);
        }
    }

    /// Takes what was noted.
    pub(crate) fn take(&self) -> Latencies {
        std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An upstream that notes when the hub has accepted an uplink.
#[derive(Debug)]
pub(crate) struct Watched<U> {
    pub(crate) inner: U,
    pub(crate) departures: Arc<Departures>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<U: Upstream> Upstream for Watched<U> {
    async fn attach(
        &self,
        device: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        self.inner.attach(device, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        self.inner.send(uplink).await?;
        self.departures.arrive(&uplink.device);
        Ok(())
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        self.inner.send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.inner.twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        self.inner.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.inner.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.inner.close(grace).await
    }
}
