//! What the hub takes away, and what comes back.

mod common;

use std::time::Duration;

use common::{
    accepted_ids, attach, attach_with, config, device_id, hub, one_lane, uplink, upstream,
    with_key, with_policy, with_token,
};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{ErrorKind, Interest, Upstream};
use hub_simulator::{C2d, C2dOutcome};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Far less than the hub has for its answer.
const PROMPT: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
/// Says nothing of a device.
const ENDED: &str = "amqp:internal-error";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_connections_are_cut_under_load() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.pool.devices_per_connection = 20;
    let upstream = upstream(config);
    let mut devices = Vec::new();
    for n in 0..60 {
        let identity = with_key(&hub, &format!("device-{n}"));
        devices.push(identity.device.clone());
        attach(&upstream, &identity).await;
    }
    let mut sending = JoinSet::new();
    for device in devices {
        let upstream = upstream.clone();
        sending.spawn(async move {
            for m in 0..20 {
                let message = uplink(&device, format!("m-{m:02}"));
                while let Err(error) = upstream.send(&message).await {
                    assert!(error.is_retryable(), "{error}");
                    tokio::task::yield_now().await;
                }
            }
            device
        });
    }
    let record = hub.record();
    for share in [200, 500, 800] {
        record.wait_for(share).await;
        hub.faults().cut_all();
    }
    let expected: Vec<_> = (0..20).map(|m| format!("m-{m:02}")).collect();
    while let Some(device) = sending.join_next().await {
        let device = device.expect("no panic");
        assert_eq!(accepted_ids(&hub, &device), expected, "{device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_close_by_the_hub_is_a_lost_connection_like_any_other_whatever_it_says() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(Interest::COMMANDS);
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    let conditions = [
        "amqp:connection:forced",
        "amqp:not-found",
        "amqp:unauthorized-access",
    ];
    for (opened, condition) in (2..).zip(conditions) {
        hub.wait_methods("device").await;
        hub.faults().close_all(condition);
        hub.wait_until(|stats| stats.connections_opened == opened)
            .await;
        hub.wait_methods("device").await;
        let sent = upstream.send(&uplink(&device, condition)).await;
        sent.expect("accepted");
    }
    assert!(callback.record().ends.is_empty(), "no session ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_outlive_a_hub_that_fails_over_and_back() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let callback = RecordingCallback::new();
    let mut devices = Vec::new();
    for n in 0..5 {
        let identity = with_key(&hub, &format!("device-{n}"));
        devices.push(identity.device.clone());
        attach_with(&upstream, &identity, &callback).await;
    }
    hub.faults().fail_over();
    hub.wait_until(|stats| stats.connections_opened > 1).await;
    hub.faults().fail_back();
    hub.wait_until(|stats| stats.attached_devices == 5).await;
    for device in &devices {
        let sent = upstream.send(&uplink(device, "after")).await;
        sent.expect("accepted");
    }
    assert!(callback.record().ends.is_empty(), "no session ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_ends_and_its_neighbours_go_on() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (callback, neighbours) = (RecordingCallback::new(), RecordingCallback::new());
    let bad = with_key(&hub, "bad").with_interest(Interest::COMMANDS);
    let good = with_key(&hub, "good");
    attach_with(&upstream, &bad, &callback).await;
    attach_with(&upstream, &good, &neighbours).await;
    hub.wait_messages("bad").await;
    hub.set_enabled("bad", false);
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    let reason = record.ends[0].reason;
    assert!(
        matches!(reason, ErrorKind::Unauthorized | ErrorKind::UnknownDevice),
        "{reason}"
    );
    upstream
        .send(&uplink(&good.device, "m"))
        .await
        .expect("accepted");
    assert!(neighbours.record().ends.is_empty());
    assert_eq!(hub.connections_opened_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_another_client_took_is_not_fought_over() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "taken").with_interest(Interest::COMMANDS);
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    // The last of its links: nothing is being opened any more.
    hub.wait_methods("taken").await;
    hub.faults().steal("taken");
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(record.ends[0].reason, ErrorKind::Displaced);
    hub.wait_deaf("taken").await;
    let late = upstream
        .send(&uplink(&device, "late"))
        .await
        .expect_err("the session has ended");
    assert_eq!(late.kind(), ErrorKind::UnknownDevice);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_taken_by_a_real_second_client_stays_with_that_one() {
    let hub = hub().await;
    let (first, second) = (upstream(config(&hub)), upstream(config(&hub)));
    let (lost, owner) = (RecordingCallback::new(), RecordingCallback::new());
    let identity = with_key(&hub, "taken").with_interest(Interest::COMMANDS);
    attach_with(&first, &identity, &lost).await;
    hub.wait_methods("taken").await;
    attach_with(&second, &identity, &owner).await;
    let record = lost.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(record.ends[0].reason, ErrorKind::Displaced);
    hub.wait_until(|stats| stats.connections.len() == 1).await;
    hub.wait_methods("taken").await;
    let ticket = hub.send_c2d("taken", C2d::new("hello")).expect("queued");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    assert_eq!(owner.record().messages.len(), 1);
    assert!(owner.record().ends.is_empty(), "nobody fights for it");
    assert_eq!(first.stats().devices, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_message_says_so_and_the_link_stays() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "busy");
    let device = identity.device.clone();
    attach(&upstream, &identity).await;
    hub.faults().throttle(Some("busy"), 1);
    let error = upstream
        .send(&uplink(&device, "m"))
        .await
        .expect_err("throttled");
    assert_eq!(error.kind(), ErrorKind::Throttled);
    upstream
        .send(&uplink(&device, "m"))
        .await
        .expect("accepted");
    assert_eq!(hub.attaches("busy"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_for_the_hub_elsewhere_holds_up_none_of_those_lost_with_it() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    for name in ["mover", "neighbour"] {
        attach(&upstream, &with_policy(&hub, name)).await;
    }
    // What it has stays until the hub has taken the other proof.
    hub.faults().withhold_token("mover");
    let own = with_token(&hub, "mover", HOUR);
    tokio::select! {
        biased;
        moved = upstream.attach(own, RecordingCallback::new().shared()) => {
            panic!("not answered: {moved:?}")
        }
        back = timeout(PROMPT, async {
            hub.faults().end_sessions(Some("mover"), ENDED);
            hub.wait_until(|_| hub.attaches("neighbour") == 2).await;
            let message = uplink(&device_id("neighbour"), "m");
            upstream.send(&message).await.expect("accepted");
        }) => back.expect("it does not wait for the other"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_without_an_answer_is_put_again_when_the_links_are_lost_meanwhile() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let callback = RecordingCallback::new();
    let old = with_token(&hub, "device", HOUR);
    attach_with(&upstream, &old, &callback).await;
    hub.faults().withhold_token("device");
    let fresh = with_token(&hub, "device", 2 * HOUR);
    let moving = timeout(PROMPT, upstream.attach(fresh, callback.shared()));
    let (attached, ()) = tokio::join!(moving, async {
        // Behind the token, so that the hub has it before.
        let other = with_token(&hub, "other", HOUR);
        attach(&upstream, &other).await;
        hub.faults().allow_token("device");
        hub.faults().end_sessions(Some("device"), ENDED);
    });
    let attached = attached.expect("it does not wait for the first answer");
    attached.expect("attached");
    let message = uplink(&device_id("device"), "m");
    upstream.send(&message).await.expect("accepted");
    assert!(callback.record().ends.is_empty());
}
