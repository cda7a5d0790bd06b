//! Messages and methods on their way to devices, whatever devices and hub do.

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{attach_with, config, device_id, hub, one_lane, uplink, upstream, with_key};
use gateway_core::credential::{ConnectionString, HubPolicyCredentials};
use gateway_core::testkit::{MemoryDownstream, RecordingCallback};
use gateway_core::{
    Backoff, CloudCallback, CloudMessage, Credential, DesiredPatch, DeviceId, Disposition, Gateway,
    GatewayConfig, Interest, MethodCall, MethodReply, SessionEnd, Settlement, Upstream,
};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{C2d, C2dOutcome, HubSimulator, Limits, LinkKind, MethodError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const MESSAGES: Interest = Interest::NONE.with_messages(true);
const METHODS: Interest = Interest::NONE.with_methods(true);
/// How long the hub waits for a method that is answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Far less than the hub's lock, and than a method's time: what comes within it waited for neither.
const PROMPT: Duration = Duration::from_secs(30);

/// A hub that gives a message out many times.
async fn patient_hub() -> HubSimulator {
    let limits = Limits::default().with_max_delivery_count(100);
    let builder = HubSimulator::builder().with_limits(limits);
    builder.start().await.expect("the simulator starts")
}

/// Attaches a device, and waits until the hub may send it what it listens to.
async fn listen(
    upstream: &AmqpUpstream,
    hub: &HubSimulator,
    name: &str,
    interest: Interest,
) -> (DeviceId, RecordingCallback) {
    let callback = RecordingCallback::new();
    let device = listen_with(upstream, hub, name, interest, &callback).await;
    (device, callback)
}

async fn listen_with(
    upstream: &AmqpUpstream,
    hub: &HubSimulator,
    name: &str,
    interest: Interest,
    callback: &RecordingCallback,
) -> DeviceId {
    let identity = with_key(hub, name).with_interest(interest);
    attach_with(upstream, &identity, callback).await;
    if interest.messages {
        hub.wait_messages(name).await;
    }
    if interest.methods {
        hub.wait_methods(name).await;
    }
    identity.device
}

/// Delivers a message and gives how often the hub gave it out.
async fn deliver(hub: &HubSimulator, device: &str, text: &str) -> u32 {
    let ticket = hub.send_c2d(device, C2d::new(text.to_owned()));
    let ticket = ticket.expect("queued");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed, "{text}");
    ticket.delivery_count()
}

fn delivery_counts(callback: &RecordingCallback) -> Vec<u32> {
    let messages = callback.record().messages;
    messages.iter().map(|m| m.delivery_count).collect()
}

/// Waits for what must come by itself.
async fn promptly<T>(event: impl Future<Output = T>) -> T {
    let event = timeout(PROMPT, event).await;
    event.expect("nothing was waited for")
}

/// Has a device speak until something has come of it.
async fn speak_until<T>(
    upstream: &AmqpUpstream,
    device: &DeviceId,
    event: impl Future<Output = T>,
) -> T {
    let speak = async {
        for n in 0.. {
            let sent = upstream.send(&uplink(device, format!("m-{n}"))).await;
            sent.expect("accepted");
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        event = event => event,
        () = speak => unreachable!("a range without end"),
    }
}

/// Waits until no device has a command task.
async fn until_nobody_listens(upstream: &AmqpUpstream) {
    while upstream.stats().listening > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_settles_in_time_goes_back_before_its_lock_lapses() {
    let hub = patient_hub().await;
    let mut config = config(&hub);
    config.commands.lock = Duration::from_millis(200);
    let upstream = upstream(config);
    let (_, callback) = listen(&upstream, &hub, "slow", MESSAGES).await;
    callback.hold();
    let ticket = hub.send_c2d("slow", C2d::new("x")).expect("queued");
    callback.wait_for(|record| record.messages.len() == 2).await;
    callback.release();
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    // Only a message that is given back counts; one whose lock lapses comes as it was.
    let counts = delivery_counts(&callback);
    assert!(
        counts.iter().copied().eq(0..counts.len() as u32),
        "{counts:?}"
    );
    assert!(upstream.stats().messages_lapsed >= 1);
}

/// Takes one message at a time, and never the first.
#[derive(Debug)]
struct OneByOne {
    turn: Semaphore,
    seen: RecordingCallback,
}

#[async_trait]
impl CloudCallback for OneByOne {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        self.seen.on_method(call).await
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        let _turn = self.turn.acquire().await.expect("open");
        self.seen.on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        self.seen.on_desired(patch).await
    }

    async fn on_end(&self, end: SessionEnd) {
        self.seen.on_end(end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_behind_a_stuck_one_goes_back_in_time_too() {
    let hub = patient_hub().await;
    let mut config = config(&hub);
    config.commands.lock = Duration::from_millis(200);
    let upstream = upstream(config);
    let seen = RecordingCallback::new();
    seen.hold();
    let callback = Arc::new(OneByOne {
        turn: Semaphore::new(1),
        seen: seen.clone(),
    });
    let identity = with_key(&hub, "queue").with_interest(MESSAGES);
    let attached = upstream.attach(identity, callback).await;
    attached.expect("attached");
    let tickets: Vec<_> = (0..4)
        .map(|n| {
            hub.send_c2d("queue", C2d::new(format!("m-{n}")))
                .expect("queued")
        })
        .collect();
    for ticket in &tickets {
        while ticket.delivery_count() < 2 {
            tokio::task::yield_now().await;
        }
    }
    seen.release();
    for ticket in &tickets {
        assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    }
    assert!(upstream.stats().messages_lapsed >= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_busy_does_not_use_up_a_messages_deliveries() {
    let hub = hub().await;
    let mut config = config(&hub);
    let second = Duration::from_secs(1);
    config.commands.abandon = Backoff::new(second / 4, second / 4).expect("a valid backoff");
    let upstream = upstream(config);
    let (_, callback) = listen(&upstream, &hub, "busy", MESSAGES).await;
    callback.settle_next([Disposition::Abandon; 4]);
    let begun = Instant::now();
    assert_eq!(deliver(&hub, "busy", "x").await, 5);
    assert_eq!(delivery_counts(&callback), [0, 1, 2, 3, 4]);
    // Each wait is drawn from the upper half.
    assert!(begun.elapsed() >= second / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_void_when_its_link_is_lost() {
    let limits = Limits::default().with_c2d_lock(Duration::from_secs(3));
    let builder = HubSimulator::builder().with_limits(limits);
    let hub = builder.start().await.expect("the simulator starts");
    let upstream = upstream(config(&hub));
    let (device, callback) = listen(&upstream, &hub, "cut-off", MESSAGES).await;
    callback.settle_next([Disposition::Reject]);
    callback.hold();
    let ticket = hub.send_c2d("cut-off", C2d::new("x")).expect("queued");
    callback.wait_for(|record| record.messages.len() == 1).await;
    hub.faults()
        .detach("cut-off", LinkKind::C2d, "amqp:link:detach-forced");
    // The hub gives it again when its own lock has lapsed.
    callback.wait_for(|record| record.messages.len() == 2).await;
    callback.release();
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    assert_eq!(ticket.delivery_count(), 2);
    let sent = upstream.send(&uplink(&device, "m")).await;
    sent.expect("the device's other links are as before");
    assert_eq!(hub.attaches("cut-off"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_for_a_slow_device_delays_no_neighbour_and_is_bounded_by_credit() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let (_, slow) = listen(&upstream, &hub, "flooded", MESSAGES).await;
    let (_, quick) = listen(&upstream, &hub, "neighbour", MESSAGES).await;
    slow.hold();
    let flood: Vec<_> = (0..50)
        .map(|n| {
            hub.send_c2d("flooded", C2d::new(format!("f-{n}")))
                .expect("queued")
        })
        .collect();
    slow.wait_for(|record| record.messages.len() == 8).await;
    for n in 0..20 {
        assert_eq!(deliver(&hub, "neighbour", &format!("m-{n}")).await, 1);
    }
    assert_eq!(quick.record().messages.len(), 20);
    assert_eq!(slow.record().messages.len(), 8, "the link's credit");
    slow.release();
    for ticket in flood {
        assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
        assert_eq!(ticket.delivery_count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_read_is_rejected_and_harms_nothing_else() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let (device, callback) = listen(&upstream, &hub, "device", Interest::COMMANDS).await;
    hub.faults().garble_next("device", LinkKind::C2d, 1);
    let poison = hub.send_c2d("device", C2d::new("x")).expect("queued");
    assert_eq!(poison.outcome().await, C2dOutcome::Rejected);
    assert_eq!(deliver(&hub, "device", "y").await, 1);
    assert_eq!(callback.record().messages.len(), 1);
    let answer = hub.call_method("device", "echo", "1", PATIENCE).await;
    assert_eq!(answer.expect("answered").status, 200);
    let sent = upstream.send(&uplink(&device, "m")).await;
    sent.expect("accepted");
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_only_speak_have_neither_task_nor_command_link() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    for n in 0..20 {
        let name = format!("speaker-{n}");
        let (device, _) = listen(&upstream, &hub, &name, Interest::NONE).await;
        let sent = upstream.send(&uplink(&device, "m")).await;
        sent.expect("accepted");
    }
    assert_eq!(upstream.stats().listening, 0);
    assert_eq!(hub.stats().connections[0].links, 20 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_always_listen_to_what_the_configuration_says() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.always = MESSAGES;
    let upstream = upstream(config);
    let (_, callback) = listen(&upstream, &hub, "speaker", Interest::NONE).await;
    hub.wait_messages("speaker").await;
    assert_eq!(deliver(&hub, "speaker", "x").await, 1);
    listen_with(&upstream, &hub, "speaker", METHODS, &callback).await;
    listen_with(&upstream, &hub, "speaker", Interest::NONE, &callback).await;
    assert_eq!(deliver(&hub, "speaker", "y").await, 1);
    assert_eq!(callback.record().messages.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeper_hears_for_a_while_after_it_has_spoken() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.after_uplink = Duration::from_millis(300);
    let upstream = upstream(config);
    let (device, callback) = listen(&upstream, &hub, "sleeper", Interest::NONE).await;
    for round in 0..2 {
        let text = format!("c-{round}");
        let waiting = hub.send_c2d("sleeper", C2d::new(text)).expect("queued");
        assert_eq!(waiting.outcome_now(), None);
        let outcome = speak_until(&upstream, &device, waiting.outcome()).await;
        assert_eq!(outcome, C2dOutcome::Completed);
        hub.wait_deaf("sleeper").await;
        until_nobody_listens(&upstream).await;
    }
    assert_eq!(callback.record().messages.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleepers_link_stays_while_a_message_has_no_verdict() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.after_uplink = Duration::from_millis(50);
    let upstream = upstream(config);
    let (device, callback) = listen(&upstream, &hub, "sleeper", Interest::NONE).await;
    callback.hold();
    let ticket = hub.send_c2d("sleeper", C2d::new("x")).expect("queued");
    let came = callback.wait_for(|record| !record.messages.is_empty());
    speak_until(&upstream, &device, came).await;
    // Longer than it listens for.
    sleep(Duration::from_millis(300)).await;
    callback.release();
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    assert_eq!(ticket.delivery_count(), 1);
    hub.wait_deaf("sleeper").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_left_unsettled_comes_when_it_is_back_without_waiting_for_a_lock() {
    let hub = hub().await;
    let first = upstream(config(&hub));
    let (device, callback) = listen(&first, &hub, "device", Interest::COMMANDS).await;
    callback.hold();
    // More than the credit: some are here, some with the hub.
    let tickets: Vec<_> = (0..12)
        .map(|n| {
            hub.send_c2d("device", C2d::new(format!("m-{n}")))
                .expect("queued")
        })
        .collect();
    promptly(callback.wait_for(|record| record.messages.len() == 8)).await;
    // Offline.
    listen_with(&first, &hub, "device", Interest::NONE, &callback).await;
    hub.wait_deaf("device").await;
    listen_with(&first, &hub, "device", MESSAGES, &callback).await;
    promptly(callback.wait_for(|record| record.messages.len() == 16)).await;
    // Detached: with it goes its connection.
    first.detach(&device).await.expect("detached");
    listen_with(&first, &hub, "device", MESSAGES, &callback).await;
    promptly(callback.wait_for(|record| record.messages.len() == 24)).await;
    // Closed, as a gateway that is started anew.
    let closed = first.close(Duration::from_secs(5)).await;
    closed.expect("closed in order");
    let second = upstream(config(&hub));
    callback.release();
    listen_with(&second, &hub, "device", MESSAGES, &callback).await;
    let settled = async {
        for ticket in &tickets {
            assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
        }
    };
    promptly(settled).await;
}

/// A gateway with room for one device.
async fn small_gateway(hub: &HubSimulator) -> (Gateway, MemoryDownstream, JoinSet<()>) {
    let policy = hub.policy_connection_string("device");
    let policy: ConnectionString = policy.parse().expect("a valid string");
    let Credential::Policy(policy) = policy.credential().clone() else {
        panic!("a policy's string");
    };
    let mut config = GatewayConfig::default();
    config.sessions.capacity = 1;
    let devices = MemoryDownstream::new();
    let gateway = Gateway::builder(AmqpUpstream::new(common::config(hub)).expect("valid"))
        .with_config(config)
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("memory", devices.clone())
        .build()
        .expect("a gateway");
    let mut run = JoinSet::new();
    let running = gateway.clone();
    run.spawn(async move {
        let ended = running.run(CancellationToken::new()).await;
        ended.expect("it runs until it is dropped");
    });
    (gateway, devices, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_a_device_that_was_evicted_comes_when_it_is_back() {
    let hub = hub().await;
    hub.add_devices(["a", "b"]);
    let (gateway, devices, _run) = small_gateway(&hub).await;
    let a = devices.connect(device_id("a")).await.expect("online");
    hub.wait_messages("a").await;
    let ticket = hub.send_c2d("a", C2d::new("x")).expect("queued");
    let command = a.next().await.expect("delivered");
    // It goes without a word, and is evicted by the next one that comes.
    drop((command, a));
    hub.wait_deaf("a").await;
    let b = devices.device(device_id("b")).await;
    assert_eq!(b.send("m").await, Settlement::Accepted);
    hub.wait_until(|stats| stats.attached_devices == 1).await;
    assert_eq!(gateway.stats().sessions.evicted, 1);
    let later = hub.send_c2d("a", C2d::new("y")).expect("queued");
    let a = devices.connect(device_id("a")).await.expect("online");
    let taken = async {
        for _ in 0..2 {
            a.next().await.expect("delivered").acknowledge();
        }
        assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
        assert_eq!(later.outcome().await, C2dOutcome::Completed);
    };
    promptly(taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_of_one_device_are_answered_in_any_order_each_with_its_own() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (_, callback) = listen(&upstream, &hub, "device", METHODS).await;
    callback.hold();
    let early = hub.call_method("device", "early", "1", PATIENCE);
    let late = async {
        callback.wait_for(|record| record.methods.len() == 1).await;
        // From here on whoever comes is answered at once; the first waits on.
        let quick = RecordingCallback::new();
        listen_with(&upstream, &hub, "device", METHODS, &quick).await;
        let answer = hub.call_method("device", "late", "2", PATIENCE).await;
        assert_eq!(answer.expect("answered").payload, "2");
        callback.release();
    };
    let (answer, ()) = tokio::join!(early, late);
    assert_eq!(answer.expect("answered").payload, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_answered_in_time_is_dropped_and_counted() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.method_timeout = Duration::from_millis(500);
    let upstream = upstream(config);
    let (_, callback) = listen(&upstream, &hub, "slow", METHODS).await;
    callback.hold();
    let within = Duration::from_secs(2);
    let silent = hub.call_method("slow", "m", "1", within).await;
    assert_eq!(silent, Err(MethodError::TimedOut));
    while upstream.stats().methods_late == 0 {
        tokio::task::yield_now().await;
    }
    callback.release();
    let answer = hub.call_method("slow", "m", "2", PATIENCE).await;
    assert_eq!(answer.expect("answered").payload, "2");
    assert_eq!(upstream.stats().methods_late, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_beyond_the_credit_wait_at_the_hub_and_are_answered_all() {
    let hub = hub().await;
    let mut config = one_lane(&hub);
    config.commands.credit = 2;
    let upstream = upstream(config);
    let (_, flooded) = listen(&upstream, &hub, "flooded", METHODS).await;
    listen(&upstream, &hub, "neighbour", METHODS).await;
    flooded.hold();
    let calls = (0..10).map(|n| {
        let hub = &hub;
        async move {
            let payload = n.to_string();
            let answer = hub
                .call_method("flooded", "m", payload.clone(), PATIENCE)
                .await;
            assert_eq!(answer.expect("answered").payload, payload);
        }
    });
    let calls = futures_util::future::join_all(calls);
    let others = async {
        flooded.wait_for(|record| record.methods.len() == 2).await;
        for n in 0..10 {
            let answer = hub
                .call_method("neighbour", "m", n.to_string(), PATIENCE)
                .await;
            answer.expect("answered");
        }
        assert_eq!(flooded.record().methods.len(), 2, "the link's credit");
        flooded.release();
    };
    tokio::join!(calls, others);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_method_links_is_answered_for_by_the_hub_at_once() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = listen(&upstream, &hub, "device", MESSAGES).await;
    let call = || promptly(hub.call_method("device", "m", "1", PATIENCE * 10));
    // 404103, as the hub has it.
    let offline = Err(MethodError::DeviceNotOnline);
    assert_eq!(call().await, offline);
    listen_with(&upstream, &hub, "device", METHODS, &callback).await;
    call().await.expect("answered");
    upstream.detach(&device).await.expect("detached");
    assert_eq!(call().await, offline);
    assert_eq!(callback.record().methods.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_made_up_for_a_device_that_goes() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = listen(&upstream, &hub, "gone", METHODS).await;
    callback.hold();
    let within = Duration::from_secs(2);
    let call = hub.call_method("gone", "m", "1", within);
    let leave = async {
        callback.wait_for(|record| record.methods.len() == 1).await;
        upstream.detach(&device).await.expect("detached");
        callback.release();
    };
    let (answer, ()) = tokio::join!(call, leave);
    assert_eq!(answer, Err(MethodError::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_none_is_answered_400_and_one_that_nobody_can_read_is_dropped() {
    let hub = hub().await;
    let upstream = upstream(one_lane(&hub));
    let (device, callback) = listen(&upstream, &hub, "device", Interest::COMMANDS).await;
    // Longer than any name of a method.
    let name = "m".repeat(101);
    let answer = hub.call_method("device", &name, "1", PATIENCE).await;
    assert_eq!(answer.expect("answered").status, 400);
    // As many as the credit: none of it is lost with them.
    hub.faults().garble_next("device", LinkKind::Methods, 8);
    for _ in 0..8 {
        let within = Duration::from_millis(20);
        let silent = hub.call_method("device", "m", "1", within).await;
        assert_eq!(silent, Err(MethodError::TimedOut));
    }
    let answer = hub.call_method("device", "m", "2", PATIENCE).await;
    assert_eq!(answer.expect("answered").status, 200);
    assert_eq!(callback.record().methods.len(), 1);
    assert_eq!(deliver(&hub, "device", "x").await, 1);
    let sent = upstream.send(&uplink(&device, "m")).await;
    sent.expect("accepted");
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_the_hub_does_not_answer_hold_up_no_message() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (_, callback) = listen(&upstream, &hub, "device", MESSAGES).await;
    hub.faults().withhold_attach("device");
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let attached = upstream.attach(identity, callback.shared()).await;
    attached.expect("the device speaks as before");
    assert_eq!(promptly(deliver(&hub, "device", "x")).await, 1);
    hub.faults().allow_attach("device");
}
