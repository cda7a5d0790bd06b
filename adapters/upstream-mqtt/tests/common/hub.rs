//! A hub that speaks MQTT, and an upstream, for tests.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

use std::sync::Arc;

use gateway_core::governor::Rate;
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream};
use hub_simulator::HubSimulator;

pub(crate) use hub_fixture::*;

/// Reaches a hub quickly again after a cut, whatever the default says for real networks.
pub(crate) fn config(hub: &HubSimulator) -> MqttHubConfig {
    let address = hub.mqtts_addr();
    let config = MqttHubConfig::new(HOST).with_address(address.ip().to_string(), address.port());
    let mut config = match hub.ca_pem() {
        Some(pem) => config.with_ca_pem(pem),
        None => config.with_tls(false),
    };
    config.reconnect.backoff = backoff(10, 200);
    config.commands.abandon = backoff(10, 200);
    config.commands.refetch = backoff(10, 200);
    config.budget.connects = Rate::Unlimited;
    config
}

pub(crate) fn upstream(config: MqttHubConfig) -> Arc<MqttHubUpstream> {
    Arc::new(MqttHubUpstream::new(config).expect("a valid configuration"))
}
