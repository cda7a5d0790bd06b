//! What a device that misbehaves costs, and whom.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{attach, attach_new, config, hub, send_until_ok, uplink, upstream, with_key};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Backoff, DeviceId, ErrorKind, Upstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use hub_simulator::{HubSimulator, LinkKind};
use tokio::task::JoinSet;
use tokio::time::sleep;

fn quick(hub: &HubSimulator, least: u64, most: u64) -> AmqpConfig {
    let mut config = config(hub);
    config.pool.lanes = 1;
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    config.breaker.open = Backoff::new(least, most).expect("a valid backoff");
    config
}

fn detach(hub: &HubSimulator, device: &DeviceId) {
    let condition = "amqp:link:detach-forced";
    hub.faults()
        .detach(device.as_str(), LinkKind::Telemetry, condition);
}

/// Attaches a device that the hub refuses once before: with nothing on its way it costs nobody.
async fn attach_suspect(hub: &HubSimulator, upstream: &AmqpUpstream, name: &str) -> DeviceId {
    let identity = with_key(hub, name);
    hub.faults().refuse_attach(name, "amqp:internal-error");
    let refused = upstream.attach(identity.clone(), RecordingCallback::new().shared());
    assert!(refused.await.expect_err("refused").is_retryable());
    hub.faults().allow_attach(name);
    attach(upstream, &identity).await;
    identity.device
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_refused_again_and_again_is_answered_at_once_and_told_when_to_come_back() {
    let hub = hub().await;
    let upstream = upstream(quick(&hub, 300, 300));
    let identity = with_key(&hub, "bad");
    hub.faults().refuse_attach("bad", "amqp:not-found");
    let callback = RecordingCallback::new().shared();
    for _ in 0..3 {
        let attach = upstream.attach(identity.clone(), callback.clone());
        let error = attach.await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::UnknownDevice);
        assert_eq!(error.retry_after(), None, "the hub's own answer");
    }
    // From here on the hub would take it.
    hub.faults().allow_attach("bad");
    let attach = upstream.attach(identity.clone(), callback.clone());
    let error = attach.await.expect_err("held back");
    assert_eq!(error.kind(), ErrorKind::UnknownDevice);
    let wait = error.retry_after().expect("it tells when to come back");
    assert!(wait <= Duration::from_millis(300), "{wait:?}");
    sleep(wait).await;
    upstream.attach(identity, callback).await.expect("attached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_detached_again_and_again_is_answered_at_once_and_comes_back_by_itself() {
    let hub = hub().await;
    let upstream = upstream(quick(&hub, 2000, 2000));
    let device = attach_new(&upstream, &hub, "bad").await;
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    for n in 0.. {
        detach(&hub, &device);
        // It finds that its link is gone, or that it came back first.
        drop(upstream.send(&uplink(&device, format!("m-{n}"))).await);
        if upstream.stats().held > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    let error = loop {
        let error = upstream.send(&uplink(&device, "early")).await;
        let error = error.expect_err("held back");
        match error.retry_after() {
            Some(_) => break error,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    send_until_ok(&upstream, &uplink(&neighbour, "meanwhile")).await;
    hub.wait_until(|stats| stats.attached_devices == 2).await;
    send_until_ok(&upstream, &uplink(&device, "back")).await;
}

/// A message that crosses the hub's detach costs the session (trap 4): its own, by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_keeps_being_detached_while_it_sends_costs_only_its_own_lane() {
    let hub = hub().await;
    let mut config = quick(&hub, 10, 20);
    config.pool.own_lane_after = 1;
    let upstream = upstream(config);
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    let bad = attach_suspect(&hub, &upstream, "bad").await;
    let (sender, device): (Arc<AmqpUpstream>, _) = (upstream.clone(), bad.clone());
    let mut sending = JoinSet::new();
    sending.spawn(async move {
        for n in 0_u64.. {
            // Most fail: it is detached all the time.
            drop(sender.send(&uplink(&device, format!("b-{n}"))).await);
            tokio::task::yield_now().await;
        }
    });
    for round in 0..200 {
        if round % 10 == 0 {
            detach(&hub, &bad);
        }
        let message = uplink(&neighbour, format!("n-{round}"));
        upstream.send(&message).await.expect("accepted");
    }
    assert!(hub.attaches("bad") > 3, "it was detached again and again");
    assert_eq!(hub.attaches("neighbour"), 1, "the neighbour kept its link");
    assert_eq!(hub.connections_opened_total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_good_for_a_while_goes_back_to_a_shared_lane() {
    let hub = hub().await;
    let mut config = quick(&hub, 10, 20);
    config.pool.own_lane_after = 1;
    config.breaker.forgiven_after = Duration::from_millis(500);
    let upstream = upstream(config);
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    let sessions = |stats: &hub_simulator::HubStats| stats.connections[0].sessions;
    let shared = sessions(&hub.stats());
    let device = attach_suspect(&hub, &upstream, "device").await;
    assert_eq!(sessions(&hub.stats()), shared + 1, "a lane of its own");
    hub.wait_until(|stats| stats.attached_devices == 2 && sessions(stats) == shared)
        .await;
    for device in [&device, &neighbour] {
        let sent = upstream.send(&uplink(device, "after")).await;
        sent.expect("accepted");
    }
    assert_eq!(hub.attaches("neighbour"), 1);
}
