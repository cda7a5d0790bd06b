//! The door inward: credits, verdicts, order.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::collections::HashSet;
use std::time::Duration;

use gateway_core::{DEFAULT_RETRY_AFTER, ErrorKind, Settlement, TwinRequest, Upstream};
use support::{Harness, device, no_retries, soon, uplink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_credit_comes_back_from_a_dropped_slot() {
    let run = Harness::start(|config| config.max_in_flight = 1);
    let ingress = run.devices.ingress().await;
    let slot = ingress.reserve().await;
    assert!(ingress.try_reserve().is_none());
    assert!(timeout(SECOND, ingress.reserve()).await.is_err());
    assert_eq!(run.gateway.stats().in_flight, 1);
    drop(slot);
    assert!(ingress.try_reserve().is_some());
    assert_eq!(run.gateway.stats().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_credit_comes_back_from_a_delivery_given_up() {
    let run = Harness::start(|config| config.max_in_flight = 1);
    let ingress = run.devices.ingress().await;
    run.hub.hold();
    let message = uplink(&device("a"), "1");
    let delivery = ingress.reserve().await.deliver(message);
    assert!(timeout(SECOND, delivery).await.is_err());
    assert!(ingress.try_reserve().is_some());
    let stats = run.gateway.stats();
    assert_eq!(
        (stats.accepted, stats.rejected, stats.retry_later),
        (0, 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_credit_comes_back_with_the_settlement() {
    let run = Harness::start(|config| config.max_in_flight = 1);
    run.hub.set_latency(SECOND);
    let started = Instant::now();
    let (a, b) = tokio::join!(run.send("a", "1"), run.send("b", "1"));
    assert_eq!((a, b), (Settlement::Accepted, Settlement::Accepted));
    assert!(started.elapsed() >= 4 * SECOND, "one after the other");
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_dies_with_a_message_gives_retry_later() {
    let run = Harness::start(no_retries);
    run.hub.hold();
    let fault = async {
        run.hub.wait_held(1).await;
        run.hub.set_down(true);
    };
    let (settlement, ()) = tokio::join!(run.send("a", "1"), fault);
    assert_eq!(settlement, Settlement::RetryLater(DEFAULT_RETRY_AFTER));
    assert_eq!(run.gateway.stats().retry_later, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_never_answers_gives_retry_later() {
    let run = Harness::start(|_| {});
    run.hub.lose_settlements(100);
    let settlement = soon(run.send("a", "1")).await;
    assert_eq!(settlement, Settlement::RetryLater(DEFAULT_RETRY_AFTER));
    // The same message was sent again under the same id.
    let ids: HashSet<_> = run.hub.accepted().into_iter().map(|u| u.id).collect();
    assert_eq!(ids.len(), 1);
    assert!(run.hub.accepted().len() > 1);
}

#[tokio::test(start_paused = true)]
async fn every_verdict_of_the_hub_is_told_as_it_is() {
    use ErrorKind::*;
    let run = Harness::start(no_retries);
    for kind in [Rejected, TooLarge, Unsupported] {
        run.hub.reject_next(kind);
        assert_eq!(run.send("a", "1").await, Settlement::Rejected(kind));
    }
    for kind in [Closed, Disconnected, Throttled, TimedOut, Other] {
        run.hub.reject_next(kind);
        let later = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
        assert_eq!(run.send("a", "1").await, later, "{kind}");
    }
    run.hub.throttle(Some(7 * SECOND));
    assert_eq!(run.send("a", "1").await, Settlement::RetryLater(7 * SECOND));
    run.hub.throttle(None);
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert_eq!(run.hub.attaches(&device("a")), 1);
}

#[tokio::test(start_paused = true)]
async fn no_device_takes_all_credits() {
    let run = Harness::start(|config| {
        config.max_in_flight = 8;
        config.max_queued_per_device = 4;
        config.timeouts.send = 1000 * SECOND;
    });
    run.hub.lose_settlements(1);
    let mut greedy = JoinSet::new();
    for n in 0..4 {
        let device = run.devices.device(device("greedy")).await;
        greedy.spawn(async move { device.send(n.to_string()).await });
        sleep(SECOND).await;
    }
    let later = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
    assert_eq!(run.send("greedy", "5").await, later);
    assert_eq!(run.send("modest", "1").await, Settlement::Accepted);
    assert_eq!(run.gateway.stats().in_flight, 4);
}

#[tokio::test(start_paused = true)]
async fn a_device_keeps_its_order_over_retries() {
    const MESSAGES: usize = 60;
    let run = Harness::start(|_| {});
    run.hub.set_latency(Duration::from_millis(50));
    let mut sends = JoinSet::new();
    for n in 0..MESSAGES {
        let device = run.devices.device(device("a")).await;
        sends.spawn(async move {
            let message = uplink(device.id(), &n.to_string());
            assert_eq!(device.send_uplink(message).await, Settlement::Accepted);
        });
        // Each is first polled before the next one is there.
        tokio::task::yield_now().await;
    }
    let faults = async {
        for n in 0..10 {
            run.hub.wait_accepted(n * 5 + 3).await;
            match n % 3 {
                0 => run.hub.cut(),
                1 => run.hub.reject_next(ErrorKind::Throttled),
                _ => run.hub.lose_settlements(1),
            }
        }
    };
    tokio::join!(soon(faults), sends.join_all());
    let mut seen = HashSet::new();
    let accepted = run.hub.accepted().into_iter().map(|u| u.id.to_string());
    let firsts: Vec<_> = accepted.filter(|id| seen.insert(id.clone())).collect();
    let sent: Vec<_> = (0..MESSAGES).map(|n| n.to_string()).collect();
    assert_eq!(firsts, sent);
}

#[tokio::test(start_paused = true)]
async fn a_twin_is_read_without_an_attach_by_hand() {
    let run = Harness::start(|_| {});
    let (ingress, a) = (run.devices.ingress().await, device("a"));
    let patch = TwinRequest::PatchReported(r#"{"firmware":"1"}"#.into());
    ingress.twin(&a, patch).await.unwrap();
    run.hub.detach(&a).await.unwrap();
    let twin = ingress.twin(&a, TwinRequest::Get).await.unwrap();
    let twin: serde_json::Value = serde_json::from_slice(&twin.body).unwrap();
    assert_eq!(twin["reported"]["firmware"], "1");
    assert_eq!(run.hub.attaches(&a), 2, "a hub that forgot it is told anew");
}

#[tokio::test(start_paused = true)]
async fn twins_of_a_forgotten_device_asked_at_once_attach_it_once() {
    let run = Harness::start(|_| {});
    let (ingress, a) = (run.devices.ingress().await, device("a"));
    ingress.twin(&a, TwinRequest::Get).await.unwrap();
    run.hub.detach(&a).await.unwrap();
    run.hub.set_latency(SECOND);
    let mut reads = JoinSet::new();
    for _ in 0..20 {
        let (ingress, a) = (ingress.clone(), a.clone());
        reads.spawn(async move { ingress.twin(&a, TwinRequest::Get).await });
    }
    for read in reads.join_all().await {
        read.unwrap();
    }
    assert_eq!(run.hub.attach_requests(&a), 2);
}

#[tokio::test(start_paused = true)]
async fn a_door_that_is_closing_lets_nothing_in() {
    let mut run = Harness::start(|_| {});
    let ingress = run.devices.ingress().await;
    run.shutdown.cancel();
    run.ended().await.unwrap();
    let slot = ingress.reserve().await;
    let settlement = slot.deliver(uplink(&device("a"), "1")).await;
    assert_eq!(settlement, Settlement::RetryLater(DEFAULT_RETRY_AFTER));
    assert!(run.hub.accepted().is_empty());
    let twin = ingress.twin(&device("a"), TwinRequest::Get).await;
    assert_eq!(twin.unwrap_err().kind(), ErrorKind::Closed);
}
