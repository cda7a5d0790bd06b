//! Telemetry as Event Hubs clients read it.

#[path = "support/events.rs"]
mod events;
#[path = "support/http.rs"]
mod http;
mod support;
#[path = "support/wire.rs"]
mod wire;

use events::{Reader, bodies, both, by_name, hub, next, partition, send, text, whole};
use fe2o3_amqp::types::definitions::Role;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Message, MessageAnnotations, Properties,
};
use fe2o3_amqp::types::performatives::{Flow, Performative};
use fe2o3_amqp::types::primitives::{Symbol, Value};
use hub_simulator::{EventRetention, HubSimulator, RecordMode, StartError};
use support::{Client, DataBody, accepted, bytes_of, message, soon};
use wire::Wire;

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
    let event = soon(reader.recv::<DataBody>()).await.unwrap();
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
    let drained = |flow: &Flow| (flow.delivery_count, flow.link_credit, flow.drain);
    assert_eq!(drained(&flow), (Some(100), Some(0), true));
    // Who has no credit, or just as much as there is to read, is answered as well.
    send(&mut device, 3..5).await;
    for (counted, credit, events) in [(100, 0, 0), (100, 2, 2)] {
        let drain = Flow {
            delivery_count: Some(counted),
            drain: true,
            echo: true,
            ..wire::credit(2, credit)
        };
        wire.send(0, Performative::Flow(drain)).await;
        for _ in 0..events {
            assert!(matches!(wire.next().await, Performative::Transfer(_)));
        }
        let Performative::Flow(flow) = wire.next().await else {
            panic!("a flow")
        };
        let end = counted + credit;
        assert_eq!(drained(&flow), (Some(end), Some(0), true));
    }
    // Counts wrap, credits do not; the answer to the drain was the answer to the echo.
    send(&mut device, 5..6).await;
    let much = Flow {
        delivery_count: Some(102),
        ..wire::credit(2, u32::MAX)
    };
    wire.send(0, Performative::Flow(much)).await;
    assert!(matches!(wire.next().await, Performative::Transfer(_)));
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
async fn readers_with_much_to_read_take_turns() {
    const EACH: usize = 40;
    let hub = HubSimulator::builder().with_tls(false).with_partitions(2);
    let hub = hub.start().await.unwrap();
    let large = "x".repeat(200 * 1024);
    // One for each partition.
    for device in ["dev1", "dev2"] {
        let mut client = Client::device(&hub, device).await;
        let mut sender = client.telemetry(device).await;
        for _ in 0..EACH {
            accepted(soon(sender.send(message("m", &large))).await.unwrap());
        }
    }
    let mut wire = Wire::with_session(&hub, wire::open(), wire::begin(2048)).await;
    wire.put_token("token", &whole(&hub)).await;
    for (handle, id) in [(2, 0), (3, 1)] {
        let (name, address) = (format!("reader-{id}"), partition(&hub, id));
        let reader = wire::attach(&name, handle, Role::Receiver, &address);
        wire.send(0, Performative::Attach(reader)).await;
    }
    for handle in [2, 3] {
        let credit = wire::credit(handle, 1000);
        wire.send(0, Performative::Flow(credit)).await;
    }
    let mut read = [0; 4];
    while read[3] < EACH / 4 {
        if let Performative::Transfer(transfer) = wire.next().await {
            read[transfer.handle.0 as usize] += usize::from(!transfer.more);
        }
    }
    assert!(read[2] < EACH, "{read:?}");
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
