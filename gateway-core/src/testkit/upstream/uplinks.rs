use std::collections::HashSet;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::SystemTime;

use tokio::time::timeout;

use super::*;
use crate::message::SystemProperties;
use crate::properties::Properties;

/// A send is Ok only after the hub has accepted the message.
pub async fn ok_only_after_the_hub_accepted(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_hold,
        "the hub cannot hold messages"
    );
    let device = attach_speaker(fixture, "held").await;
    let (upstream, message) = (fixture.upstream(), uplink(&device, "held-1"));
    fixture.hold().await;
    let mut send = pin!(upstream.send(&message));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while the hub held it"),
        () = fixture.wait_held(1) => {}
    }
    let early = timeout(WATCH, &mut send).await;
    assert!(early.is_err(), "settled as {early:?} while the hub held it");
    assert!(accepted_ids(fixture, &device).await.is_empty());
    fixture.release().await;
    send.await.expect("the hub accepted it");
    assert_eq!(accepted_ids(fixture, &device).await, ["held-1"]);
    Outcome::Passed
}

/// A message whose settlement was lost is never Ok by itself.
pub async fn a_lost_settlement_is_never_ok(fixture: &dyn UpstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(
        capabilities.can_lose_settlements,
        "the hub cannot lose settlements"
    );
    let device = attach_speaker(fixture, "lost").await;
    let (upstream, message) = (fixture.upstream(), uplink(&device, "lost-1"));
    fixture.lose_settlements(1).await;
    let mut send = pin!(upstream.send(&message));
    while accepted_ids(fixture, &device).await.is_empty() {
        let early = timeout(WATCH / 10, &mut send).await;
        assert!(early.is_err(), "settled as {early:?} without a settlement");
    }
    let early = timeout(WATCH, &mut send).await;
    assert!(early.is_err(), "settled as {early:?} without a settlement");
    fixture.cut().await;
    match send.await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected),
        Ok(()) => {
            assert!(capabilities.retries, "Ok without a settlement");
            assert_eq!(accepted_ids(fixture, &device).await, ["lost-1", "lost-1"]);
        }
    }
    Outcome::Passed
}

/// A message that the hub refuses is Rejected, and the next one goes on.
pub async fn a_rejected_message_is_rejected(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_reject,
        "the hub cannot refuse a message"
    );
    let device = attach_speaker(fixture, "poison").await;
    let upstream = fixture.upstream();
    fixture.reject_next().await;
    let refused = upstream.send(&uplink(&device, "bad")).await;
    assert_eq!(kind(refused), ErrorKind::Rejected);
    let next = upstream.send(&uplink(&device, "good")).await;
    next.expect("a refused message harms only itself");
    assert_eq!(accepted_ids(fixture, &device).await, ["good"]);
    Outcome::Passed
}

/// Sends in flight at a cut fail as Disconnected, and the device sends again without an attach.
pub async fn a_cut_in_flight_is_disconnected_and_the_device_sends_again(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    const SENDS: usize = 5;
    let capabilities = fixture.capabilities();
    need!(capabilities.can_hold, "the hub cannot hold messages");
    let device = attach_speaker(fixture, "cut").await;
    let upstream = fixture.upstream();
    let messages: Vec<_> = (0..SENDS)
        .map(|n| uplink(&device, format!("cut-{n}")))
        .collect();
    fixture.hold().await;
    let sends = join_in_order(messages.iter().map(|m| upstream.send(m)).collect());
    let fault = async {
        fixture.wait_held(SENDS).await;
        fixture.cut().await;
        if capabilities.retries {
            fixture.release().await;
        }
    };
    let (results, ()) = tokio::join!(sends, fault);
    let recorded = accepted_ids(fixture, &device).await;
    for (message, result) in messages.iter().zip(results) {
        match result {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected),
            Ok(()) => assert!(
                capabilities.retries && recorded.contains(&message.id.to_string()),
                "{} is Ok and the hub never accepted it",
                message.id
            ),
        }
    }
    fixture.release().await;
    send_until_ok(&*upstream, &uplink(&device, "after")).await;
    let recorded = accepted_ids(fixture, &device).await;
    assert_eq!(recorded.last().map(String::as_str), Some("after"));
    Outcome::Passed
}

/// Over many reconnects the hub has every message that was Ok, and none that was not sent.
pub async fn nothing_is_lost_or_invented_over_reconnects(fixture: &dyn UpstreamFixture) -> Outcome {
    const DEVICES: usize = 8;
    const MESSAGES: usize = 40;
    const CUTS: usize = 5;
    let upstream = fixture.upstream();
    let done = AtomicUsize::new(0);
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(attach_speaker(fixture, &format!("reconnect-{n}")).await);
    }
    let ids =
        |device: &DeviceId| -> Vec<_> { (0..MESSAGES).map(|n| format!("{device}/{n}")).collect() };
    let senders: Vec<BoxFuture<'_, ()>> = devices
        .iter()
        .map(|device| {
            let (upstream, done) = (&upstream, &done);
            Box::pin(async move {
                for id in ids(device) {
                    send_until_ok(&**upstream, &uplink(device, id)).await;
                    done.fetch_add(1, SeqCst);
                    tokio::task::yield_now().await;
                }
            }) as _
        })
        .collect();
    let cutter = async {
        for cut in 1..=CUTS {
            while done.load(SeqCst) < cut * DEVICES * MESSAGES / (CUTS + 1) {
                tokio::task::yield_now().await;
            }
            fixture.cut().await;
        }
    };
    tokio::join!(join_in_order(senders), cutter);
    for device in &devices {
        let sent = ids(device);
        let mut seen = HashSet::new();
        let recorded = accepted_ids(fixture, device).await.into_iter();
        let firsts: Vec<_> = recorded.filter(|id| seen.insert(id.clone())).collect();
        assert_eq!(firsts, sent, "{device}: lost, invented or out of order");
    }
    Outcome::Passed
}

/// Each of many devices that send in parallel keeps its own order, without a wait between sends.
pub async fn many_devices_in_parallel_keep_their_order(fixture: &dyn UpstreamFixture) -> Outcome {
    const DEVICES: usize = 20;
    const MESSAGES: usize = 50;
    let upstream = fixture.upstream();
    let mut messages = Vec::new();
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(attach_speaker(fixture, &format!("order-{n}")).await);
    }
    for n in 0..MESSAGES {
        messages.extend(devices.iter().map(|device| uplink(device, n.to_string())));
    }
    let sends = messages.iter().map(|message| upstream.send(message));
    for result in join_in_order(sends.collect()).await {
        result.expect("nothing is in the way");
    }
    let sent: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    for device in &devices {
        assert_eq!(accepted_ids(fixture, device).await, sent, "{device}");
    }
    Outcome::Passed
}

/// A send that its caller drops neither blocks the link nor disturbs its order.
pub async fn a_dropped_send_leaves_the_link_usable_and_in_order(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    need!(
        fixture.capabilities().can_hold,
        "the hub cannot hold messages"
    );
    let device = attach_speaker(fixture, "dropped").await;
    let upstream = fixture.upstream();
    fixture.hold().await;
    for n in 0..3 {
        let message = uplink(&device, format!("dropped-{n}"));
        tokio::select! {
            result = upstream.send(&message) => panic!("settled as {result:?} while held"),
            () = fixture.wait_held(n + 1) => {}
        }
    }
    fixture.release().await;
    let messages: Vec<_> = (0..10)
        .map(|n| uplink(&device, format!("kept-{n}")))
        .collect();
    for result in join_in_order(messages.iter().map(|m| upstream.send(m)).collect()).await {
        result.expect("the link is usable");
    }
    let recorded = accepted_ids(fixture, &device).await;
    let of = |prefix: &str| -> Vec<_> {
        let ids = recorded.iter().map(String::as_str);
        ids.filter(|id| id.starts_with(prefix)).collect()
    };
    let sent: Vec<_> = messages.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(of("kept"), sent);
    assert!(of("dropped").is_sorted(), "{recorded:?}");
    Outcome::Passed
}

/// Body, system and application properties reach the hub as they are.
pub async fn a_message_survives_whole(fixture: &dyn UpstreamFixture) -> Outcome {
    let device = attach_speaker(fixture, "whole").await;
    let upstream = fixture.upstream();
    let properties: Properties = [
        ("plain", "value"),
        ("empty", ""),
        ("größe", "23 °C, 水, 🌡"),
        ("quotes", "a=b&c;\"d\"/?"),
    ]
    .into_iter()
    .collect();
    let system = SystemProperties {
        correlation_id: Some("answer to 7".to_owned()),
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        user_id: Some("someone".to_owned()),
        created_at: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250)),
        schema: Some("readings".to_owned()),
        component: Some("thermostat".to_owned()),
    };
    let full = uplink(&device, "whole-1")
        .with_properties(properties)
        .with_system(system);
    let bodies: [Vec<u8>; 3] = [
        Vec::new(),
        (0..=255).collect(),
        (0..200 * 1024_u32).map(|n| n as u8).collect(),
    ];
    let mut sent = vec![full];
    for (n, body) in bodies.into_iter().enumerate() {
        let mut message = uplink(&device, format!("body-{n}"));
        message.body = body.into();
        sent.push(message);
    }
    for message in &sent {
        let result = upstream.send(message).await;
        result.unwrap_or_else(|error| panic!("{}: {error}", message.id));
    }
    let accepted = fixture.accepted().await;
    assert_eq!(accepted.len(), sent.len());
    for (accepted, sent) in accepted.iter().zip(&sent) {
        assert!(
            accepted.body == sent.body,
            "the body of {} changed",
            sent.id
        );
        assert_eq!(accepted.system, sent.system);
        let sorted = |uplink: &Uplink| -> Vec<_> {
            let properties = uplink.properties.iter();
            let mut sorted: Vec<_> = properties
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            sorted.sort();
            sorted
        };
        assert_eq!(sorted(accepted), sorted(sent));
        assert_eq!((&accepted.device, &accepted.id), (&sent.device, &sent.id));
    }
    Outcome::Passed
}

/// A message over the hub's limit is TooLarge, and the device goes on.
pub async fn a_too_large_message_is_told(fixture: &dyn UpstreamFixture) -> Outcome {
    let device = attach_speaker(fixture, "large").await;
    let upstream = fixture.upstream();
    let mut large = uplink(&device, "large-1");
    large.body = vec![0; 300 * 1024].into();
    assert_eq!(kind(upstream.send(&large).await), ErrorKind::TooLarge);
    let next = upstream.send(&uplink(&device, "small")).await;
    next.expect("a large message harms only itself");
    assert_eq!(accepted_ids(fixture, &device).await, ["small"]);
    Outcome::Passed
}

/// A device that is not attached is UnknownDevice.
pub async fn sending_without_attach_is_unknown_device(fixture: &dyn UpstreamFixture) -> Outcome {
    let device = fixture.device("never-attached").await.device;
    let result = fixture.upstream().send(&uplink(&device, "never")).await;
    assert_eq!(kind(result), ErrorKind::UnknownDevice);
    assert!(fixture.accepted().await.is_empty());
    Outcome::Passed
}
