//! The conformance suite of upstreams, against the hub simulator's MQTT side over TLS.

#[path = "common/hub.rs"]
mod common;

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
use gateway_upstream_mqtt::MqttHubUpstream;
use hub_simulator::{
    Accepted, C2d, C2dOutcome, HeldSettlements, HubSimulator, Limits, MethodError,
};

/// How long the hub waits for a method's answer.
const METHOD_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Fixture {
    hub: HubSimulator,
    upstream: Arc<MqttHubUpstream>,
    /// What is held, and how many messages there were before. The simulator records what it
    /// holds, though it has not said so: to the gateway it is not accepted.
    held: Mutex<Option<(HeldSettlements, usize)>>,
}

async fn fixture() -> Fixture {
    // Over MQTT a message comes again only because nobody settled it: here that counts.
    let limits = Limits::default().with_lapsed_lock_counts(true);
    let hub = HubSimulator::builder().with_limits(limits).start().await;
    let hub = hub.expect("the simulator starts");
    let upstream = common::upstream(common::config(&hub));
    Fixture {
        hub,
        upstream,
        held: Mutex::default(),
    }
}

impl Fixture {
    fn held_from(&self) -> usize {
        self.held
            .lock()
            .expect("no panic")
            .as_ref()
            .map_or(0, |(_, from)| *from)
    }
}

#[async_trait]
impl UpstreamFixture for Fixture {
    fn capabilities(&self) -> UpstreamCapabilities {
        let mut capabilities = UpstreamCapabilities::default();
        // MQTT 3.1.1 has one way to refuse anything: the hub closes the connection.
        capabilities.can_reject = false;
        // A batch is as many publications, each settled for itself.
        capabilities.batches = false;
        // A PUBACK is all that the hub hears of a message.
        capabilities.can_reject_messages = false;
        capabilities
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        self.upstream.clone()
    }

    async fn device(&self, name: &str) -> DeviceIdentity {
        common::with_key(&self.hub, name)
    }

    async fn refused_device(&self, name: &str) -> DeviceIdentity {
        self.hub.add_device(name);
        let wrong = SymmetricKey::from_base64("d3Jvbmc=").expect("base64");
        DeviceIdentity::new(common::device_id(name), Credential::DeviceKey(wrong.into()))
    }

    async fn device_with_token(&self, name: &str, expires_in: Duration) -> Option<DeviceIdentity> {
        Some(common::with_token(&self.hub, name, expires_in))
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
    let device = common::device_id(&accepted.device_id);
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

gateway_core::upstream_conformance!(fixture);
