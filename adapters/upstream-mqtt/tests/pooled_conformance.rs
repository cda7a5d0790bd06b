//! The conformance suite of upstreams, against a real Mosquitto, in MQTT 3.1.1 and 5.
//!
//! A proxy between the two holds, loses and refuses; a foreign client behind the broker is the
//! cloud. What a broker cannot do is skipped and says so.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/cloud.rs"]
mod cloud;
#[path = "common/pooled.rs"]
mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{MessageOutcome, UpstreamCapabilities, UpstreamFixture};
use gateway_core::{
    DeviceId, DeviceIdentity, Interest, MessageId, MethodName, MethodReply, SystemProperties,
    Uplink, Upstream,
};
use gateway_upstream_mqtt::{MqttPoolUpstream, MqttVersion};

use broker::Mosquitto;
use cloud::{Cloud, Message, Twins};
use proxy::Proxy;

#[derive(Debug)]
struct Fixture {
    version: MqttVersion,
    _broker: Mosquitto,
    proxy: Proxy,
    cloud: Cloud,
    twins: Twins,
    upstream: Arc<MqttPoolUpstream>,
    serial: AtomicU64,
}

impl Fixture {
    async fn new(version: MqttVersion) -> Option<Self> {
        let broker = Mosquitto::start_with(common::OPEN).await?;
        let proxy = Proxy::start(broker.port()).await;
        let twins = Twins::default();
        let service = twins.clone();
        let cloud = Cloud::start(
            "cloud",
            broker.port(),
            version == MqttVersion::V5,
            None,
            &[
                "devices/+/telemetry",
                "devices/+/responses/+",
                "cloud/answers",
                "devices/+/twin/get",
                "devices/+/twin/reported",
            ],
            move |message| service.answer(message),
        )
        .await;
        let mut config = common::config(proxy.port(), "gw").with_version(version);
        config.topics.twin_get = "devices/{device_id}/twin/get".to_owned();
        config.topics.reported = "devices/{device_id}/twin/reported".to_owned();
        config.topics.desired = "devices/{device_id}/twin/desired".to_owned();
        config.topics.twin_response = match version {
            MqttVersion::V5 => "gateways/{instance_id}/answers".to_owned(),
            _ => "devices/{device_id}/twin/answers".to_owned(),
        };
        Some(Self {
            version,
            _broker: broker,
            proxy,
            cloud,
            twins,
            upstream: common::upstream(config),
            serial: AtomicU64::new(1),
        })
    }

    fn is_new(&self) -> bool {
        self.version == MqttVersion::V5
    }

    fn serial(&self) -> String {
        format!("serial-{:08}", self.serial.fetch_add(1, Relaxed))
    }

    /// A command as the adapter's documentation says.
    fn command(&self, topic: String, id: &str, body: &Bytes) -> Message {
        let mut message = Message::new(topic, body.clone());
        match self.is_new() {
            true => {
                message.user = vec![("$message_id".to_owned(), id.to_owned())];
            }
            false => {
                let mut envelope = serde_json::json!({"id": id, "request_id": id});
                match serde_json::from_slice::<serde_json::Value>(body) {
                    Ok(json) => envelope["json"] = json,
                    Err(_) => envelope["base64"] = base64(body).into(),
                }
                message.payload = envelope.to_string().into();
            }
        }
        message
    }

    fn uplink(&self, message: &Message) -> Option<Uplink> {
        let device = message
            .topic
            .strip_prefix("devices/")?
            .strip_suffix("/telemetry")?;
        let mut system = SystemProperties::default();
        let mut properties = BTreeMap::new();
        let mut id = None;
        let mut set = |name: &str, value: &str| {
            let value = value.to_owned();
            match name {
                "message_id" => id = Some(value),
                "correlation_id" => system.correlation_id = Some(value),
                "content_type" => system.content_type = Some(value),
                "content_encoding" => system.content_encoding = Some(value),
                "user_id" => system.user_id = Some(value),
                "schema" => system.schema = Some(value),
                "component" => system.component = Some(value),
                "created_at" => {
                    let at = humantime_serde::re::humantime::parse_rfc3339(&value);
                    system.created_at = Some(at.expect("RFC 3339"));
                }
                other => panic!("{other} is no property of a message"),
            }
        };
        let body = match self.is_new() {
            true => {
                for (name, value) in &message.user {
                    match name.strip_prefix('$') {
                        Some(ours) => set(ours, value),
                        None => drop(properties.insert(name.clone(), value.clone())),
                    }
                }
                if let Some(content_type) = &message.content_type {
                    set("content_type", content_type);
                }
                if let Some(correlation) = &message.correlation {
                    set(
                        "correlation_id",
                        std::str::from_utf8(correlation).expect("UTF-8"),
                    );
                }
                message.payload.clone()
            }
            false => {
                let envelope: serde_json::Value =
                    serde_json::from_slice(&message.payload).expect("an envelope");
                let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
                set("message_id", &text(&envelope["id"]));
                for (name, value) in envelope["system"].as_object().into_iter().flatten() {
                    set(name, &text(value));
                }
                for (name, value) in envelope["properties"].as_object().into_iter().flatten() {
                    properties.insert(name.clone(), text(value));
                }
                match (&envelope["text"], &envelope["base64"]) {
                    (serde_json::Value::String(text), _) => text.clone().into(),
                    (_, serde_json::Value::String(text)) => unbase64(text),
                    _ => envelope["json"].to_string().into(),
                }
            }
        };
        let id = MessageId::new(id.expect("each message has an id")).expect("a valid id");
        let mut uplink = Uplink::new(common::device(device), id, body);
        uplink.properties = properties.into_iter().collect();
        Some(uplink.with_system(system))
    }
}

#[async_trait]
impl UpstreamFixture for Fixture {
    fn capabilities(&self) -> UpstreamCapabilities {
        let mut capabilities = UpstreamCapabilities::default();
        // MQTT 3.1.1 has no reason codes: a broker acknowledges, or it closes.
        capabilities.can_reject = self.is_new();
        // A broker takes messages one by one,
        capabilities.batches = false;
        // knows "acknowledged" only, and gives a message again only after a lost connection,
        capabilities.can_reject_messages = false;
        capabilities.can_abandon_messages = false;
        // and knows topics, not devices.
        capabilities.counts_attaches = false;
        capabilities.judges_devices = false;
        capabilities
    }

    fn upstream(&self) -> Arc<dyn Upstream> {
        self.upstream.clone()
    }

    async fn device(&self, name: &str) -> DeviceIdentity {
        common::identity(name)
    }

    async fn refused_device(&self, _: &str) -> DeviceIdentity {
        unreachable!("no device is refused")
    }

    async fn device_with_token(&self, _: &str, _: Duration) -> Option<DeviceIdentity> {
        None
    }

    async fn accepted(&self) -> Vec<Uplink> {
        // The broker may acknowledge before the cloud has it.
        let accepted = self.proxy.look(|state| state.accepted);
        let uplinks = |messages: &[Message]| -> Vec<Uplink> {
            messages
                .iter()
                .filter_map(|message| self.uplink(message))
                .collect()
        };
        self.cloud
            .wait(|heard| uplinks(&heard.messages).len() >= accepted)
            .await;
        self.cloud.look(|heard| uplinks(&heard.messages))
    }

    async fn hold(&self) {
        self.proxy.hold();
    }

    async fn wait_held(&self, count: usize) {
        self.proxy.wait(|state| state.held() >= count).await;
    }

    async fn release(&self) {
        self.proxy.release();
    }

    async fn lose_settlements(&self, count: usize) {
        self.proxy.lose_acks(count);
    }

    async fn reject_next(&self) {
        self.proxy.refuse_next();
    }

    async fn cut(&self) {
        self.proxy.cut();
    }

    async fn send_message(&self, device: &DeviceId, body: Bytes) -> MessageOutcome {
        let id = self.serial();
        let topic = format!("devices/{device}/commands");
        self.cloud.publish(self.command(topic, &id, &body)).await;
        self.proxy.wait(|state| state.given(&id).1).await;
        let deliveries = self.proxy.look(|state| state.given(&id).0);
        MessageOutcome::Completed {
            deliveries: deliveries as u32,
        }
    }

    async fn call_method(
        &self,
        device: &DeviceId,
        name: MethodName,
        payload: Bytes,
    ) -> Option<MethodReply> {
        let filter = format!("devices/{device}/methods/+");
        if !self.proxy.look(|state| state.is_subscribed(&filter)) {
            // The broker knows that nobody listens.
            return None;
        }
        let id = self.serial();
        let topic = format!("devices/{device}/methods/{name}");
        let mut request = self.command(topic, &id, &payload);
        if self.is_new() {
            request.response_topic = Some("cloud/answers".to_owned());
            request.correlation = Some(id.clone().into());
        }
        self.cloud.publish(request).await;
        match self.is_new() {
            true => {
                let is_ours = |m: &Message| m.correlation.as_deref() == Some(id.as_bytes());
                let answer = self
                    .cloud
                    .find(|m| m.topic == "cloud/answers" && is_ours(m))
                    .await;
                let status = answer.user("$status").expect("a status");
                let status = status.parse().expect("a number");
                Some(MethodReply::new(status, answer.payload))
            }
            false => {
                let topic = format!("devices/{device}/responses/{id}");
                let answer = self.cloud.find(|message| message.topic == topic).await;
                let envelope: serde_json::Value =
                    serde_json::from_slice(&answer.payload).expect("an envelope");
                assert_eq!(envelope["request_id"], id);
                let status = envelope["status"].as_i64().expect("a status");
                let payload = envelope["json"].to_string();
                Some(MethodReply::new(status as i32, payload))
            }
        }
    }

    async fn patch_desired(&self, device: &DeviceId, patch: &str) {
        let patch = self
            .twins
            .patch_desired(device.as_str(), patch)
            .to_string()
            .into();
        let topic = format!("devices/{device}/twin/desired");
        let id = self.serial();
        self.cloud.publish(self.command(topic, &id, &patch)).await;
    }

    async fn wait_listening(&self, device: &DeviceId, interest: Interest) {
        let wanted = [
            (interest.messages, "commands"),
            (interest.methods, "methods/+"),
            (interest.desired, "twin/desired"),
        ];
        for (is_wanted, what) in wanted {
            let filter = format!("devices/{device}/{what}");
            if is_wanted {
                self.proxy.wait(|state| state.is_subscribed(&filter)).await;
            }
        }
    }

    async fn wait_deaf(&self, device: &DeviceId) {
        for what in ["commands", "methods/+", "twin/desired"] {
            let filter = format!("devices/{device}/{what}");
            self.proxy.wait(|state| !state.is_subscribed(&filter)).await;
        }
    }

    async fn attaches(&self, _: &DeviceId) -> u64 {
        unreachable!("attaches are not counted")
    }
}

fn base64(body: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(body)
}

fn unbase64(text: &str) -> Bytes {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.decode(text);
    body.expect("base64").into()
}

async fn old() -> Option<Fixture> {
    Fixture::new(MqttVersion::V3_1_1).await
}

async fn new() -> Option<Fixture> {
    Fixture::new(MqttVersion::V5).await
}

mod mqtt_3_1_1 {
    gateway_core::upstream_conformance!(super::old, if there is one);
}

mod mqtt_5 {
    gateway_core::upstream_conformance!(super::new, if there is one);
}
