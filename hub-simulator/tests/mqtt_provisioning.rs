//! Provisioning over MQTT.
#![allow(clippy::unwrap_used, reason = "a test file")]

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hub_simulator::{HubSimulator, ProvisioningOptions, sign};
use mqtt::{Connect, ConnectReturnCode, Device, Publish, QoS, SubscribeReasonCode, Wire};
use serde_json::Value;
use support::{expiry, soon};

const ANSWERS: &str = "$dps/registrations/res/#";
const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=";

async fn hub() -> HubSimulator {
    let options = ProvisioningOptions::default()
        .with_retry_after(Duration::from_secs(1))
        .with_assigning(Duration::ZERO);
    let builder = HubSimulator::builder().with_tls(false);
    builder.with_provisioning(options).start().await.unwrap()
}

fn derived(hub: &HubSimulator, id: &str) -> Vec<u8> {
    let key = BASE64.decode(hub.provisioning().group_key()).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(id.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A CONNECT to the service with a token of the group, as the SDKs send it.
fn connect_packet(hub: &HubSimulator, id: &str) -> Connect {
    let resource = format!("{}/registrations/{id}", hub.provisioning().id_scope());
    let ahead = expiry(Duration::from_secs(3600));
    let token = sign(&resource, &derived(hub, id), ahead, Some("registration"));
    let mut connect = Connect::new(id);
    connect.keep_alive = 60;
    connect.clean_session = false;
    let user_name = format!("{resource}/api-version=2019-03-31&ClientVersion=test%2F1");
    connect.set_login(user_name, token);
    connect
}

fn json_of(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).unwrap()
}

#[tokio::test]
async fn a_device_registers_and_connects_to_its_hub() {
    let hub = hub().await;
    let mut device = Device::connect_with(&hub, connect_packet(&hub, "meter-1")).await;
    assert!(!device.session_present);
    let granted = device.subscribe(ANSWERS, QoS::ExactlyOnce).await;
    assert_eq!(granted, SubscribeReasonCode::Success(QoS::AtLeastOnce));
    let body = br#"{"registrationId":"meter-1"}"#;
    device.publish_acked(&format!("{REGISTER}r1"), body).await;
    let first = device.received().await;
    assert_eq!(
        first.topic,
        "$dps/registrations/res/202/?$rid=r1&retry-after=1"
    );
    assert_eq!(first.qos, QoS::AtLeastOnce);
    device.acknowledge(first.pkid).await;
    let operation = json_of(&first)["operationId"].as_str().unwrap().to_owned();
    let status = format!(
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=r2&operationId={operation}"
    );
    device.publish_acked(&status, b"").await;
    let last = device.received().await;
    assert_eq!(last.topic, "$dps/registrations/res/200/?$rid=r2");
    let body = json_of(&last);
    assert_eq!(body["status"], "assigned");
    assert_eq!(body["registrationState"]["assignedHub"], hub.host());
    device.disconnect().await;

    let mut device = Device::connect(&hub, "meter-1").await;
    let key = BASE64.encode(derived(&hub, "meter-1"));
    assert_eq!(hub.device_keys("meter-1").unwrap().primary, key);
    device.ping().await;
}

#[tokio::test]
async fn a_device_that_is_not_enrolled_is_refused() {
    let hub = hub().await;
    let mut connect = connect_packet(&hub, "meter-1");
    let user_name = connect.login.as_ref().unwrap().username.clone();
    connect.set_login(
        user_name,
        connect_packet(&hub, "meter-2").login.unwrap().password,
    );
    let mut wire = Wire::open(&hub).await;
    let answer = wire.connect(connect).await.unwrap();
    assert_eq!(answer.code, ConnectReturnCode::NotAuthorized);
    assert_eq!(wire.next().await, None);
}

#[tokio::test]
async fn a_refused_request_is_answered_with_its_error() {
    let hub = hub().await;
    let mut device = Device::connect_with(&hub, connect_packet(&hub, "meter-1")).await;
    device.subscribe(ANSWERS, QoS::AtMostOnce).await;
    let body = br#"{"registrationId":"meter-2"}"#;
    device.publish_acked(&format!("{REGISTER}1"), body).await;
    let answer = device.received().await;
    assert_eq!(answer.topic, "$dps/registrations/res/400/?$rid=1");
    assert!(json_of(&answer)["errorCode"].is_u64());
}

#[tokio::test]
async fn topics_that_the_service_does_not_have_end_the_connection() {
    let hub = hub().await;
    for topic in [
        "devices/meter-1/messages/events/",
        "$dps/registrations/PUT/iotdps-register",
        "$iothub/twin/GET/?$rid=1",
    ] {
        let mut device = Device::connect_with(&hub, connect_packet(&hub, "meter-1")).await;
        device.publish(topic, b"{}").await;
        device.closed().await;
    }
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
}
