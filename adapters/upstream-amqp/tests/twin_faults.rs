//! Twins of devices that miss what they are given, and of hubs that take no question for a while.

mod common;

use std::time::Duration;

use common::{attach, attach_with, config, hub, limited, upstream, wire, with_key};
use futures_util::future::{join, join_all};
use gateway_core::{Disposition, ErrorKind, Interest, TwinRequest, Upstream};
use serde_json::json;
use tokio::time::{sleep, timeout};

/// Far more than a change needs that is fetched.
const PROMPT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_its_device_missed_comes_again_with_all_there_is() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(Interest::NONE.with_desired(true));
    let callback = attach(&upstream, &identity).await;
    hub.wait_desired("device").await;
    let desire = |n: u32| {
        let version = hub.patch_desired("device", &json!({ format!("n-{n}"): n }));
        version.expect("a valid patch")
    };
    callback.hold();
    callback.settle_next_changes([Disposition::Abandon; 3]);
    let missed = desire(1);
    callback.wait_for(|record| record.patches.len() == 1).await;
    // It builds on what the device is about to miss.
    let next = desire(2);
    callback.release();
    callback.wait_for(|record| record.patches.len() == 4).await;
    let last = desire(3);
    let given = callback.wait_for(|record| record.patches.len() == 5).await;
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
async fn a_change_that_waited_when_its_device_stopped_to_listen_comes_when_it_listens_again() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let deaf = with_key(&hub, "device");
    let listening = deaf
        .clone()
        .with_interest(Interest::NONE.with_desired(true));
    let callback = attach(&upstream, &listening).await;
    hub.wait_desired("device").await;
    callback.hold();
    let desire = |n: u32| {
        let version = hub.patch_desired("device", &json!({ format!("n-{n}"): n }));
        version.expect("a valid patch")
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
    let given = callback.wait_for(|record| record.patches.len() == 2).await;
    let given = &given.patches[1];
    assert_eq!((given.version, given.is_whole), (last, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_before_a_device_stopped_to_listen_is_no_answer_when_it_listens_again() {
    let hub = hub().await;
    let mut config = config(&hub);
    // The device reads its twin, listens, and listens again: the third waits.
    config.budget.twins = limited(0.25, 2.0);
    let upstream = upstream(config);
    let deaf = with_key(&hub, "device");
    let listening = deaf
        .clone()
        .with_interest(Interest::NONE.with_desired(true));
    let callback = attach(&upstream, &deaf).await;
    let read = upstream.twin(&deaf.device, TwinRequest::Get).await;
    read.expect("answered");
    // What the hub answers comes when the device listens again.
    hub.faults().latency(Duration::from_secs(2));
    attach_with(&upstream, &listening, &callback).await;
    hub.wait_desired("device").await;
    // The hub has been asked for the twin by now, or will not be: either way it says nothing of the change.
    sleep(Duration::from_millis(200)).await;
    attach_with(&upstream, &deaf, &callback).await;
    hub.wait_deaf("device").await;
    let missed = hub.patch_desired("device", &json!({ "n": 1 }));
    let missed = missed.expect("a valid patch");
    attach_with(&upstream, &listening, &callback).await;
    let given = callback.wait_for(|record| !record.patches.is_empty());
    let given = timeout(PROMPT, given).await.expect("it is fetched").patches;
    assert_eq!((given[0].version, given[0].is_whole), (missed, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_asked_in_time_is_not_asked_later() {
    asks_nothing_late(Duration::from_secs(2), Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_any_more_is_not_asked_later() {
    asks_nothing_late(Duration::from_secs(20), Duration::from_secs(2)).await;
}

/// Reports more than the hub gives credit for, until the client's time is up or the device's own.
async fn asks_nothing_late(answer_timeout: Duration, patience: Duration) {
    let hub = hub().await;
    let mut config = config(&hub).with_wire(wire(|w| w.answer_timeout = answer_timeout));
    config.commands.twin_requests = 8;
    let upstream = upstream(config);
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    attach(&upstream, &identity).await;
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
    let late = join_all(names.iter().map(|name| timeout(patience, report(name))));
    for late in late.await.into_iter().flatten() {
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_reports_is_not_shown_while_it_waits() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    attach(&upstream, &identity).await;
    hub.faults().withhold_attach("device");
    let report = TwinRequest::PatchReported(r#"{"secret":"s3cr3t"}"#.into());
    let asked = timeout(Duration::from_millis(200), upstream.twin(&device, report));
    let (asked, shown) = join(asked, async {
        sleep(Duration::from_millis(100)).await;
        format!("{upstream:?}")
    })
    .await;
    asked.expect_err("it waits");
    assert!(
        shown.contains("Ask") && !shown.contains("s3cr3t"),
        "{shown}"
    );
}
