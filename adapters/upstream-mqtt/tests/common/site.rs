//! A broker, a proxy before it and a cloud behind it, with commands for devices.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use bytes::Bytes;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Interest, Upstream};
use gateway_upstream_mqtt::{MqttPoolConfig, MqttPoolUpstream};

use crate::broker::Mosquitto;
use crate::cloud::{Cloud, Message};
use crate::common;
use crate::proxy::Proxy;

/// Broker, proxy and cloud; none where there is no broker to test against.
pub(crate) struct Site {
    pub(crate) broker: Mosquitto,
    pub(crate) proxy: Proxy,
    pub(crate) cloud: Cloud,
}

impl Site {
    pub(crate) async fn new() -> Option<Self> {
        let broker = Mosquitto::start_with(common::OPEN).await?;
        let proxy = Proxy::start(broker.port()).await;
        let filters = ["cloud/#", "devices/+/dead", "gateways/+/status"];
        let cloud = Cloud::start("cloud", broker.port(), true, None, &filters, |_| vec![]).await;
        Some(Self {
            broker,
            proxy,
            cloud,
        })
    }

    pub(crate) fn config(&self, instance: &str) -> MqttPoolConfig {
        let mut config = common::config(self.proxy.port(), instance);
        config.topics.dead_letters = "devices/{device_id}/dead".to_owned();
        config
    }

    /// Hears what the broker has kept, and what comes.
    pub(crate) async fn watch(&self, filter: &str) -> Cloud {
        let port = self.broker.port();
        Cloud::start("late", port, true, None, &[filter], |_| vec![]).await
    }

    pub(crate) async fn command(&self, device: &str, id: &str) {
        let mut command = Message::new(format!("devices/{device}/commands"), id.to_owned());
        command.user = vec![("$message_id".to_owned(), id.to_owned())];
        self.cloud.publish(command).await;
    }

    pub(crate) async fn call(&self, device: &str, method: &str, id: &str) {
        let mut call = Message::new(format!("devices/{device}/methods/{method}"), id.to_owned());
        call.response_topic = Some("cloud/answers".to_owned());
        call.correlation = Some(id.to_owned().into());
        self.cloud.publish(call).await;
    }

    pub(crate) async fn answer(&self, id: &str) -> (String, Bytes) {
        let is_it = |m: &Message| m.correlation.as_deref() == Some(id.as_bytes());
        let answer = self.cloud.find(is_it).await;
        (
            answer.user("$status").expect("a status").to_owned(),
            answer.payload,
        )
    }

    /// Closes the only upstream there is, and waits until the broker has let it go: what is sent
    /// from now on waits for the next.
    pub(crate) async fn close(&self, upstream: &MqttPoolUpstream) {
        upstream
            .close(Duration::from_secs(10))
            .await
            .expect("closed");
        self.proxy.wait(|state| state.subscriptions() == 0).await;
    }

    pub(crate) async fn subscribed(&self, filters: &[&str]) {
        for filter in filters {
            self.proxy.wait(|state| state.is_subscribed(filter)).await;
        }
    }
}

pub(crate) async fn attach(
    upstream: &MqttPoolUpstream,
    name: &str,
    interest: Interest,
) -> RecordingCallback {
    let callback = RecordingCallback::new();
    let identity = common::identity(name).with_interest(interest);
    upstream
        .attach(identity, callback.shared())
        .await
        .expect("attached");
    callback
}

pub(crate) fn ids(callback: &RecordingCallback) -> Vec<String> {
    let messages = callback.record().messages.into_iter();
    messages.map(|message| message.id.expect("an id")).collect()
}

pub(crate) const MESSAGES: Interest = Interest::NONE.with_messages(true);
