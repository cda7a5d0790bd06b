//! The gateway program's file: whatever it says, each mistake is told once, with a line that there
//! is; what is taken is valid; and a key that is not known is named.
#![no_main]

#[expect(dead_code, reason = "the program uses more of it")]
#[path = "../../examples/src/bin/gateway/document/mod.rs"]
mod document;

use std::collections::HashSet;

use document::Document;
use gateway_core::{ConfigError, GatewayConfig};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_lorawan::embed::LorawanConfig;
use gateway_downstream_tcp::TcpConfig;
use gateway_upstream_amqp::AmqpConfig;
use gateway_upstream_mqtt::{MqttHubConfig, MqttPoolConfig};
use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;

/// What no section knows.
const UNKNOWN: &str = "never_known";

/// Reads a section and gives what is wrong with it; nothing is wrong with what is taken.
fn read<T: DeserializeOwned>(
    text: &str,
    section: &str,
    validate: fn(&T) -> Result<(), ConfigError>,
) -> (bool, Vec<String>) {
    let mut document = Document::parse(text);
    let value = document.section(section, validate);
    assert!(value.as_ref().is_none_or(|value| validate(value).is_ok()));
    let mistakes = document.finish();
    assert!(value.is_some() || !mistakes.is_empty(), "refused without a word");
    (value.is_some(), mistakes.iter().map(ToString::to_string).collect())
}

fn check<T: DeserializeOwned>(
    text: &str,
    section: &str,
    validate: fn(&T) -> Result<(), ConfigError>,
) {
    let (is_taken, mistakes) = read(text, section, validate);
    let told: HashSet<_> = mistakes.iter().collect();
    assert_eq!(told.len(), mistakes.len(), "{mistakes:?}");
    let lines = text.split('\n').count();
    for mistake in &mistakes {
        let place = mistake.split(':').next().and_then(|place| place.strip_prefix("line "));
        let is_there = |line: &str| line.parse().is_ok_and(|line| (1..=lines).contains(&line));
        assert!(place.is_none_or(is_there), "{mistake}");
    }
    let header = format!("\n[{section}]\n");
    if is_taken && mistakes.is_empty() && text.matches(&header).count() == 1 {
        let text = text.replace(&header, &format!("{header}{UNKNOWN} = 1\n"));
        let (_, mistakes) = read(&text, section, validate);
        assert!(mistakes.iter().any(|mistake| mistake.contains(UNKNOWN)), "{mistakes:?}");
    }
}

fuzz_target!(|text: &str| {
    check(text, "gateway", GatewayConfig::validate);
    // With TLS, each would read the system's certificates.
    check(text, "upstream.amqp", |config: &AmqpConfig| config.clone().with_tls(false).validate());
    check(text, "upstream.mqtt.hub", |config: &MqttHubConfig| config.clone().with_tls(false).validate());
    check(text, "upstream.mqtt.pooled", |config: &MqttPoolConfig| config.clone().with_tls(false).validate());
    check(text, "downstream.tcp", TcpConfig::validate);
    check(text, "downstream.coap", CoapConfig::validate);
    check(text, "downstream.lorawan", LorawanConfig::validate);
    let mut document = Document::parse(text);
    let names = document.names("");
    document.leave("", &[]);
    assert!(document.finish().len() >= names.len().min(1));
});
