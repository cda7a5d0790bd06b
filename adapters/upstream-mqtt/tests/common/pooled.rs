//! A broker, a gateway's upstream before it and a cloud behind it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::time::Duration;

use gateway_core::{
    Backoff, Credential, DeviceId, DeviceIdentity, ErrorKind, MessageId, Uplink, UpstreamError,
};
use gateway_upstream_mqtt::{MqttPoolConfig, MqttPoolUpstream, MqttVersion};

pub(crate) const BOTH: [MqttVersion; 2] = [MqttVersion::V3_1_1, MqttVersion::V5];

/// Lets everybody in, and bounds nothing that a test means to send. Not by 0, which has Mosquitto
/// 2.0.11 close each connection on which it refuses a message.
pub(crate) const OPEN: &str = "allow_anonymous true\nmax_queued_messages 1000000\n";

/// Reaches a broker quickly again after a cut, whatever the default says for real networks.
pub(crate) fn config(port: u16, instance: &str) -> MqttPoolConfig {
    let backoff = |least, most| {
        Backoff::new(Duration::from_millis(least), Duration::from_millis(most)).expect("a backoff")
    };
    let mut config = MqttPoolConfig::new("localhost", instance)
        .with_address("127.0.0.1", port)
        .with_tls(false)
        .with_connections(4)
        .with_reconnect(backoff(10, 200));
    config.commands.retry = backoff(10, 100);
    config
}

pub(crate) fn upstream(config: MqttPoolConfig) -> Arc<MqttPoolUpstream> {
    Arc::new(MqttPoolUpstream::new(config).expect("a valid configuration"))
}

pub(crate) fn identity(name: &str) -> DeviceIdentity {
    DeviceIdentity::new(device(name), Credential::Vouched)
}

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a valid device id")
}

pub(crate) fn uplink(device: &DeviceId, id: impl AsRef<str>) -> Uplink {
    let id = MessageId::new(id.as_ref()).expect("a valid id");
    Uplink::new(device.clone(), id.clone(), id.as_str().to_owned())
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, UpstreamError>) -> ErrorKind {
    result.expect_err("this must fail").kind()
}
