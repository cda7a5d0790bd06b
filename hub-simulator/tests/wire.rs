//! The protocol to the letter, and what happens to peers that break it.

mod support;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::performatives::{Detach, Performative};
use hub_simulator::{C2d, HubSimulator, Limits};
use support::{Client, accepted, condition_of, message, plain_hub, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{HEADER, Wire, attach, begin, credit, frame, open, transfer};

const EVENTS: &str = "/devices/dev1/messages/events";

#[tokio::test]
async fn the_hub_opens_and_begins_with_the_real_hubs_values() {
    let hub = plain_hub().await;
    let mut wire = Wire::connect(&hub).await;
    wire.send_bytes(&HEADER).await;
    wire.send(0, Performative::Open(open())).await;
    wire.send(5, Performative::Begin(begin(100))).await;
    assert_eq!(wire.read_header().await, HEADER);
    let Performative::Open(open) = wire.next().await else {
        panic!("an open")
    };
    assert!(open.container_id.starts_with("DeviceGateway_"));
    assert_eq!(
        (
            open.max_frame_size.0,
            open.channel_max.0,
            open.idle_time_out
        ),
        (65_536, 8191, Some(240_000))
    );
    let (channel, Performative::Begin(begin), _) = wire.frame().await.unwrap() else {
        panic!("a begin")
    };
    assert_eq!((channel, begin.remote_channel), (5, Some(5)));
    assert_eq!(
        (
            begin.next_outgoing_id,
            begin.incoming_window,
            begin.handle_max.0
        ),
        (1, 5000, 262_143)
    );
}

#[tokio::test]
async fn sasl_mechanisms_are_the_captured_frame() {
    let hub = plain_hub().await;
    let mut wire = Wire::connect(&hub).await;
    wire.send_bytes(b"AMQP\x03\x01\x00\x00").await;
    assert_eq!(&wire.read_header().await, b"AMQP\x03\x01\x00\x00");
    let mut mechanisms = [0; 63];
    soon(wire.stream.read_exact(&mut mechanisms)).await.unwrap();
    let start = [
        0, 0, 0, 0x3f, 2, 1, 0, 0, 0, 0x53, 0x40, 0xc0, 0x32, 1, 0xe0, 0x2f, 4, 0xb3,
    ];
    assert_eq!(mechanisms[..18], start);
    assert!(mechanisms.ends_with(b"\x00\x00\x00\x05PLAIN"));
}

#[tokio::test]
async fn a_refused_attach_has_no_termini_and_is_then_closed() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.send(
        0,
        Performative::Attach(attach("a", 0, Role::Sender, EVENTS)),
    )
    .await;
    let Performative::Attach(reply) = wire.next().await else {
        panic!("an attach")
    };
    assert!(reply.source.is_none() && reply.target.is_none());
    assert_eq!(reply.max_message_size, Some(262_144));
    let Performative::Detach(detach) = wire.next().await else {
        panic!("a detach")
    };
    assert!(detach.closed);
    assert_eq!(
        condition_of(&detach.error.unwrap()),
        "amqp:unauthorized-access"
    );
    // The handle is free again once the peer has detached too.
    wire.send(
        0,
        Performative::Detach(Detach {
            handle: 0.into(),
            closed: true,
            error: None,
        }),
    )
    .await;
    wire.authorize(&hub, "dev1").await;
}

#[tokio::test]
async fn a_link_name_is_taken_once_in_a_session_and_free_in_another() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    for (channel, handle) in [(0, 5), (0, 6), (1, 5)] {
        if channel == 1 {
            wire.send(1, Performative::Begin(begin(100))).await;
            assert!(matches!(wire.next().await, Performative::Begin(_)));
        }
        wire.send(
            channel,
            Performative::Attach(attach("same", handle, Role::Sender, EVENTS)),
        )
        .await;
        let Performative::Attach(reply) = wire.next().await else {
            panic!("an attach")
        };
        assert_eq!(reply.target.is_none(), (channel, handle) == (0, 6));
        match wire.next().await {
            Performative::Detach(detach) => {
                assert_eq!(condition_of(&detach.error.unwrap()), "amqp:resource-locked")
            }
            Performative::Flow(flow) => assert_eq!(flow.link_credit, Some(1000)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_peers_window_and_frame_size_bound_what_is_sent() {
    let hub = plain_hub().await;
    let small = fe2o3_amqp_types::performatives::Open {
        max_frame_size: 512.into(),
        ..open()
    };
    let mut wire = Wire::with_session(&hub, small, begin(3)).await;
    wire.authorize(&hub, "dev1").await;
    let c2d = attach(
        "c2d",
        7,
        Role::Receiver,
        "/devices/dev1/messages/devicebound",
    );
    wire.send(0, Performative::Attach(c2d)).await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    hub.send_c2d("dev1", C2d::new(vec![7; 2000])).unwrap();
    let mut flow = credit(7, 1);
    // One frame, the token's answer, has come already: ids 2 and 3 are left of a window of 3.
    (flow.next_incoming_id, flow.incoming_window) = (Some(2), 2);
    wire.send(0, Performative::Flow(flow.clone())).await;
    let mut payload = 0;
    for _ in 0..2 {
        let (_, Performative::Transfer(transfer), part) = wire.frame().await.unwrap() else {
            panic!()
        };
        assert!(transfer.more && part.len() <= 512);
        payload += part.len();
    }
    let silence = tokio::time::timeout(Duration::from_millis(200), wire.stream.read_u8()).await;
    assert!(silence.is_err(), "the window is shut");
    (flow.next_incoming_id, flow.incoming_window) = (Some(4), 100);
    wire.send(0, Performative::Flow(flow)).await;
    loop {
        let (_, Performative::Transfer(transfer), part) = wire.frame().await.unwrap() else {
            panic!()
        };
        payload += part.len();
        if !transfer.more {
            break;
        }
    }
    assert!(payload > 2000);
}

#[tokio::test]
async fn more_than_the_window_ends_the_session() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    hub.faults().incoming_window(Some(2));
    wire.send(1, Performative::Begin(begin(100))).await;
    assert!(matches!(wire.next().await, Performative::Begin(_)));
    wire.send(
        1,
        Performative::Attach(attach("t", 0, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    assert!(matches!(wire.next().await, Performative::Flow(_)));
    let mut body = serde_amqp::to_vec(&Performative::Transfer(transfer(0, 1, true))).unwrap();
    body.push(0);
    wire.send_bytes(&frame(1, &body).repeat(3)).await;
    let Performative::End(end) = wire.next().await else {
        panic!("an end")
    };
    assert_eq!(
        condition_of(&end.error.unwrap()),
        "amqp:session:window-violation"
    );
}

#[tokio::test]
async fn more_than_the_credit_detaches_the_link() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    hub.faults().link_credit(Some(3));
    let held = hub.faults().hold_settlements();
    wire.send(
        0,
        Performative::Attach(attach("t", 5, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    assert!(matches!(wire.next().await, Performative::Flow(_)));
    for id in 1..=4 {
        wire.send_with(
            0,
            Performative::Transfer(transfer(5, id, false)),
            b"\x00\x53\x75\xa0\x01x",
        )
        .await;
    }
    let Performative::Detach(detach) = wire.next().await else {
        panic!("a detach")
    };
    assert_eq!(
        condition_of(&detach.error.unwrap()),
        "amqp:link:transfer-limit-exceeded"
    );
    assert_eq!(hub.record().count(), 3);
    drop(held);
}

#[tokio::test]
async fn an_aborted_delivery_leaves_no_trace() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    wire.send(
        0,
        Performative::Attach(attach("t", 5, Role::Sender, EVENTS)),
    )
    .await;
    wire.send_with(
        0,
        Performative::Transfer(transfer(5, 1, true)),
        b"\x00\x53\x75",
    )
    .await;
    let mut aborted = transfer(5, 1, false);
    aborted.aborted = true;
    wire.send(0, Performative::Transfer(aborted)).await;
    wire.send_with(
        0,
        Performative::Transfer(transfer(5, 2, false)),
        b"\x00\x53\x75\xa0\x01x",
    )
    .await;
    soon(hub.record().wait_for(1)).await;
    assert_eq!(&hub.record().accepted()[0].body[..], b"x");
}

#[tokio::test]
async fn an_aborted_delivery_of_many_frames_gives_its_credit_back() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    hub.faults().link_credit(Some(1));
    wire.send(
        0,
        Performative::Attach(attach("t", 5, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    for id in 1..=3 {
        let Performative::Flow(flow) = wire.next().await else {
            panic!("a flow")
        };
        assert_eq!(flow.link_credit, Some(1));
        let begun = Performative::Transfer(transfer(5, id, true));
        wire.send_with(0, begun, b"\x00\x53\x75").await;
        let mut aborted = transfer(5, id, false);
        aborted.aborted = true;
        wire.send(0, Performative::Transfer(aborted)).await;
    }
}

#[tokio::test]
async fn a_telemetry_message_that_cannot_be_read_is_rejected() {
    let hub = plain_hub().await;
    let mut wire = Wire::with_session(&hub, open(), begin(100)).await;
    wire.authorize(&hub, "dev1").await;
    wire.send(
        0,
        Performative::Attach(attach("t", 5, Role::Sender, EVENTS)),
    )
    .await;
    assert!(matches!(wire.next().await, Performative::Attach(_)));
    assert!(matches!(wire.next().await, Performative::Flow(_)));
    wire.send_with(
        0,
        Performative::Transfer(transfer(5, 1, false)),
        b"not a message",
    )
    .await;
    let Performative::Disposition(disposition) = wire.next().await else {
        panic!("a disposition")
    };
    assert!(
        format!("{disposition:?}").contains("DecodeError"),
        "{disposition:?}"
    );
}

#[tokio::test]
async fn a_quiet_hub_sends_heartbeats_as_often_as_the_peer_asks() {
    let limits = Limits::default().with_min_client_idle_timeout(Duration::from_millis(100));
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let asking = fe2o3_amqp_types::performatives::Open {
        idle_time_out: Some(200),
        ..open()
    };
    let mut wire = Wire::with_session(&hub, asking, begin(100)).await;
    for _ in 0..2 {
        assert!(wire.frame().await.is_none());
    }
}

#[tokio::test]
async fn an_idle_time_out_below_five_seconds_is_not_allowed() {
    let hub = plain_hub().await;
    let mut wire = Wire::connect(&hub).await;
    wire.send_bytes(&HEADER).await;
    let asking = fe2o3_amqp_types::performatives::Open {
        idle_time_out: Some(4999),
        ..open()
    };
    wire.send(0, Performative::Open(asking)).await;
    wire.read_header().await;
    assert!(matches!(wire.next().await, Performative::Open(_)));
    let Performative::Close(close) = wire.next().await else {
        panic!("a close")
    };
    assert_eq!(condition_of(&close.error.unwrap()), "amqp:not-allowed");
}

#[tokio::test]
async fn a_silent_peer_is_dropped() {
    let limits = Limits::default().with_idle_timeout(Duration::from_millis(200));
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut silent = Wire::connect(&hub).await;
    assert!(silent.is_hung_up().await);
    let mut quiet = Wire::with_session(&hub, open(), begin(100)).await;
    let Performative::Close(close) = quiet.next().await else {
        panic!("a close")
    };
    let error = close.error.unwrap();
    assert_eq!(condition_of(&error), "amqp:connection:forced");
    let text = error.description.unwrap();
    let start =
        "The connection was inactive for more than the allowed 200 milliseconds and is closed";
    assert!(text.starts_with(start), "{text}");
}

/// A value nested thousands of levels deep, which a decoder that recurses would not survive.
fn nested() -> Vec<u8> {
    let mut value = vec![0x40];
    for _ in 0..7000 {
        let mut outer = vec![0xd0];
        outer.extend((value.len() as u32 + 4).to_be_bytes());
        outer.extend(1u32.to_be_bytes());
        outer.append(&mut value);
        value = outer;
    }
    value
}

#[tokio::test]
async fn nonsense_ends_its_own_connection_and_no_other() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let opened = |body: &[u8]| {
        let mut bytes = HEADER.to_vec();
        bytes.extend(frame(
            0,
            &serde_amqp::to_vec(&Performative::Open(open())).unwrap(),
        ));
        bytes.extend(body);
        bytes
    };
    let nested = [&[0x00, 0x53, 0x12][..], &nested()].concat();
    for nonsense in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        opened(&[0xff; 64]),
        opened(&[0, 0, 0, 7, 2, 0, 0, 0]),
        opened(&[0, 0, 0, 8, 1, 0, 0, 0]),
        opened(&[0, 0, 0, 8, 3, 0, 0, 0]),
        opened(&frame(0, &[0x40])),
        opened(&frame(0, &[0x00, 0x00, 0x00, 0x00])),
        opened(&frame(
            0,
            &[
                0x00, 0x53, 0x12, 0xd0, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
            ],
        )),
        opened(&frame(0, &[0x00, 0x53, 0x14, 0x45])),
        opened(&frame(9, &[0x00, 0x53, 0x17, 0x45])),
        opened(&frame(0, &nested)),
        opened(&opened(&[])),
        HEADER
            .into_iter()
            .chain(frame(0, &[0x00, 0x53, 0x18, 0x45]))
            .collect(),
    ] {
        let mut wire = Wire::connect(&hub).await;
        wire.send_bytes(&nonsense).await;
        assert!(
            wire.is_hung_up().await,
            "{:02x?}",
            &nonsense[..nonsense.len().min(64)]
        );
    }
    let mut cut_short = Wire::connect(&hub).await;
    cut_short.send_bytes(&opened(&[0, 0, 0, 50, 2])).await;
    cut_short.stream.shutdown().await.unwrap();
    assert!(cut_short.is_hung_up().await);
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_greeting_that_drips_in_is_cut_off_and_holds_up_nobody() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(Limits::default().with_amqp_open_timeout(Duration::from_millis(500)))
        .start()
        .await
        .unwrap();
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let sasl = b"AMQP\x03\x01\x00\x00";
    let open = frame(0, &serde_amqp::to_vec(&Performative::Open(open())).unwrap());
    for greeting in [
        HEADER.to_vec(),
        [&HEADER[..], &open].concat(),
        [&sasl[..], &[0, 0, 0, 50, 2, 1]].concat(),
    ] {
        let mut slow = Wire::connect(&hub).await;
        // Every byte is a sign of life; the last one never comes.
        let (_, greeting) = greeting.split_last().unwrap();
        for byte in greeting {
            slow.send_bytes(&[*byte]).await;
        }
        assert!(slow.is_hung_up().await);
        accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    }
}
