//! The way to the hub, watched: when the hub accepts what a device said.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use benches::latency::Latencies;
use benches::process::machine_time;
use gateway_core::{
    CloudCallback, DeviceId, DeviceIdentity, TwinReply, TwinRequest, Uplink, Upstream,
    UpstreamError, UpstreamExplanation,
};

use crate::device;

/// When the uplinks on their way were due, and how long those before took.
#[derive(Debug)]
pub(crate) struct Departures {
    /// In the machine's time, by device and in order.
    due: Vec<Mutex<VecDeque<Duration>>>,
    took: Mutex<Latencies>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Departures {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            due: (0..devices).map(|_| Mutex::default()).collect(),
            took: Mutex::default(),
        }
    }

    /// Notes that an uplink is due at this machine time, whenever it really leaves.
    pub(crate) fn leave(&self, number: usize, due: Duration) {
        if let Some(on_their_way) = self.due.get(number) {
            lock(on_their_way).push_back(due);
        }
    }

    fn arrive(&self, device: &DeviceId) {
        let number = device::number(device.as_str());
        let due = number.and_then(|number| self.due.get(number));
        // Nobody but the latency's round notes departures.
        if let Some(due) = due.and_then(|due| lock(due).pop_front()) {
            lock(&self.took).push(machine_time().saturating_sub(due));
        }
    }

    /// Takes what was noted.
    pub(crate) fn take(&self) -> Latencies {
        std::mem::take(&mut *lock(&self.took))
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
        self.inner.send_batch(uplinks).await?;
        for uplink in uplinks {
            self.departures.arrive(&uplink.device);
        }
        Ok(())
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
