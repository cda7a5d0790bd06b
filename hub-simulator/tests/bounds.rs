//! What one AMQP connection can make the hub hold.

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::performatives::{Detach, Flow, Performative};
use support::{Client, DataBody, accepted, condition_of, message, plain_hub, soon};
use wire::{Wire, attach, begin, credit, open, transfer};

const EVENTS: &str = "/devices/dev1/messages/events";
const METHODS: &str = "/devices/dev1/methods/devicebound";

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
    assert_eq!(refused.handle.0, handle);
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

#[tokio::test]
async fn calls_that_a_device_gives_no_credit_for_cost_bounded_memory() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut calls = Receiver::builder()
        .name("calls")
        .source(METHODS)
        .credit_mode(CreditMode::Manual)
        .attach(&mut client.session)
        .await
        .unwrap();
    let _answers = client.sender(METHODS).await;
    soon(hub.wait_methods("dev1")).await;
    for _ in 0..17 * 8 {
        let payload = vec![b' '; 128 * 1024];
        let called = hub.call_method("dev1", "x", payload, Duration::ZERO).await;
        called.unwrap_err();
    }
    let detached = format!("{:?}", soon(calls.recv::<DataBody>()).await);
    assert!(detached.contains("ResourceLimitExceeded"), "{detached}");
}
