//! The topics that a hub knows, and no others: it is no general broker.
//!
//! Source: Microsoft, "Communicate with an IoT hub using the MQTT protocol", and edgeHub's templates.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::bag::{self, NotABag, Property, Request};
use crate::hub::identity;

/// What a device publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Publication<'a> {
    Telemetry(Vec<Property>),
    MethodAnswer { status: i32, request: Request<'a> },
    TwinGet(Request<'a>),
    TwinPatch(Request<'a>),
}

/// The hub has no such topic, or not for this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hub has no such topic for this device")]
pub(crate) struct NoSuchTopic;

impl From<NotABag> for NoSuchTopic {
    fn from(_: NotABag) -> Self {
        Self
    }
}

/// Reads the topic that `identity` publishes to.
pub(crate) fn parse<'a>(topic: &'a str, identity: &str) -> Result<Publication<'a>, NoSuchTopic> {
    let segments: Vec<&str> = topic.split('/').collect();
    match *segments.as_slice() {
        ["$iothub", "methods", "res", status, query] => Ok(Publication::MethodAnswer {
            status: status.parse().map_err(|_| NoSuchTopic)?,
            request: Request::parse(query)?,
        }),
        ["$iothub", "twin", "GET", query] => Ok(Publication::TwinGet(Request::parse(query)?)),
        ["$iothub", "twin", "PATCH", "properties", "reported", query] => {
            Ok(Publication::TwinPatch(Request::parse(query)?))
        }
        _ => match *own(&segments, identity).ok_or(NoSuchTopic)? {
            // SDKs end it with a slash whether or not there are properties.
            ["messages", "events"] => Ok(Publication::Telemetry(Vec::new())),
            ["messages", "events", bag] | ["messages", "events", bag, ""] => {
                Ok(Publication::Telemetry(bag::parse(bag)?))
            }
            _ => Err(NoSuchTopic),
        },
    }
}

/// What follows the identity's own prefix, whose ids stand as they are or percent-encoded.
fn own<'a, 'b>(segments: &'b [&'a str], identity: &str) -> Option<&'b [&'a str]> {
    let names = |segment: &str, id: &str| {
        segment == id || bag::decode(segment).is_ok_and(|decoded| decoded == id)
    };
    let (device, module) = identity::split(identity);
    match (module, segments) {
        (None, ["devices", id, rest @ ..]) if names(id, device) => Some(rest),
        (Some(module), ["devices", id, "modules", name, rest @ ..])
            if names(id, device) && names(name, module) =>
        {
            Some(rest)
        }
        _ => None,
    }
}

/// What a device can subscribe to; at most one filter each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    /// Cloud-to-device messages.
    Messages,
    /// Messages that an edge hub routes to a module; a hub in the cloud has none.
    Inputs,
    /// Everything that has a module's own prefix: both of the above.
    Own,
    Methods,
    TwinReplies,
    Desired,
}

impl Channel {
    /// Whether a subscription to it takes cloud-to-device messages.
    pub(crate) fn takes_messages(self) -> bool {
        matches!(self, Self::Messages | Self::Own)
    }
}

/// Reads a filter that `identity` subscribes to.
pub(crate) fn parse_filter(filter: &str, identity: &str) -> Result<Channel, NoSuchTopic> {
    let segments: Vec<&str> = filter.split('/').collect();
    match *segments.as_slice() {
        ["$iothub", "methods", "POST", "#"] => Ok(Channel::Methods),
        ["$iothub", "twin", "res", "#"] => Ok(Channel::TwinReplies),
        ["$iothub", "twin", "PATCH", "properties", "desired", "#"] => Ok(Channel::Desired),
        _ => match *own(&segments, identity).ok_or(NoSuchTopic)? {
            ["messages", "devicebound", "#"] => Ok(Channel::Messages),
            ["inputs", "#"] if identity::split(identity).1.is_some() => Ok(Channel::Inputs),
            ["#"] if identity::split(identity).1.is_some() => Ok(Channel::Own),
            _ => Err(NoSuchTopic),
        },
    }
}

/// The topic of a cloud-to-device message, under the prefix as the device's own filter spells it.
pub(crate) fn message(filter: &str, bag: &str) -> String {
    let prefix = filter.trim_end_matches('#');
    let below = if prefix.ends_with("/messages/devicebound/") {
        ""
    } else {
        "messages/devicebound/"
    };
    format!("{prefix}{below}{bag}")
}

/// The topic of a direct method.
pub(crate) fn method(name: &str, id: impl std::fmt::Display) -> String {
    format!("$iothub/methods/POST/{}/?$rid={id}", segment(name))
}

/// A method's name, encoded only where a topic cannot hold it.
fn segment(name: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/+#%?".contains(&byte);
    if name.bytes().all(fits) {
        name.into()
    } else {
        bag::encode(name).into()
    }
}

/// The topic of an answer about the twin.
pub(crate) fn twin_reply(status: u16, id: &str, version: Option<u64>) -> String {
    let version = version.map(|version| ("$version", version));
    format!(
        "$iothub/twin/res/{status}/{}",
        bag::reply(id, version.as_slice())
    )
}

/// The topic of a change of desired properties.
pub(crate) fn desired(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn telemetry(topic: &str, identity: &str) -> Option<Vec<Property>> {
        fuzz_seeds::keep("mqtt_topics", topic.as_bytes());
        match parse(topic, identity) {
            Ok(Publication::Telemetry(properties)) => Some(properties),
            _ => None,
        }
    }

    #[test]
    fn telemetry_goes_to_the_senders_own_topic_only() {
        let bag = vec![("a".to_owned(), Some("b".to_owned()))];
        assert_eq!(
            telemetry("devices/d/messages/events/a=b", "d"),
            Some(bag.clone())
        );
        assert_eq!(
            telemetry("devices/d/messages/events/a=b/", "d"),
            Some(bag.clone())
        );
        assert_eq!(telemetry("devices/d/messages/events/?a=b", "d"), Some(bag));
        assert_eq!(telemetry("devices/d/messages/events/", "d"), Some(vec![]));
        assert_eq!(telemetry("devices/d/messages/events", "d"), Some(vec![]));
        assert_eq!(
            telemetry("devices/a%20b/messages/events/", "a b"),
            Some(vec![])
        );
        assert_eq!(
            telemetry("devices/d/modules/m/messages/events/", "d/m"),
            Some(vec![])
        );
        for (topic, identity) in [
            ("devices/e/messages/events/", "d"),
            ("devices/D/messages/events/", "d"),
            ("devices/d/modules/m/messages/events/", "d"),
            ("devices/d/messages/events/", "d/m"),
            ("devices/d/messages/events/a=b/c=d", "d"),
            ("devices/d/messages/events/a=%", "d"),
            ("devices/d/messages/devicebound/", "d"),
            ("/devices/d/messages/events/", "d"),
            ("devices//messages/events/", ""),
            ("home/kitchen", "d"),
        ] {
            if identity.is_empty() {
                continue;
            }
            assert_eq!(telemetry(topic, identity), None, "{topic}");
        }
    }

    #[test]
    fn requests_carry_their_id() {
        let id = |topic| match parse(topic, "d") {
            Ok(
                Publication::TwinGet(request)
                | Publication::TwinPatch(request)
                | Publication::MethodAnswer { request, .. },
            ) => request.id,
            _ => None,
        };
        assert_eq!(id("$iothub/twin/GET/?$rid=1"), Some("1"));
        assert_eq!(
            id("$iothub/twin/PATCH/properties/reported/?$rid=2&$version=3"),
            Some("2")
        );
        assert_eq!(id("$iothub/methods/res/200/?$rid=4"), Some("4"));
        for topic in [
            "$iothub/twin/GET",
            "$iothub/twin/PATCH/properties/desired/?$rid=1",
            "$iothub/methods/res/ok/?$rid=1",
            "$iothub/methods/POST/x/?$rid=1",
        ] {
            assert_eq!(parse(topic, "d"), Err(NoSuchTopic), "{topic}");
        }
    }

    #[test]
    fn the_documented_filters_and_no_others_are_known() {
        for (filter, identity, channel) in [
            ("devices/d/messages/devicebound/#", "d", Channel::Messages),
            (
                "devices/d%20d/messages/devicebound/#",
                "d d",
                Channel::Messages,
            ),
            ("devices/d/modules/m/#", "d/m", Channel::Own),
            ("devices/d/modules/m/inputs/#", "d/m", Channel::Inputs),
            ("$iothub/methods/POST/#", "d", Channel::Methods),
            ("$iothub/twin/res/#", "d/m", Channel::TwinReplies),
            (
                "$iothub/twin/PATCH/properties/desired/#",
                "d",
                Channel::Desired,
            ),
        ] {
            assert_eq!(parse_filter(filter, identity), Ok(channel), "{filter}");
        }
        for filter in [
            "#",
            "+/d/messages/devicebound/#",
            "devices/+/messages/devicebound/#",
            "devices/e/messages/devicebound/#",
            "devices/d/messages/devicebound/a",
            "devices/d/#",
            "$iothub/#",
            "$iothub/twin/#",
            "home/kitchen",
        ] {
            assert_eq!(parse_filter(filter, "d"), Err(NoSuchTopic), "{filter}");
        }
    }

    #[test]
    fn a_message_comes_under_the_prefix_that_was_subscribed_to() {
        assert_eq!(
            message("devices/a%20b/messages/devicebound/#", "x=1"),
            "devices/a%20b/messages/devicebound/x=1"
        );
        assert_eq!(
            message("devices/d/modules/m/#", ""),
            "devices/d/modules/m/messages/devicebound/"
        );
    }

    #[test]
    fn a_methods_name_never_breaks_its_topic() {
        assert_eq!(method("reboot", 1), "$iothub/methods/POST/reboot/?$rid=1");
        assert_eq!(
            method("a/b+#", 1),
            "$iothub/methods/POST/a%2Fb%2B%23/?$rid=1"
        );
        assert_eq!(
            twin_reply(204, "7", Some(3)),
            "$iothub/twin/res/204/?$rid=7&$version=3"
        );
    }

    proptest! {
        #[test]
        fn no_topic_makes_the_parsers_panic(topic in "[$a-z/%=&?#+]{0,60}", id in "[a-z]{1,3}(/[a-z])?") {
            drop(parse(&topic, &id));
            prop_assert!(parse_filter(&topic, &id).is_err() || topic.ends_with('#'));
        }
    }
}
