//! The hub in memory as the upstream suite's fixture.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::credential::{Credential, SymmetricKey};
use gateway_core::testkit::{
    MemoryUpstream, MessageOutcome, UpstreamCapabilities, UpstreamFixture,
};
use gateway_core::{
    CloudMessage, CorrelationId, DeviceId, DeviceIdentity, Disposition, ErrorKind, Interest,
    MethodCall, MethodName, MethodReply, Uplink, Upstream,
};
use tokio::time::Instant;

use super::{device, key, token};

/// A hub in memory, and an upstream that wraps it.
#[derive(Debug)]
pub(crate) struct Memory {
    hub: MemoryUpstream,
    upstream: Arc<dyn Upstream>,
    pub(crate) retries: bool,
}

impl Memory {
    pub(crate) fn new<U: Upstream>(wrap: impl FnOnce(MemoryUpstream) -> U) -> Self {
        let hub = MemoryUpstream::new();
        hub.register(device("somebody"), key());
        hub.set_latency(Duration::from_millis(1));
        let upstream = Arc::new(wrap(hub.clone()));
        Self {
            hub,
            upstream,
            retries: false,
        }
    }
}

#[async_trait]
impl UpstreamFixture for Memory {
    fn capabilities(&self) -> UpstreamCapabilities {
        let mut capabilities = UpstreamCapabilities::default();
        capabilities.retries = self.retries;
        capabilities
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        self.upstream.clone()
    }

    async fn device(&self, name: &str) -> DeviceIdentity {
        self.hub.register(device(name), key());
        DeviceIdentity::new(device(name), Credential::DeviceKey(key().into()))
    }

    async fn refused_device(&self, name: &str) -> DeviceIdentity {
        self.hub.register(device(name), key());
        let wrong = SymmetricKey::from_base64("d3Jvbmc=").unwrap();
        DeviceIdentity::new(device(name), Credential::DeviceKey(wrong.into()))
    }

    async fn device_with_token(&self, name: &str, expires_in: Duration) -> Option<DeviceIdentity> {
        self.hub.register(device(name), key());
        let token = token(&device(name), &key(), expires_in);
        Some(DeviceIdentity::new(
            device(name),
            Credential::SasToken(token),
        ))
    }

    async fn accepted(&self) -> Vec<Uplink> {
        self.hub.accepted()
    }

    async fn hold(&self) {
        self.hub.hold();
    }

    async fn wait_held(&self, count: usize) {
        self.hub.wait_held(count).await;
    }

    async fn release(&self) {
        self.hub.release();
    }

    async fn lose_settlements(&self, count: usize) {
        self.hub.lose_settlements(count);
    }

    async fn reject_next(&self) {
        self.hub.reject_next(ErrorKind::Rejected);
    }

    async fn cut(&self) {
        self.hub.cut();
    }

    async fn send_message(&self, device: &DeviceId, body: Bytes) -> MessageOutcome {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut message = CloudMessage::new(device.clone(), body, deadline);
        loop {
            // The queue of a hub: it waits for the device.
            let interest = Interest::NONE.with_messages(true);
            self.hub.wait_listening(device, interest).await;
            match self.hub.send_message(message.clone()).await {
                Some(Disposition::Complete) => {
                    let deliveries = message.delivery_count + 1;
                    return MessageOutcome::Completed { deliveries };
                }
                Some(Disposition::Reject) => return MessageOutcome::Rejected,
                Some(Disposition::Abandon) | None => message.delivery_count += 1,
            }
        }
    }

    async fn call_method(
        &self,
        device: &DeviceId,
        name: MethodName,
        payload: Bytes,
    ) -> Option<MethodReply> {
        let request = CorrelationId::new("1").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = MethodCall::new(device.clone(), request, name, payload, deadline);
        self.hub.call_method(call).await
    }

    async fn patch_desired(&self, device: &DeviceId, patch: &str) {
        self.hub.patch_desired(device, patch).await.unwrap();
    }

    async fn wait_listening(&self, device: &DeviceId, interest: Interest) {
        self.hub.wait_listening(device, interest).await;
    }

    async fn wait_deaf(&self, device: &DeviceId) {
        self.hub.wait_deaf(device).await;
    }

    async fn attaches(&self, device: &DeviceId) -> u64 {
        self.hub.attaches(device)
    }
}
