//! MQTT clients that do what they must not: each loses its connection, and nobody else does.

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;

use std::time::Duration;

use bytes::BytesMut;
use hub_simulator::{HubSimulator, Limits};
use mqtt::{Device, Packet, PubAck, Publish, QoS, Subscribe, Unsubscribe, Wire, connect_packet};
use support::{plain_hub, soon};

/// Does something to a connected device that ends its connection, with another device looking on.
async fn ends(hub: &HubSimulator, what: &str, act: impl AsyncFnOnce(&mut Device)) {
    let mut bystander = Device::connect(hub, "bystander").await;
    let mut device = Device::connect(hub, "dev1").await;
    act(&mut device).await;
    device.closed().await;
    bystander.ping().await;
    let topic = "devices/bystander/messages/events/";
    bystander.publish_acked(topic, what.as_bytes()).await;
}

#[tokio::test]
async fn topics_that_the_hub_does_not_have_end_the_connection() {
    let hub = plain_hub().await;
    for topic in [
        "home/kitchen",
        "devices/bystander/messages/events/",
        "devices/dev1/messages/devicebound/",
        "devices/dev1/messages/events/a=%zz",
        "$iothub/twin/GET/",
        "$iothub/twin/GET/?x=1",
        "$iothub/methods/res/ok/?$rid=1",
        "$SYS/broker",
    ] {
        ends(&hub, topic, async |device| {
            device.publish(topic, b"x").await;
        })
        .await;
    }
    assert_eq!(hub.record().count_of("dev1"), 0);
}

#[tokio::test]
async fn filters_that_the_hub_does_not_have_end_the_connection() {
    let hub = plain_hub().await;
    for filter in [
        "#",
        "+/dev1/messages/devicebound/#",
        "devices/bystander/messages/devicebound/#",
        "$iothub/#",
        "home/kitchen",
    ] {
        ends(&hub, filter, async |device| {
            let mut subscribe = Subscribe::new(filter, QoS::AtMostOnce);
            subscribe.pkid = 1;
            device.wire.send(&Packet::Subscribe(subscribe)).await;
        })
        .await;
        ends(&hub, filter, async |device| {
            let mut unsubscribe = Unsubscribe::new(filter);
            unsubscribe.pkid = 1;
            device.wire.send(&Packet::Unsubscribe(unsubscribe)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn qos_2_ends_the_connection() {
    let hub = plain_hub().await;
    ends(&hub, "QoS 2", async |device| {
        let mut publish = Publish::new("devices/dev1/messages/events/", QoS::ExactlyOnce, "x");
        publish.pkid = 1;
        device.wire.send(&Packet::Publish(publish)).await;
    })
    .await;
    assert_eq!(hub.record().count_of("dev1"), 0);
}

#[tokio::test]
async fn packets_out_of_order_end_the_connection() {
    let hub = plain_hub().await;
    let second = connect_packet(&hub, "dev1");
    ends(&hub, "a second CONNECT", async |device| {
        device.wire.send(&Packet::Connect(second)).await;
    })
    .await;
    ends(&hub, "a packet of the server's", async |device| {
        device.wire.send(&Packet::PingResp).await;
    })
    .await;
    let mut early = Wire::open(&hub).await;
    early.send(&Packet::PingReq).await;
    assert_eq!(early.next().await, None, "nothing comes before CONNECT");
}

#[tokio::test]
async fn an_acknowledgement_of_nothing_changes_nothing() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    device.wire.send(&Packet::PubAck(PubAck::new(77))).await;
    device.ping().await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection() {
    let hub = plain_hub().await;
    let topic = "devices/dev1/messages/events/";
    ends(&hub, "257 KiB", async |device| {
        device.publish(topic, &vec![0; 257 * 1024]).await;
    })
    .await;
    ends(
        &hub,
        "a packet that is announced as 256 MiB",
        async |device| {
            device
                .wire
                .send_bytes(b"\x30\xff\xff\xff\x7f\x00\x01")
                .await;
        },
    )
    .await;
    assert_eq!(hub.record().count_of("dev1"), 0);
    let mut device = Device::connect(&hub, "dev1").await;
    device.publish_acked(topic, &vec![0; 256 * 1024]).await;
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    let hub = plain_hub().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"AMQP\x00\x01\x00\x00",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x30\xff\xff\xff\xff\xff",
        b"\x10\x00",
    ] {
        let mut stranger = Wire::open(&hub).await;
        stranger.send_bytes(garbage).await;
        assert_eq!(stranger.next().await, None);
        ends(&hub, "garbage", async |device| {
            device.wire.send_bytes(garbage).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_packet_in_many_pieces_is_a_packet() {
    let hub = plain_hub().await;
    let mut bytes = BytesMut::new();
    let connect = Packet::Connect(connect_packet(&hub, "dev1"));
    connect.write(&mut bytes, usize::MAX).unwrap();
    let mut slow = Wire::open(&hub).await;
    for byte in bytes {
        slow.send_bytes(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(slow.next().await, Some(Packet::ConnAck(_))));
}

fn impatient() -> Limits {
    Limits::default()
        .with_mqtt_connect_timeout(Duration::from_millis(300))
        .with_mqtt_packet_timeout(Duration::from_millis(300))
}

#[tokio::test]
async fn nobody_stays_who_does_not_connect() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(impatient())
        .start()
        .await
        .unwrap();
    let mut silent = Wire::open(&hub).await;
    assert_eq!(silent.next().await, None);
    let mut half = Wire::open(&hub).await;
    half.send_bytes(b"\x10\x40\x00\x04MQTT").await;
    assert_eq!(half.next().await, None);
}

#[tokio::test]
async fn half_a_packet_does_not_stay_for_ever() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(impatient())
        .start()
        .await
        .unwrap();
    let mut patient = Device::connect(&hub, "dev2").await;
    let mut device = Device::connect(&hub, "dev1").await;
    device.wire.send_bytes(b"\x30\x20\x00").await;
    device.closed().await;
    patient.ping().await;
    soon(hub.wait_until(|stats| stats.connections.len() == 1)).await;
}

#[tokio::test]
async fn a_client_that_asks_and_does_not_read_waits_alone() {
    let hub = plain_hub().await;
    let mut bystander = Device::connect(&hub, "bystander").await;
    let mut greedy = Device::connect(&hub, "dev1").await;
    greedy
        .subscribe("$iothub/twin/res/#", QoS::AtMostOnce)
        .await;
    let mut requests = BytesMut::new();
    for _ in 0..1000 {
        let get = Publish::new("$iothub/twin/GET/?$rid=1", QoS::AtMostOnce, "");
        get.write(&mut requests).unwrap();
    }
    let flood = async {
        loop {
            greedy.wire.send_bytes(&requests).await;
        }
    };
    let work = async {
        for _ in 0..200 {
            let topic = "devices/bystander/messages/events/";
            bystander.publish_acked(topic, b"x").await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = work => {}
    }
    assert_eq!(hub.record().count_of("bystander"), 200);
}
