//! The traps of AMQP clients, each shown not to hurt a device, or its neighbours.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{
    accepted_ids, attach, attach_new, config, hub, one_lane, send_until_ok, uplink, upstream, wire,
    with_key, with_policy,
};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{ErrorKind, Interest, Upstream};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{C2d, HubSimulator, Limits, LinkKind};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Trap 2: a receiver dropped with transfers on their way ends the whole session.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_goes_with_messages_on_their_way_leaves_its_lane_to_the_others() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    for round in 0..10 {
        let name = format!("listener-{round}");
        let identity = with_key(&hub, &name).with_interest(Interest::COMMANDS);
        let device = identity.device.clone();
        attach(&upstream, &identity).await;
        hub.wait_messages(&name).await;
        for n in 0..20 {
            hub.send_c2d(&name, C2d::new(format!("message {n}")))
                .expect("queued");
        }
        upstream.detach(&device).await.expect("detached");
        upstream
            .send(&uplink(&neighbour, format!("m-{round}")))
            .await
            .expect("accepted");
    }
    assert_eq!(hub.attaches("neighbour"), 1, "the neighbour kept its links");
    assert_eq!(hub.connections_opened_total(), 1);
}

/// Trap 3: an attach cancelled on its way ends the whole session when its answer comes.
#[tokio::test(flavor = "multi_thread")]
async fn an_attach_given_up_on_its_way_leaves_its_lane_to_the_others() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    hub.faults().latency(Duration::from_millis(20));
    for (n, patience) in [1, 5, 10, 20, 30, 40, 50].into_iter().enumerate() {
        let identity = with_key(&hub, &format!("hasty-{n}"));
        let attach = upstream.attach(identity, RecordingCallback::new().shared());
        // Whether it is done by then makes no difference.
        drop(timeout(Duration::from_millis(patience), attach).await);
        upstream
            .send(&uplink(&neighbour, format!("m-{n}")))
            .await
            .expect("accepted");
    }
    hub.faults().latency(Duration::ZERO);
    assert_eq!(hub.attaches("neighbour"), 1, "the neighbour kept its links");
    attach_new(&upstream, &hub, "hasty-0").await;
}

/// Trap 3: an attach that is never answered keeps its session busy for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_attach_without_answer_costs_nobody_else_anything() {
    let hub = hub().await;
    let config = one_lane(&hub).with_wire(wire(|w| w.answer_timeout = Duration::from_secs(3)));
    let upstream = upstream(config);
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    hub.add_device("mute");
    hub.faults().withhold_attach("mute");
    let mute = upstream.attach(with_key(&hub, "mute"), RecordingCallback::new().shared());
    let others = async {
        attach_new(&upstream, &hub, "late-comer").await;
        let sent = upstream.send(&uplink(&neighbour, "meanwhile")).await;
        sent.expect("accepted");
    };
    let (result, ()) = tokio::join!(mute, others);
    assert_eq!(result.expect_err("no answer").kind(), ErrorKind::TimedOut);
    assert_eq!(hub.connections_opened_total(), 1, "the connection stays");
    assert_eq!(hub.attaches("neighbour"), 1, "the neighbour kept its links");
    hub.faults().allow_attach("mute");
    attach_new(&upstream, &hub, "mute").await;
}

/// Trap 3: attaches that are never answered use up a session's handles.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_which_the_hub_leaves_too_many_links_unanswered_is_replaced() {
    let limits = Limits::default().with_handle_max(9);
    let hub = HubSimulator::builder().with_limits(limits).start().await;
    let hub = hub.expect("a hub");
    let config = one_lane(&hub).with_wire(wire(|w| w.answer_timeout = Duration::from_secs(3)));
    let upstream = upstream(config);
    let neighbour = attach_new(&upstream, &hub, "neighbour").await;
    let identity = with_key(&hub, "mute").with_interest(Interest::COMMANDS);
    let mute = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("mute").await;
    let lane = |device| upstream.explain(device)?.lane.map(|lane| lane.number);
    let before = lane(&neighbour);
    // One that waits for a credit, as it would for ever on a session that nobody ends.
    hub.faults().link_credit(Some(0));
    let stuck = attach_new(&upstream, &hub, "stuck").await;
    hub.faults().link_credit(None);
    let (sender, message) = (upstream.clone(), uplink(&stuck, "stuck"));
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { sender.send(&message).await });
    hub.faults().withhold_attach("mute");
    for kind in [LinkKind::C2d, LinkKind::Methods] {
        hub.faults().detach("mute", kind, "amqp:internal-error");
    }
    while lane(&neighbour).is_none_or(|now| Some(now) == before) {
        send_until_ok(&upstream, &uplink(&neighbour, "meanwhile")).await;
    }
    hub.faults().allow_attach("mute");
    hub.wait_methods("mute").await;
    send_until_ok(&upstream, &uplink(&mute, "after")).await;
    for lost in waiting.join_all().await {
        assert_eq!(lost.expect_err("lost").kind(), ErrorKind::Disconnected);
    }
    send_until_ok(&upstream, &uplink(&stuck, "after")).await;
    assert!(callback.record().ends.is_empty());
    assert_eq!(hub.connections_opened_total(), 1, "the connection stays");
}

/// Whoever asks for a session hangs up before the hub's time for it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_the_hub_answers_no_begin_is_replaced_though_nobody_waits_that_long()
{
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let attach = async |name: &str| {
        let callback = RecordingCallback::new().shared();
        upstream.attach(with_policy(&hub, name), callback).await
    };
    attach("first").await.expect("attached");
    // Its neighbours' proof is the same, and they need another session.
    hub.faults().freeze_all();
    let replaced = async {
        while hub.connections_opened_total() < 2 {
            drop(timeout(Duration::from_millis(1), attach("hasty")).await);
        }
    };
    let replaced = timeout(Duration::from_secs(15), replaced).await;
    replaced.expect("the hub is left");
    attach("patient").await.expect("attached");
}

/// Trap 4: the attach after a refused one fails with an illegal state.
#[tokio::test(flavor = "multi_thread")]
async fn refused_attaches_do_not_fail_the_good_ones_behind_them() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let mut attaching = JoinSet::new();
    for n in 0..60 {
        let (upstream, identity) = (upstream.clone(), with_key(&hub, &format!("device-{n}")));
        if n % 2 == 1 {
            hub.faults()
                .refuse_attach(identity.device.as_str(), "amqp:not-found");
        }
        attaching.spawn(async move {
            (
                n,
                upstream
                    .attach(identity, RecordingCallback::new().shared())
                    .await,
            )
        });
    }
    while let Some(attached) = attaching.join_next().await {
        match attached.expect("no panic") {
            (n, Ok(())) => assert_eq!(n % 2, 0, "device-{n} is refused"),
            (n, Err(error)) => {
                assert_eq!(
                    (n % 2, error.kind()),
                    (1, ErrorKind::UnknownDevice),
                    "device-{n}"
                );
            }
        }
    }
    assert_eq!(hub.attached_devices(), 30);
}

/// The reason for which a session ends is nobody's verdict on a message, nor on a device.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_the_hub_ends_for_a_fault_is_lost_like_any_other() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let (bad, neighbour) = (
        attach_new(&upstream, &hub, "bad").await,
        attach_new(&upstream, &hub, "neighbour").await,
    );
    for condition in ["amqp:illegal-state", "amqp:not-found", "amqp:not-allowed"] {
        let held = hub.faults().hold_settlements();
        let record = hub.record();
        let before = record.count();
        let message = uplink(&neighbour, condition);
        let (sent, ()) = tokio::join!(upstream.send(&message), async {
            record.wait_for(before + 1).await;
            hub.faults().end_sessions(Some("bad"), condition);
        });
        let error = sent.expect_err("the lane is lost");
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{condition}");
        held.release();
        for device in [&bad, &neighbour] {
            send_until_ok(&upstream, &uplink(device, "after")).await;
            let explained = upstream.explain(device).expect("it is attached");
            let lane = explained.lane.expect("it is up");
            assert!(!lane.is_own, "nobody is kept apart");
        }
    }
}

/// Trap 8: a token's answer handed to whoever asks next.
#[tokio::test(flavor = "multi_thread")]
async fn each_device_gets_the_answer_to_its_own_token() {
    let hub = hub().await;
    hub.faults().latency(Duration::from_millis(5));
    let upstream = upstream(config(&hub));
    let mut attaching = JoinSet::new();
    for n in 0..40 {
        let (upstream, identity) = (upstream.clone(), with_key(&hub, &format!("device-{n}")));
        match n % 4 {
            1 => hub
                .faults()
                .refuse_token(identity.device.as_str(), 401, "no"),
            2 => hub
                .faults()
                .refuse_token(identity.device.as_str(), 429, "later"),
            _ => {}
        }
        attaching.spawn(async move {
            let attach = upstream.attach(identity, RecordingCallback::new().shared());
            match n % 4 {
                3 => (n, timeout(Duration::from_millis(3), attach).await.ok()),
                _ => (n, Some(attach.await)),
            }
        });
    }
    while let Some(attached) = attaching.join_next().await {
        let (n, result) = attached.expect("no panic");
        let kind = result.map(|result| result.err().map(|error| error.kind()));
        match n % 4 {
            0 => assert_eq!(kind, Some(None), "device-{n}"),
            1 => assert_eq!(kind, Some(Some(ErrorKind::Unauthorized)), "device-{n}"),
            2 => assert_eq!(kind, Some(Some(ErrorKind::Throttled)), "device-{n}"),
            _ => {}
        }
    }
}

/// Trap 10: an idle sender does not see that its link was detached.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_detached_while_idle_is_replaced_before_the_next_message() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let (idle, neighbour) = (
        attach_new(&upstream, &hub, "idle").await,
        attach_new(&upstream, &hub, "neighbour").await,
    );
    hub.faults()
        .detach("idle", LinkKind::Telemetry, "amqp:link:detach-forced");
    hub.wait_until(|_| hub.attaches("idle") == 2).await;
    send_until_ok(&upstream, &uplink(&idle, "after")).await;
    assert_eq!(accepted_ids(&hub, &idle), ["after"]);
    let sent = upstream.send(&uplink(&neighbour, "m")).await;
    sent.expect("the neighbour noticed nothing");
    assert_eq!(hub.attaches("neighbour"), 1, "the neighbour kept its links");
}

/// Trap 12: two peers that write to each other and do not read.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_both_ways_through_small_buffers_do_not_block_each_other() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub).with_wire(wire(|wire| wire.buffer = 1024)));
    let identity = with_key(&hub, "both-ways").with_interest(Interest::COMMANDS);
    let device = identity.device.clone();
    let _callback = attach(&upstream, &identity).await;
    hub.wait_messages("both-ways").await;
    let down = async {
        for _ in 0..40 {
            let sent = hub.send_c2d("both-ways", C2d::new(vec![b'd'; 60_000]));
            sent.expect("queued").outcome().await;
        }
    };
    let up = async {
        for n in 0..40 {
            let mut message = uplink(&device, format!("m-{n}"));
            message.body = vec![b'u'; 200_000].into();
            upstream.send(&message).await.expect("accepted");
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(down, up) })
        .await
        .expect("no deadlock");
}

/// Trap 13: behind a shut session window the client gathers without bound, and may stall.
#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_session_window_slows_and_loses_nothing() {
    let hub = hub().await;
    hub.faults().incoming_window(Some(2));
    let upstream = upstream(one_lane(&hub));
    let mut sending = JoinSet::new();
    for n in 0..20 {
        let device = attach_new(&upstream, &hub, &format!("device-{n}")).await;
        let upstream: Arc<AmqpUpstream> = upstream.clone();
        sending.spawn(async move {
            for m in 0..20 {
                let message = uplink(&device, format!("m-{m}"));
                upstream.send(&message).await.expect("accepted");
            }
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.expect("no panic");
    }
    assert_eq!(hub.record().count(), 400);
}

/// Trap 17: a frozen peer is noticed by its silence only.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_hub_is_noticed_and_left() {
    let hub = hub().await;
    let config = config(&hub).with_wire(wire(|wire| {
        wire.idle_timeout = Duration::from_secs(20);
        wire.connect_timeout = Duration::from_secs(2);
    }));
    let mut config = config;
    config.wire.idle_timeout = Duration::from_secs(11);
    let upstream = upstream(config);
    let device = attach_new(&upstream, &hub, "device").await;
    hub.faults().freeze_all();
    let error = upstream
        .send(&uplink(&device, "m"))
        .await
        .expect_err("the hub is frozen");
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    hub.faults().thaw();
    send_until_ok(&upstream, &uplink(&device, "after")).await;
}
