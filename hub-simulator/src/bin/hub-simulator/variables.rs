//! What a client needs to know, as shell variables and as lines to read.

use std::path::Path;

use anyhow::Context as _;
use hub_simulator::HubSimulator;

use crate::options::Options;

/// Names and values, in the order they are told.
pub(crate) struct Variables(Vec<(&'static str, String)>);

impl Variables {
    pub(crate) fn of(hub: &HubSimulator, ca: &Path, options: &Options) -> Self {
        let device = options.devices.first().map_or("device-1", String::as_str);
        let provisioning = hub.provisioning();
        let port = |address: std::net::SocketAddr| address.port().to_string();
        let control = hub
            .control_addr()
            .map(|address| ("HUB_CONTROL_URL", format!("http://{address}")));
        let mut variables = vec![
            ("HUB_HOST", hub.host().to_owned()),
            ("HUB_AMQPS_PORT", port(hub.addr())),
            ("HUB_MQTTS_PORT", port(hub.mqtts_addr())),
            ("HUB_HTTPS_PORT", port(hub.https_addr())),
            ("HUB_CA", ca.display().to_string()),
            (
                "HUB_SERVICE_CS",
                hub.policy_connection_string("iothubowner"),
            ),
            ("HUB_DEVICE_CS", hub.device_connection_string(device)),
            ("EVENTHUB_CS", hub.eventhub_connection_string()),
            ("DPS_HOST", provisioning.host().to_owned()),
            ("DPS_ID_SCOPE", provisioning.id_scope()),
            ("DPS_GROUP_KEY", provisioning.group_key()),
            ("DPS_SERVICE_CS", provisioning.service_connection_string()),
        ];
        variables.extend(control);
        Self(variables)
    }

    /// Writes `export NAME='value'` lines.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let quoted = |value: &str| value.replace('\'', r"'\''");
        let lines: String = self
            .0
            .iter()
            .map(|(name, value)| format!("export {name}='{}'\n", quoted(value)))
            .collect();
        hub_simulator::write_atomically(path, &lines).context("the variables cannot be written")
    }
}

/// Tells how to connect.
#[expect(
    clippy::print_stdout,
    reason = "a program tells its user how to connect"
)]
pub(crate) fn print(hub: &HubSimulator, ca: &Path, options: &Options) {
    println!(
        "The hub {} listens: AMQP on {}, MQTT on {}, HTTPS and WebSockets on {}.",
        hub.host(),
        hub.addr(),
        hub.mqtts_addr(),
        hub.https_addr()
    );
    let ca = ca.display();
    println!("Trust its authority, {ca}, for example so:");
    println!("  Node     NODE_EXTRA_CA_CERTS={ca}");
    println!("  Python   server_verification_cert=open({ca:?}).read(); REQUESTS_CA_BUNDLE={ca}");
    println!("  curl     --cacert {ca}");
    println!(
        "  system   cp {ca} /usr/local/share/ca-certificates/hub-simulator.crt && update-ca-certificates"
    );
    println!("Devices:");
    for id in &options.devices {
        println!("  {}", hub.device_connection_string(id));
    }
    println!("Policies:");
    for policy in ["iothubowner", "service", "device"] {
        println!("  {}", hub.policy_connection_string(policy));
    }
    let provisioning = hub.provisioning();
    println!("Provisioning on {}:", provisioning.host());
    println!("  ID scope   {}", provisioning.id_scope());
    println!("  Group key  {}", provisioning.group_key());
    println!("  {}", provisioning.service_connection_string());
    println!("Type 'help' for what can be done from here.");
}
