//! The ways to LoRaWAN devices.

use gateway_core::ConfigError;
use gateway_downstream_lorawan::chirpstack::ChirpStackConfig;
use gateway_downstream_lorawan::cloud::HttpConfig;
use gateway_downstream_lorawan::server::ServerConfig;
use gateway_downstream_lorawan::tts::{TtsConfig, TtsWebhookConfig};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::super::files::client_tls;
use super::super::reveal;
use super::LORAWAN;
use crate::document::Document;
use crate::secret::Surroundings;

pub(super) const SERVER: &str = "downstream.lorawan.server";
pub(super) const CHIRPSTACK: &str = "downstream.lorawan.chirpstack";
pub(super) const CHIRPSTACK_HTTP: &str = "downstream.lorawan.chirpstack_http";
pub(super) const TTS: &str = "downstream.lorawan.tts";
pub(super) const TTS_WEBHOOK: &str = "downstream.lorawan.tts_webhook";
pub(super) const NAMES: [&str; 5] = [
    "server",
    "chirpstack",
    "chirpstack_http",
    "tts",
    "tts_webhook",
];

/// Is every way that the file names, as far as it could be read.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    pub(crate) server: Option<ServerConfig>,
    pub(crate) chirpstack: Option<ChirpStackConfig>,
    pub(crate) chirpstack_http: Option<HttpConfig>,
    pub(crate) tts: Option<TtsConfig>,
    pub(crate) tts_webhook: Option<TtsWebhookConfig>,
}

/// Reads the sections; what is wrong is noted.
pub(super) fn read(document: &mut Document<'_>, around: &Surroundings<'_>) -> Ways {
    if !NAMES
        .iter()
        .any(|name| document.has(&format!("{LORAWAN}.{name}")))
    {
        let problem = format!("names no network server; allowed: {}", NAMES.join(", "));
        document.note(LORAWAN, problem);
    }
    Ways {
        server: read_server(document, around),
        chirpstack: read_way(
            document,
            around,
            CHIRPSTACK,
            ["mqtt.password"],
            ChirpStackConfig::validate,
            |config| ("mqtt", config.mqtt.ca_file.as_mut()),
        ),
        chirpstack_http: read_way(
            document,
            around,
            CHIRPSTACK_HTTP,
            ["token"],
            HttpConfig::validate,
            |_| ("", None),
        ),
        tts: read_way(
            document,
            around,
            TTS,
            ["mqtt.password"],
            TtsConfig::validate,
            |config| ("mqtt", config.mqtt.ca_file.as_mut()),
        ),
        tts_webhook: read_way(
            document,
            around,
            TTS_WEBHOOK,
            ["http.token", "downlinks.api_key"],
            TtsWebhookConfig::validate,
            |config| {
                let downlinks = config.downlinks.as_mut();
                ("downlinks", downlinks.and_then(|it| it.ca_file.as_mut()))
            },
        ),
    }
}

/// Reads the section of a network server elsewhere, if it is there: with secrets, and perhaps
/// authorities in a part's `ca_file`.
fn read_way<T: DeserializeOwned, const N: usize>(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    section: &str,
    secrets: [&str; N],
    validate: impl Fn(&T) -> Result<(), ConfigError>,
    file: impl Fn(&mut T) -> (&str, Option<&mut std::path::PathBuf>),
) -> Option<T> {
    if !document.has(section) {
        return None;
    }
    for secret in secrets {
        reveal(document, around, &format!("{section}.{secret}"));
    }
    let mut config = document.section(section, validate)?;
    let (part, ca_file) = file(&mut config);
    let section = format!("{section}.{part}");
    client_tls(document, around.directory, &section, ca_file, None);
    Some(config)
}

/// Reads the section of the network server inside, if it is there.
fn read_server(document: &mut Document<'_>, around: &Surroundings<'_>) -> Option<ServerConfig> {
    if !document.has(SERVER) {
        return None;
    }
    for (name, allowed) in [
        ("devices", "devices_file"),
        ("profiles", "profiles"),
        ("downstream", "messages"),
    ] {
        let key = format!("{SERVER}.{name}");
        if document.has(&key) {
            document.take::<IgnoredAny>(&key);
            let problem = format!("does not stand here; allowed: `{LORAWAN}.{allowed}`");
            document.note(&key, problem);
        }
    }
    let mut config = document.section(SERVER, |config: &ServerConfig| {
        let missing =
            || ConfigError::new("store", "is missing", "a file for sessions and counters");
        config.store.as_ref().ok_or_else(missing)?;
        config.validate()
    })?;
    // The server makes the file if it is not there.
    config.store = config.store.map(|path| around.directory.join(path));
    Some(config)
}

/// Whether the file names a network server elsewhere; it may be wrong.
pub(super) fn is_elsewhere(document: &Document<'_>) -> bool {
    let elsewhere = [CHIRPSTACK, CHIRPSTACK_HTTP, TTS, TTS_WEBHOOK];
    elsewhere.iter().any(|key| document.has(key))
}

impl Ways {
    /// Connections that stations and network servers may have at a time.
    pub(super) fn max_connections(&self) -> usize {
        let stations = self.server.iter().flat_map(|server| &server.stations);
        let webhooks = self.tts_webhook.iter().map(|webhook| &webhook.http);
        let posts = self.chirpstack_http.iter().chain(webhooks);
        let stations = stations.map(|stations| stations.max_connections);
        stations.chain(posts.map(|http| http.max_connections)).sum()
    }
}
