//! What a gateway says of a device.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::time::Duration;

use gateway_core::{
    Announcement, CredentialKind, ErrorKind, Interest, LinkPurpose, SessionExplanation, Settlement,
};
use support::{Harness, device, key, no_retries, soon, token};
use tokio::task::JoinSet;
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

fn session(run: &Harness, name: &str) -> SessionExplanation {
    run.gateway.explain(&device(name)).unwrap().session.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_device_that_nobody_knows_is_not_explained() {
    let run = Harness::start(|_| {});
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert_eq!(run.gateway.explain(&device("b")), None);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_sends_is_attached_and_then_idle() {
    let run = Harness::start(|_| {});
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    sleep(3 * SECOND).await;
    let explanation = run.gateway.explain(&device("a")).unwrap();
    assert_eq!(
        explanation.to_string(),
        "a: attached by memory, hub policy, idle for 3 s, telemetry link, 0 in flight, no error"
    );
    let session = explanation.session.unwrap();
    assert!(session.is_attached && !session.is_online);
    assert_eq!(session.credential, Some(CredentialKind::Policy));
    assert_eq!(session.idle, 3 * SECOND);
    let upstream = explanation.upstream.unwrap();
    assert_eq!(upstream.links.len(), 1);
    assert_eq!(upstream.links[0].purpose, LinkPurpose::Telemetry);
}

#[tokio::test(start_paused = true)]
async fn a_device_is_explained_while_the_hub_says_nothing() {
    let run = Harness::start(|_| {});
    run.hub.hold();
    let mut sends = JoinSet::new();
    for n in 0..3 {
        let device = run.devices.device(device("a")).await;
        sends.spawn(async move { device.send(n.to_string()).await });
    }
    soon(run.hub.wait_held(1)).await;
    let explanation = run.gateway.explain(&device("a")).unwrap();
    assert_eq!(explanation.session.unwrap().queued, 3);
    assert_eq!(explanation.upstream.unwrap().in_flight, Some(1));
    run.hub.release();
    sends.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_listening_device_shows_what_it_wants_and_who_it_is() {
    let run = Harness::start(|_| {});
    let a = device("a");
    let announcement = Announcement::new(a.clone())
        .with_interest(Interest::ALL)
        .with_token(Some(token(&a, &key(), 3600 * SECOND)));
    let presence = run.online(announcement).await.unwrap();
    let explained = session(&run, "a");
    assert!(explained.is_online && explained.is_attached);
    assert_eq!(explained.interest, Interest::ALL);
    assert_eq!(explained.credential, Some(CredentialKind::SasToken));
    let line = run.gateway.explain(&a).unwrap().to_string();
    assert!(!line.contains("sig="), "{line}");
    drop(presence);
    soon(run.hub.wait_deaf(&a)).await;
    sleep(SECOND).await;
    let explained = session(&run, "a");
    assert!(!explained.is_online);
    assert_eq!(explained.interest, Interest::NONE);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_shows_why_and_for_how_long() {
    let run = Harness::start(|_| {});
    let bad = device("bad");
    run.hub.refuse(&bad, ErrorKind::Unauthorized);
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.send("bad", "1").await, refused);
    let explained = session(&run, "bad");
    assert!(!explained.is_attached);
    let refusal = explained.refusal.unwrap();
    assert_eq!(refusal.kind, ErrorKind::Unauthorized);
    assert!(!refusal.left.is_zero() && refusal.left <= SECOND);
    assert_eq!(explained.last_error.unwrap().kind, ErrorKind::Unauthorized);
    let line = run.gateway.explain(&bad).unwrap().to_string();
    assert!(
        line.starts_with("bad: refused as unauthorized for"),
        "{line}"
    );
    sleep(2 * SECOND).await;
    assert_eq!(session(&run, "bad").refusal, None);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_stays_with_its_age() {
    let run = Harness::start(no_retries);
    run.hub.reject_next(ErrorKind::TooLarge);
    let rejected = Settlement::Rejected(ErrorKind::TooLarge);
    assert_eq!(run.send("a", "1").await, rejected);
    sleep(5 * SECOND).await;
    assert_eq!(run.send("a", "2").await, Settlement::Accepted);
    let error = session(&run, "a").last_error.unwrap();
    assert_eq!((error.kind, error.ago), (ErrorKind::TooLarge, 5 * SECOND));
    assert!(error.text.contains("too large"), "{}", error.text);
}
