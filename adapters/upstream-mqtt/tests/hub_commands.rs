//! Messages, methods and twins beyond what every upstream must do.

#[path = "common/hub.rs"]
mod common;
#[path = "common/misses.rs"]
mod misses;
#[path = "common/mute_hub.rs"]
mod mute_hub;

use std::time::Duration;

use bytes::Bytes;
use common::{
    attach, attach_with, config, plain_hub, send_until_ok, uplink, upstream, with_key, with_policy,
};
use futures_util::future::join_all;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Disposition, ErrorKind, Interest, MethodReply, TwinRequest, Upstream};
use hub_simulator::{C2d, C2dOutcome};
use misses::Misses;
use mute_hub::MuteHub;
use serde_json::json;
use tokio::time::{sleep, timeout};

const MESSAGES: Interest = Interest::NONE.with_messages(true);
const METHODS: Interest = Interest::NONE.with_methods(true);
const DESIRED: Interest = Interest::NONE.with_desired(true);

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_counts_here_since_the_hub_cannot_be_told() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let callback = RecordingCallback::new();
    callback.settle_next([Disposition::Reject]);
    let identity = with_key(&hub, "device").with_interest(MESSAGES);
    attach_with(&upstream, &identity, &callback).await;
    let ticket = hub.send_c2d("device", C2d::new("no")).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    while upstream.stats().messages_rejected == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_callback_panics_comes_again() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use async_trait::async_trait;
    use gateway_core::{CloudCallback, CloudMessage, DesiredPatch, MethodCall, SessionEnd};

    #[derive(Debug)]
    struct PanicsOnce(AtomicBool);

    #[async_trait]
    impl CloudCallback for PanicsOnce {
        async fn on_method(&self, _: MethodCall) -> MethodReply {
            MethodReply::new(200, "")
        }
        async fn on_message(&self, message: CloudMessage) -> Disposition {
            assert!(self.0.swap(true, SeqCst), "the first time");
            assert_eq!(message.delivery_count, 1);
            Disposition::Complete
        }
        async fn on_desired(&self, _: DesiredPatch) -> Disposition {
            Disposition::Complete
        }
        async fn on_end(&self, _: SessionEnd) {}
    }

    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(MESSAGES);
    let callback = Arc::new(PanicsOnce(AtomicBool::new(false)));
    let attached = upstream.attach(identity, callback).await;
    attached.expect("attached");
    let ticket = hub.send_c2d("device", C2d::new("x")).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_keeps_its_properties() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(MESSAGES);
    let callback = attach(&upstream, &identity).await;
    let message = C2d::new("x")
        .with_message_id("m 1")
        .with_correlation_id("c/2")
        .with_property("größe", "23 °C & more")
        .with_property("empty", "");
    let ticket = hub.send_c2d("device", message).expect("taken");
    assert_eq!(ticket.outcome().await, C2dOutcome::Completed);
    let record = callback.record();
    let message = &record.messages[0];
    assert_eq!(message.id.as_deref(), Some("m 1"));
    assert_eq!(message.system.correlation_id.as_deref(), Some("c/2"));
    assert_eq!(message.properties.get("größe"), Some("23 °C & more"));
    assert_eq!(message.properties.get("empty"), Some(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_methods_is_answered_and_one_without_an_answer_is_counted() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.commands.method_timeout = Duration::from_millis(200);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(METHODS);
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("device").await;
    let call = |n: usize| hub.call_method("device", "echo", n.to_string(), Duration::from_secs(30));
    let answers = join_all((0..30).map(call)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        let answer = answer.expect("answered");
        assert_eq!(
            (answer.status, &answer.payload[..]),
            (200, n.to_string().as_bytes())
        );
    }
    callback.hold();
    let unanswered = hub.call_method("device", "late", "", Duration::from_secs(1));
    assert!(unanswered.await.is_err());
    while upstream.stats().methods_late == 0 {
        tokio::task::yield_now().await;
    }
    callback.release();
    let answer = call(7).await.expect("the next is answered");
    assert_eq!(answer.payload, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn twin_requests_side_by_side_get_their_own_answers_and_a_bad_one_the_hubs_words() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let _callback = attach(&upstream, &identity).await;
    let patch = |n: usize| {
        let patch = Bytes::from(format!("{{\"n{n}\":{n}}}"));
        upstream.twin(&device, TwinRequest::PatchReported(patch))
    };
    let mut versions: Vec<_> = join_all((0..10).map(patch))
        .await
        .into_iter()
        .map(|reply| reply.expect("patched").version.expect("a version"))
        .collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 10, "{versions:?}");
    let reply = upstream.twin(&device, TwinRequest::Get).await;
    let twin = reply.expect("read").twin().expect("a twin");
    assert_eq!(twin.reported.read::<u32>("n7").expect("a number"), Some(7));
    let bad = TwinRequest::PatchReported(Bytes::from_static(b"no JSON"));
    let refused = upstream.twin(&device, bad).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Rejected);
    let words = std::error::Error::source(&refused)
        .expect("a source")
        .to_string();
    assert!(
        words.contains("400") && words.contains("not JSON"),
        "{words}"
    );
    let crowd = join_all((0..200).map(patch)).await;
    let crowded = crowd.into_iter().filter_map(Result::err);
    for error in crowded {
        assert_eq!(error.kind(), ErrorKind::Throttled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_were_missed_come_as_one_whole_set_and_once() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(DESIRED);
    let callback = attach(&upstream, &identity).await;
    hub.wait_desired("device").await;
    hub.patch_desired("device", &json!({"a": 1}))
        .expect("a patch");
    let record = callback.wait_for(|record| !record.patches.is_empty()).await;
    let first = record.patches[0].version;
    // It does not come back before it has missed something.
    hub.faults().withhold_attach("device");
    hub.faults().cut_all();
    hub.wait_until(|stats| stats.attached_devices == 0).await;
    hub.patch_desired("device", &json!({"b": 2}))
        .expect("a patch");
    let missed = hub.patch_desired("device", &json!({"a": null}));
    let missed = missed.expect("a patch");
    hub.faults().allow_attach("device");
    hub.faults().cut_all();
    let record = callback.wait_for(|record| record.patches.len() > 1).await;
    let whole = &record.patches[1];
    assert!(whole.is_whole && whole.version == missed && missed > first);
    let properties = whole.properties().expect("an object");
    assert_eq!(
        (properties.get("a"), properties.get("b")),
        (None, Some("2"))
    );
    // Nothing was missed this time.
    hub.faults().cut_all();
    hub.wait_desired("device").await;
    let last = hub.patch_desired("device", &json!({"c": 3}));
    let last = last.expect("a patch");
    let record = callback
        .wait_for(|record| record.patches.iter().any(|patch| patch.version == last))
        .await;
    assert_eq!(record.patches.len(), 3, "{:?}", record.patches);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waited_when_its_device_stopped_to_listen_comes_when_it_listens_again() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let deaf = with_key(&hub, "device");
    let listening = deaf.clone().with_interest(DESIRED);
    let callback = attach(&upstream, &listening).await;
    hub.wait_desired("device").await;
    callback.hold();
    let desire = |n: u32| {
        let version = hub.patch_desired("device", &json!({ format!("n-{n}"): n }));
        version.expect("a patch")
    };
    desire(1);
    callback.wait_for(|record| record.patches.len() == 1).await;
    let last = desire(2);
    // It waits behind the first by now, or is not here yet: either way the device lacks it.
    sleep(Duration::from_millis(200)).await;
    attach_with(&upstream, &deaf, &callback).await;
    hub.wait_deaf("device").await;
    attach_with(&upstream, &listening, &callback).await;
    hub.wait_desired("device").await;
    callback.release();
    let record = callback.wait_for(|record| record.patches.len() == 2).await;
    let given = &record.patches[1];
    assert_eq!((given.version, given.is_whole), (last, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_back_deaf_to_a_session_that_listened_hears_nothing() {
    let hub = plain_hub().await;
    let before = upstream(config(&hub));
    let callback = RecordingCallback::new();
    let identity = with_key(&hub, "device");
    let listening = identity.clone().with_interest(Interest::ALL);
    attach_with(&before, &listening, &callback).await;
    hub.wait_methods("device").await;
    before.close(Duration::from_secs(5)).await.expect("closed");
    hub.wait_deaf("device").await;
    // The hub has kept the session, and what it was subscribed to.
    let after = upstream(config(&hub));
    attach_with(&after, &identity, &callback).await;
    hub.wait_deaf("device").await;
    let late = hub.call_method("device", "m", "", Duration::from_secs(10));
    assert!(late.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_could_not_be_told_is_told_on_the_next_connection() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let callback = RecordingCallback::new();
    let deaf = with_key(&hub, "device");
    let listening = deaf.clone().with_interest(Interest::ALL);
    attach_with(&upstream, &listening, &callback).await;
    let links = || {
        upstream
            .explain(&deaf.device)
            .map_or(0, |device| device.links.len())
    };
    // The hub knows of a subscription a moment before the gateway knows that.
    while links() < 4 {
        tokio::task::yield_now().await;
    }
    hub.faults().freeze_all();
    let attached = upstream.attach(deaf.clone(), callback.shared()).await;
    attached.expect("the hub need not be asked");
    // Nothing shows that the word is on its way to a hub that does not read.
    sleep(Duration::from_millis(200)).await;
    hub.faults().cut_all();
    hub.faults().thaw();
    send_until_ok(&upstream, &uplink(&deaf.device, "back")).await;
    let told = timeout(Duration::from_secs(30), hub.wait_deaf("device"));
    told.await.expect("the hub is told again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_waited_out_its_time_is_not_begun() {
    let hub = plain_hub().await;
    let mut config = config(&hub);
    config.commands.credit = 1;
    config.commands.method_timeout = Duration::from_millis(300);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device").with_interest(Interest::COMMANDS);
    let callback = attach(&upstream, &identity).await;
    hub.wait_methods("device").await;
    hub.wait_messages("device").await;
    callback.hold();
    let patience = Duration::from_secs(3);
    let first = hub.call_method("device", "first", "", patience);
    let lost = async {
        callback.wait_for(|record| !record.methods.is_empty()).await;
        let second = hub.call_method("device", "second", "", patience);
        let lost = async {
            // What comes behind it on its connection is there.
            hub.send_c2d("device", C2d::new("behind")).expect("taken");
            callback
                .wait_for(|record| !record.messages.is_empty())
                .await;
            hub.faults().withhold_attach("device");
            hub.faults().cut_all();
            while upstream.stats().methods_late == 0 {
                tokio::task::yield_now().await;
            }
            // The second came a moment after the first.
            sleep(Duration::from_millis(300)).await;
            hub.faults().allow_attach("device");
            hub.faults().cut_all();
            callback.release();
            while upstream.stats().methods_late < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(second, lost).0
    };
    let (first, second) = tokio::join!(first, lost);
    assert!(
        first.is_err() && second.is_err(),
        "their connection was cut"
    );
    let methods = callback.record().methods;
    assert_eq!(methods.len(), 1, "{methods:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twin_request_ends_with_the_connection_that_it_was_made_on() {
    let (hub, mute) = (plain_hub().await, MuteHub::start().await);
    let mut config = config(&hub).with_address(mute.address.ip().to_string(), mute.address.port());
    config.reconnect.drain = Duration::from_millis(100);
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let callback = attach(&upstream, &identity).await;
    let request = upstream.twin(&device, TwinRequest::Get);
    let replaced = async {
        // Nothing shows that it waits for the answer.
        sleep(Duration::from_millis(200)).await;
        let other = upstream.attach(with_policy(&hub, "device"), callback.shared());
        other.await.expect("another connection");
    };
    let both = async { tokio::join!(request, replaced).0 };
    let lost = timeout(Duration::from_secs(10), both).await;
    let lost = lost.expect("it need not wait").expect_err("nobody answers");
    assert_eq!(lost.kind(), ErrorKind::Disconnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_device_missed_comes_again_with_all_and_nothing_builds_on_it() {
    let hub = plain_hub().await;
    let upstream = upstream(config(&hub));
    let callback = Misses::new(2);
    let identity = with_key(&hub, "device").with_interest(DESIRED);
    let attached = upstream.attach(identity, callback.clone()).await;
    attached.expect("attached");
    hub.wait_desired("device").await;
    let missed = hub.patch_desired("device", &json!({"a": 1}));
    let missed = missed.expect("a patch");
    let record = &callback.record;
    record.wait_for(|record| record.patches.len() == 3).await;
    let next = hub.patch_desired("device", &json!({"b": 2}));
    let next = next.expect("a patch");
    record.wait_for(|record| record.patches.len() == 4).await;
    let patches = record.record().patches.into_iter();
    let patches: Vec<_> = patches
        .map(|patch| (patch.version, patch.is_whole))
        .collect();
    assert_eq!(
        patches,
        [
            (missed, false),
            (missed, true),
            (missed, true),
            (next, false)
        ]
    );
}
