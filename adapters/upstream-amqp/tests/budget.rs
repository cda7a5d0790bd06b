//! One budget for all that the hub is asked for.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{attach, config, device_id, hub, limited, uplink, upstream, with_key};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{ErrorKind, Interest, TwinRequest, Upstream};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{HubSimulator, Limits, LinkKind, Size, Tier};
use tokio::task::JoinSet;

/// A hub that takes 120 devices a second and 60 at once, and lets none wait for long.
async fn strict_hub() -> HubSimulator {
    let size = Size::new(Tier::S2, 1)
        .with_burst(Duration::from_millis(500))
        .with_queue(Duration::from_millis(100));
    let limits = Limits::default().with_size(Some(size));
    let builder = HubSimulator::builder().with_limits(limits);
    builder.start().await.expect("a hub")
}

/// Attaches devices side by side, again while the hub throttles; counts how often it did.
async fn attach_all(hub: &HubSimulator, upstream: &Arc<AmqpUpstream>, count: usize) -> usize {
    let mut attaching = JoinSet::new();
    for n in 0..count {
        let (upstream, identity) = (upstream.clone(), with_key(hub, &format!("device-{n}")));
        attaching.spawn(async move {
            let callback = RecordingCallback::new().shared();
            for refusals in 0.. {
                match upstream.attach(identity.clone(), callback.clone()).await {
                    Ok(()) => return refusals,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Throttled, "{error}"),
                }
            }
            0
        });
    }
    attaching.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_knows_the_hubs_size_is_never_refused() {
    let hub = strict_hub().await;
    let mut config = config(&hub);
    config.budget.tokens = limited(115.0, 55.0);
    let upstream = upstream(config);
    assert_eq!(attach_all(&hub, &upstream, 300).await, 0);
    assert_eq!(hub.attached_devices(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_slows_all_devices_and_each_comes_up_in_the_end() {
    let hub = strict_hub().await;
    let upstream = upstream(config(&hub));
    let refusals = attach_all(&hub, &upstream, 300).await;
    assert!(refusals > 0, "the hub throttles those that come at once");
    // Without the budget each of 300 tries again and again, thousands of times.
    assert!(refusals < 600, "{refusals} refusals");
    assert_eq!(hub.attached_devices(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_blink_devices_with_work_come_back_first_and_the_stats_tell_when_all_will() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.budget.tokens = limited(8.0, 80.0);
    let upstream = upstream(config);
    attach_all(&hub, &upstream, 80).await;
    for n in 1..80 {
        let device = device_id(&format!("device-{n}"));
        let message = uplink(&device, "before");
        upstream.send(&message).await.expect("accepted");
    }
    hub.faults().cut_all();
    hub.wait_until(|stats| stats.attached_devices == 0).await;
    // The one that was active least of all.
    let message = uplink(&device_id("device-0"), "waiting");
    while let Err(error) = upstream.send(&message).await {
        assert!(error.is_retryable(), "{error}");
    }
    let (back, stats) = (hub.attached_devices(), upstream.stats());
    assert!(back < 60, "{back} devices came first");
    assert!(stats.recovering > 10, "{stats:?}");
    let predicted = stats.recovered_in;
    assert!(predicted > Duration::from_secs(1), "{stats:?}");
    hub.wait_until(|stats| stats.attached_devices == 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_links_for_commands_wait_their_turn_sends_meanwhile() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.budget.command_links = limited(0.1, 1.0);
    let upstream = upstream(config);
    for name in ["first", "second"] {
        let identity = with_key(&hub, name).with_interest(Interest::COMMANDS);
        attach(&upstream, &identity).await;
    }
    // Of four that are wanted one is let in.
    while upstream.stats().waiting < 3 {
        tokio::task::yield_now().await;
    }
    for name in ["first", "second"] {
        let message = uplink(&device_id(name), "meanwhile");
        upstream.send(&message).await.expect("accepted");
    }
    assert_eq!(upstream.stats().waiting, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_the_budget_is_told_when_the_upstream_closes() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.pool.devices_per_connection = 1;
    config.budget.connects = limited(0.1, 1.0);
    config.budget.sends = limited(0.1, 1.0);
    config.budget.twins = limited(0.1, 1.0);
    let upstream = upstream(config);
    attach_all(&hub, &upstream, 1).await;
    let device = device_id("device-0");
    upstream
        .send(&uplink(&device, "m"))
        .await
        .expect("accepted");
    let read = upstream.twin(&device, TwinRequest::Get).await;
    read.expect("answered");
    let late = with_key(&hub, "late");
    let attach = upstream.attach(late, RecordingCallback::new().shared());
    let close = async {
        while upstream.stats().waiting < 3 {
            tokio::task::yield_now().await;
        }
        let closed = upstream.close(Duration::ZERO).await;
        closed.expect_err("a message has no verdict");
    };
    let message = uplink(&device, "waiting");
    let (attached, sent, read, ()) = tokio::join!(
        attach,
        upstream.send(&message),
        upstream.twin(&device, TwinRequest::Get),
        close
    );
    assert_eq!(attached.expect_err("closed").kind(), ErrorKind::Closed);
    assert_eq!(sent.expect_err("closed").kind(), ErrorKind::Disconnected);
    assert_eq!(read.expect_err("closed").kind(), ErrorKind::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_hub_that_detaches_links_is_not_stormed() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    attach_all(&hub, &upstream, 3).await;
    let condition = "com.microsoft:device-container-throttled";
    hub.faults().detach_all(LinkKind::Telemetry, condition);
    hub.wait_until(|stats| stats.attached_devices == 0).await;
    for n in 0..3 {
        let message = uplink(&device_id(&format!("device-{n}")), "after");
        while let Err(error) = upstream.send(&message).await {
            assert!(error.is_retryable(), "{error}");
        }
    }
    assert_eq!(hub.attached_devices(), 3);
}
