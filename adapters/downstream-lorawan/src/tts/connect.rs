//! Connections to The Things Stack.

use std::sync::Arc;

use gateway_core::ConfigError;
use gateway_net::BindError;
use serde::Deserialize;

use super::{clear, decode, push};
use crate::cloud::{
    CloudDownstream, DecodeError, Dialect, HttpConfig, MqttConfig, PostConfig, Publication,
    Request, Route, Told, check_name,
};
use crate::embed::LorawanBuilder;
use crate::event::Downlink;

/// What is told that a gateway has use for.
const EVENTS: [&str; 8] = [
    "up",
    "join",
    "down/sent",
    "down/ack",
    "down/nack",
    "down/failed",
    "down/invalidated",
    "location/solved",
];

/// Says how an application of The Things Stack is reached over MQTT:
///
/// ```toml
#[doc = include_str!("sample.toml")]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TtsConfig {
    /// The broker, such as `eu1.cloud.thethings.network` with TLS. Its user name is the
    /// application's, by default; its password an API key of the application.
    #[serde(default)]
    pub mqtt: MqttConfig,
    /// The application, with its tenant where there are tenants: `app@ttn`.
    pub application: String,
    /// Whether nobody else puts downlinks into the queues of the devices. Then one that nobody waits
    /// for any more is withdrawn by emptying the queue, which is the only way. Default true; without
    /// it such a downlink is still sent, perhaps after it has been sent again.
    #[serde(default = "TtsConfig::default_exclusive")]
    pub exclusive_queues: bool,
}

impl TtsConfig {
    /// Makes settings for an application, such as `app@ttn`.
    #[must_use]
    pub fn new(application: impl Into<String>, mqtt: MqttConfig) -> Self {
        Self {
            mqtt,
            application: application.into(),
            exclusive_queues: Self::default_exclusive(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let names = self.application.split_once('@');
        let (name, tenant) =
            names.map_or((&*self.application, None), |(name, at)| (name, Some(at)));
        check_name("application", name)?;
        if let Some(tenant) = tenant {
            check_name("application", tenant)?;
        }
        self.mqtt.validate().map_err(|error| error.within("mqtt"))
    }

    const fn default_exclusive() -> bool {
        true
    }
}

/// Makes a downstream that speaks with The Things Stack over MQTT.
///
/// The Things Stack publishes with quality of service 0: what it publishes while the connection is
/// away is lost.
///
/// # Errors
/// A setting is wrong.
pub fn mqtt(config: TtsConfig, lorawan: LorawanBuilder) -> Result<CloudDownstream, ConfigError> {
    config.validate()?;
    let TtsConfig {
        mut mqtt,
        application,
        exclusive_queues,
    } = config;
    mqtt.username.get_or_insert_with(|| application.clone());
    let dialect = TheThingsStack {
        door: Door::Application(application),
        exclusive_queues,
    };
    CloudDownstream::mqtt(&mqtt, Arc::new(dialect), lorawan)
}

/// Says how a webhook of The Things Stack is set:
///
/// ```toml
#[doc = include_str!("webhook.toml")]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TtsWebhookConfig {
    /// Where it posts; all its messages may go to one path, or each to its own.
    pub http: HttpConfig,
    /// Its name, under which downlinks are posted.
    pub webhook: String,
    /// Where downlinks are posted. Default nowhere: commands are refused.
    #[serde(default)]
    pub downlinks: Option<PostConfig>,
    /// As [`TtsConfig::exclusive_queues`]. Default true.
    #[serde(default = "TtsConfig::default_exclusive")]
    pub exclusive_queues: bool,
}

impl TtsWebhookConfig {
    /// Makes settings for the webhook of this name, without downlinks.
    #[must_use]
    pub fn new(webhook: impl Into<String>, http: HttpConfig) -> Self {
        Self {
            http,
            webhook: webhook.into(),
            downlinks: None,
            exclusive_queues: TtsConfig::default_exclusive(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name("webhook", &self.webhook)?;
        self.http.validate().map_err(|error| error.within("http"))?;
        match &self.downlinks {
            Some(downlinks) => downlinks
                .validate()
                .map_err(|error| error.within("downlinks")),
            None => Ok(()),
        }
    }
}

/// Makes a downstream that takes what a webhook of The Things Stack posts, and posts downlinks.
///
/// What the hub does not take at once is answered with 503: let the webhook try again ("Retries"),
/// which it does not by itself. A deployment that cannot had better use [`mqtt`], where such a
/// message waits here until the hub has it.
///
/// # Errors
/// A setting is wrong, or the address cannot be had.
pub async fn http(
    config: TtsWebhookConfig,
    lorawan: LorawanBuilder,
) -> Result<CloudDownstream, BindError> {
    config.validate()?;
    let dialect = TheThingsStack {
        door: Door::Webhook(config.webhook),
        exclusive_queues: config.exclusive_queues,
    };
    CloudDownstream::http(config.http, config.downlinks, Arc::new(dialect), lorawan).await
}

#[derive(Debug)]
struct TheThingsStack {
    door: Door,
    exclusive_queues: bool,
}

/// By which of its doors The Things Stack is reached.
#[derive(Debug)]
enum Door {
    /// MQTT, as this application.
    Application(String),
    /// HTTP, as this webhook.
    Webhook(String),
}

impl TheThingsStack {
    /// The topic or the path of something about a device.
    fn place(&self, route: &Route, end: &str) -> String {
        let Route {
            application,
            device,
        } = route;
        match &self.door {
            Door::Application(application) => format!("v3/{application}/devices/{device}/{end}"),
            Door::Webhook(webhook) => format!(
                "/api/v3/as/applications/{application}/webhooks/{webhook}/devices/{device}/{end}"
            ),
        }
    }
}

impl Dialect for TheThingsStack {
    fn filters(&self) -> Vec<String> {
        match &self.door {
            Door::Application(application) => EVENTS
                .map(|event| format!("v3/{application}/devices/+/{event}"))
                .into(),
            Door::Webhook(_) => Vec::new(),
        }
    }

    fn read(&self, _: &str, body: &[u8]) -> Result<Told, DecodeError> {
        decode(body)
    }

    fn read_request(&self, request: &Request<'_>) -> Result<Told, DecodeError> {
        decode(request.body)
    }

    fn send(&self, downlink: &Downlink, route: &Route) -> Publication {
        let end = match downlink.flush {
            true => "down/replace",
            false => "down/push",
        };
        Publication {
            topic: self.place(route, end),
            body: push(downlink),
        }
    }

    fn withdraw(&self, route: &Route) -> Option<Publication> {
        self.exclusive_queues.then(|| Publication {
            topic: self.place(route, "down/replace"),
            body: clear(),
        })
    }
}
