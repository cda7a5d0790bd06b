//! What goes to devices over MQTT: cloud-to-device messages, direct methods, twins.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;

use std::time::Duration;

use bytes::BytesMut;
use hub_simulator::{C2d, C2dOutcome, HubSimulator, Limits, MethodError, Size, Tier};
use mqtt::{Device, Publish, QoS, SubscribeReasonCode, connect_packet};
use serde_json::{Value, json};
use support::{plain_hub, soon};

const MESSAGES: &str = "devices/dev1/messages/devicebound/#";
const METHODS: &str = "$iothub/methods/POST/#";
const TWIN: &str = "$iothub/twin/res/#";
const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

async fn hub_with(limits: Limits) -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap()
}

/// Connects and listens to messages.
async fn listening(hub: &HubSimulator) -> Device {
    let mut device = Device::connect(hub, "dev1").await;
    device.subscribe(MESSAGES, QoS::AtLeastOnce).await;
    device
}

fn json_of(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).unwrap()
}

/// The request's id at the end of a topic.
fn request_id(topic: &str) -> &str {
    topic.split_once("/?$rid=").expect("a request has an id").1
}

#[tokio::test]
async fn a_message_is_complete_when_the_device_acknowledges_it() {
    let hub = plain_hub().await;
    let mut device = listening(&hub).await;
    let message = C2d::new("open")
        .with_message_id("m 1")
        .with_correlation_id("c")
        .with_property("iothub-ack", "full")
        .with_property("a+b", "#/");
    let ticket = hub.send_c2d("dev1", message).unwrap();
    let publish = device.received().await;
    assert_eq!(
        publish.topic,
        "devices/dev1/messages/devicebound/%24.mid=m%201&%24.exp=0\
         &%24.to=%2Fdevices%2Fdev1%2Fmessages%2FdeviceBound&%24.cid=c&a%2Bb=%23%2F&iothub-ack=full"
    );
    assert_eq!(&publish.payload[..], b"open");
    assert_eq!(
        (publish.qos, publish.dup, publish.retain),
        (QoS::AtLeastOnce, false, false)
    );
    assert_eq!(ticket.outcome_now(), None);
    device.acknowledge(publish.pkid).await;
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
}

#[tokio::test]
async fn at_most_once_is_complete_when_it_is_sent() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let granted = device.subscribe(MESSAGES, QoS::AtMostOnce).await;
    assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtMostOnce));
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    assert_eq!(device.received().await.qos, QoS::AtMostOnce);
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
}

#[tokio::test]
async fn exactly_once_is_granted_as_at_least_once() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let granted = device.subscribe(MESSAGES, QoS::ExactlyOnce).await;
    assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtLeastOnce));
    hub.send_c2d("dev1", C2d::new("x")).unwrap();
    assert_eq!(device.received().await.qos, QoS::AtLeastOnce);
}

#[tokio::test]
async fn a_session_brings_back_what_was_not_acknowledged_and_what_came_meanwhile() {
    let hub = plain_hub().await;
    let mut device = listening(&hub).await;
    let first = hub.send_c2d("dev1", C2d::new("1")).unwrap();
    let id = device.received().await.pkid;
    drop(device);
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    let second = hub.send_c2d("dev1", C2d::new("2")).unwrap();

    let mut device = Device::connect(&hub, "dev1").await;
    assert!(device.session_present);
    let again = device.received().await;
    assert_eq!(
        (again.pkid, again.dup, &again.payload[..]),
        (id, true, &b"1"[..])
    );
    let new = device.received().await;
    assert_eq!((new.dup, &new.payload[..]), (false, &b"2"[..]));
    assert_ne!(new.pkid, id);
    device.acknowledge(id).await;
    device.acknowledge(new.pkid).await;
    assert_eq!(soon(first.outcome()).await, C2dOutcome::Completed);
    assert_eq!(soon(second.outcome()).await, C2dOutcome::Completed);
}

#[tokio::test]
async fn a_clean_session_is_forgotten_but_the_messages_wait_in_the_hub() {
    let hub = plain_hub().await;
    let device = listening(&hub).await;
    device.disconnect().await;
    let mut connect = connect_packet(&hub, "dev1");
    connect.clean_session = true;
    let mut device = Device::connect_with(&hub, connect).await;
    assert!(!device.session_present);
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    device.ping().await;
    assert_eq!(
        ticket.delivery_count(),
        0,
        "nothing comes before it is subscribed to"
    );
    device.subscribe(MESSAGES, QoS::AtLeastOnce).await;
    assert!(!device.received().await.dup);
    device.disconnect().await;
    let device = Device::connect(&hub, "dev1").await;
    assert!(
        !device.session_present,
        "a clean session leaves nothing behind"
    );
}

#[tokio::test]
async fn no_more_messages_are_in_flight_than_the_hub_allows() {
    let hub = hub_with(Limits::default().with_mqtt_in_flight(3)).await;
    let mut device = listening(&hub).await;
    for number in 0..5 {
        hub.send_c2d("dev1", C2d::new(number.to_string())).unwrap();
    }
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(device.received().await.pkid);
    }
    device.ping().await;
    device.acknowledge(ids[1]).await;
    let fourth = device.received().await;
    assert_eq!(&fourth.payload[..], b"3");
    assert!(!ids.contains(&fourth.pkid));
}

#[tokio::test]
async fn a_message_whose_lock_lapses_comes_again_under_its_identifier() {
    let hub = hub_with(Limits::default().with_c2d_lock(Duration::from_millis(200))).await;
    let mut device = listening(&hub).await;
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    let first = device.received().await;
    let again = device.received().await;
    assert_eq!((again.pkid, again.dup), (first.pkid, true));
    device.acknowledge(again.pkid).await;
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
}

#[tokio::test]
async fn nothing_comes_after_unsubscribing() {
    let hub = plain_hub().await;
    let mut device = listening(&hub).await;
    device.unsubscribe(MESSAGES).await;
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    device.ping().await;
    assert_eq!(ticket.delivery_count(), 0);
}

#[tokio::test]
async fn a_message_that_fits_into_no_topic_is_rejected() {
    let hub = plain_hub().await;
    let mut device = listening(&hub).await;
    let message = C2d::new("x").with_property("long", "%".repeat(30_000));
    let ticket = hub.send_c2d("dev1", message).unwrap();
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Rejected);
    device.ping().await;
}

#[tokio::test]
async fn a_method_is_called_and_answered() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let wait = Duration::from_secs(10);
    let offline = hub.call_method("dev1", "reboot", "{}", wait).await;
    assert_eq!(offline.unwrap_err(), MethodError::DeviceNotOnline);
    device.subscribe(METHODS, QoS::AtLeastOnce).await;
    let answering = async {
        let call = device.received().await;
        assert!(call.topic.starts_with("$iothub/methods/POST/reboot/?$rid="));
        assert_eq!(
            (call.qos, &call.payload[..]),
            (QoS::AtMostOnce, &b"{\"in\":1}"[..])
        );
        let reply = format!("$iothub/methods/res/418/?$rid={}", request_id(&call.topic));
        device.publish_acked(&reply, b"{\"out\":2}").await;
    };
    let (response, ()) = tokio::join!(
        hub.call_method("dev1", "reboot", r#"{"in":1}"#, wait),
        answering
    );
    let response = response.unwrap();
    assert_eq!(
        (response.status, &response.payload[..]),
        (418, &b"{\"out\":2}"[..])
    );
    // An answer that nobody waits for is no fault of the device.
    device
        .publish_acked("$iothub/methods/res/200/?$rid=17", b"{}")
        .await;
}

#[tokio::test]
async fn the_twin_is_read_and_reported_to() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    device.subscribe(TWIN, QoS::AtMostOnce).await;
    device
        .publish_acked("$iothub/twin/GET/?$rid=r%201", b"")
        .await;
    let answer = device.received().await;
    assert_eq!(answer.topic, "$iothub/twin/res/200/?$rid=r%201");
    assert_eq!(
        json_of(&answer),
        json!({ "desired": { "$version": 1 }, "reported": { "$version": 1 } })
    );
    let reported = "$iothub/twin/PATCH/properties/reported/?$rid=2";
    device.publish_acked(reported, br#"{"fw":"1.2.3"}"#).await;
    let answer = device.received().await;
    assert_eq!(answer.topic, "$iothub/twin/res/204/?$rid=2&$version=2");
    assert_eq!(answer.payload.len(), 0);
    assert_eq!(
        hub.reported("dev1"),
        json!({ "fw": "1.2.3", "$version": 2 })
    );
    for bad in [&b"{"[..], b"[]", br#"{"a.b":1}"#] {
        device.publish_acked(reported, bad).await;
        let answer = device.received().await;
        assert_eq!(answer.topic, "$iothub/twin/res/400/?$rid=2");
        assert!(json_of(&answer)["errorCode"].is_u64());
    }
}

#[tokio::test]
async fn changes_of_desired_properties_are_told_while_the_device_listens() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    hub.patch_desired("dev1", &json!({ "missed": true }))
        .unwrap();
    device.subscribe(DESIRED, QoS::AtMostOnce).await;
    hub.patch_desired("dev1", &json!({ "interval": 5, "gone": null }))
        .unwrap();
    let change = device.received().await;
    assert_eq!(
        change.topic,
        "$iothub/twin/PATCH/properties/desired/?$version=3"
    );
    assert_eq!(
        json_of(&change),
        json!({ "interval": 5, "gone": null, "$version": 3 })
    );
}

#[tokio::test]
async fn every_subscription_of_a_session_lives_again_with_the_next_connection() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    for filter in [METHODS, TWIN, DESIRED] {
        device.subscribe(filter, QoS::AtLeastOnce).await;
    }
    device.disconnect().await;
    soon(hub.wait_deaf("dev1")).await;
    hub.patch_desired("dev1", &json!({ "missed": true }))
        .unwrap();
    let mut device = Device::connect(&hub, "dev1").await;
    hub.patch_desired("dev1", &json!({ "a": 1 })).unwrap();
    let change = device.received().await;
    assert_eq!(json_of(&change), json!({ "a": 1, "$version": 3 }));
    soon(hub.wait_methods("dev1")).await;
    device.publish_acked("$iothub/twin/GET/?$rid=1", b"").await;
    assert!(
        device
            .received()
            .await
            .topic
            .starts_with("$iothub/twin/res/200/")
    );
}

#[tokio::test]
async fn a_module_gets_messages_under_its_own_prefix() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let mut module = Device::connect(&hub, "dev1/m1").await;
    module
        .subscribe("devices/dev1/modules/m1/#", QoS::AtLeastOnce)
        .await;
    let ticket = hub.send_c2d("dev1/m1", C2d::new("x")).unwrap();
    let publish = module.received().await;
    let prefix = "devices/dev1/modules/m1/messages/devicebound/";
    assert!(publish.topic.starts_with(prefix), "{}", publish.topic);
    module.acknowledge(publish.pkid).await;
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
}

#[tokio::test]
async fn a_request_above_the_rate_waits_for_its_turn_and_one_far_above_is_told_so() {
    let size = Size::new(Tier::S1, 1)
        .with_burst(Duration::from_millis(10))
        .with_queue(Duration::from_millis(300));
    let hub = hub_with(Limits::default().with_size(Some(size))).await;
    let mut device = Device::connect(&hub, "dev1").await;
    device.subscribe(TWIN, QoS::AtMostOnce).await;
    let began = tokio::time::Instant::now();
    let mut requests = BytesMut::new();
    for number in 0..60 {
        let topic = format!("$iothub/twin/GET/?$rid={number}");
        let get = Publish::new(topic, QoS::AtMostOnce, "");
        get.write(&mut requests).unwrap();
    }
    // All at once, so that no pause between them lets the rate catch up.
    device.wire.send_bytes(&requests).await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        let topic = device.received().await.topic;
        statuses.push(topic.split('/').nth(3).unwrap().to_owned());
    }
    // The rate is 100 a second, of which 300 ms may wait.
    assert!(statuses.iter().filter(|status| *status == "200").count() >= 30);
    assert!(statuses.iter().any(|status| status == "429"));
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_session_outlives_the_hub_that_keeps_its_state() {
    let directory = tempfile::tempdir().unwrap();
    let hub = async || {
        let builder = HubSimulator::builder().with_tls(false);
        builder.with_state(directory.path()).start().await.unwrap()
    };
    let first = hub().await;
    let mut device = listening(&first).await;
    first.send_c2d("dev1", C2d::new("x")).unwrap();
    let id = device.received().await.pkid;
    drop(device);
    drop(first);
    let second = hub().await;
    let mut device = Device::connect(&second, "dev1").await;
    assert!(device.session_present);
    let again = device.received().await;
    assert_eq!(
        (again.pkid, again.dup, &again.payload[..]),
        (id, true, &b"x"[..])
    );
}
