use gateway_core::ConfigError;
use gateway_core::{DeviceId, Properties};
use serde::Deserialize;

use super::config::{MqttEncoding, MqttPoolConfig};
use super::template::{Captures, Place, Purpose, Template};

/// Says which topics stand for which of a hub's services.
///
/// A template has levels between `/`, and in them placeholders: `{device_id}`, `{instance_id}`,
/// `{message_id}`, `{method}`, `{request_id}`, `{status}`, `{property:NAME}` or
/// `{property:NAME|default}` for one application property, and `{properties}` for all as
/// `name=value&name=value`. Each topic says which it knows. What stands for a placeholder is
/// percent-encoded where it has a character with a meaning in topics (`/ + # $ %` and control
/// characters), so that no device leaves its level; whoever reads a topic decodes it.
///
/// An empty template turns its service off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttPoolTopics {
    /// Messages of devices. Default `devices/{device_id}/telemetry`; knows `{device_id}`, which it
    /// must name, `{message_id}`, `{properties}` and `{property:…}`. Cannot be off.
    pub telemetry: String,
    /// Messages of devices that go elsewhere because of a property; the first that fits counts.
    /// Default none.
    pub events: Vec<MqttEventTopic>,
    /// Messages to devices. Default `devices/{device_id}/commands`; knows `{device_id}`, which it
    /// must name, `{message_id}` and `{properties}`.
    pub messages: String,
    /// Methods called on devices. Default `devices/{device_id}/methods/{method}`; knows
    /// `{device_id}`, which it must name, `{method}` and `{request_id}`.
    pub methods: String,
    /// Answers to methods whose request names no response topic (MQTT 5 section 3.3.2.3.5). Default
    /// `devices/{device_id}/responses/{request_id}`; knows `{device_id}`, which it must name,
    /// `{method}`, `{request_id}` and `{status}`.
    pub responses: String,
    /// Where a device's twin is asked for. Default off: no broker keeps twins by itself. Knows
    /// `{device_id}`, which it must name, and `{request_id}`.
    pub twin_get: String,
    /// Where changes of reported properties go. Default off. Knows `{device_id}`, which it must name,
    /// and `{request_id}`. Without `twin_response` a change is done when the broker has it.
    pub reported: String,
    /// Whether changes of reported properties are retained. Default false.
    pub reported_is_retained: bool,
    /// Where answers to both come. Default off. Knows `{device_id}`, `{request_id}` and, where there
    /// are no MQTT 5 properties, `{status}`.
    pub twin_response: String,
    /// Changes of desired properties. Default off. Knows `{device_id}`, which it must name.
    pub desired: String,
    /// The gateway's own state, retained: `{"instance":"…","state":"online"}`, or `offline` when it
    /// has closed or, as last will, is lost. Default `gateways/{instance_id}/status`.
    pub status: String,
    /// Messages to devices that were refused, with their topic as `$topic` and the reason as
    /// `$reason`. Default off: they are counted and logged. Knows `{device_id}`, which it must name.
    pub dead_letters: String,
}

/// Says where messages go that have a property.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttEventTopic {
    /// The application property that the message has.
    pub property: String,
    /// The value that it has. Default any.
    #[serde(default)]
    pub value: Option<String>,
    /// Where it goes; knows what `telemetry` knows.
    pub topic: String,
}

impl MqttEventTopic {
    /// Sends messages with this property to this topic.
    #[must_use]
    pub fn new(property: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            property: property.into(),
            value: None,
            topic: topic.into(),
        }
    }

    /// Sends only those where it has this value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

impl Default for MqttPoolTopics {
    fn default() -> Self {
        Self {
            telemetry: "devices/{device_id}/telemetry".to_owned(),
            events: Vec::new(),
            messages: "devices/{device_id}/commands".to_owned(),
            methods: "devices/{device_id}/methods/{method}".to_owned(),
            responses: "devices/{device_id}/responses/{request_id}".to_owned(),
            twin_get: String::new(),
            reported: String::new(),
            reported_is_retained: false,
            twin_response: String::new(),
            desired: String::new(),
            status: "gateways/{instance_id}/status".to_owned(),
            dead_letters: String::new(),
        }
    }
}

const DEVICE: &str = "{device_id}";
const MESSAGE: &str = "{message_id}";
const METHOD: &str = "{method}";
const REQUEST: &str = "{request_id}";
const STATUS: &str = "{status}";
const PROPERTIES: &str = "{properties}";
const PROPERTY: &str = "{property:...}";

/// The templates, read and checked.
#[derive(Debug)]
pub(super) struct Topics {
    telemetry: Template,
    events: Vec<(MqttEventTopic, Template)>,
    pub(super) messages: Option<Template>,
    pub(super) methods: Option<Template>,
    pub(super) responses: Option<Template>,
    pub(super) twin_get: Option<Template>,
    pub(super) reported: Option<Template>,
    pub(super) twin_response: Option<Template>,
    pub(super) desired: Option<Template>,
    pub(super) status: Option<Template>,
    pub(super) dead_letters: Option<Template>,
}

/// What a message that came in is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Method,
    TwinResponse,
    Desired,
}

impl Topics {
    /// Reads the templates.
    ///
    /// # Errors
    /// Names the first that cannot be, and what is allowed.
    pub(super) fn new(config: &MqttPoolConfig) -> Result<Self, ConfigError> {
        let texts = &config.topics;
        let in_topic = config.encoding() == MqttEncoding::Topic;
        let in_properties = config.encoding() == MqttEncoding::Properties;
        let read = |text: &str, purpose| Template::parse(text, &config.instance, purpose);
        let optional = |text: &str, purpose: Purpose| match text {
            "" => Ok(None),
            text => read(text, purpose).map(Some),
        };
        let said = |key, allowed, required| Purpose {
            key,
            allowed,
            required,
            is_heard: false,
        };
        let heard = |key, allowed, required| Purpose {
            key,
            allowed,
            required,
            is_heard: true,
        };
        const UPLINK: &[&str] = &[DEVICE, MESSAGE, PROPERTIES, PROPERTY];
        let by_encoding = |in_topic_too: &'static [&'static str]| match in_topic {
            true => in_topic_too,
            false => &in_topic_too[..1],
        };
        let events = texts.events.iter().map(|event| {
            let template = read(&event.topic, said("events", UPLINK, &[DEVICE]))?;
            Ok((event.clone(), template))
        });
        // A response topic is written before the status is known.
        let response: &[&str] = match in_properties {
            true => &[DEVICE, REQUEST],
            false => &[DEVICE, REQUEST, STATUS],
        };
        let response_required: &[&str] = if in_topic { &[REQUEST, STATUS] } else { &[] };
        let asked: &[&str] = match in_topic && !texts.twin_response.is_empty() {
            true => &[DEVICE, REQUEST],
            false => &[DEVICE],
        };
        let topics = Self {
            telemetry: read(&texts.telemetry, said("telemetry", UPLINK, &[DEVICE]))?,
            events: events.collect::<Result<_, ConfigError>>()?,
            messages: optional(
                &texts.messages,
                heard("messages", &[DEVICE, MESSAGE, PROPERTIES], &[DEVICE]),
            )?,
            methods: optional(
                &texts.methods,
                heard(
                    "methods",
                    &[DEVICE, METHOD, REQUEST],
                    by_encoding(&[DEVICE, METHOD, REQUEST]),
                ),
            )?,
            responses: optional(
                &texts.responses,
                said(
                    "responses",
                    &[DEVICE, METHOD, REQUEST, STATUS],
                    by_encoding(&[DEVICE, REQUEST, STATUS]),
                ),
            )?,
            twin_get: optional(&texts.twin_get, said("twin_get", &[DEVICE, REQUEST], asked))?,
            reported: optional(&texts.reported, said("reported", &[DEVICE, REQUEST], asked))?,
            twin_response: optional(
                &texts.twin_response,
                heard("twin_response", response, response_required),
            )?,
            desired: optional(&texts.desired, heard("desired", &[DEVICE], &[DEVICE]))?,
            status: optional(&texts.status, said("status", &[], &[]))?,
            dead_letters: optional(
                &texts.dead_letters,
                said("dead_letters", &[DEVICE], &[DEVICE]),
            )?,
        };
        if topics.twin_get.is_some() && topics.twin_response.is_none() {
            let problem = "is not set, and `topics.twin_get` is";
            return Err(ConfigError::new("topics.twin_response", problem, "a topic"));
        }
        topics.check_apart()?;
        Ok(topics)
    }

    /// Refuses templates by which a message could be two things, or come back to its sender.
    fn check_apart(&self) -> Result<(), ConfigError> {
        let heard = self.heard();
        let said = [
            ("telemetry", Some(&self.telemetry)),
            ("responses", self.responses.as_ref()),
            ("twin_get", self.twin_get.as_ref()),
            ("reported", self.reported.as_ref()),
            ("status", self.status.as_ref()),
            ("dead_letters", self.dead_letters.as_ref()),
        ];
        let events = self.events.iter().map(|(_, template)| ("events", template));
        let said = said.into_iter().filter_map(|(key, t)| Some((key, t?)));
        let all = heard.iter().copied().chain(said).chain(events);
        for (n, (key, template)) in all.enumerate() {
            for (other, heard) in heard.iter().take(n) {
                if template.overlaps(heard) {
                    let problem = format!("can be the same topic as `topics.{other}`");
                    let allowed = "topics that differ in a level of text, or in their length";
                    return Err(ConfigError::new(format!("topics.{key}"), problem, allowed));
                }
            }
        }
        Ok(())
    }

    fn heard(&self) -> Vec<(&'static str, &Template)> {
        let heard = [
            ("messages", &self.messages),
            ("methods", &self.methods),
            ("twin_response", &self.twin_response),
            ("desired", &self.desired),
        ];
        let heard = heard.into_iter();
        heard
            .filter_map(|(key, t)| Some((key, t.as_ref()?)))
            .collect()
    }

    /// Where an uplink with these properties goes.
    pub(super) fn of_uplink(&self, properties: &Properties) -> &Template {
        let event = self.events.iter().find(|(event, _)| {
            let value = properties.get(&event.property);
            value.is_some_and(|value| event.value.as_deref().is_none_or(|v| v == value))
        });
        event.map_or(&self.telemetry, |(_, template)| template)
    }

    /// Reads the topic of a message that came in.
    pub(super) fn read<'a>(&self, topic: &'a str) -> Option<(Kind, Captures<'a>)> {
        let kinds = [
            (Kind::Message, &self.messages),
            (Kind::Method, &self.methods),
            (Kind::TwinResponse, &self.twin_response),
            (Kind::Desired, &self.desired),
        ];
        let mut read = kinds.into_iter().filter_map(|(kind, template)| {
            let captures = template.as_ref()?.read(topic)?;
            Some((kind, captures))
        });
        read.next()
    }

    /// The filter of answers about twins; none if they are not configured.
    pub(super) fn twin_filter(&self, device: Option<&DeviceId>) -> Option<String> {
        Some(self.twin_response.as_ref()?.filter(device))
    }

    /// Tells whether answers about twins come on a topic of the device's.
    pub(super) fn twin_is_per_device(&self) -> bool {
        let template = self.twin_response.as_ref();
        template.is_some_and(|template| template.names(&Place::Device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pooled::config::MqttVersion;

    fn config() -> MqttPoolConfig {
        MqttPoolConfig::new("broker.example", "gw-1")
    }

    fn wrong_key(change: impl FnOnce(&mut MqttPoolConfig)) -> String {
        let mut config = config();
        change(&mut config);
        Topics::new(&config).unwrap_err().key().to_owned()
    }

    #[test]
    fn topics_that_could_be_taken_for_each_other_are_refused() {
        let key = wrong_key(|c| c.topics.messages = "devices/{device_id}/telemetry".to_owned());
        assert_eq!(key, "topics.telemetry");
        let key = wrong_key(|c| c.topics.methods = "devices/{device_id}/{method}".to_owned());
        assert_eq!(key, "topics.methods");
        let key = wrong_key(|c| c.topics.desired = "devices/{device_id}/commands".to_owned());
        assert_eq!(key, "topics.desired");
    }

    #[test]
    fn what_an_encoding_needs_must_be_in_the_topic() {
        let in_topic = |c: &mut MqttPoolConfig| c.encoding = Some(MqttEncoding::Topic);
        assert_eq!(wrong_key(in_topic), "topics.methods");
        let key = wrong_key(|c| {
            in_topic(c);
            c.topics.methods = "d/{device_id}/call/{method}/{request_id}".to_owned();
        });
        assert_eq!(key, "topics.responses");
        let key = wrong_key(|c| c.topics.twin_get = "d/{device_id}/twin/get".to_owned());
        assert_eq!(key, "topics.twin_response");
        let key = wrong_key(|c| {
            c.topics.twin_response = "d/{device_id}/twin/res/{status}".to_owned();
        });
        assert_eq!(key, "topics.twin_response");
        let mut old = config().with_version(MqttVersion::V3_1_1);
        old.topics.twin_response = "d/{device_id}/twin/res/{status}".to_owned();
        Topics::new(&old).unwrap();
    }

    #[test]
    fn an_event_goes_where_its_property_says() {
        let mut config = config();
        let event = MqttEventTopic::new("kind", "devices/{device_id}/alarms");
        config.topics.events = vec![event.with_value("alarm")];
        let topics = Topics::new(&config).unwrap();
        let of = |value: &str| {
            let properties: Properties = [("kind", value)].into_iter().collect();
            topics.of_uplink(&properties).filter(None)
        };
        assert_eq!(of("alarm"), "devices/+/alarms");
        assert_eq!(of("reading"), "devices/+/telemetry");
    }

    #[test]
    fn a_topic_is_read_as_what_it_is() {
        let topics = Topics::new(&config()).unwrap();
        let (kind, captures) = topics.read("devices/a%2Bb/methods/reboot").unwrap();
        assert_eq!(kind, Kind::Method);
        assert_eq!(captures.device.as_deref(), Some("a+b"));
        assert_eq!(captures.method.as_deref(), Some("reboot"));
        assert_eq!(topics.read("devices/a/commands").unwrap().0, Kind::Message);
        assert!(topics.read("devices/a/other").is_none());
    }
}
