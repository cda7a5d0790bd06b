//! Who may read telemetry as an Event Hubs client, and what they are told otherwise.

#[path = "support/events.rs"]
mod events;
#[path = "support/http.rs"]
mod http;
mod support;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use events::{Node, Reader, authorize, bodies, both, hub, partition, send, text, token, whole};
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::types::definitions::{Fields, Role};
use fe2o3_amqp::types::performatives::Performative;
use fe2o3_amqp::types::primitives::{Symbol, Value};
use hub_simulator::HubSimulator;
use support::{Client, DataBody, accepted, condition_of, expiry, message, soon};
use wire::Wire;

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
            Reader::at("other/ConsumerGroups/$Default/Partitions/0"),
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
    let lost = soon(first.recv::<DataBody>()).await.unwrap_err();
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
