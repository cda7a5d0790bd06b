//! Twin-like state over a broker: what is missed comes as a whole.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/cloud.rs"]
mod cloud;
#[path = "common/pooled.rs"]
mod common;
#[path = "common/misses.rs"]
mod misses;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/site.rs"]
mod site;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Backoff, DesiredPatch, DeviceId, ErrorKind, Interest, TwinRequest, Upstream};
use gateway_upstream_mqtt::{MqttPoolConfig, MqttPoolUpstream, MqttSubscriptions};
use tokio::time::sleep;

use broker::Mosquitto;
use cloud::{Cloud, Message, Twins};
use misses::{Misses, one_less};
use proxy::Proxy;
use site::{Site, attach};

const DESIRED: Interest = Interest::NONE.with_desired(true);
const TOPIC: &str = "devices/dev/twin/desired";

/// A broker with a service behind it that knows the twins.
struct Served {
    broker: Mosquitto,
    proxy: Proxy,
    cloud: Cloud,
    twins: Twins,
    /// Requests to leave without an answer.
    ignored: Arc<AtomicUsize>,
}

impl Served {
    async fn new() -> Option<Self> {
        let broker = Mosquitto::start_with(common::OPEN).await?;
        let proxy = Proxy::start(broker.port()).await;
        let twins = Twins::default();
        let service = twins.clone();
        let ignored = Arc::new(AtomicUsize::new(0));
        let left = ignored.clone();
        let answer = move |message: &Message| match one_less(&left) {
            true => vec![],
            false => service.answer(message),
        };
        let filters = ["devices/+/twin/get"];
        let cloud = Cloud::start("cloud", broker.port(), true, None, &filters, answer).await;
        Some(Self {
            broker,
            proxy,
            cloud,
            twins,
            ignored,
        })
    }

    fn config(&self) -> MqttPoolConfig {
        let mut config = common::config(self.proxy.port(), "gw");
        config.topics.desired = "devices/{device_id}/twin/desired".to_owned();
        config.topics.twin_get = "devices/{device_id}/twin/get".to_owned();
        config.topics.twin_response = "answers/{instance_id}".to_owned();
        config.wire.answer_timeout = Duration::from_secs(2);
        config
    }

    /// Changes desired properties, and tells of it.
    async fn patch(&self, device: &str, patch: &str) {
        let patch = self.twins.patch_desired(device, patch);
        let topic = format!("devices/{device}/twin/desired");
        self.cloud
            .publish(Message::new(topic, patch.to_string()))
            .await;
    }
}

fn patches(callback: &RecordingCallback) -> Vec<(u64, bool)> {
    let patches = callback.record().patches.into_iter();
    patches.map(|p| (p.version, p.is_whole)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_device_missed_comes_again_with_all_and_nothing_builds_on_it() {
    let Some(site) = Served::new().await else {
        return;
    };
    let upstream = common::upstream(site.config());
    let callback = Misses::new(2);
    let identity = common::identity("dev").with_interest(DESIRED);
    let attached = upstream.attach(identity, callback.clone()).await;
    attached.expect("attached");
    site.proxy.wait(|state| state.is_subscribed(TOPIC)).await;
    site.patch("dev", r#"{"a":1}"#).await;
    let record = &callback.record;
    let given = record.wait_for(|record| record.patches.len() == 3).await;
    assert_eq!(patches(record), [(1, false), (1, true), (1, true)]);
    assert_eq!(given.patches[1], given.patches[2]);
    site.patch("dev", r#"{"b":2}"#).await;
    record.wait_for(|record| record.patches.len() == 4).await;
    assert_eq!(patches(record)[3], (2, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_device_missed_is_given_again_where_no_twin_can_be_read() {
    let Some(site) = Served::new().await else {
        return;
    };
    let mut config = site.config();
    config.topics.twin_get = String::new();
    config.topics.twin_response = String::new();
    let upstream = common::upstream(config);
    let callback = Misses::new(2);
    let identity = common::identity("dev").with_interest(DESIRED);
    let attached = upstream.attach(identity, callback.clone()).await;
    attached.expect("attached");
    site.proxy.wait(|state| state.is_subscribed(TOPIC)).await;
    site.patch("dev", r#"{"a":1}"#).await;
    site.patch("dev", r#"{"b":2}"#).await;
    let record = &callback.record;
    record.wait_for(|record| record.patches.len() == 4).await;
    assert_eq!(
        patches(record),
        [(1, false), (1, false), (1, false), (2, false)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twins_are_unsupported_unless_configured_and_a_silent_service_times_out() {
    let Some(site) = Site::new().await else {
        return;
    };
    let upstream = common::upstream(site.config("plain"));
    attach(&upstream, "dev", Interest::NONE).await;
    let device: DeviceId = common::device("dev");
    let patch = TwinRequest::PatchReported(Bytes::from_static(b"{}"));
    for request in [TwinRequest::Get, patch.clone()] {
        let refused = upstream.twin(&device, request).await;
        assert_eq!(common::kind(refused), ErrorKind::Unsupported);
    }
    let mut config = site.config("state");
    config.topics.reported = "cloud/{device_id}/reported".to_owned();
    config.topics.reported_is_retained = true;
    let state: Arc<MqttPoolUpstream> = common::upstream(config.clone());
    attach(&state, "dev", Interest::NONE).await;
    state
        .twin(&device, patch.clone())
        .await
        .expect("the broker has it");
    site.cloud
        .find(|m| m.topic == "cloud/dev/reported" && m.payload == "{}")
        .await;
    config.instance = "service".to_owned();
    config.topics.twin_get = "cloud/{device_id}/get".to_owned();
    config.topics.twin_response = "answers/{instance_id}".to_owned();
    config.wire.answer_timeout = Duration::from_millis(300);
    let service = common::upstream(config);
    attach(&service, "dev", Interest::NONE).await;
    let silent = service.twin(&device, TwinRequest::Get).await;
    assert_eq!(common::kind(silent), ErrorKind::TimedOut);
    assert_eq!(
        service.stats().losses,
        0,
        "a silent service is not a silent broker"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_missed_while_the_broker_kept_no_session_come_as_a_whole() {
    const NAMES: [&str; 4] = ["dev-0", "dev-1", "dev-2", "dev-3"];
    for subscriptions in [MqttSubscriptions::PerDevice, MqttSubscriptions::Wildcard] {
        let Some(site) = Served::new().await else {
            return;
        };
        let mut config = site.config();
        config.wire.session_expiry = Duration::ZERO;
        config.commands.subscriptions = subscriptions;
        let upstream = common::upstream(config);
        let mut callbacks = Vec::new();
        for name in NAMES {
            callbacks.push(attach(&upstream, name, DESIRED).await);
        }
        while upstream.stats().subscriptions == 0 {
            tokio::task::yield_now().await;
        }
        for (name, callback) in NAMES.into_iter().zip(&callbacks) {
            // Else it may come before the subscription.
            let topic = match subscriptions {
                MqttSubscriptions::Wildcard => "devices/+/twin/desired".to_owned(),
                _ => format!("devices/{name}/twin/desired"),
            };
            site.proxy.wait(|state| state.is_subscribed(&topic)).await;
            site.patch(name, r#"{"a":1}"#).await;
            callback.wait_for(|record| record.patches.len() == 1).await;
            // Made while nobody hears it.
            site.twins.patch_desired(name, r#"{"b":2}"#);
        }
        // Nor are all of those heard that are asked for first.
        site.ignored.store(2, Relaxed);
        site.proxy.cut();
        for callback in callbacks {
            let record = callback.wait_for(|record| record.patches.len() == 2).await;
            assert_eq!(patches(&callback), [(1, false), (2, true)]);
            let body: serde_json::Value =
                serde_json::from_slice(&record.patches[1].body).expect("JSON");
            assert_eq!((&body["a"], &body["b"]), (&1.into(), &2.into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_given_what_was_retained_before_it_came_to_a_gateway_that_hears_all() {
    let Some(site) = Served::new().await else {
        return;
    };
    let patch = site.twins.patch_desired("dev", r#"{"a":1}"#);
    let mut retained = Message::new(TOPIC, patch.to_string());
    retained.retain = true;
    site.cloud.publish(retained).await;
    // Else it may come after the subscription, and then it comes as a change.
    let port = site.broker.port();
    let late = Cloud::start("late", port, true, None, &[TOPIC], |_| vec![]).await;
    late.find(|message| message.retain).await;
    let mut config = site.config();
    config.commands.subscriptions = MqttSubscriptions::Wildcard;
    let upstream = common::upstream(config);
    attach(&upstream, "other", DESIRED).await;
    while upstream.stats().left == 0 {
        tokio::task::yield_now().await;
    }
    let callback = attach(&upstream, "dev", DESIRED).await;
    callback.wait_for(|record| record.patches.len() == 1).await;
    assert_eq!(patches(&callback), [(1, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_device_missed_comes_with_all_when_it_listens_again() {
    let Some(site) = Served::new().await else {
        return;
    };
    let mut config = site.config();
    let wait = Duration::from_secs(1);
    config.commands.retry = Backoff::new(wait, wait).expect("a backoff");
    let upstream = common::upstream(config);
    let callback = Misses::new(1);
    let attach = async |interest| {
        let identity = common::identity("dev").with_interest(interest);
        let attached = upstream.attach(identity, callback.clone()).await;
        attached.expect("attached");
    };
    attach(DESIRED).await;
    site.proxy.wait(|state| state.is_subscribed(TOPIC)).await;
    // On a slow machine it may be asked for all while it still listens.
    site.ignored.store(usize::MAX, Relaxed);
    site.patch("dev", r#"{"a":1}"#).await;
    let record = &callback.record;
    record.wait_for(|record| record.patches.len() == 1).await;
    attach(Interest::NONE).await;
    site.twins.patch_desired("dev", r#"{"b":2}"#);
    // By then all are due, and nobody is there for them.
    sleep(wait).await;
    site.ignored.store(0, Relaxed);
    attach(DESIRED).await;
    let given = record.wait_for(|record| record.patches.len() == 2).await;
    let body: serde_json::Value = serde_json::from_slice(&given.patches[1].body).expect("JSON");
    assert_eq!((&body["a"], &body["b"]), (&1.into(), &2.into()));
    site.patch("dev", r#"{"c":3}"#).await;
    record.wait_for(|record| record.patches.len() == 3).await;
    assert_eq!(patches(record), [(1, false), (2, true), (3, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_before_a_device_listened_again_does_not_pass_for_all() {
    let Some(site) = Served::new().await else {
        return;
    };
    let mut config = site.config();
    config.wire.answer_timeout = Duration::from_secs(60);
    let upstream = common::upstream(config);
    let callback = Misses::new(1);
    let attach = async |interest| {
        let identity = common::identity("dev").with_interest(interest);
        let attached = upstream.attach(identity, callback.clone()).await;
        attached.expect("attached");
    };
    attach(DESIRED).await;
    site.proxy.wait(|state| state.is_subscribed(TOPIC)).await;
    site.ignored.store(1, Relaxed);
    site.patch("dev", r#"{"a":1}"#).await;
    let question = site.cloud.find(|m| m.topic.ends_with("/get")).await;
    let late = site.twins.answer(&question);
    attach(Interest::NONE).await;
    site.twins.patch_desired("dev", r#"{"b":2}"#);
    attach(DESIRED).await;
    for answer in late {
        site.cloud.publish(answer).await;
    }
    let is_given = |p: &DesiredPatch| p.version == 2 && p.is_whole;
    let record = &callback.record;
    record
        .wait_for(|record| record.patches.iter().any(is_given))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_before_a_device_was_detached_goes_to_no_other_attachment() {
    let Some(site) = Served::new().await else {
        return;
    };
    let mut config = site.config();
    config.wire.answer_timeout = Duration::from_secs(60);
    let upstream = common::upstream(config);
    // It keeps the subscription to answers.
    attach(&upstream, "other", Interest::NONE).await;
    let other = DeviceId::new("other").expect("an id");
    let twin = upstream.twin(&other, TwinRequest::Get).await;
    twin.expect("answered");
    let identity = common::identity("dev").with_interest(DESIRED);
    let attached = upstream.attach(identity.clone(), Misses::new(1)).await;
    attached.expect("attached");
    site.proxy.wait(|state| state.is_subscribed(TOPIC)).await;
    site.ignored.store(1, Relaxed);
    site.patch("dev", r#"{"a":1}"#).await;
    let question = site.cloud.find(|m| m.topic == "devices/dev/twin/get");
    let late = site.twins.answer(&question.await);
    let detached = upstream.detach(&identity.device).await;
    detached.expect("detached");
    site.twins.patch_desired("dev", r#"{"b":2}"#);
    let after = attach(&upstream, "dev", DESIRED).await;
    for answer in late {
        site.cloud.publish(answer).await;
    }
    // What it would do does not end by anything that can be waited for.
    sleep(Duration::from_millis(200)).await;
    site.patch("dev", r#"{"c":3}"#).await;
    let is_given = |p: &DesiredPatch| p.version == 3;
    after
        .wait_for(|record| record.patches.iter().any(is_given))
        .await;
    assert_eq!(patches(&after), [(3, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_listens_again_is_given_again_what_is_retained() {
    let Some(site) = Served::new().await else {
        return;
    };
    let mut config = site.config();
    config.topics.twin_get = String::new();
    config.topics.twin_response = String::new();
    let mut retained = Message::new(TOPIC, r#"{"a":1,"$version":3}"#);
    retained.retain = true;
    site.cloud.publish(retained).await;
    // Else it may come after the subscription, and then it comes as a change.
    let port = site.broker.port();
    let late = Cloud::start("late", port, true, None, &[TOPIC], |_| vec![]).await;
    late.find(|message| message.retain).await;
    let upstream = common::upstream(config);
    let before = attach(&upstream, "dev", DESIRED).await;
    before.wait_for(|record| record.patches.len() == 1).await;
    attach(&upstream, "dev", Interest::NONE).await;
    site.proxy
        .wait(|state| state.given_back.contains(TOPIC))
        .await;
    let after = attach(&upstream, "dev", DESIRED).await;
    after.wait_for(|record| record.patches.len() == 1).await;
    assert_eq!(patches(&before), [(3, true)]);
    assert_eq!(patches(&after), [(3, true)]);
}
