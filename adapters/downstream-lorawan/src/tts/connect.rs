//! Connections to The Things Stack.

use std::sync::Arc;

use gateway_core::ConfigError;
use serde::Deserialize;

use super::{clear, decode, push};
use crate::cloud::{
    BindError, CloudDownstream, DecodeError, Dialect, HttpConfig, MqttConfig, Publication, Request,
    Route, Told, check_name,
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

/// Says how an application of The Things Stack is reached over MQTT.
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
    let TtsConfig {
        mut mqtt,
        application,
        exclusive_queues,
    } = config;
    let names = application.split_once('@');
    let (name, tenant) = names.map_or((&*application, None), |(name, at)| (name, Some(at)));
    check_name("application", name)?;
    if let Some(tenant) = tenant {
        check_name("application", tenant)?;
    }
    mqtt.username.get_or_insert_with(|| application.clone());
    let dialect = TheThingsStack {
        application,
        exclusive_queues,
    };
    CloudDownstream::mqtt(&mqtt, Arc::new(dialect), lorawan)
}

/// Makes a downstream that takes what a webhook of The Things Stack posts, whatever its paths.
///
/// Downlinks are refused: they take a connection to The Things Stack. Prefer [`mqtt`] where devices
/// are sent commands.
///
/// # Errors
/// A setting is wrong, or the address cannot be had.
pub async fn http(
    config: HttpConfig,
    lorawan: LorawanBuilder,
) -> Result<CloudDownstream, BindError> {
    let dialect = TheThingsStack {
        application: String::new(),
        exclusive_queues: false,
    };
    CloudDownstream::http(config, Arc::new(dialect), lorawan).await
}

#[derive(Debug)]
struct TheThingsStack {
    application: String,
    exclusive_queues: bool,
}

impl TheThingsStack {
    fn topic(&self, device: &str, end: &str) -> String {
        format!("v3/{}/devices/{device}/{end}", self.application)
    }
}

impl Dialect for TheThingsStack {
    fn filters(&self) -> Vec<String> {
        EVENTS.map(|event| self.topic("+", event)).into()
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
            topic: self.topic(&route.device, end),
            body: push(downlink),
        }
    }

    fn withdraw(&self, route: &Route) -> Option<Publication> {
        self.exclusive_queues.then(|| Publication {
            topic: self.topic(&route.device, "down/replace"),
            body: clear(),
        })
    }
}
