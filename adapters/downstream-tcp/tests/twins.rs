//! Twins, as a device over JSON lines sees them.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use gateway_core::Interest;
use gateway_downstream_tcp::{TcpConfig, TcpDownstream};
use serde_json::{Value, json};
use support::{Device, Running, SECRET, config, device};
use tokio::time::timeout;

/// How long a test looks for something that must not happen.
const WATCH: Duration = Duration::from_millis(200);

impl Running {
    /// Connects a device that the hub sees listen for desired changes.
    async fn follower(&self, name: &str) -> Device {
        let mut client = self.dial().await;
        let interest = json!({"desired": true});
        let hello = json!({"type": "hello", "id": name, "secret": SECRET, "interest": interest});
        client.say(hello).await;
        assert_eq!(client.hear().await["type"], "welcome");
        self.hub.wait_listening(&device(name), Interest::ALL).await;
        client
    }

    async fn start_without_retries(config: TcpConfig) -> Self {
        Self::start_with(TcpDownstream::builder(config), |config| {
            config.retry.budget = Duration::ZERO;
        })
        .await
    }

    async fn desire(&self, name: &str, patch: &str) -> u64 {
        let version = self.hub.patch_desired(&device(name), patch).await;
        version.unwrap()
    }
}

impl Device {
    async fn reported(&mut self) -> Value {
        self.say(json!({"type": "twin_get", "id": "look"})).await;
        let mut twin = self.hear().await;
        assert_eq!(
            (&twin["type"], &twin["id"]),
            (&json!("twin"), &json!("look"))
        );
        let mut reported = twin["body"]["reported"].take();
        reported.as_object_mut().unwrap().remove("$version");
        reported
    }
}

#[tokio::test]
async fn a_change_acknowledged_in_short_is_reported_as_services_expect() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.follower("dev1").await;
    let version = running
        .desire("dev1", r#"{"rate":5,"fan":{"__t":"c","speed":2}}"#)
        .await;
    assert_eq!(dev1.hear().await["version"], version);
    dev1.say(json!({"type": "desired_ack", "id": "a", "version": version, "description": "done"}))
        .await;
    let patched = dev1.hear().await;
    assert_eq!(
        (&patched["type"], &patched["id"]),
        (&json!("twin_patched"), &json!("a"))
    );
    let acknowledged = |value| json!({"value": value, "ac": 200, "av": version, "ad": "done"});
    assert_eq!(
        dev1.reported().await,
        json!({"rate": acknowledged(5), "fan": {"__t": "c", "speed": acknowledged(2)}})
    );
    running.end().await;
}

#[tokio::test]
async fn a_device_hears_of_desired_changes_only_if_it_said_so() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    let name = device("dev1");
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    running.desire("dev1", r#"{"rate":5}"#).await;
    dev1.works("the first that it hears").await;
    dev1.say(json!({"type": "twin_get"})).await;
    assert_eq!(dev1.hear().await["body"]["desired"]["rate"], 5);
    running.end().await;
}

#[tokio::test]
async fn the_last_of_many_reports_stays_though_the_hub_had_to_be_asked_again() {
    const REPORTS: u64 = 8;
    let mut config = config(&["dev1"]);
    config.limits.window = 16;
    let running = Running::start(config).await;
    let mut dev1 = running.follower("dev1").await;
    running.hub.throttle(Some(Duration::from_millis(1)));
    for n in 1..=REPORTS {
        dev1.say(json!({"type": "twin_patch", "id": n, "patch": {"n": n}}))
            .await;
    }
    dev1.say(json!({"type": "ping"})).await;
    assert_eq!(dev1.hear().await["type"], "pong", "all are on their way");
    running.hub.throttle(None);
    for n in 1..=REPORTS {
        let patched = json!({"type": "twin_patched", "id": n.to_string(), "version": n});
        assert_eq!(dev1.hear().await, patched);
    }
    assert_eq!(dev1.reported().await, json!({"n": REPORTS}));
    running.end().await;
}

#[tokio::test]
async fn a_full_window_of_twin_requests_stops_the_reading() {
    let mut config = config(&["dev1"]);
    config.limits.window = 2;
    let running = Running::start(config).await;
    let mut dev1 = running.follower("dev1").await;
    running.hub.set_latency(Duration::from_secs(3600));
    for id in ["a", "b", "c"] {
        dev1.say(json!({"type": "twin_get", "id": id})).await;
    }
    dev1.say(json!({"type": "ping"})).await;
    let early = timeout(WATCH, dev1.hear()).await;
    assert!(early.is_err(), "{early:?}");
    running.hub.set_latency(Duration::ZERO);
    running.hub.cut();
    let mut heard = Vec::new();
    for _ in 0..4 {
        let message = dev1.hear().await;
        heard.push(message["id"].as_str().unwrap_or("pong").to_owned());
    }
    heard.retain(|id| id != "pong");
    assert_eq!(heard, ["a", "b", "c"]);
    running.end().await;
}

#[tokio::test]
async fn a_twin_request_that_the_hub_does_not_take_now_is_to_be_asked_again() {
    let running = Running::start_without_retries(config(&["dev1"])).await;
    let mut dev1 = running.follower("dev1").await;
    running.hub.throttle(Some(Duration::from_millis(1500)));
    for kind in ["twin_get", "twin_patch"] {
        dev1.say(json!({"type": kind, "id": kind, "patch": {"a": 1}}))
            .await;
        assert_eq!(
            dev1.hear().await,
            json!({"type": "nack", "id": kind, "reason": "throttled", "retry_after_ms": 1500})
        );
    }
    running.hub.throttle(None);
    assert_eq!(dev1.reported().await, json!({}));
    running.end().await;
}
