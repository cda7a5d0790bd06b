//! Scripted faults as MQTT clients meet them.

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;

use std::time::Duration;

use hub_simulator::LinkKind;
use mqtt::{ConnectReturnCode, Device, Packet, PubAck, Wire, connect_packet};
use support::{plain_hub, soon};
use tokio::time::{Instant, timeout};

const EVENTS: &str = "devices/dev1/messages/events/";

#[tokio::test]
async fn held_acknowledgements_leave_in_order_when_they_are_released() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let held = hub.faults().hold_settlements();
    let ids = [
        device.publish(EVENTS, b"1").await,
        device.publish(EVENTS, b"2").await,
    ];
    soon(hub.record().wait_for(2)).await;
    device.ping().await;
    held.release();
    for id in ids {
        assert_eq!(device.answer().await, Some(Packet::PubAck(PubAck::new(id))));
    }
}

#[tokio::test]
async fn an_acknowledgement_is_dropped_or_late_as_the_script_says() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    hub.faults().drop_settlements(1);
    device.publish(EVENTS, b"1").await;
    device.publish_acked(EVENTS, b"2").await;
    hub.faults().delay_settlements(Duration::from_millis(300));
    let began = Instant::now();
    device.publish_acked(EVENTS, b"3").await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(hub.record().count(), 3);
}

#[tokio::test]
async fn rejected_telemetry_ends_the_connection() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    hub.faults().throttle(Some("dev1"), 1);
    device.publish(EVENTS, b"x").await;
    device.closed().await;
    assert_eq!(hub.record().count(), 0);
    let mut device = Device::connect(&hub, "dev1").await;
    device.publish_acked(EVENTS, b"x").await;
}

#[tokio::test]
async fn connections_are_closed_cut_and_stolen_by_script() {
    let hub = plain_hub().await;
    let faults = hub.faults();
    let mut device = Device::connect(&hub, "dev1").await;
    faults.close_all("amqp:connection:forced");
    device.closed().await;
    let mut device = Device::connect(&hub, "dev1").await;
    faults.cut_all();
    device.closed().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let mut bystander = Device::connect(&hub, "dev2").await;
    faults.detach("dev1", LinkKind::Telemetry, "amqp:link:detach-forced");
    device.closed().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let filter = "devices/dev1/messages/devicebound/#";
    device.subscribe(filter, mqtt::QoS::AtLeastOnce).await;
    faults.steal("dev1");
    device.closed().await;
    bystander.ping().await;
}

#[tokio::test]
async fn a_frozen_connection_answers_when_it_thaws() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    hub.faults().freeze_all();
    device.publish(EVENTS, b"x").await;
    let early = timeout(Duration::from_millis(100), device.answer()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(hub.record().count(), 0);
    hub.faults().thaw();
    assert!(matches!(device.answer().await, Some(Packet::PubAck(_))));
}

#[tokio::test]
async fn latency_delays_every_answer() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    hub.faults().latency(Duration::from_millis(200));
    let began = Instant::now();
    device.ping().await;
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn connecting_is_refused_or_left_unanswered_by_script() {
    let hub = plain_hub().await;
    let faults = hub.faults();
    let code = async || {
        let mut wire = Wire::open(&hub).await;
        wire.connect(connect_packet(&hub, "dev1"))
            .await
            .unwrap()
            .code
    };
    faults.refuse_token("dev1", 401, "no");
    assert_eq!(code().await, ConnectReturnCode::NotAuthorized);
    faults.refuse_token("dev1", 503, "not now");
    assert_eq!(code().await, ConnectReturnCode::ServiceUnavailable);
    faults.allow_token("dev1");
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    faults.withhold_attach("dev1");
    let mut waiting = Wire::open(&hub).await;
    waiting
        .send(&Packet::Connect(connect_packet(&hub, "dev1")))
        .await;
    soon(hub.wait_until(|stats| stats.connections.len() == 1)).await;
    faults.cut_all();
    assert_eq!(waiting.next().await, None, "it never had an answer");
    faults.allow_attach("dev1");
    assert_eq!(code().await, ConnectReturnCode::Success);
}
