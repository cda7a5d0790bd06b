//! Twins of devices that miss what they are given, and of hubs that take no question for a while.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use common::{config, hub, upstream, wire, with_key};
use futures_util::future::join_all;
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    CloudCallback, CloudMessage, DesiredPatch, Disposition, ErrorKind, Interest, MethodCall,
    MethodReply, SessionEnd, TwinRequest, Upstream,
};
use serde_json::json;

/// Records what comes, and misses so many changes of the desired properties.
#[derive(Debug)]
struct Forgetful {
    record: RecordingCallback,
    misses: AtomicUsize,
}

#[async_trait]
impl CloudCallback for Forgetful {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        self.record.on_method(call).await
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        self.record.on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        let disposition = self.record.on_desired(patch).await;
        let less = |misses: usize| misses.checked_sub(1);
        match self.misses.fetch_update(Relaxed, Relaxed, less) {
            Ok(_) => Disposition::Abandon,
            Err(_) => disposition,
        }
    }

    async fn on_end(&self, end: SessionEnd) {
        self.record.on_end(end).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_its_device_missed_comes_again_with_all_there_is() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let record = RecordingCallback::new();
    let callback = Arc::new(Forgetful {
        record: record.clone(),
        misses: AtomicUsize::new(3),
    });
    let identity = with_key(&hub, "device").with_interest(Interest::NONE.with_desired(true));
    let attached = upstream.attach(identity, callback).await;
    attached.expect("attached");
    hub.wait_desired("device").await;
    let desire = |n: u32| {
        let version = hub.patch_desired("device", &json!({ format!("n-{n}"): n }));
        version.expect("a valid patch")
    };
    record.hold();
    let missed = desire(1);
    record.wait_for(|record| record.patches.len() == 1).await;
    // It builds on what the device is about to miss.
    let next = desire(2);
    record.release();
    record.wait_for(|record| record.patches.len() == 4).await;
    let last = desire(3);
    let given = record.wait_for(|record| record.patches.len() == 5).await;
    let given = given.patches;
    let versions: Vec<_> = given.iter().map(|p| (p.version, p.is_whole)).collect();
    let whole = (next, true);
    assert_eq!(
        versions,
        [(missed, false), whole, whole, whole, (last, false)]
    );
    let whole: serde_json::Value = serde_json::from_slice(&given[3].body).expect("JSON");
    assert_eq!((&whole["n-1"], &whole["n-2"]), (&json!(1), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_asked_in_time_is_not_asked_later() {
    let hub = hub().await;
    let mut config = config(&hub).with_wire(wire(|w| w.answer_timeout = Duration::from_secs(2)));
    config.commands.twin_requests = 8;
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    let attached = upstream.attach(identity, RecordingCallback::new().shared());
    attached.await.expect("attached");
    hub.faults().link_credit(Some(1));
    let report = async |name: &str| {
        let patch = json!({ name: true }).to_string();
        upstream
            .twin(&device, TwinRequest::PatchReported(patch.into()))
            .await
    };
    report("before").await.expect("reported");
    // The first takes the only credit, and that for the others comes too late.
    hub.faults().latency(Duration::from_secs(5));
    let names: Vec<_> = (0..8).map(|n| format!("n-{n}")).collect();
    for late in join_all(names.iter().map(|name| report(name))).await {
        assert_eq!(late.expect_err("no answer").kind(), ErrorKind::TimedOut);
    }
    hub.faults().latency(Duration::ZERO);
    while let Err(error) = report("after").await {
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    let reported = hub.reported("device");
    let stale = names.iter().filter(|name| !reported[name].is_null());
    assert!(stale.count() <= 1, "{reported}");
}
