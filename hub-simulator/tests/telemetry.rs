//! What devices send: acceptance, limits, batches, and whose it is.

#[path = "support/http.rs"]
mod http;
mod support;

use std::ops::RangeInclusive;
use std::time::Duration;

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::Sender;
use fe2o3_amqp::link::SenderAttachError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::types::messaging::message::__private::Serializable;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Batch, Data, Message, Properties};
use http::Http;
use hub_simulator::{C2d, HubSimulator, RecordMode};
use support::{Client, DataBody, accepted, message, plain_hub, rejection, soon, token};

#[tokio::test]
async fn an_accepted_message_is_recorded_whole() {
    let hub = HubSimulator::builder().start().await.unwrap();
    let mut client = Client::connect_tls(&hub, SaslProfile::Anonymous).await;
    client
        .authorize(
            &hub.device_connection_string("dev1"),
            "localhost/devices/dev1",
        )
        .await;
    let mut sender = client.telemetry("dev1").await;
    let sent = Message::builder()
        .properties(
            Properties::builder()
                .message_id("m-1".to_owned())
                .correlation_id(7u64)
                .content_type("application/json")
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder()
                .insert("level", "3")
                .build(),
        )
        .data(b"{}".to_vec())
        .build();
    accepted(soon(sender.send(sent)).await.unwrap());

    let [accepted] = hub.record().accepted().try_into().unwrap();
    assert_eq!(accepted.device_id, "dev1");
    assert_eq!(accepted.message_id.as_deref(), Some("m-1"));
    assert_eq!(accepted.correlation_id.as_deref(), Some("7"));
    assert_eq!(accepted.content_type.as_deref(), Some("application/json"));
    assert_eq!(&accepted.body[..], b"{}");
    assert_eq!(accepted.properties["level"], "3");
    assert_eq!(accepted.connection, hub.connections()[0].id);
    assert_eq!(hub.record().count_of("dev1"), 1);
}

#[tokio::test]
async fn a_policy_token_serves_every_enabled_device() {
    let hub = plain_hub().await;
    hub.add_devices(["a", "b"]);
    let mut client = Client::connect(&hub).await;
    client
        .authorize(&hub.policy_connection_string("device"), "localhost")
        .await;
    let mut links = Vec::new();
    for id in ["a", "b"] {
        let mut sender = client.telemetry(id).await;
        accepted(soon(sender.send(message("1", "x"))).await.unwrap());
        assert_eq!(hub.record().count_of(id), 1);
        links.push(sender);
    }
    assert_eq!(hub.connections()[0].tokens, 1);
    assert_eq!(hub.attached_devices(), 2);
}

#[tokio::test]
async fn a_thousand_messages_from_ten_links_keep_their_order() {
    let hub = plain_hub().await;
    let ids: Vec<String> = (0..10).map(|n| format!("d{n}")).collect();
    hub.add_devices(&ids);
    let mut client = Client::connect(&hub).await;
    client
        .authorize(&hub.policy_connection_string("iothubowner"), "localhost")
        .await;
    let mut senders = Vec::new();
    for id in &ids {
        senders.push(client.telemetry(id).await);
    }
    let mut settlements = Vec::new();
    for n in 0..100 {
        for sender in &mut senders {
            settlements.push(
                sender
                    .send_batchable(message(&n.to_string(), "x"))
                    .await
                    .unwrap(),
            );
        }
    }
    for settlement in settlements {
        accepted(soon(settlement).await.unwrap());
    }
    soon(hub.record().wait_for(1000)).await;
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for id in &ids {
        let record = hub.record().accepted();
        let got: Vec<_> = record
            .iter()
            .filter(|m| m.device_id == *id)
            .map(|m| m.message_id.clone().unwrap())
            .collect();
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn a_message_of_many_frames_arrives_whole() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let body: String = (0..200_000u32)
        .map(|n| char::from(b'a' + (n % 26) as u8))
        .collect();
    accepted(soon(sender.send(message("big", &body))).await.unwrap());
    assert_eq!(&hub.record().accepted()[0].body[..], body.as_bytes());
}

#[tokio::test]
async fn a_message_over_the_limit_is_rejected_and_the_link_stays() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let outcome = soon(sender.send(message("big", &"x".repeat(300_000))))
        .await
        .unwrap();
    assert_eq!(rejection(outcome).0, "amqp:link:message-size-exceeded");
    accepted(soon(sender.send(message("small", "x"))).await.unwrap());
    assert_eq!(hub.record().count(), 1);
}

#[tokio::test]
async fn telemetry_and_messages_over_amqp_are_activity() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let owner = token(&hub.policy_connection_string("iothubowner"));
    let mut owner = Http::connect(&hub, &owner).await;
    let mut seen = async || {
        let device = owner.get("/devices/dev1").await.json();
        device["lastActivityTime"].as_str().unwrap().to_owned()
    };
    let attached = seen().await;
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    let sent = seen().await;
    assert!(sent > attached, "{sent} {attached}");
    let mut receiver = client.receiver("/devices/dev1/messages/devicebound").await;
    let opened = seen().await;
    hub.send_c2d("dev1", C2d::new("x")).unwrap();
    soon(receiver.recv::<DataBody>()).await.unwrap();
    let received = seen().await;
    assert!(received > opened, "{received} {opened}");
}

/// Makes a batch of messages, numbered and with this body.
fn batch(numbers: RangeInclusive<u32>, body: &str) -> Sendable<Batch<Data>> {
    let part = |number: u32| {
        let message = Serializable(message(&number.to_string(), body));
        Data(
            serde_amqp::to_vec(&message)
                .expect("it can be written")
                .into(),
        )
    };
    let parts = numbers.map(part).collect::<Vec<_>>();
    Sendable::builder()
        .message(Message::builder().data_batch(parts).build())
        .message_format(0x8001_3700u32)
        .build()
}

#[tokio::test]
async fn what_is_around_a_message_is_not_metered() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let largest = "x".repeat(256 * 1024 - 1);
    accepted(soon(sender.send(message("1", &largest))).await.unwrap());
    let larger = soon(sender.send(message("12", &largest))).await;
    assert_eq!(
        rejection(larger.unwrap()).0,
        "amqp:link:message-size-exceeded"
    );
    // Some 255,000 bytes in sections of 16,000.
    let many = batch(100..=599, &"x".repeat(507));
    accepted(soon(sender.send(many)).await.unwrap());
    assert_eq!(hub.record().count(), 501);
}

#[tokio::test]
async fn a_batch_counts_as_its_messages_and_settles_as_one() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_record(RecordMode::Compact)
        .start()
        .await
        .unwrap();
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let batch = batch(1..=3, "x");
    accepted(soon(sender.send(batch)).await.unwrap());
    let ids: Vec<_> = hub
        .record()
        .accepted()
        .into_iter()
        .map(|m| m.message_id.unwrap())
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
    assert_eq!(hub.record().count_of("dev1"), 3);
}

#[tokio::test]
async fn a_link_without_a_token_for_its_device_is_refused() {
    let hub = plain_hub().await;
    hub.add_device("other");
    let mut client = Client::device(&hub, "dev1").await;
    let error = soon(Sender::attach(
        &mut client.session,
        "s",
        "/devices/other/messages/events",
    ))
    .await
    .unwrap_err();
    let SenderAttachError::RemoteClosedWithError(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(support::condition_of(&error), "amqp:unauthorized-access");
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_not_found() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let error = soon(Sender::attach(
        &mut client.session,
        "s",
        "/devices/dev1/nothing",
    ))
    .await
    .unwrap_err();
    let SenderAttachError::RemoteClosedWithError(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(support::condition_of(&error), "amqp:not-found");
    let text: serde_json::Value =
        serde_json::from_str(error.description.as_deref().unwrap()).unwrap();
    assert_eq!(text["errorCode"], 404_006);
}

#[tokio::test]
async fn a_disabled_device_loses_its_links_and_nobody_else_does() {
    let hub = plain_hub().await;
    hub.add_devices(["a", "b"]);
    let mut client = Client::connect(&hub).await;
    client
        .authorize(&hub.policy_connection_string("device"), "localhost")
        .await;
    let mut a = client.telemetry("a").await;
    let mut b = client.telemetry("b").await;
    hub.set_enabled("a", false);
    soon(a.on_detach()).await;
    accepted(soon(b.send(message("1", "x"))).await.unwrap());
    soon(hub.wait_until(|stats| stats.attached_devices == 1)).await;
}

#[tokio::test]
async fn a_device_seen_for_the_first_time_registers_itself_where_that_is_on() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_auto_register(true)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&hub).await;
    client
        .authorize(&hub.policy_connection_string("device"), "localhost")
        .await;
    let mut sender = client.telemetry("new").await;
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    assert!(hub.device_keys("new").is_some());
}

#[tokio::test]
async fn dropping_the_simulator_closes_connections_and_frees_the_port() {
    let hub = plain_hub().await;
    let addr = hub.addr();
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    drop(hub);
    tokio::time::timeout(Duration::from_secs(5), sender.on_detach())
        .await
        .unwrap();
    let again = HubSimulator::builder()
        .with_tls(false)
        .with_address(addr)
        .start()
        .await
        .unwrap();
    assert_eq!(again.addr(), addr);
}
