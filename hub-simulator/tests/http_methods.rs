//! Direct methods called over HTTP, and what becomes of calls that nobody answers.
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

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::types::messaging::{ApplicationProperties, Message, Outcome, Properties};
use serde_json::{Value, json};
use support::{Client, DataBody, accepted, bytes_of, plain_hub, rejection, soon};
use web::{Http, Reply};

const ADDRESS: &str = "/devices/dev1/methods/devicebound";
const PATH: &str = "/twins/dev1/methods";

/// Takes one call and answers it with a payload; returns the payload of the call.
async fn answer(calls: &mut Receiver, answers: &mut Sender, payload: &[u8]) -> Vec<u8> {
    let (outcome, payload) = try_answer(calls, answers, payload).await;
    accepted(outcome);
    payload
}

/// Takes one call and answers it; returns what the hub makes of that, and the payload of the call.
async fn try_answer(
    calls: &mut Receiver,
    answers: &mut Sender,
    payload: &[u8],
) -> (Outcome, Vec<u8>) {
    let delivery = soon(calls.recv::<DataBody>()).await.unwrap();
    let message = delivery.message();
    let id = message.properties.clone().unwrap().correlation_id.unwrap();
    let status = ApplicationProperties::builder().insert("IoThub-status", 207i32);
    let answer = Message::builder()
        .properties(Properties::builder().correlation_id(id).build())
        .application_properties(status.build())
        .data(payload.to_vec())
        .build();
    let outcome = soon(answers.send(answer)).await.unwrap();
    (outcome, bytes_of(&message.body))
}

fn inner(reply: &Reply) -> Value {
    serde_json::from_str(reply.json()["Message"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_call_reaches_the_device_and_its_answer_the_caller_to_the_letter() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut calls = client.receiver(ADDRESS).await;
    let mut answers = client.sender(ADDRESS).await;
    soon(hub.wait_methods("dev1")).await;
    let mut http = Http::policy(&hub, "service").await;
    for (sent, arrives) in [
        (
            r#", "payload": {"b":1.50, "a":[ 1 ]}"#,
            r#"{"b":1.50, "a":[ 1 ]}"#,
        ),
        (r#", "payload": null"#, "null"),
        ("", "null"),
    ] {
        let body = format!(r#"{{"methodName": "reboot", "responseTimeoutInSeconds": 10{sent}}}"#);
        let ask = http.ask("POST", PATH, &[], body.as_bytes());
        let (reply, payload) = tokio::join!(ask, answer(&mut calls, &mut answers, b"{\"x\":2.0}"));
        assert_eq!(String::from_utf8(payload).unwrap(), arrives);
        assert_eq!(reply.status, 200);
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            r#"{"status":207,"payload":{"x":2.0}}"#
        );
    }
    for (answered, read) in [(&b""[..], Value::Null), (b"no json", json!("no json"))] {
        let body = json!({"methodName": "reboot"});
        let ask = http.post(PATH, &body);
        let (reply, _) = tokio::join!(ask, answer(&mut calls, &mut answers, answered));
        assert_eq!(reply.json()["payload"], read);
    }
}

#[tokio::test]
async fn an_answer_over_128_kb_is_refused_and_its_caller_goes_on_waiting() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut calls = client.receiver(ADDRESS).await;
    let mut answers = client.sender(ADDRESS).await;
    soon(hub.wait_methods("dev1")).await;
    let call = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
    let device = async {
        let large = vec![b'1'; 128 * 1024 + 1];
        let (outcome, _) = try_answer(&mut calls, &mut answers, &large).await;
        let (condition, _) = rejection(outcome);
        assert_eq!(condition, "amqp:link:message-size-exceeded");
    };
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = device => {}
    }
    // Over MQTT there is no other way to refuse than to hang up.
    drop((calls, answers, client));
    let mut device = mqtt::Device::connect(&hub, "dev1").await;
    let filter = "$iothub/methods/POST/#";
    device.subscribe(filter, mqtt::QoS::AtMostOnce).await;
    let call = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
    let device = async {
        let topic = device.received().await.topic;
        let (_, rid) = topic.split_once("$rid=").unwrap();
        let topic = format!("$iothub/methods/res/200/?$rid={rid}");
        device.publish(&topic, &vec![b'1'; 128 * 1024 + 1]).await;
        assert_eq!(device.answer().await, None);
    };
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = device => {}
    }
}

#[tokio::test]
async fn a_device_that_does_not_listen_is_not_online() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let mut http = Http::policy(&hub, "iothubowner").await;
    let reply = http.post(PATH, &json!({"methodName": "m"})).await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.header("iothub-errorcode"), "DeviceNotOnline");
    let inner = inner(&reply);
    assert_eq!(inner["errorCode"], 404_103);
    assert_eq!(inner["message"], "Timed out waiting for device to connect.");
    assert_eq!(inner["info"]["timeout"], "00:00:00");
    assert_eq!(reply.json()["ExceptionMessage"], "");

    let reply = http
        .post("/twins/ghost/methods", &json!({"methodName": "m"}))
        .await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["Message"], "ErrorCode:DeviceNotFound;ghost");
    let reply = http
        .post("/twins/dev1/modules/m/methods", &json!({"methodName": "m"}))
        .await;
    assert_eq!(reply.header("iothub-errorcode"), "ModuleNotFound");
}

#[tokio::test]
async fn a_call_may_wait_for_its_device_to_come() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let mut http = Http::policy(&hub, "service").await;
    let call = json!({"methodName": "m", "connectTimeoutInSeconds": 60});
    let device = async {
        let mut client = Client::device(&hub, "dev1").await;
        let mut calls = client.receiver(ADDRESS).await;
        let mut answers = client.sender(ADDRESS).await;
        answer(&mut calls, &mut answers, b"1").await
    };
    let (reply, _) = tokio::join!(http.post(PATH, &call), device);
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_silent_device_is_given_the_time_that_the_caller_allows() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let _calls = client.receiver(ADDRESS).await;
    let _answers = client.sender(ADDRESS).await;
    soon(hub.wait_methods("dev1")).await;
    let mut http = Http::policy(&hub, "service").await;
    let asked = tokio::time::Instant::now();
    let reply = http
        .post(
            PATH,
            &json!({"methodName": "m", "responseTimeoutInSeconds": 5}),
        )
        .await;
    assert!(asked.elapsed() >= Duration::from_secs(5));
    assert_eq!(reply.status, 504);
    assert_eq!(reply.header("iothub-errorcode"), "GatewayTimeout");
    assert_eq!(inner(&reply)["errorCode"], 504_101);
}

#[tokio::test]
async fn what_is_against_the_rules_is_refused_before_the_device_hears_of_it() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let mut http = Http::policy(&hub, "service").await;
    for body in [
        json!({}),
        json!({"methodName": ""}),
        json!({"methodName": "with space"}),
        json!({"methodName": "a/b"}),
        json!({"methodName": "$a"}),
        json!({"methodName": "ä"}),
        json!({"methodName": "m", "responseTimeoutInSeconds": 4}),
        json!({"methodName": "m", "responseTimeoutInSeconds": 301}),
        json!({"methodName": "m", "connectTimeoutInSeconds": 301}),
        json!(null),
        json!([]),
    ] {
        assert_eq!(http.post(PATH, &body).await.status, 400, "{body}");
    }
    let large = json!({"methodName": "m", "payload": "x".repeat(128 * 1024)});
    let reply = http.post(PATH, &large).await;
    assert_eq!(reply.status, 413);
    assert_eq!(reply.header("iothub-errorcode"), "MessageTooLarge");
}
