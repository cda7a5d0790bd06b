//! What each layer does to time, order and counts. The suites run over them as well.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use gateway_core::credential::Credential;
use gateway_core::layer::{Layered, Limit, Observe, Retry, Timeout, UpstreamCounters};
use gateway_core::testkit::{MemoryUpstream, RecordingCallback};
use gateway_core::{
    Backoff, DeviceId, DeviceIdentity, ErrorKind, RetryConfig, TimeoutConfig, TwinRequest,
    Upstream, UpstreamError,
};
use support::{device, key, uplink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn attach(upstream: &dyn Upstream, device: &DeviceId) -> Result<(), UpstreamError> {
    let identity = DeviceIdentity::new(device.clone(), Credential::DeviceKey(key().into()));
    upstream
        .attach(identity, RecordingCallback::new().shared())
        .await
}

fn retry(budget: Duration) -> RetryConfig {
    let mut config = RetryConfig::default();
    config.budget = budget;
    config.backoff = Backoff::new(SECOND, 4 * SECOND).unwrap();
    config
}

#[tokio::test(start_paused = true)]
async fn what_failed_in_passing_is_tried_again_until_it_succeeds() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Layered::new(Retry::new(retry(60 * SECOND)), hub.clone());
    hub.set_down(true);
    let attaching = attach(&upstream, &a);
    let rise = async {
        sleep(10 * SECOND).await;
        hub.set_down(false);
    };
    let (attached, ()) = tokio::join!(attaching, rise);
    attached.unwrap();
    for kind in [
        ErrorKind::Disconnected,
        ErrorKind::Throttled,
        ErrorKind::TimedOut,
    ] {
        hub.reject_next(kind);
        upstream.send(&uplink(&a, "1")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_is_not_tried_again() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Layered::new(Retry::new(retry(60 * SECOND)), hub.clone());
    attach(&upstream, &a).await.unwrap();
    let started = Instant::now();
    for kind in [ErrorKind::Rejected, ErrorKind::TooLarge, ErrorKind::Other] {
        hub.reject_next(kind);
        let error = upstream.send(&uplink(&a, "1")).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
    hub.refuse(&a, ErrorKind::Unauthorized);
    let requests = hub.attach_requests(&a);
    assert!(attach(&upstream, &a).await.is_err());
    assert_eq!(hub.attach_requests(&a), requests + 1);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn retries_end_with_their_budget_and_zero_turns_them_off() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    hub.set_down(true);
    let started = Instant::now();
    let upstream = Layered::new(Retry::new(retry(30 * SECOND)), hub.clone());
    let error = attach(&upstream, &a).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    assert!(started.elapsed() >= 25 * SECOND && started.elapsed() <= 30 * SECOND);
    let (started, requests) = (Instant::now(), hub.attach_requests(&a));
    let upstream = Layered::new(Retry::new(retry(Duration::ZERO)), hub.clone());
    assert!(attach(&upstream, &a).await.is_err());
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(hub.attach_requests(&a), requests + 1);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_names_a_time_is_not_asked_before_it() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Layered::new(Retry::new(retry(30 * SECOND)), hub.clone());
    hub.throttle(Some(20 * SECOND));
    let (error, ()) = tokio::join!(attach(&upstream, &a), async {
        sleep(19 * SECOND).await;
        assert_eq!(hub.attach_requests(&a), 1);
    });
    // After 20 s it is asked once more; the time named then is past the budget.
    let error = error.unwrap_err();
    assert_eq!(error.retry_after(), Some(20 * SECOND));
    assert_eq!(hub.attach_requests(&a), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_names_a_time_beyond_all_is_not_asked_again_and_the_time_is_a_day() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Layered::new(Retry::new(retry(30 * SECOND)), hub.clone());
    hub.throttle(Some(Duration::MAX));
    let error = attach(&upstream, &a).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(24 * 3600 * SECOND));
    assert_eq!(hub.attach_requests(&a), 1);
}

#[tokio::test(start_paused = true)]
async fn each_operation_ends_with_its_time() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    attach(&hub, &a).await.unwrap();
    hub.set_latency(3600 * SECOND);
    let mut config = TimeoutConfig::default();
    (config.attach, config.send) = (SECOND, 2 * SECOND);
    (config.twin, config.detach) = (3 * SECOND, 4 * SECOND);
    let upstream = Layered::new(Timeout::new(config), hub);
    let started = Instant::now();
    let mut seen = 0;
    let mut check = |result: Result<(), UpstreamError>, seconds: u32| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        seen += seconds;
        assert_eq!(started.elapsed(), seen * SECOND);
    };
    check(attach(&upstream, &a).await, 1);
    check(upstream.send(&uplink(&a, "1")).await, 2);
    check(upstream.twin(&a, TwinRequest::Get).await.map(drop), 3);
    check(upstream.detach(&a).await, 4);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_are_on_their_way_and_the_rest_keep_their_order() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Arc::new(Layered::new(Limit::new(3), hub.clone()));
    attach(&upstream, &a).await.unwrap();
    hub.hold();
    let mut sends = JoinSet::new();
    for n in 0..10 {
        let (upstream, message) = (upstream.clone(), uplink(&a, &n.to_string()));
        sends.spawn(async move { upstream.send(&message).await });
        tokio::task::yield_now().await;
    }
    hub.wait_held(3).await;
    let more = timeout(SECOND, hub.wait_held(4)).await;
    assert!(more.is_err(), "a fourth came through");
    // A detach is never behind what it might free.
    upstream.detach(&device("b")).await.unwrap();
    hub.release();
    for sent in sends.join_all().await {
        sent.unwrap();
    }
    let ids: Vec<_> = hub
        .accepted()
        .into_iter()
        .map(|u| u.id.to_string())
        .collect();
    assert_eq!(ids, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_a_limit_is_closed_with_it() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let upstream = Layered::new(
        (Observe::new(Default::default()), Limit::new(1)),
        hub.clone(),
    );
    attach(&upstream, &a).await.unwrap();
    hub.hold();
    let (first, second) = (uplink(&a, "1"), uplink(&a, "2"));
    let (sent, waiting, closed) = tokio::join!(
        upstream.send(&first),
        upstream.send(&second),
        upstream.close(SECOND)
    );
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::Disconnected);
    assert_eq!(waiting.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn everything_that_passes_is_counted() {
    let (hub, a) = (MemoryUpstream::new(), device("a"));
    let counters = Arc::new(UpstreamCounters::default());
    let upstream = Layered::new(Observe::new(counters.clone()), hub.clone());
    attach(&upstream, &a).await.unwrap();
    hub.refuse(&device("b"), ErrorKind::Unauthorized);
    attach(&upstream, &device("b")).await.unwrap_err();
    upstream.send(&uplink(&a, "1")).await.unwrap();
    upstream.send(&uplink(&a, "2")).await.unwrap();
    upstream.send(&uplink(&device("b"), "1")).await.unwrap_err();
    upstream.twin(&a, TwinRequest::Get).await.unwrap();
    upstream
        .twin(&device("b"), TwinRequest::Get)
        .await
        .unwrap_err();
    upstream.detach(&a).await.unwrap();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed);
    assert_eq!(count(&counters.attached), 1);
    assert_eq!(count(&counters.attach_failed), 1);
    assert_eq!(count(&counters.sent), 2);
    assert_eq!(count(&counters.send_failed), 1);
    assert_eq!(
        (count(&counters.twin), count(&counters.twin_failed)),
        (1, 1)
    );
    assert_eq!(count(&counters.detached), 1);
}
