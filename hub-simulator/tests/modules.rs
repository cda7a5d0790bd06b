//! Modules of a device.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;
#[path = "support/http.rs"]
mod web;

use std::time::Duration;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp::types::messaging::{Message, Properties};
use hub_simulator::HubSimulator;
use support::{Client, DataBody, accepted, bytes_of, expiry, message, plain_hub, soon, token};
use web::Http;

const MODULE: &str = "/devices/dev1/modules/m1";

/// A hub with a device and a module of it.
async fn hub() -> HubSimulator {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    hub.add_device("dev1/m1");
    hub
}

/// Connects and puts a token that the module signs itself.
async fn module(hub: &HubSimulator) -> Client {
    let mut client = Client::connect(hub).await;
    let keys = hub.device_keys("dev1/m1").unwrap();
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD
        .decode(&keys.primary)
        .unwrap();
    let resource = "localhost/devices/dev1/modules/m1";
    let token = hub_simulator::sign(resource, &key, expiry(Duration::from_secs(600)), None);
    let status = client.cbs.put(resource, &token).await;
    assert_eq!(status, (200, "OK".to_owned()));
    client
}

#[tokio::test]
async fn a_module_sends_telemetry_under_its_own_stamps() {
    let hub = hub().await;
    let mut client = module(&hub).await;
    let mut events = client.sender(&format!("{MODULE}/messages/events")).await;
    accepted(soon(events.send(message("1", "x"))).await.unwrap());
    let record = hub.record().accepted();
    assert_eq!(record[0].device_id, "dev1/m1");
    let stamps = record[0].stamps.clone().unwrap();
    assert_eq!(stamps.device_id, "dev1");
    assert_eq!(stamps.module_id.as_deref(), Some("m1"));
    assert_eq!(
        stamps.auth_method,
        r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#
    );
    assert!(stamps.generation_id.len() > 10);
}

#[tokio::test]
async fn a_policys_telemetry_says_so_whatever_the_device_claims() {
    let hub = hub().await;
    let mut client = Client::connect(&hub).await;
    client
        .authorize(&hub.policy_connection_string("device"), "device")
        .await;
    let mut events = client.telemetry("dev1").await;
    let forged = Message::builder()
        .message_annotations(
            fe2o3_amqp::types::messaging::MessageAnnotations::builder()
                .insert("iothub-connection-device-id", "other")
                .build(),
        )
        .data(b"x".to_vec())
        .build();
    accepted(soon(events.send(forged)).await.unwrap());
    let record = hub.record().accepted();
    let stamps = record[0].stamps.clone().unwrap();
    assert_eq!(stamps.device_id, "dev1");
    assert_eq!(stamps.module_id, None);
    assert!(stamps.auth_method.contains(r#""scope":"hub""#));
}

#[tokio::test]
async fn a_module_has_messages_methods_and_a_twin_of_its_own() {
    let hub = hub().await;
    let mut client = module(&hub).await;
    let mut messages = client
        .receiver(&format!("{MODULE}/messages/deviceBound"))
        .await;
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let to = format!("{MODULE}/messages/deviceBound");
    let c2d = Message::builder()
        .properties(Properties::builder().to(to.clone()).build())
        .data(b"hello".to_vec())
        .build();
    accepted(soon(sender.send(c2d)).await.unwrap());
    let delivery = soon(messages.recv::<DataBody>()).await.unwrap();
    assert_eq!(bytes_of(&delivery.message().body), b"hello");
    let properties = delivery.message().properties.as_ref().unwrap();
    assert_eq!(properties.to.as_deref(), Some(&*to));

    let methods = format!("{MODULE}/methods/deviceBound");
    let _calls = client.receiver(&methods).await;
    let _answers = client.sender(&methods).await;
    soon(hub.wait_methods("dev1/m1")).await;
    client.receiver(&format!("{MODULE}/twin")).await;
    client.sender(&format!("{MODULE}/twin")).await;
    // Inputs are fed by routes of an edge: the link is there and silent.
    client.receiver(&format!("{MODULE}/messages/events")).await;
}

#[tokio::test]
async fn a_module_does_not_speak_for_its_device_but_the_device_for_its_modules() {
    let hub = hub().await;
    let mut client = module(&hub).await;
    let address = "/devices/dev1/messages/deviceBound";
    let refused = soon(Receiver::attach(&mut client.session, "r", address)).await;
    assert!(refused.unwrap_err().to_string().contains("Unauthorized"));
    let mut device = Client::device(&hub, "dev1").await;
    device
        .receiver(&format!("{MODULE}/messages/deviceBound"))
        .await;

    let events = format!("{MODULE}/messages/events");
    let mut http = Http::device(&hub, "dev1").await;
    assert_eq!(http.ask("POST", &events, &[], b"").await.status, 204);
    let mut connect = mqtt::connect_packet(&hub, "dev1/m1");
    let user_name = format!("{}/dev1/m1", hub.host());
    connect.set_login(user_name, token(&hub.device_connection_string("dev1")));
    mqtt::Device::connect_with(&hub, connect).await;
}
