//! What the configuration file says.

mod hub;

use std::path::{Path, PathBuf};

use gateway_core::{ConfigError, GatewayConfig};
use gateway_downstream_tcp::TcpConfig;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::credentials::{Credentials, CredentialsConfig};
use crate::document::{Document, Mistake};
use crate::secret::Surroundings;
pub(crate) use hub::{Hub, HubSection};

/// Is a whole configuration, with secrets read and paths made absolute.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) log: LogConfig,
    pub(crate) gateway: GatewayConfig,
    pub(crate) hub: Hub,
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

const TCP: &str = "downstream.tcp";

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
        let tcp = tcp(&mut document, around);
        document.leave("downstream", &["tcp"]);
        document.leave(
            "",
            &["gateway", "upstream", "credentials", "downstream", "log"],
        );
        let mistakes = document.finish();
        match (log, gateway, hub, credentials, tcp) {
            (Some(log), Some(gateway), Some(hub), Some(credentials), Some(tcp))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    log,
                    gateway,
                    hub,
                    credentials,
                    tcp,
                })
            }
            _ => Err(mistakes),
        }
    }
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
