//! The conformance suite's view of a hub: what it took, what it is told to do.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::credential::SymmetricKey;
use gateway_core::testkit::{MessageOutcome, UpstreamCapabilities, UpstreamFixture};
use gateway_core::{
    Credential, DeviceId, DeviceIdentity, Interest, MessageId, MethodName, MethodReply,
    SystemProperties, Uplink, Upstream,
};
use hub_simulator::{Accepted, C2d, C2dOutcome, HeldSettlements, HubSimulator, MethodError};

/// How long the hub waits for a method's answer.
const METHOD_TIMEOUT: Duration = Duration::from_secs(20);

/// Is the simulator with one upstream before it, for
/// [`upstream_conformance!`](gateway_core::upstream_conformance).
#[derive(Debug)]
pub struct HubFixture {
    hub: HubSimulator,
    upstream: Arc<dyn Upstream>,
    capabilities: UpstreamCapabilities,
    /// What is held, and how many messages there were before. The simulator records what it
    /// holds, though it has not said so: to the gateway it is not accepted.
    held: Mutex<Option<(HeldSettlements, usize)>>,
}

impl HubFixture {
    /// Makes the fixture of an upstream that can all that there is.
    #[must_use]
    pub fn new(hub: HubSimulator, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            hub,
            upstream,
            capabilities: UpstreamCapabilities::default(),
            held: Mutex::default(),
        }
    }

    /// Says what the upstream cannot do.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: UpstreamCapabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    fn held_from(&self) -> usize {
        self.held
            .lock()
            .expect("no panic")
            .as_ref()
            .map_or(0, |(_, from)| *from)
    }
}

#[async_trait]
impl UpstreamFixture for HubFixture {
    fn capabilities(&self) -> UpstreamCapabilities {
        self.capabilities
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        self.upstream.clone()
    }

    async fn device(&self, name: &str) -> DeviceIdentity {
        crate::with_key(&self.hub, name)
    }

    async fn refused_device(&self, name: &str) -> DeviceIdentity {
        self.hub.add_device(name);
        let wrong = SymmetricKey::from_base64("d3Jvbmc=").expect("base64");
        DeviceIdentity::new(crate::device_id(name), Credential::DeviceKey(wrong.into()))
    }

    async fn device_with_token(&self, name: &str, expires_in: Duration) -> Option<DeviceIdentity> {
        Some(crate::with_token(&self.hub, name, expires_in))
    }

    async fn accepted(&self) -> Vec<Uplink> {
        let accepted = self.hub.record().accepted();
        let settled = match &*self.held.lock().expect("no panic") {
            Some((_, before)) => *before,
            None => accepted.len(),
        };
        accepted.into_iter().take(settled).map(uplink).collect()
    }

    async fn hold(&self) {
        let before = self.hub.record().accepted().len();
        let guard = self.hub.faults().hold_settlements();
        *self.held.lock().expect("no panic") = Some((guard, before));
    }

    async fn wait_held(&self, count: usize) {
        let record = self.hub.record();
        record.wait_for((self.held_from() + count) as u64).await;
    }

    async fn release(&self) {
        drop(self.held.lock().expect("no panic").take());
    }

    async fn lose_settlements(&self, count: usize) {
        self.hub.faults().drop_settlements(count as u64);
    }

    async fn reject_next(&self) {
        self.hub
            .faults()
            .reject_next(None, 1, "com.microsoft:argument-error");
    }

    async fn cut(&self) {
        self.hub.faults().cut_all();
    }

    async fn send_message(&self, device: &DeviceId, body: Bytes) -> MessageOutcome {
        let sent = self.hub.send_c2d(device.as_str(), C2d::new(body));
        let ticket = sent.expect("the hub takes the message");
        match ticket.outcome().await {
            C2dOutcome::Completed => MessageOutcome::Completed {
                deliveries: ticket.delivery_count(),
            },
            C2dOutcome::Rejected => MessageOutcome::Rejected,
            other => panic!("the message ended as {other:?}"),
        }
    }

    async fn call_method(
        &self,
        device: &DeviceId,
        name: MethodName,
        payload: Bytes,
    ) -> Option<MethodReply> {
        let (device, name) = (device.as_str(), name.as_str());
        match self
            .hub
            .call_method(device, name, payload, METHOD_TIMEOUT)
            .await
        {
            Ok(response) => Some(MethodReply::new(response.status, response.payload)),
            Err(MethodError::DeviceNotOnline) => None,
            Err(error) => panic!("the method failed: {error}"),
        }
    }

    async fn patch_desired(&self, device: &DeviceId, patch: &str) {
        let patch = serde_json::from_str(patch).expect("a JSON object");
        self.hub
            .patch_desired(device.as_str(), &patch)
            .expect("a valid patch");
    }

    async fn wait_listening(&self, device: &DeviceId, interest: Interest) {
        if interest.messages {
            self.hub.wait_messages(device.as_str()).await;
        }
        if interest.methods {
            self.hub.wait_methods(device.as_str()).await;
        }
        if interest.desired {
            self.hub.wait_desired(device.as_str()).await;
        }
    }

    async fn wait_deaf(&self, device: &DeviceId) {
        self.hub.wait_deaf(device.as_str()).await;
    }

    async fn attaches(&self, device: &DeviceId) -> u64 {
        self.hub.attaches(device.as_str())
    }
}

fn uplink(accepted: Accepted) -> Uplink {
    let device = crate::device_id(&accepted.device_id);
    let id = MessageId::new(
        accepted
            .message_id
            .as_deref()
            .expect("each message has an id"),
    );
    let mut properties = accepted.properties;
    let mut system = SystemProperties::default();
    system.correlation_id = accepted.correlation_id;
    system.content_type = accepted.content_type;
    system.content_encoding = accepted.content_encoding;
    system.user_id = accepted.user_id;
    system.schema = properties.remove("iothub-message-schema");
    system.component = accepted.annotations.get("dt-subject").cloned();
    system.created_at = properties
        .remove("iothub-creation-time-utc")
        .map(|text| created_at(&text));
    let mut uplink = Uplink::new(device, id.expect("a valid id"), accepted.body);
    uplink.properties = properties.into_iter().collect();
    uplink.with_system(system)
}

fn created_at(text: &str) -> SystemTime {
    humantime_serde::re::humantime::parse_rfc3339(text).expect("ISO 8601")
}
