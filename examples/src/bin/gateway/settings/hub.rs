//! The one hub that the file names, in one of three dialects.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use gateway_core::credential::ConnectionString;
use gateway_core::{ConfigError, Upstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream, MqttPoolConfig, MqttPoolUpstream};
use serde::de::DeserializeOwned;

use super::files::client_tls;
use super::{reveal, secret};
use crate::document::Document;
use crate::secret::Surroundings;

const AMQP: &str = "upstream.amqp";
const MQTT: &str = "upstream.mqtt";
const MQTT_HUB: &str = "upstream.mqtt.hub";
const MQTT_POOLED: &str = "upstream.mqtt.pooled";
const ALL: [&str; 3] = [AMQP, MQTT_HUB, MQTT_POOLED];

/// Is a hub, and what is spoken to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Hub {
    Amqp(AmqpConfig),
    /// Azure IoT Hub's own dialect of MQTT.
    Mqtt(MqttHubConfig),
    /// Any broker.
    Pooled(MqttPoolConfig),
}

/// Is what the file says of its hub, as far as it could be read.
#[derive(Debug, Default)]
pub(crate) struct HubSection {
    pub(crate) hub: Option<Hub>,
    /// Where its connection string stands, if it may have one.
    connection_key: Option<String>,
    pub(crate) connection: Option<ConnectionString>,
    /// Whether it asks for no proof of devices; none if there is no hub, or more than one.
    pub(crate) is_broker: Option<bool>,
}

impl HubSection {
    /// Whether what is wrong with the hub, or with its connection string, is noted already.
    pub(crate) fn is_noted(&self, document: &Document<'_>) -> bool {
        let key = self.connection_key.as_deref();
        self.is_broker.is_none() || key.is_some_and(|key| document.has(key))
    }
}

impl Hub {
    /// Makes the upstream to it.
    pub(crate) fn upstream(self) -> anyhow::Result<Arc<dyn Upstream>> {
        Ok(match self {
            Self::Amqp(config) => Arc::new(AmqpUpstream::new(config).context(AMQP)?),
            Self::Mqtt(config) => Arc::new(MqttHubUpstream::new(config).context(MQTT_HUB)?),
            Self::Pooled(config) => Arc::new(MqttPoolUpstream::new(config).context(MQTT_POOLED)?),
        })
    }
}

/// Reads the section of the hub; what is wrong is noted.
pub(super) fn read(document: &mut Document<'_>, around: &Surroundings<'_>) -> HubSection {
    let named: Vec<_> = ALL.into_iter().filter(|key| document.has(key)).collect();
    let section = match named[..] {
        [] => {
            let problem = format!("is missing; a gateway needs a hub: {}", ALL.join(", "));
            document.note(AMQP, problem);
            HubSection::default()
        }
        [AMQP] => azure(
            document,
            around,
            AMQP,
            AmqpConfig::validate,
            |config| (&mut config.address, &mut config.ca_file, &config.ca_pem),
            Hub::Amqp,
        ),
        [MQTT_HUB] => azure(
            document,
            around,
            MQTT_HUB,
            MqttHubConfig::validate,
            |config| (&mut config.address, &mut config.ca_file, &config.ca_pem),
            Hub::Mqtt,
        ),
        [_] => HubSection {
            hub: pooled(document, around).map(Hub::Pooled),
            is_broker: Some(true),
            ..HubSection::default()
        },
        [_, second, ..] => {
            document.note(second, "is a second hub; allowed: one");
            HubSection::default()
        }
    };
    if named.len() <= 1 {
        document.leave(MQTT, &["hub", "pooled"]);
        document.leave("upstream", &["amqp", "mqtt"]);
    }
    section
}

/// Reads the section of a hub with a connection string.
fn azure<T: DeserializeOwned>(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    section: &str,
    validate: impl Fn(&T) -> Result<(), ConfigError>,
    parts: impl Fn(&mut T) -> (&mut Option<String>, &mut Option<PathBuf>, &Option<String>),
    hub: impl Fn(T) -> Hub,
) -> HubSection {
    let connection_key = format!("{section}.connection_string");
    let connection = secret(document, around, &connection_key, |text| {
        let parsed = text.parse::<ConnectionString>();
        parsed.map_err(|error| format!("is no connection string: {error}"))
    });
    // The connection string may name the host; whether it could be read is told already.
    let host = format!("{section}.host");
    if document.has(&connection_key) && !document.has(&host) {
        let name = connection.as_ref().map(ConnectionString::host_name);
        document.set(&host, name.unwrap_or("unknown"));
    }
    let mut config = document.section(section, validate);
    if let Some(config) = &mut config {
        let (address, ca_file, ca_pem) = parts(config);
        if address.is_none() {
            let named = connection
                .as_ref()
                .and_then(ConnectionString::gateway_host_name);
            *address = named.map(str::to_owned);
        }
        let (ca_file, ca_pem) = (ca_file.as_mut(), ca_pem.as_deref());
        client_tls(document, around.directory, section, ca_file, ca_pem);
    }
    HubSection {
        hub: config.map(hub),
        connection_key: Some(connection_key),
        connection,
        is_broker: Some(false),
    }
}

fn pooled(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<MqttPoolConfig> {
    reveal(document, around, &format!("{MQTT_POOLED}.password"));
    // Its validation tries the files.
    for name in ["ca_file", "certificate_file", "key_file"] {
        let key = format!("{MQTT_POOLED}.{name}");
        if let Some(path) = document.take::<PathBuf>(&key) {
            let path = around.directory.join(path);
            document.set(&key, &path.to_string_lossy());
        }
    }
    document.section(MQTT_POOLED, MqttPoolConfig::validate)
}
