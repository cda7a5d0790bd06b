//! What an application is told about the fates of its messages.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

mod support;

use std::time::Duration;

use fe2o3_amqp::link::delivery::Delivery;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{
    Binary, SimpleValue, Symbol, Timestamp, Uuid, Value as AmqpValue,
};
use hub_simulator::{Ack, C2d, HubSimulator, Limits};
use serde_json::Value;
use support::{Client, DataBody, accepted, bytes_of, plain_hub, rejection, soon};

const FEEDBACK: &str = "/messages/serviceBound/feedback";
const C2D: &str = "/devices/dev1/messages/deviceBound";

/// A hub that does not let feedback wait for company.
async fn prompt_hub() -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .with_limits(Limits::default().with_feedback_wait(Duration::from_millis(1)))
        .start()
        .await
        .unwrap()
}

fn annotation<'a>(delivery: &'a Delivery<DataBody>, name: &str) -> Option<&'a AmqpValue> {
    let annotations: &MessageAnnotations = delivery.message().message_annotations.as_ref()?;
    let name = fe2o3_amqp::types::messaging::annotations::OwnedKey::Symbol(Symbol::from(name));
    annotations.0.get(&name)
}

async fn records(receiver: &mut Receiver) -> (Delivery<DataBody>, Vec<Value>) {
    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    let records = serde_json::from_slice(&bytes_of(&delivery.message().body)).unwrap();
    (delivery, records)
}

/// A message to dev1 that asks for feedback.
fn asking(ack: &str, properties: Properties) -> Message<Data> {
    Message::builder()
        .properties(Properties {
            to: Some(C2D.to_owned()),
            ..properties
        })
        .application_properties(
            ApplicationProperties::builder()
                .insert("iothub-ack", ack)
                .build(),
        )
        .data(b"x".to_vec())
        .build()
}

async fn send(sender: &mut Sender, id: &str, ack: &str) {
    let properties = Properties::builder().message_id(id.to_owned()).build();
    accepted(soon(sender.send(asking(ack, properties))).await.unwrap());
}

#[tokio::test]
async fn a_batch_of_feedback_has_all_that_sdks_read() {
    let hub = prompt_hub().await;
    let mut device = Client::device(&hub, "dev1").await;
    let mut messages = device.receiver(C2D).await;
    let mut service = Client::service(&hub).await;
    let mut feedback = service.receiver(FEEDBACK).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let id = Uuid::from([0x5a; 16]);
    let properties = Properties::builder().message_id(id).build();
    accepted(soon(sender.send(asking("full", properties))).await.unwrap());
    let delivery = soon(messages.recv::<DataBody>()).await.unwrap();
    soon(messages.accept(&delivery)).await.unwrap();

    let (batch, records) = records(&mut feedback).await;
    assert_eq!(batch.delivery_tag().len(), 16);
    let properties = batch.message().properties.as_ref().unwrap();
    assert_eq!(
        properties.user_id,
        Some(Binary::from(b"localhost".to_vec()))
    );
    assert_eq!(
        properties.content_type,
        Some(Symbol::from(
            "application/vnd.microsoft.iothub.feedback.json"
        ))
    );
    assert!(matches!(
        annotation(&batch, "iothub-enqueuedtime"),
        Some(AmqpValue::Timestamp(_))
    ));
    let [record] = &records[..] else {
        panic!("one record")
    };
    assert_eq!(
        record["originalMessageId"],
        "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a"
    );
    assert_eq!(record["deviceId"], "dev1");
    assert_eq!(record["statusCode"], "Success");
    assert_eq!(record["description"], "Success");
    assert!(record["deviceGenerationId"].as_str().unwrap().len() > 10);
    assert!(record["enqueuedTimeUtc"].as_str().unwrap().ends_with('Z'));
    soon(feedback.accept(&batch)).await.unwrap();
}

#[tokio::test]
async fn only_the_fates_that_were_asked_for_are_told() {
    let hub = prompt_hub().await;
    let mut device = Client::device(&hub, "dev1").await;
    let mut messages = device.receiver(C2D).await;
    let mut service = Client::service(&hub).await;
    let mut feedback = service.receiver(FEEDBACK).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    for (id, ack) in [("1", "positive"), ("2", "negative"), ("3", "none")] {
        send(&mut sender, id, ack).await;
        let delivery = soon(messages.recv::<DataBody>()).await.unwrap();
        soon(messages.reject(&delivery, None)).await.unwrap();
    }
    // Whatever was told of the others was told before this one.
    send(&mut sender, "4", "full").await;
    let delivery = soon(messages.recv::<DataBody>()).await.unwrap();
    soon(messages.accept(&delivery)).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        let (batch, records) = records(&mut feedback).await;
        soon(feedback.accept(&batch)).await.unwrap();
        told.extend(records.iter().map(|record| {
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            (
                text("originalMessageId"),
                text("statusCode"),
                text("description"),
            )
        }));
    }
    let owned = |(a, b, c): (&str, &str, &str)| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        told,
        [
            ("2", "Rejected", "Message rejected"),
            ("4", "Success", "Success")
        ]
        .map(owned)
    );
}

#[tokio::test]
async fn receivers_compete_and_what_one_gives_back_another_gets() {
    let hub = prompt_hub().await;
    hub.add_device("dev1");
    let mut first = Client::service(&hub).await;
    // It asks for one batch and no more.
    let attached = Receiver::builder()
        .name("one")
        .source(FEEDBACK)
        .credit_mode(CreditMode::Manual)
        .attach(&mut first.session);
    let mut one = soon(attached).await.unwrap();
    soon(one.set_credit(1)).await.unwrap();
    let expired = |id: &str| {
        C2d::new("x")
            .with_message_id(id)
            .with_ack(Ack::Negative)
            .with_ttl(Duration::ZERO)
    };
    hub.send_c2d("dev1", expired("a")).unwrap();
    let (batch, told) = records(&mut one).await;
    assert_eq!(told[0]["statusCode"], "Expired");
    let mut second = Client::service(&hub).await;
    let mut other = second.receiver(FEEDBACK).await;
    // It is locked for the first one until that gives it back.
    soon(one.release(&batch)).await.unwrap();
    let (batch, told) = records(&mut other).await;
    assert_eq!(told[0]["originalMessageId"], "a");
    soon(other.accept(&batch)).await.unwrap();
    hub.send_c2d("dev1", expired("b")).unwrap();
    let (_, told) = records(&mut other).await;
    assert_eq!(told[0]["originalMessageId"], "b");
}

#[tokio::test]
async fn feedback_is_for_those_who_serve() {
    let hub = plain_hub().await;
    let mut device = Client::device(&hub, "dev1").await;
    let refused = soon(Receiver::attach(&mut device.session, "f", FEEDBACK)).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("Unauthorized"), "{error}");
    let mut service = Client::service(&hub).await;
    service
        .receiver("/messages/serviceBound/filenotifications")
        .await;
}

#[tokio::test]
async fn a_message_of_the_service_arrives_with_all_its_properties_and_their_types() {
    let hub = plain_hub().await;
    let mut device = Client::device(&hub, "dev1").await;
    let mut messages = device.receiver(C2D).await;
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let in_an_hour = support::expiry(Duration::from_secs(3600)) as i64 * 1000;
    let properties = Properties::builder()
        .message_id(7u64)
        .correlation_id(Binary::from(vec![1, 2]))
        .user_id(Binary::from(b"me".to_vec()))
        .to(C2D.to_owned())
        .content_type("text/plain")
        .content_encoding("utf-8")
        .absolute_expiry_time(Timestamp::from_milliseconds(in_an_hour))
        .creation_time(Timestamp::from_milliseconds(1_500_000_000_123))
        .build();
    let application = ApplicationProperties::builder()
        .insert("text", "a")
        .insert("int", -5i32)
        .insert("flag", true)
        .insert("double", 1.5f64)
        .insert("iothub-ack", "none")
        .build();
    let message = Message::builder()
        .properties(properties.clone())
        .application_properties(application.clone())
        .data(b"x".to_vec())
        .build();
    accepted(soon(sender.send(message)).await.unwrap());
    let delivery = soon(messages.recv::<DataBody>()).await.unwrap();
    let message = delivery.message();
    assert_eq!(message.properties.as_ref(), Some(&properties));
    let delivered = message.application_properties.as_ref().unwrap();
    let pairs = |of: &ApplicationProperties| {
        let mut pairs: Vec<(String, SimpleValue)> =
            of.0.iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        pairs
    };
    assert_eq!(pairs(delivered), pairs(&application));
    assert_eq!(
        annotation(&delivery, "iothub-deliverycount"),
        Some(&AmqpValue::Ubyte(0))
    );
    assert_eq!(
        annotation(&delivery, "x-opt-sequence-number"),
        Some(&AmqpValue::Ulong(1))
    );
    assert_eq!(properties.message_id, Some(MessageId::Ulong(7)));
}

#[tokio::test]
async fn a_refusal_is_described_in_json_and_in_the_info_map() {
    let hub = plain_hub().await;
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let outcome = soon(sender.send(support::c2d("ghost", "x"))).await.unwrap();
    let fe2o3_amqp::types::messaging::Outcome::Rejected(rejected) = &outcome else {
        panic!("{outcome:?}")
    };
    let info = rejected.error.clone().unwrap().info.unwrap();
    let of = |name: &str| info.get(&Symbol::from(name)).cloned();
    assert_eq!(
        of("com.microsoft:error-code"),
        Some(AmqpValue::Int(404_001))
    );
    assert_eq!(of("com.microsoft:is-filtered"), Some(AmqpValue::Bool(true)));
    let Some(AmqpValue::String(tracking)) = of("com.microsoft:tracking-id") else {
        panic!("no tracking id")
    };
    let (condition, description) = rejection(outcome);
    assert_eq!(condition, "amqp:not-found");
    let description: Value = serde_json::from_str(&description).unwrap();
    assert_eq!(description["errorCode"], 404_001);
    assert_eq!(description["trackingId"], tracking);
    assert_eq!(
        description["message"],
        "Device ghost at IotHub localhost not registered."
    );
}
