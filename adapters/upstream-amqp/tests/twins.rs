//! Twins: questions and their answers, and changes of the desired properties, each once.

mod common;

use std::error::Error;
use std::time::Duration;

use common::{config, hub, upstream, wire, with_key, with_policy};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    DesiredPatch, DeviceId, DeviceIdentity, ErrorKind, Interest, TwinReply, TwinRequest, Upstream,
    UpstreamError,
};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{HubSimulator, Limits, LinkKind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const DESIRED: Interest = Interest::NONE.with_desired(true);

async fn attach(upstream: &AmqpUpstream, identity: DeviceIdentity) -> DeviceId {
    follow(upstream, identity, &RecordingCallback::new()).await
}

async fn follow(
    upstream: &AmqpUpstream,
    identity: DeviceIdentity,
    callback: &RecordingCallback,
) -> DeviceId {
    let device = identity.device.clone();
    while let Err(error) = upstream.attach(identity.clone(), callback.shared()).await {
        assert!(error.is_retryable(), "{error}");
    }
    device
}

/// Attaches a device that listens to changes, and has it read its twin: from then on it is known
/// what it has.
async fn follower(
    upstream: &AmqpUpstream,
    hub: &HubSimulator,
    identity: DeviceIdentity,
) -> (DeviceId, RecordingCallback) {
    let callback = RecordingCallback::new();
    let device = follow(upstream, identity.with_interest(DESIRED), &callback).await;
    hub.wait_desired(device.as_str()).await;
    while let Err(error) = upstream.twin(&device, TwinRequest::Get).await {
        assert!(error.is_retryable(), "{error}");
    }
    (device, callback)
}

async fn report(
    upstream: &AmqpUpstream,
    device: &DeviceId,
    patch: &str,
) -> Result<TwinReply, UpstreamError> {
    let patch = TwinRequest::PatchReported(patch.to_owned().into());
    upstream.twin(device, patch).await
}

fn desire(hub: &HubSimulator, device: &DeviceId, patch: &Value) -> u64 {
    let version = hub.patch_desired(device.as_str(), patch);
    version.expect("a valid patch")
}

fn versions(patches: &[DesiredPatch]) -> Vec<(u64, bool)> {
    patches.iter().map(|p| (p.version, p.is_whole)).collect()
}

/// Waits until the device was given a version.
async fn until(callback: &RecordingCallback, version: u64) -> Vec<DesiredPatch> {
    let is_there = |patches: &[DesiredPatch]| patches.iter().any(|p| p.version == version);
    let record = callback.wait_for(|record| is_there(&record.patches)).await;
    record.patches
}

fn body(patch: &DesiredPatch) -> Value {
    serde_json::from_slice(&patch.body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_their_way_together_each_get_their_own_answer() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.twin_requests = 40;
    let upstream = upstream(config);
    let device = attach(&upstream, with_key(&hub, "device")).await;
    hub.faults().latency(Duration::from_millis(20));
    let mut asking = JoinSet::new();
    for n in 0..40 {
        let (upstream, device) = (upstream.clone(), device.clone());
        asking.spawn(async move {
            match n % 2 {
                0 => {
                    let patch = format!("{{\"n{n}\":{n}}}");
                    let reply = report(&upstream, &device, &patch).await.expect("reported");
                    assert!(reply.body.is_empty());
                    reply.version
                }
                _ => {
                    let reply = upstream.twin(&device, TwinRequest::Get).await;
                    let twin = reply.expect("read").twin().expect("a twin");
                    assert!(twin.desired.version() > 0);
                    None
                }
            }
        });
    }
    let mut versions: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 20, "each report has a version of its own");
    assert_eq!(hub.reported("device")["n38"], 38);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_hub_refuses_says_why_and_one_after_it_is_taken() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let device = attach(&upstream, with_key(&hub, "device")).await;
    let refused = report(&upstream, &device, "[]").await;
    let error = refused.expect_err("not an object");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let text = error.source().expect("the hub's words").to_string();
    assert!(text.contains("400: ") && !text.contains('{'), "{text}");
    report(&upstream, &device, "{}").await.expect("taken");
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_hub_throttles_says_so() {
    let limits = Limits::default().with_twin_report_status(429);
    let builder = HubSimulator::builder().with_limits(limits);
    let hub = builder.start().await.expect("the simulator starts");
    let upstream = upstream(config(&hub));
    let device = attach(&upstream, with_key(&hub, "device")).await;
    let error = report(&upstream, &device, "{}").await;
    let error = error.expect_err("throttled");
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!(error.is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_never_answered_fails_in_time_and_takes_no_room() {
    let hub = hub().await;
    let config = config(&hub).with_wire(wire(|wire| {
        wire.answer_timeout = Duration::from_secs(2);
    }));
    let mut config = config;
    config.commands.twin_requests = 1;
    let upstream = upstream(config);
    let device = attach(&upstream, with_key(&hub, "device")).await;
    for round in 0..3 {
        hub.faults().lose_next("device", LinkKind::Twin, 1);
        let lost = upstream.twin(&device, TwinRequest::Get).await;
        let error = lost.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::TimedOut, "round {round}");
        let mut answered = upstream.twin(&device, TwinRequest::Get).await;
        // Its room may be free a moment later than whoever asked knows.
        while let Err(error) = &answered {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "round {round}");
            answered = upstream.twin(&device, TwinRequest::Get).await;
        }
    }
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_refused_as_throttled_and_the_first_are_answered() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.twin_requests = 2;
    let upstream = upstream(config);
    let device = attach(&upstream, with_key(&hub, "device")).await;
    hub.faults().latency(Duration::from_secs(1));
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let (upstream, device) = (upstream.clone(), device.clone());
        asking.spawn(async move { upstream.twin(&device, TwinRequest::Get).await });
    }
    let (mut answered, mut refused) = (0, 0);
    for reply in asking.join_all().await {
        match reply {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Throttled);
                refused += 1;
            }
        }
    }
    assert!(answered >= 2 && refused >= 1, "{answered}, {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_can_read_costs_its_request_alone() {
    let hub = hub().await;
    let config = config(&hub).with_wire(wire(|wire| {
        wire.answer_timeout = Duration::from_secs(2);
    }));
    let upstream = upstream(config);
    let device = attach(&upstream, with_key(&hub, "device")).await;
    hub.faults().garble_next("device", LinkKind::Twin, 1);
    let garbled = upstream.twin(&device, TwinRequest::Get).await;
    assert_eq!(garbled.expect_err("lost").kind(), ErrorKind::TimedOut);
    let read = upstream.twin(&device, TwinRequest::Get).await;
    read.expect("read");
    assert_eq!(hub.attaches("device"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_nobody_asks_for_are_closed_and_opened_when_somebody_does() {
    let hub = hub().await;
    let mut config = config(&hub);
    config.commands.twin_idle = Duration::from_millis(100);
    let upstream = upstream(config);
    let device = attach(&upstream, with_key(&hub, "device")).await;
    for _ in 0..3 {
        let read = upstream.twin(&device, TwinRequest::Get).await;
        read.expect("read");
        // The token's pair and the telemetry link.
        hub.wait_until(|stats| stats.connections[0].links == 3)
            .await;
        while upstream.stats().listening > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_up_at_the_first_subscription_and_what_comes_then_comes_in_order() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(DESIRED);
    let before = desire(&hub, &identity.device, &json!({"old": 1}));
    let callback = RecordingCallback::new();
    let device = follow(&upstream, identity, &callback).await;
    hub.wait_desired("device").await;
    for n in 1..=5 {
        assert_eq!(desire(&hub, &device, &json!({"n": n})), before + n);
    }
    let patches = until(&callback, before + 5).await;
    // The first fetch may be answered in between: then all of it comes in the place of some.
    let mut last = before;
    for (version, is_whole) in versions(&patches) {
        let is_next = version == last + 1;
        assert!(
            is_next || is_whole && version > last,
            "{version} after {last}"
        );
        last = version;
    }
    assert_eq!(last, before + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_missed_over_a_cut_come_once_when_the_line_is_back() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    let first = desire(&hub, &device, &json!({"a": 1}));
    until(&callback, first).await;
    for round in 0..3 {
        let before = callback.record().patches.len();
        hub.faults().lose_next("device", LinkKind::Twin, 2);
        desire(&hub, &device, &json!({"b": round, "a": null}));
        let last = desire(&hub, &device, &json!({"c": round}));
        hub.faults().cut_all();
        let patches = until(&callback, last).await;
        assert_eq!(versions(&patches[before..]), [(last, true)]);
        let whole = body(&patches[before]);
        assert_eq!(whole, json!({"b": round, "c": round, "$version": last}));
    }
    // Live again, and nothing comes twice.
    hub.wait_desired("device").await;
    let before = callback.record().patches.len();
    let last = desire(&hub, &device, &json!({"d": 1}));
    let patches = until(&callback, last).await;
    assert_eq!(versions(&patches[before..]), [(last, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_without_changes_brings_none() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    for _ in 0..3 {
        hub.faults()
            .detach("device", LinkKind::Twin, "amqp:link:detach-forced");
        hub.wait_deaf("device").await;
        hub.wait_desired("device").await;
        // Behind the fetch on the same links.
        let read = upstream.twin(&device, TwinRequest::Get).await;
        read.expect("read");
    }
    let last = desire(&hub, &device, &json!({"a": 1}));
    let patches = until(&callback, last).await;
    assert_eq!(versions(&patches), [(last, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_missed_while_a_device_was_offline_come_when_it_listens_again() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let (device, callback) = follower(&upstream, &hub, identity.clone()).await;
    follow(&upstream, identity.clone(), &callback).await;
    hub.wait_deaf("device").await;
    let last = desire(&hub, &device, &json!({"a": 1}));
    follow(&upstream, identity.with_interest(DESIRED), &callback).await;
    let patches = until(&callback, last).await;
    assert_eq!(versions(&patches), [(last, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_versions_is_fetched() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    let first = desire(&hub, &device, &json!({"a": 1}));
    until(&callback, first).await;
    hub.faults().lose_next("device", LinkKind::Twin, 1);
    desire(&hub, &device, &json!({"b": 2}));
    let last = desire(&hub, &device, &json!({"c": 3}));
    let patches = until(&callback, last).await;
    assert_eq!(versions(&patches), [(first, false), (last, true)]);
    let whole = json!({"a": 1, "b": 2, "c": 3, "$version": last});
    assert_eq!(body(&patches[1]), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_and_a_fetch_without_answers_are_made_again() {
    let hub = hub().await;
    let config = config(&hub).with_wire(wire(|wire| {
        wire.answer_timeout = Duration::from_secs(2);
    }));
    let upstream = upstream(config);
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    let first = desire(&hub, &device, &json!({"a": 1}));
    until(&callback, first).await;
    // The change, and both answers over the next links.
    hub.faults().lose_next("device", LinkKind::Twin, 3);
    let last = desire(&hub, &device, &json!({"b": 2}));
    hub.faults()
        .detach("device", LinkKind::Twin, "amqp:link:detach-forced");
    let patches = until(&callback, last).await;
    assert_eq!(versions(&patches), [(first, false), (last, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_that_was_made_anew_comes_though_its_version_is_lower() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = follower(&upstream, &hub, with_policy(&hub, "device")).await;
    let mut last = 0;
    for n in 0..5 {
        last = desire(&hub, &device, &json!({"n": n}));
    }
    until(&callback, last).await;
    // Out of reach, the device is deleted and made anew.
    hub.faults().freeze_all();
    hub.remove_device("device");
    hub.add_device("device");
    let anew = desire(&hub, &device, &json!({"anew": true}));
    assert!(anew < last, "{anew}");
    hub.faults().cut_all();
    let is_anew = |patches: &[DesiredPatch]| patches.last().is_some_and(|p| p.version == anew);
    let record = callback.wait_for(|record| is_anew(&record.patches)).await;
    let newest = record.patches.last().expect("there is one");
    assert!(newest.is_whole);
    assert_eq!(body(newest)["anew"], true);
    let before = record.patches.len();
    let next = desire(&hub, &device, &json!({"n": 0}));
    let told = callback.wait_for(|record| record.patches.len() > before);
    assert_eq!(versions(&told.await.patches[before..]), [(next, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_no_changes_holds_up_no_answer_and_gets_all_in_the_end() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    callback.hold();
    let mut last = 0;
    // Far more than wait for it.
    for n in 0..50 {
        last = desire(&hub, &device, &json!({"n": n}));
    }
    for _ in 0..3 {
        let read = upstream
            .twin(&device, TwinRequest::PatchReported("{}".into()))
            .await;
        read.expect("reported");
    }
    callback.release();
    let patches = until(&callback, last).await;
    assert!(
        patches.is_sorted_by(|a, b| a.version < b.version),
        "{:?}",
        versions(&patches)
    );
    assert_eq!(body(patches.last().expect("there is one"))["n"], 49);
}

/// Numbers that follow from a seed (SplitMix64, Steele and others, 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// Makes one fault, or none.
fn fault(hub: &HubSimulator, dice: &mut Dice) -> String {
    let faults = hub.faults();
    match dice.below(8) {
        0 => {
            faults.cut_all();
            "cut".to_owned()
        }
        1 => {
            faults.detach("device", LinkKind::Twin, "amqp:link:detach-forced");
            "detach".to_owned()
        }
        2 => {
            faults.end_sessions(None, "amqp:session:window-violation");
            "end sessions".to_owned()
        }
        3 | 4 => {
            let count = 1 + dice.below(3);
            faults.lose_next("device", LinkKind::Twin, count);
            format!("lose {count}")
        }
        5 => {
            faults.garble_next("device", LinkKind::Twin, 1);
            "garble".to_owned()
        }
        _ => "none".to_owned(),
    }
}

async fn schedule(seed: u64) {
    let hub = HubSimulator::builder().with_tls(false).start().await;
    let hub = hub.expect("the simulator starts");
    let config = config(&hub).with_wire(wire(|wire| {
        wire.answer_timeout = Duration::from_secs(1);
    }));
    let upstream = upstream(config);
    let (device, callback) = follower(&upstream, &hub, with_key(&hub, "device")).await;
    let (mut dice, mut made) = (Dice(seed), Vec::new());
    for n in 0..30 {
        made.push(fault(&hub, &mut dice));
        desire(&hub, &device, &json!({"n": n}));
        if dice.below(3) == 0 {
            tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
        }
    }
    // Each that is lost is missed only when the next one comes.
    let whole = async {
        loop {
            let last = desire(&hub, &device, &json!({"last": true}));
            let there = tokio::time::timeout(Duration::from_millis(500), until(&callback, last));
            if let Ok(patches) = there.await {
                return patches;
            }
        }
    };
    let patches = tokio::time::timeout(Duration::from_secs(60), whole).await;
    let patches = patches.unwrap_or_else(|_| panic!("seed {seed}: {made:?}"));
    let grows = patches.is_sorted_by(|a, b| a.version < b.version);
    assert!(grows, "seed {seed}: {made:?}, {:?}", versions(&patches));
    let mut known = serde_json::Map::new();
    for (at, patch) in patches.iter().enumerate() {
        let follows = at == 0 || patch.version == patches[at - 1].version + 1;
        assert!(
            follows || patch.is_whole,
            "seed {seed}: {:?}",
            versions(&patches)
        );
        if patch.is_whole {
            known.clear();
        }
        known.extend(body(patch).as_object().expect("an object").clone());
    }
    assert_eq!(
        Value::Object(known),
        hub.twin("device")["desired"],
        "seed {seed}"
    );
    assert!(callback.record().ends.is_empty(), "seed {seed}: {made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_hub_does_versions_grow_and_all_that_is_desired_arrives() {
    let schedules: JoinSet<_> = (0..30).map(schedule).collect();
    schedules.join_all().await;
}
