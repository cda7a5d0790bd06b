//! What devices say, and what the hub answers.

use std::time::Duration;

use gateway_core::{GatewayConfig, Settlement};
use gateway_downstream_lorawan::embed::LorawanConfig;
use gateway_downstream_lorawan::event::{Battery, Event, Log, LogLevel, Status};
use serde_json::json;
use tokio::time::timeout;

use super::{DEV_EUI, Network, WATCH, everybody, name, parsed, patient, uplink};

#[tokio::test(start_paused = true)]
async fn an_uplink_is_its_devices_message_and_the_hubs_verdict_comes_back() {
    let network = Network::start(everybody(|_| {}), patient());
    assert_eq!(network.events.uplink(uplink(4)).await, Settlement::Accepted);
    let accepted = network.hub.accepted();
    assert_eq!(accepted[0].device, name());
    assert_eq!(accepted[0].id.as_str(), "0101010101010101-00000000-4");
    assert_eq!(accepted[0].properties.get("event"), Some("uplink"));
    assert_eq!(parsed(&accepted[0].body)["data"], "qgA=");
}

#[tokio::test(start_paused = true)]
async fn without_credit_an_uplink_waits() {
    let mut gateway = GatewayConfig::default();
    gateway.max_in_flight = 1;
    let network = Network::start_with(everybody(|_| {}), patient(), gateway);
    network.hub.hold();
    let first = network.events.uplink(uplink(1));
    let second = network.events.uplink(uplink(2));
    let both = async { tokio::join!(first, second) };
    tokio::pin!(both);
    assert!(timeout(WATCH, &mut both).await.is_err());
    assert_eq!(network.gateway.stats().in_flight, 1);
    network.hub.release();
    assert_eq!(both.await, (Settlement::Accepted, Settlement::Accepted));
}

#[tokio::test(start_paused = true)]
async fn what_else_is_told_becomes_a_message_if_it_is_wanted() {
    let network = Network::start(everybody(|_| {}), patient());
    let status = Status::new(DEV_EUI, Battery::External, 7);
    let log = Log::new(DEV_EUI, LogLevel::Error, "UPLINK_MIC", "wrong MIC");
    for event in [Event::Log(log), Event::Status(status)] {
        assert_eq!(network.events.handle(event).await, Settlement::Accepted);
    }
    let accepted = network.hub.accepted();
    assert_eq!(accepted.len(), 1, "logs are not wanted by default");
    assert_eq!(
        parsed(&accepted[0].body)["status"],
        json!({"margin": 7, "battery": "external"})
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_of_class_a_is_deaf_again_when_its_window_has_passed() {
    let mut config = LorawanConfig::default();
    config.window = Duration::from_millis(50);
    let network = Network::start(everybody(|_| {}), config);
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.hub.wait_deaf(&name()).await;
}
