//! What the configuration file says.

mod devices;
mod files;
mod hub;
mod lorawan;

use gateway_core::{ConfigError, GatewayConfig};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::credentials::{Credentials, CredentialsConfig};
use crate::document::{Document, Mistake};
use crate::secret::{SecretSource, Surroundings};
pub(crate) use devices::Devices;
pub(crate) use hub::{Hub, HubSection};

/// Is a whole configuration, with secrets read and paths made absolute.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) log: LogConfig,
    pub(crate) gateway: GatewayConfig,
    pub(crate) hub: Hub,
    pub(crate) credentials: Credentials,
    pub(crate) devices: Devices,
}

/// Says what is logged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// A filter such as `info` or `warn,gateway_core=debug`. `RUST_LOG` goes before it.
    pub(crate) filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            filter: "info".to_owned(),
        }
    }
}

impl LogConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let parsed = EnvFilter::try_new(&self.filter);
        parsed.map(drop).map_err(|error| {
            let allowed = "off, error, warn, info, debug, trace, or target=level, with commas";
            ConfigError::new("filter", format!("is {:?}: {error}", self.filter), allowed)
        })
    }
}

impl Settings {
    /// Reads a configuration, or names every mistake in it.
    pub(crate) fn read(text: &str, around: &Surroundings<'_>) -> Result<Self, Vec<Mistake>> {
        let mut document = Document::parse(text);
        let log = document.section("log", LogConfig::validate);
        let gateway = document.section("gateway", GatewayConfig::validate);
        let mut upstream = hub::read(&mut document, around);
        let hub = upstream.hub.take();
        let credentials = document
            .section::<CredentialsConfig>("credentials", CredentialsConfig::validate)
            .and_then(|config| config.read(&mut document, &upstream, around));
        let devices = devices::read(&mut document, around, upstream.is_broker);
        document.leave(
            "",
            &["gateway", "upstream", "credentials", "downstream", "log"],
        );
        let mistakes = document.finish();
        match (log, gateway, hub, credentials, devices) {
            (Some(log), Some(gateway), Some(hub), Some(credentials), Some(devices))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    log,
                    gateway,
                    hub,
                    credentials,
                    devices,
                })
            }
            _ => Err(mistakes),
        }
    }
}

/// Reads the secret that a key names, if it is there; what is wrong is noted.
fn secret<T>(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    key: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let source = document.take::<SecretSource>(key)?;
    let read = source.read(around).and_then(|text| parse(&text));
    read.map_err(|problem| document.note(key, problem)).ok()
}

/// Puts the secret that a key names in the key's place; what is wrong is noted.
fn reveal(document: &mut Document<'_>, around: &Surroundings<'_>, key: &str) {
    if let Some(text) = secret(document, around, key, |text| Ok(text.to_owned())) {
        document.set(key, &text);
    }
}

#[cfg(test)]
mod tests;
