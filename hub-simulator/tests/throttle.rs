//! A hub of a bought size: what is too much is refused with the real hub's errors.

mod support;

use std::time::Duration;

use hub_simulator::{HubSimulator, Limits, Size, Tier};
use support::{Client, accepted, message, rejection, soon};
use tokio::time::Instant;

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn hub_of(size: Size) -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .with_limits(Limits::default().with_size(Some(size)))
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn telemetry_beyond_burst_and_queue_is_rejected_and_the_link_stays() {
    let size = Size::new(Tier::S1, 1)
        .with_burst(Duration::from_millis(100))
        .with_queue(Duration::ZERO);
    let hub = hub_of(size).await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let mut refused = Vec::new();
    let mut pending = Vec::new();
    for number in 0..500 {
        let sent = message(&number.to_string(), "x");
        pending.push(soon(sender.send_batchable(sent)).await.unwrap());
    }
    for outcome in pending {
        let outcome = soon(outcome).await.unwrap();
        if !outcome.is_accepted() {
            refused.push(rejection(outcome));
        }
    }
    assert!(!refused.is_empty());
    for (condition, description) in &refused {
        assert_eq!(condition, "com.microsoft:device-container-throttled");
        assert!(description.contains("429001"), "{description}");
    }
    assert_eq!(hub.record().count(), 500 - refused.len() as u64);
}

#[tokio::test]
async fn telemetry_that_waits_for_its_turn_is_accepted_later() {
    let size = Size::new(Tier::S1, 1).with_burst(Duration::from_millis(100));
    let hub = hub_of(size).await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    let mut pending = Vec::new();
    let began = Instant::now();
    for number in 0..50 {
        let sent = message(&number.to_string(), "x");
        pending.push(soon(sender.send_batchable(sent)).await.unwrap());
    }
    for outcome in pending {
        accepted(soon(outcome).await.unwrap());
    }
    assert_eq!(hub.record().count(), 50);
    // 10 at once, and the others 100 a second.
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_used_up_quota_refuses_telemetry_until_tomorrow() {
    let hub = hub_of(Size::new(Tier::S1, 1).with_messages_a_day(2)).await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut sender = client.telemetry("dev1").await;
    for number in 0..2 {
        let sent = message(&number.to_string(), "x");
        accepted(soon(sender.send(sent)).await.unwrap());
    }
    let outcome = soon(sender.send(message("2", "x"))).await.unwrap();
    let (condition, description) = rejection(outcome);
    assert_eq!(condition, "amqp:resource-limit-exceeded");
    assert!(description.contains("403002"), "{description}");
}

#[tokio::test]
async fn a_service_that_sends_too_much_in_a_minute_is_told_so() {
    let hub = hub_of(Size::new(Tier::S1, 1).with_queue(Duration::ZERO)).await;
    hub.add_devices(["a", "b", "c"]);
    let mut service = Client::service(&hub).await;
    let mut sender = service.sender("/messages/deviceBound").await;
    let mut refused = Vec::new();
    for number in 0..150 {
        let device = ["a", "b", "c"][number % 3];
        let sent = support::c2d(device, &number.to_string());
        let outcome = soon(sender.send(sent)).await.unwrap();
        if !outcome.is_accepted() {
            refused.push(rejection(outcome).0);
        }
    }
    assert!(!refused.is_empty());
    assert!(
        refused
            .iter()
            .all(|condition| condition == "com.microsoft:device-container-throttled")
    );
}
