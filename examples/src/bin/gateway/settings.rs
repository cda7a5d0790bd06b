//! What the configuration file says.

use std::path::{Path, PathBuf};

use gateway_core::credential::ConnectionString;
use gateway_core::{ConfigError, GatewayConfig};
use gateway_downstream_tcp::TcpConfig;
use gateway_upstream_amqp::AmqpConfig;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::credentials::{Credentials, CredentialsConfig};
use crate::document::{Document, Mistake};
use crate::secret::{SecretSource, Surroundings};

/// Is a whole configuration, with secrets read and paths made absolute.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) log: LogConfig,
    pub(crate) gateway: GatewayConfig,
    pub(crate) amqp: AmqpConfig,
    pub(crate) credentials: Credentials,
    pub(crate) tcp: TcpConfig,
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

/// Where the hub's connection string stands.
pub(crate) const CONNECTION_STRING: &str = "upstream.amqp.connection_string";
const AMQP: &str = "upstream.amqp";
const TCP: &str = "downstream.tcp";

impl Settings {
    /// Reads a configuration, or names every mistake in it.
    pub(crate) fn read(text: &str, around: &Surroundings<'_>) -> Result<Self, Vec<Mistake>> {
        let mut document = Document::parse(text);
        let log = document.section("log", LogConfig::validate);
        let gateway = document.section("gateway", GatewayConfig::validate);
        let (amqp, connection) = amqp(&mut document, around);
        let credentials = document
            .section::<CredentialsConfig>("credentials", CredentialsConfig::validate)
            .and_then(|config| config.read(&mut document, connection.as_ref(), around));
        let tcp = tcp(&mut document, around);
        document.leave("upstream", &["amqp"]);
        document.leave("downstream", &["tcp"]);
        document.leave(
            "",
            &["gateway", "upstream", "credentials", "downstream", "log"],
        );
        let mistakes = document.finish();
        match (log, gateway, amqp, credentials, tcp) {
            (Some(log), Some(gateway), Some(amqp), Some(credentials), Some(tcp))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    log,
                    gateway,
                    amqp,
                    credentials,
                    tcp,
                })
            }
            _ => Err(mistakes),
        }
    }
}

fn amqp(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
) -> (Option<AmqpConfig>, Option<ConnectionString>) {
    if !document.has(AMQP) {
        document.note(AMQP, "is missing; a gateway needs a hub");
        return (None, None);
    }
    let connection = document
        .take::<SecretSource>(CONNECTION_STRING)
        .and_then(|source| {
            let parsed = source.read(around).and_then(|text| {
                let parsed = text.parse::<ConnectionString>();
                parsed.map_err(|error| format!("is no connection string: {error}"))
            });
            parsed
                .map_err(|problem| document.note(CONNECTION_STRING, problem))
                .ok()
        });
    // The connection string may name the host; whether it could be read is told already.
    let host = format!("{AMQP}.host");
    if document.has(CONNECTION_STRING) && !document.has(&host) {
        document.set(
            &host,
            connection
                .as_ref()
                .map_or("unknown", ConnectionString::host_name),
        );
    }
    let mut config = document.section(AMQP, AmqpConfig::validate);
    if let Some(config) = &mut config {
        if config.address.is_none() {
            let address = connection
                .as_ref()
                .and_then(ConnectionString::gateway_host_name);
            config.address = address.map(str::to_owned);
        }
        let place = format!("{AMQP}.ca_file");
        resolve(document, around.directory, &place, config.ca_file.as_mut());
    }
    (config, connection)
}

fn tcp(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<TcpConfig> {
    if !document.has(TCP) {
        document.note(TCP, "is missing; a gateway needs devices");
        return None;
    }
    let secrets = format!("{TCP}.identity.secrets");
    if document.has(&secrets) {
        document.take::<serde::de::IgnoredAny>(&secrets);
        document.note(
            &secrets,
            "must not stand in this file; allowed: `secrets_file`",
        );
    }
    let mut config = document.section(TCP, TcpConfig::validate);
    if let Some(TcpConfig { identity, tls, .. }) = &mut config {
        let mut files = vec![("identity.secrets_file", identity.secrets_file.as_mut())];
        if let Some(tls) = tls {
            files.push(("tls.certificate", Some(&mut tls.certificate)));
            files.push(("tls.key", Some(&mut tls.key)));
            files.push(("tls.client_ca", tls.client_ca.as_mut()));
        }
        for (key, path) in files {
            resolve(document, around.directory, &format!("{TCP}.{key}"), path);
        }
    }
    config
}

/// Makes a path absolute and notes it if nobody can read there.
fn resolve(document: &mut Document<'_>, directory: &Path, key: &str, path: Option<&mut PathBuf>) {
    let Some(path) = path else { return };
    *path = directory.join(&*path);
    if let Err(error) = std::fs::File::open(&path) {
        document.note(
            key,
            format!("names {}, which cannot be read: {error}", path.display()),
        );
    }
}

#[cfg(test)]
mod tests;
