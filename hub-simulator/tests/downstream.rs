//! What goes to devices: cloud-to-device messages, direct methods, twins.

mod support;

use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{SimpleValue, Value};
use hub_simulator::{C2d, C2dError, C2dOutcome, HubSimulator, Limits, MethodError};
use serde_json::json;
use support::{Client, DataBody, accepted, bytes_of, c2d, plain_hub, rejection, soon};

const C2D: &str = "/devices/dev1/messages/devicebound";

#[tokio::test]
async fn a_completed_message_has_arrived_as_it_was_sent() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut receiver = client.receiver(C2D).await;
    soon(hub.wait_listening("dev1")).await;
    let message = C2d::new("open")
        .with_message_id("m-1")
        .with_property("valve", "3");
    let ticket = hub.send_c2d("dev1", message).unwrap();

    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    assert_eq!(delivery.delivery_tag().len(), 16);
    let message = delivery.message();
    assert_eq!(bytes_of(&message.body), b"open");
    let properties = message.properties.as_ref().unwrap();
    assert_eq!(
        properties.message_id,
        Some(MessageId::String("m-1".to_owned()))
    );
    assert_eq!(
        properties.to.as_deref(),
        Some("/devices/dev1/messages/deviceBound")
    );
    let application = message.application_properties.as_ref().unwrap();
    assert_eq!(
        application.0.get("valve"),
        Some(&SimpleValue::String("3".to_owned()))
    );
    assert_eq!(ticket.outcome_now(), None);
    soon(receiver.accept(&delivery)).await.unwrap();
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
    assert_eq!(ticket.delivery_count(), 1);
}

#[tokio::test]
async fn a_message_waits_for_an_absent_device() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let ticket = hub.send_c2d("dev1", C2d::new("later")).unwrap();
    let mut receiver = client.receiver(C2D).await;
    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    soon(receiver.reject(&delivery, None)).await.unwrap();
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Rejected);
}

#[tokio::test]
async fn an_abandoned_message_comes_again_until_it_is_dead() {
    let limits = Limits::default().with_max_delivery_count(3);
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut client = Client::device(&hub, "dev1").await;
    let mut receiver = client.receiver(C2D).await;
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    for attempt in 0..3u8 {
        let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
        let annotations = delivery.message().message_annotations.as_ref().unwrap();
        let count = annotations
            .0
            .iter()
            .find(|(key, _)| format!("{key:?}").contains("iothub-deliverycount"));
        assert_eq!(count.unwrap().1, &Value::Ubyte(attempt));
        soon(receiver.release(&delivery)).await.unwrap();
    }
    assert_eq!(
        soon(ticket.outcome()).await,
        C2dOutcome::DeliveryCountExceeded
    );
}

#[tokio::test]
async fn a_lapsed_lock_brings_the_message_again_and_the_late_answer_changes_nothing() {
    let limits = Limits::default().with_c2d_lock(Duration::from_millis(200));
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut client = Client::device(&hub, "dev1").await;
    let mut receiver = client.receiver(C2D).await;
    let ticket = hub.send_c2d("dev1", C2d::new("x")).unwrap();
    let first = soon(receiver.recv::<DataBody>()).await.unwrap();
    let second = soon(receiver.recv::<DataBody>()).await.unwrap();
    soon(receiver.reject(&first, None)).await.unwrap();
    soon(receiver.accept(&second)).await.unwrap();
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
    assert_eq!(ticket.delivery_count(), 2);
}

#[tokio::test]
async fn a_message_expires_unread_after_its_time() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let ticket = hub
        .send_c2d("dev1", C2d::new("x").with_ttl(Duration::from_millis(50)))
        .unwrap();
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Expired);
}

#[tokio::test]
async fn the_fifty_first_message_does_not_fit() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    for _ in 0..50 {
        hub.send_c2d("dev1", C2d::new("x")).unwrap();
    }
    assert_eq!(
        hub.send_c2d("dev1", C2d::new("x")).unwrap_err(),
        C2dError::QueueFull
    );
    assert_eq!(
        hub.send_c2d("ghost", C2d::new("x")).unwrap_err(),
        C2dError::UnknownDevice
    );
}

#[tokio::test]
async fn a_message_is_measured_with_its_properties() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let fits = C2d::new(vec![0; 65_000]).with_property("n", "x".repeat(99));
    hub.send_c2d("dev1", fits).unwrap();
    hub.send_c2d("dev1", C2d::new(vec![0; 65_536])).unwrap();
    let mut many = C2d::new("");
    for number in 0..25_000 {
        many = many.with_property(number.to_string(), "xyz");
    }
    for too_large in [
        C2d::new(vec![0; 65_536]).with_property("n", ""),
        C2d::new(vec![0; 65_536]).with_message_id("m"),
        many,
    ] {
        let refused = hub.send_c2d("dev1", too_large);
        assert_eq!(refused.unwrap_err(), C2dError::TooLarge);
    }
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let mut message = c2d("dev1", &"x".repeat(65_536));
    let properties = ApplicationProperties::builder().insert("n", "x").build();
    message.application_properties = Some(properties);
    let (condition, text) = rejection(soon(sender.send(message)).await.unwrap());
    assert_eq!(condition, "amqp:link:message-size-exceeded");
    assert!(text.contains("413001"), "{text}");
}

#[tokio::test]
async fn messages_are_delivered_within_the_links_credit() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut receiver = Receiver::builder()
        .name("c2d")
        .source(C2D)
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session)
        .await
        .unwrap();
    let tickets: Vec<_> = (0..3)
        .map(|_| hub.send_c2d("dev1", C2d::new("x")).unwrap())
        .collect();
    soon(receiver.set_credit(2)).await.unwrap();
    for _ in 0..2 {
        let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
        soon(receiver.accept(&delivery)).await.unwrap();
    }
    soon(tickets[1].outcome()).await;
    assert_eq!(tickets[2].delivery_count(), 0);
}

#[tokio::test]
async fn a_newer_receive_link_displaces_the_older() {
    let hub = plain_hub().await;
    let mut first = Client::device(&hub, "dev1").await;
    let mut old = first.receiver(C2D).await;
    let mut second = Client::device(&hub, "dev1").await;
    let mut new = second.receiver(C2D).await;
    let error = format!("{:?}", soon(old.recv::<DataBody>()).await.unwrap_err());
    assert!(
        error.contains("Another AMQP Client has opened a Receive Link"),
        "{error}"
    );
    hub.send_c2d("dev1", C2d::new("x")).unwrap();
    soon(new.recv::<DataBody>()).await.unwrap();
}

#[tokio::test]
async fn the_service_sends_through_the_hub() {
    let hub = plain_hub().await;
    let mut device = Client::device(&hub, "dev 1").await;
    let mut receiver = device
        .receiver("/devices/dev%201/messages/devicebound")
        .await;
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let to = |address: &str| {
        Message::builder()
            .properties(
                Properties::builder()
                    .message_id("m".to_owned())
                    .to(address.to_owned())
                    .build(),
            )
            .application_properties(
                ApplicationProperties::builder()
                    .insert("iothub-ack", "full")
                    .build(),
            )
            .data(b"hello".to_vec())
            .build()
    };
    accepted(
        soon(sender.send(to("/devices/dev%201/messages/devicebound")))
            .await
            .unwrap(),
    );
    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    assert_eq!(bytes_of(&delivery.message().body), b"hello");

    let unknown = soon(sender.send(to("/devices/ghost/messages/devicebound")))
        .await
        .unwrap();
    assert_eq!(rejection(unknown).0, "amqp:not-found");
    let nowhere = soon(sender.send(to("/nowhere"))).await.unwrap();
    assert_eq!(rejection(nowhere).0, "com.microsoft:argument-error");
}

#[tokio::test]
async fn a_method_is_answered_through_the_hub() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let call = || hub.call_method("dev1", "reboot", "{\"in\":5}", Duration::from_secs(5));
    assert_eq!(call().await.unwrap_err(), MethodError::DeviceNotOnline);
    let mut calls = client.receiver("/devices/dev1/methods/deviceBound").await;
    assert_eq!(call().await.unwrap_err(), MethodError::DeviceNotOnline);
    let mut answers = client.sender("/devices/dev1/methods/deviceBound").await;
    soon(hub.wait_methods("dev1")).await;

    let device = async {
        let delivery = soon(calls.recv::<DataBody>()).await.unwrap();
        let message = delivery.message();
        let name = &message
            .application_properties
            .as_ref()
            .unwrap()
            .0
            .get("IoThub-methodname");
        assert_eq!(*name, Some(&SimpleValue::String("reboot".to_owned())));
        assert_eq!(bytes_of(&message.body), b"{\"in\":5}");
        let id = message
            .properties
            .as_ref()
            .unwrap()
            .correlation_id
            .clone()
            .unwrap();
        assert!(matches!(id, MessageId::Uuid(_)), "{id:?}");
        let answer = Message::builder()
            .properties(Properties::builder().correlation_id(id).build())
            .application_properties(
                ApplicationProperties::builder()
                    .insert("IoThub-status", 200i32)
                    .build(),
            )
            .data(b"\"done\"".to_vec())
            .build();
        accepted(soon(answers.send(answer)).await.unwrap());
    };
    let (response, ()) = tokio::join!(call(), device);
    let response = response.unwrap();
    assert_eq!(
        (response.status, &response.payload[..]),
        (200, &b"\"done\""[..])
    );
}

#[tokio::test]
async fn a_silent_device_times_out_and_an_unknown_one_is_unknown() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let _calls = client.receiver("/devices/dev1/methods/devicebound").await;
    let _answers = client.sender("/devices/dev1/methods/devicebound").await;
    soon(hub.wait_methods("dev1")).await;
    let brief = Duration::from_millis(50);
    assert_eq!(
        hub.call_method("dev1", "x", "", brief).await.unwrap_err(),
        MethodError::TimedOut
    );
    assert_eq!(
        hub.call_method("ghost", "x", "", brief).await.unwrap_err(),
        MethodError::UnknownDevice
    );
}

#[tokio::test]
async fn a_call_whose_caller_has_given_up_is_not_delivered() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut calls = Receiver::builder()
        .name("calls")
        .source("/devices/dev1/methods/devicebound")
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session)
        .await
        .unwrap();
    let _answers = client.sender("/devices/dev1/methods/devicebound").await;
    soon(hub.wait_methods("dev1")).await;
    let brief = Duration::from_millis(100);
    let late = hub.call_method("dev1", "late", "", brief).await;
    assert_eq!(late.unwrap_err(), MethodError::TimedOut);
    let wanted = hub.call_method("dev1", "wanted", "", Duration::from_secs(10));
    let device = async {
        calls.set_credit(10).await.unwrap();
        let delivery = soon(calls.recv::<DataBody>()).await.unwrap();
        let properties = delivery.message().application_properties.clone();
        properties.unwrap().0.get("IoThub-methodname").cloned()
    };
    let name = tokio::select! {
        name = device => name,
        answer = wanted => panic!("{answer:?}"),
    };
    assert_eq!(name, Some(SimpleValue::String("wanted".to_owned())));
}

/// A device's twin links.
struct TwinLinks {
    requests: Sender,
    replies: Receiver,
}

#[allow(
    clippy::unwrap_used,
    reason = "a helper of tests, though not in a test function"
)]
impl TwinLinks {
    async fn open(client: &mut Client) -> Self {
        let replies = client.receiver("/devices/dev1/twin").await;
        let requests = client.sender("/devices/dev1/twin").await;
        Self { requests, replies }
    }

    /// Asks; returns the status and the body.
    async fn ask(&mut self, operation: &str, resource: &str, body: &str) -> (Value, Vec<u8>) {
        let mut annotations = MessageAnnotations::builder().insert("operation", operation);
        if !resource.is_empty() {
            annotations = annotations.insert("resource", resource);
        }
        let id = MessageId::String(format!("{operation}-1"));
        let request = Message::builder()
            .message_annotations(annotations.build())
            .properties(Properties::builder().correlation_id(id.clone()).build())
            .data(body.as_bytes().to_vec())
            .build();
        accepted(soon(self.requests.send(request)).await.unwrap());
        let reply = soon(self.replies.recv::<DataBody>()).await.unwrap();
        let message = reply.message();
        assert_eq!(
            message.properties.as_ref().unwrap().correlation_id,
            Some(id)
        );
        let status = message
            .message_annotations
            .as_ref()
            .unwrap()
            .0
            .iter()
            .next()
            .unwrap()
            .1
            .clone();
        let body = if message.body.is_empty() {
            Vec::new()
        } else {
            bytes_of(&message.body)
        };
        (status, body)
    }
}

#[tokio::test]
async fn a_device_reads_and_reports_its_twin() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut twin = TwinLinks::open(&mut client).await;
    hub.patch_desired("dev1", &json!({ "rate": 5 })).unwrap();
    let (status, _) = twin
        .ask("PATCH", "/properties/reported", "{\"fw\":\"1.2\"}")
        .await;
    assert_eq!(status, Value::Int(200));
    assert_eq!(hub.reported("dev1"), json!({ "fw": "1.2", "$version": 2 }));
    let (status, body) = twin.ask("GET", "", " ").await;
    assert_eq!(status, Value::Int(200));
    let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        seen,
        json!({
            "desired": { "rate": 5, "$version": 2 }, "reported": { "fw": "1.2", "$version": 2 },
        })
    );
    assert_eq!(
        twin.ask("PATCH", "/properties/reported", "[1]").await.0,
        Value::Int(400)
    );
    assert_eq!(twin.ask("POST", "", "").await.0, Value::Int(400));
}

#[tokio::test]
async fn a_subscriber_is_told_of_desired_properties_until_it_unsubscribes() {
    const DESIRED: &str = "/notifications/twin/properties/desired";
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut twin = TwinLinks::open(&mut client).await;
    assert_eq!(
        twin.ask("PUT", DESIRED, "").await,
        (Value::Int(200), vec![])
    );
    hub.patch_desired("dev1", &json!({ "rate": 5, "gone": null }))
        .unwrap();
    let notification = soon(twin.replies.recv::<DataBody>()).await.unwrap();
    assert!(notification.message().properties.is_none());
    let patch: serde_json::Value =
        serde_json::from_slice(&bytes_of(&notification.message().body)).unwrap();
    assert_eq!(patch, json!({ "rate": 5, "gone": null, "$version": 2 }));
    assert_eq!(twin.ask("DELETE", DESIRED, "").await.0, Value::Int(200));
    hub.patch_desired("dev1", &json!({ "rate": 6 })).unwrap();
    // The next thing that comes is the answer, not a notification.
    assert_eq!(
        twin.ask("PATCH", "/properties/reported", "{}").await.0,
        Value::Int(200)
    );
}
