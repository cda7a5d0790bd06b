//! Telemetry as Event Hubs clients read it.

#[path = "support/events.rs"]
mod events;
#[path = "support/http.rs"]
mod http;
mod support;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use events::{Reader, authorize, bodies, by_name, next, partition, token, whole};
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::types::definitions::{Fields, Role};
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Message, MessageAnnotations, Outcome, Properties,
};
use fe2o3_amqp::types::performatives::{Flow, Performative};
use fe2o3_amqp::types::primitives::{SimpleValue, Symbol, Value};
use hub_simulator::{EventRetention, HubSimulator, RecordMode, StartError};
use support::{Client, accepted, bytes_of, condition_of, expiry, message, soon};
use wire::Wire;

/// A hub with one partition, on plain TCP.
async fn hub() -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .with_partitions(1)
        .with_consumer_group("second")
        .start()
        .await
        .unwrap()
}

/// A connection that may read, and a device's that sends.
async fn both(hub: &HubSimulator) -> (Client, Client) {
    hub.add_device("dev1");
    let mut reader = Client::connect(hub).await;
    authorize(&mut reader, hub).await;
    (reader, Client::device(hub, "dev1").await)
}

async fn send(device: &mut Client, numbers: std::ops::Range<u32>) {
    let mut sender = device.telemetry("dev1").await;
    for number in numbers {
        let sent = sender.send(message("m", &number.to_string()));
        accepted(soon(sent).await.unwrap());
    }
    soon(sender.close()).await.unwrap();
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

#[tokio::test]
async fn an_event_is_the_message_with_the_hubs_stamps() {
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    let sent = Message::builder()
        .properties(
            Properties::builder()
                .message_id("m-1".to_owned())
                .correlation_id(7u64)
                .content_type("application/json")
                .content_encoding("utf-8")
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder()
                .insert("level", 3i32)
                .build(),
        )
        .message_annotations(
            MessageAnnotations::builder()
                .insert(Symbol::from("dt-subject"), text("thermostat"))
                .insert(Symbol::from("iothub-connection-device-id"), text("forged"))
                .insert(Symbol::from("X-Opt-Offset"), text("forged"))
                .build(),
        )
        .data(b"{}".to_vec())
        .build();
    let mut sender = device.telemetry("dev1").await;
    accepted(soon(sender.send(sent.clone())).await.unwrap());

    let mut reader = Reader::at(partition(&hub, 0)).attach(&mut client).await;
    let event = next(&mut reader).await;
    let event = event.message();
    assert_eq!(event.properties, sent.properties);
    assert_eq!(event.application_properties, sent.application_properties);
    assert_eq!(bytes_of(&event.body), b"{}");
    assert!(event.delivery_annotations.is_none());
    let mut annotations = by_name(&event.message_annotations.as_ref().unwrap().0);
    let enqueued = annotations.remove("x-opt-enqueued-time").unwrap();
    assert!(matches!(enqueued, Value::Timestamp(_)));
    assert_eq!(annotations.remove("iothub-enqueuedtime"), Some(enqueued));
    let generation = annotations.remove("iothub-connection-auth-generation-id");
    assert!(matches!(generation, Some(Value::String(id)) if id.len() == 18));
    let expected = [
        ("dt-subject", text("thermostat")),
        (
            "iothub-connection-auth-method",
            text(
                r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
            ),
        ),
        ("iothub-connection-device-id", text("dev1")),
        ("iothub-message-source", text("Telemetry")),
        ("x-opt-offset", text("0")),
        ("x-opt-sequence-number", Value::Long(0)),
        ("x-opt-sequence-number-epoch", Value::Int(-1)),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(annotations, expected.into());
}

#[tokio::test]
async fn a_message_of_http_is_an_event_too() {
    let hub = hub().await;
    let (mut client, _) = both(&hub).await;
    let mut device = http::Http::device(&hub, "dev1").await;
    let headers = [
        "iothub-messageid: m-1",
        "iothub-app-level: 3",
        "iothub-contenttype: text/plain",
    ];
    let path = "/devices/dev1/messages/events";
    let reply = device.ask("POST", path, &headers, b"warm").await;
    assert_eq!(reply.status, 204);
    let mut reader = Reader::at(partition(&hub, 0)).attach(&mut client).await;
    let event = next(&mut reader).await;
    let event = event.message();
    assert_eq!(bytes_of(&event.body), b"warm");
    let properties = event.properties.as_ref().unwrap();
    assert_eq!(properties.message_id, Some("m-1".to_owned().into()));
    assert_eq!(properties.content_type, Some("text/plain".into()));
    let application = &event.application_properties.as_ref().unwrap().0;
    assert_eq!(application.get("level"), Some(&"3".into()));
    let annotations = by_name(&event.message_annotations.as_ref().unwrap().0);
    assert_eq!(annotations["iothub-connection-device-id"], text("dev1"));
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_while_devices_go_on() {
    const EACH: u32 = 1500;
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    let mut sender = device.telemetry("dev1").await;
    let (started, wait) = tokio::sync::oneshot::channel();
    let sending = async {
        let mut started = Some(started);
        for number in 0..EACH {
            let sent = sender.send(message("m", &number.to_string()));
            accepted(soon(sent).await.unwrap());
            if number == 100 {
                started.take().unwrap().send(()).unwrap();
            }
        }
    };
    let address = partition(&hub, 0);
    let reading = async {
        wait.await.unwrap();
        let mut reader = Reader::at(address).attach(&mut client).await;
        bodies(&mut reader, EACH as usize).await
    };
    let ((), read) = tokio::join!(sending, reading);
    let expected: Vec<String> = (0..EACH).map(|number| number.to_string()).collect();
    assert_eq!(read, expected);
}

#[tokio::test]
async fn a_reader_starts_where_its_selector_says() {
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    send(&mut device, 0..5).await;
    let mut everything = Reader::at(partition(&hub, 0)).attach(&mut client).await;
    let mut last = None;
    for _ in 0..4 {
        last = Some(next(&mut everything).await);
    }
    let annotations = last.unwrap().message().message_annotations.clone().unwrap();
    let Some(Value::String(offset)) = by_name(&annotations.0).remove("x-opt-offset") else {
        panic!("an offset is a string")
    };
    let from = async |client: &mut Client, selector: &str, count| {
        let reader = Reader {
            selector: Some(selector),
            ..Reader::at(partition(&hub, 0))
        };
        let mut reader = reader.attach(client).await;
        let read = bodies(&mut reader, count).await;
        soon(reader.close()).await.unwrap();
        read
    };
    let after = format!("amqp.annotation.x-opt-offset > '{offset}'");
    assert_eq!(from(&mut client, &after, 1).await, ["4"]);
    let at = format!("amqp.annotation.x-opt-offset >= '{offset}'");
    assert_eq!(from(&mut client, &at, 2).await, ["3", "4"]);
    let number = "amqp.annotation.x-opt-sequence-number > 2";
    assert_eq!(from(&mut client, number, 2).await, ["3", "4"]);
    let time = "amqp.annotation.x-opt-enqueued-time > '1000'";
    assert_eq!(from(&mut client, time, 5).await, ["0", "1", "2", "3", "4"]);

    let latest = Reader {
        selector: Some("amqp.annotation.x-opt-offset > '@latest'"),
        ..Reader::at(partition(&hub, 0))
    };
    let mut latest = latest.attach(&mut client).await;
    send(&mut device, 5..6).await;
    assert_eq!(bodies(&mut latest, 1).await, ["5"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_for_the_reason_the_real_one_gives() {
    let hub = hub().await;
    let entity = &events::parts(&hub)["EntityPath"];
    let group = |group: &str, id: &str| format!("{entity}/ConsumerGroups/{group}/Partitions/{id}");
    let with = |selector| Reader {
        selector: Some(selector),
        ..Reader::at(group("$Default", "0"))
    };
    let cases = [
        (
            Reader::at(group("nobody", "0")),
            "amqp:not-found",
            "The messaging entity 'localhost:eventhub:localhost~32766|nobody' could not be found.",
        ),
        (
            Reader::at(group("$default", "1")),
            "com.microsoft:argument-out-of-range",
            "The specified partition is invalid for an EventHub partition sender or receiver. It should be between 0 and 0.",
        ),
        (
            with("amqp.annotation.x-opt-offset > '77'"),
            "com.microsoft:argument-error",
            "The supplied offset '77' is invalid. The last offset in the system is '-1'",
        ),
        (
            with("1 = 1"),
            "com.microsoft:argument-error",
            "The selector '1 = 1' is not supported.",
        ),
        (
            Reader::at(format!("other/ConsumerGroups/$Default/Partitions/0")),
            "amqp:unauthorized-access",
            "Unauthorized access. 'Listen' claim(s) are required to perform this operation.",
        ),
    ];
    for (reader, condition, start) in cases {
        let error = reader.refusal(&hub, &whole(&hub)).await;
        let description = error.description.as_deref().unwrap();
        assert_eq!(condition_of(&error), condition);
        assert!(description.starts_with(start), "{description}");
    }
    let found = Reader::at(group("SECOND", "0"));
    assert!(found.attempt(&hub, &whole(&hub)).await.is_ok());
}

#[tokio::test]
async fn the_reader_with_the_higher_epoch_takes_over() {
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    send(&mut device, 0..3).await;
    let with = |epoch| Reader {
        epoch,
        ..Reader::at(partition(&hub, 0))
    };
    let mut first = with(Some(1)).attach(&mut client).await;
    assert_eq!(bodies(&mut first, 3).await, ["0", "1", "2"]);
    let mut other = Client::connect(&hub).await;
    authorize(&mut other, &hub).await;
    for lower in [None, Some(0)] {
        let error = with(lower).refusal(&hub, &whole(&hub)).await;
        assert_eq!(condition_of(&error), "amqp:link:stolen");
    }
    let mut second = with(Some(2)).attach(&mut other).await;
    assert_eq!(bodies(&mut second, 3).await, ["0", "1", "2"]);
    let lost = soon(first.recv::<support::DataBody>()).await.unwrap_err();
    let RecvError::LinkStateError(lost) = lost else {
        panic!("{lost:?}")
    };
    let lost = format!("{lost:?}");
    assert!(
        lost.contains("amqp:link:stolen") || lost.contains("Stolen"),
        "{lost}"
    );
    assert!(
        lost.contains("New receiver 'tester' with higher epoch of '2'"),
        "{lost}"
    );
    // The place is free again once the reader is gone.
    soon(second.close()).await.unwrap();
    with(None).attach(&mut other).await;
}

#[tokio::test]
async fn a_sixth_reader_without_an_epoch_is_refused() {
    let hub = hub().await;
    let token = whole(&hub);
    let mut readers = Vec::new();
    for _ in 0..5 {
        let reader = Reader::at(partition(&hub, 0)).attempt(&hub, &token).await;
        readers.push(reader.unwrap());
    }
    let error = Reader::at(partition(&hub, 0)).refusal(&hub, &token).await;
    assert_eq!(condition_of(&error), "amqp:resource-limit-exceeded");
    // A connection that ends gives back what it had.
    readers.pop();
    soon(hub.wait_until(|stats| stats.connections.len() == 4)).await;
    let reader = Reader::at(partition(&hub, 0)).attempt(&hub, &token).await;
    assert!(reader.is_ok());
}

#[tokio::test]
async fn a_reader_that_asks_is_told_how_far_behind_it_is() {
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    send(&mut device, 0..3).await;
    let reader = Reader {
        metrics: true,
        presettled: true,
        ..Reader::at(partition(&hub, 0))
    };
    let mut reader = reader.attach(&mut client).await;
    let event = soon(reader.recv::<support::DataBody>()).await.unwrap();
    let metrics = by_name(&event.message().delivery_annotations.as_ref().unwrap().0);
    assert_eq!(metrics["last_enqueued_sequence_number"], Value::Long(2));
    assert!(matches!(metrics["last_enqueued_offset"], Value::String(_)));
    assert!(matches!(
        metrics["last_enqueued_time_utc"],
        Value::Timestamp(_)
    ));
    assert!(matches!(
        metrics["runtime_info_retrieval_time_utc"],
        Value::Timestamp(_)
    ));
}

#[tokio::test]
async fn a_drained_reader_gets_what_there_is_and_its_credit_back() {
    let hub = hub().await;
    let (_, mut device) = both(&hub).await;
    send(&mut device, 0..3).await;
    let reader = Reader::at(partition(&hub, 0));
    let mut wire = reader.attempt(&hub, &whole(&hub)).await.unwrap();
    let drain = Flow {
        drain: true,
        ..wire::credit(2, 100)
    };
    wire.send(0, Performative::Flow(drain)).await;
    for _ in 0..3 {
        assert!(matches!(wire.next().await, Performative::Transfer(_)));
    }
    let Performative::Flow(flow) = wire.next().await else {
        panic!("a flow")
    };
    assert_eq!(
        (flow.delivery_count, flow.link_credit),
        (Some(100), Some(0))
    );
}

#[tokio::test]
async fn older_events_are_forgotten_and_the_rest_keeps_its_numbers() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_partitions(1)
        .with_event_retention(EventRetention::new(3, 1 << 20))
        .start()
        .await
        .unwrap();
    let (mut client, mut device) = both(&hub).await;
    send(&mut device, 0..10).await;
    let mut reader = Reader::at(partition(&hub, 0)).attach(&mut client).await;
    let event = next(&mut reader).await;
    let annotations = event.message().message_annotations.clone().unwrap();
    assert_eq!(bytes_of(event.body()), b"7");
    assert_eq!(
        by_name(&annotations.0)["x-opt-sequence-number"],
        Value::Long(7)
    );
    assert_eq!(bodies(&mut reader, 2).await, ["8", "9"]);
}

#[tokio::test]
async fn a_record_that_only_counts_keeps_no_events_unless_asked() {
    for (retention, kept) in [(None, false), (Some(EventRetention::default()), true)] {
        let mut builder = HubSimulator::builder()
            .with_tls(false)
            .with_partitions(1)
            .with_record(RecordMode::Count);
        if let Some(retention) = retention {
            builder = builder.with_event_retention(retention);
        }
        let hub = builder.start().await.unwrap();
        let (_, mut device) = both(&hub).await;
        send(&mut device, 0..1).await;
        let offset = Reader {
            selector: Some("amqp.annotation.x-opt-offset >= '0'"),
            ..Reader::at(partition(&hub, 0))
        };
        assert_eq!(offset.attempt(&hub, &whole(&hub)).await.is_ok(), kept);
    }
}

#[tokio::test]
async fn a_backlog_larger_than_any_buffer_reaches_a_reader_with_much_credit() {
    const COUNT: usize = 60;
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    let mut sender = device.telemetry("dev1").await;
    let large = "x".repeat(200 * 1024);
    for _ in 0..COUNT {
        accepted(soon(sender.send(message("m", &large))).await.unwrap());
    }
    let reader = Reader {
        credit: 1000,
        ..Reader::at(partition(&hub, 0))
    };
    let mut reader = reader.attach(&mut client).await;
    for _ in 0..COUNT {
        assert_eq!(bytes_of(next(&mut reader).await.body()).len(), large.len());
    }
}

#[tokio::test]
async fn only_a_token_for_the_event_hub_or_above_it_lets_in() {
    let hub = hub().await;
    hub.add_device("dev1");
    let hour = expiry(Duration::from_secs(3600));
    let service = |policy: &str| {
        let text = hub.policy_connection_string(policy);
        hub_simulator::ConnectionString::parse(&text)
            .unwrap()
            .sign(hour)
    };
    let for_groups = "sb://localhost/localhost/consumergroups/$Default";
    let for_another = "sb://localhost/localhost/ConsumerGroups/$Default/Partitions/1";
    for (token, is_good) in [
        (token(&hub, for_groups), true),
        (service("iothubowner"), true),
        (service("service"), true),
        (service("device"), false),
        (service("registryRead"), false),
        (token(&hub, for_another), false),
        (support::token(&hub.device_connection_string("dev1")), false),
    ] {
        match Reader::at(partition(&hub, 0)).attempt(&hub, &token).await {
            Ok(_) => assert!(is_good, "{token}"),
            Err(error) => {
                assert!(!is_good, "{token}");
                assert_eq!(condition_of(&error), "amqp:unauthorized-access");
            }
        }
    }
    let mut client = Client::connect(&hub).await;
    let wrong = hub_simulator::sign(
        "sb://localhost/localhost",
        b"wrong",
        hour,
        Some("iothubowner"),
    );
    assert_eq!(client.cbs.put("name", &wrong).await.0, 401);
    // The text of a key signs nothing but what is for the event hub.
    assert_eq!(
        client.cbs.put("name", &token(&hub, "localhost")).await.0,
        401
    );
}

#[tokio::test]
async fn the_hubs_own_address_sends_readers_on() {
    let hub = hub().await;
    let suffix = "ConsumerGroups/$Default/Partitions/0";
    let own = format!("messages/events/{suffix}");
    let error = Reader::at(&own).refusal(&hub, "").await;
    assert_eq!(condition_of(&error), "amqp:unauthorized-access");
    let token = support::token(&hub.policy_connection_string("service"));
    let port = hub.addr().port();
    for (address, rest) in [
        (own.as_str(), suffix),
        (
            "amqps://localhost/messages/events/$management",
            "$management",
        ),
        ("/messages/events/", ""),
    ] {
        let error = Reader::at(address).refusal(&hub, &token).await;
        assert_eq!(condition_of(&error), "amqp:link:redirect");
        let info: Fields = *error.info.unwrap();
        let value = |name: &str| info.get(&Symbol::from(name)).cloned().unwrap();
        assert_eq!(value("hostname"), text("localhost"));
        assert_eq!(value("network-host"), text("localhost"));
        assert_eq!(value("port"), Value::Int(port.into()));
        let target = format!("amqps://localhost:{port}/localhost/{rest}");
        assert_eq!(value("address"), text(&target));
        if address == own {
            assert!(Reader::at(target).attempt(&hub, &token).await.is_ok());
        }
    }
}

#[tokio::test]
async fn a_producer_is_not_let_in() {
    let hub = hub().await;
    for address in ["localhost", "localhost/Partitions/0"] {
        let mut wire = Wire::with_session(&hub, wire::open(), wire::begin(100)).await;
        wire.put_token("token", &whole(&hub)).await;
        let attach = wire::attach("sender", 2, Role::Sender, address);
        wire.send(0, Performative::Attach(attach)).await;
        assert!(matches!(wire.next().await, Performative::Attach(reply) if reply.target.is_none()));
        let Performative::Detach(detach) = wire.next().await else {
            panic!("a detach")
        };
        assert_eq!(
            condition_of(&detach.error.unwrap()),
            "amqp:unauthorized-access"
        );
    }
}

#[tokio::test]
async fn the_management_node_tells_of_hub_and_partitions() {
    let hub = hub().await;
    let (mut client, mut device) = both(&hub).await;
    let mut node = Node::open(&mut client).await;
    let event_hub = [("type", "com.microsoft:eventhub"), ("name", "localhost")];
    let (status, body) = node.read(&event_hub).await;
    assert_eq!(status, 200);
    assert_eq!(body["name"], text("localhost"));
    assert_eq!(body["partition_count"], Value::Int(1));
    assert!(matches!(body["created_at"], Value::Timestamp(_)));
    assert!(format!("{:?}", body["partition_ids"]).contains(r#"String("0")"#));
    let partition = |id| {
        [
            ("type", "com.microsoft:partition"),
            ("name", "localhost"),
            ("partition", id),
        ]
    };
    let (status, body) = node.read(&partition("0")).await;
    assert_eq!(
        (status, &body["is_partition_empty"]),
        (200, &Value::Bool(true))
    );
    assert_eq!(body["last_enqueued_sequence_number"], Value::Long(-1));
    assert_eq!(body["last_enqueued_offset"], text("-1"));
    send(&mut device, 0..3).await;
    let (_, body) = node.read(&partition("0")).await;
    assert_eq!(body["is_partition_empty"], Value::Bool(false));
    assert_eq!(body["begin_sequence_number"], Value::Long(0));
    assert_eq!(body["last_enqueued_sequence_number"], Value::Long(2));
    assert_eq!(node.read(&partition("1")).await.0, 400);
    let unknown = [("type", "com.microsoft:eventhub"), ("name", "other")];
    assert_eq!(node.read(&unknown).await.0, 404);
    let forged = [event_hub[0], event_hub[1], ("security_token", "nonsense")];
    assert_eq!(node.read(&forged).await.0, 401);
}

/// The two links of `$management`.
struct Node {
    sender: fe2o3_amqp::Sender,
    receiver: fe2o3_amqp::Receiver,
}

impl Node {
    async fn open(client: &mut Client) -> Self {
        Self {
            sender: client.sender("$management").await,
            receiver: client.receiver("$management").await,
        }
    }

    /// Asks; returns the status, and the answer by name.
    async fn read(
        &mut self,
        properties: &[(&str, &str)],
    ) -> (i32, std::collections::BTreeMap<String, Value>) {
        let mut application = ApplicationProperties::builder().insert("operation", "READ");
        for (name, value) in properties {
            application = application.insert(*name, *value);
        }
        let request = Message::builder()
            .properties(Properties::builder().message_id(5u64).build())
            .application_properties(application.build())
            .data(b"[]".to_vec())
            .build();
        let outcome = soon(self.sender.send(request)).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
        let reply = next(&mut self.receiver).await;
        let reply = reply.message();
        assert_eq!(
            reply.properties.as_ref().unwrap().correlation_id,
            Some(5u64.into())
        );
        let application = &reply.application_properties.as_ref().unwrap().0;
        let [status, other] = ["status-code", "statusCode"].map(|name| application.get(name));
        assert_eq!(status, other);
        let Some(&SimpleValue::Int(status)) = status else {
            panic!("a status is an int")
        };
        let body = match reply.body.try_as_value() {
            Ok(Value::Map(body)) => body
                .iter()
                .map(|(name, value)| (String::try_from(name.clone()).unwrap(), value.clone()))
                .collect(),
            _ => Default::default(),
        };
        (status, body)
    }
}

#[tokio::test]
async fn hubs_behind_the_same_ports_do_not_mix() {
    let first = HubSimulator::builder()
        .with_host("localhost")
        .with_partitions(1)
        .start()
        .await
        .unwrap();
    let second = HubSimulator::builder()
        .with_host("second.test")
        .with_partitions(1)
        .beside(&first)
        .start()
        .await
        .unwrap();
    for (hub, body) in [(&first, "to the first"), (&second, "to the second")] {
        hub.add_device("dev1");
        let mut client = Client::connect_tls(hub, SaslProfile::Anonymous).await;
        client
            .authorize(&hub.device_connection_string("dev1"), "dev1")
            .await;
        let mut sender = client.telemetry("dev1").await;
        accepted(soon(sender.send(message("m", body))).await.unwrap());
    }
    for (hub, body) in [(&first, "to the first"), (&second, "to the second")] {
        let mut client = Client::connect_tls(hub, SaslProfile::Anonymous).await;
        authorize(&mut client, hub).await;
        let mut reader = Reader::at(partition(hub, 0)).attach(&mut client).await;
        assert_eq!(bodies(&mut reader, 1).await, [body]);
        let other = if hub.host() == first.host() {
            &second
        } else {
            &first
        };
        let refused = client.cbs.put("other", &whole(other)).await;
        assert_eq!(refused.0, 401);
    }
}

#[tokio::test]
async fn a_hub_has_one_to_thirty_two_partitions() {
    for partitions in [0, 33] {
        let refused = HubSimulator::builder()
            .with_partitions(partitions)
            .start()
            .await;
        assert!(matches!(refused, Err(StartError::Partitions)));
    }
}
