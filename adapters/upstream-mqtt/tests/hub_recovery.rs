//! What the hub takes away, and what comes back.

#[path = "common/hub.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::{
    accepted_ids, attach, attach_with, backoff, config, hub, plain_hub, send_until_ok, until,
    uplink, upstream, with_key, with_policy,
};
use gateway_core::governor::Rate;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{ErrorKind, Interest, LinkPurpose, Upstream};
use gateway_upstream_mqtt::MqttTransport;
use hub_simulator::{C2d, C2dOutcome, HubSimulator, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_connections_are_cut_under_load() {
    const DEVICES: usize = 40;
    const MESSAGES: usize = 20;
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let mut sending = JoinSet::new();
    for n in 0..DEVICES {
        let identity = with_key(&hub, &format!("device-{n}"));
        let device = identity.device.clone();
        attach(&upstream, &identity).await;
        let upstream = upstream.clone();
        sending.spawn(async move {
            for m in 0..MESSAGES {
                send_until_ok(&upstream, &uplink(&device, format!("m-{m:02}"))).await;
            }
            device
        });
    }
    let record = hub.record();
    for share in [100, 300, 500, 700] {
        record.wait_for(share).await;
        hub.faults().cut_all();
    }
    let expected: Vec<_> = (0..MESSAGES).map(|m| format!("m-{m:02}")).collect();
    while let Some(device) = sending.join_next().await {
        let device = device.expect("no panic");
        assert_eq!(accepted_ids(&hub, &device), expected, "{device}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_devices_are_cut_and_come_back_within_their_budget() {
    const DEVICES: usize = 1000;
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.budget.connects = Rate::limited(500.0, 0.1);
    let upstream = upstream(config);
    let callback = RecordingCallback::new();
    let mut attaching = JoinSet::new();
    for n in 0..DEVICES {
        let identity = with_key(&hub, &format!("device-{n}"));
        let (upstream, callback) = (upstream.clone(), callback.shared());
        attaching.spawn(async move { upstream.attach(identity, callback).await });
    }
    for attached in attaching.join_all().await {
        attached.expect("attached");
    }
    assert_eq!(upstream.stats().connections, DEVICES);
    hub.faults().cut_all();
    // A device with work comes among the first, whatever its place.
    let early = common::device_id("device-500");
    send_until_ok(&upstream, &uplink(&early, "work")).await;
    hub.wait_until(|stats| {
        stats.connections_opened >= 2 * DEVICES as u64 && stats.attached_devices == DEVICES
    })
    .await;
    for n in 0..DEVICES {
        let device = common::device_id(&format!("device-{n}"));
        send_until_ok(&upstream, &uplink(&device, "back")).await;
    }
    let stats = upstream.stats();
    assert_eq!((stats.devices, stats.recovering), (DEVICES, 0));
    assert!(callback.record().ends.is_empty(), "no session ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_another_client_takes_is_given_up_and_not_fought_over() {
    let hub = plain_hub().await;
    let (ours, theirs) = (upstream(config(&hub)), upstream(config(&hub)));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let neighbour = with_key(&hub, "neighbour");
    let (callback, others) = (RecordingCallback::new(), RecordingCallback::new());
    for identity in [&identity, &neighbour] {
        attach_with(&ours, identity, &callback).await;
    }
    // Both come back whenever the other takes their connection.
    attach_with(&theirs, &identity, &others).await;
    let end = tokio::select! {
        record = callback.wait_for(|record| !record.ends.is_empty()) => record.ends[0].clone(),
        record = others.wait_for(|record| !record.ends.is_empty()) => record.ends[0].clone(),
    };
    assert_eq!(
        (end.device, end.reason),
        (device.clone(), ErrorKind::Displaced)
    );
    let (loser, winner) = match ours.stats().devices {
        1 => (&ours, &theirs),
        _ => (&theirs, &ours),
    };
    let refused = loser.send(&uplink(&device, "lost")).await;
    let refused = refused.expect_err("it is the other's");
    assert_eq!(refused.kind(), ErrorKind::UnknownDevice);
    send_until_ok(winner, &uplink(&device, "kept")).await;
    let sent = ours.send(&uplink(&neighbour.device, "here")).await;
    sent.expect("the neighbour goes on");
    let opened = hub.connections_opened_total();
    assert!(opened < 20, "{opened} connections of two devices");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_closes_for_a_subscription_takes_the_device_for_nobody_elses() {
    let limits = Limits::default().with_basic_tier(true);
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    let hub = hub.start().await.expect("the simulator starts");
    let mut config = config(&hub);
    config.reconnect.displaced_after = 2;
    config.breaker.open = backoff(10, 20);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let callback = attach(&upstream, &identity).await;
    hub.wait_until(|stats| stats.connections_opened >= 6 || !callback.record().ends.is_empty())
        .await;
    assert_eq!(callback.record().ends, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_messages_end_its_connection_backs_off() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.breaker.open = backoff(60_000, 60_000);
    let upstream = upstream(config);
    let callback = RecordingCallback::new();
    let (bad, good) = (with_key(&hub, "bad"), with_key(&hub, "good"));
    for identity in [&bad, &good] {
        attach_with(&upstream, identity, &callback).await;
    }
    // MQTT has no other way to say "too fast" or "not this".
    hub.faults().throttle(Some("bad"), 1_000_000);
    let wait = loop {
        let refused = upstream.send(&uplink(&bad.device, "m")).await;
        let refused = refused.expect_err("the hub closes the connection");
        assert_eq!(refused.kind(), ErrorKind::Disconnected);
        if let Some(wait) = refused.retry_after() {
            break wait;
        }
        // Closings within a second of each other count as one.
        sleep(Duration::from_millis(100)).await;
    };
    assert!(wait <= Duration::from_secs(60), "{wait:?}");
    assert_eq!(upstream.stats().held, 1);
    let opened = hub.connections_opened_total();
    for _ in 0..10 {
        let held = upstream.send(&uplink(&bad.device, "m")).await;
        assert!(held.expect_err("held back").retry_after().is_some());
        let sent = upstream.send(&uplink(&good.device, "m")).await;
        sent.expect("the neighbour goes on");
    }
    assert_eq!(
        hub.connections_opened_total(),
        opened,
        "the hub is left alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_held_back_is_served_once_it_is_there_by_another_credential() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.breaker.open = backoff(60_000, 60_000);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    hub.faults().throttle(Some("device"), 1_000_000);
    while upstream.stats().held == 0 {
        drop(upstream.send(&uplink(&device, "m")).await);
        // Closings within a second of each other count as one.
        sleep(Duration::from_millis(100)).await;
    }
    hub.faults().stop_rejecting();
    let policy = with_policy(&hub, "device").with_interest(Interest::ALL);
    let attached = upstream.attach(policy, callback.shared()).await;
    attached.expect("another credential is another matter");
    let listening = timeout(Duration::from_secs(10), hub.wait_messages("device"));
    listening.await.expect("it need not wait");
    let ticket = hub.send_c2d("device", C2d::new("x")).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_end_that_closes_during_the_handshake_is_not_the_devices_fault() {
    let hub = hub().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let mut config = config(&hub).with_address(address.ip().to_string(), address.port());
    config.reconnect.backoff = backoff(60_000, 60_000);
    config.breaker.open_after = 1;
    let upstream = upstream(config);
    let mut front_end = JoinSet::new();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    front_end.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            count.fetch_add(1, Relaxed);
            // What is left unread would reset the connection.
            let mut hello = [0; 4096];
            let read = socket.read(&mut hello).await;
            read.expect("the client speaks first");
        }
    });
    for name in ["first", "second", "third"] {
        let identity = with_key(&hub, name);
        let refused = upstream.attach(identity, RecordingCallback::new().shared());
        let refused = refused.await.expect_err("nobody is behind it");
        assert_eq!(refused.kind(), ErrorKind::Disconnected);
        assert_eq!(refused.retry_after().is_some(), name != "first", "{name}");
    }
    assert_eq!(upstream.stats().held, 0);
    assert_eq!(accepted.load(Relaxed), 1, "it is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_the_budget_does_not_hold_up_the_close() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.budget.sends = Rate::limited(0.1, 10.0);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let _callback = attach(&upstream, &identity).await;
    let sent = upstream.send(&uplink(&device, "first")).await;
    sent.expect("the budget allows one");
    let second = uplink(&device, "second");
    let close = async {
        until(|| upstream.stats().waiting > 0).await;
        upstream.close(Duration::from_millis(100)).await
    };
    let both = async { tokio::join!(upstream.send(&second), close) };
    let both = timeout(Duration::from_secs(5), both).await;
    let (sent, closed) = both.expect("nobody waits for the budget");
    assert_eq!(sent.expect_err("closed").kind(), ErrorKind::Closed);
    let unsettled = closed.expect_err("the message was in flight");
    assert_eq!(unsettled.kind(), ErrorKind::TimedOut);
}

/// One that waited for each of its messages apart would give up with some of them paid for, and pay
/// for them anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_the_budget_once() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.budget.sends = Rate::limited(0.1, 10.0);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let _callback = attach(&upstream, &identity).await;
    let batch: Vec<_> = (0..20).map(|n| uplink(&device, n.to_string())).collect();
    let sent = timeout(Duration::from_secs(30), upstream.send_batch(&batch)).await;
    sent.expect("not 10 s for each").expect("the hub takes all");
    let next = uplink(&device, "next");
    let waits = until(|| upstream.stats().waiting > 0);
    tokio::select! {
        _ = upstream.send(&next) => panic!("it goes before its turn"),
        () = waits => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_cannot_be_reached_is_not_asked_in_a_hot_loop() {
    let hub = plain_hub().await;
    let config = config(&hub);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    drop(hub);
    let begun = tokio::time::Instant::now();
    let mut tries = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        let callback = RecordingCallback::new().shared();
        let refused = upstream.attach(identity.clone(), callback).await;
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::Disconnected);
        match refused.retry_after() {
            Some(wait) => sleep(wait).await,
            None => tries += 1,
        }
    }
    assert!(tries <= 60, "{tries} tries in a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_lets_a_device_in_and_resets_at_once_is_not_asked_in_a_hot_loop() {
    let hub = plain_hub().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let mut config = config(&hub).with_address(address.ip().to_string(), address.port());
    config.reconnect.backoff = backoff(50, 10_000);
    let upstream = upstream(config);
    let mut front_end = JoinSet::new();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    front_end.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            count.fetch_add(1, Relaxed);
            let mut connect = [0; 4096];
            let read = socket.read(&mut connect).await;
            read.expect("the client speaks first");
            let welcome = socket.write_all(&[0x20, 2, 0, 0]).await;
            welcome.expect("the client listens");
            // It is reset with the next close.
            let reset = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            reset.expect("set");
        }
    });
    let identity = with_key(&hub, "device");
    // It may see the connection in the moment that it is there.
    drop(
        upstream
            .attach(identity, RecordingCallback::new().shared())
            .await,
    );
    sleep(Duration::from_secs(1)).await;
    let accepted = accepted.load(Relaxed);
    assert!(accepted <= 8, "{accepted} connections in a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_hub_never_answers_holds_up_nobody() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.wire.connect_timeout = Duration::from_secs(2);
    config.breaker.open = backoff(60_000, 60_000);
    let upstream = upstream(config);
    let callback = RecordingCallback::new();
    let (bad, good) = (with_key(&hub, "bad"), with_key(&hub, "good"));
    hub.faults().withhold_attach("bad");
    for _ in 0..3 {
        let refused = upstream.attach(bad.clone(), callback.shared()).await;
        let refused = refused.expect_err("no answer");
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
    let held = upstream.attach(bad, callback.shared()).await;
    assert!(held.expect_err("held back").retry_after().is_some());
    let attached = upstream.attach(good.clone(), callback.shared()).await;
    attached.expect("the hub can be reached");
    let sent = upstream.send(&uplink(&good.device, "m")).await;
    sent.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_carries_a_device_as_well() {
    let hub = hub().await;
    let address = hub.https_addr();
    let config = config(&hub)
        .with_transport(MqttTransport::WebSocket)
        .with_address(address.ip().to_string(), address.port());
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let device = identity.device.clone();
    let _callback = attach(&upstream, &identity).await;
    let mut large = uplink(&device, "large");
    large.body = vec![7; 200 * 1024].into();
    upstream.send(&large).await.expect("accepted");
    hub.wait_messages("device").await;
    let ticket = hub.send_c2d("device", C2d::new("x")).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    hub.faults().cut_all();
    send_until_ok(&upstream, &uplink(&device, "after")).await;
    assert_eq!(accepted_ids(&hub, &device), ["large", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_ends_and_its_neighbour_goes_on() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let (callback, neighbours) = (RecordingCallback::new(), RecordingCallback::new());
    let (bad, good) = (with_key(&hub, "bad"), with_key(&hub, "good"));
    attach_with(&upstream, &bad, &callback).await;
    attach_with(&upstream, &good, &neighbours).await;
    hub.set_enabled("bad", false);
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(record.ends[0].reason, ErrorKind::Unauthorized);
    let sent = upstream.send(&uplink(&good.device, "m")).await;
    sent.expect("accepted");
    hub.set_enabled("bad", true);
    let attached = upstream.attach(bad.clone(), callback.shared()).await;
    attached.expect("it may come again");
    assert!(neighbours.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_explains_itself() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let callback = RecordingCallback::new();
    let identity = with_key(&hub, "device").with_interest(Interest::COMMANDS);
    let device = identity.device.clone();
    assert_eq!(upstream.explain(&device), None);
    attach_with(&upstream, &identity, &callback).await;
    hub.wait_methods("device").await;
    let up = loop {
        let up = upstream.explain(&device).expect("it is attached");
        if up.links.len() > 1 {
            break up;
        }
        // The hub knows of a subscription a moment before the gateway knows that.
        tokio::task::yield_now().await;
    };
    assert!(up.connection.is_some() && up.last_error.is_none());
    let purposes: Vec<_> = up.links.iter().map(|link| link.purpose).collect();
    assert_eq!(
        purposes,
        [
            LinkPurpose::Telemetry,
            LinkPurpose::Messages,
            LinkPurpose::Methods
        ]
    );
    let token = up.token.expect("a token was signed");
    assert!(token.renewal_in.is_some());
    upstream.detach(&device).await.expect("detached");
    assert_eq!(upstream.explain(&device), None);
}
