use tokio::time::timeout;

use super::*;
use crate::error::ErrorKind;

/// A device is told that its message was accepted only after the hub accepted it.
pub async fn a_device_is_told_accepted_only_after_the_hub_accepted(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let running = Running::start(fixture).await;
    let hub = running.hub.clone();
    let (id, name) = (message_id("held"), device("patient"));
    let mut client = fixture.connect(&name).await;
    hub.hold();
    assert!(client.send(id.clone(), body("held")).await);
    hub.wait_held(1).await;
    let early = timeout(WATCH, client.next()).await;
    assert!(
        early.is_err(),
        "saw {early:?} while the hub held the message"
    );
    hub.release();
    if fixture.capabilities().settles_uplinks {
        assert_eq!(client.next().await, DeviceEvent::Accepted(id.clone()));
    }
    let accepted = hub.wait_accepted(1).await;
    assert_eq!(accepted[0].device, name);
    assert_eq!(sent_as(fixture, &accepted[0]), id.as_str());
    assert_eq!(accepted[0].body, body("held"));
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A device is told that the hub refuses its message for good, and goes on.
pub async fn a_rejection_is_told(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().settles_uplinks,
        "a device is not told what becomes of its messages"
    );
    let running = Running::start(fixture).await;
    let mut client = fixture.connect(&device("rejected")).await;
    running.hub.reject_next(ErrorKind::Rejected);
    let (bad, good) = (message_id("bad"), message_id("good"));
    assert!(client.send(bad.clone(), body("bad")).await);
    assert_eq!(client.next().await, DeviceEvent::Rejected(bad));
    assert!(client.send(good.clone(), body("good")).await);
    assert_eq!(client.next().await, DeviceEvent::Accepted(good));
    assert_eq!(running.hub.accepted().len(), 1);
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A device is told to send its message again later when the hub does not take it now.
pub async fn a_retry_is_told(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().settles_uplinks,
        "a device is not told what becomes of its messages"
    );
    let settings = DownstreamSettings::default();
    let running = Running::start_with(fixture, settings, |config| {
        config.retry.budget = Duration::ZERO;
    })
    .await;
    let mut client = fixture.connect(&device("later")).await;
    running.hub.throttle(Some(Duration::from_millis(1500)));
    let id = message_id("again");
    assert!(client.send(id.clone(), body("x")).await);
    assert_eq!(client.next().await, DeviceEvent::RetryLater(id.clone()));
    assert!(running.hub.accepted().is_empty());
    running.hub.throttle(None);
    assert!(client.send(id.clone(), body("x")).await);
    assert_eq!(client.next().await, DeviceEvent::Accepted(id));
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A device's messages reach the hub in the order in which it sent them.
pub async fn a_device_keeps_its_order(fixture: &dyn DownstreamFixture) -> Outcome {
    const MESSAGES: usize = 40;
    let running = Running::start(fixture).await;
    let mut client = fixture.connect(&device("orderly")).await;
    let ids: Vec<_> = (0..MESSAGES).map(|n| message_id(n.to_string())).collect();
    let mut settled = Vec::new();
    for id in &ids {
        assert!(client.send(id.clone(), body(id.as_str())).await);
    }
    if fixture.capabilities().settles_uplinks {
        while settled.len() < MESSAGES {
            match client.next().await {
                DeviceEvent::Accepted(id) => settled.push(id),
                other => panic!("saw {other:?}"),
            }
        }
        assert_eq!(settled, ids);
    }
    let accepted = running.hub.wait_accepted(MESSAGES).await;
    let accepted = accepted.iter().map(|uplink| sent_as(fixture, uplink));
    let ids = ids.iter().map(|id| id.to_string());
    assert_eq!(accepted.collect::<Vec<_>>(), ids.collect::<Vec<_>>());
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// Without a free credit the gateway reads no more, and everything arrives once there is one.
pub async fn reading_stops_without_credit(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().pushes_back,
        "a device is told to come back later instead"
    );
    // More than socket buffers take.
    const MESSAGES: usize = 1500;
    const SIZE: usize = 32 * 1024;
    const CREDITS: usize = 4;
    let settings = DownstreamSettings::default();
    let running = Running::start_with(fixture, settings, |config| {
        config.max_in_flight = CREDITS;
    })
    .await;
    let hub = running.hub.clone();
    let name = device("flood");
    let mut client = fixture.connect(&name).await;
    hub.wait_attached(&name, true).await;
    hub.hold();
    let text = body(&"x".repeat(SIZE));
    let mut written = 0;
    // Full when nothing more was taken for a while.
    while let Ok(sent) = timeout(
        WATCH,
        client.send(message_id(written.to_string()), text.clone()),
    )
    .await
    {
        assert!(sent, "the connection was closed instead of slowed down");
        written += 1;
        assert!(
            written < MESSAGES,
            "{written} messages were read with {CREDITS} credits and none settled"
        );
    }
    hub.wait_held(1).await;
    assert!(running.gateway.stats().in_flight <= CREDITS);
    assert!(hub.accepted().is_empty());
    hub.release();
    // The send that was stuck was given up and may be cut off anywhere.
    let accepted = hub.wait_accepted(written).await;
    let sent = (0..written).map(|n| n.to_string());
    assert!(
        sent.eq(accepted[..written]
            .iter()
            .map(|uplink| uplink.id.to_string())),
        "lost, invented or out of order"
    );
    assert!(accepted[..written].iter().all(|uplink| uplink.body == text));
    drop(client);
    running.end().await;
    Outcome::Passed
}
