//! Credentials and their renewal, each by another connection.

#[path = "common/hub.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::{
    accepted_ids, attach, config, hub, pair, plain_hub, send_until_ok, until, uplink, upstream,
    with_key, with_policy, with_token,
};
use gateway_core::credential::SymmetricKey;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    Credential, DeviceId, DeviceIdentity, ErrorKind, Interest, MethodReply, Upstream,
};
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream};
use hub_simulator::{C2d, C2dOutcome, HubSimulator, LinkKind, WhichKey};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

/// Tokens that are renewed every two seconds, long before they lapse.
fn quickly_renewed(hub: &HubSimulator) -> Arc<MqttHubUpstream> {
    upstream(with_short_tokens(config(hub)))
}

fn with_short_tokens(mut config: MqttHubConfig) -> MqttHubConfig {
    config.tokens.ttl = Duration::from_secs(20);
    (config.tokens.renew_at, config.tokens.jitter) = (0.1, 0.0);
    config
}

/// The device with a key that is not its own.
fn with_wrong_key(device: &DeviceId) -> DeviceIdentity {
    let wrong = SymmetricKey::from_base64("d3Jvbmc=").expect("base64");
    DeviceIdentity::new(device.clone(), Credential::DeviceKey(wrong.into()))
}

#[tokio::test(flavor = "multi_thread")]
async fn renewing_tokens_under_load_fails_no_message_and_loses_none() {
    const DEVICES: usize = 5;
    let hub = plain_hub().await;
    let upstream = quickly_renewed(&hub);
    // Something is in flight at any time.
    hub.faults().delay_settlements(Duration::from_millis(20));
    let stop = Arc::new(AtomicBool::new(false));
    let mut sending = JoinSet::new();
    for n in 0..DEVICES {
        let identity = with_key(&hub, &format!("device-{n}"));
        let device = identity.device.clone();
        attach(&upstream, &identity).await;
        let (upstream, stop) = (upstream.clone(), stop.clone());
        sending.spawn(async move {
            let mut sent = Vec::new();
            while !stop.load(Relaxed) {
                let batch: Vec<_> = (0..3)
                    .map(|n| uplink(&device, format!("m-{}", sent.len() + n)))
                    .collect();
                let (one, others) =
                    tokio::join!(upstream.send(&batch[0]), upstream.send_batch(&batch[1..]));
                one.expect("a renewal fails no message");
                others.expect("a renewal fails no batch");
                sent.extend(batch.into_iter().map(|message| message.id.to_string()));
            }
            (device, sent)
        });
    }
    let twice_each = 2 * DEVICES as u64;
    until(|| upstream.stats().replaced >= twice_each).await;
    stop.store(true, Relaxed);
    while let Some(sent) = sending.join_next().await {
        let (device, sent) = sent.expect("no message failed");
        assert_eq!(accepted_ids(&hub, &device), sent, "{device}");
        assert_eq!(hub.attaches(device.as_str()), 1, "it was never away");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_outlive_a_renewal() {
    let hub = plain_hub().await;
    let upstream = quickly_renewed(&hub);
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("device").await;
    // The answer is given on another connection than that of the call.
    callback.hold();
    let call = hub.call_method("device", "wait", "1", Duration::from_secs(60));
    let renewal = async {
        callback.wait_for(|record| !record.methods.is_empty()).await;
        hub.wait_until(|stats| stats.connections_opened > 1).await;
        let opened = hub.connections_opened_total();
        hub.wait_until(|stats| stats.connections_opened > opened)
            .await;
        callback.release();
    };
    let (answer, ()) = tokio::join!(call, renewal);
    let answer = answer.expect("answered");
    let reply = MethodReply::new(answer.status, answer.payload);
    assert_eq!(reply, MethodReply::new(200, "1"));
    let ticket = hub.send_c2d("device", C2d::new("x")).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_waits_for_its_turn_outlives_a_renewal() {
    let hub = plain_hub().await;
    let mut config = with_short_tokens(config(&hub));
    config.commands.credit = 1;
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("device").await;
    callback.hold();
    let call = |payload| hub.call_method("device", "wait", payload, Duration::from_secs(30));
    let renewal = async {
        callback.wait_for(|record| !record.methods.is_empty()).await;
        until(|| upstream.stats().replaced > 0).await;
        callback.release();
    };
    let (one, other, ()) = tokio::join!(call("1"), call("2"), renewal);
    assert_eq!(one.expect("answered").payload, "1");
    assert_eq!(other.expect("answered").payload, "2");
    assert_eq!(upstream.stats().methods_late, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_the_hub_refuses_leaves_the_device_what_it_has() {
    let hub = plain_hub().await;
    let upstream = quickly_renewed(&hub);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    hub.faults().refuse_token("device", 401, "no");
    let tries = |stats: &hub_simulator::HubStats| stats.connections_opened > 2;
    hub.wait_until(tries).await;
    let sent = upstream.send(&uplink(&device, "still")).await;
    sent.expect("the old token is good");
    hub.faults().allow_token("device");
    until(|| upstream.stats().replaced > 0).await;
    let sent = upstream.send(&uplink(&device, "again")).await;
    sent.expect("renewed");
    assert!(callback.record().ends.is_empty());
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_takes_a_devices_key_its_other_key_a_policy_and_a_token_of_its_own() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let both = DeviceIdentity::new(
        common::device_id("both"),
        Credential::DeviceKey(pair(&hub.add_device("both"))),
    );
    hub.regenerate_key("both", WhichKey::Primary);
    for identity in [
        with_key(&hub, "key"),
        both,
        with_policy(&hub, "policy"),
        with_token(&hub, "token", Duration::from_secs(600)),
        with_key(&hub, "d+e#f%41$"),
        with_token(&hub, "a+b#c%41$", Duration::from_secs(600)),
    ] {
        let device = identity.device.clone();
        let callback = RecordingCallback::new().shared();
        let attached = upstream.attach(identity, callback).await;
        attached.unwrap_or_else(|error| panic!("{device}: {error}"));
        let sent = upstream.send(&uplink(&device, "m")).await;
        sent.unwrap_or_else(|error| panic!("{device}: {error}"));
        assert_eq!(accepted_ids(&hub, &device), ["m"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_opens_the_breaker_and_harms_nobody_else() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.breaker.open = common::backoff(60_000, 60_000);
    let upstream = upstream(config);
    hub.add_device("bad");
    let bad = with_wrong_key(&common::device_id("bad"));
    let callback = RecordingCallback::new();
    for _ in 0..3 {
        let refused = upstream.attach(bad.clone(), callback.shared()).await;
        let refused = refused.expect_err("the key is wrong");
        assert_eq!(refused.kind(), ErrorKind::Unauthorized);
        assert_eq!(refused.retry_after(), None, "the hub's own answer");
    }
    let opened = hub.connections_opened_total();
    let held = upstream.attach(bad.clone(), callback.shared()).await;
    let held = held.expect_err("held back");
    assert_eq!(held.kind(), ErrorKind::Unauthorized);
    assert!(held.retry_after().is_some(), "it tells when to come back");
    assert_eq!(upstream.stats().held, 1);
    assert_eq!(
        hub.connections_opened_total(),
        opened,
        "the hub was not asked"
    );
    let good = with_key(&hub, "good");
    let device = good.device.clone();
    let attached = upstream.attach(good, callback.shared()).await;
    attached.expect("another device is another matter");
    let sent = upstream.send(&uplink(&device, "m")).await;
    sent.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_credential_takes_the_place_of_the_first_and_a_refused_one_does_not() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    let refused = upstream
        .attach(with_wrong_key(&device), callback.shared())
        .await;
    let refused = refused.expect_err("the key is wrong");
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    let sent = upstream.send(&uplink(&device, "old")).await;
    sent.expect("it keeps what it had");
    let policy = with_policy(&hub, "device");
    let attached = upstream.attach(policy, callback.shared()).await;
    attached.expect("the hub takes the policy");
    let sent = upstream.send(&uplink(&device, "new")).await;
    sent.expect("accepted");
    assert_eq!(accepted_ids(&hub, &device), ["old", "new"]);
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_that_is_dropped_leaves_the_device_its_credential() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    // The hub is to judge each.
    config.breaker.open_after = 1000;
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    hub.faults().latency(Duration::from_millis(10));
    let wrong = with_wrong_key(&device);
    for patience in [0, 1, 2, 5, 10, 15] {
        let attach = upstream.attach(wrong.clone(), callback.shared());
        let attached = timeout(Duration::from_millis(patience), attach).await;
        assert!(!matches!(attached, Ok(Ok(()))), "the key is wrong");
        let refused = upstream.attach(wrong.clone(), callback.shared()).await;
        let refused = refused.expect_err("the key is wrong");
        assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
        let sent = upstream
            .send(&uplink(&device, format!("up-{patience}")))
            .await;
        sent.expect("it keeps what it had");
    }
    let attach = upstream.attach(wrong, callback.shared());
    let attached = timeout(Duration::ZERO, attach).await;
    assert!(!matches!(attached, Ok(Ok(()))), "the key is wrong");
    hub.faults().cut_all();
    send_until_ok(&upstream, &uplink(&device, "after")).await;
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_waits_for_its_turn_keeps_nobody_from_coming_back() {
    let hub = plain_hub().await;
    let mut config = with_short_tokens(config(&hub));
    config.reconnect.at_once = 1;
    config.wire.connect_timeout = Duration::from_secs(4);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    // It has the one place to connect in for so long.
    hub.faults().withhold_attach("blocker");
    let blocker = with_key(&hub, "blocker");
    let opened = hub.connections_opened_total();
    let mut blocking = JoinSet::new();
    let (blocked, nobody) = (upstream.clone(), callback.shared());
    blocking.spawn(async move { blocked.attach(blocker, nobody).await });
    hub.wait_until(|stats| stats.connections_opened > opened)
        .await;
    let is_due = || {
        let token = upstream.explain(&device).and_then(|device| device.token);
        token.is_some_and(|token| token.renewal_in == Some(Duration::ZERO))
    };
    while !is_due() {
        yield_now().await;
    }
    // What is due begins.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let condition = "amqp:link:detach-forced";
    hub.faults().detach("device", LinkKind::All, condition);
    let back = uplink(&device, "back");
    let sent = send_until_ok(&upstream, &back);
    let sent = timeout(Duration::from_secs(10), sent).await;
    sent.expect("it comes back");
}
