//! Connections to ChirpStack's integrations.

use std::sync::Arc;
use std::time::SystemTime;

use gateway_core::ConfigError;
use gateway_net::BindError;
use serde::Deserialize;
use tokio::time::Instant;

use super::topic::Template;
use super::{EventKind, Format, decode, encode};
use crate::cloud::{
    CloudDownstream, DecodeError, Dialect, HttpConfig, MqttConfig, Publication, Request, Route,
    Told, check_name,
};
use crate::embed::LorawanBuilder;
use crate::event::Downlink;

/// Says how ChirpStack's MQTT integration is set. Every field has a default, which is ChirpStack's.
///
/// ```toml
#[doc = include_str!("sample.toml")]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ChirpStackConfig {
    /// The broker.
    pub mqtt: MqttConfig,
    /// The application whose devices are served, a UUID. Default: all that the broker lets us see.
    pub application: Option<String>,
    /// The form of events and commands. Default JSON.
    pub format: Format,
    /// The topic of events (`event_topic` there).
    /// Default `application/{{application_id}}/device/{{dev_eui}}/event/{{event}}`.
    pub event_topic: String,
    /// The topic of commands (`command_topic` there).
    /// Default `application/{{application_id}}/device/{{dev_eui}}/command/{{command}}`.
    pub command_topic: String,
}

impl Default for ChirpStackConfig {
    fn default() -> Self {
        let topic =
            |end: &str| format!("application/{{{{application_id}}}}/device/{{{{dev_eui}}}}/{end}");
        Self {
            mqtt: MqttConfig::default(),
            application: None,
            format: Format::default(),
            event_topic: topic("event/{{event}}"),
            command_topic: topic("command/{{command}}"),
        }
    }
}

impl ChirpStackConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.mqtt.validate().map_err(|error| error.within("mqtt"))?;
        self.dialect().map(drop)
    }

    fn dialect(&self) -> Result<ChirpStack, ConfigError> {
        if let Some(application) = &self.application {
            check_name("application", application)?;
        }
        let command_names = ["application_id", "dev_eui", "command"];
        Ok(ChirpStack {
            application: self.application.clone(),
            format: self.format,
            events: Template::new("event_topic", &self.event_topic, &["event"])?,
            commands: Template::new("command_topic", &self.command_topic, &command_names)?,
        })
    }
}

/// Makes a downstream that speaks with ChirpStack over its MQTT integration.
///
/// ChirpStack drops a downlink without a word if the device is not in the application; the command
/// is given back to the hub when its time is up. A downlink cannot be withdrawn over MQTT, nor can a
/// queue be emptied: it expires there when nobody waits for it any more.
///
/// # Errors
/// A setting is wrong.
pub fn mqtt(
    config: ChirpStackConfig,
    lorawan: LorawanBuilder,
) -> Result<CloudDownstream, ConfigError> {
    let dialect = config.dialect()?;
    CloudDownstream::mqtt(&config.mqtt, Arc::new(dialect), lorawan)
}

/// Makes a downstream that takes what ChirpStack's HTTP integration posts, in either form.
///
/// ChirpStack takes no downlinks that way, so that commands are refused; nor does it post an event
/// again that the hub had no room for. Prefer [`mqtt`].
///
/// # Errors
/// A setting is wrong, or the address cannot be had.
pub async fn http(
    config: HttpConfig,
    lorawan: LorawanBuilder,
) -> Result<CloudDownstream, BindError> {
    let dialect = ChirpStackConfig::default().dialect()?;
    CloudDownstream::http(config, None, Arc::new(dialect), lorawan).await
}

#[derive(Debug)]
struct ChirpStack {
    application: Option<String>,
    format: Format,
    events: Template,
    commands: Template,
}

impl Dialect for ChirpStack {
    fn filters(&self) -> Vec<String> {
        let application = self.application.as_deref();
        vec![self.events.fill(|name| match name {
            "application_id" => application.unwrap_or("+"),
            _ => "+",
        })]
    }

    fn read(&self, topic: &str, body: &[u8]) -> Result<Told, DecodeError> {
        let kind = self.events.find("event", topic).unwrap_or(topic);
        decode(kind.parse()?, self.format, body)
    }

    fn read_request(&self, request: &Request<'_>) -> Result<Told, DecodeError> {
        let parts = request.query.split('&');
        let kind = parts.filter_map(|part| part.strip_prefix("event=")).next();
        let kind: EventKind = kind.unwrap_or_default().parse()?;
        let format = match request.content_type {
            #[cfg(feature = "protobuf")]
            "application/octet-stream" => Format::Protobuf,
            _ => Format::Json,
        };
        decode(kind, format, request.body)
    }

    fn send(&self, downlink: &Downlink, route: &Route) -> Publication {
        let left = downlink.expires.saturating_duration_since(Instant::now());
        let expires = SystemTime::now().checked_add(left);
        Publication {
            topic: self.commands.fill(|name| match name {
                "application_id" => &route.application,
                "dev_eui" => &route.device,
                _ => "down",
            }),
            body: encode(downlink, expires, self.format),
        }
    }

    fn withdraw(&self, _: &Route) -> Option<Publication> {
        None
    }
}
