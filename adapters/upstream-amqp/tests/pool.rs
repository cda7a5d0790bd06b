//! How devices share connections, as the hub sees it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{config, hub, uplink, upstream, with_key, with_policy};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{DeviceIdentity, Upstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use hub_simulator::{HubSimulator, Limits, RecordMode};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

fn bounded(hub: &HubSimulator, devices: usize) -> AmqpConfig {
    let mut config = config(hub);
    config.pool.devices_per_connection = devices;
    config.pool.devices_per_policy_connection = devices;
    config
}

async fn attach_all(upstream: &Arc<AmqpUpstream>, identities: Vec<DeviceIdentity>) {
    let callback = RecordingCallback::new();
    let mut attaching = JoinSet::new();
    for identity in identities {
        let (upstream, callback) = (upstream.clone(), callback.shared());
        attaching.spawn(async move { upstream.attach(identity, callback).await });
    }
    while let Some(attached) = attaching.join_next().await {
        attached
            .expect("no panic")
            .expect("the hub takes the device");
    }
}

/// Devices on each connection, the fullest first.
fn fill(hub: &HubSimulator) -> Vec<usize> {
    let mut fill: Vec<_> = hub
        .connections()
        .iter()
        .map(|connection| connection.devices)
        .collect();
    fill.sort_unstable_by(|a, b| b.cmp(a));
    fill
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_is_filled_before_the_next_is_opened() {
    let hub = hub().await;
    let upstream = upstream(bounded(&hub, 10));
    for (n, name) in names("device", 25).iter().enumerate() {
        attach_all(&upstream, vec![with_key(&hub, name)]).await;
        assert_eq!(
            hub.connections().len(),
            n / 10 + 1,
            "after {} devices",
            n + 1
        );
    }
    assert_eq!(fill(&hub), [10, 10, 5]);
    assert_eq!(hub.connections_opened_total(), 3);
    assert_eq!(upstream.stats().connections.iter().sum::<usize>(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_come_at_once_need_no_more_connections() {
    let hub = hub().await;
    let upstream = upstream(bounded(&hub, 10));
    let identities = names("device", 25)
        .iter()
        .map(|name| with_key(&hub, name))
        .collect();
    attach_all(&upstream, identities).await;
    assert_eq!(fill(&hub), [10, 10, 5]);
    assert_eq!(hub.connections_opened_total(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_devices_is_closed_and_its_room_found_again() {
    let hub = hub().await;
    let upstream = upstream(bounded(&hub, 2));
    let identities: Vec<_> = names("device", 4)
        .iter()
        .map(|name| with_key(&hub, name))
        .collect();
    for identity in &identities {
        attach_all(&upstream, vec![identity.clone()]).await;
    }
    for identity in &identities[..2] {
        upstream.detach(&identity.device).await.expect("detached");
    }
    hub.wait_until(|stats| stats.connections.len() == 1).await;
    upstream
        .detach(&identities[2].device)
        .await
        .expect("detached");
    hub.wait_until(|stats| stats.attached_devices == 1).await;
    attach_all(&upstream, vec![identities[0].clone()]).await;
    assert_eq!(
        fill(&hub),
        [2],
        "the free place is taken, not a new connection"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_costs_one_token_a_connection() {
    let hub = hub().await;
    let upstream = upstream(bounded(&hub, 10));
    let identities = names("device", 12)
        .iter()
        .map(|name| with_policy(&hub, name))
        .collect();
    attach_all(&upstream, identities).await;
    let tokens: Vec<_> = hub
        .connections()
        .iter()
        .map(|connection| connection.tokens)
        .collect();
    assert_eq!(tokens, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_with_keys_and_devices_under_a_policy_do_not_share_a_connection() {
    let hub = hub().await;
    let upstream = upstream(bounded(&hub, 10));
    attach_all(
        &upstream,
        vec![with_key(&hub, "key-1"), with_policy(&hub, "policy-1")],
    )
    .await;
    attach_all(
        &upstream,
        vec![with_key(&hub, "key-2"), with_policy(&hub, "policy-2")],
    )
    .await;
    assert_eq!(fill(&hub), [2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_takes_fewer_tokens_than_the_bound_still_gets_every_device() {
    let limits = Limits::default().with_tokens_per_connection(5);
    let hub = HubSimulator::builder()
        .with_limits(limits)
        .start()
        .await
        .expect("a hub");
    let upstream = upstream(bounded(&hub, 10));
    let identities: Vec<_> = names("device", 12)
        .iter()
        .map(|name| with_key(&hub, name))
        .collect();
    attach_all(&upstream, identities.clone()).await;
    assert_eq!(hub.attached_devices(), 12);
    for identity in identities {
        upstream
            .send(&uplink(&identity.device, "m"))
            .await
            .expect("accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_upstreams_do_not_disturb_each_other() {
    let hub = hub().await;
    let (one, other) = (upstream(config(&hub)), upstream(config(&hub)));
    let (first, second) = (with_key(&hub, "first"), with_key(&hub, "second"));
    attach_all(&one, vec![first.clone()]).await;
    attach_all(&other, vec![second.clone()]).await;
    one.close(std::time::Duration::from_secs(10))
        .await
        .expect("closed");
    other
        .send(&uplink(&second.device, "m"))
        .await
        .expect("accepted");
    hub.wait_until(|stats| stats.connections.len() == 1).await;
}

/// Plain TCP and policy credentials: what is shown is the count, in a time that a debug build has.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_devices_need_twenty_one_connections() {
    const DEVICES: usize = 20_000;
    let builder = HubSimulator::builder()
        .with_tls(false)
        .with_record(RecordMode::Count);
    let hub = builder.start().await.expect("a hub");
    let names = names("device", DEVICES);
    hub.add_devices(names.iter().map(String::as_str));
    let upstream = upstream(config(&hub));
    let credential = with_policy(&hub, &names[0]).credential;
    let identity = |name: &String| DeviceIdentity::new(common::device_id(name), credential.clone());
    attach_all(&upstream, names.iter().map(identity).collect()).await;
    assert_eq!(hub.connections().len(), 21);
    assert_eq!(hub.connections_opened_total(), 21);
    let mut expected = vec![995; 20];
    expected.push(100);
    assert_eq!(fill(&hub), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_waits_for_any_more_is_closed() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    hub.faults().latency(Duration::from_millis(200));
    let identity = with_key(&hub, "device");
    let callback = RecordingCallback::new().shared();
    let mut attaching = JoinSet::new();
    let asked = upstream.clone();
    attaching.spawn(async move { asked.attach(identity, callback).await });
    // It waits for the hub's word on the session for tokens.
    hub.wait_until(|stats| stats.connections.iter().any(|one| one.sessions == 1))
        .await;
    attaching.shutdown().await;
    let closed = hub.wait_until(|stats| stats.connections.is_empty());
    timeout(PATIENCE, closed).await.expect("it is closed");
}
