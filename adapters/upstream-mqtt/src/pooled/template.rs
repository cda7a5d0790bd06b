//! Topics with placeholders: written for a message, subscribed to, and read back.

use std::borrow::Cow;

use gateway_core::{ConfigError, DeviceId, Properties};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::error::MqttError;

/// What would end a level, or mean something to a broker: MQTT 5 section 4.7 (`/`, `+`, `#`, NUL,
/// and `$` at the beginning), and `%` itself.
const SPECIAL: &AsciiSet = &CONTROLS.add(b'/').add(b'+').add(b'#').add(b'$').add(b'%');
/// The longest topic (MQTT 5 section 1.5.4).
const LONGEST: usize = 65_535;

/// What a placeholder stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Device,
    Message,
    Method,
    Request,
    Status,
    /// All properties, `name=value&name=value`.
    Properties,
    /// One property's value.
    Property {
        name: String,
        default: Option<String>,
    },
}

impl Place {
    fn parse(text: &str, instance: &str) -> Option<Part> {
        let place = match text {
            "instance_id" => return Some(Part::Text(instance.to_owned())),
            "device_id" => Self::Device,
            "message_id" => Self::Message,
            "method" => Self::Method,
            "request_id" => Self::Request,
            "status" => Self::Status,
            "properties" => Self::Properties,
            other => {
                let property = other.strip_prefix("property:")?;
                let (name, default) = match property.split_once('|') {
                    Some((name, default)) => (name, Some(default.to_owned())),
                    None => (property, None),
                };
                if name.is_empty() || default.as_deref() == Some("") {
                    return None;
                }
                Self::Property {
                    name: name.to_owned(),
                    default,
                }
            }
        };
        Some(Part::Place(place))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Device => "{device_id}",
            Self::Message => "{message_id}",
            Self::Method => "{method}",
            Self::Request => "{request_id}",
            Self::Status => "{status}",
            Self::Properties => "{properties}",
            Self::Property { .. } => "{property:...}",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

/// Says what a template is for: where it stands in the configuration, and what it may and must name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub(super) key: &'static str,
    /// Besides `{instance_id}`, which may stand anywhere.
    pub(super) allowed: &'static [&'static str],
    pub(super) required: &'static [&'static str],
    /// Whether the gateway subscribes to it: a placeholder is then a whole level.
    pub(super) is_heard: bool,
}

/// What the placeholders of one topic stand for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Values<'a> {
    pub(super) device: Option<&'a DeviceId>,
    pub(super) message: Option<&'a str>,
    pub(super) method: Option<&'a str>,
    pub(super) request: Option<&'a str>,
    pub(super) status: Option<&'a str>,
    /// As they stand in the topic.
    pub(super) bag: Option<&'a str>,
    pub(super) properties: Option<&'a Properties>,
}

/// What a topic that came in says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Captures<'a> {
    pub(super) device: Option<Cow<'a, str>>,
    pub(super) message: Option<Cow<'a, str>>,
    pub(super) method: Option<Cow<'a, str>>,
    pub(super) request: Option<Cow<'a, str>>,
    pub(super) status: Option<Cow<'a, str>>,
    /// As they stand in the topic.
    pub(super) bag: Option<&'a str>,
}

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    levels: Vec<Vec<Part>>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Says what is wrong with it, and what is allowed.
    pub(super) fn parse(text: &str, instance: &str, purpose: Purpose) -> Result<Self, ConfigError> {
        let wrong = |problem: String, allowed: &str| {
            ConfigError::new(
                format!("topics.{}", purpose.key),
                format!("({text}) {problem}"),
                allowed,
            )
        };
        let names = || format!("{{instance_id}}, {}", purpose.allowed.join(", "));
        if text.len() > LONGEST / 2 {
            return Err(wrong("is too long".to_owned(), "32767 bytes"));
        }
        if text.starts_with("$share") || text.starts_with("$SYS") {
            let allowed = "a topic of its own; groups are set with `commands.group`";
            return Err(wrong(
                "begins with a name of the broker's".to_owned(),
                allowed,
            ));
        }
        let mut levels = Vec::new();
        for level in text.split('/') {
            if level.is_empty() {
                return Err(wrong("has an empty level".to_owned(), "a/b/c"));
            }
            let parts = parse_level(level, instance).ok_or_else(|| {
                let problem = format!("has the level {level:?}, which cannot be read");
                wrong(problem, &format!("text without + # {{ }}, and {}", names()))
            })?;
            levels.push(parts);
        }
        let template = Self { levels };
        for place in template.places() {
            if !purpose.allowed.contains(&place.name()) {
                let problem = format!("names {}", place.name());
                return Err(wrong(problem, &names()));
            }
        }
        for name in purpose.required {
            if !template.places().any(|place| place.name() == *name) {
                let problem = format!("does not name {name}");
                return Err(wrong(problem, &format!("a topic with {name}")));
            }
        }
        let is_mixed = |level: &Vec<Part>| {
            level.len() > 1 && level.iter().any(|part| matches!(part, Part::Place(_)))
        };
        if purpose.is_heard && template.levels.iter().any(is_mixed) {
            let problem = "has a placeholder that is only a part of its level".to_owned();
            return Err(wrong(problem, "levels that are text or one placeholder"));
        }
        Ok(template)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.levels.iter().flatten().filter_map(|part| match part {
            Part::Place(place) => Some(place),
            Part::Text(_) => None,
        })
    }

    pub(super) fn names(&self, place: &Place) -> bool {
        self.places().any(|named| named == place)
    }

    /// Writes a topic. What comes from a device is percent-encoded where it would break out of its
    /// level.
    ///
    /// # Errors
    /// A value is missing or empty, or the topic is too long.
    pub(super) fn write(&self, values: &Values<'_>) -> Result<String, MqttError> {
        let mut topic = String::with_capacity(96);
        for (n, level) in self.levels.iter().enumerate() {
            if n > 0 {
                topic.push('/');
            }
            for part in level {
                match part {
                    Part::Text(text) => topic.push_str(text),
                    Part::Place(place) => write_place(&mut topic, place, values)?,
                }
            }
        }
        match topic.len() <= LONGEST {
            true => Ok(topic),
            false => Err(MqttError::TooLarge {
                size: topic.len(),
                limit: LONGEST,
            }),
        }
    }

    /// The filter that hears one device, or all.
    pub(super) fn filter(&self, device: Option<&DeviceId>) -> String {
        let levels = self.levels.iter().map(|level| match (&level[..], device) {
            ([Part::Place(Place::Device)], Some(device)) => {
                Cow::Owned(utf8_percent_encode(device.as_str(), SPECIAL).to_string())
            }
            ([Part::Text(text)], _) => Cow::Borrowed(text.as_str()),
            _ => Cow::Borrowed("+"),
        });
        levels.collect::<Vec<_>>().join("/")
    }

    /// Reads a topic; none if it is another.
    pub(super) fn read<'a>(&self, topic: &'a str) -> Option<Captures<'a>> {
        let mut captures = Captures::default();
        let mut given = topic.split('/');
        for level in &self.levels {
            let given = given.next()?;
            let place = match &level[..] {
                [Part::Text(text)] if text == given => continue,
                [Part::Place(place)] => place,
                _ => return None,
            };
            if *place == Place::Properties {
                captures.bag = Some(given);
                continue;
            }
            let text = percent_decode_str(given).decode_utf8().ok()?;
            match place {
                Place::Device => captures.device = Some(text),
                Place::Message => captures.message = Some(text),
                Place::Method => captures.method = Some(text),
                Place::Request => captures.request = Some(text),
                Place::Status => captures.status = Some(text),
                Place::Properties | Place::Property { .. } => {}
            }
        }
        given.next().is_none().then_some(captures)
    }

    /// Tells whether one topic can belong to both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let is_open = |level: &Vec<Part>| level.iter().any(|part| matches!(part, Part::Place(_)));
        self.levels.len() == other.levels.len()
            && self
                .levels
                .iter()
                .zip(&other.levels)
                .all(|(one, other)| one == other || is_open(one) || is_open(other))
    }
}

fn parse_level(level: &str, instance: &str) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    let mut rest = level;
    while !rest.is_empty() {
        let part = match rest.strip_prefix('{') {
            Some(place) => {
                let (place, after) = place.split_once('}')?;
                rest = after;
                Place::parse(place, instance)?
            }
            None => {
                let end = rest.find('{').unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                rest = after;
                Part::Text(text.to_owned())
            }
        };
        let is_special = |c: char| c.is_control() || "+#{}".contains(c);
        match (parts.last_mut(), part) {
            (_, Part::Text(text)) if text.contains(is_special) => return None,
            (Some(Part::Text(before)), Part::Text(text)) => before.push_str(&text),
            (_, part) => parts.push(part),
        }
    }
    Some(parts)
}

fn write_place(topic: &mut String, place: &Place, values: &Values<'_>) -> Result<(), MqttError> {
    let value = match place {
        Place::Device => values.device.map(DeviceId::as_str),
        Place::Message => values.message,
        Place::Method => values.method,
        Place::Request => values.request,
        Place::Status => values.status,
        Place::Properties => {
            topic.push_str(values.bag.unwrap_or_default());
            return Ok(());
        }
        Place::Property { name, default } => values
            .properties
            .and_then(|properties| properties.get(name))
            .filter(|value| !value.is_empty())
            .or(default.as_deref()),
    };
    match value {
        Some(value) if !value.is_empty() => {
            topic.extend(utf8_percent_encode(value, SPECIAL));
            Ok(())
        }
        _ => {
            let what = match place {
                Place::Property { name, .. } => format!("the property {name:?}"),
                place => place.name().to_owned(),
            };
            let problem = format!("the message has nothing for {what} of its topic");
            Err(MqttError::Invalid(problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEARD: Purpose = Purpose {
        key: "messages",
        allowed: &[
            "{device_id}",
            "{message_id}",
            "{request_id}",
            "{properties}",
        ],
        required: &["{device_id}"],
        is_heard: true,
    };
    const SAID: Purpose = Purpose {
        key: "telemetry",
        allowed: &[
            "{device_id}",
            "{message_id}",
            "{properties}",
            "{property:...}",
        ],
        is_heard: false,
        ..HEARD
    };

    fn parse(text: &str, purpose: Purpose) -> Result<Template, ConfigError> {
        Template::parse(text, "gw-1", purpose)
    }

    #[test]
    fn a_template_that_cannot_work_is_refused_with_its_key() {
        for (text, purpose) in [
            ("", SAID),
            ("a//{device_id}", SAID),
            ("/a/{device_id}", SAID),
            ("a/{device_id}/", SAID),
            ("a/+/{device_id}", SAID),
            ("a/#", SAID),
            ("a/{device_id}/b#", SAID),
            ("$share/group/{device_id}", HEARD),
            ("$SYS/{device_id}", SAID),
            ("a/b", SAID),
            ("a/{device_id", SAID),
            ("a/{device_id}}", SAID),
            ("a/{nonsense}/{device_id}", SAID),
            ("a/{property:}/{device_id}", SAID),
            ("a/{status}/{device_id}", SAID),
            ("a/dev-{device_id}", HEARD),
            ("a/{device_id}{message_id}", HEARD),
        ] {
            let error = parse(text, purpose).unwrap_err();
            assert_eq!(error.key(), format!("topics.{}", purpose.key), "{text}");
        }
        for (text, purpose) in [
            ("$aws/things/{device_id}/shadow", SAID),
            ("{instance_id}/dev-{device_id}/{property:floor|0}", SAID),
            ("{device_id}/{properties}", HEARD),
            ("gw-{instance_id}/{device_id}", HEARD),
        ] {
            parse(text, purpose).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn nothing_of_a_device_breaks_out_of_its_level() {
        let device = DeviceId::new("$a+b#c%d").unwrap();
        let properties: Properties = [("floor", "1/../+/#"), ("none", "")].into_iter().collect();
        let values = Values {
            device: Some(&device),
            properties: Some(&properties),
            ..Values::default()
        };
        let template = parse("{device_id}/{property:floor}/x", SAID).unwrap();
        let topic = template.write(&values).unwrap();
        assert_eq!(topic, "%24a%2Bb%23c%25d/1%2F..%2F%2B%2F%23/x");
        let missing = parse("{device_id}/{property:none}", SAID).unwrap();
        assert!(matches!(missing.write(&values), Err(MqttError::Invalid(_))));
        let default = parse("{device_id}/{property:none|ground}", SAID).unwrap();
        assert!(default.write(&values).unwrap().ends_with("/ground"));
    }

    #[test]
    fn templates_that_share_a_topic_are_told() {
        let template = |text| parse(text, HEARD).unwrap();
        let one = template("devices/{device_id}/commands");
        assert!(one.overlaps(&template("devices/{device_id}/{request_id}")));
        assert!(one.overlaps(&template("devices/x/{device_id}")));
        assert!(!one.overlaps(&template("devices/{device_id}/commands/{request_id}")));
        assert!(!one.overlaps(&template("devices/{device_id}/methods")));
    }

    proptest! {
        #[test]
        fn a_topic_written_is_read_back_and_matches_its_filters(
            device in "[A-Za-z0-9.+%_#*?!(),:=@$'-]{1,40}",
            request in "\\PC{1,20}",
        ) {
            let device = DeviceId::new(device).unwrap();
            let template = parse("devices/{device_id}/x/{request_id}", HEARD).unwrap();
            let values = Values {
                device: Some(&device),
                request: Some(&request),
                ..Values::default()
            };
            let topic = template.write(&values).unwrap();
            let captures = template.read(&topic).unwrap();
            prop_assert_eq!(captures.device.as_deref(), Some(device.as_str()));
            prop_assert_eq!(captures.request.as_deref(), Some(request.as_str()));
            prop_assert_eq!(topic.split('/').count(), 4);
            for filter in [template.filter(Some(&device)), template.filter(None)] {
                let fits = filter.split('/').zip(topic.split('/')).all(|(f, t)| f == "+" || f == t);
                prop_assert!(fits, "{} {}", filter, topic);
            }
        }

        #[test]
        fn a_topic_of_another_never_panics(topic in "\\PC{0,60}") {
            let template = parse("devices/{device_id}/x/{request_id}", HEARD).unwrap();
            drop(template.read(&topic));
        }
    }
}
