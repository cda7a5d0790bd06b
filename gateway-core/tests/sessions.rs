//! The session table, seen from the hub.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::time::Duration;

use async_trait::async_trait;
use gateway_core::{
    Announcement, CloudMessage, Credential, CredentialError, CredentialProvider,
    DEFAULT_RETRY_AFTER, DeviceId, Disposition, ErrorKind, GatewayBuilder, Interest, Settlement,
    TimeoutConfig, Upstream,
};
use support::{Harness, device, no_retries, policy, soon, uplink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_device_silent_for_longest_makes_room() {
    let run = Harness::start(|config| config.sessions.capacity = 3);
    for n in 0..10 {
        assert_eq!(run.send(&format!("d{n}"), "x").await, Settlement::Accepted);
    }
    soon(run.hub.wait_attached(&device("d6"), false)).await;
    sleep(SECOND).await;
    for n in 0..10 {
        let name = device(&format!("d{n}"));
        assert_eq!(run.hub.is_attached(&name), n >= 7, "{name}");
    }
    let stats = run.gateway.stats();
    assert_eq!((stats.sessions.sessions, stats.sessions.evicted), (3, 7));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_evicted_once_however_many_come() {
    let run = Harness::start(|config| config.sessions.capacity = 1);
    assert_eq!(run.send("old", "1").await, Settlement::Accepted);
    run.hub.set_latency(SECOND);
    // All come before the eviction that the first one causes has begun.
    let names = ["a", "b", "c", "d"].map(device);
    let mut handles = Vec::new();
    for name in &names {
        handles.push(run.devices.device(name.clone()).await);
    }
    let [a, b, c, d] = &handles[..] else {
        panic!("four devices were made")
    };
    tokio::join!(
        async { assert_eq!(a.send("x").await, Settlement::Accepted) },
        async { assert_eq!(b.send("x").await, Settlement::Accepted) },
        async { assert_eq!(c.send("x").await, Settlement::Accepted) },
        async { assert_eq!(d.send("x").await, Settlement::Accepted) },
    );
    sleep(10 * SECOND).await;
    let old = device("old");
    let detached = names.iter().chain([&old]);
    let detached: u64 = detached.map(|name| run.hub.detaches(name)).sum();
    assert_eq!(run.gateway.stats().sessions.evicted, detached);
    assert_eq!(run.gateway.stats().detached, detached);
}

#[tokio::test(start_paused = true)]
async fn an_idle_device_is_detached_and_an_active_or_online_one_stays() {
    let run = Harness::start(|config| config.sessions.idle_ttl = 80 * SECOND);
    assert_eq!(run.send("idle", "1").await, Settlement::Accepted);
    let _presence = run
        .online(Announcement::new(device("online")))
        .await
        .unwrap();
    for n in 0..20 {
        assert_eq!(
            run.send("active", &n.to_string()).await,
            Settlement::Accepted
        );
        sleep(10 * SECOND).await;
    }
    assert!(!run.hub.is_attached(&device("idle")));
    assert!(run.hub.is_attached(&device("active")));
    assert!(run.hub.is_attached(&device("online")));
    assert_eq!(run.gateway.stats().sessions.expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_goes_offline_late_keeps_no_idle_one() {
    let run = Harness::start(|config| config.sessions.idle_ttl = 80 * SECOND);
    let presence = run.online(Announcement::new(device("late"))).await.unwrap();
    assert_eq!(run.send("idle", "1").await, Settlement::Accepted);
    sleep(75 * SECOND).await;
    drop(presence);
    sleep(45 * SECOND).await;
    assert!(!run.hub.is_attached(&device("idle")));
    assert!(run.hub.is_attached(&device("late")));
}

#[tokio::test(start_paused = true)]
async fn parallel_uplinks_of_a_new_device_attach_it_once() {
    let run = Harness::start(|_| {});
    run.hub.set_latency(SECOND);
    let mut sends = JoinSet::new();
    for n in 0..50 {
        let device = run.devices.device(device("new")).await;
        sends.spawn(async move { device.send(n.to_string()).await });
    }
    for settlement in sends.join_all().await {
        assert_eq!(settlement, Settlement::Accepted);
    }
    assert_eq!(run.hub.attach_requests(&device("new")), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_with_work_in_flight_or_while_online() {
    let run = Harness::start(|config| {
        config.sessions.capacity = 2;
        config.timeouts.send = 1000 * SECOND;
        config.sessions.idle_ttl = 10 * SECOND;
    });
    let _presence = run
        .online(Announcement::new(device("online")))
        .await
        .unwrap();
    run.hub.lose_settlements(1);
    let busy = run.devices.device(device("busy")).await;
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { busy.send("x").await });
    run.hub.wait_accepted(1).await;
    for n in 0..100 {
        assert_eq!(run.send(&format!("d{n}"), "x").await, Settlement::Accepted);
        sleep(SECOND).await;
    }
    for name in ["online", "busy"] {
        assert!(run.hub.is_attached(&device(name)), "{name}");
        assert_eq!(run.hub.detaches(&device(name)), 0, "{name}");
    }
    assert!(waiting.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_full_table_gives_retry_later_until_there_is_room() {
    let run = Harness::start(|config| config.sessions.capacity = 1);
    let mut presences = Vec::new();
    for n in 0..65 {
        let name = device(&format!("d{n}"));
        presences.push(run.online(Announcement::new(name)).await.unwrap());
    }
    let full = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
    assert_eq!(run.send("one-more", "1").await, full);
    let refused = run.online(Announcement::new(device("one-more"))).await;
    assert_eq!(refused.unwrap_err(), ErrorKind::Throttled);
    assert_eq!(run.hub.attach_requests(&device("one-more")), 0);
    presences.pop();
    soon(run.hub.wait_deaf(&device("d64"))).await;
    sleep(SECOND).await;
    // The first one starts the eviction of the device that is offline.
    while run.send("one-more", "2").await == full {
        sleep(SECOND).await;
    }
    assert_eq!(run.hub.accepted().len(), 1);
    assert!(!run.hub.is_attached(&device("d64")));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_back_waits_for_its_detach() {
    let run = Harness::start(|config| config.sessions.capacity = 1);
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.set_latency(SECOND);
    let (b, again) = tokio::join!(run.send("b", "1"), async {
        soon(run.hub.wait_attached(&a, false)).await;
        run.send("a", "2").await
    });
    assert_eq!((b, again), (Settlement::Accepted, Settlement::Accepted));
    assert_eq!((run.hub.attaches(&a), run.hub.detaches(&a)), (2, 1));
    sleep(10 * SECOND).await;
    assert!(run.hub.is_attached(&a), "the newer session stays");
    assert_eq!(run.send("a", "3").await, Settlement::Accepted);
    assert_eq!(run.hub.attaches(&a), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_is_not_asked_about_again_within_its_backoff() {
    let run = Harness::start(|_| {});
    let bad = device("bad");
    run.hub.refuse(&bad, ErrorKind::Unauthorized);
    for n in 0..10 {
        let refused = Settlement::Rejected(ErrorKind::Unauthorized);
        assert_eq!(run.send("bad", &n.to_string()).await, refused);
    }
    assert_eq!(run.hub.attach_requests(&bad), 1);
    run.hub.refuse(&bad, None);
    sleep(2 * SECOND).await;
    assert_eq!(run.send("bad", "now").await, Settlement::Accepted);
    assert_eq!(run.hub.attach_requests(&bad), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_device_waits_longer_each_time() {
    let run = Harness::start(|_| {});
    run.hub.refuse(&device("bad"), ErrorKind::UnknownDevice);
    for n in 0..3600 {
        let refused = Settlement::Rejected(ErrorKind::UnknownDevice);
        assert_eq!(run.send("bad", &n.to_string()).await, refused);
        sleep(SECOND).await;
    }
    let asked = run.hub.attach_requests(&device("bad"));
    assert!(
        (60..=130).contains(&asked),
        "asked {asked} times in an hour"
    );
}

#[tokio::test(start_paused = true)]
async fn a_credential_provider_that_hangs_or_panics_costs_its_device_alone() {
    #[derive(Debug)]
    struct Vault;

    #[async_trait]
    impl CredentialProvider for Vault {
        async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
            match device.as_str() {
                "good" => policy().credential(device).await,
                "panics" => panic!("a panic that a test wants"),
                _ => std::future::pending().await,
            }
        }
    }

    let more = |builder: GatewayBuilder<_>| builder.with_credentials(Vault);
    let run = Harness::build(|config| config.max_in_flight = 2, |hub| hub, more);
    let later = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
    assert_eq!(run.send("panics", "1").await, later);
    let since = Instant::now();
    let hang = tokio::join!(run.send("hangs-1", "1"), run.send("hangs-2", "1"));
    assert_eq!(hang, (later, later));
    assert!(since.elapsed() < 2 * TimeoutConfig::default().attach);
    assert_eq!(run.send("good", "1").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_cannot_be_asked_refuses_nobody() {
    let run = Harness::start(no_retries);
    run.hub.set_down(true);
    let later = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
    assert_eq!(run.send("a", "1").await, later);
    run.hub.set_down(false);
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_the_hub_forgot_is_attached_anew_and_loses_nothing() {
    let run = Harness::start(|_| {});
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.detach(&a).await.unwrap();
    assert_eq!(run.send("a", "2").await, Settlement::Accepted);
    assert_eq!(run.hub.attaches(&a), 2);
    // A hub that refuses it for good is believed.
    run.hub.detach(&a).await.unwrap();
    run.hub.refuse(&a, ErrorKind::UnknownDevice);
    let refused = Settlement::Rejected(ErrorKind::UnknownDevice);
    assert_eq!(run.send("a", "3").await, refused);
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_unsubscribing_failed_is_detached_so_that_its_messages_wait_in_the_hub() {
    let run = Harness::start(no_retries);
    let a = device("a");
    let presence = run.online(Announcement::new(a.clone())).await.unwrap();
    run.hub.throttle(Some(SECOND));
    drop(presence);
    sleep(SECOND).await;
    assert!(!run.hub.is_attached(&a));
    run.hub.throttle(None);
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    assert_eq!(run.hub.identity(&a).unwrap().interest, Interest::NONE);
}

#[tokio::test(start_paused = true)]
async fn a_session_ended_by_the_hub_refuses_and_begins_anew_after_a_while() {
    let run = Harness::start(|_| {});
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.end_session(&a, ErrorKind::Unauthorized).await;
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.send("a", "2").await, refused);
    sleep(2 * SECOND).await;
    assert_eq!(run.send("a", "3").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_older_session_does_not_end_a_newer_one() {
    let run = Harness::start(|_| {});
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.set_latency(SECOND);
    let newer = Announcement::new(a.clone());
    let (presence, ()) = tokio::join!(run.online(newer), async {
        // The attach is on its way when the hub ends the older session.
        while run.hub.attach_requests(&a) < 2 {
            tokio::task::yield_now().await;
        }
        run.hub.end_session(&a, ErrorKind::Unauthorized).await;
    });
    let _presence = presence.unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(run.send("a", "2").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn an_uplink_given_up_on_its_way_harms_no_later_one() {
    let run = Harness::start(|config| config.sessions.idle_ttl = 80 * SECOND);
    run.hub.set_latency(SECOND);
    let a = run.devices.device(device("a")).await;
    for wait in [100, 900, 1100, 900] {
        let message = uplink(a.id(), &wait.to_string());
        let send = a.send_uplink(message);
        let given_up = tokio::time::timeout(Duration::from_millis(wait), send).await;
        assert!(given_up.is_err());
    }
    assert_eq!(a.send("last").await, Settlement::Accepted);
    // Whatever was attached on the way is detached in the end.
    soon(run.hub.wait_attached(a.id(), false)).await;
    assert_eq!(run.hub.attached_devices(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_another_client_took_over_is_told_to_come_back_later() {
    let run = Harness::start(|_| {});
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.end_session(&a, ErrorKind::Displaced).await;
    let settlement = run.send("a", "2").await;
    let Settlement::RetryLater(after) = settlement else {
        panic!("the hub would take the message: {settlement:?}");
    };
    sleep(after).await;
    assert_eq!(run.send("a", "2").await, Settlement::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_strangers_evicts_no_device_that_the_hub_knows() {
    let run = Harness::start(|config| config.sessions.capacity = 20);
    for n in 0..15 {
        let good = format!("good-{n}");
        assert_eq!(run.send(&good, "1").await, Settlement::Accepted);
    }
    for n in 0..200 {
        let stranger = format!("stranger-{n}");
        run.hub.refuse(&device(&stranger), ErrorKind::UnknownDevice);
        let refused = Settlement::Rejected(ErrorKind::UnknownDevice);
        assert_eq!(run.send(&stranger, "1").await, refused);
        // It is refused here, the hub is not asked again.
        assert_eq!(run.send(&stranger, "2").await, refused);
    }
    assert_eq!(run.hub.attached_devices(), 15);
    let stats = run.gateway.stats();
    assert_eq!((stats.sessions.sessions, stats.detached), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn strangers_that_a_throttling_hub_does_not_judge_evict_no_device_that_it_knows() {
    let run = Harness::start(|config| {
        no_retries(config);
        config.sessions.capacity = 20;
    });
    for n in 0..15 {
        let good = format!("good-{n}");
        assert_eq!(run.send(&good, "1").await, Settlement::Accepted);
    }
    run.hub.throttle(Some(SECOND));
    for n in 0..100 {
        let throttled = Settlement::RetryLater(SECOND);
        assert_eq!(run.send(&format!("throttled-{n}"), "1").await, throttled);
    }
    run.hub.throttle(None);
    run.hub.set_latency(SECOND);
    for n in 0..100 {
        let device = run.devices.device(device(&format!("gone-{n}"))).await;
        let sent = timeout(SECOND / 2, device.send("x")).await;
        assert!(sent.is_err(), "it gives up before the hub says a word");
    }
    for n in 0..15 {
        assert!(run.hub.is_attached(&device(&format!("good-{n}"))), "{n}");
    }
    // Who is taken in the end is a stranger no more.
    run.hub.set_latency(Duration::ZERO);
    assert_eq!(run.send("gone-99", "2").await, Settlement::Accepted);
    for n in 0..100 {
        let stranger = format!("stranger-{n}");
        run.hub.refuse(&device(&stranger), ErrorKind::UnknownDevice);
        let refused = Settlement::Rejected(ErrorKind::UnknownDevice);
        assert_eq!(run.send(&stranger, "1").await, refused);
    }
    assert!(run.hub.is_attached(&device("gone-99")));
}

#[tokio::test(start_paused = true)]
async fn strangers_keep_no_idle_device_and_go_with_their_own_idle_time() {
    let run = Harness::start(|config| config.sessions.idle_ttl = 80 * SECOND);
    assert_eq!(run.send("idle", "1").await, Settlement::Accepted);
    sleep(75 * SECOND).await;
    run.hub.refuse(&device("bad"), ErrorKind::UnknownDevice);
    let refused = Settlement::Rejected(ErrorKind::UnknownDevice);
    assert_eq!(run.send("bad", "1").await, refused);
    soon(run.hub.wait_attached(&device("idle"), false)).await;
    assert!(run.gateway.explain(&device("bad")).is_some());
    sleep(100 * SECOND).await;
    assert_eq!(run.gateway.stats().sessions.sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_evicts_no_faster_than_the_hub_lets_go() {
    let run = Harness::start(|config| config.sessions.capacity = 100);
    for n in 0..100 {
        let good = format!("good-{n}");
        assert_eq!(run.send(&good, "1").await, Settlement::Accepted);
    }
    run.hub.set_latency(SECOND);
    let mut flood = JoinSet::new();
    for n in 0..1000 {
        let device = run.devices.device(device(&format!("new-{n}"))).await;
        flood.spawn(async move { device.send("x").await });
    }
    sleep(SECOND / 2).await;
    let stats = run.gateway.stats().sessions;
    assert_eq!((stats.sessions, stats.evicted), (164, 64));
    let settled = flood.join_all().await;
    let later = Settlement::RetryLater(DEFAULT_RETRY_AFTER);
    let count = |wanted| settled.iter().filter(|s| **s == wanted).count();
    assert_eq!(count(Settlement::Accepted) + count(later), 1000);
    assert!(count(Settlement::Accepted) >= 64);
}

#[tokio::test(start_paused = true)]
async fn a_slow_sweep_throws_out_no_newer_session() {
    let run = Harness::start(|config| {
        config.sessions.capacity = 100;
        config.sessions.idle_ttl = 80 * SECOND;
    });
    for n in 0..100 {
        assert_eq!(run.send(&format!("d{n}"), "x").await, Settlement::Accepted);
    }
    sleep(79 * SECOND).await;
    run.hub.set_latency(9 * SECOND);
    sleep(2 * SECOND).await;
    run.hub.set_latency(Duration::ZERO);
    // One of those for which the sweep has no room yet makes room for these.
    for name in ["n0", "n1"] {
        assert_eq!(run.send(name, "x").await, Settlement::Accepted);
    }
    sleep(SECOND).await;
    let mut waiting = (65..100).map(|n| device(&format!("d{n}")));
    let back = waiting.find(|name| !run.hub.is_attached(name)).unwrap();
    let back = run.devices.connect(back).await.unwrap();
    sleep(10 * SECOND).await;
    let explanation = run.gateway.explain(back.id()).unwrap();
    assert!(explanation.session.is_some_and(|session| session.is_online));
    let message = CloudMessage::new(back.id().clone(), "x", Instant::now() + SECOND);
    let take = async { soon(back.next()).await.unwrap().acknowledge() };
    let (settled, ()) = tokio::join!(run.hub.send_message(message), take);
    assert_eq!(settled, Some(Disposition::Complete));
}
