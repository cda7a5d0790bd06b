//! A hub and an upstream for tests.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

use std::sync::Arc;

use gateway_core::governor::Rate;
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream, CommandConfig, PoolConfig, WireConfig};
use hub_simulator::HubSimulator;

pub(crate) use hub_fixture::*;

/// Reaches a hub quickly again after a cut, whatever the default says for real networks.
pub(crate) fn config(hub: &HubSimulator) -> AmqpConfig {
    let backoff = backoff(10, 200);
    let mut pool = PoolConfig::default();
    pool.reconnect = backoff;
    let mut commands = CommandConfig::default();
    (commands.reopen, commands.abandon) = (backoff, backoff);
    let address = match hub.ca_pem() {
        Some(_) => hub.addr(),
        None => fuzz_seeds::tap(
            hub.addr(),
            ("amqp_connection", &[255]),
            ("amqp_client_bytes", &[255]),
        ),
    };
    let config = AmqpConfig::new(HOST).with_address(address.ip().to_string(), address.port());
    let config = config.with_pool(pool).with_commands(commands);
    match hub.ca_pem() {
        Some(_) => config.with_ca_pem(hub.ca_pem().unwrap_or_default()),
        None => config.with_tls(false),
    }
}

/// One session for all devices: whoever ends it ends everybody's.
pub(crate) fn one_lane(hub: &HubSimulator) -> AmqpConfig {
    let mut config = config(hub);
    config.pool.lanes = 1;
    config
}

pub(crate) fn upstream(config: AmqpConfig) -> Arc<AmqpUpstream> {
    Arc::new(AmqpUpstream::new(config).expect("a valid configuration"))
}

pub(crate) fn limited(per_second: f64, burst: f64) -> Rate {
    Rate::Limited { per_second, burst }
}

pub(crate) fn wire(change: impl FnOnce(&mut WireConfig)) -> WireConfig {
    let mut wire = WireConfig::default();
    change(&mut wire);
    wire
}
