//! An upstream that sees what it is asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudCallback, DeviceId, DeviceIdentity, TwinReply, TwinRequest, Uplink, Upstream,
    UpstreamError, UpstreamExplanation,
};

/// What was seen. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    busy: Arc<Mutex<HashMap<DeviceId, &'static str>>>,
    faults: Arc<Mutex<Vec<String>>>,
    sends: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Seen {
    /// What overlapped and must not.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }

    /// The ids of each message or batch sent, with or without success.
    pub(crate) fn sends(&self) -> Vec<Vec<String>> {
        self.sends.lock().unwrap().clone()
    }
}

/// Watches that a device's attaches, sends and detaches come one at a time.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) hub: MemoryUpstream,
    pub(crate) seen: Seen,
}

struct Turn<'a>(&'a Watch, DeviceId);

impl Watch {
    fn turn(&self, device: &DeviceId, what: &'static str) -> Turn<'_> {
        let mut busy = self.seen.busy.lock().unwrap();
        if let Some(before) = busy.insert(device.clone(), what) {
            let fault = format!("{device}: {what} during {before}");
            self.seen.faults.lock().unwrap().push(fault);
        }
        Turn(self, device.clone())
    }

    fn note(&self, uplinks: &[Uplink]) -> Turn<'_> {
        let ids = uplinks.iter().map(|uplink| uplink.id.to_string());
        self.seen.sends.lock().unwrap().push(ids.collect());
        self.turn(&uplinks[0].device, "send")
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.seen.busy.lock().unwrap().remove(&self.1);
    }
}

#[async_trait]
impl Upstream for Watch {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let _turn = self.turn(&identity.device, "attach");
        self.hub.attach(identity, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let _turn = self.note(std::slice::from_ref(uplink));
        self.hub.send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        assert!(uplinks.len() > 1, "one message is no batch");
        let _turn = self.note(uplinks);
        self.hub.send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.hub.twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        let _turn = self.turn(device, "detach");
        self.hub.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.hub.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.hub.close(grace).await
    }
}
