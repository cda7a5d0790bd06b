//! What an attach changes: all that was asked for, or nothing.

mod common;

use std::time::{Duration, SystemTime};

use common::{
    attach, config, hub, key, send_until_ok, token, uplink, upstream, wire, with_key, with_policy,
    with_token,
};
use gateway_core::governor::Rate;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Backoff, Credential, DeviceIdentity, ErrorKind, Interest, Upstream};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{C2d, C2dOutcome, HubSimulator, LinkKind};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

/// What anybody can say who knows a device's name: a token that somebody else has signed.
fn forged(of: &DeviceIdentity) -> DeviceIdentity {
    let forged = token(&of.device, &key("d3Jvbmc="), HOUR);
    DeviceIdentity::new(of.device.clone(), Credential::SasToken(forged))
}

async fn refused(upstream: &AmqpUpstream, identity: DeviceIdentity) -> ErrorKind {
    let callback = RecordingCallback::new().shared();
    let attached = upstream.attach(identity, callback).await;
    attached.expect_err("refused").kind()
}

/// The hub gives the device a message, and hears that it has it.
async fn hears(hub: &HubSimulator, device: &str) {
    let ticket = hub.send_c2d(device, C2d::new("hello")).expect("queued");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_hub_refuses_takes_nothing_from_a_device_under_the_policy() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    attach(&upstream, &with_policy(&hub, "neighbour")).await;
    let good = with_policy(&hub, "device").with_interest(Interest::COMMANDS);
    let callback = attach(&upstream, &good).await;
    hub.wait_methods("device").await;
    let bad = forged(&good);
    assert_eq!(refused(&upstream, bad).await, ErrorKind::Unauthorized);
    let sent = upstream.send(&uplink(&good.device, "m")).await;
    sent.expect("accepted");
    hears(&hub, "device").await;
    assert_eq!(hub.attaches("device"), 1, "no link was touched");
    assert_eq!(callback.record().messages.len(), 1);
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kind_of_proof_moves_a_device_with_all_that_it_hears() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (own, policy) = (with_key(&hub, "device"), with_policy(&hub, "device"));
    for identity in [policy.clone(), own, policy] {
        let identity = identity.with_interest(Interest::COMMANDS);
        let callback = attach(&upstream, &identity).await;
        let sent = upstream.send(&uplink(&identity.device, "m")).await;
        sent.expect("accepted");
        hears(&hub, "device").await;
        assert_eq!(callback.record().messages.len(), 1);
        hub.wait_until(|stats| stats.connections.len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_the_hub_breaks_off_leaves_the_device_with_its_old_proof() {
    let hub = hub().await;
    let mut config = config(&hub);
    let (least, most) = (Duration::from_millis(10), Duration::from_millis(20));
    config.breaker.open = Backoff::new(least, most).expect("a valid backoff");
    let upstream = upstream(config);
    let policy = with_policy(&hub, "device").with_interest(Interest::COMMANDS);
    let callback = attach(&upstream, &policy).await;
    let own = with_key(&hub, "device");
    let other = RecordingCallback::new();
    // Its token is taken, its link is not.
    hub.faults().refuse_attach("device", "amqp:internal-error");
    let kind = refused(&upstream, own.clone()).await;
    assert!(kind.is_retryable(), "{kind}");
    hub.faults().allow_attach("device");
    send_until_ok(&*upstream, &uplink(&policy.device, "refused")).await;
    hears(&hub, "device").await;
    // Nobody waits for the answer any more.
    hub.faults().withhold_attach("device");
    let tokens = hub.tokens_put("device");
    tokio::select! {
        moved = upstream.attach(own, other.shared()) => panic!("not answered: {moved:?}"),
        () = hub.wait_until(|stats| {
            stats.attached_devices == 0 && hub.tokens_put("device") > tokens
        }) => {}
    }
    hub.faults().allow_attach("device");
    send_until_ok(&*upstream, &uplink(&policy.device, "dropped")).await;
    hears(&hub, "device").await;
    assert_eq!(callback.record().messages.len(), 2);
    assert!(other.record().messages.is_empty());
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_dropped_on_its_way_leaves_its_token_nowhere() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    for (name, good) in [
        ("own", with_token(&hub, "own", HOUR)),
        ("policy", with_policy(&hub, "policy")),
    ] {
        let callback = attach(&upstream, &good).await;
        let bad = forged(&good);
        hub.faults().latency(Duration::from_millis(20));
        for patience in [1, 5, 10, 20, 30, 40] {
            let attach = upstream.attach(bad.clone(), RecordingCallback::new().shared());
            // Whether it is refused by then makes no difference.
            drop(timeout(Duration::from_millis(patience), attach).await);
        }
        hub.faults().latency(Duration::ZERO);
        let kind = refused(&upstream, bad).await;
        assert_eq!(kind, ErrorKind::Unauthorized, "{name}");
        let sent = upstream.send(&uplink(&good.device, "m")).await;
        sent.expect("accepted");
        assert_eq!(hub.attaches(name), 1, "no link was touched");
        hub.faults().cut_all();
        hub.wait_until(|_| hub.attaches(name) == 2).await;
        send_until_ok(&*upstream, &uplink(&good.device, "after")).await;
        assert!(callback.record().ends.is_empty(), "{name}");
        upstream.detach(&good.device).await.expect("detached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_held_back_comes_back_whoever_attaches_it_meanwhile() {
    let hub = hub().await;
    let mut config = config(&hub);
    let open = Duration::from_millis(500);
    config.breaker.open = Backoff::new(open, open).expect("a valid backoff");
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let callback = attach(&upstream, &identity).await;
    let condition = "amqp:internal-error";
    hub.faults().refuse_attach("device", condition);
    hub.faults()
        .detach("device", LinkKind::Telemetry, condition);
    for _ in 0..3 {
        let held = loop {
            let sent = upstream.send(&uplink(&identity.device, "early")).await;
            if let Some(wait) = sent.expect_err("it is away").retry_after() {
                break wait;
            }
            sleep(Duration::from_millis(1)).await;
        };
        // The breaker knows nothing of another proof: the hub is asked.
        let kind = refused(&upstream, with_token(&hub, "device", HOUR)).await;
        assert!(kind.is_retryable(), "{kind}");
        sleep(held).await;
    }
    hub.faults().allow_attach("device");
    send_until_ok(&*upstream, &uplink(&identity.device, "after")).await;
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_that_waits_for_a_lost_device_is_not_ended_with_the_old_one() {
    let hub = hub().await;
    let config = config(&hub).with_wire(wire(|w| w.answer_timeout = Duration::from_secs(1)));
    let upstream = upstream(config);
    let brief = with_token(&hub, "device", Duration::from_secs(5));
    let Credential::SasToken(token) = &brief.credential else {
        unreachable!("it has a token");
    };
    let expires = token.expires();
    let before = attach(&upstream, &brief).await;
    // It waits for the hub's answer until its token has lapsed.
    hub.faults().withhold_token("device");
    hub.faults().cut_all();
    while upstream.stats().recovering == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let after = RecordingCallback::new();
    let fresh = with_token(&hub, "device", HOUR);
    let attach = upstream.attach(fresh, after.shared());
    let (attached, ()) = tokio::join!(attach, async {
        while SystemTime::now() < expires {
            sleep(Duration::from_millis(50)).await;
        }
        hub.faults().allow_token("device");
    });
    attached.expect("attached");
    let sent = upstream.send(&uplink(&brief.device, "m")).await;
    sent.expect("accepted");
    assert!(before.record().ends.is_empty() && after.record().ends.is_empty());
}

/// One task at a time: whoever lost a message is back before anybody else has heard of the detach.
#[tokio::test]
async fn an_attach_right_after_a_detach_is_not_content_with_the_detached_link() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let callback = attach(&upstream, &identity).await;
    let held = hub.faults().hold_settlements();
    let shared = callback.shared();
    let mut device = JoinSet::new();
    device.spawn(async move {
        let lost = upstream.send(&uplink(&identity.device, "lost")).await;
        assert_eq!(lost.expect_err("lost").kind(), ErrorKind::Unauthorized);
        upstream.attach(identity.clone(), shared).await?;
        upstream.send(&uplink(&identity.device, "m")).await
    });
    hub.wait_until(|_| !hub.record().accepted().is_empty())
        .await;
    hub.faults().expire_tokens(Some("device"));
    held.release();
    for sent in device.join_all().await {
        sent.expect("accepted");
    }
    assert!(callback.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_stands_though_the_hub_detaches_the_links_of_the_old_one_meanwhile() {
    let hub = hub().await;
    let mut config = config(&hub);
    // Whoever comes second waits, and meanwhile the hub acts.
    config.budget.tokens = Rate::limited(1.0, 1.0);
    let upstream = upstream(config);
    let old = with_token(&hub, "device", HOUR);
    let before = attach(&upstream, &old).await;
    let after = RecordingCallback::new();
    let fresh = with_token(&hub, "device", 2 * HOUR);
    let (attached, ()) = tokio::join!(upstream.attach(fresh, after.shared()), async {
        while upstream.stats().waiting == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let condition = "amqp:unauthorized-access";
        hub.faults()
            .detach("device", LinkKind::Telemetry, condition);
        hub.wait_until(|stats| stats.attached_devices == 0).await;
    });
    attached.expect("attached");
    let sent = upstream.send(&uplink(&old.device, "m")).await;
    sent.expect("accepted");
    assert!(before.record().ends.is_empty() && after.record().ends.is_empty());
}
