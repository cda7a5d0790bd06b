//! What one AMQP connection can make the hub hold.

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Fields, Role};
use fe2o3_amqp_types::performatives::{Detach, Flow, Performative};
use fe2o3_amqp_types::primitives::Value;
use futures_util::future::join_all;
use hub_simulator::{C2d, HubSimulator, Limits};
use support::{
    Client, DataBody, accepted, bytes_of, condition_of, message, plain_hub, soon, token,
};
use wire::{Wire, attach, begin, credit, open, transfer};

const EVENTS: &str = "/devices/dev1/messages/events";
const C2D: &str = "/devices/dev1/messages/devicebound";
/// A call's payload that with `SMALL` in force leaves no room for anything else.
const NEARLY_ALL: usize = 3990;
/// Bytes that a connection makes the hub hold, where that is to be little.
const SMALL: usize = 4096;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn sparse_handles_cannot_eat_all_memory() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    let mut ended = false;
    for channel in 1..=8 {
        wire.send(channel, Performative::Begin(begin(100))).await;
        wire.send(
            channel,
            Performative::Attach(attach("s", 262_143, Role::Sender, "$cbs")),
        )
        .await;
        loop {
            match wire.next().await {
                Performative::Begin(_) | Performative::Attach(_) => {}
                Performative::Flow(_) => break,
                Performative::End(end) => {
                    assert_eq!(
                        condition_of(&end.error.unwrap()),
                        "amqp:resource-limit-exceeded"
                    );
                    ended = true;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ended);
}

#[tokio::test]
async fn names_of_links_and_tokens_are_short() {
    let hub = plain_hub().await;
    let (longest, longer) = ("n".repeat(1024), "n".repeat(1025));
    let mut client = Client::connect(&hub).await;
    let token = token(&hub.device_connection_string("dev1"));
    assert_eq!(client.cbs.put(&longest, &token).await.0, 200);
    assert_eq!(client.cbs.put(&longer, &token).await.0, 400);

    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    let correlated = |handle, correlation: &str| {
        let mut attach = attach("correlated", handle, Role::Sender, "$cbs");
        let mut properties = Fields::new();
        let value = Value::String(correlation.to_owned());
        properties.insert("com.microsoft:channel-correlation-id".into(), value);
        attach.properties = Some(properties);
        attach
    };
    let named = |handle, name: &str| attach(name, handle, Role::Sender, "$cbs");
    for refused in [named(0, &longer), correlated(1, &longer)] {
        wire.send(0, Performative::Attach(refused)).await;
        assert!(matches!(wire.next().await, Performative::Attach(_)));
        let Performative::Detach(detach) = wire.next().await else {
            panic!("a detach")
        };
        let condition = condition_of(&detach.error.unwrap());
        assert_eq!(condition, "amqp:invalid-field");
    }
    for taken in [named(2, &longest), correlated(3, &longest)] {
        wire.send(0, Performative::Attach(taken)).await;
        assert!(matches!(wire.next().await, Performative::Attach(_)));
        assert!(matches!(wire.next().await, Performative::Flow(_)));
    }
}

#[tokio::test]
async fn a_delivery_without_end_costs_its_link_and_bounded_memory() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(5000)).await;
    wire.authorize(&hub, "dev1").await;
    wire.send(
        0,
        Performative::Attach(attach("t", 5, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    assert!(matches!(wire.next().await, Performative::Flow(_)));
    // Two megabytes of one message, of which one is the link's limit.
    for _ in 0..64 {
        wire.send_with(
            0,
            Performative::Transfer(transfer(5, 1, true)),
            &[0; 32 * 1024],
        )
        .await;
    }
    let Performative::Detach(detach) = wire.next().await else {
        panic!("a detach")
    };
    assert_eq!(
        condition_of(&detach.error.unwrap()),
        "amqp:link:message-size-exceeded"
    );
    // The session goes on.
    wire.send(
        0,
        Performative::Attach(attach("again", 6, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
}

/// Opens a link to `$cbs` and begins a delivery of nearly a mebibyte; tells whether the hub bears it.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn begin_delivery(wire: &mut Wire, handle: u32) -> Result<(), Detach> {
    let name = format!("cbs-{handle}");
    let attach = attach(&name, handle, Role::Sender, "$cbs");
    wire.send(0, Performative::Attach(attach)).await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    assert!(matches!(wire.next().await, Performative::Flow(_)));
    for _ in 0..16 {
        let transfer = Performative::Transfer(transfer(handle, handle, true));
        wire.send_with(0, transfer, &[0; 65_000]).await;
    }
    // The answer tells that all before it was heard.
    let echo = Flow {
        handle: None,
        delivery_count: None,
        link_credit: None,
        echo: true,
        ..credit(handle, 0)
    };
    wire.send(0, Performative::Flow(echo)).await;
    let mut outcome = Ok(());
    loop {
        match wire.next().await {
            Performative::Flow(_) => return outcome,
            Performative::Detach(detach) => outcome = Err(detach),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn deliveries_without_end_on_many_links_cost_bounded_memory() {
    let hub = plain_hub().await;
    let mut neighbour = Client::device(&hub, "dev1").await;
    let mut sender = neighbour.telemetry("dev1").await;
    let mut wire = Wire::with_session(&hub, open(), begin(5000)).await;
    // No link is over its own limit.
    let mut handle = 0;
    let refused = loop {
        match begin_delivery(&mut wire, handle).await {
            Ok(()) => handle += 1,
            Err(detach) => break detach,
        }
        assert!(handle < 17, "the hub holds {handle} MiB");
    };
    assert!(
        refused.handle.0 < handle,
        "not the one that holds the least"
    );
    assert_eq!(
        condition_of(&refused.error.unwrap()),
        "amqp:resource-limit-exceeded"
    );
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    // What is given up makes room.
    let given_up = Detach {
        handle: 0.into(),
        closed: true,
        error: None,
    };
    wire.send(0, Performative::Detach(given_up)).await;
    assert!(matches!(wire.next().await, Performative::Detach(_)));
    assert!(begin_delivery(&mut wire, handle + 1).await.is_ok());
}

/// Opens the links for a device's methods; the hub knows of the credit when this returns.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn methods(
    hub: &HubSimulator,
    client: &mut Client,
    device: &str,
    credit: u32,
) -> (Receiver, Sender) {
    let address = format!("/devices/{device}/methods/devicebound");
    let calls = Receiver::builder()
        .name(format!("calls of {device}"))
        .source(address.as_str())
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session);
    let mut calls = soon(calls).await.unwrap();
    soon(calls.set_credit(credit)).await.unwrap();
    let answers = client.sender(&address).await;
    soon(hub.wait_methods(device)).await;
    (calls, answers)
}

/// Two devices on one connection, which makes the hub hold little.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn neighbours() -> (HubSimulator, Client) {
    let limits = Limits::default().with_held_per_connection(SMALL);
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    let hub = hub.start().await.unwrap();
    let mut client = Client::connect(&hub).await;
    for device in ["dev1", "dev2"] {
        let string = hub.device_connection_string(device);
        client.authorize(&string, device).await;
    }
    (hub, client)
}

/// Gives a device credit and has it called; returns the payload that it gets first.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn call(hub: &HubSimulator, device: &str, calls: &mut Receiver) -> Vec<u8> {
    soon(calls.set_credit(10)).await.unwrap();
    tokio::select! {
        delivery = soon(calls.recv::<DataBody>()) => bytes_of(delivery.unwrap().body()),
        answer = hub.call_method(device, "x", "tea", LONG) => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn calls_that_a_device_gives_no_credit_for_cost_bounded_memory() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let (mut calls, _answers) = methods(&hub, &mut client, "dev1", 0).await;
    let payload = || vec![b' '; 128 * 1024];
    let waiting = (0..17 * 8).map(|_| hub.call_method("dev1", "x", payload(), LONG));
    let detached = tokio::select! {
        received = soon(calls.recv::<DataBody>()) => format!("{received:?}"),
        answers = join_all(waiting) => panic!("{answers:?}"),
    };
    assert!(detached.contains("ResourceLimitExceeded"), "{detached}");
}

#[tokio::test]
async fn what_waits_for_a_closed_window_counts() {
    let limits = Limits::default().with_held_per_connection(SMALL);
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    let hub = hub.start().await.unwrap();
    hub.add_device("dev1");
    hub.send_c2d("dev1", C2d::new(vec![b' '; 2 * SMALL]))
        .unwrap();
    let mut small = open();
    small.max_frame_size = 512.into();
    let mut wire = Wire::with_session(&hub, small, begin(5000)).await;
    wire.authorize(&hub, "dev1").await;
    wire.send(1, Performative::Begin(begin(1))).await;
    let c2d = attach("c2d", 5, Role::Receiver, C2D);
    wire.send(1, Performative::Attach(c2d)).await;
    let window = Flow {
        incoming_window: 1,
        ..credit(5, 10)
    };
    wire.send(1, Performative::Flow(window)).await;
    let refused = loop {
        match wire.next().await {
            Performative::Detach(detach) => break detach,
            Performative::Begin(_) | Performative::Attach(_) => {}
            Performative::Transfer(transfer) => assert!(transfer.more),
            other => panic!("{other:?}"),
        }
    };
    let condition = condition_of(&refused.error.unwrap());
    assert_eq!(condition, "amqp:resource-limit-exceeded");
}

#[tokio::test]
async fn calls_that_nobody_waits_for_any_more_cost_their_link_nothing() {
    let (hub, mut client) = neighbours().await;
    let (mut calls, _answers) = methods(&hub, &mut client, "dev1", 0).await;
    for _ in 0..10 {
        let payload = vec![b' '; NEARLY_ALL];
        let called = hub.call_method("dev1", "x", payload, Duration::ZERO).await;
        called.unwrap_err();
    }
    assert_eq!(call(&hub, "dev1", &mut calls).await, b"tea");
}

#[tokio::test]
async fn who_gives_credit_is_served_whatever_a_neighbour_leaves_without() {
    let (hub, mut client) = neighbours().await;
    let (_silent, _answers) = methods(&hub, &mut client, "dev1", 0).await;
    let payload = vec![b' '; NEARLY_ALL];
    let waiting = hub.call_method("dev1", "x", payload, LONG);
    let served = async {
        // The answer of `$cbs` is small, the call alone nearly all that may be held.
        let string = hub.device_connection_string("dev2");
        client.authorize(&string, "dev2").await;
        let (mut calls, _answers) = methods(&hub, &mut client, "dev2", 10).await;
        let payload = vec![b'x'; NEARLY_ALL];
        tokio::select! {
            delivery = soon(calls.recv::<DataBody>()) => bytes_of(delivery.unwrap().body()),
            answer = hub.call_method("dev2", "x", payload, LONG) => panic!("{answer:?}"),
        }
    };
    let served = tokio::select! {
        biased;
        answer = waiting => panic!("{answer:?}"),
        served = served => served,
    };
    assert_eq!(served, vec![b'x'; NEARLY_ALL]);
}

#[tokio::test]
async fn the_link_that_holds_the_most_makes_room_for_its_neighbours() {
    let (hub, mut client) = neighbours().await;
    let (mut silent, _answers) = methods(&hub, &mut client, "dev1", 0).await;
    let (mut calls, _more_answers) = methods(&hub, &mut client, "dev2", 0).await;
    let much = hub.call_method("dev1", "x", vec![b' '; NEARLY_ALL], LONG);
    let little = hub.call_method("dev2", "x", "first", LONG);
    let detached = tokio::select! {
        biased;
        answer = much => panic!("{answer:?}"),
        answer = little => panic!("{answer:?}"),
        received = soon(silent.recv::<DataBody>()) => format!("{received:?}"),
    };
    assert!(detached.contains("ResourceLimitExceeded"), "{detached}");
    assert_eq!(call(&hub, "dev2", &mut calls).await, b"tea");
}
