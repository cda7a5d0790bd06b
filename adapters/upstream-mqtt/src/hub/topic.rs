//! The hub's topics: what a device publishes and subscribes to, and what the hub publishes.
//!
//! Source: Microsoft, "Communicate with an IoT hub using the MQTT protocol".

use gateway_core::{DeviceId, Interest};

use super::bag;

/// Direct methods.
pub(super) const METHODS: &str = "$iothub/methods/POST/#";
/// Answers about the twin.
pub(super) const TWIN: &str = "$iothub/twin/res/#";
/// Changes of desired properties.
pub(super) const DESIRED: &str = "$iothub/twin/PATCH/properties/desired/#";

/// Cloud-to-device messages of a device.
pub(super) fn messages(device: &DeviceId) -> String {
    format!("devices/{}/messages/devicebound/#", segment(device))
}

/// The filters of what a device wants to hear.
pub(super) fn filters(device: &DeviceId, interest: Interest) -> Vec<String> {
    let mut filters = Vec::new();
    if interest.messages {
        filters.push(messages(device));
    }
    if interest.methods {
        filters.push(METHODS.to_owned());
    }
    if interest.desired {
        filters.push(DESIRED.to_owned());
    }
    filters
}

/// Where a device's telemetry goes; its properties follow.
pub(super) fn events(device: &DeviceId) -> String {
    format!("devices/{}/messages/events/", segment(device))
}

/// An id may hold `#`, `+` and the like: encoded, it is one segment whatever it holds.
fn segment(device: &DeviceId) -> String {
    bag::encode(device.as_str())
}

/// Where a method's answer goes, with the request's id as the hub spelt it.
pub(super) fn method_reply(status: i32, request: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={request}")
}

/// Where a twin is asked for.
pub(super) fn twin_get(request: u64) -> String {
    format!("$iothub/twin/GET/?$rid={request}")
}

/// Where reported properties are merged.
pub(super) fn twin_patch(request: u64) -> String {
    format!("$iothub/twin/PATCH/properties/reported/?$rid={request}")
}

/// What the hub has to say on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// A cloud-to-device message with its properties.
    Message { bag: &'a str },
    /// A direct method.
    Method { name: String, request: &'a str },
    /// An answer to the twin request of this number; none if it is no number of ours.
    Twin {
        status: u16,
        request: Option<u64>,
        version: Option<u64>,
    },
    /// A change of desired properties; its version is none if it is not said here.
    Desired { version: Option<u64> },
}

/// Reads the topic of what came from the hub; none if it is no topic of the hub's.
pub(super) fn read(topic: &str) -> Option<Heard<'_>> {
    if let Some(rest) = topic.strip_prefix("$iothub/") {
        let (rest, query) = rest.rsplit_once('/')?;
        let mut segments = rest.split('/');
        return match (segments.next()?, segments.next()?) {
            ("methods", "POST") => Some(Heard::Method {
                name: bag::decode(segments.next()?),
                request: parameter(query, "rid").filter(|id| !id.is_empty())?,
            }),
            ("twin", "res") => Some(Heard::Twin {
                status: segments.next()?.parse().ok()?,
                request: number(query, "rid"),
                version: number(query, "version"),
            }),
            ("twin", "PATCH") if rest.ends_with("/desired") => Some(Heard::Desired {
                version: number(query, "version"),
            }),
            _ => None,
        };
    }
    let mut segments = topic.splitn(5, '/');
    let mut next = || segments.next();
    let (devices, _, messages, bound) = (next()?, next()?, next()?, next()?);
    let is_message = (devices, messages, bound) == ("devices", "messages", "devicebound");
    is_message.then(|| Heard::Message {
        bag: next().unwrap_or_default(),
    })
}

/// A parameter `$name` of a query, as it is spelt.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let query = query.strip_prefix('?').unwrap_or(query);
    query.split('&').find_map(|pair| {
        let (own, value) = pair.split_once('=')?;
        let own = own.strip_prefix('$').or_else(|| own.strip_prefix("%24"))?;
        (own == name).then_some(value)
    })
}

fn number(query: &str, name: &str) -> Option<u64> {
    parameter(query, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_hub_says_is_known_by_its_topic() {
        let method = |name: &str, request| Heard::Method {
            name: name.to_owned(),
            request,
        };
        for (topic, heard) in [
            (
                "devices/d/messages/devicebound/%24.mid=1&a=b",
                Heard::Message {
                    bag: "%24.mid=1&a=b",
                },
            ),
            (
                "devices/a%23b/messages/devicebound/",
                Heard::Message { bag: "" },
            ),
            (
                "$iothub/methods/POST/reboot/?$rid=1a",
                method("reboot", "1a"),
            ),
            ("$iothub/methods/POST/a%2Fb/?$rid=7", method("a/b", "7")),
            (
                "$iothub/twin/res/204/?$rid=7&$version=3",
                Heard::Twin {
                    status: 204,
                    request: Some(7),
                    version: Some(3),
                },
            ),
            (
                "$iothub/twin/res/429/?$rid=of-another",
                Heard::Twin {
                    status: 429,
                    request: None,
                    version: None,
                },
            ),
            (
                "$iothub/twin/PATCH/properties/desired/?$version=12",
                Heard::Desired { version: Some(12) },
            ),
            (
                "$iothub/twin/PATCH/properties/desired/",
                Heard::Desired { version: None },
            ),
        ] {
            assert_eq!(read(topic), Some(heard), "{topic}");
        }
        for topic in [
            "",
            "$iothub/methods/POST/reboot/",
            "$iothub/methods/POST/reboot/?$rid=",
            "$iothub/twin/res/ok/?$rid=1",
            "$iothub/twin/res/200",
            "devices/d/messages/events/",
            "home/kitchen",
        ] {
            assert_eq!(read(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_device_id_is_one_segment_whatever_it_holds() {
        let device = DeviceId::new("a#b+c%41$").unwrap();
        assert_eq!(
            events(&device),
            "devices/a%23b%2Bc%2541%24/messages/events/"
        );
        let all = filters(&device, Interest::ALL);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], "devices/a%23b%2Bc%2541%24/messages/devicebound/#");
        assert!(filters(&device, Interest::NONE).is_empty());
    }

    proptest! {
        #[test]
        fn no_topic_makes_the_reader_panic(topic in "(\\$iothub/)?[$a-z/%=&?0-9]{0,60}") {
            drop(read(&topic));
        }
    }
}
