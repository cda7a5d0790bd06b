//! Pairs of links, and what the switches of the hub make of links and tokens.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;
#[path = "support/http.rs"]
mod web;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use fe2o3_amqp_types::definitions::{Fields, Role};
use fe2o3_amqp_types::performatives::{Attach, Performative};
use hub_simulator::{C2d, C2dError, HubSimulator, Limits, MethodError};
use mqtt::{Device, Packet};
use serde_amqp::primitives::Symbol;
use serde_json::json;
use support::{Client, DataBody, accepted, condition_of, message, plain_hub, soon};
use web::Http;
use wire::{Wire, attach, begin, credit, open};

const METHODS: &str = "/devices/dev1/methods/deviceBound";
const TWIN: &str = "/devices/dev1/twin";
const C2D: &str = "/devices/dev1/messages/deviceBound";

async fn limited(limits: Limits) -> HubSimulator {
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    hub.start().await.expect("the hub starts")
}

/// A connection that may act as dev1.
async fn device(hub: &HubSimulator) -> Wire {
    let mut wire = Wire::with_session(hub, open(), begin(100)).await;
    wire.authorize(hub, "dev1").await;
    wire
}

fn half(handle: u32, role: Role, address: &str, correlation: &str) -> Attach {
    let mut properties = Fields::new();
    properties.insert(
        Symbol::from("com.microsoft:channel-correlation-id"),
        serde_amqp::Value::String(correlation.to_owned()),
    );
    Attach {
        properties: Some(properties),
        ..attach(&format!("link-{handle}"), handle, role, address)
    }
}

/// Attaches a link and returns the condition of its refusal, if it is refused. Fails if another
/// link is detached before.
async fn try_attach(wire: &mut Wire, attach: Attach) -> Option<String> {
    let is_sender = attach.role == Role::Sender;
    wire.send(0, Performative::Attach(attach)).await;
    let Performative::Attach(reply) = wire.next().await else {
        panic!("an attach")
    };
    let refused = reply.source.is_none();
    match wire.next_if(refused || is_sender).await {
        Some(Performative::Detach(detach)) => Some(condition_of(&detach.error.unwrap())),
        Some(Performative::Flow(_)) | None => None,
        other => panic!("{other:?}"),
    }
}

/// The handle and condition of the next detach.
async fn detached(wire: &mut Wire) -> (u32, String) {
    match wire.next().await {
        Performative::Detach(detach) => (detach.handle.0, condition_of(&detach.error.unwrap())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pair_with_another_correlation_id_displaces_the_one_before() {
    for address in [METHODS, TWIN] {
        let hub = plain_hub().await;
        let mut wire = device(&hub).await;
        assert_eq!(
            try_attach(&mut wire, half(5, Role::Receiver, address, "a")).await,
            None
        );
        assert_eq!(
            try_attach(&mut wire, half(6, Role::Sender, address, "a")).await,
            None
        );
        wire.send(
            0,
            Performative::Attach(half(7, Role::Receiver, address, "b")),
        )
        .await;
        let gone = (detached(&mut wire).await, detached(&mut wire).await);
        let condition = || "amqp:internal-error".to_owned();
        assert_eq!(gone, ((5, condition()), (6, condition())), "{address}");
        assert!(matches!(wire.next().await, Performative::Attach(_)));
        assert_eq!(
            try_attach(&mut wire, half(8, Role::Sender, address, "b")).await,
            None
        );
    }
}

#[tokio::test]
async fn a_pair_on_another_connection_displaces_the_one_before() {
    for address in [METHODS, TWIN] {
        let hub = plain_hub().await;
        let (mut old, mut new) = (device(&hub).await, device(&hub).await);
        for wire in [&mut old, &mut new] {
            for (handle, role) in [(6, Role::Sender), (5, Role::Receiver)] {
                assert_eq!(
                    try_attach(wire, half(handle, role, address, "x")).await,
                    None
                );
            }
        }
        let gone = (detached(&mut old).await, detached(&mut old).await);
        let condition = || "amqp:internal-error".to_owned();
        assert_eq!(gone, ((5, condition()), (6, condition())), "{address}");
    }
}

#[tokio::test]
async fn a_method_needs_both_halves_of_its_pair() {
    let hub = plain_hub().await;
    let mut wire = device(&hub).await;
    let call = || hub.call_method("dev1", "m", "1", Duration::from_millis(1));
    for (handle, role) in [(5, Role::Receiver), (6, Role::Sender)] {
        assert_eq!(call().await, Err(MethodError::DeviceNotOnline));
        assert_eq!(
            try_attach(&mut wire, half(handle, role, METHODS, "x")).await,
            None
        );
    }
    soon(hub.wait_methods("dev1")).await;
    assert_eq!(call().await, Err(MethodError::TimedOut));
}

#[tokio::test]
async fn methods_of_a_device_beyond_the_limit_are_refused_while_others_wait() {
    let hub = limited(Limits::default().with_methods_in_flight(Some(1))).await;
    let mut wire = device(&hub).await;
    for (handle, role) in [(5, Role::Receiver), (6, Role::Sender)] {
        assert_eq!(
            try_attach(&mut wire, half(handle, role, METHODS, "x")).await,
            None
        );
    }
    soon(hub.wait_methods("dev1")).await;
    wire.send(0, Performative::Flow(credit(5, 10))).await;
    let first = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
    let then = async {
        assert!(matches!(wire.next().await, Performative::Transfer(_)));
        let second = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
        assert_eq!(second.await, Err(MethodError::TooMany));
    };
    tokio::select! {
        answer = first => panic!("{answer:?}"),
        () = soon(then) => {}
    }
    // Whoever waits no longer, stands in nobody's way.
    let third = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
    tokio::select! {
        answer = third => panic!("{answer:?}"),
        call = wire.next() => assert!(matches!(call, Performative::Transfer(_))),
    }
}

#[tokio::test]
async fn the_basic_tier_has_telemetry_and_nothing_else() {
    let hub = limited(Limits::default().with_basic_tier(true)).await;
    let mut wire = device(&hub).await;
    let telemetry = attach("t", 5, Role::Sender, "/devices/dev1/messages/events");
    assert_eq!(try_attach(&mut wire, telemetry).await, None);
    for (handle, address) in [(6, C2D), (7, METHODS), (8, TWIN)] {
        let refused = try_attach(&mut wire, half(handle, Role::Receiver, address, "x")).await;
        assert_eq!(refused.as_deref(), Some("amqp:not-allowed"));
    }

    for filter in [
        "devices/dev1/messages/devicebound/#",
        "$iothub/methods/POST/#",
        "$iothub/twin/res/#",
    ] {
        let mut device = mqtt::Device::connect(&hub, "dev1").await;
        let topic = "devices/dev1/messages/events/";
        device.publish_acked(topic, b"x").await;
        let mut subscribe = mqtt::Subscribe::new(filter, mqtt::QoS::AtLeastOnce);
        subscribe.pkid = 9;
        let subscribe = mqtt::Packet::Subscribe(subscribe);
        device.wire.send(&subscribe).await;
        assert_eq!(device.wire.next().await, None, "{filter}");
    }
    let mut device = mqtt::Device::connect(&hub, "dev1").await;
    device.publish("$iothub/twin/GET/?$rid=1", b"").await;
    assert_eq!(device.wire.next().await, None);

    let mut http = Http::policy(&hub, "iothubowner").await;
    assert_eq!(http.get("/devices/dev1").await.status, 200);
    for (method, path) in [
        ("GET", "/devices/dev1/messages/devicebound"),
        ("DELETE", "/devices/dev1/commands"),
        ("GET", "/messages/serviceBound/feedback"),
        ("GET", "/twins/dev1"),
        ("PATCH", "/twins/dev1"),
        ("POST", "/twins/dev1/methods"),
    ] {
        let body = json!({"methodName": "m"}).to_string();
        let reply = http.ask(method, path, &[], body.as_bytes()).await;
        let answered = (reply.status, reply.header("iothub-errorcode"));
        assert_eq!(answered, (400, "InvalidOperation"), "{path}");
    }

    let sent = hub.send_c2d("dev1", C2d::new("x")).map(drop);
    assert_eq!(sent, Err(C2dError::BasicTier));
    let called = hub.call_method("dev1", "m", "1", Duration::from_secs(60));
    assert_eq!(called.await, Err(MethodError::BasicTier));
    hub.patch_desired("dev1", &json!({ "a": 1 })).unwrap_err();
}

#[tokio::test]
async fn receive_links_beyond_the_throttle_are_told_to_wait() {
    let hub = limited(Limits::default().with_receive_link_opens(Some(1))).await;
    let mut wire = device(&hub).await;
    assert_eq!(
        try_attach(&mut wire, half(5, Role::Receiver, C2D, "x")).await,
        None
    );
    wire.send(
        0,
        Performative::Attach(half(6, Role::Receiver, METHODS, "x")),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    let Performative::Detach(detach) = wire.next().await else {
        panic!("a detach")
    };
    let error = detach.error.unwrap();
    assert_eq!(
        condition_of(&error),
        "com.microsoft:device-container-throttled"
    );
    let text = error.description.unwrap();
    assert!(
        text.contains("503008") && text.contains("AmqpLinkOpen"),
        "{text}"
    );
}

#[tokio::test]
async fn a_detached_device_frees_its_token_where_that_is_on() {
    for frees in [false, true] {
        let limits = Limits::default().with_detach_frees_token(frees);
        let hub = limited(limits.with_tokens_per_connection(1)).await;
        let mut client = Client::device(&hub, "dev1").await;
        let sender = client.telemetry("dev1").await;
        soon(sender.close()).await.unwrap();
        let token = support::token(&hub.device_connection_string("dev2"));
        let status = client.cbs.put("dev2", &token).await.0;
        assert_eq!(status, if frees { 200 } else { 500 });
    }
}

#[tokio::test]
async fn a_token_is_deleted_where_that_is_on() {
    for (known, statuses) in [(false, [400, 400]), (true, [200, 404])] {
        let hub = limited(Limits::default().with_delete_token(known)).await;
        let mut client = Client::device(&hub, "dev1").await;
        let request = [
            ("operation", "delete-token"),
            ("type", "servicebus.windows.net:sastoken"),
            ("name", "dev1"),
        ];
        for status in statuses {
            assert_eq!(client.cbs.ask(&request, "").await.0, status);
        }
    }
}

#[tokio::test]
async fn what_may_last_for_ever_does() {
    let never = Duration::MAX;
    let limits = Limits::default()
        .with_c2d_lock(never)
        .with_idle_timeout(never)
        .with_amqp_open_timeout(never)
        .with_mqtt_connect_timeout(never)
        .with_mqtt_max_silence(never)
        .with_mqtt_packet_timeout(never)
        .with_http_idle_timeout(never)
        .with_http_body_timeout(never);
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    let hub = hub.start().await.unwrap();
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    let mut receiver = client.receiver(C2D).await;
    hub.send_c2d("dev1", C2d::new("x")).unwrap();
    soon(receiver.recv::<DataBody>()).await.unwrap();
    let mut device = Device::connect(&hub, "dev2").await;
    device.publish("devices/dev2/messages/events/", b"x").await;
    assert!(matches!(device.answer().await, Some(Packet::PubAck(_))));
    let mut http = Http::device(&hub, "dev3").await;
    let events = "/devices/dev3/messages/events";
    assert_eq!(http.ask("POST", events, &[], b"x").await.status, 204);
}
