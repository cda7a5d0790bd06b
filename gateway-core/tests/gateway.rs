//! Building, running and stopping a gateway.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::{MemoryDownstream, MemoryUpstream};
use gateway_core::{
    Announcement, BuildError, DEFAULT_RETRY_AFTER, Delivered, Downlink, Downstream,
    DownstreamError, ErrorKind, Gateway, GatewayConfig, RunError, ServeContext, Settlement,
};
use support::{Harness, device, policy, soon};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const LATER: Settlement = Settlement::RetryLater(DEFAULT_RETRY_AFTER);

#[test]
fn a_gateway_that_cannot_work_is_not_built() {
    let builder = || Gateway::builder(MemoryUpstream::new());
    let error = builder().build().unwrap_err();
    assert!(matches!(error, BuildError::NoCredentials), "{error}");

    let twice = builder()
        .with_credentials(policy())
        .with_downstream("tcp", MemoryDownstream::new())
        .with_downstream("coap", MemoryDownstream::new())
        .with_downstream("tcp", MemoryDownstream::new());
    let error = twice.build().unwrap_err();
    assert!(matches!(&error, BuildError::DuplicateDownstream(name) if name == "tcp"));

    let mut config = GatewayConfig::default();
    config.sessions.capacity = 0;
    let error = builder()
        .with_credentials(policy())
        .with_config(config)
        .build();
    match error.unwrap_err() {
        BuildError::Config(error) => assert_eq!(error.key(), "sessions.capacity"),
        other => panic!("{other}"),
    }
}

/// Sends a message of each of some devices and waits until the hub holds them all.
async fn in_flight(run: &Harness, count: usize) -> JoinSet<Settlement> {
    run.hub.hold();
    let mut sends = JoinSet::new();
    for n in 0..count {
        let device = run.devices.device(device(&format!("d{n}"))).await;
        sends.spawn(async move { device.send("x").await });
    }
    run.hub.wait_held(count).await;
    sends
}

#[tokio::test(start_paused = true)]
async fn shutdown_settles_what_is_in_flight() {
    let mut run = Harness::start(|_| {});
    let sends = in_flight(&run, 3).await;
    run.shutdown.cancel();
    let late = run.devices.device(device("late")).await;
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(late.send("x").await, LATER);
    let online = run.online(Announcement::new(device("late"))).await;
    assert_eq!(online.unwrap_err(), ErrorKind::Closed);
    run.hub.release();
    let report = soon(run.ended()).await.unwrap();
    assert_eq!((report.settled, report.abandoned), (3, 0));
    assert!(!report.forced);
    assert_eq!(sends.join_all().await, [Settlement::Accepted; 3]);
    assert_eq!(run.hub.attached_devices(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_forced_after_the_grace_and_nobody_is_told_accepted() {
    let mut run = Harness::start(|config| config.timeouts.send = Duration::from_secs(1000));
    let sends = in_flight(&run, 3).await;
    let started = Instant::now();
    run.shutdown.cancel();
    let grace = GatewayConfig::default().shutdown_grace;
    sleep(grace / 2).await;
    assert_eq!(run.gateway.stats().in_flight, 3);
    let report = soon(run.ended()).await.unwrap();
    assert_eq!((report.settled, report.abandoned), (0, 3));
    assert!(report.forced);
    assert!(started.elapsed() >= grace && started.elapsed() < 2 * grace);
    assert_eq!(sends.join_all().await, [LATER; 3]);
    run.hub.release();
    assert!(run.hub.accepted().is_empty());
}

#[derive(Debug)]
enum Broken {
    Fails,
    Panics,
    /// Takes this long to end.
    Lingers(Duration),
}

#[async_trait]
impl Downstream for Broken {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        match self {
            Self::Fails => Err(DownstreamError::new(ErrorKind::Other, "bind")),
            Self::Panics => panic!("as a test wants it"),
            Self::Lingers(time) => {
                context.shutdown.cancelled().await;
                tokio::time::sleep(*time).await;
                Ok(())
            }
        }
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        Err(DownstreamError::new(ErrorKind::UnknownDevice, "send"))
    }
}

fn with(broken: Broken) -> Harness {
    Harness::build(|_| {}, |hub| hub, |b| b.with_downstream("broken", broken))
}

#[tokio::test(start_paused = true)]
async fn a_downstream_that_cannot_serve_stops_the_gateway() {
    let mut run = with(Broken::Fails);
    match soon(run.ended()).await.unwrap_err() {
        RunError::Downstream { name, source } => {
            assert_eq!(name, "broken");
            assert_eq!(source.kind(), ErrorKind::Other);
        }
        other => panic!("{other}"),
    }
    let mut run = with(Broken::Panics);
    let error = soon(run.ended()).await.unwrap_err();
    assert!(matches!(error, RunError::Panicked), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_downstream_that_lingers_is_cut_off_after_the_grace() {
    let mut run = with(Broken::Lingers(Duration::from_secs(5)));
    run.shutdown.cancel();
    assert!(!soon(run.ended()).await.unwrap().forced);
    let mut run = with(Broken::Lingers(Duration::from_secs(500)));
    let started = Instant::now();
    run.shutdown.cancel();
    assert!(soon(run.ended()).await.unwrap().forced);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_runs_once() {
    let mut run = Harness::start(|_| {});
    run.devices.ingress().await;
    let again = run.gateway.run(CancellationToken::new());
    let error = soon(again).await.unwrap_err();
    assert!(matches!(error, RunError::Ended), "{error}");
    run.shutdown.cancel();
    run.ended().await.unwrap();
    let error = run.gateway.run(CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, RunError::Ended), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_downstreams_serves_its_embedder() {
    let gateway = Gateway::builder(MemoryUpstream::new())
        .with_credentials(policy())
        .build()
        .unwrap();
    assert!(gateway.ingress("none").is_none());
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    assert!(!gateway.run(shutdown).await.unwrap().forced);
}

#[tokio::test(start_paused = true)]
async fn the_counters_tell_what_happened() {
    let run = Harness::start(support::no_retries);
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    run.hub.reject_next(ErrorKind::TooLarge);
    let rejected = Settlement::Rejected(ErrorKind::TooLarge);
    assert_eq!(run.send("a", "2").await, rejected);
    run.hub.set_down(true);
    assert_eq!(run.send("b", "1").await, LATER);
    let stats = run.gateway.stats();
    assert_eq!(
        (stats.accepted, stats.rejected, stats.retry_later),
        (1, 1, 1)
    );
    assert_eq!(
        (stats.attached, stats.attach_failed, stats.detached),
        (1, 1, 0)
    );
    assert_eq!((stats.in_flight, stats.sessions.sessions), (0, 2));
}
