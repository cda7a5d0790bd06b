//! What a device that misbehaves costs, and whom.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{attach, attach_new, config, hub, send_until_ok, uplink, upstream, with_key};
use gateway_core::testkit::{CallbackRecord, RecordingCallback};
use gateway_core::{Backoff, DeviceId, DeviceIdentity, ErrorKind, Interest, Upstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use hub_simulator::{C2d, C2dOutcome, HubSimulator, HubStats, LinkKind};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long the hub waits for a method that is answered.
const PATIENCE: Duration = Duration::from_secs(60);

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
async fn attach_suspect(
    hub: &HubSimulator,
    upstream: &AmqpUpstream,
    identity: &DeviceIdentity,
) -> RecordingCallback {
    let name = identity.device.as_str();
    hub.faults().refuse_attach(name, "amqp:internal-error");
    let refused = upstream.attach(identity.clone(), RecordingCallback::new().shared());
    assert!(refused.await.expect_err("refused").is_retryable());
    hub.faults().allow_attach(name);
    attach(upstream, identity).await
}

/// Sessions of the one connection.
fn sessions(stats: &HubStats) -> usize {
    stats.connections[0].sessions
}

/// Waits until nobody is on a lane of its own.
async fn until_home(hub: &HubSimulator, shared: usize) {
    hub.wait_until(|stats| stats.attached_devices == 2 && sessions(stats) == shared)
        .await;
}

/// Has a device on a lane of its own hold on to what the hub gives it, and let go of it when it would
/// long be on a shared lane again.
async fn home_only_after<T>(
    interest: Interest,
    command: impl AsyncFnOnce(&HubSimulator) -> T,
) -> (T, CallbackRecord) {
    let hub = hub().await;
    let mut config = quick(&hub, 10, 20);
    config.pool.own_lane_after = 1;
    config.breaker.forgiven_after = Duration::from_secs(2);
    let upstream = upstream(config);
    attach_new(&upstream, &hub, "neighbour").await;
    let shared = sessions(&hub.stats());
    let identity = with_key(&hub, "device").with_interest(interest);
    let callback = attach_suspect(&hub, &upstream, &identity).await;
    callback.hold();
    let hold = async {
        let is_there = |record: &CallbackRecord| record.methods.len() + record.messages.len() > 0;
        callback.wait_for(is_there).await;
        // Longer than it is suspect for.
        drop(timeout(Duration::from_secs(4), until_home(&hub, shared)).await);
        callback.release();
    };
    let (came, ()) = tokio::join!(command(&hub), hold);
    until_home(&hub, shared).await;
    (came, callback.record())
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
    let bad = with_key(&hub, "bad");
    attach_suspect(&hub, &upstream, &bad).await;
    let bad = bad.device;
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
    let shared = sessions(&hub.stats());
    let identity = with_key(&hub, "device");
    attach_suspect(&hub, &upstream, &identity).await;
    assert_eq!(sessions(&hub.stats()), shared + 1, "a lane of its own");
    until_home(&hub, shared).await;
    for device in [&identity.device, &neighbour] {
        let sent = upstream.send(&uplink(device, "after")).await;
        sent.expect("accepted");
    }
    assert_eq!(hub.attaches("neighbour"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_back_to_a_shared_lane_only_after_it_has_answered_a_method() {
    let methods = Interest::NONE.with_methods(true);
    let (answer, record) = home_only_after(methods, async |hub| {
        hub.wait_methods("device").await;
        hub.call_method("device", "echo", "1", PATIENCE).await
    })
    .await;
    assert_eq!(answer.expect("answered").status, 200);
    assert_eq!(record.methods.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_goes_back_to_a_shared_lane_only_after_its_word_on_a_message() {
    let messages = Interest::NONE.with_messages(true);
    let (deliveries, record) = home_only_after(messages, async |hub| {
        let ticket = hub.send_c2d("device", C2d::new("x")).expect("queued");
        assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
        ticket.delivery_count()
    })
    .await;
    assert_eq!(deliveries, 1);
    assert_eq!(record.messages.len(), 1);
}
